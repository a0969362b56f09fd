//! The planner's input with names replaced by numbers: eligible nodes are numbered by name, zones likewise.

use std::collections::{BTreeMap, BTreeSet};

use super::{Absent, Candidate, CurrentRow, PlanError, PlanInput};
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
    /// Who may come back, ordered by name.
    pub(super) absent: Vec<Away<'a>>,
}

/// A node that is away, or on its way out, and whose places may be kept.
pub(super) struct Away<'a> {
    pub(super) node: &'a Absent,
    pub(super) zone: usize,
}

/// Who among the eligible nodes holds a partition.
pub(super) struct Row {
    pub(super) partition: PartitionId,
    pub(super) owner: Option<usize>,
    /// The owner included, and who is back.
    pub(super) in_sync: Vec<usize>,
    /// Who is back where its place was kept, and not in sync yet.
    back: Vec<usize>,
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
        let (back, mut absent): (Vec<&Absent>, Vec<&Absent>) =
            input.absent.iter().partition(|absent| numbers.contains_key(&absent.node));
        absent.sort_unstable_by(|a, b| a.node.cmp(&b.node));
        let rows = input.partitions.ids().zip(input.current).map(|(p, row)| {
            let pin = input.pins.get(&p).and_then(|name| numbers.get(name).copied());
            // Who is back is the cheapest to go on with where its place is vacant yet, as if it were in sync.
            let back = back.iter().filter(|back| back.places.contains(&p)).map(|back| numbers[&back.node]);
            Row::new(p, row, pin, &numbers).and_back(back, input.replicas)
        });
        let rows = rows.collect();
        let zones_of_absent = absent.iter().map(|absent| absent.zone.as_deref());
        let names: BTreeSet<Option<&str>> = nodes.iter().map(|c| c.zone.as_deref()).chain(zones_of_absent).collect();
        let zone_numbers: BTreeMap<Option<&str>, usize> = names.into_iter().zip(0..).collect();
        let zones = nodes.iter().map(|c| zone_numbers[&c.zone.as_deref()]).collect();
        let away = |node: &'a Absent| Away { node, zone: zone_numbers[&node.zone.as_deref()] };
        let absent = absent.into_iter().map(away).collect();
        let mut problem = Self { nodes, zones, rows, replicas: input.replicas, paused: input.paused, absent };
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
        let keeps = candidate.frozen || candidate.cordoned || self.paused || !self.absent.is_empty();
        keeps && self.has_copy(row, node)
    }

    /// Whether the node has a copy that is in sync, and may keep it.
    fn has_copy(&self, row: &Row, node: usize) -> bool {
        row.in_sync.contains(&node) && !self.excludes(row, node)
    }

    /// Which of the absent nodes keep their place in a partition that gets this owner: as many as there are copies missing
    /// beside those in sync, where these are a majority of the copies asked for, two at the least, and where others
    /// would get those places.
    pub(super) fn kept_places(&self, row: &Row, owner: Option<usize>) -> Vec<usize> {
        let Some(owner) = owner else { return Vec::new() };
        let count = |holds: &dyn Fn(usize) -> bool| (0..self.nodes.len()).filter(|&node| holds(node)).count();
        let filled = count(&|node| node == owner || self.has_copy(row, node));
        let possible = count(&|node| node == owner || self.may_replicate(row, node));
        let had_it = (0..self.absent.len()).filter(|&at| self.absent[at].node.places.contains(&row.partition));
        let kept: Vec<usize> = had_it.take(self.replicas.saturating_sub(filled)).collect();
        let safe = self.are_enough(count(&|node| row.is_in_sync(node) && self.has_copy(row, node)));
        if safe && possible + kept.len() > self.replicas { kept } else { Vec::new() }
    }

    /// Whether so many copies in sync allow to wait for another.
    pub(super) fn are_enough(&self, in_sync: usize) -> bool {
        in_sync >= 2 && in_sync > self.replicas / 2
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
        Self { partition, owner, in_sync, back: Vec::new(), pin, owners: Owners::EvenCordoned }
    }

    /// Whether its copy is in sync now.
    pub(super) fn is_in_sync(&self, node: usize) -> bool {
        self.in_sync.contains(&node) && !self.back.contains(&node)
    }

    fn and_back(mut self, nodes: impl Iterator<Item = usize>, replicas: usize) -> Self {
        let vacant = replicas.saturating_sub(self.in_sync.len());
        for node in nodes.filter(|_| vacant > 0) {
            if !self.in_sync.contains(&node) {
                self.in_sync.push(node);
                self.back.push(node);
            }
        }
        self
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
