//! The operators' control plane: look at a ring and steer it, over a connection, without joining it.
//!
//! [`Admin`] reads the ring's bucket (`snapshot`) and writes one key of it, `config` (`steer`); a drain is asked of the
//! node itself, over its subject (`drain`). What would move is found by the nodes' own planner (`preview`). In: a
//! connection and the ring's name. Out: plain data that is JSON as it stands (`answers`).
//!
//! Nothing here decides about liveness by a clock: what the leases say, and whether they are renewed while one looks.

mod answers;
mod error;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;

use crate::connect::Connection;
use crate::coord::Store;
use crate::rpc::Bus;
use crate::types::{NodeName, PartitionId, RingName};

pub use answers::{
    Change, ConfigView, DrainOptions, DrainStep, NodeOverview, NodeShare, NodeState, Overview, PartitionMove,
    PartitionOverview, PartitionStanding, Preview, Reason, RingEvent, Safety,
};
pub use error::AdminError;

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
/// Changes of a ring, one after the other; ends after [`RingEvent::StoreReset`].
pub type RingEvents = BoxStream<'static, RingEvent>;

fn later<T>() -> Result<T, AdminError> {
    Err(AdminError::Store("not built yet".to_owned()))
}

impl Admin {
    /// Opens a ring that exists. Nothing is created, nothing joins.
    ///
    /// # Errors
    /// [`AdminError::NoRing`] where there is none of this name.
    pub async fn open(_connection: &Connection, _ring: &RingName) -> Result<Self, AdminError> {
        later()
    }

    /// How long one command may take; 10 s by default. Observation and the watching of a drain come on top.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The ring as it is. With `observe` above zero, nodes are watched for that long at the most whether they renew
    /// their leases: those that do not for half a lease or more are suspects.
    ///
    /// # Errors
    /// [`AdminError`] where the bucket cannot be read.
    pub async fn overview(&self, _observe: Duration) -> Result<Overview, AdminError> {
        later()
    }

    /// Keeps new partitions from a node; it keeps what it has.
    ///
    /// # Errors
    /// [`AdminError::UnknownNode`], or where the bucket cannot be written.
    pub async fn cordon(&self, _node: &NodeName) -> Result<Change, AdminError> {
        later()
    }

    /// Gives a node its share again.
    ///
    /// # Errors
    /// As [`Admin::cordon`].
    pub async fn uncordon(&self, _node: &NodeName) -> Result<Change, AdminError> {
        later()
    }

    /// Stops moves between healthy members.
    ///
    /// # Errors
    /// Where the bucket cannot be written.
    pub async fn pause(&self) -> Result<Change, AdminError> {
        later()
    }

    /// Balances again, at once.
    ///
    /// # Errors
    /// Where the bucket cannot be written.
    pub async fn resume(&self) -> Result<Change, AdminError> {
        later()
    }

    /// Moves a partition to a node, where it stays while the node can own it.
    ///
    /// # Errors
    /// [`AdminError::UnknownNode`], [`AdminError::UnknownPartition`], or where the bucket cannot be written.
    pub async fn pin(&self, _partition: PartitionId, _node: &NodeName) -> Result<Change, AdminError> {
        later()
    }

    /// Leaves a partition to the planner again.
    ///
    /// # Errors
    /// [`AdminError::UnknownPartition`], or where the bucket cannot be written.
    pub async fn unpin(&self, _partition: PartitionId) -> Result<Change, AdminError> {
        later()
    }

    /// Waits until the plan was made with the present configuration and every claim is as planned.
    ///
    /// # Errors
    /// [`AdminError::Restless`] after `limit`.
    pub async fn wait_at_rest(&self, _limit: Duration) -> Result<Overview, AdminError> {
        later()
    }

    /// Asks a node to give everything away and to end; the steps tell how far it is. The request is acknowledged once
    /// this returns.
    ///
    /// # Errors
    /// [`AdminError::NotLive`], [`AdminError::NobodyElse`] unless forced, [`AdminError::NoAnswer`].
    pub async fn drain(&self, _node: &NodeName, _options: DrainOptions) -> Result<DrainSteps, AdminError> {
        later()
    }

    /// What would move if this node left.
    ///
    /// # Errors
    /// [`AdminError::UnknownNode`].
    pub async fn plan_without(&self, _node: &NodeName) -> Result<Preview, AdminError> {
        later()
    }

    /// What would move if a node of this name, zone and weight joined.
    ///
    /// # Errors
    /// [`AdminError::AlreadyMember`].
    pub async fn plan_with(&self, _node: &NodeName, _zone: Option<&str>, _weight: u32) -> Result<Preview, AdminError> {
        later()
    }

    /// Whether this node may be stopped (TERM, then wait for its end) without anything being lost or refused: the
    /// question between two steps of a rolling restart.
    ///
    /// # Errors
    /// [`AdminError::UnknownNode`].
    pub async fn safe_to_stop(&self, _node: &NodeName) -> Result<Safety, AdminError> {
        later()
    }

    /// Changes from now on; the first item is [`RingEvent::Watching`].
    ///
    /// # Errors
    /// Where the bucket cannot be watched.
    pub async fn watch(&self) -> Result<RingEvents, AdminError> {
        later()
    }

    /// The ring's name.
    pub fn ring(&self) -> &RingName {
        &self.ring
    }
}
