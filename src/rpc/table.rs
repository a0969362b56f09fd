//! Who owns which partition, as far as this process knows: read by every request, written as claims are seen.

use std::sync::Arc;

use tokio::sync::watch;

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

type Rows = Arc<Vec<Option<Route>>>;

/// All routes; cheap to clone, all clones see the same.
#[derive(Debug, Clone)]
pub struct RouteTable {
    ring: RingName,
    rows: Arc<watch::Sender<Rows>>,
}

impl RouteTable {
    /// A table that knows nothing.
    pub fn new(ring: RingName, partitions: PartitionCount) -> Self {
        let rows = vec![None; usize::from(partitions.get())];
        Self { ring, rows: Arc::new(watch::Sender::new(Arc::new(rows))) }
    }

    /// The route of one partition.
    pub fn route(&self, partition: PartitionId) -> Option<Route> {
        self.rows.borrow().get(partition.index()).cloned().flatten()
    }

    /// Notes owners, all at once.
    pub fn update(&self, changes: impl IntoIterator<Item = (PartitionId, Option<(NodeId, Epoch)>)>) {
        self.rows.send_modify(|rows| {
            let rows = Arc::make_mut(rows);
            for (partition, owner) in changes {
                if let Some(row) = rows.get_mut(partition.index()) {
                    *row = owner.map(|(owner, epoch)| Route {
                        subject: subject::node(&self.ring, &owner).into(),
                        owner,
                        epoch,
                    });
                }
            }
        });
    }

    /// The epoch of every partition that has an owner.
    pub fn epochs(&self) -> Vec<(PartitionId, Epoch)> {
        let rows = self.rows.borrow();
        let rows = (0u16..).zip(rows.iter());
        rows.filter_map(|(number, row)| Some((PartitionId::new(number), row.as_ref()?.epoch))).collect()
    }

    /// Waits until every one of these partitions is known at this epoch or a later one. No longer waits for whoever has
    /// dropped the future.
    pub async fn reached(&self, epochs: &[(PartitionId, Epoch)]) {
        let known = |rows: &Rows, (partition, epoch): &(PartitionId, Epoch)| {
            rows.get(partition.index()).is_some_and(|row| row.as_ref().is_some_and(|route| route.epoch >= *epoch))
        };
        // The sender lives as long as this table.
        let _ = self.rows.subscribe().wait_for(|rows| epochs.iter().all(|wanted| known(rows, wanted))).await;
    }

    /// To wait for a change.
    pub fn subscribe(&self) -> watch::Receiver<Rows> {
        self.rows.subscribe()
    }
}
