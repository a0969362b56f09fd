//! What an owner knows of one follower.

use std::time::Duration;

use super::{Bounds, Log};
use crate::types::guard::{Guard, holds};
use crate::types::{NodeId, Time, Version};

/// Where a follower stands, as far as its owner knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To be asked.
    Unknown,
    /// It has acknowledged everything up to here.
    At(Version),
    /// It has no copy that this owner's log goes on from.
    NoCopy,
}

/// The one thing under way to a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flight {
    /// Writes, or a question.
    Append { number: u64 },
    /// A copy; it begins at `since` once it has begun.
    Copy { stream: u64, since: Option<Version> },
}

#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) in_sync: bool,
    pub(super) pending: bool,
    /// It was reported as caught up: from then on it counts, for the set may name it at any moment.
    pub(super) joining: bool,
    pub(super) place: Place,
    /// Learners: the tail when it was first known where they stand. Up to there their copy may not be exact.
    pub(super) goal: Version,
    pub(super) flight: Option<Flight>,
    pub(super) not_before: Time,
    /// The next copy does not begin before.
    pub(super) copy_not_before: Time,
    /// Copies since it had last caught up.
    pub(super) copies: u32,
    /// When the first of what it has not acknowledged was sent.
    pub(super) unanswered_since: Option<Time>,
    /// The number of the last message that it answered with where it stands.
    pub(super) answered: u64,
    /// The last message before a change that adds it, and is not settled, named it: what was answered up to then does not say
    /// that its copy is there still.
    pub(super) named_after: Option<u64>,
    /// It was reported as silent, and has acknowledged nothing since.
    pub(super) silent: bool,
}

impl Peer {
    pub(super) fn new() -> Self {
        Self {
            in_sync: false,
            pending: false,
            joining: false,
            place: Place::Unknown,
            goal: Version::default(),
            flight: None,
            not_before: Time::ZERO,
            copy_not_before: Time::ZERO,
            copies: 0,
            unanswered_since: None,
            answered: 0,
            named_after: None,
            silent: false,
        }
    }

    pub(super) fn is_member(&self) -> bool {
        self.in_sync || self.pending
    }

    /// Whether a write is committed only once this follower has it.
    pub(super) fn counts(&self) -> bool {
        self.in_sync || (self.pending && holds(Guard::BothSets)) || (self.joining && holds(Guard::CaughtUpCounts))
    }

    /// Whether it may be cleared: no set names it, nor may one at any moment.
    pub(super) fn may_be_cleared(&self) -> bool {
        !self.is_member() && !self.joining
    }

    pub(super) fn acknowledged(&self) -> Option<Version> {
        match self.place {
            Place::At(version) => Some(version),
            Place::Unknown | Place::NoCopy => None,
        }
    }

    /// After which version the log is kept for it.
    pub(super) fn needs_after(&self, log: &Log) -> Option<Version> {
        let after = match (self.flight, self.place) {
            (Some(Flight::Copy { since, .. }), _) => since,
            (_, Place::At(version)) => Some(version),
            (_, Place::Unknown) if self.is_member() => Some(log.base()),
            (_, Place::Unknown | Place::NoCopy) => None,
        };
        after.filter(|version| log.contains(*version))
    }

    /// From when on there is something to send. `asked`: what was sent up to then confirms nothing to who asks now.
    pub(super) fn sends_at(&self, tail: Version, asked: Option<u64>) -> Option<Time> {
        if self.flight.is_some() {
            return None;
        }
        match self.place {
            Place::Unknown => Some(self.not_before),
            Place::At(version) => {
                let owes = self.counts() && asked.is_some_and(|asked| self.answered <= asked);
                let owes_place = self.named_after.is_some_and(|named_after| self.answered <= named_after);
                (version != tail || owes || owes_place).then_some(self.not_before)
            }
            Place::NoCopy => self.may_be_cleared().then_some(self.not_before.max(self.copy_not_before)),
        }
    }

    /// A copy has ended: the next one, should it need one before it has caught up, is put off.
    pub(super) fn put_off_copy(&mut self, now: Time, bounds: &Bounds) {
        let pause = bounds.copy_pause.saturating_mul(1 << self.copies.min(16));
        self.copies = self.copies.saturating_add(1);
        self.copy_not_before = now + pause.min(bounds.copy_pause_max);
    }

    /// When it counts as silent, unless it answers.
    pub(super) fn silent_at(&self, silent_after: Duration) -> Option<Time> {
        let judged = !self.silent && (self.is_member() || self.joining);
        self.unanswered_since.filter(|_| judged).map(|since| since + silent_after)
    }

    pub(super) fn standing(&self) -> Standing {
        match (self.flight, self.place) {
            (Some(Flight::Copy { .. }), _) => Standing::Copying,
            (_, Place::At(_)) => Standing::Following,
            (_, Place::Unknown) => Standing::Asked,
            (_, Place::NoCopy) => Standing::Apart,
        }
    }
}

/// How a follower stands to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Where it stands is not known yet.
    Asked,
    /// It goes on from the owner's log.
    Following,
    /// It needs a copy.
    Apart,
    /// A copy is under way to it.
    Copying,
}

/// How far a follower is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Who.
    pub node: NodeId,
    /// In the set, or named by a change of it that is not settled.
    pub member: bool,
    /// How it stands.
    pub standing: Standing,
    /// What it has acknowledged everything up to.
    pub acknowledged: Option<Version>,
    /// Bytes of writes that it has not acknowledged; `None` where the log does not go back so far.
    pub behind_bytes: Option<usize>,
}
