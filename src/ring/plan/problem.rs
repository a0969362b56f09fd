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
    /// Whether what has an eligible owner stays there.
    pub(super) paused: bool,
}

/// Who among the eligible nodes holds a partition.
pub(super) struct Row {
    pub(super) partition: PartitionId,
    pub(super) owner: Option<usize>,
    /// The owner included.
    pub(super) in_sync: Vec<usize>,
    /// Whom it is pinned to, in force or not.
    pub(super) pin: Option<usize>,
    owners: Owners,
}

/// Who may own a partition.
#[derive(Clone, Copy)]
enum Owners {
    /// This node alone.
    Only(usize),
    /// Nodes that are neither frozen nor cordoned.
    Open,
    /// Nodes that are not frozen: there is no other.
    EvenCordoned,
}

impl<'a> Problem<'a> {
    pub(super) fn new(input: &PlanInput<'a>) -> Result<Self, PlanError> {
        check(input)?;
        let mut nodes: Vec<&Candidate> = input.candidates.iter().filter(|c| !c.draining).collect();
        nodes.sort_unstable_by(|a, b| a.node.cmp(&b.node));
        let numbers: BTreeMap<&NodeName, usize> = nodes.iter().enumerate().map(|(i, c)| (&c.node, i)).collect();
        let rows = input.partitions.ids().zip(input.current).map(|(p, row)| {
            let pin = input.pins.get(&p).and_then(|name| numbers.get(name).copied());
            Row::new(p, row, pin, &numbers)
        });
        let rows = rows.collect();
        let names: BTreeSet<Option<&str>> = nodes.iter().map(|c| c.zone.as_deref()).collect();
        let zone_numbers: BTreeMap<Option<&str>, usize> = names.into_iter().zip(0..).collect();
        let zones = nodes.iter().map(|c| zone_numbers[&c.zone.as_deref()]).collect();
        let mut problem = Self { nodes, zones, rows, replicas: input.replicas, paused: input.paused };
        let owners: Vec<Owners> = problem.rows.iter().map(|row| problem.owners_of(row)).collect();
        problem.rows.iter_mut().zip(owners).for_each(|(row, owners)| row.owners = owners);
        Ok(problem)
    }

    fn owners_of(&self, row: &Row) -> Owners {
        let usable = |node: &usize| !self.excludes(row, *node);
        let owner = row.owner.filter(usable);
        let frozen = |node: usize| self.nodes[node].frozen;
        let keeps = |node: usize| self.paused || self.nodes[node].cordoned;
        let kept_anyway = owner.filter(|&node| frozen(node));
        let pinned = row.pin.filter(usable).filter(|&node| !frozen(node));
        let kept = owner.filter(|&node| keeps(node));
        if let Some(node) = kept_anyway.or(pinned).or(kept) {
            return Owners::Only(node);
        }
        let open = |node: usize| usable(&node) && !frozen(node) && !self.nodes[node].cordoned;
        if (0..self.nodes.len()).any(open) { Owners::Open } else { Owners::EvenCordoned }
    }

    pub(super) fn excludes(&self, row: &Row, node: usize) -> bool {
        self.nodes[node].excluded.contains(&row.partition)
    }

    pub(super) fn may_own(&self, row: &Row, node: usize) -> bool {
        let candidate = self.nodes[node];
        let open = !candidate.frozen && !self.excludes(row, node);
        match row.owners {
            Owners::Only(only) => node == only,
            Owners::Open => open && !candidate.cordoned,
            Owners::EvenCordoned => open,
        }
    }

    pub(super) fn may_replicate(&self, row: &Row, node: usize) -> bool {
        let candidate = self.nodes[node];
        let gets_new = !candidate.frozen && !candidate.cordoned;
        !self.excludes(row, node) && (gets_new || row.in_sync.contains(&node))
    }

    /// Whether the node's place as a replica of the partition, if it has one, is not to be given to another.
    pub(super) fn keeps_copy(&self, row: &Row, node: usize) -> bool {
        let candidate = self.nodes[node];
        let keeps = candidate.frozen || candidate.cordoned || self.paused;
        keeps && row.in_sync.contains(&node) && !self.excludes(row, node)
    }
}

impl Row {
    fn new(
        partition: PartitionId,
        current: &CurrentRow,
        pin: Option<usize>,
        numbers: &BTreeMap<&NodeName, usize>,
    ) -> Self {
        let number = |name: &NodeName| numbers.get(name).copied();
        let owner = current.owner.as_ref().and_then(number);
        let in_sync = owner.into_iter().chain(current.replicas.iter().filter_map(number)).collect();
        Self { partition, owner, in_sync, pin, owners: Owners::EvenCordoned }
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
