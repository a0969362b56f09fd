//! A node from settings: opens the ring's bucket on two connections, its own or shared ones, and starts.
//!
//! In: where NATS is, or connections to it; names, the service. Out: a running [`Ring`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::meta::MetaError;
use super::parts::{Copying, CreatedWith, NodeParts, Returning};
use super::ring::Ring;
use super::run::NodeError;
use crate::connect::{ConnectError, ConnectOptions, Connections, Nats};
use crate::coord::StoreError;
use crate::coord::nats::NatsStore;
use crate::ring::Timing;
use crate::rpc::nats::NatsBus;
use crate::rpc::server::{RequestObserver, ServerLimits, Unobserved};
use crate::service::Service;
use crate::types::{BootClock, Chance, Clock, KeyHash, NodeName, PartitionCount, Process, RingName};

/// Default length of the lease.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(3);
/// Timers tick in milliseconds.
const BEAT_MIN: Duration = Duration::from_millis(1);
/// Between two attempts to read the bucket at the start, each of which may take seconds itself.
const START_PAUSE: Duration = Duration::from_millis(250);
const DEFAULT_STAGING_BYTES: usize = 256 * 1024 * 1024;

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// With this setting the node would never take part.
    #[error("{setting} {value} cannot be used: give {limit}")]
    Setting {
        /// Which one: the method of [`NodeBuilder`].
        setting: &'static str,
        /// What it was set to.
        value: String,
        /// What can be used.
        limit: &'static str,
    },
    /// NATS is not there, refuses, or will not do.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The ring's bucket cannot be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ring does not want this node.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Settings of a node. Every one but the names and the service has a default.
pub struct NodeBuilder {
    nats: Nats,
    ring: RingName,
    node: NodeName,
    zone: Option<String>,
    weight: u32,
    http: Option<String>,
    partitions: PartitionCount,
    key_hash: KeyHash,
    kv_replicas: Option<usize>,
    created_with: CreatedWith,
    timing: Timing,
    clock: Arc<dyn Clock>,
    staging_bytes: usize,
    copying: Copying,
    returning: Returning,
    queries: Vec<&'static str>,
    observer: Arc<dyn RequestObserver>,
}

impl NodeBuilder {
    /// A node of this name in the ring of that name: on connections of its own ([`ConnectOptions`]), or on
    /// [`Connections`] that it shares with other nodes and clients of this process.
    pub fn new(nats: impl Into<Nats>, ring: RingName, node: NodeName) -> Self {
        Self {
            nats: nats.into(),
            ring,
            node,
            zone: None,
            weight: 1,
            http: None,
            partitions: PartitionCount::DEFAULT,
            key_hash: KeyHash::default(),
            kv_replicas: None,
            created_with: CreatedWith::default(),
            timing: Timing::for_lease(DEFAULT_LEASE),
            clock: Arc::new(BootClock),
            staging_bytes: DEFAULT_STAGING_BYTES,
            copying: Copying::default(),
            returning: Returning::default(),
            queries: Vec::new(),
            observer: Arc::new(Unobserved),
        }
    }

    /// Failure zone.
    #[must_use]
    pub fn zone(mut self, zone: Option<String>) -> Self {
        self.zone = zone;
        self
    }

    /// Share of partitions relative to other nodes; 1 by default.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Where this process's HTTP listens, for people who look at the members.
    #[must_use]
    pub fn http(mut self, address: Option<String>) -> Self {
        self.http = address;
        self
    }

    /// Partitions of the ring, where this node is the first; 64 by default.
    #[must_use]
    pub fn partitions(mut self, partitions: PartitionCount) -> Self {
        self.partitions = partitions;
        self
    }

    /// How keys are mapped to partitions, where this node is the first; XXH3 by default.
    #[must_use]
    pub fn key_hash(mut self, key_hash: KeyHash) -> Self {
        self.key_hash = key_hash;
        self
    }

    /// Copies of the ring's bucket, where this node is the first.
    #[must_use]
    pub fn kv_replicas(mut self, replicas: Option<usize>) -> Self {
        self.kv_replicas = replicas;
        self
    }

    /// What the ring keeps to with its copies, where this node is the first. Later it is changed for the whole ring: see
    /// [`admin`](crate::admin).
    #[must_use]
    pub fn created_with(mut self, created_with: CreatedWith) -> Self {
        self.created_with = created_with;
        self
    }

    /// How long things may take, the lease above all.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// The clock; the system's by default.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Most bytes of state on their way to this node at once.
    #[must_use]
    pub fn staging_bytes(mut self, bytes: usize) -> Self {
        self.staging_bytes = bytes;
        self
    }

    /// Bounds of the copies that this node makes for others.
    #[must_use]
    pub fn copying(mut self, copying: Copying) -> Self {
        self.copying = copying;
        self
    }

    /// What is done for nodes that come back soon, this one included.
    #[must_use]
    pub fn returning(mut self, returning: Returning) -> Self {
        self.returning = returning;
        self
    }

    /// Who is told of every request that was answered here; nobody by default.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn RequestObserver>) -> Self {
        self.observer = observer;
        self
    }

    /// Plain subjects that any node answers by itself: see [`Ring::answer_queries`].
    #[must_use]
    pub fn queries(mut self, queries: Vec<&'static str>) -> Self {
        self.queries = queries;
        self
    }

    /// Connects, where it has no connections yet, and starts the node with this service.
    ///
    /// # Errors
    /// [`StartError`]: what is wrong and what to do about it.
    pub async fn start(self, service: Arc<dyn Service>) -> Result<Ring, StartError> {
        self.check()?;
        let nats = self.connections().await?;
        #[allow(clippy::disallowed_methods)] // The deadline of a wait that decides nothing.
        let deadline = Instant::now() + nats.data().wait();
        let store = NatsStore::open(nats.data(), &self.ring, self.kv_replicas).await?;
        let heartbeat_store = NatsStore::open(nats.heartbeat(), &self.ring, self.kv_replicas).await?;
        let parts = NodeParts {
            ring: self.ring,
            node: self.node,
            zone: self.zone,
            weight: self.weight,
            http: self.http,
            partitions: self.partitions,
            key_hash: self.key_hash,
            created_with: self.created_with,
            timing: self.timing,
            service,
            store: Arc::new(store),
            heartbeat_store: Arc::new(heartbeat_store),
            connected: nats.data().connected(),
            bus: Arc::new(NatsBus::new(nats.data().clone())),
            clock: self.clock,
            process: Process::real(),
            chance: Chance::real(),
            limits: ServerLimits::default(),
            staging_bytes: self.staging_bytes,
            copying: self.copying,
            returning: self.returning,
            queries: self.queries,
            observer: self.observer,
        };
        Ok(patiently(deadline, || Ring::start(parts.clone())).await?)
    }

    fn check(&self) -> Result<(), StartError> {
        let lease = self.timing.lease;
        let refused = |setting, value, limit| Err(StartError::Setting { setting, value, limit });
        if self.weight == 0 {
            return refused("weight", self.weight.to_string(), "1 or more");
        }
        if self.timing.beat() < BEAT_MIN {
            return refused("timing.lease", format!("{lease:?}"), "6 ms or more; 1 s or more outside of tests");
        }
        Ok(())
    }

    async fn connections(&self) -> Result<Connections, ConnectError> {
        let beat = self.timing.beat();
        match &self.nats {
            Nats::Own(options) => {
                let name = format!("{} {}", self.ring, self.node);
                Connections::open(&ConnectOptions { name, reconnect_delay_max: beat, ..(**options).clone() }).await
            }
            Nats::Shared(connections) => {
                let delay = connections.reconnect_delay_max();
                if delay > beat {
                    tracing::warn!(
                        ?delay,
                        ?beat,
                        "the shared connections may take longer to reconnect than a sixth of the lease"
                    );
                }
                Ok(connections.clone())
            }
        }
    }
}

/// Tries for as long as the bucket cannot be read: a stream whose leader is being elected answers nobody for some
/// seconds, and to wait for that is what the caller's patience with NATS is for.
async fn patiently<T, F>(deadline: Instant, start: impl Fn() -> F) -> Result<T, NodeError>
where
    F: Future<Output = Result<T, NodeError>>,
{
    loop {
        match start().await {
            Err(NodeError::Meta(MetaError::Store(reason))) if !is_over(deadline) => {
                tracing::info!(reason, "waiting for the ring's bucket");
            }
            started => return started,
        }
        tokio::time::sleep(START_PAUSE).await;
    }
}

#[allow(clippy::disallowed_methods)] // The deadline of a wait that decides nothing.
fn is_over(deadline: Instant) -> bool {
    Instant::now() >= deadline
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// It would wait for ever to be ready.
    #[test]
    fn a_weight_of_nothing_and_a_lease_too_short_for_a_heartbeat_are_refused_by_name() {
        let node = || {
            let (ring, node) = (RingName::new("r").unwrap(), NodeName::new("n").unwrap());
            NodeBuilder::new(ConnectOptions::new(["nats://localhost:4222"]), ring, node)
        };
        let lease = |ms| node().timing(Timing::for_lease(Duration::from_millis(ms)));
        assert!(node().check().is_ok() && lease(6).check().is_ok());
        let refused = |node: NodeBuilder| node.check().unwrap_err().to_string();
        assert_eq!(refused(node().weight(0)), "weight 0 cannot be used: give 1 or more");
        assert!(refused(lease(0)).starts_with("timing.lease 0ns cannot be used: give 6 ms or more"));
    }

    /// What comes of it where the bucket cannot be read for so long, and how long that takes.
    #[allow(clippy::disallowed_methods)] // The paused clock's.
    async fn started_after(unreadable: Duration, patience: Duration, refusal: MetaError) -> (bool, Duration) {
        let began = Instant::now();
        let outcome = patiently(began + patience, || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if began.elapsed() < unreadable { Err(refusal.clone().into()) } else { Ok(()) }
        });
        (outcome.await.is_ok(), began.elapsed())
    }

    /// Seed 3 of the campaign of real faults: started while its server was cut off from the stream's leader, a node ended.
    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_cannot_be_read_yet_is_waited_for_as_long_as_for_nats_and_one_that_refuses_is_not() {
        let (short, long) = (Duration::from_secs(10), Duration::from_secs(30));
        let unreadable = || MetaError::Store("no leader".to_owned());
        let (started, after) = started_after(short, long, unreadable()).await;
        assert!(started && after < short + Duration::from_secs(2), "{started} {after:?}");
        let (started, after) = started_after(long, short, unreadable()).await;
        assert!(!started && after < short + Duration::from_secs(2), "{started} {after:?}");
        let (started, after) = started_after(short, long, MetaError::Refused("not permitted".to_owned())).await;
        assert!(!started && after < Duration::from_secs(2), "{started} {after:?}");
    }
}
