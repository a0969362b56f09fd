//! What a machine is told when it is made: who it is, and how long things may take.

use std::time::Duration;

use uuid::Uuid;

use crate::types::{Generation, Incarnation, NodeId, NodeName, PartitionCount};

/// Who this node is in the ring.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name.
    pub node: NodeName,
    /// Fresh and random: becomes part of the incarnation.
    pub incarnation_id: Uuid,
    /// The store generation to act under.
    pub generation: Generation,
    /// How many partitions the ring has.
    pub partitions: PartitionCount,
    /// Failure zone, if any.
    pub zone: Option<String>,
    /// Share relative to other nodes.
    pub weight: u32,
    /// Where its HTTP listens, if it does.
    pub http: Option<String>,
    /// The program's version.
    pub version: String,
    /// Whether its service keeps copies of partitions it does not own.
    pub replicates: bool,
    /// What this process knew before, if it was in the ring.
    pub former: Option<Former>,
}

/// What a life remembers of those before it: who was in the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// Of the newest plan it knew.
    pub generation: Generation,
    /// That plan's.
    pub version: u64,
    /// That plan's members, and who was gone by it while claims named them: evicted, they may still serve, cut off with their set.
    pub members: Vec<NodeId>,
    /// What it was itself then.
    pub was: Incarnation,
}

/// How long things may take.
#[derive(Debug, Clone)]
pub struct Timing {
    /// The node's lease: heartbeats every sixth of it, act until three quarters, evicted after the whole.
    pub lease: Duration,
    /// How long the coordinator waits for more nodes after it saw a new one.
    pub join_debounce: Duration,
    /// How long a partition may stay parked in a move before the move is abandoned.
    pub move_timeout: Duration,
    /// When a running hook is reported.
    pub hook_slow: Duration,
    /// When a running hook costs the node its lease.
    pub hook_limit: Duration,
    /// How long a node that owns nothing any more goes on forwarding at the least.
    pub linger: Duration,
    /// How long it may take to let go of all subscriptions and to have all peers know.
    pub let_go_limit: Duration,
    /// How long a drain may take altogether.
    pub drain_timeout: Duration,
    /// How many partitions a node gives away at once.
    pub parallel_moves: usize,
    /// First pause after a failed `on_own` or an abandoned move; doubles up to [`Timing::backoff_max`].
    pub backoff: Duration,
    /// Longest such pause.
    pub backoff_max: Duration,
    /// For how long the others keep this node's places among the copies once it has left, for it comes back with them. Zero: its
    /// copies are made anew, elsewhere, before it leaves.
    pub returns_after_leaving: Duration,
    /// The same once it was evicted. Zero: they are made anew at once.
    pub returns_after_eviction: Duration,
}

impl Timing {
    /// The defaults for a lease of this length.
    pub fn for_lease(lease: Duration) -> Self {
        Self {
            lease,
            join_debounce: Duration::from_millis(500),
            // Below what plain clients wait: what was parked at its start is still answered.
            move_timeout: Duration::from_secs(3),
            hook_slow: Duration::from_secs(2),
            hook_limit: Duration::from_secs(30),
            linger: Duration::from_millis(250),
            let_go_limit: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(60),
            parallel_moves: 4,
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(60),
            returns_after_leaving: Duration::ZERO,
            returns_after_eviction: Duration::ZERO,
        }
    }

    /// Time between heartbeats, their time-out, and the longest reconnect delay: a sixth of the lease.
    pub fn beat(&self) -> Duration {
        self.lease / 6
    }

    /// How long after sending an acknowledged heartbeat the node may act: three quarters of the lease.
    pub fn act(&self) -> Duration {
        self.lease * 3 / 4
    }

    /// How long after sending an acknowledged heartbeat the node may go on with what its copies confirm: ten leases, a ratio
    /// that all nodes know.
    pub fn suspend_limit(&self) -> Duration {
        self.lease * 10
    }

    /// How long whoever begins anew, with nobody's copy, waits for a set that may still go on by itself: longer than
    /// [`Timing::suspend_limit`] of a clock that goes 5 % slower.
    pub fn set_ends_after(&self) -> Duration {
        self.lease * 11
    }

    /// The pause before the next try after this many failures in a row.
    pub fn backoff_after(&self, failures: u32) -> Duration {
        self.backoff.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.backoff_max)
    }
}
