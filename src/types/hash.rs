//! From a key to its partition.
//!
//! `xxh3`: XXH3-64 of the raw key bytes (seed 0), then the jump consistent hash of Lamping and Veach,
//! "A Fast, Minimal Memory, Consistent Hash Algorithm" (2014), into the number of partitions.

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
}

impl KeyHash {
    /// The partition of `key`. The bytes are taken as they are: no normalisation.
    pub fn partition(self, key: &[u8], count: PartitionCount) -> PartitionId {
        match self {
            Self::Xxh3 => jump(xxh3_64(key), count),
        }
    }
}

fn jump(hash: u64, count: PartitionCount) -> PartitionId {
    let bucket = jump_consistent_hash::hash(hash, usize::from(count.get()));
    // Below the count, which is a u16.
    PartitionId::new(u16::try_from(bucket).unwrap_or(0))
}

/// A key hash that this release does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key hash '{0}' is not known; known: xxh3")]
pub struct UnknownKeyHash(pub String);

impl FromStr for KeyHash {
    type Err = UnknownKeyHash;
    fn from_str(text: &str) -> Result<Self, UnknownKeyHash> {
        match text {
            "xxh3" => Ok(Self::Xxh3),
            other => Err(UnknownKeyHash(other.to_owned())),
        }
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xxh3 => f.write_str("xxh3"),
        }
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
        assert_eq!(KeyHash::Xxh3.to_string().parse(), Ok(KeyHash::Xxh3));
        assert_eq!("fnv1a".parse::<KeyHash>(), Err(UnknownKeyHash("fnv1a".into())));
    }
}
