//! The cache as callers see it: `get`, `set` and `delete` by key, routed to whichever node owns it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::item::{Kind, Version};
use super::limits::{Limits, check_key, check_ttl};
use super::native::{Answer, Operation, decode, encode};
use super::plain::check_json;
use crate::rpc::{CallError, Caller, READ_TIMEOUT, Reply, WRITE_TIMEOUT};
use crate::service::ServiceError;
use crate::types::NodeName;

/// An entry of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// JSON text, as it was given.
    pub value: Bytes,
    /// Of the write that stored it.
    pub version: Version,
    /// How long it still lives, as of the answer; `None` where it has no end.
    pub remaining_ttl: Option<Duration>,
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
        let found = found.map(|found| CacheEntry {
            value: reply.payload.slice_ref(found.value),
            version: found.version,
            remaining_ttl: found.remaining_ttl_ms.map(Duration::from_millis),
        });
        Ok(GetReply { node: reply.node.clone(), found })
    }

    /// Stores a value, JSON text, for ever or for a time.
    ///
    /// # Errors
    /// As routed calls have them; [`CallError::Service`] where key, value or time to live are refused.
    pub async fn set(&self, key: Bytes, value: Bytes, ttl: Option<Duration>) -> Result<SetReply, CallError> {
        self.limits.check_value(&value)?;
        check_json(&value)?;
        ttl.map_or(Ok(()), check_ttl)?;
        let ttl_ms = ttl.map(|ttl| ttl.as_nanos().div_ceil(1_000_000) as u64);
        let operation = Operation::Set { value: &value, kind: Kind::Json.number(), ttl_ms };
        let reply = self.call(key, &operation, self.write_timeout).await?;
        let Answer::Stored { version } = decode_answer(&reply)? else { return Err(unexpected(&reply)) };
        Ok(SetReply { node: reply.node, version })
    }

    /// Deletes an entry.
    ///
    /// # Errors
    /// As routed calls have them; [`CallError::Service`] where the key is refused.
    pub async fn delete(&self, key: Bytes) -> Result<DeleteReply, CallError> {
        let reply = self.call(key, &Operation::Delete, self.write_timeout).await?;
        let Answer::Deleted { existed, version } = decode_answer(&reply)? else { return Err(unexpected(&reply)) };
        Ok(DeleteReply { node: reply.node, existed, version })
    }

    async fn call(&self, key: Bytes, operation: &Operation<'_>, timeout: Duration) -> Result<Reply, CallError> {
        check_key(&key)?;
        let size_hint = if let Operation::Set { value, .. } = operation { value.len() } else { 0 };
        let payload = encode(operation, size_hint)?;
        self.caller.call(key, operation.name(), payload, timeout).await
    }
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
