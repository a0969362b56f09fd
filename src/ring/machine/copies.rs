//! The in-sync set of a partition that is owned here: who is in it, who is brought up to date, and how it changes.
//!
//! In: the plan, and what is told of the followers. Out: the set as the owner is to hold it ([`Action::Replicate`]), and
//! one compare-and-set at a time that records another. First both sets have to have each write; then who is added has all
//! that was written before; only then it is sent, and both sets go on until it is settled. Like a claim, one without an
//! answer is settled by its acknowledgement or a later revision only.

use std::collections::{BTreeMap, BTreeSet};

use super::partition::Phase;
use super::{Action, Event, Machine, OpId};
use crate::coord::{CasError, Claim, Key, Record, Revision};
use crate::ring::event::RemovalReason;
use crate::ring::io::CopySet;
use crate::types::guard::{self, Guard};
use crate::types::{Epoch, NodeId, PartitionId, Time};

/// The same claim with another set or state, on its way to the store.
#[derive(Debug, Clone, Hash)]
pub(super) struct ClaimChange {
    pub(super) op: Option<OpId>,
    pub(super) expected: Revision,
    pub(super) claim: Claim,
    pub(super) retry_at: Time,
    /// Added members that do not have all yet that was written before they were named as such: it is not sent before.
    pub(super) awaits: BTreeSet<NodeId>,
    /// The [`Action::Replicate`] that named them.
    pub(super) told: Option<OpId>,
}

/// Who is brought up to date.
#[derive(Debug, Clone, Default, Hash)]
struct Learner {
    /// The [`Action::Replicate`] it was first named by.
    since: Option<OpId>,
    caught_up: bool,
}

/// When a follower was last reported silent.
#[derive(Debug, Clone, Hash)]
struct Silence {
    /// It has not caught up since.
    lasts: bool,
    failures: u32,
    at: Time,
    /// It does not learn again before.
    until: Time,
}

/// What is remembered of a partition's copies.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Copies {
    pub(super) change: Option<ClaimChange>,
    learners: BTreeMap<NodeId, Learner>,
    silent: BTreeMap<NodeId, Silence>,
    told: Option<(Epoch, CopySet)>,
    /// Not the owner: the claim's epoch, and whether a copy belongs here, as last told.
    kept: Option<(Epoch, bool)>,
    /// The claim whose set is gone altogether, as last told.
    pub(super) loss_told: Option<Revision>,
    /// The claim whose owner is gone, and since when that is known here.
    pub(super) orphaned: Option<(Revision, Time)>,
    /// Nobody is left of its set: until when it is waited for all the same, as last told.
    pub(super) empty_at: Option<Time>,
}

impl Copies {
    /// The next moments that it waits for.
    pub(super) fn wakes(&self) -> impl Iterator<Item = Time> {
        let change = self.change.as_ref().filter(|change| change.op.is_none()).map(|change| change.retry_at);
        change
            .into_iter()
            .chain(self.empty_at)
            .chain(self.silent.values().filter(|silence| silence.lasts).map(|silence| silence.until))
    }

    /// A new ownership begins.
    pub(super) fn begin(&mut self) {
        let silent = std::mem::take(&mut self.silent);
        *self = Self { silent, ..Self::default() };
    }

    /// Who is brought up to date, and whether it has everything.
    pub(super) fn learners(&self) -> impl Iterator<Item = (&NodeId, bool)> {
        self.learners.iter().map(|(id, learner)| (id, learner.caught_up))
    }

    fn is_away(&self, id: &NodeId, now: Time) -> bool {
        self.silent.get(id).is_some_and(|silence| silence.lasts && now < silence.until)
    }

    fn is_silent(&self, id: &NodeId) -> bool {
        self.silent.get(id).is_some_and(|silence| silence.lasts)
    }
}

impl Machine {
    /// Whether partitions have copies: all members of the plan know how to keep them.
    pub(super) fn is_replicating(&self) -> bool {
        let plan = self.view.plan.as_ref().filter(|_| self.who.replicates && self.plan_is_current());
        plan.is_some_and(|plan| plan.record.members.iter().all(|member| member.replicates))
    }

    /// The set the claim records, where this node holds it.
    pub(super) fn own_set(&self, partition: PartitionId) -> &[NodeId] {
        let held =
            self.view.claims.get(&partition).filter(|seen| seen.record.holder().is_some_and(|id| self.is_me(id)));
        held.map_or(&[], |seen| &seen.record.replicas)
    }

    /// Whether it is a member of the set of a partition owned here, so that it can be moved there.
    pub(super) fn is_member(&self, partition: PartitionId, id: &NodeId) -> bool {
        self.own_set(partition).contains(id)
    }

    /// This node first, then the others by name.
    pub(super) fn set_of(&self, ids: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
        let others: BTreeSet<NodeId> = ids.into_iter().filter(|id| !self.is_me(id)).collect();
        self.id().into_iter().chain(others).collect()
    }

    /// Who the plan wants copies at, this node included where it is; `None` where it says nothing: nobody could be
    /// planned for, as when all seem to be suspended.
    fn wanted(&self, partition: PartitionId) -> Option<BTreeSet<NodeId>> {
        if !self.is_replicating() {
            return Some(BTreeSet::new());
        }
        let row = self.view.plan.as_ref()?.record.rows.get(partition.index()).filter(|row| !row.is_empty())?;
        let members = row.iter().filter_map(|name| self.view.plan_member(name));
        Some(members.filter(|id| self.is_live_target(id)).cloned().collect())
    }

    /// Brings a partition that is served here, and its set, towards the plan.
    pub(super) fn tend(&mut self, partition: PartitionId, epoch: Epoch, revision: Revision) {
        self.choose_learners(partition);
        self.drop_vain_change(partition);
        if self.slot(partition).copies.change.is_some() {
            self.send_change(partition);
        } else {
            let next = self.next_set(partition);
            let broken = next.as_ref().is_some_and(|_| self.has_unfit_member(partition));
            // Who does not answer would hold the move up.
            if !broken {
                self.consider_move(partition, epoch, revision);
            }
            let serving = matches!(self.slot(partition).phase, Phase::Serving { .. });
            // With time to hear what became of it: until that is settled, both sets have to have each write.
            if let Some(next) = next.filter(|_| serving && self.may_claim()) {
                self.begin_change(partition, revision, next);
            }
        }
        self.tell_copies(partition);
    }

    /// What this node wrote itself goes on from there; answers the revision of its claim.
    pub(super) fn adopt_change(&mut self, partition: PartitionId, epoch: Epoch, revision: Revision) -> Revision {
        let Some(seen) = self.view.claims.get(&partition) else { return revision };
        let (claim, newest) = (&seen.record, seen.revision);
        let own = claim.epoch == epoch && claim.holder().is_some_and(|id| self.is_me(id));
        if !self.who.replicates || newest <= revision || !own {
            return revision;
        }
        self.slots[partition.index()].copies.change = None;
        self.set_phase(partition, Phase::Serving { epoch, revision: newest });
        self.tell_copies(partition);
        newest
    }

    fn is_fit(&self, partition: PartitionId, id: &NodeId) -> bool {
        self.is_me(id) || (self.is_live_target(id) && !self.slot(partition).copies.is_silent(id))
    }

    fn has_unfit_member(&self, partition: PartitionId) -> bool {
        self.own_set(partition).iter().any(|id| !self.is_fit(partition, id))
    }

    fn choose_learners(&mut self, partition: PartitionId) {
        let (members, now) = (self.own_set(partition), self.now);
        let may_learn =
            |id: &NodeId| !self.is_me(id) && !members.contains(id) && !self.slot(partition).copies.is_away(id, now);
        let wanted: BTreeSet<NodeId> =
            self.wanted(partition).unwrap_or_default().into_iter().filter(may_learn).collect();
        if self.slot(partition).copies.learners.keys().eq(&wanted) {
            return;
        }
        let learners = &mut self.slots[partition.index()].copies.learners;
        learners.retain(|id, _| wanted.contains(id));
        for id in wanted {
            learners.entry(id).or_default();
        }
    }

    /// The set there should be instead of the one recorded, if any: without who is gone or silent, with the learners
    /// that have everything, and without who is not wanted once all are there that are.
    fn next_set(&self, partition: PartitionId) -> Option<Vec<NodeId>> {
        if !self.plan_is_current() {
            return None;
        }
        let (members, copies) = (self.own_set(partition), &self.slot(partition).copies);
        if self.has_unfit_member(partition) {
            // Nobody waits for those longer than it takes to record that.
            let fit = members.iter().filter(|id| self.is_fit(partition, id));
            return Some(self.set_of(fit.cloned()));
        }
        let ready = |learner: &Learner| learner.caught_up || !guard::holds(Guard::CaughtUpFirst);
        let caught_up = copies.learners.iter().filter(|(_, learner)| ready(learner)).map(|(id, _)| id);
        let mut next: BTreeSet<NodeId> = members.iter().chain(caught_up).cloned().collect();
        if let Some(wanted) = self.wanted(partition)
            && wanted.iter().all(|id| self.is_me(id) || next.contains(id))
        {
            next = wanted;
        }
        let next = self.set_of(next);
        let differs = next.len() != members.len() || next.iter().any(|id| !members.contains(id));
        (differs && !members.is_empty()).then_some(next)
    }

    fn begin_change(&mut self, partition: PartitionId, expected: Revision, replicas: Vec<NodeId>) {
        let Some(seen) = self.view.claims.get(&partition) else { return };
        let both = guard::holds(Guard::PendingBeforeChange) && guard::holds(Guard::JoinedBeforeChange);
        let added = replicas.iter().filter(|id| both && !seen.record.replicas.contains(id));
        let awaits = added.cloned().collect();
        let claim = Claim { replicas, ..seen.record.clone() };
        let change = ClaimChange { awaits, ..ClaimChange::new(expected, claim, self.now) };
        self.slots[partition.index()].copies.change = Some(change);
        self.tell_copies(partition);
        self.send_change(partition);
    }

    /// What was not sent yet is given up where it waits for a node that should not be added any more, or where somebody
    /// is to be removed at once.
    fn drop_vain_change(&mut self, partition: PartitionId) {
        let Some(change) = &self.slot(partition).copies.change else { return };
        if change.awaits.is_empty() {
            return;
        }
        let wanted = self.wanted(partition).unwrap_or_default();
        let vain = |id: &NodeId| !wanted.contains(id) || !self.is_fit(partition, id);
        if change.awaits.iter().any(vain) || self.has_unfit_member(partition) {
            self.slots[partition.index()].copies.change = None;
        }
    }

    fn send_change(&mut self, partition: PartitionId) {
        let due = self.slot(partition).copies.change.as_ref().is_some_and(|change| self.is_due(change));
        if !due {
            return;
        }
        let (op, timeout) = (self.op(), self.timing.lease / 2);
        if let Some(change) = &mut self.slots[partition.index()].copies.change {
            change.op = Some(op);
            self.out.push(change.write(partition, timeout));
            self.slots.write_sent(op, partition);
        }
    }

    /// Whether it is to be sent, once more or for the first time.
    pub(super) fn is_due(&self, change: &ClaimChange) -> bool {
        change.awaits.is_empty() && change.op.is_none() && self.now >= change.retry_at && self.may_act()
    }

    /// Outcome of a change of the set. A refusal says nothing: one sent before may have landed, the watch tells.
    pub(super) fn change_done(&mut self, partition: PartitionId, result: &Result<Revision, CasError>) {
        let retry_at = self.now + self.timing.beat();
        let copies = &mut self.slots[partition.index()].copies;
        let Some(change) = &mut copies.change else { return };
        (change.op, change.retry_at) = (None, retry_at);
        match result {
            Ok(revision) => {
                let claim = change.claim.clone();
                self.view.apply(Key::Own(partition), *revision, Record::Own(claim));
            }
            Err(_) if !guard::holds(Guard::UnsettledSet) => copies.change = None,
            Err(_) => {}
        }
    }

    /// Tells of the set of a partition owned here, where anything of it changed.
    pub(super) fn tell_copies(&mut self, partition: PartitionId) {
        let Some(epoch) = self.owned_epoch(partition).filter(|_| self.who.replicates) else { return };
        let in_sync = self.own_set(partition).to_vec();
        if in_sync.is_empty() {
            return;
        }
        let copies = &self.slot(partition).copies;
        let pending = copies.change.as_ref().filter(|_| guard::holds(Guard::PendingBeforeChange));
        let pending = pending.map(|change| change.claim.replicas.clone());
        let added = |id: &&NodeId| pending.as_ref().is_some_and(|pending| pending.contains(id));
        let learners = copies.learners.keys().filter(|id| !added(id) && !in_sync.contains(id)).cloned().collect();
        let config = self.view.plan.as_ref().map(|plan| plan.record.config.clone()).unwrap_or_default();
        let (factor, consistency) = (config.factor().get(), config.consistency);
        let told = Some((epoch, CopySet { in_sync, pending, learners, factor, consistency }));
        if copies.told == told {
            return;
        }
        self.tell_of_members(partition, told.as_ref().map(|(_, set)| set));
        let op = self.op();
        let copies = &mut self.slots[partition.index()].copies;
        copies.learners.values_mut().for_each(|learner| _ = learner.since.get_or_insert(op));
        copies.change.iter_mut().for_each(|change| _ = change.told.get_or_insert(op));
        copies.told = told.clone();
        if let Some((epoch, copies)) = told {
            self.out.push(Action::Replicate { op, partition, epoch, copies });
        }
    }

    /// Events for who came and who went since the set was told last.
    fn tell_of_members(&mut self, partition: PartitionId, now: Option<&CopySet>) {
        let copies = &self.slot(partition).copies;
        let (Some(now), Some((_, before))) = (now, &copies.told) else { return };
        let why = |id: &NodeId| match () {
            () if !self.is_live_target(id) => RemovalReason::Gone,
            () if copies.is_silent(id) => RemovalReason::Silent,
            () => RemovalReason::Unplanned,
        };
        let removed = before.in_sync.iter().filter(|id| !now.in_sync.contains(id));
        let removed = removed.map(|id| Event::ReplicaRemoved { partition, node: id.node.clone(), why: why(id) });
        let added = now.in_sync.iter().filter(|id| !before.in_sync.contains(id));
        let added = added.map(|id| Event::ReplicaAdded { partition, node: id.node.clone() });
        let events: Vec<Event> = removed.chain(added).collect();
        events.into_iter().for_each(|event| self.emit(event));
    }

    /// At which epoch the partition is owned here.
    pub(super) fn owned_epoch(&self, partition: PartitionId) -> Option<Epoch> {
        match &self.slot(partition).phase {
            Phase::Owned { epoch, .. } | Phase::Starting { epoch, .. } | Phase::Serving { epoch, .. } => Some(*epoch),
            Phase::Moving(moving) => Some(moving.epoch),
            _ => None,
        }
    }

    pub(super) fn caught_up(&mut self, partition: PartitionId, epoch: Epoch, node: &NodeId, op: OpId) {
        if !self.who.partitions.contains(partition) || self.owned_epoch(partition) != Some(epoch) {
            return;
        }
        let copies = &mut self.slots[partition.index()].copies;
        if let Some(change) = &mut copies.change
            && (change.told.is_some_and(|told| told <= op) || !guard::holds(Guard::CaughtUpSince))
        {
            change.awaits.remove(node);
        }
        let Some(learner) = copies.learners.get_mut(node) else { return };
        let since_then = learner.since.is_some_and(|since| since <= op);
        if since_then || !guard::holds(Guard::CaughtUpSince) {
            learner.caught_up = true;
            if let Some(silence) = copies.silent.get_mut(node) {
                silence.lasts = false;
            }
        }
    }

    /// A follower does not answer: it leaves the set or the learners, and learns again after a while.
    pub(super) fn silent(&mut self, partition: PartitionId, epoch: Epoch, node: &NodeId) {
        if !self.who.partitions.contains(partition) || self.owned_epoch(partition) != Some(epoch) {
            return;
        }
        let (now, calm) = (self.now, self.timing.backoff_max);
        let (view, slots) = (&self.view, &mut self.slots);
        let silent = &mut slots[partition.index()].copies.silent;
        // Of a name that has come back nobody asks for the incarnation before.
        silent.retain(|id, _| view.plan_member(&id.node).is_none_or(|known| known == id));
        let before = silent.get(node).filter(|silence| now.since(silence.at) < calm);
        let failures = before.map_or(0, |silence| silence.failures) + 1;
        let until = now + self.timing.backoff_after(failures);
        silent.insert(node.clone(), Silence { lasts: true, failures, at: now, until });
        if self.is_member(partition, node) {
            self.move_held_up(partition, node);
        }
    }

    /// A member answers again: while nobody could record that it did not, it stayed one.
    pub(super) fn heard(&mut self, partition: PartitionId, epoch: Epoch, node: &NodeId) {
        let owned = self.who.partitions.contains(partition) && self.owned_epoch(partition) == Some(epoch);
        if !owned || !self.is_member(partition, node) {
            return;
        }
        if let Some(silence) = self.slots[partition.index()].copies.silent.get_mut(node) {
            silence.lasts = false;
        }
    }

    /// Not the owner: tells whether a copy belongs here, where that or the claim's epoch changed.
    pub(super) fn tell_kept(&mut self, partition: PartitionId) {
        let Some(me) = self.id().filter(|_| self.who.replicates) else { return };
        let claim = self.view.claims.get(&partition).map(|seen| &seen.record);
        let epoch = claim.map_or(Epoch::ZERO, |claim| claim.epoch);
        let listed = claim.is_some_and(|claim| claim.replicas.contains(&me));
        let wanted = listed || (self.is_replicating() && self.is_planned_copy(partition, &me));
        // A plan that does not know this incarnation says nothing of its copies: it has not joined yet, or is taken for gone and
        // comes back as the next one, which goes on from what is here.
        if !wanted && self.view.plan_member(&me.node) != Some(&me) {
            return;
        }
        if self.slot(partition).copies.kept != Some((epoch, wanted)) {
            self.slots[partition.index()].copies.kept = Some((epoch, wanted));
            self.out.push(Action::Copy { partition, epoch, wanted });
        }
    }

    fn is_planned_copy(&self, partition: PartitionId, id: &NodeId) -> bool {
        let row = self.view.plan.as_ref().and_then(|plan| plan.record.rows.get(partition.index()));
        row.is_some_and(|row| row.contains(&id.node)) && self.view.plan_member(&id.node) == Some(id)
    }

    /// Whether any claim names this node as one that has a copy: it does not leave before that is over.
    pub(super) fn is_listed_anywhere(&self) -> bool {
        self.who.replicates && self.id().is_some_and(|me| self.view.is_listed(&me))
    }
}

impl ClaimChange {
    /// This claim instead of the one at `expected`, to be sent at once.
    pub(super) fn new(expected: Revision, claim: Claim, now: Time) -> Self {
        Self { op: None, expected, claim, retry_at: now, awaits: BTreeSet::new(), told: None }
    }

    /// As it is sent.
    pub(super) fn write(&self, partition: PartitionId, timeout: std::time::Duration) -> Action {
        Action::Cas {
            op: self.op.unwrap_or(OpId(0)),
            key: Key::Own(partition),
            expected: self.expected,
            record: Record::Own(self.claim.clone()),
            heartbeat: false,
            subscribe: None,
            timeout,
        }
    }
}
