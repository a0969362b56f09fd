//! The stores under test, and how they are read.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use nats_ring::connect::Connection;
use nats_ring::coord::mem::MemStore;
use nats_ring::coord::nats::{NatsStore, bucket_name};
use nats_ring::coord::{CasError, Entry, Revision, Store, WatchItem, WatchScope, WatchStream};
use nats_ring::types::{NodeName, RingName};

use super::common::nats_server::NatsServer;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
/// Bound on everything that has to happen by itself.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// A store to be tested, and what its trait does not offer.
#[async_trait]
pub(crate) trait Fixture: Sized {
    async fn open() -> Self;
    fn store(&self) -> Arc<dyn Store>;
    /// Another connection to the same store.
    async fn second(&self) -> Arc<dyn Store>;
    async fn delete(&self, key: &str);
    /// Deletes the store and creates it anew.
    async fn reset(&self);
    /// Cuts the first connection off.
    async fn cut(&mut self);
}

pub(crate) struct Real {
    pub(crate) server: NatsServer,
    pub(crate) connection: Connection,
    pub(crate) store: NatsStore,
}

pub(crate) fn ring() -> RingName {
    RingName::new("test").unwrap()
}

impl Real {
    pub(crate) async fn jetstream(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::new(async_nats::connect(self.server.url()).await.unwrap())
    }
}

#[async_trait]
impl Fixture for Real {
    async fn open() -> Self {
        let server = NatsServer::start();
        let connection = server.connect().await;
        let store = NatsStore::open(&connection, &ring(), None).await.unwrap();
        Self { server, connection, store }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn second(&self) -> Arc<dyn Store> {
        let connection = self.server.connect().await;
        Arc::new(NatsStore::open(&connection, &ring(), None).await.unwrap())
    }

    async fn delete(&self, key: &str) {
        let bucket = self.jetstream().await.get_key_value(bucket_name(&ring())).await.unwrap();
        bucket.delete(key).await.unwrap();
    }

    async fn reset(&self) {
        self.jetstream().await.delete_key_value(bucket_name(&ring())).await.unwrap();
        self.second().await;
    }

    async fn cut(&mut self) {
        let mut connected = self.connection.connected();
        self.server.stop();
        tokio::time::timeout(SOON, connected.wait_for(|up| !up)).await.unwrap().unwrap();
    }
}

pub(crate) struct Twin(pub(crate) MemStore);

#[async_trait]
impl Fixture for Twin {
    async fn open() -> Self {
        Self(MemStore::new(1))
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    async fn second(&self) -> Arc<dyn Store> {
        Arc::new(self.0.connect())
    }

    async fn delete(&self, key: &str) {
        self.0.delete(key);
    }

    async fn reset(&self) {
        self.0.reset();
    }

    async fn cut(&mut self) {
        self.0.set_connected(false);
    }
}

pub(crate) async fn put(store: &dyn Store, key: &str, expected: Revision, value: &str) -> Result<Revision, CasError> {
    store.cas(key, expected, Bytes::copy_from_slice(value.as_bytes()), TIMEOUT).await
}

pub(crate) async fn create(store: &dyn Store, key: &str) -> Revision {
    put(store, key, Revision::NONE, "created").await.unwrap()
}

pub(crate) async fn next(watch: &mut WatchStream) -> WatchItem {
    tokio::time::timeout(SOON, watch.next()).await.expect("nothing came").expect("the watch ended")
}

pub(crate) async fn snapshot(watch: &mut WatchStream) -> Vec<Entry> {
    match next(watch).await {
        WatchItem::Snapshot(entries) => entries,
        other => panic!("not a snapshot: {other:?}"),
    }
}

pub(crate) async fn change(watch: &mut WatchStream) -> Entry {
    match next(watch).await {
        WatchItem::Change(entry) => entry,
        other => panic!("not a change: {other:?}"),
    }
}

pub(crate) fn keys(entries: &[Entry]) -> Vec<&str> {
    let mut keys: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
    keys.sort_unstable();
    keys
}

pub(crate) fn leases(names: &[&str]) -> WatchScope {
    WatchScope::Leases(names.iter().map(|name| NodeName::new(name).unwrap()).collect())
}
