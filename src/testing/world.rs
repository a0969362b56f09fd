//! What all nodes of a ring share: the store itself, what is wrong with it, and who watches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::clock::SimulatedClock;
use super::faults::{FaultKind, StoreFaults};
use super::observer::{Observed, Watched, Write};
use super::wire::Line;
use crate::coord::mem::MemStore;
use crate::coord::{CasError, Revision, Store};
use crate::types::{Chance, Clock, Process};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct World {
    pub(super) clock: SimulatedClock,
    pub(super) store: MemStore,
    /// What is on its way belongs to no node.
    pub(super) process: Process,
    chance: Chance,
    watched: Watched,
    faults: Mutex<StoreFaults>,
    /// No write is answered and no watch yields anything.
    silent: AtomicBool,
    fired: Mutex<BTreeMap<FaultKind, u64>>,
    writes: AtomicU64,
    lines: Mutex<Vec<Weak<Line>>>,
}

/// What becomes of one write, decided as it is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fate {
    pub(super) way_out: Duration,
    fault: Option<FaultKind>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(super) fn new(clock: SimulatedClock, store: MemStore, chance: Chance, watched: Watched) -> Arc<Self> {
        Arc::new(Self {
            clock,
            store,
            process: Process::simulated(),
            chance,
            watched,
            faults: Mutex::default(),
            silent: AtomicBool::new(false),
            fired: Mutex::default(),
            writes: AtomicU64::new(0),
            lines: Mutex::default(),
        })
    }

    pub(super) fn saw(&self, what: &Observed<'_>) {
        if self.watched.0.is_some() {
            self.watched.saw(self.clock.elapsed(), what);
        }
    }

    pub(super) fn saw_at(&self, at: Duration, what: &Observed<'_>) {
        self.watched.saw(at, what);
    }

    pub(super) fn watched(&self) -> &Watched {
        &self.watched
    }

    pub(super) fn fired(&self) -> BTreeMap<FaultKind, u64> {
        locked(&self.fired).clone()
    }

    pub(super) fn fire(&self, kind: FaultKind) {
        *locked(&self.fired).entry(kind).or_default() += 1;
    }

    pub(super) fn set_faults(&self, faults: StoreFaults) {
        let of_watches = crate::coord::mem::Faults {
            cas: Vec::new(),
            watch_repeat: faults.watch_repeat,
            watch_gap: faults.watch_gap,
        };
        self.store.set_faults(of_watches);
        *locked(&self.faults) = faults;
    }

    pub(super) fn add_line(&self, line: &Arc<Line>) {
        let mut lines = locked(&self.lines);
        lines.retain(|line| line.strong_count() > 0);
        lines.push(Arc::downgrade(line));
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::SeqCst)
    }

    pub(super) fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
        let lines: Vec<Arc<Line>> = locked(&self.lines).iter().filter_map(Weak::upgrade).collect();
        lines.iter().for_each(|line| line.changed.notify_waiters());
    }

    fn within(&self, from: Duration, to: Duration) -> Duration {
        // Timers tick in milliseconds.
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(ms(from) + self.chance.up_to(ms(to).saturating_sub(ms(from))))
    }

    /// How long one change takes to a watch.
    pub(super) fn watch_lag(&self) -> Duration {
        let most = locked(&self.faults).watch_lag;
        let lag = self.within(Duration::ZERO, most);
        if !lag.is_zero() {
            self.fire(FaultKind::WatchLagged);
        }
        lag
    }

    pub(super) fn write(&self, line: &Line, key: &str, expected: Revision, value: Bytes) -> Write {
        Write {
            number: self.writes.fetch_add(1, Ordering::SeqCst) + 1,
            by: line.of.clone(),
            heartbeat: line.heartbeat,
            key: key.to_owned(),
            expected,
            value,
            sent_at: self.clock.elapsed(),
            sent_local: line.clock.now(),
        }
    }

    /// What becomes of a write that is sent now, and how long its answer takes.
    pub(super) fn fate(&self, line: &Line) -> (Fate, Duration) {
        let (from, to) = line.delay();
        let faults = locked(&self.faults).clone();
        let likely = [
            (FaultKind::WriteLost, faults.write_lost),
            (FaultKind::WriteUnanswered, faults.write_unanswered),
            (FaultKind::WriteLate, faults.write_late),
            (FaultKind::WriteConflict, faults.write_conflict),
        ];
        let fault = likely.into_iter().find(|(_, probability)| self.chance.hits(*probability)).map(|(kind, _)| kind);
        let late = fault == Some(FaultKind::WriteLate);
        let longer = if late { self.within(Duration::from_millis(1), faults.late_by) } else { Duration::ZERO };
        let way_out = self.within(from, to) + longer;
        (Fate { way_out, fault }, self.within(from, to))
    }

    /// The write is at the store; `None` where nobody will hear what it did there.
    pub(super) async fn decide(&self, write: &Write, fate: &Fate) -> Option<Result<Revision, CasError>> {
        let mut fault = fate.fault;
        if self.is_silent() {
            self.fire(FaultKind::JetStreamSilent);
            fault = Some(if self.chance.hits(0.5) { FaultKind::WriteLost } else { FaultKind::WriteUnanswered });
        } else if let Some(fault) = fault {
            self.fire(fault);
        }
        if fault == Some(FaultKind::WriteLost) {
            return None;
        }
        let outcome = match fault {
            Some(FaultKind::WriteConflict) => Err(CasError::Conflict),
            // What it is told of the time-out is for the messages of its own faults only.
            _ => self.store.cas(&write.key, write.expected, write.value.clone(), Duration::ZERO).await,
        };
        self.saw(&Observed::Decided { write, outcome: &outcome });
        (fault != Some(FaultKind::WriteUnanswered)).then_some(outcome)
    }
}
