//! How an incarnation ends: drained, evicted, given up.

use super::life::Stage;
use super::{Action, Event, Machine, Outcome};
use crate::coord::{CasError, LeaseState, Member, MemberState, Revision};
use crate::types::guard::{self, Guard};
use crate::types::{Incarnation, NodeId};

impl Machine {
    pub(super) fn drain_asked(&mut self) {
        if self.drain_asked_at.is_some() {
            return;
        }
        self.drain_asked_at = Some(self.now);
        self.emit(Event::Draining);
        if self.lease.is_none() {
            self.finish(Outcome::Left);
        }
    }

    pub(super) fn drain_for_good(&mut self) {
        self.leaves_for_good = true;
        self.drain_asked();
    }

    /// Leaves once nothing is owned here any more and nothing is under way.
    pub(super) fn advance_leaving(&mut self) {
        let Some(asked) = self.drain_asked_at else { return };
        match self.stage {
            Stage::Running if self.is_empty() => {
                self.stage = Stage::Lingering { since: self.now, let_go: false };
                let peers = self.peers();
                self.out.push(Action::LetGo { peers });
            }
            Stage::Running if self.now.since(asked) >= self.timing.drain_timeout => {
                self.give_up(Outcome::DrainIncomplete);
            }
            Stage::Lingering { since, let_go } => {
                let lingered = self.now.since(since);
                // Nobody may still route here, and nothing may be on its way to a subscription of this node.
                if (lingered >= self.timing.linger && let_go) || lingered >= self.timing.let_go_limit {
                    self.give_up(self.leaving_because.clone().map_or(Outcome::Left, Outcome::GaveUp));
                }
            }
            _ => {}
        }
    }

    fn peers(&self) -> Vec<NodeId> {
        let members = self.view.plan.iter().flat_map(|plan| &plan.record.members);
        members.map(|member| &member.id).filter(|id| !self.is_me(id)).cloned().collect()
    }

    pub(super) fn let_go(&mut self) {
        if let Stage::Lingering { let_go, .. } = &mut self.stage {
            *let_go = true;
        }
    }

    /// Something on this node is beyond repair: leaves as if asked to, and says why in the end.
    pub(super) fn leave_because(&mut self, reason: String) {
        self.leaving_because.get_or_insert(reason);
        self.drain_for_good();
    }

    fn is_empty(&self) -> bool {
        let owns = |me: &NodeId| self.view.is_holder(me);
        self.slots.are_all_away() && !self.is_listed_anywhere() && !self.id().as_ref().is_some_and(owns)
    }

    /// Gives the lease up at once, as positive evidence for the others, and ends.
    pub(super) fn give_up(&mut self, outcome: Outcome) {
        if matches!(self.stage, Stage::GivingUp { .. } | Stage::Over) {
            return;
        }
        if guard::holds(Guard::GateShutBeforeLeft) {
            self.out.push(Action::CloseGate);
        }
        let Some(lease) = &self.lease else { return self.finish(outcome) };
        let incarnation = lease.incarnation;
        let until = self.now + self.timing.beat() * 2;
        self.stage = Stage::GivingUp { op: None, tried: Revision::NONE, outcome, until };
        self.say_left(incarnation);
        self.advance_giving_up();
    }

    /// Writes the lease as left, at each revision of it once: a heartbeat on its way is waited for, it would win.
    pub(super) fn advance_giving_up(&mut self) {
        let Stage::GivingUp { op: None, tried, .. } = &self.stage else { return };
        let Some(lease) = self.lease.as_ref().filter(|lease| !lease.is_renewing()) else { return };
        if *tried == lease.revision {
            return;
        }
        let (revision, incarnation, beat) = (lease.revision, lease.incarnation, lease.beat + 1);
        let new_op = self.op();
        if let Stage::GivingUp { op, tried, .. } = &mut self.stage {
            (*op, *tried) = (Some(new_op), revision);
        }
        self.write_lease(new_op, revision, incarnation, beat, LeaseState::Left);
    }

    pub(super) fn given_up(&mut self, result: &Result<Revision, CasError>) {
        match (&mut self.stage, result) {
            // An earlier heartbeat landed: the watch tells at which revision.
            (Stage::GivingUp { op, .. }, Err(CasError::Conflict)) => *op = None,
            _ => self.finish_now(),
        }
    }

    /// Whether this node gives up its lease: nothing here is its own any more, and the service is told nothing.
    pub(super) fn is_giving_up(&self) -> bool {
        matches!(self.stage, Stage::GivingUp { .. })
    }

    /// A courtesy for people who look at the members; nobody decides by it.
    fn say_left(&mut self, incarnation: Incarnation) {
        let Some(seen) = self.view.members.get(&self.who.node) else { return };
        if seen.record.incarnation == incarnation {
            let (revision, record) = (seen.revision, Member { state: MemberState::Left, ..seen.record.clone() });
            self.write_member(revision, record);
        }
    }

    /// Not a node of the ring any more: nothing may act, and the service is told.
    pub(super) fn lose(&mut self, outcome: Outcome, reason: String) {
        self.out.push(Action::CloseGate);
        self.emit(Event::LeaseLost { reason });
        let until = self.now + self.timing.hook_limit;
        self.stage = Stage::Losing { outcome, until };
        self.suspended_at.get_or_insert(self.now);
        self.lose_partitions();
    }

    pub(super) fn store_reset(&mut self, reason: String) {
        match self.stage {
            Stage::Over | Stage::Losing { .. } | Stage::GivingUp { .. } => {}
            _ if self.lease.is_none() => self.finish(Outcome::StoreReset(reason)),
            _ => self.lose(Outcome::StoreReset(reason.clone()), reason),
        }
    }

    /// In `Losing`: ends when the service has been told of every loss.
    pub(super) fn losses_told(&mut self) {
        if matches!(self.stage, Stage::Losing { .. }) {
            self.finish_now();
        }
    }

    pub(super) fn finish_now(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::GivingUp { outcome, .. } => self.finish(outcome),
            Stage::Losing { outcome, until } => {
                // A hook that still runs at its limit makes this process unfit to own anything again.
                let hung = self.now >= until;
                self.finish(if hung { Outcome::HookHung } else { outcome });
            }
            stage => self.stage = stage,
        }
    }

    pub(super) fn finish(&mut self, outcome: Outcome) {
        self.stage = Stage::Over;
        self.out.push(Action::CloseGate);
        if outcome == Outcome::Left {
            self.emit(Event::Left);
        }
        self.out.push(Action::Finish(outcome));
    }
}
