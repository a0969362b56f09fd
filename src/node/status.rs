//! What a node knows of itself and of the ring, as one snapshot: the source of `/stats`, `/ring`, `/ready`, `/health`.

use std::time::Duration;

use serde::Serialize;

pub use crate::rpc::status::{CopiesUnderWay, CopyStatus, LearnerStatus, Suspended, Waits, WaitsFor};
use crate::rpc::status::{LISTED_MAX, StatusAnswer, Waiting};
use crate::types::{CopyRules, Epoch, NodeName, PartitionId, RingName};

/// Where a node stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Getting its lease, or not yet in the plan.
    Joining,
    /// Takes part.
    Active,
    /// Its lease ran out without anybody having evicted it: until a heartbeat gets through, only what all
    /// copies of a partition confirm is answered.
    Suspended,
    /// Gives everything away.
    Draining,
    /// Out of the ring.
    Left,
}

impl Phase {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Draining => "draining",
            Self::Left => "left",
        }
    }
}

/// State of a partition, as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionState {
    /// Nobody owns it.
    Unowned,
    /// Claimed, its owner not ready to serve yet (known for this node's own partitions only).
    Starting,
    /// Owned and, as far as known here, served.
    Serving,
    /// On its way to another owner (known for this node's own partitions only).
    Moving,
    /// Its owner is not a live member; waits to be taken over.
    Orphaned,
}

/// One partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionStatus {
    /// Which.
    pub partition: PartitionId,
    /// Its owner; `None` while there is none.
    pub owner: Option<NodeName>,
    /// Its epoch; zero before the first owner.
    pub epoch: Epoch,
    /// Its state.
    pub state: PartitionState,
    /// Who has a copy in sync, by its claim: the owner first.
    pub replicas: Vec<NodeName>,
    /// Who is brought up to date (known for this node's own partitions only).
    pub learners: Vec<LearnerStatus>,
    /// Where live entries had to make room for its copy (known for this node's own partitions only).
    pub short_of_memory: Vec<ShortOfMemory>,
    /// Whether it has fewer live copies in sync than are asked for, and than there are nodes for.
    pub under_replicated: bool,
    /// What it waits for where every copy of it is lost; `None` where it waits for nothing of the kind.
    pub waits: Option<Waits>,
}

/// A node whose memory is too small for the copy it was given: live entries had to make room, of this partition or others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShortOfMemory {
    /// Which.
    pub node: NodeName,
    /// How many entries, while the copy arrived.
    pub evicted: u64,
    /// What the owner holds of the partition.
    pub wanted_bytes: u64,
    /// What all that the node holds may take.
    pub bound_bytes: u64,
}

/// A node that is away and may come back: nobody else gets its places among the copies for now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlacesKept {
    /// Which.
    pub node: NodeName,
    /// How many partitions have one copy less meanwhile.
    pub places: usize,
    /// For how long yet, as the node that was asked reckons.
    pub remaining_seconds: f64,
}

/// One member.
#[derive(Debug, Clone, Serialize)]
pub struct MemberStatus {
    /// Its name.
    pub node: NodeName,
    /// `joining`, `active`, `draining`, `left`, `unreachable`.
    pub state: &'static str,
    /// Its zone.
    pub zone: Option<String>,
    /// Its weight.
    pub weight: u32,
    /// Where its HTTP listens.
    pub http: Option<String>,
    /// Its program version.
    pub version: String,
    /// How many partitions it owns.
    pub owned: usize,
    /// Whether it writes the plan.
    pub coordinator: bool,
}

/// A move this node has under way as the giving side.
#[derive(Debug, Clone, Serialize)]
pub struct MoveStatus {
    /// What moves.
    pub partition: PartitionId,
    /// Where to.
    pub to: NodeName,
    /// `parking`, `releasing`, `transferring`, `switching`, `abandoning`.
    pub step: &'static str,
    /// For how long.
    pub elapsed: Duration,
}

/// The snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The ring.
    pub ring: RingName,
    /// This node.
    pub node: NodeName,
    /// Which of its lives: its start number.
    pub start: u64,
    /// This node's zone.
    pub zone: Option<String>,
    /// Where this node stands.
    pub phase: Phase,
    /// Since the process started.
    pub uptime: Duration,
    /// The plan's version; zero before the first.
    pub plan_version: u64,
    /// All members known, also those that are gone; by name.
    pub members: Vec<MemberStatus>,
    /// All partitions, by number.
    pub partitions: Vec<PartitionStatus>,
    /// Moves this node has under way.
    pub moves: Vec<MoveStatus>,
    /// What is asked for of copies.
    pub rules: CopyRules,
    /// For whom places among the copies are kept.
    pub places_kept: Vec<PlacesKept>,
    /// Bytes of copies that this node has made for others, since it took its lease.
    pub copied_bytes: u64,
    /// Bytes of writes sent to nodes that had missed them, since then.
    pub difference_bytes: u64,
    /// How long this node may act without a further heartbeat.
    pub lease_margin: Duration,
    /// What this node does while it is suspended; `None` where it is not.
    pub suspended: Option<Suspended>,
    /// Why this node is not ready; `None` when it is.
    pub not_ready: Option<String>,
}

impl Status {
    /// How many partitions this node owns.
    pub fn owned(&self) -> usize {
        self.owned_here().count()
    }

    /// The partitions this node owns.
    fn owned_here(&self) -> impl Iterator<Item = &PartitionStatus> {
        self.partitions.iter().filter(|p| p.owner.as_ref() == Some(&self.node))
    }

    /// How many partitions have fewer copies than are asked for, and than there are nodes for.
    pub fn under_replicated(&self) -> usize {
        self.partitions.iter().filter(|p| p.under_replicated).count()
    }

    /// How many of these this node owns.
    pub fn under_replicated_here(&self) -> usize {
        self.owned_here().filter(|p| p.under_replicated).count()
    }

    /// How many copies this node brings up to date.
    pub fn learners(&self) -> usize {
        self.partitions.iter().map(|p| p.learners.len()).sum()
    }

    /// Whether this node answers for its partition: nobody but its owner knows.
    pub fn is_served(&self, partition: &PartitionStatus) -> bool {
        let served = matches!(partition.state, PartitionState::Serving | PartitionState::Moving);
        let here = partition.owner.as_ref() == Some(&self.node);
        match self.suspended.filter(|_| here) {
            // What all copies confirm is answered: where there is none but this node's, nothing is.
            Some(suspended) => served && suspended.serves_with_copies && partition.replicas.len() > 1,
            None => served,
        }
    }

    /// The partitions that wait, all copies of which are lost.
    pub fn waiting(&self) -> impl Iterator<Item = (PartitionId, &Waits)> {
        self.partitions.iter().filter_map(|p| Some((p.partition, p.waits.as_ref()?)))
    }

    /// What operators are told who ask this very node.
    pub fn answer(&self) -> StatusAnswer {
        let copies = self.partitions.iter().flat_map(|p| {
            let from = self.node.clone();
            p.learners.iter().map(move |learner| CopyStatus {
                partition: p.partition,
                from: from.clone(),
                learner: learner.clone(),
            })
        });
        let waiting = |(partition, waits): (PartitionId, &Waits)| Waiting { partition, waits: waits.clone() };
        StatusAnswer {
            node: self.node.clone(),
            start: self.start,
            phase: self.phase.as_str().to_owned(),
            not_ready: self.not_ready.clone(),
            suspended: self.suspended,
            copies_under_way: CopiesUnderWay::of(copies, LISTED_MAX),
            waiting_partitions: self.waiting().count(),
            waiting: self.waiting().take(LISTED_MAX).map(waiting).collect(),
        }
    }
}
