//! Taking over what an owner left behind: who may, and gathering the state from the members that survive.
//!
//! In: a claim whose owner is gone, or that was given back, and the plan. Out: a claim that is *recovering*, then the
//! survivors' state together ([`Action::Recover`]), then the claim held with the set that has it all. A recovering claim
//! whose owner dies is taken over the same way: every survivor it records still has all that was committed.

use std::time::Duration;

use super::copies::ClaimChange;
use super::partition::{Bid, Phase};
use super::report::{Wait, WaitReport};
use super::{Action, Event, Machine};
use crate::coord::{CasError, Claim, ClaimState, Key, OnLoss, PlanMember, Record, Revision};
use crate::ring::event::Origin;
use crate::types::guard::{self, Guard};
use crate::types::{Epoch, NodeId, PartitionId};

/// What there is to take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Estate {
    /// Nothing that anybody has a copy of.
    Nothing,
    /// There were copies, and all of them are gone.
    Lost,
    /// These members survive.
    Survivors(Vec<NodeId>),
}

impl Machine {
    /// What this node would take over with the partition; `None` where it is not this node's to claim.
    pub(super) fn estate(&mut self, partition: PartitionId, me: &NodeId, own_already: bool) -> Option<Estate> {
        let planned = self.plan_is_current() && self.planned(partition).as_ref() == Some(me);
        let seen = self.view.claims.get(&partition).filter(|_| self.who.replicates);
        // Nobody was left to take it as its last owner left: there were copies, and all of them are gone.
        let given_up = seen.filter(|seen| seen.record.replicas.is_empty()).map(|seen| seen.revision);
        if let Some(revision) = given_up.filter(|_| planned && self.waits_for_operators()) {
            self.tell_loss(partition, revision);
            return None;
        }
        let Some(seen) = seen.filter(|_| given_up.is_none()) else {
            return (planned || own_already).then_some(Estate::Nothing);
        };
        let (claim, revision) = (seen.record.clone(), seen.revision);
        let ended = self.has_set_ended(partition, &claim, revision);
        let survivors = self.survivors(&claim);
        let member = survivors.contains(me);
        if own_already {
            return Some(Estate::Survivors(survivors));
        }
        if !self.is_replicating() {
            let estate = if member { Estate::Survivors(survivors) } else { Estate::Nothing };
            return (planned && (member || ended || self.tell_wait(partition))).then_some(estate);
        }
        if !guard::holds(Guard::TakeoverByMember) {
            return planned.then_some(Estate::Survivors(survivors));
        }
        if !survivors.is_empty() {
            return (self.heir(partition, &survivors) == Some(me)).then_some(Estate::Survivors(survivors));
        }
        if !claim.replicas.iter().all(|id| self.view.plan_says_gone(id)) || !planned {
            return None;
        }
        match self.view.plan.as_ref().map(|plan| plan.record.config.on_loss) {
            Some(OnLoss::Accept) => (ended || self.tell_wait(partition)).then_some(Estate::Lost),
            _ => {
                self.tell_loss(partition, revision);
                None
            }
        }
    }

    /// Whether nobody can go on any more with what a set had whose owner is gone. One that is cut off from the store may, by
    /// what all its members confirm; not the owner alone. Who is merely recovering may have claimed without having promised
    /// anything to the set before: that one may go on.
    fn has_set_ended(&mut self, partition: PartitionId, claim: &Claim, revision: Revision) -> bool {
        if cannot_go_on(claim) || !guard::holds(Guard::WaitBeforeEmptyStart) {
            return true;
        }
        if !self.view.plan_says_gone(&claim.owner) {
            return false;
        }
        let known = self.slot(partition).copies.orphaned.filter(|(of, _)| *of == revision);
        let (_, since) = known.unwrap_or_else(|| (revision, self.unrenewed_since(claim)));
        if known.is_none() {
            self.slots[partition.index()].copies.orphaned = Some((revision, since));
        }
        self.now >= since + self.timing.set_ends_after()
    }

    /// What a partition without an owner waits for, whichever node is to start it: all that its claim records are gone.
    pub fn waits(&self, partition: PartitionId) -> Option<WaitReport> {
        let seen = self.view.claims.get(&partition)?;
        let claim = &seen.record;
        let gone = |id: &NodeId| self.view.plan_says_gone(id);
        let given_up = claim.replicas.is_empty() && claim.state == ClaimState::Released;
        if !given_up && (claim.replicas.is_empty() || !claim.replicas.iter().all(gone)) {
            return None;
        }
        let had = claim.replicas.iter().chain(given_up.then_some(&claim.owner));
        let lost = had.map(|id| id.node.clone()).collect();
        if self.waits_for_operators() {
            return Some(WaitReport { wait: Wait::Acceptance, lost });
        }
        let (_, since) = self.slot(partition).copies.orphaned.filter(|(of, _)| *of == seen.revision)?;
        let left = (since + self.timing.set_ends_after()).since(self.now);
        let waits = !cannot_go_on(claim) && !left.is_zero();
        waits.then_some(WaitReport { wait: Wait::EmptyStart { left }, lost })
    }

    /// Whether a loss is not accepted, where there are copies.
    fn waits_for_operators(&self) -> bool {
        let plan = self.view.plan.as_ref().filter(|_| self.is_replicating());
        plan.is_some_and(|plan| plan.record.config.on_loss == OnLoss::Wait)
    }

    /// Tells, once, until when it is waited for a set of which nobody is left. No.
    fn tell_wait(&mut self, partition: PartitionId) -> bool {
        let copies = &self.slot(partition).copies;
        let at = copies.orphaned.map(|(_, since)| since + self.timing.set_ends_after());
        if let Some(at) = at.filter(|at| copies.empty_at != Some(*at)) {
            self.slots[partition.index()].copies.empty_at = Some(at);
            self.emit(Event::StartsEmptyLater { partition, after: at.since(self.now) });
        }
        false
    }

    /// The recorded members that live by the plan, in that incarnation.
    fn survivors(&self, claim: &Claim) -> Vec<NodeId> {
        if !guard::holds(Guard::MemberByIncarnation) {
            let named = claim.replicas.iter().filter_map(|id| self.view.plan_member(&id.node));
            return named.cloned().collect();
        }
        claim.replicas.iter().filter(|id| self.is_live_target(id) || self.is_me(id)).cloned().collect()
    }

    /// Who of the survivors takes over: the first of them in the plan's row, else one that could start it and stays.
    fn heir<'a>(&self, partition: PartitionId, survivors: &'a [NodeId]) -> Option<&'a NodeId> {
        let plan = self.view.plan.as_ref()?;
        let row = plan.record.rows.get(partition.index())?;
        let named = row.iter().find_map(|name| survivors.iter().find(|id| id.node == *name));
        let rank = |id: &&NodeId| {
            let member: Option<&PlanMember> = plan.record.members.iter().find(|member| member.id == **id);
            let unable = member.is_none_or(|member| member.excluded.contains(&partition));
            (unable, member.is_none_or(|member| member.draining), id.node.clone())
        };
        named.or_else(|| survivors.iter().min_by_key(rank))
    }

    fn tell_loss(&mut self, partition: PartitionId, revision: Revision) {
        if self.slot(partition).copies.loss_told != Some(revision) {
            self.slots[partition.index()].copies.loss_told = Some(revision);
            self.emit(Event::Lost { partition, accepted: false });
        }
    }

    /// The claim to send for what is taken over.
    pub(super) fn bid_for(
        &mut self,
        partition: PartitionId,
        estate: Estate,
        at: (Revision, Epoch),
        origin: Origin,
    ) -> Bid {
        let (expected, epoch) = at;
        let (replicas, state) = match estate {
            Estate::Survivors(survivors) => (survivors, ClaimState::Recovering),
            Estate::Nothing => (Vec::new(), ClaimState::Held),
            Estate::Lost => {
                self.emit(Event::Lost { partition, accepted: true });
                (Vec::new(), ClaimState::Held)
            }
        };
        Bid { expected, epoch, origin, replicas, state, abandoned: None }
    }

    /// A recovering claim is this node's: gathers the state.
    pub(super) fn begin_recovery(&mut self, partition: PartitionId, epoch: Epoch, revision: Revision, origin: Origin) {
        let survivors = self.own_set(partition).to_vec();
        self.set_phase(partition, Phase::Recovering { epoch, revision, origin, held: None });
        self.emit(Event::Recovering { partition });
        self.out.push(Action::Recover { partition, epoch, survivors });
    }

    /// The state is here and at these survivors: the set from now on, once it is recorded.
    pub(super) fn recovered(&mut self, partition: PartitionId, epoch: Epoch, result: Result<Vec<NodeId>, String>) {
        if !self.who.partitions.contains(partition) {
            return;
        }
        let Phase::Recovering { epoch: known, revision, held: None, .. } = &self.slot(partition).phase else { return };
        let (known, expected, now) = (*known, *revision, self.now);
        if known != epoch {
            return;
        }
        let in_sync = match result {
            Ok(in_sync) => in_sync,
            Err(reason) => return self.give_up_recovery(partition, (epoch, expected), reason),
        };
        let Some(seen) = self.view.claims.get(&partition) else { return };
        let recorded = &seen.record.replicas;
        let replicas = self.set_of(in_sync.into_iter().filter(|id| recorded.contains(id)));
        let claim = Claim { replicas, state: ClaimState::Held, ..seen.record.clone() };
        if let Phase::Recovering { held, .. } = &mut self.slots[partition.index()].phase {
            *held = Some(Box::new(ClaimChange::new(expected, claim, now)));
        }
    }

    /// What this node has is no copy: another member goes on, if there is one.
    fn give_up_recovery(&mut self, partition: PartitionId, held: (Epoch, Revision), reason: String) {
        let others: Vec<NodeId> = self.own_set(partition).iter().filter(|id| !self.is_me(id)).cloned().collect();
        let accepted = self.view.plan.as_ref().is_some_and(|plan| plan.record.config.on_loss == OnLoss::Accept);
        self.emit(Event::RecoveryFailed { partition, reason });
        if others.is_empty() {
            self.emit(Event::Lost { partition, accepted });
        }
        let kept = if others.is_empty() && !accepted { self.own_set(partition).to_vec() } else { others };
        self.exclude_for_now(partition);
        self.release_claim(partition, held, kept);
    }

    pub(super) fn advance_recovery(&mut self, partition: PartitionId) {
        let Phase::Recovering { epoch, revision, origin, held } = &self.slot(partition).phase else { return };
        let (epoch, revision, origin) = (*epoch, *revision, *origin);
        if let Some(seen) = self.view.claims.get(&partition)
            && seen.revision > revision
        {
            let (mine, revision) = (held.as_ref().is_some_and(|held| held.claim == seen.record), seen.revision);
            if !mine {
                return self.lose_partition(partition);
            }
            self.set_phase(partition, Phase::Owned { epoch, revision, origin });
            return self.tell_copies(partition);
        }
        if held.as_ref().is_none_or(|held| !self.is_due(held)) {
            return;
        }
        let (op, timeout): (_, Duration) = (self.op(), self.timing.lease / 2);
        if let Phase::Recovering { held: Some(held), .. } = &mut self.slots[partition.index()].phase {
            held.op = Some(op);
            self.out.push(held.write(partition, timeout));
            self.slots.write_sent(op, partition);
        }
    }

    /// Outcome of recording the recovered set.
    pub(super) fn recovery_done(&mut self, partition: PartitionId, result: &Result<Revision, CasError>) {
        let retry_at = self.now + self.timing.beat();
        let Phase::Recovering { held: Some(held), .. } = &mut self.slots[partition.index()].phase else { return };
        (held.op, held.retry_at) = (None, retry_at);
        if let Ok(revision) = result {
            let claim = held.claim.clone();
            self.view.apply(Key::Own(partition), *revision, Record::Own(claim));
        }
    }
}

/// Whether the claim's set cannot go on by itself once its owner is gone: it was given back, or was the owner alone.
fn cannot_go_on(claim: &Claim) -> bool {
    claim.state == ClaimState::Released || (claim.state == ClaimState::Held && claim.replicas.len() < 2)
}
