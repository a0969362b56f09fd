//! What the owner's service does with each change of a replicated partition, and what it may ask about the copies.

use std::fmt;

use futures::future::BoxFuture;

use crate::replica::Change;
use crate::types::{Consistency, Version};

/// How many copies a partition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copies {
    /// In sync, the owner's included; while the set changes, the smaller of both.
    pub in_sync: usize,
    /// Asked for, the owner's included.
    pub factor: usize,
    /// What the ring's requests ask for where they do not say it.
    pub consistency: Consistency,
}

impl Copies {
    /// Of a partition that is not replicated.
    pub const ONE: Self = Self { in_sync: 1, factor: 1, consistency: Consistency::Eventual };

    /// Whether there are enough of them in sync.
    pub const fn suffice_for(&self, level: Consistency) -> bool {
        self.in_sync >= level.copies_needed(self.factor)
    }
}

/// The grant ended before all copies were known to have it: whether they have is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the partition changed hands before its copies were known to have it")]
pub struct NotCommitted;

/// Where the changes of one partition in one grant go.
pub trait ChangeLog: fmt::Debug + Send + Sync {
    /// Takes the next change: versions are of the grant's epoch and count 1, 2, 3, … Called under the service's own
    /// lock, so that the order is that of the changes; returns at once.
    fn append(&self, change: Change);

    /// How many copies there are now.
    fn copies(&self) -> Copies;

    /// Waits until every copy in sync has everything up to `version`; with how many there were then. There is no limit of time:
    /// a copy that is silent leaves the set, and whoever asks has a deadline.
    ///
    /// # Errors
    /// [`NotCommitted`] where the grant ended first.
    fn committed(&self, version: Version) -> BoxFuture<'static, Result<Copies, NotCommitted>>;

    /// Asks every copy in sync, as of this call, whether it still follows this grant's epoch, and waits until all have said
    /// so and have everything that was written before the call. Then nobody else had begun to own the partition when it was
    /// made. There is no limit of time.
    ///
    /// # Errors
    /// [`NotCommitted`] where there is no other copy, one follows a later epoch, or the grant ended.
    fn confirm(&self) -> BoxFuture<'static, Result<(), NotCommitted>> {
        Box::pin(std::future::ready(Err(NotCommitted)))
    }
}
