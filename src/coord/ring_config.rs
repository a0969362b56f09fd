//! `config`: what operators may change while the ring runs. Written by operators, read by every node.
//!
//! A field this release does not know is kept as it is by whoever changes another one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::types::OnLoss;
use crate::types::{Consistency, CopyRules, Factor, NodeName, PartitionId};

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
    /// Copies of each partition, the owner's included; 3 where operators said nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Factor>,
    /// What has to have a write before it is answered, where the request does not say.
    #[serde(default, skip_serializing_if = "is_default")]
    pub consistency: Consistency,
    /// What becomes of a partition whose copies are all gone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_loss: OnLoss,
    /// Fields of other releases.
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// What was never changed is not written: a value stays as releases before wrote it.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl RingConfig {
    /// The copies asked for.
    #[must_use]
    pub fn factor(&self) -> Factor {
        self.replicas.unwrap_or_default()
    }

    /// What is asked for of copies.
    #[must_use]
    pub fn copy_rules(&self) -> CopyRules {
        CopyRules { replicas: self.factor(), consistency: self.consistency, on_loss: self.on_loss }
    }

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
