//! What a service implements to run on the ring: hooks as ownership moves, requests for keys it owns, and the grant
//! that says for how long.

mod changes;
mod grant;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use changes::{ChangeLog, Copies, NotCommitted};
pub use grant::{Gate, Grant, Validity};

use crate::replica::Change;
use crate::types::PartitionId;

/// Any error of a service.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a partition is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Planned: still the owner, requests are parked, flush now.
    Handoff,
    /// Lost: no longer the owner, another node may already be; must not write.
    Lost,
}

/// In which form a request came, and its answer goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// From a plain NATS client: text that a person or any program can read, JSON for the cache.
    Plain,
    /// From this library: the service's own encoding.
    Native,
}

/// A request for one key of a partition that this node owns.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to do: last token of the subject.
    pub operation: String,
    /// The key, raw.
    pub key: Bytes,
    /// The rest, in the given form.
    pub payload: Bytes,
    /// The form of the payload and of the answer.
    pub form: Form,
    /// How much time its caller still gives it, as far as is known here.
    pub remaining: Duration,
}

/// A refusal or failure of a service, as its callers see it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{message}")]
pub struct ServiceError {
    /// Short, stable, for programs: `bad_request`, `too_large`, …
    pub code: String,
    /// For people: what happened, to which field, which limit.
    pub message: String,
}

impl ServiceError {
    /// An error with this code and message.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// Chunks of a partition's state. Each fits one message.
pub type Chunks = BoxStream<'static, Result<Bytes, BoxError>>;

/// A service that shards its work by key.
///
/// Per partition the calls of `on_own`, `restore`, `snapshot` and `on_release` never overlap and come in epoch order.
/// Each has a deadline (`hook_limit`): one that hangs is reported, then the node gives up its lease.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Owned from now on, not yet served. Must be idempotent. An error gives the partitions back.
    async fn on_own(&self, grants: &[Grant]) -> Result<(), BoxError>;

    /// Handoff: still owner, flush now. Lost: no longer owner, must not write. An error of a handoff is reported; the
    /// handoff goes on.
    async fn on_release(&self, grants: &[Grant], why: Release) -> Result<(), BoxError>;

    /// Executes one request. Calls overlap. The grant was current when the call began; or, of a service that replicates,
    /// its node is suspended and the answer is handed out once all copies have confirmed that it still owned.
    async fn handle(&self, grant: &Grant, request: Request) -> Result<Bytes, ServiceError>;

    /// The operations that plain NATS clients may ask for: `<ring>.<operation>`, or with the key in the subject,
    /// `<ring>.key.<operation>.<key>`. None by default.
    fn operations(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Whether the operation changes nothing, so that one without an answer can be asked for again. No, by default.
    fn only_reads(&self, operation: &str) -> bool {
        let _ = operation;
        false
    }

    /// The key of a plain client's request. By default the field `key` of a JSON object.
    ///
    /// # Errors
    /// [`ServiceError`] where there is none, or the request is malformed: refused before it is routed.
    fn plain_key(&self, operation: &str, payload: &[u8]) -> Result<Bytes, ServiceError> {
        #[derive(serde::Deserialize)]
        struct Keyed {
            key: String,
        }
        let keyed: Keyed = serde_json::from_slice(payload).map_err(|e| {
            ServiceError::new("bad_request", format!("{operation}: expected JSON with a field \"key\": {e}"))
        })?;
        Ok(Bytes::from(keyed.key))
    }

    /// The payload of a plain client's request whose key stands in the subject, `<ring>.key.<operation>.<key>`: what
    /// [`Service::handle`] is to get, in the form it gets from `<ring>.<operation>`. `headers` are the message's. By
    /// default what came, as it is: the key is in [`Request::key`] in either case.
    ///
    /// # Errors
    /// [`ServiceError`] where the request is malformed: refused before it is routed.
    fn keyed_payload(
        &self,
        operation: &str,
        key: &str,
        payload: Bytes,
        headers: &[(String, String)],
    ) -> Result<Bytes, ServiceError> {
        let _ = (operation, key, headers);
        Ok(payload)
    }

    /// The state to hand over with a partition, called after `on_release(Handoff)`; `max_bytes` is the most a chunk
    /// may have. Empty by default: the service has no state here. In a rolling upgrade the taking side may run an older
    /// or newer program: begin with a version, so that it can refuse what it would misread.
    async fn snapshot(&self, grant: &Grant, max_bytes: usize) -> Result<Chunks, BoxError> {
        let _ = (grant, max_bytes);
        Ok(Box::pin(futures::stream::empty()))
    }

    /// Takes the state handed over, before `on_own` of the same grant. Replaces what was there. `waited` is the time since
    /// the last chunk was asked of the giving side's [`Service::snapshot`], less one message's way.
    async fn restore(&self, grant: &Grant, chunks: Vec<Bytes>, waited: Duration) -> Result<(), BoxError> {
        let _ = (grant, chunks, waited);
        Ok(())
    }

    /// Whether the ring keeps copies of its partitions on further nodes. Then every change goes through [`Grant::log`], a
    /// move needs no pause for its state, and what a lost owner held is with its successor. No, by default.
    ///
    /// Such a service holds partitions as copies too, one call at a time for each: [`Service::clear`] begins a copy,
    /// [`Service::copy_chunk`] and [`Service::copy_changes`] fill and follow it. `on_own` finds what is held then to be right; `follow`
    /// says that an owner's turn is over and its state is a copy from now on.
    fn replicates(&self) -> bool {
        false
    }

    /// Forget what is held for the partition: it begins anew, empty, as a copy or for a first owner. Returns soon.
    fn clear(&self, partition: PartitionId) {
        let _ = partition;
    }

    /// The partition's owner is another node from now on; what is held stays as a copy.
    fn follow(&self, partition: PartitionId) {
        let _ = partition;
    }

    /// Changes that the owner made, in their order. One that is older than what is there already is passed over. Returns
    /// soon; nothing is acknowledged before.
    ///
    /// # Errors
    /// The copy is useless then, and begins anew.
    fn copy_changes(&self, partition: PartitionId, changes: &[Change]) -> Result<(), BoxError> {
        let _ = (partition, changes);
        Ok(())
    }

    /// One chunk of the owner's [`Service::snapshot`], `age` after it was made. Newer than that what is there stays.
    ///
    /// # Errors
    /// The copy is useless then, and begins anew.
    fn copy_chunk(&self, partition: PartitionId, chunk: Bytes, age: Duration) -> Result<(), BoxError> {
        let _ = (partition, chunk, age);
        Ok(())
    }

    /// Ownership was lost or handed over, and everything about it is done: what is held for it can go.
    async fn discard(&self, partition: PartitionId) {
        let _ = partition;
    }
}
