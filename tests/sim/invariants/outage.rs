//! Nobody is evicted because the store was away: neither by who hears nothing, nor before everybody had a lease to renew in.

use std::time::Duration;

use nats_ring::testing::Write;
use nats_ring::types::NodeName;

use super::{Held, ensure};

const DEAF: &str = "nobody is evicted by who hears nothing itself";
const AWAY: &str = "nobody is evicted because the store was away";
/// The slowest clock allowed, and the fastest.
const SLOWEST: f64 = 0.95;
const FASTEST: f64 = 1.051;
/// Longer than a step takes to be carried out.
const SLACK: Duration = Duration::from_millis(5);

/// When nobody could reach the store, last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outage {
    /// NATS as a whole, and JetStream alone.
    away: [bool; 2],
    from: Option<Duration>,
    until: Option<Duration>,
}

impl Outage {
    /// NATS as a whole is away, or back.
    pub(crate) fn nats(&mut self, away: bool, at: Duration) {
        self.set(0, away, at);
    }

    /// JetStream alone falls silent, or answers again.
    pub(crate) fn jetstream(&mut self, away: bool, at: Duration) {
        self.set(1, away, at);
    }

    fn set(&mut self, which: usize, away: bool, at: Duration) {
        let was = self.away.contains(&true);
        self.away[which] = away;
        let is = self.away.contains(&true);
        if is && !was {
            (self.from, self.until) = (Some(at), None);
        } else if was && !is {
            self.until = Some(at);
        }
    }

    /// `node` is evicted by this write, whose sender was last stopped, or went on, at `stopped`.
    pub(crate) fn evicted(&self, node: &NodeName, lease_ms: u64, (write, stopped): (&Write, Duration)) -> Held {
        let (Some(from), sent) = (self.from, write.sent_at) else { return Ok(()) };
        let lease = Duration::from_millis(lease_ms);
        let how = || format!("{node} is evicted by {}, sent at {sent:?}: {self:?}", write.by);
        // It judges for a sixth of a lease after its own last heartbeat was acknowledged, and was not stopped on the way.
        let deaf = from + lease.div_f64(6.0 * SLOWEST) + SLACK;
        let within = self.until.is_none_or(|until| sent < until);
        ensure(sent <= deaf || !within || stopped >= from, DEAF, how)?;
        let Some(until) = self.until else { return Ok(()) };
        // A third of a lease without an acknowledgement, by any clock: everybody judges anew.
        let all_noticed = until - from > lease.div_f64(3.0 * SLOWEST) + SLACK;
        let early = sent >= until && sent + SLACK < until + lease.div_f64(FASTEST);
        ensure(!all_noticed || !early, AWAY, how)
    }
}
