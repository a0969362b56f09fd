//! The cache's own encoding of requests and answers: one format byte, then postcard of an enum.
//!
//! The key is not repeated in it: it travels beside the payload, since requests are routed by it.

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use super::item::Version;
use super::limits::bad_request;
use crate::service::ServiceError;

/// The only format so far. A reader refuses others.
const FORMAT: u8 = 1;

/// What is asked of the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Operation<'a> {
    Get,
    Set {
        #[serde(serialize_with = "as_bytes")]
        value: &'a [u8],
        kind: u8,
        ttl_ms: Option<u64>,
    },
    Delete,
}

impl Operation<'_> {
    /// As in the request's subject.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set { .. } => "set",
            Self::Delete => "delete",
        }
    }
}

/// What the owner answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer<'a> {
    #[serde(borrow)]
    Got(Option<Found<'a>>),
    Stored {
        version: Version,
    },
    Deleted {
        existed: bool,
        version: Version,
    },
}

/// An entry as it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found<'a> {
    #[serde(serialize_with = "as_bytes")]
    pub(super) value: &'a [u8],
    pub(super) kind: u8,
    pub(super) version: Version,
    pub(super) remaining_ttl_ms: Option<u64>,
}

/// In one piece, not byte by byte.
pub(super) fn as_bytes<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

/// Encodes an [`Operation`] or an [`Answer`].
pub(super) fn encode<T: Serialize>(what: &T, size_hint: usize) -> Result<Bytes, ServiceError> {
    let mut out = Vec::with_capacity(size_hint + 64);
    out.push(FORMAT);
    let out = postcard::to_extend(what, out)
        .map_err(|e| ServiceError::new("internal", format!("a cache message could not be encoded: {e}")))?;
    Ok(out.into())
}

/// Decodes an [`Operation`] or an [`Answer`]; what it holds points into `payload`.
pub(super) fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, ServiceError> {
    let (format, rest) = payload.split_first().ok_or_else(|| bad_request("cache message: it is empty"))?;
    if *format != FORMAT {
        return Err(bad_request(format!("cache message: format {format} is not known; known: {FORMAT}")));
    }
    let (what, left) = postcard::take_from_bytes(rest)
        .map_err(|e| bad_request(format!("cache message of format {FORMAT}: unknown operation or malformed: {e}")))?;
    if !left.is_empty() {
        return Err(bad_request(format!("cache message of format {FORMAT}: {} bytes too many", left.len())));
    }
    Ok(what)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    #[test]
    fn messages_are_read_back_as_they_were_written() {
        let set = Operation::Set { value: b"\"Alice\"", kind: 0, ttl_ms: Some(1500) };
        let bytes = encode(&set, 7).unwrap();
        assert_eq!(decode::<Operation<'_>>(&bytes).unwrap(), set);
        let version = Version { epoch: Epoch::new(7), sequence: 12 };
        let got = Answer::Got(Some(Found { value: b"1", kind: 0, version, remaining_ttl_ms: None }));
        let bytes = encode(&got, 1).unwrap();
        assert_eq!(decode::<Answer<'_>>(&bytes).unwrap(), got);
    }

    #[test]
    fn unknown_formats_unknown_operations_and_cut_or_padded_messages_are_refused() {
        let set = encode(&Operation::Set { value: b"12", kind: 0, ttl_ms: None }, 2).unwrap();
        let mut padded = set.to_vec();
        padded.push(0);
        let cases: [(&[u8], &str); 5] = [
            (b"", "empty"),
            (&[9, 0], "format 9"),
            (&[FORMAT, 200], "unknown operation"),
            (&set[..4], "malformed"),
            (&padded, "too many"),
        ];
        for (payload, names) in cases {
            let refused = decode::<Operation<'_>>(payload).unwrap_err();
            assert_eq!(refused.code, "bad_request");
            assert!(refused.message.contains(names), "{refused}");
        }
    }
}
