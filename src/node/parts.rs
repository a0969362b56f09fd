//! What a node is made of: handed in by whoever starts it, so that tests hand in twins.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;

use super::Ring;
use crate::coord::Store;
use crate::ring::Timing;
use crate::rpc::Bus;
use crate::rpc::server::{RequestObserver, ServerLimits};
use crate::service::{Service, ServiceError};
use crate::types::{
    Chance, Clock, Consistency, Factor, Generation, KeyHash, NodeName, OnLoss, PartitionCount, Process, RingName,
};

/// Everything around the ring's machine.
#[derive(Clone)]
pub struct NodeParts {
    /// Name of the ring.
    pub ring: RingName,
    /// Name of the node.
    pub node: NodeName,
    /// Failure zone, if any.
    pub zone: Option<String>,
    /// Share relative to other nodes.
    pub weight: u32,
    /// Where its HTTP listens, if it does.
    pub http: Option<String>,
    /// Partitions of the ring, if this node creates it; must agree with the ring's if not.
    pub partitions: PartitionCount,
    /// Key hash of the ring, likewise.
    pub key_hash: KeyHash,
    /// What the ring keeps to with its copies, if this node creates it.
    pub created_with: CreatedWith,
    /// How long things may take.
    pub timing: Timing,
    /// What runs on the ring.
    pub service: Arc<dyn Service>,
    /// The coordination store, on the data connection.
    pub store: Arc<dyn Store>,
    /// The same on a connection of its own, so that bulk data does not delay heartbeats.
    pub heartbeat_store: Arc<dyn Store>,
    /// Core NATS, on the data connection.
    pub bus: Arc<dyn Bus>,
    /// Whether the data connection is up.
    pub connected: watch::Receiver<bool>,
    /// Monotonic time.
    pub clock: Arc<dyn Clock>,
    /// What its tasks run under.
    pub process: Process,
    /// Where identifiers and jitter come from.
    pub chance: Chance,
    /// Bounds of request execution.
    pub limits: ServerLimits,
    /// Told of every request that was answered here.
    pub observer: Arc<dyn RequestObserver>,
    /// Most bytes of state on their way here at once.
    pub staging_bytes: usize,
    /// Bounds of the copies that this node makes for others.
    pub copying: Copying,
    /// What is done for nodes that come back soon.
    pub returning: Returning,
    /// Plain subjects that any node answers by itself, once [`super::Ring::answer_queries`] was called.
    pub queries: Vec<&'static str>,
}

/// What a ring is created with that operators may change while it runs. What is not given has its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CreatedWith {
    /// Copies of each partition, the owner's included.
    pub replicas: Option<Factor>,
    /// What has to have a write before it is answered, where the request does not say.
    pub consistency: Option<Consistency>,
    /// What becomes of a partition whose copies are all gone.
    pub on_loss: Option<OnLoss>,
}

/// What making copies of partitions for other nodes may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copying {
    /// Copies made at once.
    pub parallel: usize,
    /// Bytes sent a second, by all of them together.
    pub bytes_per_second: u64,
}

impl Default for Copying {
    fn default() -> Self {
        Self { parallel: 4, bytes_per_second: 100 * 1000 * 1000 }
    }
}

/// What is done so that a node that comes back soon is brought up to date by what it missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returning {
    /// For so long an owner keeps the writes that a node missed which left one of its sets, and a node that comes back keeps
    /// what nobody wants there yet. Zero: nothing is kept, and every copy begins anew.
    pub delay: Duration,
    /// What an owner keeps for such nodes of all its partitions together, in bytes; what was kept for longest goes first.
    pub max_bytes: usize,
    /// Where a node that drains leaves its copies for the next process of its name; `None`: it leaves none.
    pub keep: Option<PathBuf>,
    /// For so long nobody else gets this node's places among the copies once it was evicted: frozen or cut off, it comes back
    /// with what it had. Those of a node that left with `keep` set wait for [`Returning::delay`].
    pub evicted_delay: Duration,
}

impl Default for Returning {
    fn default() -> Self {
        Self { delay: Duration::from_secs(30), max_bytes: 256 * 1024 * 1024, keep: None, evicted_delay: Duration::ZERO }
    }
}

/// Answers plain questions that any node can answer by itself: `<ring>.<query>`.
pub trait Queries: Send + Sync + 'static {
    /// The answer to one of [`NodeParts::queries`], as text. `ring` is the node that was asked: whoever answers need not
    /// hold it, and must not, for a node drains when its last handle is dropped.
    ///
    /// # Errors
    /// [`ServiceError`] where the question is malformed, or cannot be answered now.
    fn answer(&self, ring: &Ring, query: &str, payload: &[u8]) -> Result<Bytes, ServiceError>;
}

/// What the ring's `meta` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingShape {
    /// The ring's random number.
    pub nonce: Uuid,
    /// Store generation.
    pub generation: Generation,
    /// How many partitions.
    pub partitions: PartitionCount,
    /// How keys map to them.
    pub key_hash: KeyHash,
}
