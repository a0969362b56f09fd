//! A write of the cache as it goes to the copies: one format byte, then postcard: what it did, then by which name it came, if by
//! any, then what releases before do not know: how old a value was already, if that was not zero, or the name of what changed nothing. Releases
//! overlook what follows what they know; a change that ends after the effect is of one that knows no names.
//!
//! What a change does depends on no clock but its own age: a copy does it to whatever is there. One that only reached entries that
//! live would be lost where the copy, later than its owner, takes them for expired.
//!
//! Ages and times to live are as of the moment the change was made ([`Change::made`](crate::replica::Change)); the holder
//! of a copy adds and subtracts what has passed since.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::content_type;
use super::native::as_bytes;
use super::once::{Executed, Outcome};

const FORMAT: u8 = 1;

/// What a write did to an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Effect<'a> {
    Set {
        #[serde(serialize_with = "as_bytes")]
        key: &'a [u8],
        #[serde(serialize_with = "as_bytes")]
        value: &'a [u8],
        #[serde(serialize_with = "as_bytes")]
        content_type: &'a [u8],
        ttl_ns: Option<u64>,
        /// How old the value is already, in nanoseconds: a new time to live leaves it as it was written.
        #[serde(skip)]
        age_ns: u64,
    },
    Delete {
        #[serde(serialize_with = "as_bytes")]
        key: &'a [u8],
    },
    /// Another time to live; value and age stay. Only releases before send it: where the copy takes the entry for expired, it is
    /// lost.
    Lifetime {
        #[serde(serialize_with = "as_bytes")]
        key: &'a [u8],
        ttl_ns: Option<u64>,
    },
}

/// The name that a write came by, if it did; or that this is not known.
pub(super) type Name = Result<Option<Executed>, Nameless>;

/// Made by a release that does not know names of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nameless;

/// A change that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a change of the cache cannot be read: {0}")]
pub(super) struct Unreadable(String);

impl<'a> Effect<'a> {
    /// None: no entry has an empty key.
    pub(super) const NOTHING: Self = Self::Delete { key: b"" };

    pub(super) fn encode(&self, executed: Option<Executed>) -> Bytes {
        let hint = match self {
            Self::Set { key, value, content_type, .. } => key.len() + value.len() + content_type.len(),
            Self::Delete { key } | Self::Lifetime { key, .. } => key.len(),
        };
        let mut out = Vec::with_capacity(hint + if executed.is_some() { 72 } else { 24 });
        out.push(FORMAT);
        let changed_nothing = executed.filter(|executed| matches!(executed.outcome, Outcome::Nothing { .. }));
        let known_before = executed.filter(|_| changed_nothing.is_none());
        // Plain bytes and numbers into memory: cannot fail; were it to, the reader would refuse it.
        let told = postcard::to_extend(&(self, known_before), out);
        let told = match self {
            Self::Set { age_ns: age_ns @ 1.., .. } => told.and_then(|out| postcard::to_extend(age_ns, out)),
            _ if changed_nothing.is_some() => told.and_then(|out| postcard::to_extend(&changed_nothing, out)),
            _ => told,
        };
        told.unwrap_or_default().into()
    }

    /// What the write did, and its name if it has one; `Err` there: a release before made it, which knows of no names.
    pub(super) fn decode(body: &'a [u8]) -> Result<(Self, Name), Unreadable> {
        let Some((format, rest)) = body.split_first() else { return Err(Unreadable("it is empty".to_owned())) };
        if *format != FORMAT {
            return Err(Unreadable(format!("format {format} is not known; known: {FORMAT}")));
        }
        let unreadable = |error: postcard::Error| Unreadable(error.to_string());
        let (mut effect, rest) = postcard::take_from_bytes(rest).map_err(unreadable)?;
        let (mut name, rest) = match rest {
            [] => (Err(Nameless), rest),
            _ => postcard::take_from_bytes(rest).map(|(name, rest)| (Ok(name), rest)).map_err(unreadable)?,
        };
        if !rest.is_empty() {
            match &mut effect {
                Self::Set { age_ns, .. } => *age_ns = postcard::from_bytes(rest).map_err(unreadable)?,
                _ => name = Ok(postcard::from_bytes(rest).map_err(unreadable)?),
            }
        }
        if let Self::Set { content_type, .. } = &effect {
            content_type::check_stored(content_type).map_err(|error| Unreadable(error.message))?;
        }
        Ok((effect, name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{Epoch, RequestId, Version};

    #[test]
    fn a_change_is_read_as_it_was_written_and_a_foreign_or_damaged_one_is_refused() {
        let outcome = Outcome::Incremented(i64::MIN);
        for effect in [
            Effect::Set { key: b"k", value: b"[1]", content_type: b"", ttl_ns: Some(7), age_ns: 0 },
            Effect::Set { key: b"k", value: b"<b>", content_type: b"text/html", ttl_ns: None, age_ns: 0 },
            Effect::Delete { key: b"k" },
            Effect::Lifetime { key: b"k", ttl_ns: None },
        ] {
            let executed = Executed { id: RequestId::named(b"n", "set", b"k").unwrap(), asks: u64::MAX, outcome };
            for executed in [None, Some(executed)] {
                let body = effect.encode(executed);
                assert_eq!(Effect::decode(&body).unwrap(), (effect.clone(), Ok(executed)));
                // As the release before reads it: what follows the effect is overlooked. And as it writes it.
                assert_eq!(postcard::from_bytes::<Effect<'_>>(&body[1..]).unwrap(), effect);
                let before = postcard::to_extend(&effect, vec![FORMAT]).unwrap();
                assert_eq!(Effect::decode(&before).unwrap(), (effect.clone(), Err(Nameless)));
            }
        }
        let outcome = Outcome::Nothing { entry: Some(Version { epoch: Epoch::new(7), sequence: u64::MAX }) };
        let named = Executed { id: RequestId::named(b"n", "touch", b"k").unwrap(), asks: 7, outcome };
        let body = Effect::NOTHING.encode(Some(named));
        assert_eq!(Effect::decode(&body).unwrap(), (Effect::NOTHING, Ok(Some(named))));
        // As the release before reads it.
        let before: (Effect<'_>, Option<Executed>) = postcard::from_bytes(&body[1..]).unwrap();
        assert_eq!(before, (Effect::NOTHING, None));
        let set = Effect::Set { key: b"k", value: b"[1]", content_type: b"", ttl_ns: Some(7), age_ns: 0 }.encode(None);
        for bad in [&b""[..], &[9, 0], &[FORMAT, 77], &set[..4]] {
            assert!(Effect::decode(bad).is_err(), "{bad:?}");
        }
    }
    /// The release before reads all but the age, with the name or without one.
    #[test]
    fn the_age_of_a_value_comes_behind_all_that_is_known_elsewhere() {
        let executed =
            Executed { id: RequestId::named(b"n", "touch", b"k").unwrap(), asks: 7, outcome: Outcome::Lifetime };
        let set = |age_ns| Effect::Set { key: b"k", value: b"[1]", content_type: b"", ttl_ns: Some(7), age_ns };
        for executed in [None, Some(executed)] {
            let body = set(u64::MAX).encode(executed);
            assert_eq!(Effect::decode(&body).unwrap(), (set(u64::MAX), Ok(executed)));
            let (effect, rest) = postcard::take_from_bytes::<Effect<'_>>(&body[1..]).unwrap();
            assert_eq!((effect, postcard::from_bytes::<Option<Executed>>(rest).unwrap()), (set(0), executed));
        }
    }
}
