//! What clients did and were told: one record for each operation, with when it was asked and when it was answered.
//!
//! Moments are nanoseconds of this machine's wall clock, read once at the start and counted on from there by the monotonic
//! one: NATS stamps the ring's records by the same wall clock, and both must be comparable.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Values are unique: whoever reads one knows which write it was.
pub type Value = u64;

/// Nanoseconds since 1970.
pub type Moment = u64;

/// A version of the cache: epoch, number.
pub type Version = (u64, u64);

/// The campaign's clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    at_start: Moment,
    start: Instant,
}

impl Clock {
    pub fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self { at_start: nanos(since), start: Instant::now() }
    }

    pub fn now(&self) -> Moment {
        self.at_start + nanos(self.start.elapsed())
    }
}

pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Action {
    Set(Value),
    Get,
    /// To the external sink.
    Append(Value),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Done, or for a read: what there was, if anything.
    Ok { found: Option<Value> },
    /// Surely not executed.
    Fail(String),
    /// Perhaps executed, perhaps later, perhaps never.
    Unknown(String),
    /// An answer that nobody should get.
    Absurd(String),
}

/// One operation.
#[derive(Debug, Clone, Serialize)]
pub struct Operation {
    /// Number of the key; its partition is this modulo the count of partitions.
    pub key: usize,
    pub action: Action,
    pub asked: Moment,
    pub answered: Moment,
    pub outcome: Outcome,
    /// Whom the client asked.
    pub through: String,
    /// Who answered, as it says.
    pub by: Option<String>,
    /// Of the write, or of the entry that was read.
    pub version: Option<Version>,
}

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub ok: usize,
    pub fail: usize,
    pub unknown: usize,
}

impl Counts {
    pub fn all(&self) -> usize {
        self.ok + self.fail + self.unknown
    }

    pub fn share_ok(&self) -> f64 {
        if self.all() == 0 { 0.0 } else { self.ok as f64 / self.all() as f64 }
    }

    pub fn plus(self, other: Self) -> Self {
        Self { ok: self.ok + other.ok, fail: self.fail + other.fail, unknown: self.unknown + other.unknown }
    }
}

/// All operations of a round. Bounded by the round's length and the clients' pace.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<(Vec<Operation>, Counts)>>);

impl History {
    pub fn add(&self, operation: Operation) {
        let (operations, counts) = &mut *self.0.lock().unwrap();
        match operation.outcome {
            Outcome::Ok { .. } => counts.ok += 1,
            Outcome::Fail(_) => counts.fail += 1,
            Outcome::Unknown(_) | Outcome::Absurd(_) => counts.unknown += 1,
        }
        operations.push(operation);
    }

    pub fn counts(&self) -> Counts {
        self.0.lock().unwrap().1
    }

    /// Everything so far, in the order in which it was asked.
    pub fn operations(&self) -> Vec<Operation> {
        let mut operations = self.0.lock().unwrap().0.clone();
        operations.sort_by_key(|operation| operation.asked);
        operations
    }
}
