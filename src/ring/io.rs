//! What goes into the machine and what comes out: the whole surface between the pure ring and the world.

use std::time::Duration;

use super::event::{Event, Origin};
use crate::coord::{CasError, Key, Record, Revision, Update, WatchScope};
use crate::service::Release;
use crate::types::{Consistency, Epoch, NodeId, PartitionId, Time};

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
    /// The in-sync set, which the target is in: what its claim records. Empty where the state was sent instead.
    pub replicas: Vec<NodeId>,
}

/// Who has copies of a partition, as its owner is to hold it: whole, each time anything of it changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CopySet {
    /// The recorded set, the owner first.
    pub in_sync: Vec<NodeId>,
    /// The set that is being recorded instead. Until it is known which of the two is, both have to have each write.
    pub pending: Option<Vec<NodeId>>,
    /// Who is to be brought up to date.
    pub learners: Vec<NodeId>,
    /// Copies asked for: what levels of consistency count against.
    pub factor: usize,
    /// The level of requests that do not name one.
    pub consistency: Consistency,
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
    /// What recovering a partition came to.
    Recovered {
        /// Which.
        partition: PartitionId,
        /// Recovered at this epoch.
        epoch: Epoch,
        /// The survivors that have everything this node has now, itself may be left out; or why this node has nothing to go on
        /// from.
        result: Result<Vec<NodeId>, String>,
    },
    /// A learner has nearly everything; one that is in the pending set, and not in the recorded one, has all that was
    /// written when that was told. The first is told once, the second once for each [`Action::Replicate`] that names it
    /// so: at once, where each write has waited for it since it was told to have caught up.
    CaughtUp {
        /// Of which partition.
        partition: PartitionId,
        /// The owner's epoch.
        epoch: Epoch,
        /// Who.
        node: NodeId,
        /// The last [`Action::Replicate`] that had been carried out then: who is taken out and put back in between
        /// has to catch up anew.
        op: OpId,
    },
    /// A member or learner does not acknowledge what it is sent.
    Silent {
        /// Of which partition.
        partition: PartitionId,
        /// The owner's epoch.
        epoch: Epoch,
        /// Who.
        node: NodeId,
    },
    /// A member that was silent acknowledges what it is sent.
    Heard {
        /// Of which partition.
        partition: PartitionId,
        /// The owner's epoch.
        epoch: Epoch,
        /// Who.
        node: NodeId,
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
    /// Give everything away and leave; to come back where the settings say so.
    Drain,
    /// Give everything away and leave for good.
    DrainForGood,
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
    /// The set of copies of a partition owned here, from now on.
    Replicate {
        /// Names it in [`Input::CaughtUp`]; grows.
        op: OpId,
        /// Which.
        partition: PartitionId,
        /// At which epoch.
        epoch: Epoch,
        /// Who.
        copies: CopySet,
    },
    /// Taken over, not started: have every survivor refuse earlier epochs, this node first, take the longest of their
    /// copies, send the others what they lack; yields [`Input::Recovered`] within a time, with whoever answered. A
    /// survivor that could only be copied anew is left out instead: until then its copy has all that is committed.
    Recover {
        /// Which.
        partition: PartitionId,
        /// At which epoch.
        epoch: Epoch,
        /// The recorded members that live, this node first.
        survivors: Vec<NodeId>,
    },
    /// Not the owner: whether a copy belongs here, by the plan and by the claim of this epoch. One that does not is
    /// dropped where it was fed under earlier epochs only, and kept where a later one feeds it; fed under this one, the
    /// owner is asked first, and the answer counts if nothing came from it meanwhile. (It may be recording this node as
    /// a member right now.)
    Copy {
        /// Of which partition.
        partition: PartitionId,
        /// The claim's epoch.
        epoch: Epoch,
        /// Whether it belongs here.
        wanted: bool,
    },
    /// Stream the partition's state to the target, or wait until it is there; yields [`Input::Transferred`].
    Transfer {
        /// Which.
        partition: PartitionId,
        /// The move's epoch.
        epoch: Epoch,
        /// Where to.
        to: NodeId,
        /// Whether the target is in the in-sync set: nothing is sent then, but every member acknowledges the tail.
        in_sync: bool,
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
