//! What the clients of a drill were told: the last acknowledged value of every key, what failed, how long answers took.
//!
//! A key is written by one client, one write at a time. Where it is not known what became of a write, the key is not written again: the
//! value read in the end is that of the last acknowledged write or that one.

use std::sync::Mutex;
use std::time::Duration;

use nats_ring::types::Consistency;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Surely not executed.
    Refused(String),
    /// It may have been executed.
    Unknown(String),
}

/// What one key has been through.
#[derive(Debug, Clone)]
pub struct KeyAccount {
    pub key: String,
    pub level: Consistency,
    pub acknowledged: Option<u64>,
    /// Nobody knows whether it was written; the key is left alone since.
    pub open: Option<u64>,
}

impl KeyAccount {
    pub fn new(key: String, level: Consistency) -> Self {
        Self { key, level, acknowledged: None, open: None }
    }

    /// Whether it may be read there now: else an acknowledged write is lost.
    pub fn explains(&self, read: Option<u64>) -> bool {
        read == self.acknowledged || (read.is_some() && read == self.open)
    }
}

/// How long requests took, and which failed.
#[derive(Debug, Default)]
pub struct Tally {
    took: Mutex<Vec<Duration>>,
    failed: Mutex<Vec<String>>,
    lost: Mutex<Vec<String>>,
}

impl Tally {
    pub fn answered(&self, took: Duration) {
        self.took.lock().unwrap().push(took);
    }

    pub fn failed(&self, what: String) {
        self.failed.lock().unwrap().push(what);
    }

    pub fn lost(&self, what: String) {
        self.lost.lock().unwrap().push(what);
    }

    /// What has come since this was asked last.
    pub fn take(&self) -> Figures {
        let mut took = std::mem::take(&mut *self.took.lock().unwrap());
        took.sort_unstable();
        let failed = std::mem::take(&mut *self.failed.lock().unwrap());
        Figures { took, failed, lost: std::mem::take(&mut *self.lost.lock().unwrap()) }
    }
}

/// A part of a [`Tally`].
#[derive(Debug)]
pub struct Figures {
    /// Of answered requests, sorted.
    took: Vec<Duration>,
    pub failed: Vec<String>,
    /// Reads that missed an acknowledged write.
    pub lost: Vec<String>,
}

impl Figures {
    pub fn answered(&self) -> usize {
        self.took.len()
    }

    fn at(&self, share: f64) -> Duration {
        let last = self.took.len().saturating_sub(1);
        self.took.get((last as f64 * share) as usize).copied().unwrap_or_default()
    }

    /// One line for people.
    pub fn line(&self, what: &str, lasted: Duration) -> String {
        let rate = self.answered() as f64 / lasted.as_secs_f64();
        let (p50, p99, max) = (self.at(0.5), self.at(0.99), self.at(1.0));
        format!(
            "{what:10} {:6} answered in {:4.1} s ({rate:4.0}/s), {} failed, {} lost; p50 {p50:7.1?}  p99 {p99:7.1?}  max {max:7.1?}",
            self.answered(),
            lasted.as_secs_f64(),
            self.failed.len(),
            self.lost.len()
        )
    }
}
