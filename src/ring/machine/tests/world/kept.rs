//! Copies where a node is not the owner, in the simulated world, and what all copies are judged by.
//!
//! A copy that is not wanted is dropped as `Action::Copy` says: where the present owner feeds it, the owner is asked.

use std::collections::BTreeSet;

use super::checker::Checked;
use super::copying::{At, Step};
use super::{MS, World};
use crate::coord::{Claim, ClaimState, Key, LeaseState, Record};
use crate::types::{Epoch, PartitionId};

impl World {
    /// Every recorded member that lives has all that is committed.
    pub(super) fn check_copies(&self, partition: PartitionId) -> Checked {
        let Some(claim) = self.kv.claim(partition).filter(|_| self.replicates) else { return Ok(()) };
        let committed = &self.committed[partition.index()];
        for id in &claim.replicas {
            let Some(process) = self.process_of(id) else { continue };
            let log = self.processes[process].held[partition.index()].log.as_ref();
            let last = committed.len().checked_sub(1);
            let has = last.is_none_or(|last| log.is_some_and(|log| log.get(last) == committed.last()));
            if !has {
                let length = log.map(Vec::len);
                let of = committed.len();
                return Err(format!(
                    "partition {partition}: {id} is recorded in {claim:?} and has {length:?} of {of} writes"
                ));
            }
        }
        Ok(())
    }

    /// A claim is about to be written: what was committed goes on, unless nobody is left that has it.
    pub(super) fn record_claim(&mut self, partition: PartitionId, after: &Claim) -> Checked {
        let Some(before) = self.kv.claim(partition).filter(|_| self.replicates).cloned() else { return Ok(()) };
        let kept = after.replicas.iter().any(|id| before.replicas.contains(id));
        if kept || (before.replicas.is_empty() && self.committed[partition.index()].is_empty()) {
            return Ok(());
        }
        let lives = before.replicas.iter().find(|id| {
            self.kv
                .lease(&id.node)
                .is_some_and(|lease| lease.state == LeaseState::Live && lease.incarnation == id.incarnation)
        });
        let given_up = after.state == ClaimState::Released && after.replicas.is_empty();
        if let Some(id) = lives.filter(|_| !given_up) {
            return Err(format!(
                "partition {partition}: {after:?} records nobody of {:?}, and {id} lives",
                before.replicas
            ));
        }
        self.note(|| format!("partition {partition}: all copies are gone"));
        self.committed[partition.index()].clear();
        Ok(())
    }

    /// Not the owner: a copy belongs here, or not.
    pub(super) fn copy(&mut self, process: usize, partition: PartitionId, epoch: Epoch, wanted: bool) -> Checked {
        let node = &mut self.processes[process];
        node.parts[partition.index()].grant = None;
        let held = &mut node.held[partition.index()];
        held.lead = None;
        held.unwanted = (!wanted).then_some(epoch);
        if wanted || held.promised > epoch || held.log.is_none() {
            return Ok(());
        }
        if held.promised < epoch {
            held.log = None;
            return self.check_copies(partition);
        }
        self.start_asking(process, partition, epoch);
        Ok(())
    }

    pub(super) fn start_asking(&mut self, process: usize, partition: PartitionId, epoch: Epoch) {
        if !std::mem::replace(&mut self.held(process, partition).asking, true) {
            let at = self.at(process, partition, epoch);
            self.later(MS, 200 * MS, Step::AskDrop { at });
        }
    }

    pub(super) fn ask_drop(&mut self, at: At) -> Checked {
        let held = self.held(at.process, at.partition);
        let (fed, asks) = (held.fed, held.unwanted == Some(at.epoch) && held.log.is_some());
        if !asks {
            held.asking = false;
            return Ok(());
        }
        let Some(me) = self.own_id(at.process) else { return Ok(()) };
        let owner = self.kv.claim(at.partition).filter(|claim| claim.epoch == at.epoch);
        let owner =
            owner.and_then(|claim| self.process_of(&claim.owner)).filter(|owner| !self.processes[*owner].paused);
        let lead = owner.and_then(|owner| self.processes[owner].held[at.partition.index()].lead.as_ref());
        if lead.is_some_and(|lead| lead.epoch == at.epoch && !lead.followers.contains_key(&me)) {
            self.later(MS / 10, 100 * MS, Step::MayDrop { at, fed });
        }
        self.later(200 * MS, 400 * MS, Step::AskDrop { at });
        Ok(())
    }

    pub(super) fn may_drop(&mut self, at: At, fed: u64) -> Checked {
        let held = self.held(at.process, at.partition);
        if held.unwanted == Some(at.epoch) && held.fed == fed && held.promised == at.epoch {
            held.log = None;
        }
        self.check_copies(at.partition)
    }

    /// A partition whose copies are not where the plan wants them, or not as many as can be.
    pub(super) fn misplaced_copy(&self) -> Option<String> {
        let Some((_, Record::Plan(plan))) = self.kv.records.get(&Key::Plan) else {
            return None;
        };
        self.partitions.ids().filter(|_| self.replicates).find_map(|partition| {
            let claim = self.kv.claim(partition)?;
            let have: BTreeSet<_> = claim.replicas.iter().map(|id| &id.node).collect();
            let want: BTreeSet<_> = plan.rows[partition.index()].iter().collect();
            let possible = plan.config.factor().get().min(plan.members.len());
            let few = plan.config.cordoned.is_empty() && have.len() != possible;
            (have != want || few).then(|| format!("partition {partition} has copies at {have:?}, planned are {want:?}"))
        })
    }
}
