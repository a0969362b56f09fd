//! One partition as it is held here: its entries, whose they are, and the number of its last write.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::map::BoundedMap;
use super::once::Memory;
use crate::service::Grant;
use crate::types::{Epoch, FencingToken, PartitionId, Time, Version};

/// Whose data a partition's entries are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tenure {
    /// Received for a grant that has not begun.
    Restored(FencingToken),
    /// Owned at this epoch, or handed over since and not yet discarded.
    Owned(FencingToken),
    /// Another node's, copied here.
    Copied,
}

impl Tenure {
    /// Whether the data is still right at the beginning of a grant.
    ///
    /// What was received counts for exactly that grant. What was owned counts for the same grant again (`on_own` may be
    /// repeated) and for the very next epoch (a switch called off): had anybody else owned the partition in between,
    /// the epoch would be higher, and what is here would be out of date.
    fn carries_over_to(&self, token: &FencingToken) -> bool {
        match self {
            Self::Restored(restored) => restored == token,
            // Whoever gives the grant has seen to it.
            Self::Copied => true,
            Self::Owned(owned) => {
                let same_history = owned.ring == token.ring
                    && owned.generation == token.generation
                    && owned.incarnation == token.incarnation;
                same_history && (owned.epoch == token.epoch || owned.epoch.next() == token.epoch)
            }
        }
    }
}

/// What is behind a partition's lock.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) map: BoundedMap,
    tenure: Tenure,
    /// Of the last write: what the whole map is as of.
    last: Version,
    /// The writes that came with a name.
    pub(super) memory: Memory,
}

impl Held {
    /// Whether requests of this epoch are answered from here.
    pub(super) fn serves(&self, epoch: Epoch) -> bool {
        matches!(&self.tenure, Tenure::Owned(token) if token.epoch == epoch)
    }

    /// Whether the partition is another node's.
    pub(super) fn is_copy(&self) -> bool {
        self.tenure == Tenure::Copied
    }

    /// Begins a grant at this moment, if the data is still right for it.
    pub(super) fn begin(&mut self, grant: &Grant, now: Time) -> bool {
        if !self.tenure.carries_over_to(&grant.token) {
            return false;
        }
        let repeated = self.tenure == Tenure::Owned(grant.token.clone());
        if !repeated {
            self.tenure = Tenure::Owned(grant.token.clone());
        }
        self.memory.is_named_from(now);
        true
    }

    /// From now on another node's.
    pub(super) fn follow(&mut self) {
        self.tenure = Tenure::Copied;
    }

    /// The version of the next write by the owner of this epoch.
    pub(super) fn next_version(&self, epoch: Epoch) -> Version {
        let sequence = if self.last.epoch == epoch { self.last.sequence } else { 0 };
        Version { epoch, sequence: sequence + 1 }
    }

    /// That write was done.
    pub(super) fn wrote(&mut self, version: Version) {
        self.last = version;
    }

    /// The version of the last write.
    pub(super) fn last_version(&self) -> Version {
        self.last
    }
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) id: PartitionId,
    held: RwLock<Held>,
    /// How often memory had been freed when this partition was last refused more; the same count means it is in vain to
    /// ask again.
    refused_at: Mutex<Option<u64>>,
}

impl Partition {
    /// An empty one. Of what is to come from elsewhere nothing is known until it has come.
    pub(super) fn new(id: PartitionId, tenure: Tenure, seed: u64, now: Time) -> Self {
        let memory = if matches!(tenure, Tenure::Owned(_)) { Memory::default() } else { Memory::beginning(now) };
        let held = Held { map: BoundedMap::new(seed), tenure, last: Version::default(), memory };
        Self { id, held: RwLock::new(held), refused_at: Mutex::new(None) }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn refused_at(&self) -> MutexGuard<'_, Option<u64>> {
        self.refused_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
