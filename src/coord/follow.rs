//! Follows the store over everything that ends a watch: for nodes and for clients that only route.
//!
//! In: a store, a scope, and which life of the store is meant. Out: records as they are seen. A watch that cannot be had,
//! or ends, is asked for again with back-off for as long as it takes: that NATS is away is no reason to restart
//! anything. What this release cannot read is reported and left out; a `meta` of a newer format ends it, for then the
//! ring may be full of what it cannot read.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::{
    Entry, Key, Meta, Position, Record, RecordError, Revision, Store, StoreIdentity, WatchItem, WatchScope, WatchStream,
};
use crate::types::Chance;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How long `meta` may take to be read.
const META_TIMEOUT: Duration = Duration::from_secs(5);

/// One record as a watch delivered it.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Update {
    /// Of which key.
    pub key: Key,
    /// When it was written.
    pub revision: Revision,
    /// What it says.
    pub record: Record,
}

/// What a [`Follower`] yields.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// All records of the scope, as one unit: at first, and again after anything was missed.
    Snapshot(Vec<Update>),
    /// One record, later than the snapshot.
    Change(Box<Update>),
    /// The store is another one, went back, or speaks a format that this release does not: the last item.
    Reset(String),
}

/// One watch, opened again whenever it ends.
pub struct Follower {
    store: Arc<dyn Store>,
    scope: WatchScope,
    identity: StoreIdentity,
    position: Position,
    items: Option<WatchStream>,
    pause: Duration,
    chance: Chance,
    over: bool,
}

impl Follower {
    /// Follows the keys of `scope` in the life of the store that `identity` names.
    pub fn new(store: Arc<dyn Store>, scope: WatchScope, identity: StoreIdentity) -> Self {
        let (position, chance) = (Position::default(), Chance::real());
        Self { store, scope, identity, position, items: None, pause: FIRST_PAUSE, chance, over: false }
    }

    /// The same, by somebody who has seen the store up to there by other watches as well.
    #[must_use]
    pub fn with_position(self, position: Position) -> Self {
        Self { position, ..self }
    }

    /// The same, whose jitter comes from there.
    #[must_use]
    pub fn with_chance(self, chance: Chance) -> Self {
        Self { chance, ..self }
    }

    /// What comes next; `None` after a reset.
    pub async fn next(&mut self) -> Option<Followed> {
        while !self.over {
            let item = match &mut self.items {
                Some(items) => items.next().await,
                None => match self.store.watch_from(self.scope.clone(), self.position.clone()).await {
                    Ok(items) => {
                        self.items = Some(items);
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(scope = ?self.scope, %error, "watch not available");
                        None
                    }
                },
            };
            let followed = match item {
                Some(item) => self.read(item),
                None => self.lost().await,
            };
            if followed.is_some() {
                return followed;
            }
        }
        None
    }

    /// There is no watch: either the store is another one, or it is tried again after a pause.
    async fn lost(&mut self) -> Option<Followed> {
        self.items = None;
        if self.store.identity().await.is_ok_and(|identity| identity != self.identity) {
            self.over = true;
            return Some(Followed::Reset("the bucket was deleted and created again".to_owned()));
        }
        // Jittered, so that all who follow do not come back in one moment.
        tokio::time::sleep(self.chance.jittered(self.pause)).await;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        None
    }

    fn read(&mut self, item: WatchItem) -> Option<Followed> {
        self.pause = FIRST_PAUSE;
        if let Some(error) = newer_ring(&item) {
            self.over = true;
            return Some(Followed::Reset(error.to_string()));
        }
        match item {
            WatchItem::Snapshot(entries) => {
                Some(Followed::Snapshot(entries.into_iter().filter_map(read_entry).collect()))
            }
            WatchItem::Change(entry) => read_entry(entry).map(|update| Followed::Change(Box::new(update))),
            WatchItem::Gap(reason) => {
                tracing::info!(scope = ?self.scope, reason, "watch interrupted");
                None
            }
            WatchItem::Reset(reason) => {
                self.over = true;
                Some(Followed::Reset(reason))
            }
        }
    }
}

/// Why the ring is not one for this release any more, if `meta` says so: whoever went on would see only what others have
/// not rewritten yet.
fn newer_ring(item: &WatchItem) -> Option<RecordError> {
    let entries = match item {
        WatchItem::Snapshot(entries) => entries.as_slice(),
        WatchItem::Change(entry) => std::slice::from_ref(entry),
        WatchItem::Gap(_) | WatchItem::Reset(_) => return None,
    };
    let key = Key::Meta.text();
    let meta = entries.iter().find(|entry| entry.key == key)?;
    let error = Record::decode(&Key::Meta, meta.value.as_ref()?).err()?;
    matches!(error, RecordError::Format { .. }).then_some(error)
}

/// Keys of other releases and deleted ones are left out: absence proves nothing.
pub(crate) fn read_entry(entry: Entry) -> Option<Update> {
    let key = Key::parse(&entry.key)?;
    match Record::decode(&key, &entry.value?) {
        Ok(record) => Some(Update { key, revision: entry.revision, record }),
        Err(error) => {
            tracing::error!(%error, "record left out");
            None
        }
    }
}

/// Why `meta` could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadMetaError {
    /// This release cannot read what is there.
    #[error("{0}")]
    Unreadable(String),
    /// The store does not answer.
    #[error("{0}")]
    Store(String),
}

/// `meta` as it is now, if there is one. From a watch, not a get: a get may be answered by a replica that lags.
///
/// # Errors
/// [`ReadMetaError`] where the store does not answer, or what it has cannot be read.
pub async fn read_meta(store: &dyn Store) -> Result<Option<(Revision, Meta)>, ReadMetaError> {
    let fail = |reason: String| ReadMetaError::Store(reason);
    let mut items = store.watch(WatchScope::Routes).await.map_err(|error| fail(error.to_string()))?;
    let first = tokio::time::timeout(META_TIMEOUT, items.next());
    let entries = match first.await.map_err(|_| fail(format!("no answer within {META_TIMEOUT:?}")))? {
        Some(WatchItem::Snapshot(entries)) => entries,
        other => return Err(fail(format!("the watch began with {other:?}"))),
    };
    let key = Key::Meta.text();
    let Some(Entry { value: Some(value), revision, .. }) = entries.into_iter().find(|entry| entry.key == key) else {
        return Ok(None);
    };
    match Record::decode(&Key::Meta, &value) {
        Ok(Record::Meta(meta)) => Ok(Some((revision, meta))),
        Ok(_) => Ok(None),
        Err(error) => Err(ReadMetaError::Unreadable(error.to_string())),
    }
}
