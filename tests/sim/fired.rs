//! How often each kind of fault fired: a campaign in which one never did has not tested it.

use std::collections::BTreeMap;

macro_rules! kinds {
    ($($name:ident),* $(,)?) => {
        /// A kind of thing that happens to a ring.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Kind { $($name),* }

        /// All of them.
        pub(crate) const KINDS: &[Kind] = &[$(Kind::$name),*];
    };
}

kinds! {
    Join, Drain, SeveralAtOnce, Crash, RestartSameName, RestartNewName, PauseShort, PauseBeyondLease, CutBoth, BusDrop,
    CasLost, CasApplied, CasLate, CasConflict, StoreAway, WatchSlow, WatchRepeat, WatchGap, Rollback, BucketDeleted,
    HookFails, HookHangs, HookSlow, ClockDrift, OperatorPause, OperatorCordon, OperatorPin,
}

/// Counts by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fired(BTreeMap<Kind, u64>);

impl Fired {
    pub(crate) fn add(&mut self, kind: Kind, count: u64) {
        *self.0.entry(kind).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(kind, count)| self.add(*kind, *count));
    }

    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.0.get(&kind).copied().unwrap_or(0)
    }

    /// Those that never fired.
    pub(crate) fn missing(&self) -> Vec<Kind> {
        KINDS.iter().copied().filter(|kind| self.of(*kind) == 0).collect()
    }
}
