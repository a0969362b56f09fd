//! What happened on the way, counted: an exploration in which something never did proves nothing of it.

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

#[derive(Debug, Clone, Default)]
pub(super) struct Tally([u64; SEEN.len()]);

impl Tally {
    pub(super) fn count(&mut self, seen: Seen) {
        self.0[seen as usize] += 1;
    }

    pub(super) fn of(&self, seen: Seen) -> u64 {
        self.0[seen as usize]
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, number)| *sum += number);
    }

    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::LeaseAcquired { .. } => self.count(Seen::LeaseAcquired),
            Event::Planned { .. } => self.count(Seen::Planned),
            Event::MoveStarted { .. } => self.count(Seen::MoveStarted),
            Event::MoveAbandoned { .. } => self.count(Seen::MoveAbandoned),
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
