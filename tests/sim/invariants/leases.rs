//! Leases, by what is written of them: whose ends, whose ends another's, and that nobody healthy is evicted.

use std::collections::HashMap;
use std::time::Duration;

use nats_ring::coord::{Lease, LeaseState};
use nats_ring::testing::{Link, NodeProcess, ProcessChange};
use nats_ring::types::{Incarnation, NodeId, NodeName};

use super::{Held, ensure};

const FOLLOWS: &str = "a lease ends by its holder's word, or a lease after its last renewal";
const HEALTHY: &str = "nobody healthy and connected is evicted";
/// The fastest clock allowed is so much faster than a true one.
const FASTEST: f64 = 1.05;

#[derive(Debug, Clone)]
struct Written {
    lease: Lease,
    at: Duration,
    by: NodeProcess,
}

/// How a process does, as far as heartbeats need it.
#[derive(Debug, Clone, Copy, Default)]
struct Health {
    number: u32,
    runs: bool,
    paused: bool,
    wedged: bool,
    cut: bool,
    /// When it last was not well, or only just was again.
    ill: Duration,
}

impl Health {
    fn is_ill(&self) -> bool {
        !self.runs || self.paused || self.wedged || self.cut
    }
}

/// A read that was under way as the store fell silent takes its whole time-out, and until then its node may be blind.
const BLIND: Duration = Duration::from_secs(5);

/// All leases, and how their holders do.
#[derive(Default)]
pub(crate) struct Leases {
    written: HashMap<NodeName, Written>,
    health: HashMap<NodeName, Health>,
    /// The store itself does not do what it should; since when, or until when it did not.
    store_ill: bool,
    store_was_ill: Duration,
    /// Hooks that misbehave cost a node its lease, and the loop may wait for it.
    pub(crate) evictions: u32,
}

impl Leases {
    /// The store went back, or is another one: what was known of it counts no more.
    pub(crate) fn forget(&mut self, at: Duration) {
        self.written.clear();
        self.store_was_ill = at;
    }

    pub(crate) fn removed(&mut self, node: &NodeName) {
        self.written.remove(node);
    }

    pub(crate) fn store(&mut self, ill: bool, at: Duration) {
        self.store_ill = ill;
        self.store_was_ill = at;
    }

    pub(crate) fn process(&mut self, of: &NodeProcess, change: ProcessChange, at: Duration) {
        let health = self.health.entry(of.node.clone()).or_default();
        match change {
            ProcessChange::Started => {
                *health = Health { number: of.number, runs: true, ..Health::default() };
            }
            ProcessChange::Crashed => health.runs = false,
            ProcessChange::Leaving => {}
            ProcessChange::Paused => health.paused = true,
            ProcessChange::Resumed => health.paused = false,
            ProcessChange::Wedged => health.wedged = true,
            ProcessChange::Unwedged => health.wedged = false,
        }
        health.ill = at;
    }

    pub(crate) fn link(&mut self, of: &NodeProcess, link: Link, at: Duration) {
        let health = self.health.entry(of.node.clone()).or_default();
        health.cut = link != Link::Up;
        health.ill = at;
    }

    /// It ended by itself.
    pub(crate) fn ended(&mut self, node: &NodeName, at: Duration) {
        let health = self.health.entry(node.clone()).or_default();
        (health.runs, health.ill) = (false, at);
    }

    /// Whether this incarnation holds its lease, as far as is known.
    pub(crate) fn is_live(&self, id: &NodeId) -> Option<bool> {
        let written = self.written.get(&id.node)?;
        Some(written.lease.incarnation == id.incarnation && written.lease.state == LeaseState::Live)
    }

    /// A lease was written.
    pub(crate) fn wrote(&mut self, node: &NodeName, lease: Lease, by: &NodeProcess, at: Duration) -> Held {
        let before = self.written.get(node).cloned();
        let held = before.as_ref().map_or(Ok(()), |before| {
            follows(before, &lease, at)?;
            self.is_not_evicted_in_health(node, before, &lease, at)
        });
        let ended = lease.state != LeaseState::Live;
        let holder = before.filter(|_| ended).map_or_else(|| by.clone(), |before| before.by);
        self.evictions += u32::from(lease.state == LeaseState::Evicted);
        self.written.insert(node.clone(), Written { lease, at, by: holder });
        held
    }

    /// Who runs, is neither stopped nor wedged nor cut off, and whose store answers, keeps its lease.
    fn is_not_evicted_in_health(&self, node: &NodeName, before: &Written, after: &Lease, at: Duration) -> Held {
        let evicted = before.lease.state == LeaseState::Live && after.state == LeaseState::Evicted;
        let health = self.health.get(node).copied().unwrap_or_default();
        let lives = health.number == before.by.number && !health.is_ill();
        if !evicted || !lives || self.store_ill {
            return Ok(());
        }
        // One whole lease of health, and time for the beat that was under way or waited to be tried again.
        let lease = Duration::from_millis(before.lease.lease_ms);
        let well_since = health.ill.max(self.store_was_ill) + BLIND;
        ensure(at < well_since + lease.mul_f64(FASTEST) + lease / 2, HEALTHY, || {
            format!("{node} (start {}) is evicted at {at:?}, well since {well_since:?}", before.lease.incarnation.start)
        })
    }
}

/// The same incarnation never writes again after its lease has ended; start numbers grow; and a live lease is ended by
/// others only a whole lease after its last renewal.
fn follows(before: &Written, after: &Lease, at: Duration) -> Held {
    let Written { lease: old, at: written, .. } = before;
    let (Incarnation { start: was, .. }, is) = (old.incarnation, after.incarnation.start);
    let same = old.incarnation == after.incarnation;
    ensure(!same || old.state == LeaseState::Live, FOLLOWS, || format!("{old:?} is followed by {after:?}"))?;
    ensure(same || is > was, FOLLOWS, || format!("start number {is} after {was}"))?;
    let taken = old.state == LeaseState::Live && (!same || after.state == LeaseState::Evicted);
    let silent = at.saturating_sub(*written);
    let least = Duration::from_millis(old.lease_ms).div_f64(FASTEST + 0.001);
    ensure(!taken || silent >= least, FOLLOWS, || format!("{old:?} is ended as {after:?} after {silent:?} of silence"))
}
