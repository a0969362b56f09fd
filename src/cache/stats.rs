//! What the cache counts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::map::Gone;

/// The cache of one node in figures. Counters run since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct CacheStats {
    /// Entries held, the expired ones that are not swept yet included.
    pub entries: u64,
    /// Those of them that have a time to live.
    pub with_ttl: u64,
    /// What the entries weigh: keys, values and the memory needed to keep them.
    pub bytes: u64,
    /// Reads that found a live entry.
    pub hits: u64,
    /// Reads that found none.
    pub misses: u64,
    /// Hits of all reads, 0 to 1; 0 before the first read.
    pub hit_rate: f64,
    /// Entries whose time was over.
    pub expired: u64,
    /// Live entries that had to make room.
    pub evicted: u64,
    /// Requests answered with an error.
    pub failures: u64,
    /// The bound on `bytes`.
    pub capacity_bytes: u64,
    /// What of the above is of partitions that this node owns, or is about to own.
    pub owned: Held,
    /// What of it are copies that this node keeps of partitions of others.
    pub copied: Held,
}

/// A part of what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Held {
    /// Entries.
    pub entries: u64,
    /// Those of them that have a time to live.
    pub with_ttl: u64,
    /// What they weigh.
    pub bytes: u64,
}

impl Held {
    pub(super) fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.with_ttl += other.with_ttl;
        self.bytes += other.bytes;
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) failures: AtomicU64,
}

impl Counters {
    pub(super) fn gone(&self, gone: Gone) {
        add(&self.evicted, gone.evicted);
        add(&self.expired, gone.expired);
    }
}

/// Adds to a counter that orders nothing else.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    if amount > 0 {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
