//! When two situations are the same: their fingerprint.
//!
//! Behaviour depends on spans of time, not on moments; on the order of the revisions of one key, not on their numbers; on
//! which operation an outcome belongs to, not on what it is called. All these numbers are marked in their upper byte, so
//! a hasher can tell them from others and put in their place what counts: a span from now (nothing is older than a lease
//! to the rules), a distance from the store's last revision, epoch or plan, the order in which an operation is met.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::state::{Kv, LEASE, Node, Pending, State, Writing};
use crate::coord::{Key, Record};
use crate::ring::machine::Machine;
use crate::ring::machine::tests::invariants::Truth;
use crate::types::{PartitionId, Time};

/// Marks a moment.
pub(super) const TIMES: u64 = 0x10 << 56;
/// Marks a revision of anything but a lease: the key's number, then a count.
pub(super) const REVISIONS: u64 = 0x20 << 56;
/// Marks a revision of a lease: its birth, then a count. They are in the order of births.
pub(super) const LEASES: u64 = 0x21 << 56;
/// Marks an operation.
pub(super) const OPS: u64 = 0x30 << 56;
/// Marks an epoch: its partition, then a count.
pub(super) const EPOCHS: u64 = 0x40 << 56;
/// Marks a plan's version.
pub(super) const VERSIONS: u64 = 0x41 << 56;

const MARK: u64 = 0xff << 56;
const COUNT: u64 = u32::MAX as u64;

/// A number per key that is not a lease's.
pub(super) fn key_number(key: &Key) -> u64 {
    match key {
        Key::Meta => 0,
        Key::Config => 1,
        Key::Plan => 2,
        Key::Lease(node) | Key::Member(node) => 8 + u64::from(node.as_str().as_bytes()[1]),
        Key::Own(partition) => 4 + u64::from(partition.get()),
    }
}

/// Which birth a lease's revision is of.
pub(super) fn birth(revision: u64) -> usize {
    usize::try_from((revision & !MARK) >> 32).expect("fits")
}

struct Canon<'a> {
    kv: &'a Kv,
    now: Time,
    /// All that are known anywhere, in their order: first they are collected, then what counts is the place among them.
    revisions: Vec<u64>,
    collecting: bool,
    version: u64,
    ops: Vec<u64>,
    bytes: Vec<u8>,
}

impl<'a> Canon<'a> {
    fn new(kv: &'a Kv, now: Time) -> Self {
        let version = match kv.records.get(&Key::Plan) {
            Some((_, Record::Plan(plan))) => plan.version,
            _ => 0,
        };
        Self {
            kv,
            now,
            revisions: Vec::with_capacity(128),
            collecting: true,
            version,
            ops: Vec::new(),
            bytes: Vec::with_capacity(8192),
        }
    }

    fn collected(&mut self) {
        self.revisions.sort_unstable();
        self.revisions.dedup();
        self.collecting = false;
    }

    fn canonical(&mut self, word: u64) -> u64 {
        match word & MARK {
            TIMES => TIMES | self.span(word),
            // The first of its birth is the node's age as well, and stays what it is.
            LEASES if word & COUNT == 0 => word,
            REVISIONS | LEASES => {
                let place = self.revisions.partition_point(|known| *known < word);
                let first = self.revisions.partition_point(|known| *known < word & !COUNT);
                word & !COUNT | 1 << 31 | (place - first) as u64
            }
            OPS => {
                let known = self.ops.iter().position(|op| *op == word);
                OPS | known.unwrap_or_else(|| {
                    self.ops.push(word);
                    self.ops.len() - 1
                }) as u64
            }
            EPOCHS => {
                let partition = PartitionId::new(u16::try_from((word & !MARK) >> 32).expect("fits"));
                let last = self.kv.claim(partition).map_or(0, |claim| claim.epoch.get());
                word & !COUNT | last.wrapping_sub(word) & COUNT
            }
            VERSIONS => VERSIONS | self.version.wrapping_sub(word) & COUNT,
            _ => word,
        }
    }

    /// From a lease ago; all that was earlier is one. So is all that is many leases ahead: only the limits of hooks are,
    /// and no hook runs for so long here.
    fn span(&self, word: u64) -> u64 {
        let (past, never) = ((self.now - LEASE).as_nanos(), (LEASE * 8).as_nanos() as u64);
        word.saturating_sub(past).min(never)
    }
}

impl Hasher for Canon<'_> {
    fn finish(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.bytes)
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.collecting {
            return;
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn write_u64(&mut self, word: u64) {
        if self.collecting {
            if matches!(word & MARK, REVISIONS | LEASES) && !(word & MARK == LEASES && word & COUNT == 0) {
                self.revisions.push(word);
            }
            return;
        }
        let word = self.canonical(word);
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    fn write_isize(&mut self, number: isize) {
        // Only which of an enum's variants it is.
        if self.collecting {
            return;
        }
        self.bytes.push(number as u8);
    }
}

/// Everything of a machine that its behaviour depends on. Its own time is not: no wake may be past but one that is due.
fn hash_machine(machine: &Machine, canon: &mut Canon<'_>) {
    let Machine {
        who,
        timing: _,
        now: _,
        view,
        ring_seen,
        leases_seen,
        stage,
        lease,
        suspended_at,
        disconnected_at,
        drain_asked_at,
        leaves_for_good,
        leaving_because,
        member_op,
        member_retry_at,
        member_refused_at,
        observer,
        coordination,
        slots,
        looked_at_with,
        // Of later generations only, of which there is none here.
        began: _,
        former_told: _,
        last_op: _,
        out: _,
    } = machine;
    who.incarnation_id.hash(canon);
    (view, ring_seen, leases_seen, stage, lease).hash(canon);
    (suspended_at, disconnected_at, drain_asked_at, leaves_for_good, leaving_because).hash(canon);
    (member_op, member_retry_at, member_refused_at, observer, coordination, slots, looked_at_with).hash(canon);
}

/// What is overdue is overdue.
fn hash_pending<T: Hash>(pending: &Pending<T>, canon: &mut Canon<'_>) {
    pending.what.hash(canon);
    (pending.from.max(canon.now), pending.by.max(canon.now)).hash(canon);
}

/// What may arrive in any order has none.
fn hash_set<T>(items: &[T], canon: &mut Canon<'_>, hash: impl Fn(&T, &mut Canon<'_>)) {
    items.len().hash(canon);
    let start = canon.bytes.len();
    let mut each: Vec<Vec<u8>> = Vec::with_capacity(items.len());
    for item in items {
        hash(item, canon);
        each.push(canon.bytes.split_off(start));
    }
    each.sort_unstable();
    each.iter().for_each(|bytes| canon.bytes.extend_from_slice(bytes));
}

fn hash_node(node: &Node, canon: &mut Canon<'_>) {
    let Node { name: _, session, machine, paused, gate, parts, scope, ring, leases, inbox } = node;
    (session, paused, gate, parts, scope).hash(canon);
    machine.is_some().hash(canon);
    if let Some(machine) = machine {
        node.is_due(canon.now).hash(canon);
        hash_machine(machine, canon);
    }
    for queue in [ring, leases] {
        queue.len().hash(canon);
        queue.iter().for_each(|pending| hash_pending(pending, canon));
    }
    hash_set(inbox, canon, hash_pending);
}

impl State {
    /// What tells this situation from those that are not the same. 128 bits: two that differ share one with a chance of
    /// less than 10^-22 among 10^8.
    pub(super) fn fingerprint(&self) -> u128 {
        let mut canon = Canon::new(&self.kv, self.now);
        self.hash_with(&mut canon);
        canon.collected();
        self.hash_with(&mut canon);
        xxh3_128(&canon.bytes)
    }

    fn hash_with<'a>(&'a self, mut canon: &mut Canon<'a>) {
        let Self { now: _, nodes, kv, writes, left, checker, scenario: _ } = self;
        nodes.iter().for_each(|node: &Arc<Node>| hash_node(node, canon));
        (&kv.records, &kv.leases_written, kv.births.len()).hash(&mut canon);
        (left, checker.as_ref()).hash(&mut canon);
        hash_set(writes, canon, |writing, canon| {
            let Writing { process, session, op, key, expected, record, by, deadline, stray } = writing;
            (process, session, op, key, expected, record, stray).hash(canon);
            if !stray {
                let by = (*by).max(canon.now);
                (by, deadline).hash(canon);
            }
        });
    }
}
