//! What happened on the way, counted: an exploration in which something never did proves nothing of it.

use std::collections::BTreeMap;

use crate::ring::event::{Event, Origin};

/// What is counted, once for each step in which it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Seen {
    LeaseAcquired,
    Planned,
    MoveStarted,
    Switched,
    MoveAbandoned,
    KeptByNewEpoch,
    TakenOver,
    Evicted,
    Suspended,
    Resumed,
    LeaseLost,
    Crashed,
    Paused,
    TimedOut,
    StrayLanded,
    AtRest,
    /// At rest with every budget used up and everybody in.
    AllDone,
}

pub(super) const SEEN: [Seen; 17] = [
    Seen::LeaseAcquired,
    Seen::Planned,
    Seen::MoveStarted,
    Seen::Switched,
    Seen::MoveAbandoned,
    Seen::KeptByNewEpoch,
    Seen::TakenOver,
    Seen::Evicted,
    Seen::Suspended,
    Seen::Resumed,
    Seen::LeaseLost,
    Seen::Crashed,
    Seen::Paused,
    Seen::TimedOut,
    Seen::StrayLanded,
    Seen::AtRest,
    Seen::AllDone,
];

/// Counts, and why moves were given up.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    counts: [u64; SEEN.len()],
    reasons: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn count(&mut self, seen: Seen) {
        self.counts[seen as usize] += 1;
    }

    pub(super) fn of(&self, seen: Seen) -> u64 {
        self.counts[seen as usize]
    }

    /// Why moves were given up, and how often.
    pub(super) fn reasons(&self) -> &BTreeMap<String, u64> {
        &self.reasons
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, number)| *sum += number);
        for (reason, number) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += number;
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::LeaseAcquired { .. } => self.count(Seen::LeaseAcquired),
            Event::Planned { .. } => self.count(Seen::Planned),
            Event::MoveStarted { .. } => self.count(Seen::MoveStarted),
            Event::MoveAbandoned { reason, .. } => {
                self.count(Seen::MoveAbandoned);
                *self.reasons.entry(reason.clone()).or_default() += 1;
            }
            Event::Owned { origin: Origin::Switch, .. } => self.count(Seen::Switched),
            Event::Owned { origin: Origin::Takeover, .. } => self.count(Seen::TakenOver),
            Event::Owned { origin: Origin::Abandoned, .. } => self.count(Seen::KeptByNewEpoch),
            Event::Evicted { .. } => self.count(Seen::Evicted),
            Event::Suspended => self.count(Seen::Suspended),
            Event::Resumed { .. } => self.count(Seen::Resumed),
            Event::LeaseLost { .. } => self.count(Seen::LeaseLost),
            _ => {}
        }
    }
}
