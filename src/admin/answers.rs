//! What operators are told: plain data, the same as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use crate::coord::RingConfig;
use crate::types::{
    Consistency, CopyRules, Epoch, Factor, Generation, NodeName, OnLoss, PartitionCount, PartitionId, RingName,
};

/// What operators have asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConfigView {
    /// No partition moves between healthy members.
    pub paused: bool,
    /// Nodes that get nothing new.
    pub cordoned: BTreeSet<NodeName>,
    /// Partitions that belong to a certain node while it can own them.
    pub pins: BTreeMap<PartitionId, NodeName>,
    /// Copies of each partition, the owner's included.
    pub replicas: Factor,
    /// What has to have a write before it is answered, where the request does not say.
    pub consistency: Consistency,
    /// What becomes of a partition whose copies are all gone.
    pub on_loss: OnLoss,
}

impl From<&RingConfig> for ConfigView {
    fn from(config: &RingConfig) -> Self {
        let CopyRules { replicas, consistency, on_loss } = config.copy_rules();
        let (cordoned, pins) = (config.cordoned.clone(), config.pins.clone());
        Self { paused: config.paused, cordoned, pins, replicas, consistency, on_loss }
    }
}

/// Where a node stands, by its lease, what it says of itself, and the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Its lease is live, the plan does not know this incarnation yet.
    Joining,
    /// A member.
    Active,
    /// A member on its way out.
    Draining,
    /// Its lease is live, but was not seen renewed while it was observed, for half a lease or more.
    Suspect,
    /// Gone by its own will.
    Left,
    /// Its lease was taken away.
    Evicted,
}

impl NodeState {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::Left => "left",
            Self::Evicted => "evicted",
        }
    }

    /// Whether its lease is live.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Left | Self::Evicted)
    }
}

/// A node that is or was in the ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeOverview {
    /// Its name.
    pub node: NodeName,
    /// Where it stands.
    pub state: NodeState,
    /// Whether it is on its way out, by its own word.
    pub draining: bool,
    /// Whether operators keep new partitions from it.
    pub cordoned: bool,
    /// Whether it writes the plan: the oldest live member.
    pub coordinator: bool,
    /// How many partitions it owns.
    pub owned: usize,
    /// How many partitions the plan gives it.
    pub planned: usize,
    /// How many partitions it has a copy of that is in sync, those it owns included.
    pub copies: usize,
    /// Failure zone, if any.
    pub zone: Option<String>,
    /// Share relative to other nodes; `None` while it has not announced itself.
    pub weight: Option<u32>,
    /// The program's version, likewise.
    pub version: Option<String>,
    /// Where its HTTP listens, if it does.
    pub http: Option<String>,
    /// How often this name was started.
    pub start: u64,
    /// This start, as in the node's subject.
    pub incarnation: String,
    /// Partitions it could not start and is not given for now.
    pub excluded: Vec<PartitionId>,
}

/// Where a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionStanding {
    /// Owned by whom the plan says.
    Owned,
    /// Owned by a live node, planned for another.
    Moving,
    /// Its owner gathers its state.
    Recovering,
    /// Its owner is gone.
    Orphaned,
    /// Nobody owns it.
    Unowned,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionOverview {
    /// Its number.
    pub partition: PartitionId,
    /// Who owns it, by its claim.
    pub owner: Option<NodeName>,
    /// At which epoch.
    pub epoch: Epoch,
    /// Where it stands.
    pub state: PartitionStanding,
    /// Who should own it, by the plan.
    pub planned: Option<NodeName>,
    /// Whom operators pinned it to, in force or not.
    pub pinned: Option<NodeName>,
    /// Who has a copy in sync, by its claim: the owner first.
    pub replicas: Vec<NodeName>,
    /// Who should have one, by the plan, and is brought up to date.
    pub learners: Vec<NodeName>,
    /// Whether it has fewer live copies in sync than are asked for, and than there are nodes for.
    pub under_replicated: bool,
}

/// A node that is away, or on its way out, and may come back: nobody else gets its places among the copies for now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PlacesKeptFor {
    /// Which.
    pub node: NodeName,
    /// How many partitions have one copy less meanwhile.
    pub places: usize,
    /// For how long from when it had gone, in milliseconds; `/ring` of a node says for how long yet.
    pub for_ms: u64,
}

/// A partition that changes its owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PartitionMove {
    /// Which.
    pub partition: PartitionId,
    /// Its owner; `None` where nobody owns it.
    pub from: Option<NodeName>,
    /// Its owner-to-be; `None` where nobody can own it.
    pub to: Option<NodeName>,
}

/// The whole ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// Its name.
    pub ring: RingName,
    /// How many partitions.
    pub partition_count: PartitionCount,
    /// How keys map to them.
    pub key_hash: String,
    /// Store generation.
    pub generation: Generation,
    /// The plan's version; zero where there is none.
    pub plan_version: u64,
    /// Whether the plan was made with the configuration below.
    pub plan_current: bool,
    /// Who writes the plan.
    pub coordinator: Option<NodeName>,
    /// What operators have asked for.
    pub config: ConfigView,
    /// Nodes by name, those that left included.
    pub nodes: Vec<NodeOverview>,
    /// Partitions by number.
    pub partitions: Vec<PartitionOverview>,
    /// Where claims differ from the plan.
    pub moves: Vec<PartitionMove>,
    /// Partitions nobody owns.
    pub unowned: Vec<PartitionId>,
    /// Partitions whose owner is gone.
    pub orphaned: Vec<PartitionId>,
    /// How many copies of each partition there can be of those asked for: not more than nodes that stay.
    pub copies_wanted: usize,
    /// Partitions with fewer live copies in sync than that.
    pub under_replicated: Vec<PartitionId>,
    /// Partitions whose copies in sync are not those planned.
    pub copying: Vec<PartitionId>,
    /// For whom places among the copies are kept.
    pub places_kept: Vec<PlacesKeptFor>,
    /// Whether nodes were observed long enough to tell suspects.
    pub observed: bool,
    /// What could not be read, and pins that are not in force.
    pub warnings: Vec<String>,
}

/// What became of a change of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Whether anything was changed; `false` where it was so already.
    pub changed: bool,
    /// The configuration now.
    pub config: ConfigView,
    /// What an operator should know, if anything: a pin that is not in force, a ring that is paused.
    pub notes: Vec<String>,
}

/// A node in a plan that is only tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeShare {
    /// Which.
    pub node: NodeName,
    /// How many partitions it owns now.
    pub before: usize,
    /// How many it would own.
    pub after: usize,
}

/// What would move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// From claims as they are now; what the ring has planned and not carried out is part of it.
    pub moves: Vec<PartitionMove>,
    /// By name.
    pub nodes: Vec<NodeShare>,
    /// Partitions that nobody could own.
    pub stranded: Vec<PartitionId>,
    /// Whether rebalancing is paused: then it is as if only crashes, drains and pins moved anything.
    pub paused: bool,
}

/// Why a node is not safe to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// For scripts: `no_plan`, `unowned`, `orphaned`, `moving`, `draining`, `suspect`, `joining`, `replanning`,
    /// `nobody_else`, `only_copy`, `copying`.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

/// Whether a node may be stopped now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Safety {
    /// Which.
    pub node: NodeName,
    /// Whether there is no reason against it.
    pub safe: bool,
    /// All reasons against it.
    pub reasons: Vec<Reason>,
}

/// How a drain is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainOptions {
    /// Also where nobody can take the node's partitions: what it holds for them is lost.
    pub force: bool,
    /// How long it is watched; it goes on beyond.
    pub limit: Duration,
    /// It does not come back: its places among the copies are not kept for it.
    pub for_good: bool,
}

impl Default for DrainOptions {
    /// Not forced, watched for 90 s: a node's drain ends after a minute, one way or the other.
    fn default() -> Self {
        Self { force: false, limit: Duration::from_secs(90), for_good: false }
    }
}

/// How far a drain is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum DrainStep {
    /// The node has begun.
    Acknowledged {
        /// Which.
        node: NodeName,
        /// Its start.
        start: u64,
        /// How many partitions it owned.
        partitions: usize,
    },
    /// Partitions have moved.
    Progress {
        /// How many it still owns.
        left: usize,
        /// Of how many.
        of: usize,
    },
    /// The node has given up its lease: its process ends.
    Left {
        /// Which.
        node: NodeName,
    },
}

/// One change of the ring, as its bucket tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RingEvent {
    /// First: from now on changes are told.
    Watching {
        /// The plan's version at that moment.
        plan_version: u64,
        /// Members of the plan.
        members: Vec<NodeName>,
    },
    /// A node took its lease.
    MemberStarted {
        /// Which.
        node: NodeName,
        /// How often it was started.
        start: u64,
    },
    /// A node is in the plan for the first time.
    MemberJoined {
        /// Which.
        node: NodeName,
        /// How often it was started.
        start: u64,
    },
    /// A node gives everything away.
    MemberDraining {
        /// Which.
        node: NodeName,
        /// How often it was started.
        start: u64,
    },
    /// A node gave up its lease.
    MemberLeft {
        /// Which.
        node: NodeName,
        /// How often it was started.
        start: u64,
    },
    /// A node's lease was taken away.
    MemberEvicted {
        /// Which.
        node: NodeName,
        /// How often it was started.
        start: u64,
    },
    /// A partition has another owner, or a new epoch.
    PartitionOwned {
        /// Which.
        partition: PartitionId,
        /// Who owned it last; `None` where that is not known.
        from: Option<NodeName>,
        /// Who owns it.
        to: NodeName,
        /// At which epoch.
        epoch: Epoch,
    },
    /// A partition was given back to nobody.
    PartitionReleased {
        /// Which.
        partition: PartitionId,
        /// By whom.
        from: NodeName,
        /// At which epoch.
        epoch: Epoch,
    },
    /// A plan was written.
    PlanWritten {
        /// Its version.
        version: u64,
        /// Who wrote it.
        author: NodeName,
        /// Its members.
        members: Vec<NodeName>,
        /// How many partitions have to move for it.
        moves: usize,
    },
    /// Operators changed the configuration.
    ConfigChanged {
        /// As it is now.
        config: ConfigView,
    },
    /// A record cannot be read by this release.
    Unreadable {
        /// Its key.
        key: String,
        /// Why.
        reason: String,
    },
    /// The bucket is another one, or went back: the last event.
    StoreReset {
        /// What was seen.
        reason: String,
    },
}
