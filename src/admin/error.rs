//! Why an operator's command failed, with what to do about it.

use std::time::Duration;

use crate::connect::ConnectError;
use crate::types::{NodeName, PartitionCount, PartitionId, RingName};

/// Why an operator's command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No such ring on this NATS.
    #[error(
        "there is no ring '{ring}' on this NATS (bucket '{bucket}' {what}): check the ring's name, or start its first node"
    )]
    NoRing {
        /// Which.
        ring: RingName,
        /// Where it would be.
        bucket: String,
        /// `does not exist`, or `is empty`.
        what: &'static str,
    },
    /// NATS or JetStream did not do its part.
    #[error("the ring's bucket cannot be used: {0}")]
    Store(String),
    /// No answer in time.
    #[error("{what} took longer than {limit:?}: try again, or check JetStream with 'nats stream ls -a'")]
    Timeout {
        /// What was done.
        what: String,
        /// How long it may take.
        limit: Duration,
    },
    /// A record that the command depends on cannot be read.
    #[error("key '{key}' of the ring's bucket cannot be read: {reason}")]
    Unreadable {
        /// Which.
        key: String,
        /// Why.
        reason: String,
    },
    /// Others kept changing the same key.
    #[error("key '{key}' was changed by others {tries} times in a row: try again")]
    Contended {
        /// Which.
        key: String,
        /// How often it was tried.
        tries: u32,
    },
    /// A node nobody has heard of.
    #[error("there is no node '{node}' in this ring; it knows {}", names(known))]
    UnknownNode {
        /// As given.
        node: NodeName,
        /// Those there are.
        known: Vec<NodeName>,
    },
    /// A name that is in use.
    #[error("node '{node}' is a member of the ring already")]
    AlreadyMember {
        /// Which.
        node: NodeName,
    },
    /// A partition outside the ring's.
    #[error("there is no partition {partition}: this ring has {}, numbered from 0", partitions.get())]
    UnknownPartition {
        /// As given.
        partition: PartitionId,
        /// How many there are.
        partitions: PartitionCount,
    },
    /// The node does not run.
    #[error("node '{node}' is not live ({state}): only a running node can be drained, or taken away in a plan")]
    NotLive {
        /// Which.
        node: NodeName,
        /// What its lease says.
        state: &'static str,
    },
    /// Nobody could take what the node owns.
    #[error(
        "{} of the {owned} partitions of node '{node}' could be taken by nobody: what the node holds for them would be \
         lost; start another node first, or force it (drain --force)", stranded.len()
    )]
    NobodyElse {
        /// Which node.
        node: NodeName,
        /// How many it owns.
        owned: usize,
        /// Those without another node.
        stranded: Vec<PartitionId>,
    },
    /// The node did not acknowledge.
    #[error("node '{node}' did not acknowledge ({reason}): it may have restarted, be frozen, or of an older release")]
    NoAnswer {
        /// Which.
        node: NodeName,
        /// What was seen.
        reason: String,
    },
    /// The node ended in another way than by leaving.
    #[error("node '{node}' did not leave, it was {how}: what it had not handed over yet is taken over by others")]
    DrainBroken {
        /// Which.
        node: NodeName,
        /// `evicted`, or `restarted`.
        how: &'static str,
    },
    /// The drain goes on, but the time to watch it is over.
    #[error("node '{node}' still has {left} partitions after {limit:?}; its drain goes on")]
    DrainSlow {
        /// Which.
        node: NodeName,
        /// How many it still owns.
        left: usize,
        /// How long it was watched.
        limit: Duration,
    },
    /// The ring did not come to rest in time.
    #[error("the ring is not at rest after {limit:?}: {reason}")]
    Restless {
        /// How long it was watched.
        limit: Duration,
        /// What is missing.
        reason: String,
    },
    /// The planner refused its input.
    #[error("no plan can be made: {0}")]
    Plan(String),
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl AdminError {
    /// For scripts: one word per kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoRing { .. } => "no_ring",
            Self::Store(_) => "store",
            Self::Timeout { .. } => "timeout",
            Self::Unreadable { .. } => "unreadable",
            Self::Contended { .. } => "contended",
            Self::UnknownNode { .. } => "unknown_node",
            Self::AlreadyMember { .. } => "already_member",
            Self::UnknownPartition { .. } => "unknown_partition",
            Self::NotLive { .. } => "not_live",
            Self::NobodyElse { .. } => "nobody_else",
            Self::NoAnswer { .. } => "no_answer",
            Self::DrainBroken { .. } => "drain_broken",
            Self::DrainSlow { .. } => "drain_slow",
            Self::Restless { .. } => "restless",
            Self::Plan(_) => "plan",
            Self::Connect(_) => "connect",
        }
    }
}

fn names(known: &[NodeName]) -> String {
    let known: Vec<&str> = known.iter().map(NodeName::as_str).collect();
    if known.is_empty() { "none yet".to_owned() } else { known.join(", ") }
}
