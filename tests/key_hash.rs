//! The key hash against test vectors made with other implementations (`vectors/key_hash.txt` says how): a client in any
//! language must find the same partition for the same key.
#![allow(clippy::unwrap_used)]

use nats_ring::types::{KeyHash, PartitionCount};
use xxhash_rust::xxh3::xxh3_64;

const VECTORS: &str = include_str!("vectors/key_hash.txt");
const COUNTS: [u16; 5] = [1, 2, 64, 100, 4096];

/// The lines of one sort, in fields.
fn lines(sort: &str) -> Vec<Vec<&'static str>> {
    VECTORS.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| fields[0] == sort).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    if text == "-" {
        return Vec::new();
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn keys_hash_as_in_the_reference_implementation() {
    let (tagged, whole): (Vec<_>, Vec<_>) = lines("key").into_iter().partition(|fields| has_tag(fields[1]));
    assert!(whole.len() >= 60 && tagged.len() >= 10, "{} and {} keys", whole.len(), tagged.len());
    for fields in whole {
        let expected: u64 = fields[2].parse().unwrap();
        assert_eq!(xxh3_64(&from_hex(fields[1])), expected, "key {}", fields[1]);
    }
}

/// Found in another way than the hash finds it.
fn has_tag(hex: &str) -> bool {
    let key = from_hex(hex);
    let mut after = key.splitn(2, |byte| *byte == b'{').skip(1);
    let inside = after.next().map(|rest| rest.splitn(2, |byte| *byte == b'}').collect::<Vec<_>>());
    inside.is_some_and(|parts| parts.len() == 2 && !parts[0].is_empty())
}

#[test]
fn keys_reach_the_partition_that_other_implementations_compute() {
    for fields in lines("key") {
        let key = from_hex(fields[1]);
        for (count, expected) in COUNTS.into_iter().zip(&fields[3..]) {
            let partition = KeyHash::Xxh3.partition(&key, PartitionCount::new(count).unwrap());
            assert_eq!(partition.to_string(), *expected, "key {} in {count} partitions", fields[1]);
        }
    }
}

#[test]
fn the_vectors_cover_empty_long_binary_and_unicode_keys() {
    let keys: Vec<_> = lines("key").iter().map(|fields| from_hex(fields[1])).collect();
    assert!(keys.iter().any(Vec::is_empty));
    assert!(keys.iter().any(|key| key.len() > 1024));
    assert!(keys.iter().any(|key| std::str::from_utf8(key).is_err()));
    assert!(keys.iter().any(|key| std::str::from_utf8(key).is_ok_and(|text| !text.is_ascii())));
}

#[test]
fn keys_reach_the_partition_that_fnv_1a_modulo_gives_for_the_hash_nats() {
    let keys = lines("nats");
    assert_eq!(keys.len(), lines("key").len());
    for fields in keys {
        let key = from_hex(fields[1]);
        for (count, expected) in COUNTS.into_iter().zip(&fields[3..]) {
            let partition = KeyHash::Nats.partition(&key, PartitionCount::new(count).unwrap());
            assert_eq!(partition.to_string(), *expected, "key {} in {count} partitions", fields[1]);
        }
    }
}

#[test]
fn keys_with_one_tag_share_the_partition_that_the_tag_alone_has_in_both_hashes() {
    for hash in KeyHash::ALL {
        for count in COUNTS.map(|count| PartitionCount::new(count).unwrap()) {
            let of = |key: &str| hash.partition(key.as_bytes(), count);
            for key in ["{user:1}", "{user:1}:cart", "orders:{user:1}:7", "{user:1}{user:2}", "a}{user:1}"] {
                assert_eq!(of(key), of("user:1"), "{hash}: {key} in {count:?}");
            }
        }
        let of = |key: &str| hash.partition(key.as_bytes(), PartitionCount::new(4096).unwrap());
        for whole in ["{}user:1", "{}{user:1}", "{user:1", "user:1}"] {
            assert_ne!(of(whole), of("user:1"), "{hash}: {whole} has no tag");
        }
    }
}

/// Numbers among them whose step overflows 64 bits, which the algorithm means to wrap.
#[test]
fn numbers_jump_as_in_other_implementations() {
    let numbers = lines("hash");
    assert!(numbers.iter().any(|fields| fields[1] == "2313046976756913067"));
    for fields in numbers {
        let number: u64 = fields[1].parse().unwrap();
        for (count, expected) in COUNTS.into_iter().zip(&fields[2..]) {
            let bucket = jump_consistent_hash::hash(number, usize::from(count));
            assert_eq!(bucket.to_string(), *expected, "{number} in {count}");
        }
    }
}
