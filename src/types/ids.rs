//! Identifiers: partitions, nodes and their incarnations, epochs and fencing tokens.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest accepted ring or node name, in bytes.
pub const NAME_MAX_BYTES: usize = 64;

/// A name that cannot be one subject token and one KV key token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} name '{given}' is not usable: 1 to {NAME_MAX_BYTES} of the characters a-z A-Z 0-9 - _ are allowed \
     (it becomes one token of NATS subjects and keys)"
)]
pub struct InvalidName {
    /// `ring` or `node`.
    pub what: &'static str,
    /// The text that was refused, cut to a printable length.
    pub given: String,
}

fn check_name(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let fits = (1..=NAME_MAX_BYTES).contains(&text.len());
    let token = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fits && token {
        return Ok(());
    }
    Err(InvalidName { what, given: text.chars().take(NAME_MAX_BYTES + 1).collect() })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks that `text` is one subject token.
            ///
            /// # Errors
            /// [`InvalidName`] where it is empty, too long, or has other characters.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                check_name($what, text.as_ref())?;
                Ok(Self(Arc::from(text.as_ref())))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a ring (`--platform`): first token of all its subjects, part of its bucket's name.
    RingName,
    "ring"
);
name_type!(
    /// The name of a node: stays the same over restarts; at most one live process holds it.
    NodeName,
    "node"
);

/// One partition, `0..P`: the unit of ownership, routing and handoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(u16);

impl PartitionId {
    /// The partition with this number.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Its number, for indexing a table of all partitions.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many partitions a ring has: fixed when the ring is created, 1 to [`PartitionCount::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct PartitionCount(u16);

impl PartitionCount {
    /// The largest accepted count: the plan, one KV value, names every partition's owner.
    pub const MAX: u16 = 4096;
    /// The count used where none is given.
    pub const DEFAULT: Self = Self(64);

    /// A count of partitions, or `None` outside 1 to [`Self::MAX`].
    pub const fn new(count: u16) -> Option<Self> {
        if count == 0 || count > Self::MAX { None } else { Some(Self(count)) }
    }

    /// The count as a number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// All partitions in order.
    pub fn ids(self) -> impl DoubleEndedIterator<Item = PartitionId> + ExactSizeIterator + Clone {
        (0..self.0).map(PartitionId)
    }

    /// Whether the partition exists in a ring of this size.
    pub const fn contains(self, partition: PartitionId) -> bool {
        partition.0 < self.0
    }
}

impl TryFrom<u16> for PartitionCount {
    type Error = String;
    fn try_from(count: u16) -> Result<Self, String> {
        Self::new(count).ok_or_else(|| format!("partition count {count} is outside 1 to {}", Self::MAX))
    }
}

impl From<PartitionCount> for u16 {
    fn from(count: PartitionCount) -> u16 {
        count.0
    }
}

/// Counts the owners a partition has had: grows by one at each change of owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// Before the first owner.
    pub const ZERO: Self = Self(0);

    /// The epoch with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The epoch of the next owner.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts how often the coordination store was found rolled back or re-created; orders fencing tokens before epochs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(u64);

impl Generation {
    /// The generation with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Whether a generation came before this one.
    pub const fn has_former(self) -> bool {
        self.0 > 1
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of a node name: its start number, which only grows per name, and an identifier nobody else has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// How often this name was started, this time included.
    pub start: u64,
    /// Unique per start, so that a rolled-back start number still tells two lives apart.
    pub id: Uuid,
}

impl Incarnation {
    /// As one subject token.
    pub fn token(&self) -> String {
        format!("{}-{}", self.start, self.id.simple())
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.token())
    }
}

/// A node in one of its incarnations: what claims, plans and in-sync sets name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId {
    /// The node's name.
    pub node: NodeName,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.node, self.incarnation.start)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an external store compares to refuse writes of a former owner.
///
/// Tokens of one ring (same nonce) are ordered by generation, then epoch. Two tokens of the same generation and epoch
/// with different incarnations contradict each other: the later one seen must be refused ([`FencingToken::admits`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FencingToken {
    /// The ring's random number, so that tokens of two rings are never compared.
    pub ring: Uuid,
    /// Store generation.
    pub generation: Generation,
    /// The partition's epoch.
    pub epoch: Epoch,
    /// The owner's incarnation.
    pub incarnation: Incarnation,
}

impl FencingToken {
    /// Whether a store whose highest token so far is `self` may accept a write that carries `other`.
    pub fn admits(&self, other: &Self) -> bool {
        let (mine, theirs) = ((self.generation, self.epoch), (other.generation, other.epoch));
        self.ring == other.ring && (theirs > mine || (theirs == mine && self.incarnation == other.incarnation))
    }
}

impl fmt::Display for FencingToken {
    /// `<ring>/<generation>/<epoch>/<incarnation>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.ring.simple(), self.generation, self.epoch, self.incarnation)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn token(generation: u64, epoch: u64, id: u128) -> FencingToken {
        FencingToken {
            ring: Uuid::from_u128(7),
            generation: Generation::new(generation),
            epoch: Epoch::new(epoch),
            incarnation: Incarnation { start: 1, id: Uuid::from_u128(id) },
        }
    }

    #[test]
    fn names_that_are_not_one_subject_token_are_refused() {
        for bad in ["", "a.b", "a b", "*", ">", "ü", "a/b", &"x".repeat(65)] {
            assert!(NodeName::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(NodeName::new("node-1_B").unwrap().as_str(), "node-1_B");
    }

    #[test]
    fn tokens_order_by_generation_then_epoch_and_refuse_a_second_incarnation() {
        assert!(token(1, 5, 1).admits(&token(2, 1, 2)));
        assert!(token(1, 5, 1).admits(&token(1, 6, 2)));
        assert!(token(1, 5, 1).admits(&token(1, 5, 1)));
        assert!(!token(1, 5, 1).admits(&token(1, 5, 2)));
        assert!(!token(1, 5, 1).admits(&token(1, 4, 1)));
        assert!(!token(2, 1, 1).admits(&token(1, 9, 1)));
    }
}
