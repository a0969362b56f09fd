//! The cache as callers see it: its operations by key, routed to whichever node owns it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::condition::Condition;
use super::content_type::ContentType;
use super::limits::{Limits, check_key, check_ttl};
use super::native::{Answer, Operation, Seen, decode, encode};
use super::plain::check_json;
use crate::rpc::{CallError, Caller, READ_TIMEOUT, Reply, WRITE_TIMEOUT};
use crate::service::ServiceError;
use crate::types::{NodeName, PartitionId, Version};

/// An entry of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// As it was given.
    pub value: Bytes,
    /// What it is.
    pub content_type: ContentType,
    /// Of the last write to the entry.
    pub version: Version,
    /// How long ago the value was written, as of the answer.
    pub age: Duration,
    /// How long it still lives, as of the answer; `None` where it has no end.
    pub remaining_ttl: Option<Duration>,
}

/// An entry of the cache without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryInfo {
    /// Length of the value.
    pub bytes: u64,
    /// What it is.
    pub content_type: ContentType,
    /// Of the last write to the entry.
    pub version: Version,
    /// How long ago the value was written, as of the answer.
    pub age: Duration,
    /// How long it still lives, as of the answer; `None` where it has no end.
    pub remaining_ttl: Option<Duration>,
}

impl EntryInfo {
    pub(super) fn of(seen: &Seen<'_>) -> Result<Self, ServiceError> {
        Ok(Self {
            bytes: seen.bytes,
            content_type: ContentType::from_stored(Bytes::copy_from_slice(seen.content_type))?,
            version: seen.version,
            age: Duration::from_millis(seen.age_ms),
            remaining_ttl: seen.remaining_ttl_ms.map(Duration::from_millis),
        })
    }
}

/// A value to be stored, of any content type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// The bytes; JSON text where the content type says so.
    pub value: Bytes,
    /// What they are.
    pub content_type: ContentType,
    /// How long it lives; `None` for ever.
    pub ttl: Option<Duration>,
}

/// Answer to [`CacheClient::get`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetReply {
    /// Who answered.
    pub node: NodeName,
    /// The entry, if there is one.
    pub found: Option<CacheEntry>,
}

/// Answer to [`CacheClient::set`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetReply {
    /// Who stored it.
    pub node: NodeName,
    /// Of this write.
    pub version: Version,
    /// Whether there was no entry before.
    pub created: bool,
}

/// Answer to [`CacheClient::delete`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteReply {
    /// Who deleted it.
    pub node: NodeName,
    /// Whether there was an entry.
    pub existed: bool,
    /// Of this write.
    pub version: Version,
}

/// Answer to [`CacheClient::touch`] and [`CacheClient::persist`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeReply {
    /// Who answered.
    pub node: NodeName,
    /// The version of the entry from now on; `None` where there is no entry.
    pub version: Option<Version>,
}

/// Answer to [`CacheClient::inspect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectReply {
    /// Who answered: the owner.
    pub node: NodeName,
    /// The key's partition.
    pub partition: PartitionId,
    /// The entry, if there is one.
    pub found: Option<EntryInfo>,
}

/// The cache, from anywhere in the ring.
#[derive(Clone)]
pub struct CacheClient {
    caller: Arc<dyn Caller>,
    limits: Limits,
    read_timeout: Duration,
    write_timeout: Duration,
}

impl fmt::Debug for CacheClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheClient").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl CacheClient {
    /// A client with the default timeouts. What is over the limits is refused before it is sent.
    pub fn new(caller: Arc<dyn Caller>, limits: Limits) -> Self {
        Self { caller, limits, read_timeout: READ_TIMEOUT, write_timeout: WRITE_TIMEOUT }
    }

    /// With other timeouts.
    #[must_use]
    pub fn with_timeouts(self, read_timeout: Duration, write_timeout: Duration) -> Self {
        Self { read_timeout, write_timeout, ..self }
    }

    /// What is accepted.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// As routed calls have them; [`CallError::Service`] where the key is refused.
    pub async fn get(&self, key: Bytes) -> Result<GetReply, CallError> {
        let reply = self.call(key, &Operation::Get, self.read_timeout).await?;
        let Answer::Got(found) = decode_answer(&reply)? else { return Err(unexpected(&reply)) };
        let found = found.map(|found| {
            Ok(CacheEntry {
                value: reply.payload.slice_ref(found.value),
                content_type: ContentType::from_stored(reply.payload.slice_ref(found.content_type))?,
                version: found.version,
                age: Duration::from_millis(found.age_ms),
                remaining_ttl: found.remaining_ttl_ms.map(Duration::from_millis),
            })
        });
        let found = found.transpose().map_err(|error: ServiceError| unreadable(&reply, &error.message))?;
        Ok(GetReply { node: reply.node, found })
    }

    /// What is known of an entry without its value; counts neither as a read nor as a use of it.
    ///
    /// # Errors
    /// As routed calls have them; [`CallError::Service`] where the key is refused.
    pub async fn inspect(&self, key: Bytes) -> Result<InspectReply, CallError> {
        let reply = self.call(key, &Operation::Inspect, self.read_timeout).await?;
        let Answer::Inspected(found) = decode_answer(&reply)? else { return Err(unexpected(&reply)) };
        let found = found.as_ref().map(EntryInfo::of).transpose();
        let found = found.map_err(|error| unreadable(&reply, &error.message))?;
        Ok(InspectReply { partition: reply.partition, node: reply.node, found })
    }

    /// Stores a value, JSON text, for ever or for a time.
    ///
    /// # Errors
    /// As routed calls have them; [`CallError::Service`] where key, value or time to live are refused.
    pub async fn set(&self, key: Bytes, value: Bytes, ttl: Option<Duration>) -> Result<SetReply, CallError> {
        self.put(key, NewEntry { value, content_type: ContentType::JSON, ttl }, Condition::NONE).await
    }

    /// Stores a value of any content type, if the condition holds.
    ///
    /// # Errors
    /// As routed calls have them; [`CallError::Service`] where key, value, time to live or condition are refused, and
    /// with the code [`PRECONDITION_FAILED`](super::PRECONDITION_FAILED) where the condition does not hold.
    pub async fn put(&self, key: Bytes, entry: NewEntry, condition: Condition) -> Result<SetReply, CallError> {
        let NewEntry { value, content_type, ttl } = entry;
        self.limits.check_value(&value)?;
        if content_type.is_json() {
            check_json(&value)?;
        }
        let ttl_ms = ttl.map(milliseconds).transpose()?;
        let operation = Operation::Set { value: &value, content_type: content_type.stored(), ttl_ms, condition };
        let reply = self.call(key, &operation, self.write_timeout).await?;
        let Answer::Stored { version, created } = decode_answer(&reply)? else { return Err(unexpected(&reply)) };
        Ok(SetReply { node: reply.node, version, created })
    }

    /// Deletes an entry.
    ///
    /// # Errors
    /// As routed calls have them; [`CallError::Service`] where the key is refused.
    pub async fn delete(&self, key: Bytes) -> Result<DeleteReply, CallError> {
        self.delete_if(key, Condition::NONE).await
    }

    /// Deletes an entry if the condition holds for it. Where there is none, nothing is to be done and the condition is
    /// not asked.
    ///
    /// # Errors
    /// As [`CacheClient::put`].
    pub async fn delete_if(&self, key: Bytes, condition: Condition) -> Result<DeleteReply, CallError> {
        let reply = self.call(key, &Operation::Delete { condition }, self.write_timeout).await?;
        let Answer::Deleted { existed, version } = decode_answer(&reply)? else { return Err(unexpected(&reply)) };
        Ok(DeleteReply { node: reply.node, existed, version })
    }

    /// Gives an entry another time to live, from now on, if the condition holds for it. It gets a new version; value and
    /// age stay.
    ///
    /// # Errors
    /// As [`CacheClient::put`].
    pub async fn touch(&self, key: Bytes, ttl: Duration, condition: Condition) -> Result<ChangeReply, CallError> {
        let ttl_ms = milliseconds(ttl)?;
        self.change(key, &Operation::Touch { ttl_ms, condition }).await
    }

    /// Takes an entry's time to live away, if the condition holds for it. It gets a new version where it had one.
    ///
    /// # Errors
    /// As [`CacheClient::put`].
    pub async fn persist(&self, key: Bytes, condition: Condition) -> Result<ChangeReply, CallError> {
        self.change(key, &Operation::Persist { condition }).await
    }

    async fn change(&self, key: Bytes, operation: &Operation<'_>) -> Result<ChangeReply, CallError> {
        let reply = self.call(key, operation, self.write_timeout).await?;
        let Answer::Changed(version) = decode_answer(&reply)? else { return Err(unexpected(&reply)) };
        Ok(ChangeReply { node: reply.node, version })
    }

    async fn call(&self, key: Bytes, operation: &Operation<'_>, timeout: Duration) -> Result<Reply, CallError> {
        check_key(&key)?;
        operation.condition().check_size()?;
        let size_hint = if let Operation::Set { value, .. } = operation { value.len() } else { 0 };
        let payload = encode(operation, size_hint)?;
        self.caller.call(key, operation.name(), payload, timeout).await
    }
}

/// A time to live in the messages' unit, rounded up.
fn milliseconds(ttl: Duration) -> Result<u64, ServiceError> {
    check_ttl(ttl)?;
    Ok(ttl.as_nanos().div_ceil(1_000_000) as u64)
}

/// An answer that cannot be read says nothing about whether a write was executed.
fn decode_answer(reply: &Reply) -> Result<Answer<'_>, CallError> {
    decode(&reply.payload).map_err(|ServiceError { message, .. }| unreadable(reply, &message))
}

fn unexpected(reply: &Reply) -> CallError {
    unreadable(reply, "it belongs to another operation")
}

fn unreadable(reply: &Reply, why: &str) -> CallError {
    let reason = format!("the answer of {} cannot be read: {why}", reply.node);
    CallError::Unknown { partition: reply.partition, reason }
}
