//! What a node knows of itself and of the ring, as one snapshot: the source of `/stats`, `/ring`, `/ready`, `/health`.

use std::time::Duration;

use serde::Serialize;

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
}

/// A node that is brought up to date.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LearnerStatus {
    /// Which.
    pub node: NodeName,
    /// Whether it has everything, and waits to be counted in.
    pub caught_up: bool,
    /// Bytes of the copy made for it so far; zero where it needs none.
    pub copied_bytes: u64,
    /// Of about how many; `None` where no copy was begun, or its service does not say.
    pub total_bytes: Option<u64>,
    /// How fast that went; `None` where it cannot be told.
    pub bytes_per_second: Option<u64>,
    /// What is left, at that rate; `None` where it cannot be told.
    pub remaining_seconds: Option<f64>,
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
}
