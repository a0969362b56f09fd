//! What a new owner does in the simulated world to gather the content of a partition from the members that survive.
//!
//! First all that answer in time promise to take nothing from earlier owners and tell what they have; the longest of it is
//! taken. Then the others are fed what they lack: who has everything in time is in sync. A survivor whose content is no
//! beginning of it is not fed: it could only be copied anew.

use std::collections::{BTreeMap, BTreeSet};

use super::checker::Checked;
use super::copying::{At, Lead, Step, Version};
use super::{Due, MS, World};
use crate::ring::io::{CopySet, Input};
use crate::types::{Consistency, Epoch, NodeId, PartitionId};

/// How far gathering is.
#[derive(Debug, Clone, Default)]
pub(super) struct Gathering {
    answers: BTreeMap<NodeId, Option<Vec<Version>>>,
    feeding: bool,
}

impl World {
    pub(super) fn recover(&mut self, process: usize, partition: PartitionId, epoch: Epoch, survivors: &[NodeId]) {
        let held = self.held(process, partition);
        if held.promised >= epoch {
            return;
        }
        held.promised = epoch;
        let set = CopySet {
            in_sync: survivors.to_vec(),
            pending: None,
            learners: Vec::new(),
            factor: 1,
            consistency: Consistency::Eventual,
        };
        let mut lead = Lead::new(epoch, set);
        lead.gathering = Some(Gathering::default());
        held.lead = Some(lead);
        let at = self.at(process, partition, epoch);
        for to in survivors.iter().skip(1) {
            let lost = self.faulty && self.chance(self.odds.lost);
            if !lost {
                self.later(MS / 10, 20 * MS, Step::Promise { at, to: to.clone() });
            }
        }
        let wait = if survivors.len() > 1 { 100 * MS } else { MS };
        self.later(wait, wait, Step::Gather { at, last: false });
    }

    pub(super) fn promise(&mut self, process: usize, at: At, to: NodeId) -> Checked {
        let held = self.held(process, at.partition);
        if held.promised > at.epoch || process == at.process {
            return Ok(());
        }
        held.promised = at.epoch;
        held.lead = None;
        let log = held.log.clone();
        self.later(MS / 10, 20 * MS, Step::Promised { at, from: to, log });
        Ok(())
    }

    fn gathering(&mut self, at: At) -> Option<&mut Lead> {
        let lead = self.held(at.process, at.partition).lead.as_mut()?;
        (lead.epoch == at.epoch && lead.gathering.is_some()).then_some(lead)
    }

    pub(super) fn promised(&mut self, at: At, from: NodeId, log: Option<Vec<Version>>) -> Checked {
        if let Some(gathering) = self.gathering(at).and_then(|lead| lead.gathering.as_mut())
            && !gathering.feeding
        {
            gathering.answers.insert(from, log);
        }
        Ok(())
    }

    pub(super) fn gather(&mut self, at: At, last: bool) -> Checked {
        let Some(lead) = self.gathering(at) else { return Ok(()) };
        if last {
            let everything = lead.followers.clone();
            let length = self.held(at.process, at.partition).log.as_ref().map_or(0, Vec::len);
            let in_sync = everything.into_iter().filter(|(_, follower)| follower.acked == Some(length));
            let in_sync = in_sync.map(|(id, _)| id).collect();
            let input = Input::Recovered { partition: at.partition, epoch: at.epoch, result: Ok(in_sync) };
            return self.deliver(at.process, at.session, input);
        }
        let Some(gathering) = &mut lead.gathering else { return Ok(()) };
        gathering.feeding = true;
        let answers = gathering.answers.clone();
        let held = self.held(at.process, at.partition);
        let own = held.log.take().unwrap_or_default();
        let all = answers.values().flatten().cloned().chain([own]);
        let longest = all.max_by_key(|log| (log.last().copied(), log.len())).unwrap_or_default();
        let begins = |log: &Option<Vec<Version>>| log.as_ref().is_some_and(|log| longest.starts_with(log));
        let fed: BTreeSet<NodeId> = answers.iter().filter(|(_, log)| begins(log)).map(|(id, _)| id.clone()).collect();
        held.log = Some(longest);
        let wait = if fed.is_empty() { MS } else { 150 * MS };
        if let Some(lead) = &mut held.lead {
            lead.follow(fed, 0);
        }
        self.start_ticking(at.process, at.partition);
        self.due_in(wait, Due::Copying(Step::Gather { at, last: true }));
        self.check_copies(at.partition)
    }
}
