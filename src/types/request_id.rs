//! The name of one request, the same each time it is sent: by it an owner knows what it has executed already.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{Chance, Time};

/// Longest name that a user may give a request, in bytes.
pub const REQUEST_NAME_MAX_BYTES: usize = 64;

/// Names one request among all: 128 bits, drawn by who first takes it in, or made of what its user calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(u128);

/// A name of a request that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it has {0} bytes; 1 to {REQUEST_NAME_MAX_BYTES} printable ASCII characters name a request")]
pub struct InvalidRequestName(usize);

impl RequestId {
    /// One that no other request has. Its first 16 bits are zero, which tells it from a user's.
    pub fn draw(chance: &Chance) -> Self {
        Self((u128::from(chance.number() >> 16) << 64) | u128::from(chance.number()))
    }

    /// Whether it was drawn: only whoever drew it sends requests under it, and says so where one may be sent before. (Of users' names
    /// one in 65536 looks as if.)
    pub const fn is_drawn(self) -> bool {
        self.0 >> 112 == 0
    }

    /// What a user calls a request of this operation for this key: the same name for another key or operation is another
    /// request.
    ///
    /// # Errors
    /// [`InvalidRequestName`] where it is empty, too long, or has other characters than printable ones of ASCII.
    pub fn named(name: &[u8], operation: &str, key: &[u8]) -> Result<Self, InvalidRequestName> {
        let printable = name.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if name.is_empty() || name.len() > REQUEST_NAME_MAX_BYTES || !printable {
            return Err(InvalidRequestName(name.len()));
        }
        let mut hash = Xxh3::new();
        for part in [name, operation.as_bytes(), key] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(Self(hash.digest128()))
    }

    /// The number.
    pub const fn get(self) -> u128 {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A request that may be sent more than once and is to be executed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Once {
    /// The same for each sending.
    pub id: RequestId,
    /// When it was first sent, on the clock of whoever holds this: on its way it has an age instead.
    pub first_sent: Time,
    /// Whether a sending before may have been executed. (A user who sends again does not say so.)
    pub again: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_one_request_of_one_operation_for_one_key() {
        let id = |name: &str, operation: &str, key: &str| RequestId::named(name.as_bytes(), operation, key.as_bytes());
        let one = id("order-7", "incr", "user:1").unwrap();
        assert_eq!(id("order-7", "incr", "user:1"), Ok(one));
        for (name, operation, key) in [
            ("order-8", "incr", "user:1"),
            ("order-7", "set", "user:1"),
            ("order-7", "incr", "user:2"),
            ("order-7i", "ncr", "user:1"),
        ] {
            assert_ne!(id(name, operation, key).unwrap(), one, "{name} {operation} {key}");
        }
    }

    #[test]
    fn names_that_are_empty_too_long_or_not_printable_are_refused() {
        for bad in ["", &"x".repeat(65), "a\nb", "é"] {
            assert!(RequestId::named(bad.as_bytes(), "set", b"k").is_err(), "{bad:?}");
        }
        assert!(RequestId::named(&[b'x'; 64], "set", b"k").is_ok());
    }

    #[test]
    fn what_is_drawn_is_drawn_once() {
        let chance = Chance::seeded(1);
        assert_ne!(RequestId::draw(&chance), RequestId::draw(&chance));
        assert!(RequestId::draw(&chance).is_drawn());
        assert!(!RequestId::named(b"order-7", "incr", b"user:1").unwrap().is_drawn());
    }
}
