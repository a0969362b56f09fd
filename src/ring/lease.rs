//! Leases, both sides: keeping one's own, and judging others'.
//!
//! In: acknowledgements and sightings with the time they came. Out: when to renew, until when to act, whose lease has
//! run out. Only this node's monotonic clock is used; clocks of two nodes are never compared.

use std::collections::BTreeMap;
use std::time::Duration;

use super::io::OpId;
use super::settings::Timing;
use super::view::Seen;
use crate::coord::{Lease, Revision};
use crate::types::guard::{self, Guard};
use crate::types::{Incarnation, NodeName, Time};

/// A heartbeat on its way.
#[derive(Debug, Clone, Copy, Hash)]
struct InFlight {
    op: OpId,
    sent: Time,
}

/// This node's own lease, once it has one.
#[derive(Debug, Clone, Hash)]
pub(crate) struct OwnLease {
    /// Whose life it is.
    pub(crate) incarnation: Incarnation,
    /// Revision at which it was created: this node's age.
    pub(crate) since: Revision,
    /// Last revision known to be this node's.
    pub(crate) revision: Revision,
    /// Counts renewals.
    pub(crate) beat: u64,
    acked_sent: Time,
    acked_at: Time,
    next: Time,
    in_flight: Option<InFlight>,
}

impl OwnLease {
    /// A lease whose creation, sent at `sent`, was acknowledged at `now`.
    pub(crate) fn created(
        incarnation: Incarnation,
        revision: Revision,
        sent: Time,
        now: Time,
        timing: &Timing,
    ) -> Self {
        let next = sent + timing.beat();
        Self { incarnation, since: revision, revision, beat: 0, acked_sent: sent, acked_at: now, next, in_flight: None }
    }

    /// Until when this node may act: its last acknowledged heartbeat's *sending* plus three quarters of the lease.
    pub(crate) fn act_until(&self, timing: &Timing) -> Time {
        let act = if guard::holds(Guard::SelfFence) { timing.act() } else { timing.act() * 1000 };
        self.acked_sent + act
    }

    /// When the last acknowledgement arrived.
    pub(crate) fn acked_at(&self) -> Time {
        self.acked_at
    }

    /// Whether to renew now.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        self.in_flight.is_none() && now >= self.next
    }

    /// Whether a renewal is on its way.
    pub(crate) fn is_renewing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// When to look again; `None` while a renewal is on its way.
    pub(crate) fn next_wake(&self) -> Option<Time> {
        self.in_flight.is_none().then_some(self.next)
    }

    /// Not now: look again after `pause`.
    pub(crate) fn postpone(&mut self, until: Time) {
        self.next = until;
    }

    /// A renewal was sent.
    pub(crate) fn sent(&mut self, op: OpId, now: Time, timing: &Timing) {
        self.beat += 1;
        self.in_flight = Some(InFlight { op, sent: now });
        self.next = now + timing.beat();
    }

    /// Whether `op` is the renewal on its way; if so it is no longer.
    pub(crate) fn take(&mut self, op: OpId) -> Option<Time> {
        let in_flight = self.in_flight.filter(|f| f.op == op)?;
        self.in_flight = None;
        Some(in_flight.sent)
    }

    /// The renewal sent at `sent` was acknowledged; answers the gap since the acknowledgement before it.
    pub(crate) fn acked(&mut self, revision: Revision, sent: Time, now: Time) -> Duration {
        let gap = now.since(self.acked_at);
        self.revision = self.revision.max(revision);
        self.acked_sent = self.acked_sent.max(sent);
        self.acked_at = now;
        gap
    }
}

/// What this node saw of others' leases, and since when it may judge them.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Observer {
    received: BTreeMap<NodeName, (Revision, Time)>,
    judging_since: Time,
}

impl Observer {
    /// A lease was seen at `revision`.
    pub(crate) fn saw(&mut self, node: &NodeName, revision: Revision, now: Time) {
        match self.received.get(node) {
            Some((known, _)) if *known >= revision => {}
            _ => {
                self.received.insert(node.clone(), (revision, now));
            }
        }
    }

    /// A lease is looked for that was not seen so far.
    pub(crate) fn looks_for(&mut self, node: &NodeName, now: Time) {
        self.received.entry(node.clone()).or_insert((Revision::NONE, now));
    }

    /// From when on a moment counts: not from before all timers were started again.
    pub(crate) fn judged_from(&self, moment: Time) -> Time {
        moment.max(self.judging_since)
    }

    /// Leases that are looked for and were not seen, and since when, as far as this node can tell.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (&NodeName, Time)> {
        let unseen = self.received.iter().filter(|(_, (revision, _))| *revision == Revision::NONE);
        unseen.map(|(node, (_, at))| (node, self.judged_from(*at)))
    }

    /// Starts all timers again: after a gap of one's own, a reconnect, or a conflict.
    pub(crate) fn restart(&mut self, now: Time) {
        self.judging_since = now;
    }

    /// When the lease runs out, if it is not seen renewed.
    pub(crate) fn expires_at(&self, node: &NodeName, lease: &Seen<Lease>) -> Time {
        let received = self.received.get(node).map_or(self.judging_since, |(_, at)| *at);
        let lease = Duration::from_millis(lease.record.lease_ms);
        received.max(self.judging_since) + if guard::holds(Guard::FullLeaseSilence) { lease } else { lease / 2 }
    }

    /// For how long it was not seen renewed.
    pub(crate) fn silent_for(&self, node: &NodeName, now: Time) -> Duration {
        self.received.get(node).map_or(Duration::ZERO, |(_, at)| now.since(*at))
    }
}
