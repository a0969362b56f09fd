//! `config`: what operators may change while the ring runs. Written by operators, read by every node.
//!
//! A field this release does not know is kept as it is by whoever changes another one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::types::{NodeName, PartitionId};

/// What the planner is told by operators. Absent means all defaults: nothing paused, cordoned or pinned.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct RingConfig {
    /// No partition moves between healthy members.
    #[serde(default)]
    pub paused: bool,
    /// Nodes that keep what they own and get nothing new.
    #[serde(default)]
    pub cordoned: BTreeSet<NodeName>,
    /// Partitions that belong to a certain node for as long as it can own them.
    #[serde(default)]
    pub pins: BTreeMap<PartitionId, NodeName>,
    /// Fields of other releases.
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl RingConfig {
    /// As read from a record, whose `format` is no part of it.
    pub(super) fn without_format(mut self) -> Self {
        self.other.remove("format");
        self
    }

    /// What this release acts on, without the fields of others.
    #[must_use]
    pub fn known(&self) -> Self {
        Self { other: Map::new(), ..self.clone() }
    }
}
