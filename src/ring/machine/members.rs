//! Who is planned for: live members, by their own records and leases.
//!
//! In: the view. Out: members for the next plan, oldest first. Newcomers wait a little for others. A member of the plan of which
//! nothing is seen is kept for a lease: absence proves nothing, and leases and plans come by different watches.

use std::collections::BTreeMap;

use super::Machine;
use crate::coord::{LeaseState, MemberState, PlanMember};
use crate::types::guard::{self, Guard};
use crate::types::{NodeId, Time};

impl Machine {
    /// Live members, oldest first. Newcomers count once they were seen for the debounce, so that nodes that start together
    /// are planned together.
    pub(super) fn live_members(&mut self) -> Vec<PlanMember> {
        self.await_leases();
        let announced = self.view.members.iter().filter(|(_, seen)| seen.record.state != MemberState::Left);
        let announced = announced.map(|(node, seen)| PlanMember::announced(node, &seen.record));
        let mut live: Vec<PlanMember> = announced.filter(|member| self.is_live(&member.id)).collect();
        live.sort_by_key(|member| member.since);
        if self.waits_for_newcomers(&live) {
            live.retain(|member| self.is_planned(&member.id));
        }
        live
    }

    fn plan_members(&self) -> impl Iterator<Item = &NodeId> {
        self.view.plan.iter().flat_map(|plan| plan.record.members.iter().map(|member| &member.id))
    }

    /// Whether it holds its lease, as far as is known here.
    fn is_live(&self, id: &NodeId) -> bool {
        self.holds_lease(id)
            || self.coordination.awaited.get(id).is_some_and(|since| self.now < self.awaited_until(*since))
    }

    fn holds_lease(&self, id: &NodeId) -> bool {
        let lease = self.view.leases.get(&id.node).map(|seen| &seen.record);
        lease.is_some_and(|lease| lease.state == LeaseState::Live && lease.incarnation == id.incarnation)
    }

    /// Notes of whom the plan of this generation knows, and nothing else does yet. Its author saw their leases.
    fn await_leases(&mut self) {
        let current = self.plan_is_current() && guard::holds(Guard::AbsentLease);
        let unseen = self.plan_members().filter(|id| current && !self.holds_lease(id));
        let unseen = unseen.filter(|id| !self.view.is_gone(id));
        let since = |id: &NodeId| *self.coordination.awaited.get(id).unwrap_or(&self.now);
        self.coordination.awaited = unseen.map(|id| (id.clone(), since(id))).collect();
    }

    /// A lease that somebody removed is never seen.
    fn awaited_until(&self, since: Time) -> Time {
        self.observer.judged_from(since) + self.timing.lease
    }

    /// Every further newcomer extends the wait a little, up to four times the debounce.
    fn waits_for_newcomers(&mut self, live: &[PlanMember]) -> bool {
        let newcomers = live.iter().map(|member| &member.id).filter(|id| !self.is_planned(id));
        let since = |id: &NodeId| *self.coordination.newcomers.get(id).unwrap_or(&self.now);
        let newcomers: BTreeMap<NodeId, Time> = newcomers.map(|id| (id.clone(), since(id))).collect();
        let (first, last) = (newcomers.values().min().copied(), newcomers.values().max().copied());
        self.coordination.newcomers = newcomers;
        let debounce = self.timing.join_debounce;
        first.zip(last).is_some_and(|(first, last)| self.now < (last + debounce).min(first + debounce * 4))
    }

    /// When to look again at who is planned for.
    pub(super) fn member_wakes(&self) -> impl Iterator<Item = Time> + '_ {
        let debounce = self.timing.join_debounce;
        let newcomers = self.coordination.newcomers.values();
        let awaited = self.coordination.awaited.values().map(|since| self.awaited_until(*since));
        newcomers.flat_map(move |seen| [*seen + debounce, *seen + debounce * 4]).chain(awaited)
    }
}
