//! For how long a message may have waited with a process that was frozen: nobody who takes it in afterwards can tell.

use std::collections::BTreeSet;
use std::time::Duration;

use nats_ring::testing::{NodeProcess, ProcessChange};

/// The time in which any process was frozen.
#[derive(Debug, Default)]
pub(crate) struct Frozen {
    processes: BTreeSet<NodeProcess>,
    /// Since when there are any.
    since: Duration,
    before: Duration,
}

impl Frozen {
    pub(super) fn process(&mut self, of: &NodeProcess, change: ProcessChange, at: Duration) {
        self.before = self.until(at);
        self.since = at;
        match change {
            ProcessChange::Paused => _ = self.processes.insert(of.clone()),
            ProcessChange::Resumed | ProcessChange::Crashed => _ = self.processes.remove(of),
            _ => {}
        }
    }

    /// All of it up to this moment: what one message has waited, handed on from one to the next, is within it.
    pub(super) fn until(&self, at: Duration) -> Duration {
        self.before + if self.processes.is_empty() { Duration::ZERO } else { at.saturating_sub(self.since) }
    }
}
