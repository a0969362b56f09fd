//! How often each kind of fault fired: a campaign in which one never did has not tested it.

use std::collections::BTreeMap;

use nats_ring::testing::FaultKind;

macro_rules! kinds {
    ($($name:ident),* $(,)?) => {
        /// What happens to a ring beside what its twins count.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Kind { $($name),* }

        const KINDS: &[Kind] = &[$(Kind::$name),*];
    };
}

kinds! {
    Join, Drain, SeveralAtOnce, RestartSameName, RestartNewName, PauseBeyondLease, HookFails, HookHangs, HookSlow,
    ClockDrift, OperatorPause, OperatorCordon, OperatorPin, Burst, DiscardSlow, ResetUnheard, DrainCutShort,
    WriteEventual, WriteQuorum, WriteStrong, TooFewCopies, CopyMade, CopyFollowed, TakeoverByMember, TakeoverOfNothing,
    OperatorFactor, ExecutedSuspended,
}

/// Counts by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fired(pub(crate) BTreeMap<String, u64>);

impl Fired {
    pub(crate) fn add(&mut self, kind: Kind, count: u64) {
        *self.0.entry(format!("{kind:?}")).or_default() += count;
    }

    /// What the ring's twins counted.
    pub(crate) fn add_ring(&mut self, fired: &BTreeMap<FaultKind, u64>) {
        for (kind, count) in fired {
            *self.0.entry(format!("{kind:?}")).or_default() += count;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            *self.0.entry(kind.clone()).or_default() += count;
        }
    }

    /// Those that never fired.
    pub(crate) fn missing(&self) -> Vec<String> {
        let own = KINDS.iter().map(|kind| format!("{kind:?}"));
        let all = own.chain(FaultKind::ALL.iter().map(|kind| format!("{kind:?}")));
        all.filter(|kind| self.0.get(kind).copied().unwrap_or(0) == 0).collect()
    }
}
