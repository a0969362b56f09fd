//! The way to the store in memory takes time, and how much is chance from the ring's seed: so that seeds differ in
//! which node's write comes first, as runs do.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::coord::mem::MemStore;
use crate::coord::{CasError, Entry, Revision, Store, StoreError, StoreIdentity, WatchScope, WatchStream};

/// How long one way takes: up to so much.
#[derive(Debug, Clone)]
pub(super) struct Delays {
    up_to: Duration,
    chance: Arc<Mutex<SmallRng>>,
}

impl Delays {
    pub(super) fn new(up_to: Duration, seed: u64) -> Self {
        Self { up_to, chance: Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))) }
    }

    async fn one_way(&self) {
        // Timers tick in milliseconds.
        let most = u64::try_from(self.up_to.as_millis()).unwrap_or(u64::MAX);
        let ms = self.chance.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..=most);
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
    }
}

/// A connection to the store over such a way. Reads and watches are immediate.
#[derive(Debug, Clone)]
pub(super) struct Wired {
    pub(super) store: MemStore,
    pub(super) delays: Delays,
}

impl Wired {
    async fn round_trip(&self, key: &str, expected: Revision, value: Bytes) -> Result<Revision, CasError> {
        self.delays.one_way().await;
        // What the inner store is told of the time-out is for its faults' messages only.
        let outcome = self.store.cas(key, expected, value, Duration::ZERO).await;
        self.delays.one_way().await;
        outcome
    }
}

#[async_trait]
impl Store for Wired {
    async fn cas(&self, key: &str, expected: Revision, value: Bytes, timeout: Duration) -> Result<Revision, CasError> {
        let answer = tokio::time::timeout(timeout, self.round_trip(key, expected, value)).await;
        answer.unwrap_or_else(|_| Err(CasError::Unknown(format!("no acknowledgement within {timeout:?}"))))
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.store.get(key).await
    }

    async fn watch(&self, scope: WatchScope) -> Result<WatchStream, StoreError> {
        self.store.watch(scope).await
    }

    async fn identity(&self) -> Result<StoreIdentity, StoreError> {
        self.store.identity().await
    }
}
