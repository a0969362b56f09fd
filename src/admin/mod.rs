//! The operators' control plane: look at a ring and steer it, over a connection, without joining it.
//!
//! [`Admin`] reads the ring's bucket (`snapshot`) and writes one key of it, `config` (`steer`); a drain is asked of the
//! node itself, over its subject (`drain`), and so is what the bucket does not say (`told`). What would move is found by the nodes' own planner (`preview`). In: a
//! connection and the ring's name. Out: plain data that is JSON as it stands (`answers`).
//!
//! Nothing here decides about liveness by a clock: what the leases say, and whether they are renewed while one looks.

mod answers;
mod changes;
mod drain;
mod error;
mod overview;
mod preview;
mod reading;
mod state;
mod steer;
mod told;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;

use crate::connect::Connection;
use crate::coord::Store;
use crate::coord::nats::{NatsStore, bucket_name};
use crate::rpc::Bus;
use crate::rpc::nats::NatsBus;
use crate::types::{Consistency, Factor, NodeName, OnLoss, PartitionId, RingName};

pub use answers::{
    Change, ConfigView, DrainOptions, DrainStep, NodeOverview, NodeShare, NodeState, Overview, PartitionMove,
    PartitionOverview, PartitionStanding, PlacesKeptFor, Preview, Reason, RingEvent, Safety,
};
pub use error::AdminError;
pub use told::{SuspendedNode, Told};

use reading::{Observed, ended, entries};
use steer::Wish;

/// How long one command may take where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A handle on a ring for operators. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    ring: RingName,
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    timeout: Duration,
}

/// Steps of a drain, up to [`DrainStep::Left`] or an error.
pub type DrainSteps = BoxStream<'static, Result<DrainStep, AdminError>>;
/// Changes of a ring, one after the other; ends after [`RingEvent::StoreReset`], or when the connection is closed.
pub type RingEvents = BoxStream<'static, RingEvent>;

impl Admin {
    /// Opens a ring that exists. Nothing is created, nothing joins.
    ///
    /// # Errors
    /// [`AdminError::NoRing`] where there is none of this name.
    pub async fn open(connection: &Connection, ring: &RingName) -> Result<Self, AdminError> {
        let found = NatsStore::find(connection, ring).await.map_err(|error| AdminError::Store(error.to_string()))?;
        let what = "does not exist";
        let none = || AdminError::NoRing { ring: ring.clone(), bucket: bucket_name(ring), what };
        let store = Arc::new(found.ok_or_else(none)?);
        Self::over(ring.clone(), store, Arc::new(NatsBus::new(connection.clone()))).await
    }

    /// The same over any store and bus.
    ///
    /// # Errors
    /// [`AdminError::NoRing`] where no node has ever started there.
    pub async fn over(ring: RingName, store: Arc<dyn Store>, bus: Arc<dyn Bus>) -> Result<Self, AdminError> {
        let admin = Self { ring, store, bus, timeout: TIMEOUT };
        admin.read().await?;
        Ok(admin)
    }

    /// How long one command may take; 10 s by default. Observation and the watching of a drain come on top.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The ring's name.
    pub fn ring(&self) -> &RingName {
        &self.ring
    }

    /// The ring as it is. With `observe` above zero, nodes are watched for that long at the most whether they renew
    /// their leases: those that do not for half a lease or more are suspects. It ends as soon as all did.
    ///
    /// # Errors
    /// [`AdminError`] where the bucket cannot be read.
    pub async fn overview(&self, observe: Duration) -> Result<Overview, AdminError> {
        let (state, observed) = match observe {
            Duration::ZERO => (self.read().await?, Observed::default()),
            limit => self.observe(limit).await?,
        };
        Ok(overview::overview(&self.ring, &state, &observed))
    }

    /// Keeps new partitions from a node; it keeps what it has.
    ///
    /// # Errors
    /// [`AdminError::UnknownNode`], or where the bucket cannot be written.
    pub async fn cordon(&self, node: &NodeName) -> Result<Change, AdminError> {
        self.wish(Wish::Cordon(node)).await
    }

    /// Gives a node its share again.
    ///
    /// # Errors
    /// As [`Admin::cordon`].
    pub async fn uncordon(&self, node: &NodeName) -> Result<Change, AdminError> {
        self.wish(Wish::Uncordon(node)).await
    }

    /// Stops moves between healthy members. Moves under way end; drains and crashes still find new owners.
    ///
    /// # Errors
    /// Where the bucket cannot be written.
    pub async fn pause(&self) -> Result<Change, AdminError> {
        self.wish(Wish::Pause).await
    }

    /// Balances again, at once.
    ///
    /// # Errors
    /// Where the bucket cannot be written.
    pub async fn resume(&self) -> Result<Change, AdminError> {
        self.wish(Wish::Resume).await
    }

    /// Moves a partition to a node, where it stays while the node can own it.
    ///
    /// # Errors
    /// [`AdminError::UnknownNode`], [`AdminError::UnknownPartition`], or where the bucket cannot be written.
    pub async fn pin(&self, partition: PartitionId, node: &NodeName) -> Result<Change, AdminError> {
        self.wish(Wish::Pin(partition, node)).await
    }

    /// Leaves a partition to the planner again.
    ///
    /// # Errors
    /// [`AdminError::UnknownPartition`], or where the bucket cannot be written.
    pub async fn unpin(&self, partition: PartitionId) -> Result<Change, AdminError> {
        self.wish(Wish::Unpin(partition)).await
    }

    /// Asks for so many copies of each partition, the owner's included. Never more are kept than there are nodes.
    ///
    /// # Errors
    /// Where the bucket cannot be written.
    pub async fn set_replicas(&self, replicas: Factor) -> Result<Change, AdminError> {
        self.wish(Wish::Replicas(replicas)).await
    }

    /// Sets what has to have a write before it is answered, for requests that do not say.
    ///
    /// # Errors
    /// Where the bucket cannot be written.
    pub async fn set_consistency(&self, consistency: Consistency) -> Result<Change, AdminError> {
        self.wish(Wish::Consistency(consistency)).await
    }

    /// Sets what becomes of a partition whose copies are all gone; also of those that wait already.
    ///
    /// # Errors
    /// Where the bucket cannot be written.
    pub async fn set_on_loss(&self, on_loss: OnLoss) -> Result<Change, AdminError> {
        self.wish(Wish::OnLoss(on_loss)).await
    }

    /// Waits until the plan was made with the present configuration, nobody joins or drains, and every claim is as
    /// planned, copies included: what follows a change has been carried out then.
    ///
    /// # Errors
    /// [`AdminError::Restless`] after `limit`.
    pub async fn wait_at_rest(&self, limit: Duration) -> Result<Overview, AdminError> {
        let (mut state, mut items) = self.follow().await?;
        let mut last = String::new();
        let rest = async {
            loop {
                let seen = overview::overview(&self.ring, &state, &Observed::default());
                let reason = preview::restlessness(&seen, None).into_iter().next().or_else(|| preview::copying(&seen));
                let Some(reason) = reason else { return Ok(seen) };
                last = reason.message;
                let item = items.next().await.ok_or_else(ended)?;
                entries(item)?.iter().for_each(|entry| _ = state.apply(entry));
            }
        };
        let rested = tokio::time::timeout(limit, rest).await;
        rested.unwrap_or(Err(AdminError::Restless { limit, reason: last }))
    }
}
