//! The coordination store's twin in memory: the same promises, and faults on demand.
//!
//! All handles of one store share its state; a handle made by [`MemStore::connect`] can be cut off by itself. Nothing
//! here waits for time: a time-out is an immediate [`CasError::Unknown`]. Whatever chance decides comes from one seed.

mod follower;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

use super::{CasError, Entry, Position, Revision, Store, StoreError, StoreIdentity, WatchScope, WatchStream};
use crate::types::guard::{self, Guard};

/// Writes that [`MemStore::rollback`] can take back.
const UNDO_MAX: usize = 4096;

/// What may go wrong with one compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused as a conflict though nothing else was written, as a replicated stream does while a write of the same
    /// key is being agreed on.
    Conflict,
    /// Applied, but the answer is lost.
    TimeoutApplied,
    /// Lost on its way.
    TimeoutLost,
    /// Under way until [`MemStore::apply_late`].
    TimeoutLate,
    /// Never sent.
    NotSent,
}

/// How often things go wrong by themselves: probabilities, 0 to 1.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Per compare-and-set; the first that hits counts.
    pub cas: Vec<(Fault, f64)>,
    /// Per change delivered: it is delivered once more.
    pub watch_repeat: f64,
    /// Per change delivered: a gap and a new snapshot come instead.
    pub watch_gap: f64,
}

/// How often watches were made to stumble.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatchesFired {
    /// Changes delivered once more.
    pub watch_repeat: u64,
    /// Gaps.
    pub watch_gap: u64,
}

/// A store in memory. Clones share one connection to it; [`MemStore::connect`] makes another.
#[derive(Debug, Clone)]
pub struct MemStore {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    up: AtomicBool,
    /// How often it was cut: a watch that nobody asked meanwhile, its process being stopped, knows it by this.
    cuts: AtomicU64,
}

impl Connection {
    fn new() -> Arc<Self> {
        Arc::new(Self { up: AtomicBool::new(true), cuts: AtomicU64::new(0) })
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Whatever a watch may have to look at. (A `tokio::sync::watch` would wake its receivers in random order.)
    changed: Notify,
}

#[derive(Debug)]
struct State {
    life: u64,
    last: Revision,
    entries: BTreeMap<String, Entry>,
    by_revision: BTreeMap<Revision, String>,
    undo: VecDeque<(Revision, String, Option<Entry>)>,
    /// For each time the store went back: what it went back to.
    floors: Vec<Revision>,
    late: Vec<(String, Revision, Bytes)>,
    script: VecDeque<Option<Fault>>,
    faults: Faults,
    fired: WatchesFired,
    rng: SmallRng,
    held: bool,
}

impl MemStore {
    /// An empty store whose chance comes from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            life: 1,
            last: Revision::NONE,
            entries: BTreeMap::new(),
            by_revision: BTreeMap::new(),
            undo: VecDeque::new(),
            floors: Vec::new(),
            late: Vec::new(),
            script: VecDeque::new(),
            faults: Faults::default(),
            fired: WatchesFired::default(),
            rng: SmallRng::seed_from_u64(seed),
            held: false,
        };
        let shared = Shared { state: Mutex::new(state), changed: Notify::new() };
        Self { shared: Arc::new(shared), connection: Connection::new() }
    }

    /// Another connection to the same store.
    #[must_use]
    pub fn connect(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), connection: Connection::new() }
    }

    /// Cuts this connection or mends it. While it is cut its writes are not sent, and its watches stand still; they go
    /// on with a new snapshot.
    pub fn set_connected(&self, connected: bool) {
        let was = self.connection.up.swap(connected, Ordering::SeqCst);
        self.connection.cuts.fetch_add(u64::from(was && !connected), Ordering::SeqCst);
        self.wake();
    }

    /// Sets what goes wrong by chance from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// How often watches were made to stumble so far.
    pub fn fired(&self) -> WatchesFired {
        self.state().fired
    }

    /// Decides the next compare-and-set that nothing is decided for yet: this fault, or none whatever chance says.
    pub fn script(&self, next: Option<Fault>) {
        self.state().script.push_back(next);
    }

    /// Lets all writes land that are still under way ([`Fault::TimeoutLate`]), and tells how many did.
    pub fn apply_late(&self) -> usize {
        let mut state = self.state();
        let late = std::mem::take(&mut state.late);
        let landed = late.into_iter().filter(|(key, expected, value)| state.cas(key, *expected, value).is_ok()).count();
        drop(state);
        self.wake();
        landed
    }

    /// Stops the delivery of all changes, or lets them through.
    pub fn hold_watches(&self, held: bool) {
        self.state().held = held;
        self.wake();
    }

    /// Deletes a key the way an operator would: a marker stays.
    pub fn delete(&self, key: &str) {
        self.state().write(key, None);
        self.wake();
    }

    /// Deletes the store and creates it again, empty.
    pub fn reset(&self) {
        let mut state = self.state();
        state.life += 1;
        state.last = Revision::NONE;
        state.entries.clear();
        state.by_revision.clear();
        state.undo.clear();
        state.late.clear();
        drop(state);
        self.wake();
    }

    /// Loses the last `writes` acknowledged writes (at most the last 4096), as a server may that lost power.
    pub fn rollback(&self, writes: usize) {
        let mut state = self.state();
        for _ in 0..writes {
            let Some((before, key, entry)) = state.undo.pop_back() else { break };
            state.restore(before, key, entry);
        }
        let floor = state.last;
        state.floors.push(floor);
        drop(state);
        self.wake();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.shared.changed.notify_waiters();
    }

    fn is_connected(&self) -> bool {
        self.connection.up.load(Ordering::SeqCst)
    }

    fn cuts(&self) -> u64 {
        self.connection.cuts.load(Ordering::SeqCst)
    }
}

impl State {
    fn live_revision(&self, key: &str) -> Revision {
        self.entries.get(key).map_or(Revision::NONE, |entry| entry.revision)
    }

    fn cas(&mut self, key: &str, expected: Revision, value: &Bytes) -> Result<Revision, CasError> {
        let deleted = self.entries.get(key).is_some_and(|entry| entry.value.is_none());
        let creates_over_marker = expected == Revision::NONE && deleted;
        if self.live_revision(key) != expected && !creates_over_marker && compares(key) {
            return Err(CasError::Conflict);
        }
        Ok(self.write(key, Some(value.clone())))
    }

    fn write(&mut self, key: &str, value: Option<Bytes>) -> Revision {
        let before = self.last;
        self.last = Revision(before.0 + 1);
        let entry = Entry { key: key.to_owned(), value, revision: self.last };
        let replaced = self.entries.insert(key.to_owned(), entry);
        if let Some(old) = &replaced {
            self.by_revision.remove(&old.revision);
        }
        self.by_revision.insert(self.last, key.to_owned());
        self.undo.push_back((before, key.to_owned(), replaced));
        if self.undo.len() > UNDO_MAX {
            self.undo.pop_front();
        }
        self.last
    }

    fn restore(&mut self, before: Revision, key: String, entry: Option<Entry>) {
        self.by_revision.remove(&self.last);
        self.last = before;
        match entry {
            Some(entry) => {
                self.by_revision.insert(entry.revision, key.clone());
                self.entries.insert(key, entry);
            }
            None => {
                self.entries.remove(&key);
            }
        }
    }

    fn fault(&mut self) -> Option<Fault> {
        if let Some(decided) = self.script.pop_front() {
            return decided;
        }
        let Self { faults, rng, .. } = self;
        faults.cas.iter().find(|(_, chance)| hits(rng, *chance)).map(|(fault, _)| *fault)
    }
}

/// Whether a write of this key is refused where another revision is there than it expects.
fn compares(key: &str) -> bool {
    guard::holds(match key.split('.').next() {
        Some("own") => Guard::ClaimRevision,
        Some("lease") => Guard::LeaseRevision,
        Some("plan") => Guard::PlanRevision,
        _ => return true,
    })
}

fn hits(rng: &mut SmallRng, probability: f64) -> bool {
    probability > 0.0 && rng.random_bool(probability.min(1.0))
}

#[async_trait]
impl Store for MemStore {
    async fn cas(&self, key: &str, expected: Revision, value: Bytes, timeout: Duration) -> Result<Revision, CasError> {
        if !self.is_connected() {
            return Err(CasError::NotSent("not connected".to_owned()));
        }
        let lost = || CasError::Unknown(format!("no acknowledgement within {timeout:?}"));
        let mut state = self.state();
        let outcome = match state.fault() {
            None => state.cas(key, expected, &value),
            Some(Fault::Conflict) => Err(CasError::Conflict),
            Some(Fault::NotSent) => Err(CasError::NotSent("not connected".to_owned())),
            Some(Fault::TimeoutLost) => Err(lost()),
            Some(Fault::TimeoutApplied) => {
                // Whether it was a conflict is as unknown as the rest.
                let _ = state.cas(key, expected, &value);
                Err(lost())
            }
            Some(Fault::TimeoutLate) => {
                state.late.push((key.to_owned(), expected, value));
                Err(lost())
            }
        };
        drop(state);
        self.wake();
        outcome
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        if !self.is_connected() {
            return Err(StoreError("not connected".to_owned()));
        }
        Ok(self.state().entries.get(key).cloned())
    }

    async fn watch_from(&self, scope: WatchScope, position: Position) -> Result<WatchStream, StoreError> {
        if !self.is_connected() {
            return Err(StoreError("not connected".to_owned()));
        }
        Ok(follower::start(self.clone(), scope, position))
    }

    async fn identity(&self) -> Result<StoreIdentity, StoreError> {
        if !self.is_connected() {
            return Err(StoreError("not connected".to_owned()));
        }
        Ok(StoreIdentity(format!("life {}", self.state().life)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
