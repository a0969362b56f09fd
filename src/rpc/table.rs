//! Who owns which partition, as far as this process knows: read by every request, written as claims are seen.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

use super::subject;
use crate::types::{Epoch, NodeId, PartitionCount, PartitionId, RingName};

/// The owner of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Who.
    pub owner: NodeId,
    /// At which epoch.
    pub epoch: Epoch,
    /// Its node subject.
    pub subject: Arc<str>,
}

#[derive(Debug)]
struct Shared {
    rows: RwLock<Versioned>,
    /// Whoever waits is woken in the order they came, for a simulated run to be the same each time. (A
    /// `tokio::sync::watch` wakes its receivers in random order.)
    changed: Notify,
}

#[derive(Debug)]
struct Versioned {
    version: u64,
    rows: Vec<Option<Route>>,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Versioned> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for changes of a table.
#[derive(Debug)]
pub struct RouteChanges {
    shared: Arc<Shared>,
    seen: u64,
}

impl RouteChanges {
    /// Waits until the table is not what it was when this was made, or last returned, or was told.
    pub async fn changed(&mut self) {
        loop {
            let changed = self.shared.changed.notified();
            let version = self.shared.read().version;
            if std::mem::replace(&mut self.seen, version) != version {
                return;
            }
            changed.await;
        }
    }

    /// What changed so far counts no longer.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.shared.read().version;
    }
}

/// All routes; cheap to clone, all clones see the same.
#[derive(Debug, Clone)]
pub struct RouteTable {
    ring: RingName,
    shared: Arc<Shared>,
}

impl RouteTable {
    /// A table that knows nothing.
    pub fn new(ring: RingName, partitions: PartitionCount) -> Self {
        let rows = vec![None; usize::from(partitions.get())];
        let shared = Shared { rows: RwLock::new(Versioned { version: 0, rows }), changed: Notify::new() };
        Self { ring, shared: Arc::new(shared) }
    }

    /// The route of one partition.
    pub fn route(&self, partition: PartitionId) -> Option<Route> {
        self.shared.read().rows.get(partition.index()).cloned().flatten()
    }

    /// Notes owners, all at once.
    pub fn update(&self, changes: impl IntoIterator<Item = (PartitionId, Option<(NodeId, Epoch)>)>) {
        let mut table = self.shared.rows.write().unwrap_or_else(PoisonError::into_inner);
        for (partition, owner) in changes {
            if let Some(row) = table.rows.get_mut(partition.index()) {
                *row = owner.map(|(owner, epoch)| Route {
                    subject: subject::node(&self.ring, &owner).into(),
                    owner,
                    epoch,
                });
            }
        }
        table.version += 1;
        drop(table);
        self.shared.changed.notify_waiters();
    }

    /// The epoch of every partition that has an owner.
    pub fn epochs(&self) -> Vec<(PartitionId, Epoch)> {
        let table = self.shared.read();
        let rows = (0u16..).zip(table.rows.iter());
        rows.filter_map(|(number, row)| Some((PartitionId::new(number), row.as_ref()?.epoch))).collect()
    }

    /// Waits until every one of these partitions is known at this epoch or a later one. No longer waits for whoever has
    /// dropped the future.
    pub async fn reached(&self, epochs: &[(PartitionId, Epoch)]) {
        let mut changes = self.subscribe();
        while !self.knows(epochs) {
            changes.changed().await;
        }
    }

    fn knows(&self, epochs: &[(PartitionId, Epoch)]) -> bool {
        let table = self.shared.read();
        epochs.iter().all(|(partition, epoch)| {
            table.rows.get(partition.index()).is_some_and(|row| row.as_ref().is_some_and(|route| route.epoch >= *epoch))
        })
    }

    /// To wait for a change.
    pub fn subscribe(&self) -> RouteChanges {
        RouteChanges { seen: self.shared.read().version, shared: Arc::clone(&self.shared) }
    }
}
