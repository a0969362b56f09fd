//! Judging others and planning.
//!
//! Members are ordered by age, the creation of their incarnation's lease. Whoever finds everybody older gone or silent
//! evicts the silent ones and writes the plan: no election. Two nodes that both think so do no harm: an eviction is a
//! compare-and-set at the revision last seen, and so is a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use super::away::Absence;
use super::{Action, Event, Machine, OpId};
use crate::coord::{
    CasError, KeptPlaces, Key, Lease, LeaseState, MemberState, PlanMember, PlanRecord, Record, Revision, WatchScope,
};
use crate::ring::event::MemberChange;
use crate::ring::plan::{self, Planned, Wishes};
use crate::types::guard::{self, Guard};
use crate::types::{Incarnation, NodeId, NodeName, Time};

/// What the judging and planning side remembers.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Coordination {
    scope: Option<WatchScope>,
    pub(super) all_leases_seen: bool,
    coordinating: bool,
    /// Whom, and how long it had been silent.
    evictions: BTreeMap<OpId, (NodeId, Duration)>,
    plan_op: Option<PlanWrite>,
    plan_retry_at: Time,
    pub(super) newcomers: BTreeMap<NodeId, Time>,
    /// Members of the plan whose leases were not seen yet, and since when that is so.
    pub(super) awaited: BTreeMap<NodeId, Time>,
    known_members: BTreeMap<NodeName, bool>,
    plan_failed: bool,
    pub(super) absences: BTreeMap<NodeId, Absence>,
    /// The plan at this revision is known to be what this node would plan with nobody frozen. Any other is computed
    /// again once nobody is.
    pub(super) sound_at: Option<Revision>,
    /// What the plan was found to be right for, last time.
    pub(super) right_for: Option<Circumstances>,
}

/// All that a plan depends on.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(super) struct Circumstances {
    members: Vec<PlanMember>,
    frozen: Vec<bool>,
    leases: Vec<(NodeName, Incarnation, LeaseState)>,
    pub(super) claims_version: u64,
    pub(super) plan: Option<Revision>,
    config: Option<Revision>,
    kept: Vec<KeptPlaces>,
}

/// A plan on its way to the store.
#[derive(Debug, Clone, Hash)]
struct PlanWrite {
    op: OpId,
    plan: PlanRecord,
    /// Whether nobody was frozen when its rows were computed.
    sound: bool,
}

/// A member by age.
struct Elder {
    id: NodeId,
    since: Revision,
}

impl Machine {
    pub(super) fn coordinate(&mut self) {
        self.note_member_changes();
        self.note_absences();
        let elders = self.elders();
        let coordinating = !elders.iter().any(|elder| self.may_plan(&elder.id));
        let scope = if coordinating { WatchScope::AllLeases } else { self.scope_of(&elders) };
        self.follow(scope);
        if std::mem::replace(&mut self.coordination.coordinating, coordinating) != coordinating {
            self.emit(Event::Coordinating(coordinating));
        }
        if !coordinating || !self.may_judge() {
            return;
        }
        self.evict_silent();
        if self.coordination.all_leases_seen || !guard::holds(Guard::AllLeasesSeen) {
            self.plan_if_needed();
        }
    }

    /// Whether this node writes the plan, as it believes itself.
    pub(super) fn is_coordinating(&self) -> bool {
        self.coordination.coordinating
    }

    /// The oldest member that is not known to be gone: who writes the plan, as far as is known here.
    pub(super) fn coordinator(&self) -> Option<NodeId> {
        let waited_for = |id: &NodeId| !self.view.is_gone(id) && !self.is_missing(id);
        let elder = self.elders().into_iter().find(|elder| waited_for(&elder.id)).map(|elder| elder.id);
        elder.or_else(|| self.id())
    }

    /// Members older than this node, oldest first: those of the plan, and those that only announced themselves.
    fn elders(&self) -> Vec<Elder> {
        let Some(own) = &self.lease else { return Vec::new() };
        let planned = self.view.plan.iter().flat_map(|plan| &plan.record.members);
        let planned = planned.map(|member| (member.id.clone(), member.since));
        let announced = self.view.members.iter().filter(|(_, seen)| seen.record.state != MemberState::Left);
        let announced = announced.map(|(node, seen)| {
            (NodeId { node: node.clone(), incarnation: seen.record.incarnation }, seen.record.since)
        });
        let older = planned.chain(announced).filter(|(id, since)| *since < own.since && id.node != self.who.node);
        let mut elders: Vec<Elder> = older.map(|(id, since)| Elder { id, since }).collect();
        elders.sort_by(|one, other| one.id.cmp(&other.id));
        // Of one that is both, what it says of itself.
        elders.dedup_by(|announced, planned| {
            let same = announced.id == planned.id;
            planned.since = if same { announced.since } else { planned.since };
            same
        });
        elders.sort_by_key(|elder| elder.since);
        elders
    }

    /// Own lease, and those of the elders up to the first that seems to live; and as many more as do not. So of many that died at
    /// once the last is known after a few leases, and not each a lease after the one before it.
    fn scope_of(&mut self, elders: &[Elder]) -> WatchScope {
        let left: Vec<&Elder> = elders.iter().filter(|elder| !self.view.is_gone(&elder.id)).collect();
        let silent = left.iter().take_while(|elder| !self.may_plan(&elder.id)).count();
        let watched = left.into_iter().take(2 * silent + 1).map(|elder| elder.id.node.clone());
        let mut names: Vec<NodeName> = watched.collect();
        names.iter().for_each(|elder| self.observer.looks_for(elder, self.now));
        names.push(self.who.node.clone());
        names.sort_unstable();
        names.dedup();
        WatchScope::Leases(names)
    }

    fn follow(&mut self, scope: WatchScope) {
        if self.coordination.scope.as_ref() == Some(&scope) {
            return;
        }
        self.coordination.all_leases_seen = false;
        self.coordination.scope = Some(scope.clone());
        self.out.push(Action::WatchLeases(scope));
    }

    /// Whether this elder is waited for to plan.
    fn may_plan(&self, id: &NodeId) -> bool {
        !self.view.is_gone(id) && !self.is_silent(id) && !self.is_missing(id)
    }

    /// Whether its lease was looked for and not seen for a whole lease. That proves nothing about it: nobody is evicted or
    /// replaced for it. But a lease that somebody removed is never seen, and two that plan do no harm.
    fn is_missing(&self, id: &NodeId) -> bool {
        self.observer.missing().any(|(node, since)| *node == id.node && self.now >= since + self.timing.lease)
    }

    /// Whether this incarnation holds a live lease that was not seen renewed for the whole of it.
    pub(super) fn is_silent(&self, id: &NodeId) -> bool {
        self.view.leases.get(&id.node).is_some_and(|seen| {
            let lease = &seen.record;
            lease.state == LeaseState::Live
                && lease.incarnation == id.incarnation
                && self.now >= self.observer.expires_at(&id.node, seen)
        })
    }

    /// An observer judges only while its own heartbeats get through: shortly after one was acknowledged.
    fn may_judge(&self) -> bool {
        self.may_act()
            && (!guard::holds(Guard::JudgeWhileHeard)
                || self.lease.as_ref().is_some_and(|lease| self.now.since(lease.acked_at()) <= self.timing.beat()))
    }

    fn evict_silent(&mut self) {
        let silent: Vec<(NodeName, Revision, Lease)> = self
            .view
            .leases
            .iter()
            .filter(|(node, seen)| {
                **node != self.who.node
                    && seen.record.state == LeaseState::Live
                    && self.now >= self.observer.expires_at(node, seen)
            })
            .map(|(node, seen)| (node.clone(), seen.revision, seen.record.clone()))
            .collect();
        for (node, expected, lease) in silent {
            let id = NodeId { node: node.clone(), incarnation: lease.incarnation };
            if self.coordination.evictions.values().any(|(known, _)| *known == id) {
                continue;
            }
            let op = self.op();
            let silent = self.observer.silent_for(&node, self.now);
            self.coordination.evictions.insert(op, (id, silent));
            self.out.push(Action::Cas {
                op,
                key: Key::Lease(node),
                expected,
                record: Record::Lease(Lease { state: LeaseState::Evicted, ..lease }),
                heartbeat: true,
                subscribe: None,
                timeout: self.timing.beat(),
            });
        }
    }

    pub(super) fn coordination_cas_done(&mut self, op: OpId, result: &Result<Revision, CasError>) -> bool {
        if let Some((id, silent)) = self.coordination.evictions.remove(&op) {
            self.eviction_done(&id, silent, result);
            return true;
        }
        let Some(written) = self.coordination.plan_op.take_if(|written| written.op == op) else { return false };
        match result {
            Ok(revision) => {
                if written.sound {
                    self.coordination.sound_at = Some(*revision);
                }
                // The acknowledgement may be ahead of the watch: without this the same plan would be written again.
                self.view.apply(Key::Plan, *revision, Record::Plan(written.plan));
            }
            Err(_) => self.coordination.plan_retry_at = self.now + self.timing.beat(),
        }
        true
    }

    fn eviction_done(&mut self, id: &NodeId, silent: Duration, result: &Result<Revision, CasError>) {
        match result {
            Ok(revision) => {
                if let Some(seen) = self.view.leases.get(&id.node) {
                    let lease = Lease { state: LeaseState::Evicted, ..seen.record.clone() };
                    self.view.apply(Key::Lease(id.node.clone()), *revision, Record::Lease(lease));
                }
                self.emit(Event::Evicted { node: id.node.clone(), silent });
            }
            // It was renewed meanwhile, or somebody else evicted it, or nobody knows: judge anew.
            Err(_) if guard::holds(Guard::ObserverConflict) => self.observer.restart(self.now),
            Err(_) => {}
        }
    }

    fn plan_if_needed(&mut self) {
        let members = self.live_members();
        if !self.have_former_sets_ended() {
            return;
        }
        if members.is_empty() || self.coordination.plan_op.is_some() || self.now < self.coordination.plan_retry_at {
            return;
        }
        let places = self.places_to_keep(&members);
        if self.coordination.right_for.as_ref().is_some_and(|known| self.is_as_then(known, (&members, &places))) {
            return;
        }
        let circumstances = self.circumstances(&members, &places);
        let frozen = circumstances.frozen.contains(&true);
        let current = self.view.plan.as_ref().filter(|plan| plan.record.generation == self.who.generation);
        let was_sound = current.is_some_and(|plan| self.coordination.sound_at == Some(plan.revision));
        let config = self.view.config_in_force();
        let kept = current.filter(|plan| {
            let same = plan.record.members == members && plan.record.config == config;
            same && plan.record.kept == places
                && (frozen || was_sound)
                && !self.outdated_by_a_claim(&plan.record, plan.revision)
        });
        let sound = if kept.is_some() { was_sound } else { !frozen };
        let planned = match kept.map(|plan| &plan.record) {
            Some(plan) => Ok(Planned { rows: plan.rows.clone(), kept: plan.kept.clone() }),
            None => self.plan_rows(&members, Wishes { config: &config, kept: &places }),
        };
        let Planned { rows, kept } = match planned {
            Ok(planned) => planned,
            Err(reason) => return self.plan_failed(reason),
        };
        self.coordination.plan_failed = false;
        let gone = self.gone_but_named();
        let unchanged = self.view.plan.as_ref().filter(|plan| {
            let plan = &plan.record;
            let same_input = plan.generation == self.who.generation && plan.members == members && plan.config == config;
            same_input && plan.gone == gone && plan.rows == rows && plan.kept == kept
        });
        match unchanged.map(|plan| plan.revision) {
            Some(revision) => {
                if sound {
                    self.coordination.sound_at = Some(revision);
                }
                self.coordination.right_for = Some(circumstances);
            }
            None => {
                let Some(author) = self.id() else { return };
                let version = self.view.plan.as_ref().map_or(0, |plan| plan.record.version) + 1;
                let generation = self.who.generation;
                self.write_plan(PlanRecord { version, author, generation, members, gone, rows, config, kept }, sound);
            }
        }
    }

    /// Whether [`Machine::circumstances`] are still these: asked at each step.
    fn is_as_then(&self, then: &Circumstances, (members, kept): (&[PlanMember], &[KeptPlaces])) -> bool {
        let Circumstances { members: known, frozen, leases, claims_version, plan, config, kept: known_kept } = then;
        let now = self.view.leases.iter().map(|(name, seen)| (name, seen.record.incarnation, seen.record.state));
        *claims_version == self.view.claims_version
            && *plan == self.view.plan.as_ref().map(|plan| plan.revision)
            && *config == self.view.config.as_ref().map(|config| config.revision)
            && members == known
            && kept == known_kept
            && members.iter().map(|member| self.is_frozen(member)).eq(frozen.iter().copied())
            && now.eq(leases.iter().map(|(name, incarnation, state)| (name, *incarnation, *state)))
    }

    fn circumstances(&self, members: &[PlanMember], kept: &[KeptPlaces]) -> Circumstances {
        let leases = self.view.leases.iter();
        Circumstances {
            members: members.to_vec(),
            frozen: members.iter().map(|member| self.is_frozen(member)).collect(),
            leases: leases.map(|(name, seen)| (name.clone(), seen.record.incarnation, seen.record.state)).collect(),
            claims_version: self.view.claims_version,
            plan: self.view.plan.as_ref().map(|plan| plan.revision),
            config: self.view.config.as_ref().map(|config| config.revision),
            kept: kept.to_vec(),
        }
    }

    fn plan_failed(&mut self, reason: String) {
        self.coordination.plan_retry_at = self.now + self.timing.lease;
        if !std::mem::replace(&mut self.coordination.plan_failed, true) {
            self.emit(Event::PlanFailed { reason });
        }
    }

    /// A plan that leaves things where they are is wrong about what landed after it was made: a move that was under way
    /// as operators paused the ring or cordoned its target.
    fn outdated_by_a_claim(&self, plan: &PlanRecord, made: Revision) -> bool {
        // Most of the time; and this is asked whenever a claim changes.
        if !plan.config.paused && plan.config.cordoned.is_empty() {
            return false;
        }
        let keeps = |node: &NodeName| plan.config.paused || plan.config.cordoned.contains(node);
        let stays = |id: &NodeId| plan.members.iter().any(|member| member.id == *id && !member.draining);
        self.view.claims.iter().filter(|(_, seen)| seen.revision > made).any(|(partition, seen)| {
            let planned = plan.rows.get(partition.index()).and_then(|row| row.first());
            let pinned = planned.is_some() && plan.config.pins.get(partition) == planned;
            let elsewhere = |id: &&NodeId| planned != Some(&id.node) && keeps(&id.node) && stays(id);
            !pinned && seen.record.holder().filter(elsewhere).is_some()
        })
    }

    fn write_plan(&mut self, plan: PlanRecord, sound: bool) {
        let expected = self.view.plan.as_ref().map_or(Revision::NONE, |plan| plan.revision);
        let moves = plan
            .rows
            .iter()
            .zip(self.who.partitions.ids())
            .filter(|(row, partition)| {
                let holder = self.view.holder(*partition).filter(|id| !self.view.is_gone(id));
                holder.is_some_and(|id| row.first().is_some_and(|name| *name != id.node))
            })
            .count();
        self.emit(Event::Planned { version: plan.version, members: plan.members.len(), moves });
        let op = self.op();
        self.coordination.plan_op = Some(PlanWrite { op, plan: plan.clone(), sound });
        self.out.push(Action::Cas {
            op,
            key: Key::Plan,
            expected,
            record: Record::Plan(plan),
            heartbeat: false,
            subscribe: None,
            timeout: self.timing.lease / 2,
        });
    }

    /// Incarnations that claims still name and that are proven gone. Rebuilt from the leases each time, so that it is
    /// the same whoever coordinates.
    fn gone_but_named(&self) -> Vec<NodeId> {
        self.view.named().filter(|id| self.view.is_gone(id)).cloned().collect()
    }

    fn plan_rows(&self, members: &[PlanMember], wishes: Wishes<'_>) -> Result<Planned, String> {
        let claim = |partition| self.view.claims.get(&partition).map(|seen| &seen.record);
        let frozen = |member: &PlanMember| self.is_frozen(member);
        plan::plan_rows(self.who.partitions, members, claim, frozen, wishes).map_err(|error| error.to_string())
    }

    /// Not renewed for half a lease: may be suspended. It keeps what it has and gets nothing new.
    fn is_frozen(&self, member: &PlanMember) -> bool {
        let silent = self.observer.silent_for(&member.id.node, self.now);
        member.id.node != self.who.node && silent > self.timing.lease / 2
    }

    /// Tells of members that came, drain or went, by the plan.
    fn note_member_changes(&mut self) {
        let Some(plan) = &self.view.plan else { return };
        let (members, known) = (&plan.record.members, &self.coordination.known_members);
        if members.len() == known.len() && members.iter().all(|m| known.get(&m.id.node) == Some(&m.draining)) {
            return;
        }
        let now: BTreeMap<NodeName, bool> =
            plan.record.members.iter().map(|member| (member.id.node.clone(), member.draining)).collect();
        if now == self.coordination.known_members {
            return;
        }
        let before = std::mem::replace(&mut self.coordination.known_members, now.clone());
        for (node, draining) in &now {
            match before.get(node) {
                None => self.emit(Event::Member { node: node.clone(), change: MemberChange::Joined }),
                Some(false) if *draining => {
                    self.emit(Event::Member { node: node.clone(), change: MemberChange::Draining });
                }
                Some(_) => {}
            }
        }
        for node in before.keys().filter(|node| !now.contains_key(*node)) {
            self.emit(Event::Member { node: node.clone(), change: MemberChange::Gone });
        }
    }

    pub(super) fn coordination_wakes(&self) -> Vec<Time> {
        let mut wakes: Vec<Time> = self
            .view
            .leases
            .iter()
            .filter(|(node, seen)| **node != self.who.node && seen.record.state == LeaseState::Live)
            .map(|(node, seen)| self.observer.expires_at(node, seen))
            .collect();
        wakes.extend(self.observer.missing().map(|(_, since)| since + self.timing.lease));
        wakes.extend(self.member_wakes());
        wakes.extend(self.former_wake());
        wakes.extend(self.places_wakes());
        if self.coordination.plan_op.is_none() {
            wakes.push(self.coordination.plan_retry_at);
        }
        wakes
    }
}
