//! Planned moves, both sides: park, finish what runs, release, hand the state over, offer; and the target's claim.
//!
//! The owner never reopens an epoch it has offered: it abandons a switch only by claiming the next epoch at the same
//! revision, so that either it or the target wins. Whatever happens, the claim in the store says who.

use super::partition::{Bid, Hook, Phase};
use super::{Action, Event, Machine, OpId};
use crate::coord::{ClaimState, Revision};
use crate::ring::event::Origin;
use crate::ring::io::Offer;
use crate::service::Release;
use crate::types::guard::{self, Guard};
use crate::types::{Epoch, NodeId, PartitionId, Time};

/// How far a move is.
#[derive(Debug, Clone, Hash)]
pub(super) enum Step {
    /// New requests are parked, those running finish; idle once none runs.
    Parking { idle: bool },
    /// `on_release(Handoff)` runs.
    Releasing { hook: Hook },
    /// The state is streamed to the target.
    Transferring,
    /// The target may claim: this epoch is given away.
    Offering,
}

/// A move away from this node.
#[derive(Debug, Clone, Hash)]
pub(super) struct Move {
    /// The target; `None` gives the partition back to nobody (the last node leaves).
    pub(super) to: Option<NodeId>,
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
    pub(super) step: Step,
    pub(super) started: Time,
    pub(super) deadline: Time,
    pub(super) bytes: u64,
    /// The target is one of those that have a copy: nothing is sent.
    pub(super) in_sync: bool,
}

impl Machine {
    /// Begins a move where the plan wants the partition elsewhere.
    pub(super) fn consider_move(&mut self, partition: PartitionId, epoch: Epoch, revision: Revision) {
        if !self.plan_is_current() || !self.may_act() || self.now < self.slot(partition).move_retry_at {
            return;
        }
        if self.stays_for_now(partition, revision) {
            return;
        }
        let row_is_empty = self.view.planned_owner(partition).is_none();
        let to = match self.planned(partition) {
            Some(target) if self.is_me(&target) => return,
            Some(target) if self.is_live_target(&target) => Some(target),
            // Only a node that leaves gives back what nobody is planned for, and nobody is left to take.
            None if row_is_empty && self.is_draining() && !self.somebody_stays(partition) => None,
            _ => return,
        };
        // Where copies are kept the target is one of those that have one, or becomes it first.
        if self.is_replicating() && to.as_ref().is_some_and(|target| !self.is_member(partition, target)) {
            return;
        }
        if self.slots.moving() >= self.timing.parallel_moves {
            self.slots.wait_for_room(partition);
            return;
        }
        if let Some(target) = &to {
            self.emit(Event::MoveStarted { partition, to: target.node.clone() });
        }
        let (started, deadline) = (self.now, self.now + self.timing.move_timeout);
        let step = Step::Parking { idle: false };
        let in_sync = self.is_replicating() && to.is_some();
        self.out.push(Action::Park { partition, epoch });
        let moving = Move { to, epoch, revision, step, started, deadline, bytes: 0, in_sync };
        self.set_phase(partition, Phase::Moving(moving));
    }

    /// Whether a member that does not leave could own the partition, though the plan gives it to nobody: it was silent when
    /// the plan was made, as all are right after NATS was away. It is planned for again, or it is evicted.
    fn somebody_stays(&self, partition: PartitionId) -> bool {
        let members = self.view.plan.iter().flat_map(|plan| &plan.record.members);
        members
            .filter(|member| !member.draining && !self.is_me(&member.id) && !self.view.plan_says_gone(&member.id))
            .any(|member| !member.excluded.contains(&partition))
    }

    /// Whether the plan leaves things where they are and was made before this node had the partition: it lands here from
    /// a move that was under way, and the next plan will leave it here.
    fn stays_for_now(&self, partition: PartitionId, revision: Revision) -> bool {
        let Some(plan) = &self.view.plan else { return false };
        let config = &plan.record.config;
        let keeps = config.paused || config.cordoned.contains(&self.who.node);
        let planned = self.view.planned_owner(partition);
        let pinned = planned.is_some() && config.pins.get(&partition) == planned;
        keeps && !pinned && !self.is_draining() && revision > plan.revision
    }

    fn moving(&mut self, partition: PartitionId) -> Option<&mut Move> {
        match &mut self.slots[partition.index()].phase {
            Phase::Moving(moving) => Some(moving),
            _ => None,
        }
    }

    /// Nothing runs any more for the parked partition.
    pub(super) fn idle(&mut self, partition: PartitionId, parked_epoch: Epoch) {
        let Some(moving) = self.moving(partition) else { return };
        if moving.epoch == parked_epoch
            && let Step::Parking { idle } = &mut moving.step
        {
            *idle = true;
        }
    }

    /// Tells the service to flush as the owner: only while this node is known to be that.
    fn begin_release(&mut self, partition: PartitionId, epoch: Epoch) {
        if !self.may_act() && guard::holds(Guard::NoHookWhileSuspended) {
            return;
        }
        let hook = self.start_hook();
        self.slots.hook_called(hook.op, vec![partition]);
        if let Some(moving) = self.moving(partition) {
            moving.step = Step::Releasing { hook };
        }
        self.out.push(Action::OnRelease { op: hook.op, grants: vec![(partition, epoch)], why: Release::Handoff });
    }

    /// `on_release(Handoff)` is done (an error was reported; the handoff goes on).
    pub(super) fn move_released(&mut self, partition: PartitionId) {
        let now = self.now;
        let Some(moving) = self.moving(partition) else { return };
        moving.step = Step::Transferring;
        if moving.to.is_some() && now >= moving.deadline {
            return self.abandon(partition, "its time was over when on_release was done".to_owned());
        }
        let (to, epoch, revision, in_sync) = (moving.to.clone(), moving.epoch, moving.revision, moving.in_sync);
        match to {
            Some(to) => self.out.push(Action::Transfer { partition, epoch, to, in_sync }),
            None => self.release_claim(partition, (epoch, revision), Vec::new()),
        }
    }

    /// The state is with the target: offer. From here on this epoch is never served here again.
    pub(super) fn transferred(&mut self, partition: PartitionId, epoch: Epoch, result: Result<u64, String>) {
        let from = self.id();
        let set = self.own_set(partition).to_vec();
        let Some(moving) = self.moving(partition) else { return };
        if moving.epoch != epoch || !matches!(moving.step, Step::Transferring) {
            return;
        }
        let (Some(from), Some(to)) = (from, moving.to.clone()) else { return };
        match result {
            Ok(bytes) => {
                moving.bytes = bytes;
                moving.step = Step::Offering;
                let replicas = if moving.in_sync { set } else { Vec::new() };
                let offer = Offer { partition, epoch, revision: moving.revision, from, replicas };
                if guard::holds(Guard::RevokeAtOffer) {
                    self.out.push(Action::Revoke { partition });
                }
                self.out.push(Action::SendOffer { to, offer });
            }
            Err(reason) => self.abandon(partition, reason),
        }
    }

    pub(super) fn offer_refused(&mut self, partition: PartitionId, epoch: Epoch, reason: String) {
        if self.moving(partition).is_some_and(|m| m.epoch == epoch && matches!(m.step, Step::Offering)) {
            self.abandon(partition, reason);
        }
    }

    /// Requests pile up: the move is given up; where `on_release` runs, as soon as it is done.
    pub(super) fn pressure(&mut self, partition: PartitionId) {
        let now = self.now;
        if let Some(moving) = self.moving(partition) {
            moving.deadline = moving.deadline.min(now);
            self.abandon(partition, "three quarters of the parked bound were taken".to_owned());
        }
    }

    /// A member that does not answer would hold the move up: given up, unless all have everything already.
    pub(super) fn move_held_up(&mut self, partition: PartitionId, by: &NodeId) {
        let now = self.now;
        if let Some(moving) = self.moving(partition)
            && moving.in_sync
            && !matches!(moving.step, Step::Offering)
        {
            moving.deadline = moving.deadline.min(now);
            self.abandon(partition, format!("replica {} does not answer", by.node));
        }
    }

    pub(super) fn advance_move(&mut self, partition: PartitionId) {
        let Phase::Moving(moving) = &self.slot(partition).phase else { return };
        let claim = self.view.claims.get(&partition);
        if claim.is_some_and(|seen| seen.revision > moving.revision) {
            let moving = moving.clone();
            // Whoever took it before it was offered took it over: this node was evicted and does not know it yet.
            return match moving.step {
                Step::Offering => self.handed_over(partition, moving),
                _ => self.lose_partition(partition),
            };
        }
        let target_left = moving.to.as_ref().is_some_and(|to| !self.is_live_target(to));
        if target_left {
            self.abandon(partition, "the target left the ring".to_owned());
        } else if self.now >= moving.deadline && guard::holds(Guard::MoveDeadline) {
            self.abandon(partition, format!("not done within {:?}", self.timing.move_timeout));
        } else if matches!(moving.step, Step::Parking { idle } if idle || !guard::holds(Guard::FinishRunning)) {
            self.begin_release(partition, moving.epoch);
        }
    }

    /// Gives the move up. Before `on_release` the partition is simply served on; after it, only under a new epoch.
    fn abandon(&mut self, partition: PartitionId, reason: String) {
        let Phase::Moving(moving) = self.slot(partition).phase.clone() else { return };
        // A hook that runs is waited for: calls for one partition never overlap.
        if matches!(moving.step, Step::Releasing { .. }) {
            return;
        }
        let slot = &mut self.slots[partition.index()];
        slot.move_failures += 1;
        slot.move_retry_at = self.now + self.timing.backoff_after(slot.move_failures);
        if let Some(to) = &moving.to {
            let pause = self.now.since(moving.started);
            self.emit(Event::MoveAbandoned { partition, to: to.node.clone(), reason, pause });
        }
        if matches!(moving.step, Step::Parking { .. }) || !guard::holds(Guard::AbandonByClaim) {
            self.set_phase(partition, Phase::Serving { epoch: moving.epoch, revision: moving.revision });
            self.out.push(Action::Serve { partition, epoch: moving.epoch });
        } else {
            self.out.push(Action::Revoke { partition });
            let (expected, epoch) = (moving.revision, moving.epoch.next());
            let (replicas, state) = (self.own_set(partition).to_vec(), ClaimState::Held);
            let abandoned = Some(moving);
            let bid = Bid { expected, epoch, origin: Origin::Abandoned, replicas, state, abandoned };
            self.claim(partition, bid);
        }
    }

    /// The claim is somebody else's: forward what was parked, and let go.
    pub(super) fn handed_over(&mut self, partition: PartitionId, moving: Move) {
        self.slots[partition.index()].move_failures = 0;
        self.emit(Event::Released { partition, epoch: moving.epoch, why: Release::Handoff });
        if let Some(to) = moving.to {
            let pause = self.now.since(moving.started);
            self.emit(Event::MoveFinished { partition, to: to.node, pause, bytes: moving.bytes });
        }
        self.step_aside(partition);
    }

    /// In the middle of a move this node lost everything: tells whether the service is still to be told.
    pub(super) fn lose_move(&mut self, partition: PartitionId, moving: Move) -> Option<(PartitionId, Epoch)> {
        match moving.step {
            Step::Parking { .. } => Some((partition, moving.epoch)),
            // `on_release(Handoff)` runs: it was told, and is waited for.
            Step::Releasing { hook } => {
                self.set_phase(partition, Phase::Losing { hook });
                None
            }
            Step::Transferring | Step::Offering => {
                self.step_aside(partition);
                None
            }
        }
    }

    /// A peer offers a partition whose state is here: claim it, if this node is free to.
    pub(super) fn offered(&mut self, op: OpId, offer: &Offer) {
        let result = self.may_accept(offer);
        let accepted = result.is_ok();
        self.out.push(Action::AnswerOffer { op, result });
        if accepted {
            // An offer may come ahead of the plan that it follows: by the older one, the partition would go straight back.
            if !self.planned(offer.partition).is_some_and(|planned| self.is_me(&planned)) {
                self.slots[offer.partition.index()].move_retry_at = self.now + self.timing.backoff;
            }
            let (expected, epoch, replicas) = (offer.revision, offer.epoch.next(), offer.replicas.clone());
            let (origin, state) = (Origin::Switch, ClaimState::Held);
            self.claim(offer.partition, Bid { expected, epoch, origin, replicas, state, abandoned: None });
        }
    }

    fn may_accept(&self, offer: &Offer) -> Result<(), String> {
        let partition = offer.partition;
        if !self.who.partitions.contains(partition) {
            return Err(format!("there is no partition {partition}"));
        }
        if self.is_draining() {
            return Err("draining".to_owned());
        }
        if !self.may_claim() {
            return Err("less than half a lease is left".to_owned());
        }
        let slot = self.slot(partition);
        if slot.is_excluded(self.now) {
            return Err("this partition could not be started here a moment ago".to_owned());
        }
        if !matches!(slot.phase, Phase::Away) {
            return Err("this partition is busy here".to_owned());
        }
        if !offer.replicas.is_empty() && !offer.replicas.iter().any(|id| self.is_me(id)) {
            return Err("this node is not in the set that has copies of this partition".to_owned());
        }
        let newer = self.view.claims.get(&partition).is_some_and(|seen| seen.revision > offer.revision);
        if newer { Err("a newer claim is known here".to_owned()) } else { Ok(()) }
    }
}
