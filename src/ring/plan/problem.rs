//! The planner's input with names replaced by numbers: eligible nodes are numbered by name, zones likewise.

use std::collections::{BTreeMap, BTreeSet};

use super::{Candidate, CurrentRow, PlanError, PlanInput};
use crate::types::{NodeName, PartitionId};

/// What the stages work on.
pub(super) struct Problem<'a> {
    /// Candidates that are not draining, ordered by name.
    pub(super) nodes: Vec<&'a Candidate>,
    /// Zone of each node.
    pub(super) zones: Vec<usize>,
    /// Who holds each partition.
    pub(super) rows: Vec<Row>,
    /// Copies asked for, the owner's included.
    pub(super) replicas: usize,
}

/// Who among the eligible nodes holds a partition.
pub(super) struct Row {
    pub(super) partition: PartitionId,
    pub(super) owner: Option<usize>,
    /// The owner included.
    pub(super) in_sync: Vec<usize>,
}

impl<'a> Problem<'a> {
    pub(super) fn new(input: &PlanInput<'a>) -> Result<Self, PlanError> {
        check(input)?;
        let mut nodes: Vec<&Candidate> = input.candidates.iter().filter(|c| !c.draining).collect();
        nodes.sort_unstable_by(|a, b| a.node.cmp(&b.node));
        let numbers: BTreeMap<&NodeName, usize> = nodes.iter().enumerate().map(|(i, c)| (&c.node, i)).collect();
        let rows = input.partitions.ids().zip(input.current).map(|(p, row)| Row::new(p, row, &numbers)).collect();
        let names: BTreeSet<Option<&str>> = nodes.iter().map(|c| c.zone.as_deref()).collect();
        let zone_numbers: BTreeMap<Option<&str>, usize> = names.into_iter().zip(0..).collect();
        let zones = nodes.iter().map(|c| zone_numbers[&c.zone.as_deref()]).collect();
        Ok(Self { nodes, zones, rows, replicas: input.replicas })
    }

    pub(super) fn may_own(&self, row: &Row, node: usize) -> bool {
        let candidate = self.nodes[node];
        !candidate.excluded.contains(&row.partition) && (!candidate.frozen || row.owner == Some(node))
    }

    pub(super) fn may_replicate(&self, row: &Row, node: usize) -> bool {
        let candidate = self.nodes[node];
        !candidate.excluded.contains(&row.partition) && (!candidate.frozen || row.in_sync.contains(&node))
    }
}

impl Row {
    fn new(partition: PartitionId, current: &CurrentRow, numbers: &BTreeMap<&NodeName, usize>) -> Self {
        let number = |name: &NodeName| numbers.get(name).copied();
        let owner = current.owner.as_ref().and_then(number);
        let in_sync = owner.into_iter().chain(current.replicas.iter().filter_map(number)).collect();
        Self { partition, owner, in_sync }
    }
}

fn check(input: &PlanInput<'_>) -> Result<(), PlanError> {
    let partitions = usize::from(input.partitions.get());
    if input.current.len() != partitions {
        return Err(PlanError::Rows { given: input.current.len(), partitions });
    }
    if input.replicas == 0 {
        return Err(PlanError::NoReplicas);
    }
    let mut seen = BTreeSet::new();
    for Candidate { node, weight, .. } in input.candidates {
        if *weight == 0 {
            return Err(PlanError::ZeroWeight { node: node.clone() });
        }
        if !seen.insert(node) {
            return Err(PlanError::Duplicate { node: node.clone() });
        }
    }
    Ok(())
}
