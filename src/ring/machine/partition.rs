//! One partition at this node: claiming it, starting and serving it, giving it back, losing it.
//!
//! The claim in the store is the truth; a phase is where this node stands towards it. Each change of owner is one
//! compare-and-set at the revision last seen. One that timed out may still land: until a later revision of the key is
//! seen, or the same write is acknowledged or refused, the partition stays parked.

use super::copies::{ClaimChange, Copies};
use super::moves::{Move, Step};
use super::recovery::Estate;
use super::{Action, Event, Machine, OpId};
use crate::coord::{CasError, Claim, ClaimState, Key, Record, Revision};
use crate::ring::event::Origin;
use crate::ring::settings::Timing;
use crate::service::Release;
use crate::types::guard::{self, Guard};
use crate::types::{Epoch, NodeId, PartitionId, Time};

/// A claim being written.
#[derive(Debug, Clone, Hash)]
pub(super) struct Claiming {
    pub(super) op: Option<OpId>,
    pub(super) expected: Revision,
    pub(super) claim: Claim,
    pub(super) origin: Origin,
    pub(super) unsettled: bool,
    pub(super) retry_at: Time,
    /// The move that is being abandoned by this claim, if so: should the target win, it is finished after all.
    pub(super) abandoned: Option<Move>,
}

impl Claiming {
    /// Whether a conflict is no proof that it lost: one sent before may have won, and a switch is not taken for made
    /// on a refusal that a change of the store's leader may have caused.
    fn awaits_the_watch(&self) -> bool {
        self.unsettled || (self.abandoned.is_some() && guard::holds(Guard::ConflictOfAbandoned))
    }
}

/// A claim to be made: at which revision, of which epoch, and what it is to record. Without replicas: this node alone.
pub(super) struct Bid {
    pub(super) expected: Revision,
    pub(super) epoch: Epoch,
    pub(super) origin: Origin,
    pub(super) replicas: Vec<NodeId>,
    pub(super) state: ClaimState,
    pub(super) abandoned: Option<Move>,
}

/// A hook that runs.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct Hook {
    pub(super) op: OpId,
    pub(super) since: Time,
    pub(super) reported: bool,
}

/// Where this node stands towards a partition.
#[derive(Debug, Clone, Default, Hash)]
pub(super) enum Phase {
    /// Not the owner, nothing under way.
    #[default]
    Away,
    /// Its claim is on the way; requests are parked.
    Claiming(Claiming),
    /// The claim is recovering: the state is gathered, then the set that has it is recorded.
    Recovering { epoch: Epoch, revision: Revision, origin: Origin, held: Option<Box<ClaimChange>> },
    /// The claim is held, `on_own` waits for the end of this step to be called with others.
    Owned { epoch: Epoch, revision: Revision, origin: Origin },
    /// `on_own` runs.
    Starting { hook: Hook, epoch: Epoch, revision: Revision, origin: Origin },
    /// Requests are executed.
    Serving { epoch: Epoch, revision: Revision },
    /// A planned move away is under way.
    Moving(Move),
    /// Being given back to nobody: the claim is written as released.
    Releasing { op: Option<OpId>, expected: Revision, claim: Claim, retry_at: Time },
    /// Lost while `on_own` runs: `on_release` must wait for it.
    LostWhileStarting { hook: Hook, epoch: Epoch },
    /// `on_release(Lost)` runs.
    Losing { hook: Hook },
}

/// A partition at this node.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Slot {
    pub(super) phase: Phase,
    /// No move is begun before.
    pub(super) move_retry_at: Time,
    pub(super) move_failures: u32,
    /// A claim at this revision was refused; wait for the watch to show a later one, or for the time to pass.
    refused_at: Option<(Revision, Time)>,
    pub(super) excluded_until: Option<Time>,
    start_failures: u32,
    pub(super) copies: Copies,
}

impl Slot {
    pub(super) fn is_excluded(&self, now: Time) -> bool {
        self.excluded_until.is_some_and(|until| now < until)
    }

    pub(super) fn hook(&self) -> Option<(&'static str, &Hook)> {
        match &self.phase {
            Phase::Starting { hook, .. } | Phase::LostWhileStarting { hook, .. } => Some(("on_own", hook)),
            Phase::Losing { hook } => Some(("on_release", hook)),
            Phase::Moving(Move { step: Step::Releasing { hook }, .. }) => Some(("on_release", hook)),
            _ => None,
        }
    }

    /// The next moment after `now` that it waits for.
    pub(super) fn next_wake(&self, timing: &Timing, now: Time) -> Option<Time> {
        let hook = self.hook().map(|(_, hook)| {
            let after = if hook.reported { timing.hook_limit } else { timing.hook_slow.min(timing.hook_limit) };
            hook.since + after
        });
        let phase = match &self.phase {
            Phase::Claiming(claiming) if claiming.op.is_none() => Some(claiming.retry_at),
            Phase::Releasing { op: None, retry_at, .. } => Some(*retry_at),
            Phase::Moving(moving) => Some(moving.deadline),
            Phase::Serving { .. } => Some(self.move_retry_at),
            Phase::Away => self.excluded_until,
            Phase::Recovering { held: Some(held), .. } if held.op.is_none() => Some(held.retry_at),
            _ => None,
        };
        let refused = self.refused_at.map(|(_, until)| until);
        [hook, phase, refused].into_iter().flatten().chain(self.copies.wakes()).filter(|at| *at > now).min()
    }
}

impl Machine {
    /// Brings one partition a step towards the plan.
    pub(super) fn reconcile(&mut self, partition: PartitionId) {
        self.check_hook(partition);
        match &self.slot(partition).phase {
            Phase::Away => {
                self.consider_claiming(partition);
                if matches!(self.slot(partition).phase, Phase::Away) {
                    self.tell_kept(partition);
                }
            }
            Phase::Claiming(_) => self.advance_claim(partition),
            Phase::Serving { epoch, revision } => {
                let (epoch, revision) = (*epoch, *revision);
                let revision = self.adopt_change(partition, epoch, revision);
                if self.superseded(partition, revision) {
                    self.lose_partition(partition);
                } else if self.who.replicates {
                    self.tend(partition, epoch, revision);
                } else {
                    self.consider_move(partition, epoch, revision);
                }
            }
            Phase::Owned { revision, .. } | Phase::Starting { revision, .. } => {
                let revision = *revision;
                if self.superseded(partition, revision) {
                    self.lose_partition(partition);
                }
            }
            Phase::Recovering { .. } => self.advance_recovery(partition),
            Phase::Moving(_) => self.advance_move(partition),
            Phase::Releasing { .. } => self.advance_release(partition),
            Phase::LostWhileStarting { .. } | Phase::Losing { .. } => {}
        }
    }

    /// Whether a later revision of the claim names somebody else: not this node's to serve any more, whatever it
    /// believed. Its lease has ended then, and it cannot act: it only has not heard of that yet (`docs/guards.md`).
    fn superseded(&self, partition: PartitionId, revision: Revision) -> bool {
        let later = self.view.claims.get(&partition).filter(|seen| seen.revision > revision);
        later.is_some_and(|seen| !seen.record.holder().is_some_and(|id| self.is_me(id)))
    }

    /// Claims what the plan gives this node and nobody owns: never claimed, given back, or its owner's incarnation in
    /// the plan's list of those gone. Nothing else is evidence enough.
    fn consider_claiming(&mut self, partition: PartitionId) {
        let Some(me) = self.id() else { return };
        let seen = self.view.claims.get(&partition);
        let (expected, epoch, origin) = match seen {
            None => (Revision::NONE, Epoch::ZERO.next(), Origin::Initial),
            Some(seen) => {
                let next = seen.record.epoch.next();
                match seen.record.holder() {
                    None => (seen.revision, next, Origin::Initial),
                    // A write of this node that landed late: take it up again under a new epoch.
                    Some(id) if *id == me => (seen.revision, next, Origin::Abandoned),
                    Some(id) if self.may_take_over(id) => (seen.revision, next, Origin::Takeover),
                    Some(_) => return,
                }
            }
        };
        let own_already = origin == Origin::Abandoned;
        let Some(estate) = self.estate(partition, &me, own_already) else { return };
        if !self.may_claim() || self.slot(partition).is_excluded(self.now) {
            return;
        }
        // Who leaves takes nothing but what would be lost with it.
        if self.is_draining() && !own_already && !matches!(estate, Estate::Survivors(_)) {
            return;
        }
        if let Some((revision, until)) = self.slot(partition).refused_at
            && revision == expected
            && self.now < until
        {
            return;
        }
        let bid = self.bid_for(partition, estate, (expected, epoch), origin);
        self.claim(partition, bid);
    }

    fn may_take_over(&self, owner: &NodeId) -> bool {
        let seems_gone = || self.is_silent(owner) || !self.view.members.contains_key(&owner.node);
        self.view.plan_says_gone(owner) || (!guard::holds(Guard::TakeoverByPlan) && seems_gone())
    }

    /// Sends the claim of a partition for this node; requests for it are parked from here on.
    pub(super) fn claim(&mut self, partition: PartitionId, bid: Bid) {
        let Some(me) = self.id() else { return };
        let Bid { expected, epoch, origin, replicas, state, abandoned } = bid;
        let generation = self.who.generation;
        let claim = Claim { generation, epoch, owner: me, replicas: self.set_of(replicas), state };
        let retry_at = self.now;
        self.out.push(Action::Park { partition, epoch });
        self.set_phase(
            partition,
            Phase::Claiming(Claiming { op: None, expected, claim, origin, unsettled: false, retry_at, abandoned }),
        );
        self.advance_claim(partition);
    }

    fn advance_claim(&mut self, partition: PartitionId) {
        let Phase::Claiming(claiming) = &self.slot(partition).phase else { return };
        if let Some(seen) = self.view.claims.get(&partition)
            && seen.revision > claiming.expected
        {
            let (mine, revision) = (seen.record == claiming.claim, seen.revision);
            return if mine { self.claimed(partition, revision) } else { self.claim_lost(partition) };
        }
        if claiming.op.is_none() && self.now >= claiming.retry_at && self.may_claim() {
            self.send_claim(partition);
        }
    }

    fn send_claim(&mut self, partition: PartitionId) {
        let op = self.op();
        let timeout = self.timing.lease / 2;
        let Phase::Claiming(claiming) = &mut self.slots[partition.index()].phase else { return };
        claiming.op = Some(op);
        let (expected, claim) = (claiming.expected, claiming.claim.clone());
        self.slots.write_sent(op, partition);
        self.out.push(Action::Cas {
            op,
            key: Key::Own(partition),
            expected,
            record: Record::Own(claim),
            heartbeat: false,
            subscribe: Some(partition),
            timeout,
        });
    }

    pub(super) fn partition_cas_done(&mut self, op: OpId, result: &Result<Revision, CasError>) {
        let retry_at = self.now + self.timing.beat();
        let Some(partition) = self.slots.write_done(op) else { return };
        let slot = self.slot(partition);
        let awaited = match &slot.phase {
            Phase::Claiming(claiming) => claiming.op,
            Phase::Releasing { op, .. } => *op,
            Phase::Recovering { held, .. } => held.as_ref().and_then(|held| held.op),
            Phase::Serving { .. } => slot.copies.change.as_ref().and_then(|change| change.op),
            _ => None,
        };
        if awaited != Some(op) {
            return;
        }
        match &mut self.slots[partition.index()].phase {
            Phase::Claiming(claiming) => {
                claiming.op = None;
                match result {
                    Ok(revision) => self.claimed(partition, *revision),
                    Err(CasError::Conflict) if !claiming.awaits_the_watch() => self.claim_lost(partition),
                    Err(CasError::Unknown(_)) if !guard::holds(Guard::UnsettledClaim) => self.claim_lost(partition),
                    // The watch shows who won.
                    Err(CasError::Conflict) => claiming.retry_at = retry_at,
                    Err(_) => {
                        claiming.unsettled = true;
                        claiming.retry_at = retry_at;
                    }
                }
            }
            Phase::Releasing { op, retry_at: at, .. } => {
                *op = None;
                *at = retry_at;
                if let Ok(revision) = result {
                    self.released(partition, *revision);
                }
            }
            Phase::Recovering { .. } => self.recovery_done(partition, result),
            Phase::Serving { .. } => self.change_done(partition, result),
            _ => {}
        }
    }

    /// The claim is in the store: this node owns the partition.
    fn claimed(&mut self, partition: PartitionId, revision: Revision) {
        let Phase::Claiming(claiming) = self.slots.set_phase(partition, Phase::Away) else { return };
        let (epoch, origin, state) = (claiming.claim.epoch, claiming.origin, claiming.claim.state);
        self.view.apply(Key::Own(partition), revision, Record::Own(claiming.claim));
        self.emit_route(partition);
        self.slots[partition.index()].copies.begin();
        if state == ClaimState::Recovering {
            return self.begin_recovery(partition, epoch, revision, origin);
        }
        // Whatever lies here of it is no copy of what this node begins with.
        if self.who.replicates && matches!(origin, Origin::Initial | Origin::Takeover) {
            self.out.push(Action::Discard { partition });
        }
        self.set_phase(partition, Phase::Owned { epoch, revision, origin });
        self.tell_copies(partition);
    }

    /// Somebody else's claim is in the store.
    fn claim_lost(&mut self, partition: PartitionId) {
        let Phase::Claiming(claiming) = self.slots.set_phase(partition, Phase::Away) else { return };
        match claiming.abandoned {
            Some(moving) => self.handed_over(partition, moving),
            None => {
                let until = self.now + self.timing.beat();
                self.slots[partition.index()].refused_at = Some((claiming.expected, until));
                self.step_aside(partition);
            }
        }
    }

    /// Not the owner: requests go where the claim says, and nothing is kept but a copy that belongs here.
    pub(super) fn step_aside(&mut self, partition: PartitionId) {
        self.set_phase(partition, Phase::Away);
        self.out.push(Action::Forward { partition });
        self.out.push(Action::Unsubscribe { partition });
        self.slots[partition.index()].copies = Copies::default();
        match self.who.replicates {
            true => self.tell_kept(partition),
            false => self.out.push(Action::Discard { partition }),
        }
    }

    pub(super) fn serve(&mut self, partition: PartitionId, epoch: Epoch, revision: Revision, origin: Origin) {
        self.slots[partition.index()].start_failures = 0;
        self.set_phase(partition, Phase::Serving { epoch, revision });
        self.out.push(Action::Serve { partition, epoch });
        self.emit(Event::Owned { partition, epoch, origin });
    }

    /// `on_own` failed: the partition goes back, and this node is not given it again for a while.
    pub(super) fn give_back_failed(&mut self, partition: PartitionId, epoch: Epoch, revision: Revision) {
        self.exclude_for_now(partition);
        // Who has copies is remembered: one of them goes on with it.
        let kept = if self.who.replicates { self.own_set(partition).to_vec() } else { Vec::new() };
        self.release_claim(partition, (epoch, revision), kept);
    }

    /// This node is not given it for a while, longer with each time in a row.
    pub(super) fn exclude_for_now(&mut self, partition: PartitionId) {
        let slot = &mut self.slots[partition.index()];
        slot.start_failures += 1;
        let until = self.now + self.timing.backoff_after(slot.start_failures + 2);
        self.slots.exclude(partition, until);
    }

    /// Writes the claim as released: nobody owns it, whoever is planned may claim it.
    pub(super) fn release_claim(&mut self, partition: PartitionId, held: (Epoch, Revision), replicas: Vec<NodeId>) {
        let Some(me) = self.id() else { return };
        let ((epoch, revision), generation) = (held, self.who.generation);
        let claim = Claim { generation, epoch, owner: me, replicas, state: ClaimState::Released };
        self.out.push(Action::Park { partition, epoch });
        self.out.push(Action::Revoke { partition });
        self.set_phase(partition, Phase::Releasing { op: None, expected: revision, claim, retry_at: self.now });
        self.advance_release(partition);
    }

    fn advance_release(&mut self, partition: PartitionId) {
        let Phase::Releasing { op, expected, claim, retry_at } = &self.slot(partition).phase else { return };
        if let Some(seen) = self.view.claims.get(&partition)
            && seen.revision > *expected
        {
            let revision = seen.revision;
            return self.released(partition, revision);
        }
        if op.is_some() || self.now < *retry_at || !self.may_act() {
            return;
        }
        let (expected, record) = (*expected, Record::Own(claim.clone()));
        let (new_op, timeout) = (self.op(), self.timing.lease / 2);
        if let Phase::Releasing { op, .. } = &mut self.slots[partition.index()].phase {
            *op = Some(new_op);
        }
        self.slots.write_sent(new_op, partition);
        let key = Key::Own(partition);
        self.out.push(Action::Cas { op: new_op, key, expected, record, heartbeat: false, subscribe: None, timeout });
    }

    fn released(&mut self, partition: PartitionId, revision: Revision) {
        let Phase::Releasing { claim, .. } = self.slots.set_phase(partition, Phase::Away) else { return };
        let epoch = claim.epoch;
        self.view.apply(Key::Own(partition), revision, Record::Own(claim));
        self.emit_route(partition);
        self.emit(Event::Released { partition, epoch, why: Release::Handoff });
        self.step_aside(partition);
    }

    /// Every partition is lost at once: eviction, or another life of the store.
    pub(super) fn lose_partitions(&mut self) {
        let mut lost = Vec::new();
        for partition in self.who.partitions.ids() {
            lost.extend(self.begin_loss(partition));
        }
        self.call_lost(lost);
        self.tell_losses_done();
    }

    pub(super) fn lose_partition(&mut self, partition: PartitionId) {
        let lost = self.begin_loss(partition);
        self.call_lost(lost.into_iter().collect());
    }

    /// Takes the partition out of service; answers whether the service is to be told right away.
    fn begin_loss(&mut self, partition: PartitionId) -> Option<(PartitionId, Epoch)> {
        let phase = self.slot(partition).phase.clone();
        if !matches!(phase, Phase::Away | Phase::Losing { .. } | Phase::LostWhileStarting { .. }) {
            self.out.push(Action::Revoke { partition });
            self.out.push(Action::Forward { partition });
        }
        match phase {
            Phase::Serving { epoch, .. } => Some((partition, epoch)),
            Phase::Moving(moving) => self.lose_move(partition, moving),
            Phase::Starting { hook, epoch, .. } => {
                self.set_phase(partition, Phase::LostWhileStarting { hook, epoch });
                None
            }
            // Claimed and never started, or already released: the service knows nothing of it.
            Phase::Owned { .. } | Phase::Recovering { .. } | Phase::Claiming(_) | Phase::Releasing { .. } => {
                self.step_aside(partition);
                None
            }
            Phase::Away | Phase::LostWhileStarting { .. } | Phase::Losing { .. } => None,
        }
    }

    /// The members of the plan, for messages.
    pub(super) fn is_live_target(&self, id: &NodeId) -> bool {
        self.view.plan_member(&id.node) == Some(id) && !self.view.plan_says_gone(id)
    }
}
