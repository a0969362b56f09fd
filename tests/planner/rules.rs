//! One plan against every rule: says which one it breaks.

use std::collections::BTreeSet;

use nats_ring::ring::plan::{Absent, Assignment, PlanInput};

use crate::optimum::{self, Places, View};

/// The flow for replicas has a vertex per partition and zone; larger rings are left to the other rules.
const REPLICA_FLOW_PARTITIONS_MAX: usize = 16;

/// A plan and what it was made from.
pub(crate) struct Case<'a> {
    pub(crate) input: PlanInput<'a>,
    pub(crate) plan: &'a Assignment,
}

/// The rows with nodes as numbers of the view.
struct Checked<'a> {
    view: View<'a>,
    rows: Vec<Vec<usize>>,
    places: Vec<Places>,
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl<'a> Case<'a> {
    pub(crate) fn check(self) -> Result<(), String> {
        let checked = self.numbered()?;
        checked.owners_are_allowed()?;
        checked.owners_meet_their_quota()?;
        checked.owners_are_optimal()?;
        if checked.view.input.replicas > 1 {
            checked.copies_are_complete()?;
            checked.zones_are_spread()?;
            checked.replicas_are_balanced()?;
            checked.replicas_are_optimal()?;
        }
        Ok(())
    }

    fn numbered(&self) -> Result<Checked<'a>, String> {
        let view = View::new(self.input);
        ensure(self.plan.rows.len() == view.partitions(), || "one row per partition".to_owned())?;
        let mut rows = Vec::new();
        for (p, names) in self.plan.rows.iter().enumerate() {
            let distinct: BTreeSet<_> = names.iter().collect();
            ensure(distinct.len() == names.len(), || format!("partition {p}: {names:?} are not distinct"))?;
            let number = |name| view.eligible.iter().position(|node| &node.node == name);
            let numbers: Option<Vec<usize>> = names.iter().map(number).collect();
            rows.push(numbers.ok_or_else(|| format!("partition {p}: one of {names:?} must not own or hold it"))?);
        }
        let mut view = view;
        let kept: Vec<_> = rows.iter().enumerate().map(|(p, row)| kept_places(&view, p, row)).collect();
        let named: Vec<Vec<_>> =
            kept.iter().map(|kept| kept.iter().map(|absent| absent.node.clone()).collect()).collect();
        ensure(named == self.plan.kept, || format!("places kept are {:?}, not {named:?}", self.plan.kept))?;
        view.waits = kept.iter().any(|kept| !kept.is_empty());
        let vacant = |kept: Vec<&Absent>| kept.into_iter().map(|absent| absent.zone.clone()).collect();
        let places = rows.iter().zip(kept).enumerate();
        let places = places.map(|(p, (row, kept))| places_of(&view, p, row, vacant(kept))).collect();
        Ok(Checked { view, rows, places })
    }
}

/// In-sync nodes that are frozen, cordoned or in a paused ring keep their places, as far as there are any; others fill the rest.
fn places_of(view: &View<'_>, p: usize, row: &[usize], vacant: Vec<Option<String>>) -> Places {
    let Some(&owner) = row.first() else { return Places { kept: vec![], open: 0, options: vec![], vacant } };
    let usable = |&n: &usize| n != owner && !view.excludes(p, view.eligible[n]);
    let usable: Vec<usize> = (0..view.eligible.len()).filter(usable).collect();
    let is_bound = |&n: &usize| view.is_bound(view.eligible[n]) || view.keeps_copy(p, view.eligible[n]);
    let (bound, options): (Vec<usize>, Vec<usize>) = usable.into_iter().partition(is_bound);
    let keepers = bound.iter().filter(|&&n| view.keeps_copy(p, view.eligible[n])).count();
    let kept: Vec<usize> = bound.into_iter().filter(|n| row[1..].contains(n)).collect();
    let wanted = view.input.replicas - 1 - vacant.len();
    Places { open: options.len().min(wanted - keepers.min(wanted)), kept, options, vacant }
}

fn kept_places<'a>(view: &View<'a>, p: usize, row: &[usize]) -> Vec<&'a Absent> {
    row.first().map(|&owner| view.kept_places(p, owner)).unwrap_or_default()
}

impl Checked<'_> {
    fn owners(&self) -> Vec<Option<usize>> {
        self.rows.iter().map(|row| row.first().copied()).collect()
    }

    fn owners_are_allowed(&self) -> Result<(), String> {
        for (p, owner) in self.owners().into_iter().enumerate() {
            let possible = self.view.possible_owners(p);
            match owner {
                None => ensure(possible.is_empty(), || format!("partition {p} is unassigned in vain"))?,
                Some(n) => ensure(possible.contains(&n), || format!("node {n} must not own partition {p}"))?,
            }
        }
        Ok(())
    }

    fn owners_meet_their_quota(&self) -> Result<(), String> {
        if !self.view.is_free {
            return Ok(());
        }
        for n in 0..self.view.eligible.len() {
            let count = self.rows.iter().filter(|row| row.first() == Some(&n)).count() as i64;
            let (low, high) = self.view.quota(n, self.rows.len());
            ensure((low..=high).contains(&count), || format!("node {n} owns {count}, its quota is {low} to {high}"))?;
        }
        Ok(())
    }

    fn owners_are_optimal(&self) -> Result<(), String> {
        let cost = optimum::owners_cost(&self.view, &self.owners());
        let least = optimum::owners_by_flow(&self.view.input);
        ensure(cost == least, || format!("the owners cost {cost}, the optimum is {least}"))
    }

    fn copies_are_complete(&self) -> Result<(), String> {
        for (p, row) in self.rows.iter().enumerate().filter(|(_, row)| !row.is_empty()) {
            let Places { kept, open, options, vacant } = &self.places[p];
            let filled = row[1..].iter().filter(|n| options.contains(n)).count();
            ensure(filled + kept.len() + 1 == row.len(), || {
                format!("partition {p}: a node must not hold it: {row:?}")
            })?;
            let wanted = (self.view.input.replicas - vacant.len()).min(1 + self.keepers(p, row[0]) + options.len());
            let complete = filled == *open && row.len() == wanted;
            ensure(complete, || format!("partition {p} has {} copies instead of {wanted}: {row:?}", row.len()))?;
            let newcomer = kept.iter().find(|&&n| !self.view.in_sync(p, self.view.eligible[n]));
            ensure(newcomer.is_none(), || format!("partition {p} is new to the bound node {newcomer:?}"))?;
        }
        Ok(())
    }

    fn keepers(&self, p: usize, owner: usize) -> usize {
        let view = &self.view;
        let keeps = |&n: &usize| {
            let node = view.eligible[n];
            n != owner && view.keeps_copy(p, node) && !view.excludes(p, node)
        };
        (0..view.eligible.len()).filter(keeps).count()
    }

    fn zones_are_spread(&self) -> Result<(), String> {
        for (p, row) in self.rows.iter().enumerate().filter(|(_, row)| !row.is_empty()) {
            let Places { kept, open, options, vacant } = &self.places[p];
            let before: Vec<usize> = row[..1].iter().chain(kept).copied().collect();
            let with_options: Vec<usize> = before.iter().chain(options).copied().collect();
            let fixed = optimum::distinct_zones(&self.view, &before, vacant);
            let most = optimum::distinct_zones(&self.view, &with_options, vacant).min(fixed + open);
            let zones = optimum::distinct_zones(&self.view, row, vacant);
            ensure(zones == most, || format!("partition {p} is in {zones} zones where {most} are possible"))?;
        }
        Ok(())
    }

    /// Where zones and weights do not come into it, replicas are balanced within one.
    fn replicas_are_balanced(&self) -> Result<(), String> {
        let nodes: Vec<usize> = (0..self.view.eligible.len()).collect();
        let equal_weights = self.view.eligible.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        if !self.view.is_free
            || self.view.waits
            || !equal_weights
            || optimum::distinct_zones(&self.view, &nodes, &[]) != 1
        {
            return Ok(());
        }
        let held = |n: &usize| self.rows.iter().filter(|row| row[1..].contains(n)).count();
        let counts: Vec<usize> = nodes.iter().map(held).collect();
        let apart = counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0);
        ensure(apart <= 1, || format!("replicas differ by {apart}: {counts:?}"))
    }

    fn replicas_are_optimal(&self) -> Result<(), String> {
        if self.rows.len() > REPLICA_FLOW_PARTITIONS_MAX {
            return Ok(());
        }
        let cost = optimum::replicas_cost(&self.view, &self.rows, &self.places);
        let least = optimum::replicas_by_flow(&self.view, &self.owners(), &self.places);
        ensure(cost == least, || format!("the replicas cost {cost}, the optimum is {least}"))
    }
}
