//! The cache as callers see it: its operations by key, routed to whichever node owns it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::condition::Condition;
use super::content_type::ContentType;
use super::limits::{Limits, bad_request, check_key, check_ttl};
use super::native::{Answer, Found, Operation, Seen, decode, encode_operation};
use super::plain::check_json;
use crate::rpc::{CallError, Caller, How, READ_TIMEOUT, Reply, Resend, WRITE_TIMEOUT};
use crate::service::ServiceError;
use crate::types::{Consistency, NodeName, PartitionId, RequestId, Version};

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

/// Answer to [`CacheClient::increment`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncrementReply {
    /// Who did it.
    pub node: NodeName,
    /// The sum.
    pub value: i64,
    /// Of this write.
    pub version: Version,
}

/// Answer to [`CacheClient::get_or_set`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetOrSetReply {
    /// Who answered.
    pub node: NodeName,
    /// The entry, as it was found or stored.
    pub entry: CacheEntry,
    /// Whether it was stored: there was none before.
    pub stored: bool,
}

/// The cache, from anywhere in the ring.
#[derive(Clone)]
pub struct CacheClient {
    caller: Arc<dyn Caller>,
    limits: Limits,
    read_timeout: Duration,
    write_timeout: Duration,
    consistency: Option<Consistency>,
    named: Option<Bytes>,
}

impl fmt::Debug for CacheClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheClient").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl CacheClient {
    /// A client with the default timeouts. What is over the limits is refused before it is sent.
    pub fn new(caller: Arc<dyn Caller>, limits: Limits) -> Self {
        let (read_timeout, write_timeout) = (READ_TIMEOUT, WRITE_TIMEOUT);
        Self { caller, limits, read_timeout, write_timeout, consistency: None, named: None }
    }

    /// Whose reads and writes are of this consistency, whatever the ring's is.
    #[must_use]
    pub fn with_consistency(self, consistency: Consistency) -> Self {
        Self { consistency: Some(consistency), ..self }
    }

    /// Whose writes have this name: one that is made again under it, by whatever client of this kind or over HTTP, is executed once and answered the
    /// same, for as long as a minute. Every other write needs another name. Without one, each call has a name of its own,
    /// by which it is sent again where no answer comes.
    #[must_use]
    pub fn with_request_id(self, name: impl Into<Bytes>) -> Self {
        Self { named: Some(name.into()), ..self }
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
        let found = found.as_ref().map(|found| entry(&reply, found)).transpose()?;
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
        self.check_entry(&entry)?;
        let NewEntry { value, content_type, ttl } = entry;
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

    /// Adds to the integer that the entry is, or to 0 where there is none: exactly once, whoever else does so at the same
    /// time. With a time to live it lives that long from now on, else as long as it would have.
    ///
    /// # Errors
    /// As routed calls have them; [`CallError::Service`] where key or time to live are refused, the entry is no integer, or
    /// the sum is beyond an `i64`.
    pub async fn increment(&self, key: Bytes, by: i64, ttl: Option<Duration>) -> Result<IncrementReply, CallError> {
        let ttl_ms = ttl.map(milliseconds).transpose()?;
        let reply = self.call(key, &Operation::Increment { by, ttl_ms }, self.write_timeout).await?;
        let Answer::Incremented { value, version } = decode_answer(&reply)? else { return Err(unexpected(&reply)) };
        Ok(IncrementReply { node: reply.node, value, version })
    }

    /// Reads an entry; where there is none, stores this one. Of many who ask at once, one stores, and all get the same.
    ///
    /// # Errors
    /// As routed calls have them; [`CallError::Service`] where key, value or time to live are refused.
    pub async fn get_or_set(&self, key: Bytes, new: NewEntry) -> Result<GetOrSetReply, CallError> {
        self.check_entry(&new)?;
        let NewEntry { value, content_type, ttl } = new;
        let ttl_ms = ttl.map(milliseconds).transpose()?;
        let operation = Operation::GetOrSet { value: &value, content_type: content_type.stored(), ttl_ms };
        let reply = self.call(key, &operation, self.write_timeout).await?;
        let (entry, stored) = match decode_answer(&reply)? {
            Answer::Got(Some(found)) => (entry(&reply, &found)?, false),
            Answer::Stored { version, .. } => {
                (CacheEntry { value, content_type, version, age: Duration::ZERO, remaining_ttl: ttl }, true)
            }
            _ => return Err(unexpected(&reply)),
        };
        Ok(GetOrSetReply { node: reply.node, entry, stored })
    }

    fn check_entry(&self, NewEntry { value, content_type, .. }: &NewEntry) -> Result<(), ServiceError> {
        self.limits.check_value(value)?;
        if content_type.is_json() { check_json(value) } else { Ok(()) }
    }

    async fn change(&self, key: Bytes, operation: &Operation<'_>) -> Result<ChangeReply, CallError> {
        let reply = self.call(key, operation, self.write_timeout).await?;
        let Answer::Changed(version) = decode_answer(&reply)? else { return Err(unexpected(&reply)) };
        Ok(ChangeReply { node: reply.node, version })
    }

    async fn call(&self, key: Bytes, operation: &Operation<'_>, timeout: Duration) -> Result<Reply, CallError> {
        check_key(&key)?;
        operation.condition().check_size()?;
        let size_hint = match operation {
            Operation::Set { value, .. } | Operation::GetOrSet { value, .. } => value.len(),
            _ => 0,
        };
        let payload = encode_operation(operation, self.consistency, size_hint)?;
        let resend = match (operation.reads(), &self.named) {
            (true, _) => Resend::Read,
            (false, None) => Resend::Once(None),
            (false, Some(name)) => {
                let id = RequestId::named(name, operation.name(), &key);
                Resend::Once(Some(id.map_err(|error| bad_request(format!("request id: {error}")))?))
            }
        };
        self.caller.call_with(key, operation.name(), payload, How { timeout, resend }).await
    }
}

/// An entry as it was answered; it points into the answer.
fn entry(reply: &Reply, found: &Found<'_>) -> Result<CacheEntry, CallError> {
    let content_type = ContentType::from_stored(reply.payload.slice_ref(found.content_type));
    Ok(CacheEntry {
        value: reply.payload.slice_ref(found.value),
        content_type: content_type.map_err(|error| unreadable(reply, &error.message))?,
        version: found.version,
        age: Duration::from_millis(found.age_ms),
        remaining_ttl: found.remaining_ttl_ms.map(Duration::from_millis),
    })
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
