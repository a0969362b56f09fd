//! The coordination store: compare-and-set on keys and an ordered watch, nothing more.
//!
//! [`Store`] is what the ring needs of JetStream KV. `nats` is the real one and the sole home of its quirks, `mem` its
//! twin in memory; one conformance suite runs on both. [`Follower`] keeps a watch alive and reads its records.

mod follow;
pub mod mem;
pub mod nats;
mod records;
mod ring_config;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub(crate) use follow::read_entry;
pub use follow::{Followed, Follower, ReadMetaError, Update, read_meta};
pub use records::{
    Claim, ClaimState, FORMAT, KeptPlaces, Key, Knew, Lease, LeaseState, Member, MemberState, Meta, PlanMember,
    PlanRecord, Record, RecordError, Resumed,
};
pub use ring_config::{OnLoss, RingConfig};

/// A position in the store's history: each acknowledged write has a higher one than all before it, whatever the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// Expected by a write that creates its key.
    pub const NONE: Self = Self(0);
}

/// The highest revision that one incarnation of a node has seen, over all its watches and writes: a store that ends before it
/// went back. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Position(Arc<AtomicU64>);

impl Position {
    /// What was seen so far.
    pub fn get(&self) -> Revision {
        Revision(self.0.load(Ordering::SeqCst))
    }

    /// That revision was seen.
    pub fn saw(&self, revision: Revision) {
        self.0.fetch_max(revision.0, Ordering::SeqCst);
    }
}

/// Which life of the store this is: changes when the store is deleted and created again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreIdentity(pub String);

/// One key's value at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key as the store spells it.
    pub key: String,
    /// The value; `None` where the key was deleted.
    pub value: Option<Bytes>,
    /// When it was written.
    pub revision: Revision,
}

/// Why a compare-and-set was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CasError {
    /// Another revision is there. It did not apply.
    #[error("another revision is there")]
    Conflict,
    /// No answer in time, or the connection went away: it may have applied, or may still apply later.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The store refused it for good (permissions, size, no such bucket). It did not apply.
    #[error("refused: {0}")]
    Refused(String),
    /// It never left this process (not connected, or the send queue stayed full): it did not and will not apply.
    #[error("not sent: {0}")]
    NotSent(String),
}

/// Why a read or a watch failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("coordination store: {0}")]
pub struct StoreError(pub String);

/// Which keys a watch follows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WatchScope {
    /// Everything but leases: `meta`, `config`, `plan`, `member.*`, `own.*`.
    Ring,
    /// What routing needs: `meta`, `own.*`.
    Routes,
    /// All leases.
    AllLeases,
    /// The leases of these nodes. Not empty.
    Leases(Vec<crate::types::NodeName>),
}

/// What a watch yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// The state at the start of the watch, and again after a relist: all keys of the scope that exist, in one unit.
    Snapshot(Vec<Entry>),
    /// One change after the snapshot, in revision order. Per key revisions only grow; a change may be repeated.
    Change(Entry),
    /// The watch cannot go on where it was: a [`WatchItem::Snapshot`] follows, or the stream ends.
    Gap(String),
    /// The store is another one, or went back: the stream ends.
    Reset(String),
}

/// An ordered watch; dropping it ends it. It ends by itself only after a failure that it could not mend.
pub type WatchStream = BoxStream<'static, WatchItem>;

/// Compare-and-set on keys, and an ordered watch.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Writes `value` if the key's last revision is `expected` ([`Revision::NONE`]: the key must not exist).
    /// Answers within `timeout`; [`CasError::Unknown`] where it could not be told by then.
    async fn cas(&self, key: &str, expected: Revision, value: Bytes, timeout: Duration) -> Result<Revision, CasError>;

    /// Some past value of the key: possibly stale, never a basis for a decision.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// The same, from whoever answers [`Store::cas`]: what a write that was just refused was refused for. It may still be
    /// stale, once another answers those.
    async fn get_latest(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.get(key).await
    }

    /// Follows the keys of `scope`. The first item is a snapshot, also where no key of the scope exists; or a
    /// [`WatchItem::Reset`] where the store ends before `position`, which the watch moves on.
    async fn watch_from(&self, scope: WatchScope, position: Position) -> Result<WatchStream, StoreError>;

    /// The same by somebody who has seen nothing so far.
    async fn watch(&self, scope: WatchScope) -> Result<WatchStream, StoreError> {
        self.watch_from(scope, Position::default()).await
    }

    /// Which life of the store this is.
    async fn identity(&self) -> Result<StoreIdentity, StoreError>;

    /// Creates the store anew where it does not exist any more.
    async fn ensure(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
