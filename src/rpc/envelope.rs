//! What goes around a request between nodes: a compact binary head, then the payload as it is.
//!
//! Layout: one byte format, two bytes length of the head (little endian), the head in postcard, the payload. Two small
//! NATS headers would cost 10 to 25 % of the throughput.
//!
//! postcard does not describe itself: within a format, fields of a head are only ever added at its end, and only such
//! that a reader may ignore them, as this one ignores what is left of a head. Every other change is a new format.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use crate::service::{Form, ServiceError};
use crate::types::{Epoch, NodeName, Once, PartitionId, RequestId, Time};

/// The format this release writes, and the only one it reads.
pub const FORMAT: u8 = 1;

/// How often a request may be passed on. Each time it goes to a later owner, so this is how often a partition may change
/// hands while a request is on its way to it.
pub const MAX_HOPS: u8 = 8;

/// Head of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallHead {
    /// Of the key.
    pub partition: PartitionId,
    /// The epoch the sender knows: who has not seen it yet holds the request back.
    pub epoch: Epoch,
    /// How often it was passed on.
    pub hops: u8,
    /// Whether the answer goes to a plain client.
    pub plain: bool,
    /// How much time its caller still gives it. A courtesy: time spent in buffers is not seen.
    pub remaining_ms: u32,
    /// What to do.
    pub operation: String,
    /// The key, raw.
    pub key: Vec<u8>,
    /// W3C `traceparent`, if the caller gave one.
    pub trace: Option<String>,
    /// Its name, where it may be sent more than once. Releases before do not know it, so a head without one ends here;
    /// whoever adds a field behind it writes it always.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_missing")]
    pub once: Option<OnceHead>,
}

/// Name and age of a request that may be sent more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnceHead {
    /// The same for each sending.
    pub id: RequestId,
    /// How long ago it was first sent.
    pub age_ms: u32,
}

impl OnceHead {
    /// As it goes on its way at this moment.
    pub fn leaving(once: Once, now: Time) -> Self {
        let age_ms = u32::try_from(now.since(once.first_sent).as_millis()).unwrap_or(u32::MAX);
        Self { id: once.id, age_ms }
    }

    /// As it arrived at this moment; `again`: it may have been executed before.
    pub fn arrived(self, now: Time, again: bool) -> Once {
        Once { id: self.id, first_sent: now - Duration::from_millis(u64::from(self.age_ms)), again }
    }
}

/// A field at the end of a head: missing in those of older releases.
fn or_missing<'de, D: Deserializer<'de>>(from: D) -> Result<Option<OnceHead>, D::Error> {
    // postcard tells the end of a head by an error that serde cannot tell from others.
    Ok(Option::deserialize(from).unwrap_or_default())
}

impl CallHead {
    /// The form of payload and answer.
    pub fn form(&self) -> Form {
        if self.plain { Form::Plain } else { Form::Native }
    }
}

/// Head of an answer to a native request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyHead {
    /// Executed; the payload is the service's answer.
    Ok {
        /// Who answered.
        node: NodeName,
        /// At which epoch.
        epoch: Epoch,
    },
    /// Refused or failed by the service.
    Service(ServiceError),
    /// Surely not executed; worth another try.
    NotExecuted(String),
    /// Surely not executed: a bound was reached.
    Overloaded(String),
    /// May have been executed.
    Unknown(String),
}

/// Head of a chunk of a partition's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkHead {
    /// Which.
    pub partition: PartitionId,
    /// The giving owner's epoch.
    pub epoch: Epoch,
    /// Names the stream: a new try starts a new one.
    pub stream: u64,
    /// Counts chunks of the stream from zero.
    pub sequence: u32,
    /// XXH3-64 of the payload.
    pub checksum: u64,
}

/// An offer: the state has arrived whole, as so many chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferHead {
    /// Which.
    pub partition: PartitionId,
    /// The giving owner's epoch.
    pub epoch: Epoch,
    /// Revision of its claim.
    pub revision: crate::coord::Revision,
    /// Who offers.
    pub from: crate::types::NodeId,
    /// The stream that carried the state.
    pub stream: u64,
    /// How many chunks it had.
    pub chunks: u32,
    /// How long ago the last of them was made.
    pub age_ms: u32,
}

/// A leaving node asks to be told once the receiver knows all of these owners, or later ones: what it still sends here
/// by its old table has arrived by then, for it is ahead of the answer on the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarewellHead {
    /// Each partition's epoch, as the leaving node knows it.
    pub epochs: Vec<(PartitionId, Epoch)>,
}

/// Answer to a chunk, an offer or a farewell: accepted, or why not.
pub type Verdict = Result<(), String>;

/// A message that is not one of ours, or of another release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Of another format.
    #[error("message of format {0}, this release reads format {FORMAT}: upgrade whichever of the two is older")]
    Format(u8),
    /// Cut short, or not ours.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The head does not fit: key or operation too long.
    #[error("head of {0} bytes is over the limit of 65535 bytes")]
    HeadTooLarge(usize),
}

/// Head and payload as one message.
///
/// # Errors
/// [`EnvelopeError::HeadTooLarge`] where key and operation together are over 64 KiB.
pub fn seal<T: Serialize>(head: &T, payload: &[u8]) -> Result<Bytes, EnvelopeError> {
    let head = postcard::to_stdvec(head).map_err(|e| EnvelopeError::Malformed(e.to_string()))?;
    let length = u16::try_from(head.len()).map_err(|_| EnvelopeError::HeadTooLarge(head.len()))?;
    let mut message = BytesMut::with_capacity(3 + head.len() + payload.len());
    message.put_u8(FORMAT);
    message.put_u16_le(length);
    message.put_slice(&head);
    message.put_slice(payload);
    Ok(message.freeze())
}

/// Head and payload of a message; the payload is not copied.
///
/// # Errors
/// [`EnvelopeError`] where it is cut short, not ours, or of another release.
pub fn open<T: DeserializeOwned>(message: &Bytes) -> Result<(T, Bytes), EnvelopeError> {
    let short = || EnvelopeError::Malformed(format!("{} bytes are too few", message.len()));
    let format = *message.first().ok_or_else(short)?;
    if format != FORMAT {
        return Err(EnvelopeError::Format(format));
    }
    let length: [u8; 2] = message.get(1..3).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)?;
    let end = 3 + usize::from(u16::from_le_bytes(length));
    let head = message.get(3..end).ok_or_else(short)?;
    // What is left of it are fields of a later release.
    let (head, _) = postcard::take_from_bytes(head).map_err(|e| EnvelopeError::Malformed(e.to_string()))?;
    Ok((head, message.slice(end..)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn head() -> CallHead {
        CallHead {
            partition: PartitionId::new(7),
            epoch: Epoch::new(3),
            hops: 1,
            plain: true,
            remaining_ms: 2000,
            operation: "get".to_owned(),
            key: b"user:1".to_vec(),
            trace: None,
            once: None,
        }
    }

    #[test]
    fn what_was_sealed_opens_with_the_same_head_and_payload() {
        let message = seal(&head(), b"payload").unwrap();
        let (opened, payload) = open::<CallHead>(&message).unwrap();
        assert_eq!((opened, &payload[..]), (head(), &b"payload"[..]));
    }

    #[test]
    fn a_name_travels_with_its_age_and_a_head_that_ends_before_it_has_none() {
        let once = Once {
            id: RequestId::named(b"n", "set", b"k").unwrap(),
            first_sent: Time::from_nanos(7_000_000_000),
            again: false,
        };
        let leaving = OnceHead::leaving(once, Time::from_nanos(8_500_000_000));
        assert_eq!(leaving.age_ms, 1500);
        let named = CallHead { once: Some(leaving), ..head() };
        let (opened, payload) = open::<CallHead>(&seal(&named, b"payload").unwrap()).unwrap();
        assert_eq!((&opened, &payload[..]), (&named, &b"payload"[..]));
        let arrived = leaving.arrived(Time::from_nanos(2_000_000_000), true);
        assert_eq!(arrived, Once { id: once.id, first_sent: Time::from_nanos(500_000_000), again: true });
        let (unnamed, _) = open::<CallHead>(&seal(&head(), b"payload").unwrap()).unwrap();
        assert_eq!(unnamed.once, None);
    }

    #[test]
    fn every_prefix_and_another_format_are_refused_without_a_panic() {
        let message = seal(&head(), b"").unwrap();
        for length in 0..message.len() {
            assert!(open::<CallHead>(&message.slice(..length)).is_err(), "{length} bytes were accepted");
        }
        let mut other = message.to_vec();
        other[0] = 2;
        assert_eq!(open::<CallHead>(&other.into()), Err(EnvelopeError::Format(2)));
    }
}
