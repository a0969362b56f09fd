//! Keeps a client's routes true for as long as it lives: over watches that end, a store that was reset, and a ring that
//! came back with another shape.
//!
//! In: what the store says. Out: a [`Router`] that calls go through.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;

use super::ring_client::ClientParts;
use crate::coord::{Followed, Follower, Key, Meta, Record, Revision, StoreIdentity, Update, WatchScope, read_meta};
use crate::rpc::{RouteTable, Router, RouterParts};
use crate::types::{Epoch, KeyHash, NodeId, PartitionCount, PartitionId};

/// Pauses between two looks at a ring that cannot be followed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);

type Owner = Option<(NodeId, Epoch)>;

/// What calls and the following task share.
pub(super) struct Routing {
    parts: ClientParts,
    router: RwLock<Shaped>,
    /// Whether the owners were read at least once.
    seen: watch::Sender<bool>,
}

/// A router, and the shape of the ring that it was made for.
#[derive(Clone)]
struct Shaped {
    partitions: PartitionCount,
    key_hash: KeyHash,
    router: Arc<Router>,
}

/// A ring that can be followed.
pub(super) struct Found {
    pub(super) meta: Meta,
    pub(super) identity: StoreIdentity,
}

/// Why following ended: there is more to read than changes.
enum Ended {
    Reset(String),
    Meta(Box<Meta>),
}

/// What was seen of each claim, so that nothing older counts.
#[derive(Default)]
struct Claims {
    revisions: HashMap<PartitionId, Revision>,
    snapshot_seen: bool,
}

impl Claims {
    /// The routes that a snapshot changes. The first one says of every partition who owns it; in a later one absence
    /// proves nothing.
    fn snapshot(&mut self, partitions: PartitionCount, updates: Vec<Update>) -> Vec<(PartitionId, Owner)> {
        let mut changes: Vec<(PartitionId, Owner)> = Vec::new();
        if !std::mem::replace(&mut self.snapshot_seen, true) {
            changes.extend(partitions.ids().map(|partition| (partition, None)));
        }
        changes.extend(updates.into_iter().filter_map(|update| self.change(update)));
        changes
    }

    fn change(&mut self, update: Update) -> Option<(PartitionId, Owner)> {
        let (Key::Own(partition), Record::Own(claim)) = (update.key, update.record) else { return None };
        if self.revisions.get(&partition).is_some_and(|known| *known >= update.revision) {
            return None;
        }
        self.revisions.insert(partition, update.revision);
        Some((partition, claim.holder().map(|owner| (owner.clone(), claim.epoch))))
    }
}

impl Routing {
    pub(super) fn new(parts: ClientParts, meta: &Meta) -> Arc<Self> {
        let router = RwLock::new(shaped(&parts, meta));
        Arc::new(Self { parts, router, seen: watch::Sender::new(false) })
    }

    pub(super) fn router(&self) -> Arc<Router> {
        Arc::clone(&self.router.read().unwrap_or_else(PoisonError::into_inner).router)
    }

    pub(super) fn partitions(&self) -> PartitionCount {
        self.router.read().unwrap_or_else(PoisonError::into_inner).partitions
    }

    /// Returns once the owners were read.
    pub(super) async fn until_seen(&self) {
        // The sender lives as long as this.
        let _ = self.seen.subscribe().wait_for(|seen| *seen).await;
    }

    /// Follows until it is dropped, a panic in it included: nobody else would begin anew.
    pub(super) async fn keep_following(self: Arc<Self>, first: Found) {
        let ring = &self.parts.ring;
        let mut found = first;
        let mut pause = FIRST_PAUSE;
        loop {
            let began = self.parts.clock.now();
            match AssertUnwindSafe(self.follow(&found)).catch_unwind().await {
                Ok(Ended::Reset(reason)) => tracing::warn!(%ring, reason, "the ring's store is not what it was"),
                Ok(Ended::Meta(meta)) => {
                    tracing::info!(%ring, generation = %meta.generation, "the ring goes on under another meta");
                }
                Err(_) => tracing::error!(%ring, "following the ring panicked; it begins anew"),
            }
            if self.parts.clock.now().since(began) > LAST_PAUSE {
                pause = FIRST_PAUSE;
            }
            found = self.find_again(&mut pause).await;
        }
    }

    /// The ring as it is now, for as long as it takes it to be there again.
    async fn find_again(&self, pause: &mut Duration) -> Found {
        loop {
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            *pause = (*pause * 2).min(LAST_PAUSE);
            match self.parts.find().await {
                Ok(Some(found)) => {
                    self.adopt(&found.meta);
                    return found;
                }
                Ok(None) => tracing::debug!(ring = %self.parts.ring, "the ring has no meta"),
                Err(error) => tracing::debug!(ring = %self.parts.ring, %error, "the ring cannot be read yet"),
            }
        }
    }

    /// Another number of partitions, or another hash, needs another router; calls under way end with the old one.
    fn adopt(&self, meta: &Meta) {
        let mut current = self.router.write().unwrap_or_else(PoisonError::into_inner);
        if (current.partitions, current.key_hash) != (meta.partitions, meta.key_hash) {
            *current = shaped(&self.parts, meta);
        }
    }

    /// Follows one life of the ring.
    async fn follow(&self, found: &Found) -> Ended {
        let mut follower = Follower::new(Arc::clone(&self.parts.store), WatchScope::Routes, found.identity.clone())
            .with_chance(self.parts.chance.clone());
        let router = self.router();
        let mut claims = Claims::default();
        while let Some(followed) = follower.next().await {
            let updates = match &followed {
                Followed::Snapshot(updates) => updates.as_slice(),
                Followed::Change(update) => std::slice::from_ref(update.as_ref()),
                Followed::Reset(reason) => return Ended::Reset(reason.clone()),
            };
            if let Some(meta) = another_meta(updates, &found.meta) {
                return Ended::Meta(Box::new(meta));
            }
            match followed {
                Followed::Snapshot(updates) => {
                    router.table().update(claims.snapshot(found.meta.partitions, updates));
                    self.seen.send_replace(true);
                }
                Followed::Change(update) => router.table().update(claims.change(*update)),
                Followed::Reset(_) => {}
            }
        }
        Ended::Reset("the watch ended".to_owned())
    }
}

fn shaped(parts: &ClientParts, meta: &Meta) -> Shaped {
    let (partitions, key_hash) = (meta.partitions, meta.key_hash);
    let table = RouteTable::new(parts.ring.clone(), partitions);
    let (bus, clock, chance) = (Arc::clone(&parts.bus), Arc::clone(&parts.clock), parts.chance.clone());
    let router = Router::new(RouterParts { bus, table, clock, chance, key_hash, partitions });
    Shaped { partitions, key_hash, router: Arc::new(router) }
}

fn another_meta(updates: &[Update], known: &Meta) -> Option<Meta> {
    updates.iter().find_map(|update| match &update.record {
        Record::Meta(meta) if meta != known => Some(meta.clone()),
        _ => None,
    })
}

impl ClientParts {
    /// The ring as it is now; `None` where there is none.
    pub(super) async fn find(&self) -> Result<Option<Found>, super::ClientError> {
        let unusable = |reason: String| super::ClientError::Store { ring: self.ring.clone(), reason };
        let identity = self.store.identity().await.map_err(|error| unusable(error.to_string()))?;
        let found = read_meta(&*self.store).await.map_err(|error| super::ClientError::of(&self.ring, error))?;
        Ok(found.map(|(_, meta)| Found { meta, identity }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::coord::{Claim, ClaimState};
    use crate::types::{Generation, Incarnation, NodeName};

    fn update(partition: u16, revision: u64, epoch: u64) -> Update {
        let incarnation = Incarnation { start: 1, id: uuid::Uuid::nil() };
        let owner = NodeId { node: NodeName::new("n").unwrap(), incarnation };
        let (generation, epoch) = (Generation::new(1), Epoch::new(epoch));
        let claim = Claim { generation, epoch, owner, replicas: Vec::new(), state: ClaimState::Held };
        let key = Key::Own(PartitionId::new(partition));
        Update { key, revision: Revision(revision), record: Record::Own(claim) }
    }

    fn epochs(changes: &[(PartitionId, Owner)]) -> Vec<(u16, Option<u64>)> {
        let epoch = |owner: &Owner| owner.as_ref().map(|(_, epoch)| epoch.get());
        changes.iter().map(|(partition, owner)| (partition.get(), epoch(owner))).collect()
    }

    /// A watch that was opened again may begin at a server that lags behind what was seen before.
    #[test]
    fn of_a_later_snapshot_only_what_is_newer_counts_and_absence_proves_nothing() {
        let two = PartitionCount::new(2).unwrap();
        let mut claims = Claims::default();
        let first = claims.snapshot(two, vec![update(1, 5, 5)]);
        assert_eq!(epochs(&first), [(0, None), (1, None), (1, Some(5))]);
        assert!(claims.change(update(0, 7, 7)).is_some());
        assert_eq!(claims.snapshot(two, vec![update(0, 6, 6)]), []);
        assert_eq!(epochs(&claims.snapshot(two, vec![update(1, 8, 8)])), [(1, Some(8))]);
    }
}
