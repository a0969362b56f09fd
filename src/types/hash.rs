//! From a key to its partition.
//!
//! Of a key with a hash tag, `{user:1}:orders`, only the tag is hashed: keys with the same tag share a partition. Then
//! - `xxh3`: XXH3-64 of the raw bytes (seed 0), then the jump consistent hash of Lamping and Veach, "A Fast, Minimal
//!   Memory, Consistent Hash Algorithm" (2014), into the number of partitions;
//! - `nats`: FNV-1a (32 bit) of the raw bytes, modulo the number of partitions, as the NATS server's own `{{partition(…)}}`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{PartitionCount, PartitionId};

/// How keys are mapped to partitions; recorded in the ring's `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyHash {
    /// XXH3-64, then jump consistent hash.
    #[default]
    Xxh3,
    /// FNV-1a (32 bit) modulo the number of partitions: what a NATS server computes in a subject mapping.
    Nats,
}

impl KeyHash {
    /// Every key hash of this release.
    pub const ALL: [Self; 2] = [Self::Xxh3, Self::Nats];

    /// The partition of `key`. The bytes are taken as they are: no normalisation. Of a key with a hash tag, those of
    /// the tag.
    pub fn partition(self, key: &[u8], count: PartitionCount) -> PartitionId {
        let hashed = hash_tag(key).unwrap_or(key);
        match self {
            Self::Xxh3 => jump(xxh3_64(hashed), count),
            Self::Nats => modulo(fnv1a_32(hashed), count),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Xxh3 => "xxh3",
            Self::Nats => "nats",
        }
    }
}

/// What is between the first `{` and the next `}` after it, unless that is nothing: the rule of Redis Cluster.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let from = key.iter().position(|byte| *byte == b'{')? + 1;
    let length = key[from..].iter().position(|byte| *byte == b'}')?;
    (length > 0).then(|| &key[from..from + length])
}

fn jump(hash: u64, count: PartitionCount) -> PartitionId {
    let bucket = jump_consistent_hash::hash(hash, usize::from(count.get()));
    // Below the count, which is a u16.
    PartitionId::new(u16::try_from(bucket).unwrap_or(0))
}

fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn modulo(hash: u32, count: PartitionCount) -> PartitionId {
    // Below the count, which is a u16.
    PartitionId::new(u16::try_from(hash % u32::from(count.get())).unwrap_or(0))
}

/// A key hash that this release does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key hash '{0}' is not known; known: xxh3, nats")]
pub struct UnknownKeyHash(pub String);

impl FromStr for KeyHash {
    type Err = UnknownKeyHash;
    fn from_str(text: &str) -> Result<Self, UnknownKeyHash> {
        let found = Self::ALL.into_iter().find(|hash| hash.name() == text);
        found.ok_or_else(|| UnknownKeyHash(text.to_owned()))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_overflows_the_jump_crate_does_not_panic() {
        // `wrapping_mul(..) + 1` overflows for this key; Cargo.toml switches the check off for that crate.
        // Other implementations answer 0 for every number of partitions (tests/vectors/key_hash.txt).
        for count in [1, 2, 64, 100, 4096] {
            let partition = jump(2313046976756913067, PartitionCount::new(count).unwrap());
            assert_eq!(partition.get(), 0, "in {count} partitions");
        }
    }

    #[test]
    fn the_name_of_a_key_hash_is_read_back_and_others_are_refused() {
        for hash in KeyHash::ALL {
            assert_eq!(hash.to_string().parse(), Ok(hash));
            // The same word is written into the ring's `meta`.
            assert_eq!(serde_json::to_value(hash).unwrap(), hash.to_string());
        }
        assert_eq!("fnv1a".parse::<KeyHash>(), Err(UnknownKeyHash("fnv1a".into())));
    }

    /// The examples of the Redis Cluster specification, section "Hash tags", and the odd ones around them.
    #[test]
    fn a_tag_is_between_the_first_brace_and_the_next_closing_one_unless_that_is_nothing() {
        let tags: [(&str, Option<&str>); 12] = [
            ("{user1000}.following", Some("user1000")),
            ("{user1000}.followers", Some("user1000")),
            ("foo{}{bar}", None),
            ("foo{{bar}}zap", Some("{bar")),
            ("foo{bar}{zap}", Some("bar")),
            ("{}", None),
            ("", None),
            ("}{", None),
            ("}a{b}", Some("b")),
            ("{open", None),
            ("closed}", None),
            ("{ }", Some(" ")),
        ];
        for (key, tag) in tags {
            assert_eq!(hash_tag(key.as_bytes()), tag.map(str::as_bytes), "{key}");
        }
    }
}
