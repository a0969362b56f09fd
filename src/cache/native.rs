//! The cache's own encoding of requests and answers: one format byte, then postcard of an enum.
//!
//! The key is not repeated in it: it travels beside the payload, since requests are routed by it.

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use super::condition::Condition;
use super::limits::bad_request;
use crate::service::ServiceError;
use crate::types::{Consistency, Version};

/// The format of answers, and of requests that do not name a consistency. A reader refuses others.
const FORMAT: u8 = 1;
/// The format of requests that name a consistency: one byte of it, then as in [`FORMAT`].
const FORMAT_WITH_CONSISTENCY: u8 = 2;

/// What is asked of the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Operation<'a> {
    Get,
    Set {
        #[serde(serialize_with = "as_bytes")]
        value: &'a [u8],
        /// Empty for JSON.
        #[serde(serialize_with = "as_bytes")]
        content_type: &'a [u8],
        ttl_ms: Option<u64>,
        condition: Condition,
    },
    Delete {
        condition: Condition,
    },
    Touch {
        ttl_ms: u64,
        condition: Condition,
    },
    Persist {
        condition: Condition,
    },
    Inspect,
    Increment {
        by: i64,
        ttl_ms: Option<u64>,
    },
    /// Answered as [`Operation::Get`] where there is an entry, else as [`Operation::Set`].
    GetOrSet {
        #[serde(serialize_with = "as_bytes")]
        value: &'a [u8],
        /// Empty for JSON.
        #[serde(serialize_with = "as_bytes")]
        content_type: &'a [u8],
        ttl_ms: Option<u64>,
    },
}

impl Operation<'_> {
    /// As in the request's subject.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set { .. } => "set",
            Self::Delete { .. } => "delete",
            Self::Touch { .. } => "touch",
            Self::Persist { .. } => "persist",
            Self::Inspect => "inspect",
            Self::Increment { .. } => "incr",
            Self::GetOrSet { .. } => "get-or-set",
        }
    }

    /// Whether it changes nothing.
    pub(super) fn reads(&self) -> bool {
        matches!(self, Self::Get | Self::Inspect)
    }

    /// What must hold for it to be executed.
    pub(super) fn condition(&self) -> &Condition {
        match self {
            Self::Get | Self::Inspect | Self::Increment { .. } | Self::GetOrSet { .. } => &Condition::NONE,
            Self::Set { condition, .. }
            | Self::Delete { condition }
            | Self::Touch { condition, .. }
            | Self::Persist { condition } => condition,
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
        /// There was none before.
        created: bool,
    },
    Deleted {
        existed: bool,
        version: Version,
    },
    /// To touch and persist: the version it has now, if there is an entry.
    Changed(Option<Version>),
    Inspected(Option<Seen<'a>>),
    Incremented {
        value: i64,
        version: Version,
    },
}

/// An entry as it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found<'a> {
    #[serde(serialize_with = "as_bytes")]
    pub(super) value: &'a [u8],
    #[serde(serialize_with = "as_bytes")]
    pub(super) content_type: &'a [u8],
    pub(super) version: Version,
    pub(super) age_ms: u64,
    pub(super) remaining_ttl_ms: Option<u64>,
}

/// An entry without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen<'a> {
    pub(super) bytes: u64,
    #[serde(serialize_with = "as_bytes")]
    pub(super) content_type: &'a [u8],
    pub(super) version: Version,
    pub(super) age_ms: u64,
    pub(super) remaining_ttl_ms: Option<u64>,
}

/// In one piece, not byte by byte.
pub(super) fn as_bytes<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

/// Encodes an [`Operation`]; with the consistency it asks for, if it does.
pub(super) fn encode_operation(
    operation: &Operation<'_>,
    consistency: Option<Consistency>,
    size_hint: usize,
) -> Result<Bytes, ServiceError> {
    match consistency {
        None => encode(operation, size_hint),
        Some(level) => encode_after(vec![FORMAT_WITH_CONSISTENCY, level as u8], operation, size_hint),
    }
}

/// Decodes an [`Operation`] and the consistency it asks for; what it holds points into `payload`.
pub(super) fn decode_operation(payload: &[u8]) -> Result<(Option<Consistency>, Operation<'_>), ServiceError> {
    let [FORMAT_WITH_CONSISTENCY, level, body @ ..] = payload else { return Ok((None, decode(payload)?)) };
    let level = Consistency::ALL.get(usize::from(*level));
    let level = level.ok_or_else(|| bad_request("cache message: its consistency is not known"))?;
    Ok((Some(*level), decode_body(body)?))
}

/// What a request asks, without the consistency.
pub(super) fn body(payload: &[u8]) -> &[u8] {
    match payload {
        [FORMAT_WITH_CONSISTENCY, _, body @ ..] | [_, body @ ..] => body,
        [] => payload,
    }
}

/// Encodes an [`Operation`] or an [`Answer`].
pub(super) fn encode<T: Serialize>(what: &T, size_hint: usize) -> Result<Bytes, ServiceError> {
    encode_after(vec![FORMAT], what, size_hint)
}

fn encode_after<T: Serialize>(mut out: Vec<u8>, what: &T, size_hint: usize) -> Result<Bytes, ServiceError> {
    out.reserve(size_hint + 64);
    let out = postcard::to_extend(what, out)
        .map_err(|e| ServiceError::new("internal", format!("a cache message could not be encoded: {e}")))?;
    Ok(out.into())
}

/// Decodes an [`Operation`] or an [`Answer`]; what it holds points into `payload`.
pub(super) fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, ServiceError> {
    let (format, rest) = payload.split_first().ok_or_else(|| bad_request("cache message: it is empty"))?;
    if *format != FORMAT {
        let known = format!("{FORMAT} and, for requests, {FORMAT_WITH_CONSISTENCY}");
        return Err(bad_request(format!("cache message: format {format} is not known; known: {known}")));
    }
    decode_body(rest)
}

fn decode_body<'a, T: Deserialize<'a>>(rest: &'a [u8]) -> Result<T, ServiceError> {
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
    use crate::cache::condition::Matching;
    use crate::types::Epoch;

    #[test]
    fn messages_are_read_back_as_they_were_written() {
        let version = Version { epoch: Epoch::new(7), sequence: 12 };
        let condition =
            Condition { if_match: Some(Matching::OneOf(vec![version])), if_none_match: Some(Matching::Any) };
        let set = Operation::Set { value: b"\"Alice\"", content_type: b"text/html", ttl_ms: Some(1500), condition };
        let bytes = encode(&set, 7).unwrap();
        assert_eq!(decode::<Operation<'_>>(&bytes).unwrap(), set);
        let got =
            Answer::Got(Some(Found { value: b"1", content_type: b"", version, age_ms: 7, remaining_ttl_ms: None }));
        let bytes = encode(&got, 1).unwrap();
        assert_eq!(decode::<Answer<'_>>(&bytes).unwrap(), got);
    }

    #[test]
    fn unknown_formats_unknown_operations_and_cut_or_padded_messages_are_refused() {
        let set = Operation::Set { value: b"12", content_type: b"", ttl_ms: None, condition: Condition::NONE };
        let set = encode(&set, 2).unwrap();
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
