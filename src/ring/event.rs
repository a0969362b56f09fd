//! What happens to a node and its ring, as typed events: the source of log lines and of whatever else listens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::service::Release;
use crate::types::{Epoch, Incarnation, NodeName, PartitionId};

/// How a partition came to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Nobody had it.
    Initial,
    /// Its owner is gone.
    Takeover,
    /// Handed over by its owner.
    Switch,
    /// Kept: this node's own move was abandoned.
    Abandoned,
}

/// What became of another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberChange {
    /// In the plan for the first time.
    Joined,
    /// Gives everything away.
    Draining,
    /// Not in the plan any more.
    Gone,
}

/// How it ended that a node's places were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacesEnd {
    /// It is back.
    Returned,
    /// It did not come back in time, or too few copies remained: they are made elsewhere.
    GivenUp,
}

/// Why a node is no longer in a partition's in-sync set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RemovalReason {
    /// It is not a member of the ring any more, in that incarnation.
    Gone,
    /// It did not acknowledge what it was sent.
    Silent,
    /// The plan wants the copy elsewhere.
    Unplanned,
}

/// Something an operator would want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This node holds its name.
    LeaseAcquired {
        /// Its new incarnation.
        incarnation: Incarnation,
    },
    /// The name is held by an incarnation that does not renew it: waiting for its lease to run out.
    LeaseWaiting {
        /// How long at the most.
        at_most: Duration,
    },
    /// No heartbeat got through for 3/4 of a lease: nothing is executed for now.
    Suspended,
    /// A heartbeat got through and nobody had evicted this node: it goes on, same epochs.
    Resumed {
        /// How long it was suspended.
        after: Duration,
    },
    /// This node was evicted: it owns nothing any more.
    LeaseLost {
        /// What was seen.
        reason: String,
    },
    /// This node evicted another.
    Evicted {
        /// Whom.
        node: NodeName,
        /// How long it had not renewed its lease.
        silent: Duration,
    },
    /// A member came, drains or went.
    Member {
        /// Who.
        node: NodeName,
        /// What.
        change: MemberChange,
    },
    /// A node is away and may come back: nobody else gets its places among the copies for now.
    PlacesKept {
        /// Who.
        node: NodeName,
        /// How many.
        places: usize,
        /// For how long.
        within: Duration,
    },
    /// A node's places are kept no longer.
    PlacesEnded {
        /// Whose.
        node: NodeName,
        /// Why.
        end: PlacesEnd,
    },
    /// This node began or ceased to write the plan.
    Coordinating(bool),
    /// This node wrote a plan.
    Planned {
        /// Its version.
        version: u64,
        /// Its members.
        members: usize,
        /// Partitions that change owner by it.
        moves: usize,
    },
    /// Operators changed what the planner is told.
    Config {
        /// Nothing moves between healthy members.
        paused: bool,
        /// Nodes that get nothing new.
        cordoned: BTreeSet<NodeName>,
        /// Where partitions are pinned to.
        pins: BTreeMap<PartitionId, NodeName>,
    },
    /// `config` cannot be read: this node goes on with the last one that could.
    ConfigRefused {
        /// Why.
        reason: String,
    },
    /// The planner refused: a defect, or bad input.
    PlanFailed {
        /// Why.
        reason: String,
    },
    /// This node serves a partition.
    Owned {
        /// Which.
        partition: PartitionId,
        /// At which epoch.
        epoch: Epoch,
        /// How it came here.
        origin: Origin,
    },
    /// This node ceased to own a partition.
    Released {
        /// Which.
        partition: PartitionId,
        /// Its epoch here.
        epoch: Epoch,
        /// Why.
        why: Release,
    },
    /// A planned move began here.
    MoveStarted {
        /// What.
        partition: PartitionId,
        /// Where to.
        to: NodeName,
    },
    /// A planned move is done: the target owns the partition.
    MoveFinished {
        /// What.
        partition: PartitionId,
        /// Where to.
        to: NodeName,
        /// From parking the first request until the target's claim was seen here.
        pause: Duration,
        /// Bytes of state handed over.
        bytes: u64,
    },
    /// A planned move was given up; it will be tried again.
    MoveAbandoned {
        /// What.
        partition: PartitionId,
        /// Where to.
        to: NodeName,
        /// Why.
        reason: String,
        /// For how long requests had been parked by then.
        pause: Duration,
    },
    /// A node is in the in-sync set of a partition owned here from now on.
    ReplicaAdded {
        /// Which partition.
        partition: PartitionId,
        /// Who.
        node: NodeName,
    },
    /// A node is not in the in-sync set of a partition owned here any more.
    ReplicaRemoved {
        /// Which partition.
        partition: PartitionId,
        /// Who.
        node: NodeName,
        /// Why.
        why: RemovalReason,
    },
    /// This node begins to make a whole copy of a partition for another node.
    CopyStarted {
        /// Which partition.
        partition: PartitionId,
        /// For whom.
        to: NodeName,
        /// About how much there is to send, where the service says.
        of_bytes: Option<u64>,
    },
    /// The copy is there; the writes since its beginning follow.
    CopyDone {
        /// Which partition.
        partition: PartitionId,
        /// For whom.
        to: NodeName,
        /// What was sent.
        bytes: u64,
        /// How long that took.
        took: Duration,
    },
    /// The copy was given up. It begins anew where it is still wanted.
    CopyFailed {
        /// Which partition.
        partition: PartitionId,
        /// For whom.
        to: NodeName,
        /// What was acknowledged of it.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// While the copy arrived, live entries had to make room at the node it was made for: its memory is too small.
    CopyShort {
        /// Which partition.
        partition: PartitionId,
        /// Where.
        to: NodeName,
        /// How many entries, of whichever partitions that node holds.
        evicted: u64,
        /// What this node, the owner, holds of the partition.
        wanted_bytes: u64,
        /// What all that is held there may take.
        bound_bytes: u64,
    },
    /// This node took a partition over and gathers its state from the surviving replicas.
    Recovering {
        /// Which.
        partition: PartitionId,
    },
    /// This node took a partition over, but what it has of it is no whole copy: another member goes on, if there is one.
    RecoveryFailed {
        /// Which.
        partition: PartitionId,
        /// Why.
        reason: String,
    },
    /// No copy of a partition survived.
    Lost {
        /// Which.
        partition: PartitionId,
        /// Whether it starts empty here; else it waits for operators to accept the loss.
        accepted: bool,
    },
    /// Nobody is left of the set of a partition, which may be cut off and go on by itself: this node starts it empty only then.
    StartsEmptyLater {
        /// Which.
        partition: PartitionId,
        /// From now.
        after: Duration,
    },
    /// The store went back, and sets of before may go on by themselves, cut off from it: this node plans nothing before all
    /// members of the last plan are here again, or so long.
    FormerSets {
        /// Who is not here yet; nobody where this node does not know who was in the ring.
        missing: Vec<NodeName>,
        /// At most.
        after: Duration,
    },
    /// A hook returned an error.
    HookFailed {
        /// `on_own` or `on_release`.
        hook: &'static str,
        /// For which partitions.
        partitions: Vec<PartitionId>,
        /// What it said.
        reason: String,
    },
    /// A hook runs for longer than expected.
    HookSlow {
        /// `on_own` or `on_release`.
        hook: &'static str,
        /// For which partitions.
        partitions: Vec<PartitionId>,
        /// For how long by now.
        running: Duration,
    },
    /// A hook met its limit: this node gives up its lease.
    HookHung {
        /// `on_own` or `on_release`.
        hook: &'static str,
        /// For which partitions.
        partitions: Vec<PartitionId>,
        /// The limit.
        limit: Duration,
    },
    /// Drain began.
    Draining,
    /// Nothing is owned any more and the lease is given up.
    Left,
    /// A background task ended and is started again.
    TaskRestarted {
        /// Its name.
        task: &'static str,
        /// Why it ended.
        reason: String,
        /// How often within the window.
        restarts: u32,
    },
}
