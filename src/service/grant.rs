//! The right to act for a partition, and the gate that closes by itself when the node's lease runs out.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::changes::ChangeLog;
use crate::types::guard::{self, Guard};
use crate::types::{Clock, Epoch, FencingToken, PartitionId, Time};

/// Open while the node may act: until 3/4 of a lease after it sent its last acknowledged heartbeat, by its own clock.
///
/// Every request passes it before it executes, and every answer before it is handed to the network. Beyond that, for a
/// limited time, only with what all copies confirm.
pub struct Gate {
    open_until_nanos: AtomicU64,
    /// How much longer the copies may confirm what the lease does not.
    suspended_for: Duration,
    clock: Arc<dyn Clock>,
}

impl Gate {
    /// A closed gate.
    pub fn closed(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with_suspension(clock, Duration::ZERO)
    }

    /// A closed gate, beyond which a node may go on for so long with its copies, unless it is closed by word.
    pub fn with_suspension(clock: Arc<dyn Clock>, suspended_for: Duration) -> Arc<Self> {
        Arc::new(Self { open_until_nanos: AtomicU64::new(0), suspended_for, clock })
    }

    /// Open until that moment; a moment in the past closes it.
    pub fn open_until(&self, moment: Time) {
        self.open_until_nanos.store(moment.as_nanos(), Ordering::SeqCst);
    }

    /// Closes it now.
    pub fn close(&self) {
        self.open_until_nanos.store(0, Ordering::SeqCst);
    }

    /// Whether the node may act now.
    pub fn is_open(&self) -> bool {
        self.clock.now().as_nanos() < self.open_until_nanos.load(Ordering::SeqCst)
    }

    /// Whether the node may do now what all copies confirm: it has its lease as far as it knows, and has not been without
    /// a heartbeat for too long.
    pub fn is_within_suspension(&self) -> bool {
        !self.suspension_margin().is_zero()
    }

    /// How much longer it may do that without a further heartbeat; zero where it may not.
    pub fn suspension_margin(&self) -> Duration {
        let open_until = self.open_until_nanos.load(Ordering::SeqCst);
        if open_until == 0 {
            return Duration::ZERO;
        }
        let limit = if guard::holds(Guard::SuspendLimit) { self.suspended_for } else { self.suspended_for * 1000 };
        (Time::from_nanos(open_until) + limit).since(self.clock.now())
    }

    /// How long it stays open without a further heartbeat; zero when closed.
    pub fn margin(&self) -> Duration {
        Time::from_nanos(self.open_until_nanos.load(Ordering::SeqCst)).since(self.clock.now())
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("margin", &self.margin()).finish()
    }
}

/// Ends a grant before its gate closes: set when the partition is handed over or lost.
#[derive(Debug)]
pub struct Validity {
    revoked: AtomicBool,
    gate: Arc<Gate>,
}

impl Validity {
    /// Valid while the gate is open, until revoked.
    pub fn new(gate: Arc<Gate>) -> Arc<Self> {
        Arc::new(Self { revoked: AtomicBool::new(false), gate })
    }

    /// Ends it for good.
    pub fn revoke(&self) {
        self.revoked.store(true, Ordering::SeqCst);
    }

    /// Not revoked, and the gate is open.
    pub fn holds(&self) -> bool {
        !self.revoked.load(Ordering::SeqCst) && self.gate.is_open()
    }

    /// Not revoked, and the gate is open or may be done without for now.
    fn may_be_confirmed(&self) -> bool {
        !self.revoked.load(Ordering::SeqCst) && self.gate.is_within_suspension()
    }
}

/// The right to act for one partition in one epoch.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Of which partition.
    pub partition: PartitionId,
    /// What an external store compares.
    pub token: FencingToken,
    validity: Arc<Validity>,
    log: Option<Arc<dyn ChangeLog>>,
}

impl Grant {
    /// A grant that holds as long as `validity` does.
    pub fn new(partition: PartitionId, token: FencingToken, validity: Arc<Validity>) -> Self {
        Self { partition, token, validity, log: None }
    }

    /// Whose changes go there.
    #[must_use]
    pub fn with_log(self, log: Arc<dyn ChangeLog>) -> Self {
        Self { log: Some(log), ..self }
    }

    /// Where each change of the partition goes, so that its copies have it too; `None` where none are kept.
    pub fn log(&self) -> Option<&dyn ChangeLog> {
        self.log.as_deref()
    }

    /// The partition's epoch.
    pub fn epoch(&self) -> Epoch {
        self.token.epoch
    }

    /// Whether this node may still act for the partition in this epoch, as far as it can know by itself.
    ///
    /// A local check cannot exclude that the process is paused right after it: whoever writes to an external store
    /// sends [`Grant::token`] along, and the store refuses lower ones ([`FencingToken::admits`]).
    pub fn is_current(&self) -> bool {
        self.validity.holds()
    }

    /// Whether this node, no heartbeat of which gets through, may still do what all copies confirm afterwards
    /// ([`ChangeLog::confirm`]): it has not been so for too long, and there are copies.
    pub fn may_be_confirmed(&self) -> bool {
        self.validity.may_be_confirmed() && self.log().is_some_and(|log| log.copies().in_sync > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ManualClock;
    use crate::types::guard::without;

    #[test]
    fn ten_leases_without_a_heartbeat_end_what_copies_may_confirm() {
        let clock = Arc::new(ManualClock::default());
        let lease = Duration::from_secs(1);
        let gate = Gate::with_suspension(clock.clone(), lease * 10 - lease * 3 / 4);
        assert!(!gate.is_within_suspension(), "not before it has a lease");
        gate.open_until(clock.now() + lease * 3 / 4);
        clock.advance(lease * 10 - Duration::from_millis(1));
        assert!(!gate.is_open() && gate.is_within_suspension());
        clock.advance(Duration::from_millis(1));
        assert!(!gate.is_within_suspension());
        {
            let _off = without(&[Guard::SuspendLimit]);
            assert!(gate.is_within_suspension());
        }
        gate.open_until(clock.now() + lease);
        gate.close();
        assert!(!gate.is_within_suspension(), "closed by word");
    }
}
