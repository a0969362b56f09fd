//! The ring's rules as a pure state machine: one per incarnation of a node.
//!
//! `step(now, input) -> actions`, and [`Machine::next_wake`] says when to call it again at the latest. No I/O, no clock,
//! no randomness. Every step applies its input, then brings everything towards the plan that can be: the machine is
//! level-triggered, as controllers are, so that an input lost or repeated changes nothing but the time it takes.
//!
//! `life` is this node's lease from first sight on, `leaving` how it ends, `coordinate` judging others and planning,
//! `away` whose places are kept, `former` when a new generation may begin,
//! `partition` and `moves` the phases of each partition here, `copies` its set of replicas, `recovery` taking it over.

mod away;
mod coordinate;
mod copies;
mod former;
mod hooks;
mod leaving;
mod life;
mod members;
mod moves;
mod partition;
mod recovery;
mod report;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::Event;
use super::io::{Action, Input, OpId, Outcome};
use super::lease::{Observer, OwnLease};
use super::settings::{Identity, Timing};
use super::view::View;
use crate::coord::Update;
use crate::coord::{CasError, Key, Member, Record, Revision, WatchScope};
use crate::types::guard::{self, Guard};
use crate::types::{NodeId, NodeName, PartitionId, Time};

pub use away::PlacesReport;
pub use report::{CopiesReport, MemberReport, MoveReport, Report, Standing, Wait, WaitReport};

use coordinate::Coordination;
use life::Stage;
use partition::{Phase, Slot};
use slots::Slots;

/// What bringing a partition towards the plan depends on beside the partition itself: where it changes, all are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Footing {
    plan: Option<Revision>,
    takes_part: bool,
    may_act: bool,
    may_claim: bool,
    draining: bool,
}

/// One incarnation of a node.
#[derive(Debug, Clone)]
pub struct Machine {
    who: Identity,
    timing: Timing,
    now: Time,
    view: View,
    ring_seen: bool,
    leases_seen: bool,
    stage: Stage,
    lease: Option<OwnLease>,
    suspended_at: Option<Time>,
    disconnected_at: Option<Time>,
    drain_asked_at: Option<Time>,
    leaves_for_good: bool,
    leaving_because: Option<String>,
    member_op: Option<(OpId, Member)>,
    member_retry_at: Time,
    /// The revision of the member record at which the last write of it was refused.
    member_refused_at: Option<Revision>,
    observer: Observer,
    coordination: Coordination,
    slots: Slots,
    looked_at_with: Option<Footing>,
    began: Time,
    former_told: bool,
    last_op: u64,
    out: Vec<Action>,
}

impl Machine {
    /// A node that has done nothing yet.
    pub fn new(who: Identity, timing: Timing, now: Time) -> Self {
        let slots = Slots::new(who.partitions);
        let stage = Stage::HoldingOff { until: now + timing.lease };
        Self {
            who,
            timing,
            now,
            view: View::default(),
            ring_seen: false,
            leases_seen: false,
            stage,
            lease: None,
            suspended_at: None,
            disconnected_at: None,
            drain_asked_at: None,
            leaves_for_good: false,
            leaving_because: None,
            member_op: None,
            member_retry_at: Time::ZERO,
            member_refused_at: None,
            observer: Observer::default(),
            coordination: Coordination::default(),
            slots,
            looked_at_with: None,
            began: now,
            former_told: false,
            last_op: 0,
            out: Vec::new(),
        }
    }

    /// The scope to watch leases in at the start.
    pub fn first_scope(&self) -> WatchScope {
        WatchScope::Leases(vec![self.who.node.clone()])
    }

    /// Takes in what happened and answers what to do, in order.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Action> {
        self.now = self.now.max(now);
        if self.stage != Stage::Over {
            self.take(input);
            self.advance();
        }
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Wake => {}
            Input::RingSnapshot(updates) => {
                for update in updates {
                    self.apply(update);
                    if !guard::holds(Guard::SnapshotAsUnit) {
                        self.ring_seen = true;
                        self.advance();
                    }
                }
                self.ring_seen = true;
            }
            Input::RingChange(update) => self.apply(update),
            Input::LeaseSnapshot { all, leases } => {
                if all {
                    self.view.forget_leases_beyond(&leases, &self.who.node);
                }
                leases.into_iter().for_each(|update| self.apply(update));
                self.leases_seen = true;
                self.coordination.all_leases_seen |= all;
            }
            Input::LeaseChange(update) => self.apply(update),
            Input::Cas { op, result } => self.cas_done(op, result),
            Input::Hook { .. } | Input::Idle { .. } | Input::Transferred { .. } if self.is_giving_up() => {}
            Input::Recovered { partition, epoch, result } => self.recovered(partition, epoch, result),
            Input::CaughtUp { partition, epoch, node, op } => self.caught_up(partition, epoch, &node, op),
            Input::Silent { partition, epoch, node } => self.silent(partition, epoch, &node),
            Input::Heard { partition, epoch, node } => self.heard(partition, epoch, &node),
            Input::Hook { op, result } => self.hook_done(op, result),
            Input::Idle { partition, epoch } => self.idle(partition, epoch),
            Input::Pressure { partition } => self.pressure(partition),
            Input::Transferred { partition, epoch, result } => self.transferred(partition, epoch, result),
            Input::Offered { op, offer } => self.offered(op, &offer),
            Input::OfferRefused { partition, epoch, reason } => self.offer_refused(partition, epoch, reason),
            Input::Connection(up) => self.connection(up),
            Input::StoreReset(reason) => self.store_reset(reason),
            Input::Drain => self.drain_asked(),
            Input::DrainForGood => self.drain_for_good(),
            Input::LetGone => self.let_go(),
            Input::GiveUp(reason) => self.leave_because(reason),
        }
    }

    fn apply(&mut self, update: Update) {
        let Update { key, revision, record } = update;
        if let Record::Meta(meta) = &record {
            if meta.generation != self.who.generation {
                self.store_reset(format!("the ring is at generation {} now", meta.generation));
            }
            return;
        }
        let own_lease = matches!(&key, Key::Lease(node) if *node == self.who.node);
        if let Key::Lease(node) = &key {
            self.observer.saw(node, revision, self.now);
        }
        let partition = match &key {
            Key::Own(partition) => Some(*partition),
            _ => None,
        };
        let is_config = key == Key::Config;
        let known_incarnation = self.own_lease_holder();
        if !self.view.apply(key, revision, record) {
            return;
        }
        if is_config {
            self.config_changed();
        }
        if own_lease {
            self.own_lease_changed(known_incarnation);
        }
        if let Some(partition) = partition.filter(|p| self.who.partitions.contains(*p)) {
            self.slots.touch(partition);
            self.emit_route(partition);
        }
    }

    fn config_changed(&mut self) {
        let config = self.view.config_in_force();
        self.emit(match self.view.config_refused() {
            Some(reason) => Event::ConfigRefused { reason: reason.to_owned() },
            None => Event::Config { paused: config.paused, cordoned: config.cordoned, pins: config.pins },
        });
    }

    fn emit_route(&mut self, partition: PartitionId) {
        let owner = self.view.claims.get(&partition).and_then(|seen| {
            let claim = &seen.record;
            claim.holder().map(|id| (id.clone(), claim.epoch))
        });
        self.out.push(Action::Route { partition, owner });
    }

    /// Brings everything towards the plan that can be brought.
    fn advance(&mut self) {
        self.advance_life();
        if self.lease.is_none() || (guard::holds(Guard::SnapshotAsUnit) && !self.ring_seen) {
            return;
        }
        if !self.takes_part() {
            return;
        }
        self.coordinate();
        self.announce();
        let footing = self.footing();
        if self.looked_at_with.replace(footing) != Some(footing) {
            self.slots.touch_all();
        }
        self.slots.touch_due(self.now);
        let mut looked_at = Vec::new();
        while let Some(partition) = self.slots.next_touched(looked_at.last().copied(), self.timing.parallel_moves) {
            self.reconcile(partition);
            looked_at.push(partition);
            // A hook that met its limit ends it all.
            if !self.takes_part() {
                return;
            }
        }
        self.flush_hooks(&looked_at);
        self.slots.looked_at(&looked_at, self.now, &self.timing);
        self.advance_leaving();
    }

    fn cas_done(&mut self, op: OpId, result: Result<Revision, CasError>) {
        if self.life_cas_done(op, &result) || self.coordination_cas_done(op, &result) {
            return;
        }
        if let Some((_, member)) = self.member_op.take_if(|(known, _)| *known == op) {
            match result {
                // The acknowledgement may be ahead of the watch: without this it would be written again.
                Ok(revision) => {
                    _ = self.view.apply(Key::Member(self.who.node.clone()), revision, Record::Member(member))
                }
                Err(error) => self.member_refused(&error),
            }
            return;
        }
        self.partition_cas_done(op, &result);
    }

    /// When to call [`Machine::step`] again at the latest, whatever else happens.
    pub fn next_wake(&self) -> Option<Time> {
        let mut wakes: Vec<Time> = self.life_wakes();
        wakes.extend(self.coordination_wakes());
        wakes.extend(self.slots.next_wake(&self.timing, self.now));
        wakes.into_iter().filter(|at| *at > self.now).min()
    }

    fn op(&mut self) -> OpId {
        self.last_op += 1;
        OpId(self.last_op)
    }

    fn emit(&mut self, event: Event) {
        self.out.push(Action::Emit(event));
    }

    /// This node in this incarnation; `None` before it has its lease.
    pub fn id(&self) -> Option<NodeId> {
        let lease = self.lease.as_ref()?;
        Some(NodeId { node: self.who.node.clone(), incarnation: lease.incarnation })
    }

    fn is_me(&self, id: &NodeId) -> bool {
        id.node == self.who.node && self.lease.as_ref().is_some_and(|lease| lease.incarnation == id.incarnation)
    }

    fn takes_part(&self) -> bool {
        matches!(self.stage, Stage::Running | Stage::Lingering { .. })
    }

    /// Whether this node may act now: it holds its lease, and three quarters of it are not over.
    fn may_act(&self) -> bool {
        self.takes_part() && self.lease.as_ref().is_some_and(|lease| self.now < lease.act_until(&self.timing))
    }

    /// Whether half a lease is left to act in: asked for before anything is claimed.
    fn may_claim(&self) -> bool {
        let half = if guard::holds(Guard::HalfLeaseToClaim) { self.timing.lease / 2 } else { Duration::ZERO };
        self.may_act() && self.lease.as_ref().is_some_and(|lease| self.now + half <= lease.act_until(&self.timing))
    }

    fn footing(&self) -> Footing {
        Footing {
            plan: self.view.plan.as_ref().map(|plan| plan.revision),
            takes_part: self.takes_part(),
            may_act: self.may_act(),
            may_claim: self.may_claim(),
            draining: self.is_draining(),
        }
    }

    fn is_draining(&self) -> bool {
        self.drain_asked_at.is_some()
    }

    fn slot(&self, partition: PartitionId) -> &Slot {
        &self.slots[partition.index()]
    }

    fn set_phase(&mut self, partition: PartitionId, phase: Phase) {
        self.slots.set_phase(partition, phase);
    }

    /// The plan's owner-to-be, where the plan is of this generation and knows it by its incarnation.
    fn planned(&self, partition: PartitionId) -> Option<NodeId> {
        let name = self.view.planned_owner(partition)?;
        self.view.plan_member(name).cloned()
    }

    fn plan_is_current(&self) -> bool {
        self.view.plan.as_ref().is_some_and(|plan| plan.record.generation == self.who.generation)
    }

    fn names_by_count(&self) -> BTreeMap<NodeName, usize> {
        let mut owned = BTreeMap::new();
        for seen in self.view.claims.values() {
            if let Some(id) = seen.record.holder() {
                *owned.entry(id.node.clone()).or_default() += 1;
            }
        }
        owned
    }
}
