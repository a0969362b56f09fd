//! What goes into the machine and what comes out: the whole surface between the pure ring and the world.

use std::time::Duration;

use super::event::{Event, Origin};
use crate::coord::{CasError, Key, Record, Revision, Update, WatchScope};
use crate::service::Release;
use crate::types::{Epoch, NodeId, PartitionId, Time};

/// Names one thing the machine asked for, so that its outcome finds the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// The owner asks the planned target to take over: everything up to the tail is with the target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Offer {
    /// What.
    pub partition: PartitionId,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// The revision of the owner's claim: where the target's claim must be set.
    pub revision: Revision,
    /// Who offers.
    pub from: NodeId,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Nothing but time.
    Wake,
    /// The state of the ring at the start of the watch or after a relist: applied as one unit.
    RingSnapshot(Vec<Update>),
    /// One record of the ring changed.
    RingChange(Update),
    /// The leases of the watch's scope; `all` where the scope is every lease.
    LeaseSnapshot {
        /// Whether the scope is every lease.
        all: bool,
        /// The leases.
        leases: Vec<Update>,
    },
    /// One lease changed.
    LeaseChange(Update),
    /// A compare-and-set has its outcome.
    Cas {
        /// Which.
        op: OpId,
        /// Its outcome.
        result: Result<Revision, CasError>,
    },
    /// A hook is done.
    Hook {
        /// Which.
        op: OpId,
        /// What it returned.
        result: Result<(), String>,
    },
    /// Requests for the partition are parked and none runs any more.
    Idle {
        /// Which.
        partition: PartitionId,
        /// At which epoch it was parked.
        epoch: Epoch,
    },
    /// Three quarters of the parked bound are taken.
    Pressure {
        /// Which.
        partition: PartitionId,
    },
    /// The state of a partition was streamed to the target of its move, or not.
    Transferred {
        /// Which.
        partition: PartitionId,
        /// The move's epoch.
        epoch: Epoch,
        /// Bytes acknowledged by the target.
        result: Result<u64, String>,
    },
    /// A peer offers a partition; its state has arrived whole.
    Offered {
        /// Answer by this.
        op: OpId,
        /// What is offered.
        offer: Offer,
    },
    /// The target refused an offer. (Acceptance shows as its claim.)
    OfferRefused {
        /// Which.
        partition: PartitionId,
        /// The move's epoch.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// The connection that carries requests and claims went up or down.
    Connection(bool),
    /// Another life of the store, or one that went back, or another generation in `meta`.
    StoreReset(String),
    /// Give everything away and leave.
    Drain,
    /// Every subscription was let go of.
    LetGone,
    /// Leave as on [`Input::Drain`]: something on this node is beyond repair.
    GiveUp(String),
}

/// How an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Drained: owns nothing, lease given up.
    Left,
    /// Asked to leave, but the drain did not finish in time; the lease is given up.
    DrainIncomplete,
    /// Evicted: may start again as a new incarnation.
    Evicted,
    /// The store is another one, or went back: may start again, under a new generation.
    StoreReset(String),
    /// The name is held by a live process.
    NameLive {
        /// Which incarnation holds it.
        holder: NodeId,
    },
    /// A hook met its limit; the lease is given up. The process must end, for the hook may still run.
    HookHung,
    /// Gave up; the lease is given up.
    GaveUp(String),
}

/// What to do. Actions of one step are carried out in order; none of them waits for the outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Compare-and-set, on the heartbeat's connection where `heartbeat`, else on the data connection.
    Cas {
        /// Outcome as [`Input::Cas`].
        op: OpId,
        /// Where.
        key: Key,
        /// At which revision.
        expected: Revision,
        /// What.
        record: Record,
        /// Which connection.
        heartbeat: bool,
        /// Subscribe to the partition's subject first, on the same connection: the acknowledgement proves it.
        subscribe: Option<PartitionId>,
        /// How long to wait for the acknowledgement.
        timeout: Duration,
    },
    /// Follow these leases from now on; yields [`Input::LeaseSnapshot`].
    WatchLeases(WatchScope),
    /// This node may act until then.
    OpenGate(Time),
    /// This node may not act.
    CloseGate,
    /// Who owns a partition, as far as known: for routing.
    Route {
        /// Which.
        partition: PartitionId,
        /// Its owner and epoch; `None` while it has none.
        owner: Option<(NodeId, Epoch)>,
    },
    /// Hold requests for the partition back; yields [`Input::Idle`] once none runs.
    Park {
        /// Which.
        partition: PartitionId,
        /// At which epoch.
        epoch: Epoch,
    },
    /// Execute requests for the partition, under the grant of this epoch.
    Serve {
        /// Which.
        partition: PartitionId,
        /// At which epoch.
        epoch: Epoch,
    },
    /// Send requests for the partition to its owner, those held back first.
    Forward {
        /// Which.
        partition: PartitionId,
    },
    /// The grant of the partition holds no longer.
    Revoke {
        /// Which.
        partition: PartitionId,
    },
    /// Let go of the partition's subject, without losing a message.
    Unsubscribe {
        /// Which.
        partition: PartitionId,
    },
    /// Restore what was handed over, if anything, then call `on_own`; yields [`Input::Hook`].
    OnOwn {
        /// Outcome as [`Input::Hook`].
        op: OpId,
        /// For these.
        grants: Vec<(PartitionId, Epoch)>,
        /// How they came.
        origin: Origin,
    },
    /// Call `on_release`; yields [`Input::Hook`].
    OnRelease {
        /// Outcome as [`Input::Hook`].
        op: OpId,
        /// For these.
        grants: Vec<(PartitionId, Epoch)>,
        /// Why.
        why: Release,
    },
    /// Stream the partition's state to the target; yields [`Input::Transferred`].
    Transfer {
        /// Which.
        partition: PartitionId,
        /// The move's epoch.
        epoch: Epoch,
        /// Where to.
        to: NodeId,
    },
    /// Tell the target that it may claim; may yield [`Input::OfferRefused`].
    SendOffer {
        /// Whom.
        to: NodeId,
        /// What.
        offer: Offer,
    },
    /// Answer a peer's offer.
    AnswerOffer {
        /// Which.
        op: OpId,
        /// Refusal with its reason, or acceptance.
        result: Result<(), String>,
    },
    /// Let go of every subscription that plain clients reach this node by, then have all peers know the owners there are
    /// now; yields [`Input::LetGone`].
    LetGo {
        /// The other members.
        peers: Vec<NodeId>,
    },
    /// What the service holds for the partition can go.
    Discard {
        /// Which.
        partition: PartitionId,
    },
    /// Tell whoever listens.
    Emit(Event),
    /// This incarnation is over.
    Finish(Outcome),
}
