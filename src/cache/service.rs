//! The cache as a service of the ring: requests in either form are decoded, executed on the store and answered.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use super::item::{Item, Kind, Version};
use super::limits::{Limits, bad_request, check_key, check_ttl};
use super::native::{Answer, Found, Operation, decode, encode};
use super::plain::{self, check_json};
use super::snapshot::{self, SnapshotError};
use super::stats::{CacheStats, add};
use super::store::{NewValue, Store};
use crate::service::{BoxError, Chunks, Form, Grant, Release, Request, Service, ServiceError};
use crate::types::{Clock, NodeName, PartitionId, Time};

/// What a cache is made with.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// Bound on what all entries held by this node weigh.
    pub memory_bytes: u64,
    /// Longest accepted value: see [`Limits::within_payload`].
    pub max_value_bytes: usize,
    /// This node, as answers name it.
    pub node: NodeName,
}

/// The distributed cache: one bounded map per partition owned.
pub struct CacheService {
    store: Arc<Store>,
    limits: Limits,
    node: NodeName,
}

impl fmt::Debug for CacheService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheService").field("node", &self.node).field("stats", &self.stats()).finish()
    }
}

impl CacheService {
    /// An empty cache that owns nothing.
    pub fn new(config: CacheConfig, clock: Arc<dyn Clock>) -> Self {
        let limits = Limits { max_value_bytes: config.max_value_bytes };
        Self { store: Arc::new(Store::new(config.memory_bytes, clock)), limits, node: config.node }
    }

    /// Now, on the cache's clock.
    pub(super) fn now(&self) -> Time {
        self.store.clock().now()
    }

    /// Takes out up to `max_entries` expired entries and says how many; `max_entries` again means there may be more. It
    /// also lets partitions give back memory that they no longer need. To be called at every tick of a timer.
    pub fn sweep(&self, now: Time, max_entries: usize) -> usize {
        self.store.sweep(now, max_entries)
    }

    /// The cache in figures.
    pub fn stats(&self) -> CacheStats {
        self.store.stats()
    }

    /// What is accepted here.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn native(&self, grant: &Grant, request: &Request) -> Result<Bytes, ServiceError> {
        let operation: Operation<'_> = decode(&request.payload)?;
        if operation.name() != request.operation {
            let (asked, holds) = (&request.operation, operation.name());
            return Err(bad_request(format!("operation '{asked}' came with a message for '{holds}'")));
        }
        match operation {
            Operation::Get => self.store.get(grant, &request.key, |item, now| {
                let size_hint = item.map_or(0, |item| item.value.len());
                encode(&Answer::Got(item.map(|item| answered(&item, now))), size_hint)
            })?,
            Operation::Set { value, kind, ttl_ms } => {
                let kind = Kind::from_number(kind)
                    .ok_or_else(|| bad_request(format!("field \"kind\": {kind} is not known; known: 0 (JSON)")))?;
                let ttl = ttl_ms.map(Duration::from_millis);
                ttl.map_or(Ok(()), check_ttl)?;
                check_json(value)?;
                let version = self.set(grant, request, NewValue { bytes: value, kind, ttl })?;
                encode(&Answer::Stored { version }, 0)
            }
            Operation::Delete => {
                let (existed, version) = self.store.delete(grant, &request.key)?;
                encode(&Answer::Deleted { existed, version }, 0)
            }
        }
    }

    fn plain(&self, grant: &Grant, request: &Request) -> Result<Bytes, ServiceError> {
        match request.operation.as_str() {
            "get" => self.store.get(grant, &request.key, |item, _| match item {
                Some(item) => plain::found(item.value, &self.node, item.version),
                None => plain::not_found(&self.node),
            }),
            "set" => {
                let parsed = plain::parse_set(&request.payload, &self.limits)?;
                let value = NewValue { bytes: &parsed.value, kind: Kind::Json, ttl: parsed.ttl };
                Ok(plain::stored(&self.node, self.set(grant, request, value)?))
            }
            "delete" => Ok(plain::deleted(self.store.delete(grant, &request.key)?.0, &self.node)),
            other => Err(bad_request(format!("operation '{other}' is not known; known: get, set, delete"))),
        }
    }

    fn set(&self, grant: &Grant, request: &Request, value: NewValue<'_>) -> Result<Version, ServiceError> {
        self.limits.check_value(value.bytes)?;
        self.store.set(grant, &request.key, value)
    }

    /// Entries by the million take a while to free: not on a thread that others wait for.
    async fn drop_partitions(&self, partitions: Vec<PartitionId>) {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || partitions.into_iter().for_each(|id| store.discard(id))).await;
        if let Err(error) = done {
            tracing::error!(%error, "discarding partitions of the cache did not end");
        }
    }
}

fn answered<'a>(item: &Item<'a>, now: Time) -> Found<'a> {
    // Rounded up: an entry that was found has some time left.
    let remaining_ttl_ms = item.remaining(now).map(|left| left.as_nanos().div_ceil(1_000_000) as u64);
    Found { value: item.value, kind: item.kind.number(), version: item.version, remaining_ttl_ms }
}

fn restore(store: &Store, grant: &Grant, chunks: &[Bytes], waited: Duration) -> Result<(), SnapshotError> {
    let checked = snapshot::check(chunks)?;
    let partition = store.begin_restore(grant);
    let now = store.clock().now();
    checked.for_each(now, waited, |item| {
        // One that this node has no room for is lost to the memory bound, like any evicted entry.
        if !item.is_expired(now) && store.put(&partition, &item).is_err() {
            add(&store.counters.evicted, 1);
        }
        Ok(())
    })
}

#[async_trait]
impl Service for CacheService {
    async fn on_own(&self, grants: &[Grant]) -> Result<(), BoxError> {
        for grant in grants {
            self.store.own(grant);
        }
        Ok(())
    }

    /// Handed over, the entries stay until they are discarded: the handoff may be called off. Lost, they go at once.
    async fn on_release(&self, grants: &[Grant], why: Release) -> Result<(), BoxError> {
        if why == Release::Lost {
            self.drop_partitions(grants.iter().map(|grant| grant.partition).collect()).await;
        }
        Ok(())
    }

    async fn handle(&self, grant: &Grant, request: Request) -> Result<Bytes, ServiceError> {
        let answer = check_key(&request.key).and_then(|()| match request.form {
            Form::Native => self.native(grant, &request),
            Form::Plain => self.plain(grant, &request),
        });
        add(&self.store.counters.failures, u64::from(answer.is_err()));
        answer
    }

    fn operations(&self) -> Vec<&'static str> {
        vec!["get", "set", "delete"]
    }

    fn plain_key(&self, operation: &str, payload: &[u8]) -> Result<Bytes, ServiceError> {
        plain::parse_key(operation, payload)
    }

    async fn snapshot(&self, grant: &Grant, max_bytes: usize) -> Result<Chunks, BoxError> {
        let partition = self.store.owned(grant)?;
        let writer = snapshot::Writer::new(partition, max_bytes, self.store.clock().clone());
        Ok(futures::stream::iter(writer).map(|chunk| chunk.map_err(BoxError::from)).boxed())
    }

    async fn restore(&self, grant: &Grant, chunks: Vec<Bytes>, waited: Duration) -> Result<(), BoxError> {
        let (store, grant) = (self.store.clone(), grant.clone());
        Ok(tokio::task::spawn_blocking(move || restore(&store, &grant, &chunks, waited)).await??)
    }

    async fn discard(&self, partition: PartitionId) {
        self.drop_partitions(vec![partition]).await;
    }
}
