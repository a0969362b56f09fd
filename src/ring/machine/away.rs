//! Places that are kept for a while for nodes that are away and may come back.
//!
//! In: the plan, who lives, and the clock of this node alone. Out: whose places the next plan is to keep, and until when. Every
//! member counts from when it first saw in the plan that somebody is away, so that whoever comes to write the plan
//! goes on; one that has only just joined begins anew. No two clocks are compared.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Event, Machine};
use crate::coord::{KeptPlaces, PlanMember, PlanRecord};
use crate::ring::event::PlacesEnd;
use crate::types::{NodeId, NodeName, PartitionId, Time};

/// Since when this node knows that somebody is away, or is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Absence {
    since: Time,
    back: bool,
}

/// Whose places are kept, and for how long, as this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacesReport {
    /// Who is away.
    pub node: NodeName,
    /// How many places.
    pub places: usize,
    /// For how long yet, by the clock of the node that was asked; where it has not left yet, from then on.
    pub remaining: Duration,
}

impl Machine {
    fn current_plan(&self) -> Option<&PlanRecord> {
        self.view.plan.as_ref().map(|plan| &plan.record).filter(|plan| plan.generation == self.who.generation)
    }

    fn kept_places(&self) -> &[KeptPlaces] {
        self.current_plan().map_or(&[], |plan| &plan.kept)
    }

    /// Whether somebody with kept places is away (`false`) or back (`true`); `None` while it drains.
    fn is_back(&self, places: &KeptPlaces) -> Option<bool> {
        match self.view.plan_member(&places.id.node) {
            None => Some(false),
            Some(id) => (*id != places.id).then_some(true),
        }
    }

    /// Counts from the moment at which the plan has somebody away, or back; and tells of it.
    pub(super) fn note_absences(&mut self) {
        if self.kept_places().is_empty() && self.coordination.absences.is_empty() {
            return;
        }
        let now = self.now;
        let mut known = std::mem::take(&mut self.coordination.absences);
        let mut next: BTreeMap<NodeId, Absence> = BTreeMap::new();
        let mut events = Vec::new();
        for places in self.kept_places() {
            let Some(back) = self.is_back(places) else { continue };
            let before = known.remove(&places.id);
            let absence = before.filter(|absence| absence.back == back).unwrap_or(Absence { since: now, back });
            next.insert(places.id.clone(), absence);
            let (node, count) = (places.id.node.clone(), places.partitions.len());
            match before.map(|before| before.back) {
                None | Some(true) if !back => {
                    let within = Duration::from_millis(places.return_ms);
                    events.push(Event::PlacesKept { node, places: count, within });
                }
                Some(false) if back => events.push(Event::PlacesEnded { node, end: PlacesEnd::Returned }),
                _ => {}
            }
        }
        for (id, _) in known.into_iter().filter(|(_, absence)| !absence.back) {
            let back = self.view.plan_member(&id.node).is_some();
            let end = if back { PlacesEnd::Returned } else { PlacesEnd::GivenUp };
            events.push(Event::PlacesEnded { node: id.node, end });
        }
        self.coordination.absences = next;
        events.into_iter().for_each(|event| self.emit(event));
    }

    /// Whose places the next plan of these members is to keep, where that is safe: of those that the plan keeps now, whose time
    /// is not over; and of those that have gone since, or drain to come back.
    pub(super) fn places_to_keep(&self, members: &[PlanMember]) -> Vec<KeptPlaces> {
        let Some(plan) = self.current_plan() else { return Vec::new() };
        let mut kept: BTreeMap<&NodeName, KeptPlaces> = BTreeMap::new();
        for places in plan.kept.iter().filter(|places| !self.is_over(places)) {
            kept.insert(&places.id.node, places.clone());
        }
        for member in &plan.members {
            let name = &member.id.node;
            let now = members.iter().find(|now| now.id == member.id);
            let return_ms = match now {
                None => member.return_ms,
                Some(now) if now.draining => now.return_ms,
                Some(_) => continue,
            };
            if return_ms == 0 || kept.get(name).is_some_and(|places| places.id == member.id) {
                continue;
            }
            let partitions = places_in(plan, name);
            kept.remove(name);
            if !partitions.is_empty() {
                let (id, zone) = (member.id.clone(), member.zone.clone());
                kept.insert(name, KeptPlaces { id, zone, return_ms, partitions });
            }
        }
        kept.into_values().collect()
    }

    fn ends_at(&self, places: &KeptPlaces) -> Option<Time> {
        let absence = self.coordination.absences.get(&places.id)?;
        Some(absence.since + Duration::from_millis(places.return_ms))
    }

    /// Whether its time is over, or it is back and has caught up everywhere.
    fn is_over(&self, places: &KeptPlaces) -> bool {
        // It has announced itself, and is about to be planned.
        let is_coming = || self.coordination.newcomers.keys().any(|id| id.node == places.id.node);
        let late = self.ends_at(places).is_some_and(|at| self.now >= at);
        match self.is_back(places) {
            None => false,
            Some(false) => late && !is_coming(),
            Some(true) => late || self.has_caught_up(places),
        }
    }

    fn has_caught_up(&self, places: &KeptPlaces) -> bool {
        let (Some(plan), Some(id)) = (self.current_plan(), self.view.plan_member(&places.id.node)) else { return true };
        let planned = |p: &PartitionId| plan.rows.get(p.index()).is_some_and(|row| row.contains(&id.node));
        let in_sync = |p: &PartitionId| self.view.claims.get(p).is_some_and(|seen| seen.record.replicas.contains(id));
        places.partitions.iter().filter(|p| planned(p)).all(in_sync)
    }

    pub(super) fn places_wakes(&self) -> impl Iterator<Item = Time> {
        self.kept_places().iter().filter_map(|places| self.ends_at(places))
    }

    /// Whose places are kept while they are away.
    pub(super) fn places_reports(&self) -> Vec<PlacesReport> {
        let vacant = self.kept_places().iter().filter(|places| self.is_back(places) != Some(true));
        let report = |places: &KeptPlaces| PlacesReport {
            node: places.id.node.clone(),
            places: places.partitions.len(),
            remaining: self.ends_at(places).map_or(Duration::from_millis(places.return_ms), |at| at.since(self.now)),
        };
        vacant.map(report).collect()
    }
}

/// Where the plan has a place for this node.
fn places_in(plan: &PlanRecord, name: &NodeName) -> Vec<PartitionId> {
    let rows = plan.rows.iter().enumerate().filter(|(_, row)| row.contains(name));
    rows.filter_map(|(index, _)| u16::try_from(index).ok().map(PartitionId::new)).collect()
}
