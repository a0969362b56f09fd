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
use crate::types::{Once, PartitionId};

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
    /// Its name, where it may come more than once: a service that knows what it has executed answers that again.
    pub once: Option<Once>,
}

/// Code of a request for which too few copies are in sync: nothing was executed. Soon there may be more, so a router tries
/// for a while.
pub const NOT_ENOUGH_REPLICAS: &str = "not_enough_replicas";
/// Code of a request whose outcome the service itself does not know.
pub const UNKNOWN: &str = "unknown";
/// Code of a request under the name of another one, which was executed: this one was not.
pub const REQUEST_ID_REUSED: &str = "request_id_reused";

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

/// The memory that a service has at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What all that is held may take.
    pub bound_bytes: u64,
    /// Live entries that had to make room, since the process started.
    pub evicted: u64,
}

/// Chunks of a partition's state. Each fits one message.
pub type Chunks = BoxStream<'static, Result<Bytes, BoxError>>;

/// Chunks of a copy. See [`Service::copy_chunks`].
pub type CopyChunks = Box<dyn Iterator<Item = Result<Bytes, BoxError>> + Send>;

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
    /// Such a service keeps what it holds when it is told of a release, lost or not: what becomes of that, the three below say. It
    /// holds partitions as copies too, one call at a time for each: [`Service::clear`] begins a copy,
    /// [`Service::copy_chunk`] and [`Service::copy_changes`] fill and follow it. `on_own` finds what is held then to be right; `follow`
    /// says that an owner's turn is over and its state is a copy from now on: also after `on_release(Lost)`, which leaves it as it
    /// is, for a node that comes back soon goes on from there.
    fn replicates(&self) -> bool {
        false
    }

    /// Forget what is held for the partition: nothing of it belongs here any more, or it begins anew, empty, as a copy or for a first
    /// owner. Returns soon, and has forgotten by then: what comes next stays.
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

    /// A copy that is held here, in chunks as [`Service::copy_chunk`] takes them, each of about `chunk_bytes`: to be kept while the
    /// process is away. Read by a thread of its own, as nothing is written to the copy any more. `None`, by default: it cannot be.
    fn copy_chunks(&self, partition: PartitionId, chunk_bytes: usize) -> Option<CopyChunks> {
        let _ = (partition, chunk_bytes);
        None
    }

    /// How much is held for the partition: about what [`Service::snapshot`] makes of it, so that whoever waits for a copy sees
    /// how far it is. `None`, by default: not known.
    fn held_bytes(&self, partition: PartitionId) -> Option<u64> {
        let _ = partition;
        None
    }

    /// What all partitions held here may take, and how often that was too little. `None`, by default: there is no bound.
    fn memory(&self) -> Option<Memory> {
        None
    }

    /// Ownership was lost or handed over, and everything about it is done: what is held for it can go. Where copies are kept,
    /// [`Service::clear`] says so instead.
    async fn discard(&self, partition: PartitionId) {
        let _ = partition;
    }
}
