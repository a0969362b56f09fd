//! The store of the simulated world: compare-and-set on keys, watches with delays of their own per key.
//!
//! A write may be lost, may apply though its acknowledgement is lost, or may apply long after its time-out, as long as
//! its expected revision still matches. Watches keep the order of one key, never of two, and skip overtaken records.

use std::collections::BTreeMap;

use rand::RngExt;

use super::checker::Checked;
use super::{Due, MS, World};
use crate::coord::Update;
use crate::coord::{CasError, Claim, Key, Lease, Record, Revision, WatchScope};
use crate::ring::io::{Input, OpId};
use crate::types::guard::{self, Guard};
use crate::types::{NodeName, PartitionId};

/// The records, and when they were written.
#[derive(Debug, Default)]
pub(super) struct Kv {
    pub(super) last: u64,
    pub(super) records: BTreeMap<Key, (Revision, Record)>,
    pub(super) written: BTreeMap<Key, u64>,
    /// The last time the store was away for more than half a lease: from, until.
    pub(super) outage: Option<(u64, u64)>,
}

impl Kv {
    pub(super) fn claim(&self, partition: PartitionId) -> Option<&Claim> {
        match &self.records.get(&Key::Own(partition))?.1 {
            Record::Own(claim) => Some(claim),
            _ => None,
        }
    }

    pub(super) fn lease(&self, node: &NodeName) -> Option<&Lease> {
        match &self.records.get(&Key::Lease(node.clone()))?.1 {
            Record::Lease(lease) => Some(lease),
            _ => None,
        }
    }

    fn snapshot(&self, wanted: impl Fn(&Key) -> bool) -> Vec<Update> {
        let mut updates: Vec<Update> = self
            .records
            .iter()
            .filter(|(key, _)| wanted(key))
            .map(|(key, (revision, record))| Update { key: key.clone(), revision: *revision, record: record.clone() })
            .collect();
        updates.sort_by_key(|update| update.revision);
        updates
    }
}

/// A write on its way to the store.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    pub(super) process: usize,
    pub(super) session: u32,
    pub(super) op: OpId,
    pub(super) key: Key,
    pub(super) expected: Revision,
    pub(super) record: Record,
    /// Until when an answer counts; `None` where it is known that it will not.
    pub(super) answer_by: Option<u64>,
}

/// Whether a watch of `scope` follows `key`.
fn follows(scope: &WatchScope, key: &Key) -> bool {
    match (scope, key) {
        (WatchScope::Ring, key) => !matches!(key, Key::Lease(_)),
        (WatchScope::Routes, key) => matches!(key, Key::Meta | Key::Own(_)),
        (WatchScope::AllLeases, key) => matches!(key, Key::Lease(_)),
        (WatchScope::Leases(names), Key::Lease(node)) => names.contains(node),
        (WatchScope::Leases(_), _) => false,
    }
}

/// Which of the delays of a process is that of a key.
fn class(key: &Key) -> usize {
    match key {
        Key::Lease(_) => 0,
        Key::Plan => 1,
        Key::Own(_) => 2,
        _ => 3,
    }
}

fn compares(key: &Key) -> bool {
    match key {
        Key::Own(_) => guard::holds(Guard::ClaimRevision),
        Key::Lease(_) => guard::holds(Guard::LeaseRevision),
        Key::Plan => guard::holds(Guard::PlanRevision),
        _ => true,
    }
}

fn unknown() -> Result<Revision, CasError> {
    Err(CasError::Unknown("no answer in time".to_owned()))
}

impl World {
    fn lag(&mut self, process: usize, class: usize) -> u64 {
        let most = if self.faulty { self.processes[process].lags[class] } else { 5 * MS };
        self.rng.random_range(MS / 10..=most)
    }

    fn answer(&mut self, writing: &Writing, at: u64, result: Result<Revision, CasError>) {
        let Writing { process, session, op, .. } = *writing;
        self.due_at(at, Due::Deliver { process, session, input: Input::Cas { op, result } });
    }

    /// A machine writes; `timeout` in real time.
    pub(super) fn send_write(&mut self, mut writing: Writing, heartbeat: bool, timeout: u64) {
        let deadline = self.now + timeout;
        let linked = !self.nats_away && (heartbeat || self.processes[writing.process].data_up);
        if !linked {
            if self.chance(50) {
                let soon = self.now + self.rng.random_range(MS..=5 * MS);
                return self.answer(&writing, soon, Err(CasError::NotSent("not connected".to_owned())));
            }
            return self.send_late(writing, deadline, 30);
        }
        let fate = if self.faulty { self.rng.random_range(0..100) } else { 100 };
        if fate < self.odds.unsure {
            return self.send_late(writing, deadline, 60);
        }
        let lost_answer = fate < 2 * self.odds.unsure;
        if lost_answer {
            self.answer(&writing, deadline, unknown());
        }
        writing.answer_by = (!lost_answer).then_some(deadline);
        let delay = self.rng.random_range(MS / 10..=self.odds.trip);
        self.due_in(delay, Due::Arrive(Box::new(writing)));
    }

    /// No answer will come; perhaps the write will.
    fn send_late(&mut self, mut writing: Writing, deadline: u64, percent: u32) {
        self.answer(&writing, deadline, unknown());
        if self.chance(percent) {
            let late = deadline + self.rng.random_range(0..=3 * super::LEASE);
            writing.answer_by = None;
            self.due_at(late, Due::Arrive(Box::new(writing)));
        }
    }

    /// A write reaches the store.
    pub(super) fn arrive(&mut self, writing: Writing) -> Checked {
        if self.nats_away {
            if let Some(deadline) = writing.answer_by {
                self.answer(&writing, deadline.max(self.now), unknown());
            }
            if self.chance(50) {
                let later = self.rng.random_range(MS..=super::LEASE);
                self.due_in(later, Due::Arrive(Box::new(Writing { answer_by: None, ..writing })));
            }
            return Ok(());
        }
        let current = self.kv.records.get(&writing.key).map_or(Revision::NONE, |(revision, _)| *revision);
        let result = if current == writing.expected || !compares(&writing.key) {
            Ok(self.write(&writing)?)
        } else {
            Err(CasError::Conflict)
        };
        self.note(|| {
            let (by, key) = (writing.process + 1, writing.key.text());
            format!("store: p{by} {key}@{} {} -> {result:?}", writing.expected.0, brief(&writing.record))
        });
        if let Some(deadline) = writing.answer_by {
            let back = self.now + self.rng.random_range(MS / 10..=self.odds.trip);
            let result = if back < deadline { result } else { unknown() };
            self.answer(&writing, back.min(deadline), result);
        }
        Ok(())
    }

    pub(super) fn write(&mut self, writing: &Writing) -> Result<Revision, String> {
        let (key, record) = (&writing.key, &writing.record);
        self.may_be_written(key, record)?;
        if let (Key::Own(partition), Record::Own(claim)) = (key, record) {
            self.record_claim(*partition, claim)?;
        }
        self.kv.last += 1;
        let revision = Revision(self.kv.last);
        self.kv.records.insert(key.clone(), (revision, record.clone()));
        self.kv.written.insert(key.clone(), self.now);
        if let Key::Own(partition) = key {
            self.check_copies(*partition)?;
        }
        for process in 0..self.processes.len() {
            self.publish(process, Update { key: key.clone(), revision, record: record.clone() });
        }
        Ok(revision)
    }

    fn publish(&mut self, process: usize, update: Update) {
        let watcher = &self.processes[process];
        let lease = matches!(update.key, Key::Lease(_));
        let live = if lease { watcher.lease_live } else { watcher.ring_live };
        let scope = if lease { watcher.scope.as_ref() } else { Some(&WatchScope::Ring) };
        if watcher.machine.is_none() || !live || !scope.is_some_and(|scope| follows(scope, &update.key)) {
            return;
        }
        let session = watcher.session;
        let lag = self.lag(process, class(&update.key));
        let watcher = &mut self.processes[process];
        let floor = if lease { watcher.lease_floor } else { watcher.ring_floor };
        let last = watcher.delivered.entry(update.key.clone()).or_default();
        let at = (self.now + lag).max(*last).max(floor);
        *last = at;
        self.due_at(at, Due::Change { process, session, update });
    }

    /// A record reaches a machine. A bucket that keeps one record per key may have dropped it for a later one.
    pub(super) fn change(&mut self, process: usize, session: u32, update: Update) -> Checked {
        let watcher = &self.processes[process];
        let lease = matches!(update.key, Key::Lease(_));
        let live = if lease { watcher.lease_live } else { watcher.ring_live };
        let overtaken = self.kv.records.get(&update.key).is_some_and(|(revision, _)| *revision > update.revision);
        if overtaken && live && self.faulty && self.chance(30) {
            return Ok(());
        }
        let input = if lease { Input::LeaseChange(update) } else { Input::RingChange(update) };
        self.deliver(process, session, input)
    }

    /// The ring watch begins: state as one unit, changes after it.
    pub(super) fn ring_watch(&mut self, process: usize, session: u32) {
        if self.processes[process].session != session || !self.is_linked(process) {
            return;
        }
        let at = self.now + self.lag(process, 3);
        let updates = self.kv.snapshot(|key| follows(&WatchScope::Ring, key));
        let watcher = &mut self.processes[process];
        (watcher.ring_live, watcher.ring_floor) = (true, at);
        self.due_at(at, Due::Deliver { process, session, input: Input::RingSnapshot(updates) });
    }

    /// The lease watch begins.
    pub(super) fn lease_watch(&mut self, process: usize, session: u32, watch: u32) {
        let watcher = &self.processes[process];
        if watcher.session != session || watcher.lease_watch != watch || !self.is_linked(process) {
            return;
        }
        let Some(scope) = watcher.scope.clone() else { return };
        let at = self.now + self.lag(process, 0);
        let leases = self.kv.snapshot(|key| follows(&scope, key));
        let watcher = &mut self.processes[process];
        (watcher.lease_live, watcher.lease_floor) = (true, at);
        let all = scope == WatchScope::AllLeases;
        self.due_at(at, Due::Deliver { process, session, input: Input::LeaseSnapshot { all, leases } });
    }
}

/// A record in few words.
pub(in super::super) fn brief(record: &Record) -> String {
    match record {
        Record::Lease(lease) => format!("#{} beat {} {:?}", lease.incarnation.start, lease.beat, lease.state),
        Record::Own(claim) => {
            let set: Vec<String> = claim.replicas.iter().map(ToString::to_string).collect();
            let set = if set.len() > 1 { format!(" [{}]", set.join(" ")) } else { String::new() };
            format!("{} e{} {:?}{set}", claim.owner, claim.epoch, claim.state)
        }
        Record::Member(member) => format!("#{} {:?} not {:?}", member.incarnation.start, member.state, member.excluded),
        Record::Plan(plan) => {
            let owners: Vec<String> =
                plan.rows.iter().map(|row| row.first().map_or("-".to_owned(), ToString::to_string)).collect();
            format!("v{} by {} gone {:?} rows {}", plan.version, plan.author, plan.gone, owners.join(" "))
        }
        other => format!("{other:?}"),
    }
}
