//! Leases, by what is written of them: whose ends, whose ends another's, and that nobody healthy is evicted.

use std::collections::HashMap;
use std::time::Duration;

use nats_ring::coord::{Lease, LeaseState};
use nats_ring::testing::{Link, NodeProcess, ProcessChange, Write};
use nats_ring::types::{Incarnation, NodeId, NodeName};

use super::outage::Outage;
use super::{Held, ensure};

const FOLLOWS: &str = "a lease ends by its holder's word, or a lease after its last renewal";
const REACHABLE: &str = "who cannot be reached does not renew its lease";
const ENDED: &str = "nothing is executed by whose lease has ended";
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
    /// Since when its connection for all but heartbeats has been closed.
    unreachable: Option<Duration>,
    /// When it was last stopped or wedged, or went on.
    stopped: Duration,
    /// It has said, or tried to, that it leaves.
    leaves: bool,
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
    /// When it last went back, or was replaced.
    went_back: Option<Duration>,
    pub(crate) outage: Outage,
    /// Hooks that misbehave cost a node its lease, and the loop may wait for it.
    pub(crate) evictions: u32,
}

impl Leases {
    /// The store went back, or is another one: what was known of it counts no more.
    pub(crate) fn forget(&mut self, at: Duration) {
        self.written.clear();
        (self.store_was_ill, self.went_back) = (at, Some(at));
    }

    /// The ring goes on under another generation: whoever held a lease ends that life as it hears of it, and takes a new one
    /// once its service has let go of what it held. Until then nobody renews the former one, and it is evicted.
    pub(crate) fn begins_anew(&mut self, at: Duration) {
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
        health.stopped = at;
        health.ill = at;
    }

    pub(crate) fn link(&mut self, of: &NodeProcess, (link, heartbeat): (Link, Link), at: Duration) {
        let health = self.health.entry(of.node.clone()).or_default();
        health.cut = link != Link::Up || heartbeat != Link::Up;
        health.unreachable = (link == Link::Down).then(|| health.unreachable.unwrap_or(at));
        health.ill = at;
    }

    /// A write is on its way: who gives its lease up stays no longer, whether anybody hears of it or not.
    pub(crate) fn sent(&mut self, by: &NodeProcess, lease: &Lease) {
        let health = self.health.entry(by.node.clone()).or_default();
        health.leaves |= lease.state == LeaseState::Left && health.number == by.number;
    }

    /// When this process was last stopped or wedged, or went on.
    pub(crate) fn stopped_at(&self, of: &NodeProcess) -> Duration {
        self.health.get(&of.node).map_or(Duration::ZERO, |health| health.stopped)
    }

    /// Whether this node runs, holds its lease and is connected, as far as can be seen from outside.
    pub(crate) fn is_there(&self, id: &NodeId) -> bool {
        let health = self.health.get(&id.node).copied().unwrap_or_default();
        let of_its_process = self.written.get(&id.node).is_some_and(|written| written.by.number == health.number);
        self.is_live(id) == Some(true) && of_its_process && !health.is_ill() && !health.leaves
    }

    /// Whoever executes has not given its lease up, and was not evicted.
    pub(crate) fn executed(&self, by: &NodeId) -> Held {
        ensure(self.is_live(by) != Some(false), ENDED, || {
            format!("{by}, its lease is {:?}", self.written.get(&by.node))
        })
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
    pub(crate) fn wrote(&mut self, node: &NodeName, lease: Lease, write: &Write, at: Duration) -> Held {
        let by = &write.by;
        let before = self.written.get(node).cloned();
        // What was sent to the store as it was before, and is taken by what it is now, nobody chose to do to this lease: a
        // revision that comes again is all they have in common. What follows from it is judged all the same.
        let stray = self.went_back.is_some_and(|went_back| write.sent_at < went_back);
        let held = before.as_ref().filter(|_| !stray).map_or(Ok(()), |before| {
            follows(before, &lease, at)?;
            if lease.state == LeaseState::Evicted {
                self.outage.evicted(node, before.lease.lease_ms, (write, self.stopped_at(by)))?;
            }
            self.is_reachable(before, &lease, write)?;
            self.is_not_evicted_in_health(node, before, &lease, at)
        });
        let ended = lease.state != LeaseState::Live;
        let holder = before.filter(|_| ended).map_or_else(|| by.clone(), |before| before.by);
        self.evictions += u32::from(lease.state == LeaseState::Evicted);
        self.written.insert(node.clone(), Written { lease, at, by: holder });
        held
    }

    /// A node that nobody can reach gives way, though its heartbeats would get through.
    fn is_reachable(&self, before: &Written, after: &Lease, write: &Write) -> Held {
        let renews = after.state == LeaseState::Live && after.incarnation == before.lease.incarnation;
        let health = self.health.get(&write.by.node).filter(|health| health.number == write.by.number);
        let Some((since, stopped)) = health.and_then(|health| Some((health.unreachable?, health.stopped))) else {
            return Ok(());
        };
        let half = Duration::from_millis(before.lease.lease_ms).mul_f64(FASTEST + 0.005) / 2;
        ensure(!renews || write.sent_at <= since.max(stopped) + half, REACHABLE, || {
            format!("{} renews with a heartbeat sent at {:?}, unreachable since {since:?}", write.by, write.sent_at)
        })
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
