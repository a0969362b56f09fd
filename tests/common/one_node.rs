//! A node in one place, without NATS: the real cache behind a caller that fails, hangs or panics as it is told, and a
//! status to be set.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // shared by tests as a module

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use nats_ring::cache::{CacheConfig, CacheService};
use nats_ring::http::{NodeView, OwnerView, cache_figures, gauges};
use nats_ring::metrics::Metrics;
use nats_ring::node::{MemberStatus, PartitionState, PartitionStatus, Phase, Status};
use nats_ring::rpc::{CallError, Caller, Reply};
use nats_ring::service::{self, Form, Gate, Grant, Service, Validity};
use nats_ring::types::{
    BootClock, Clock, CopyRules, Epoch, FencingToken, Generation, Incarnation, KeyHash, NodeName, PartitionCount,
    PartitionId, RingName, Time,
};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

pub const VALUE_MAX_BYTES: usize = 2000;

pub fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// What the node does with the next calls.
#[derive(Clone)]
pub enum Mood {
    Serves,
    Fails(CallError),
    Hangs,
    Panics,
    /// Serves once a permit is there, one for each call.
    Waits(Arc<Semaphore>),
}

/// A ring of one node, in one place: the real cache, and a status to be set.
pub struct Fake {
    pub cache: CacheService,
    gate: Arc<Gate>,
    count: PartitionCount,
    mood: Mutex<Mood>,
    status: Mutex<Status>,
    metrics: Metrics,
    asked: watch::Sender<usize>,
}

impl Fake {
    pub async fn new() -> Arc<Self> {
        Self::on_clock(Arc::new(BootClock)).await
    }

    pub async fn on_clock(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with(clock, 16 << 20, VALUE_MAX_BYTES).await
    }

    pub async fn with_values_up_to(max_value_bytes: usize) -> Arc<Self> {
        Self::with(Arc::new(BootClock), 64 << 20, max_value_bytes).await
    }

    async fn with(clock: Arc<dyn Clock>, memory_bytes: u64, max_value_bytes: usize) -> Arc<Self> {
        let gate = Gate::closed(clock.clone());
        gate.open_until(Time::from_nanos(u64::MAX));
        let config = CacheConfig { memory_bytes, max_value_bytes, node: name("node-2") };
        let count = PartitionCount::new(4).unwrap();
        let fake = Self {
            cache: CacheService::new(config, clock),
            gate,
            count,
            mood: Mutex::new(Mood::Serves),
            status: Mutex::new(status(count)),
            metrics: Metrics::new(&["get", "set", "delete"]),
            asked: watch::Sender::new(0),
        };
        let grants: Vec<_> = count.ids().map(|p| fake.grant(p)).collect();
        fake.cache.on_own(&grants).await.unwrap();
        Arc::new(fake)
    }

    fn grant(&self, partition: PartitionId) -> Grant {
        let token = FencingToken {
            ring: Uuid::from_u128(1),
            generation: Generation::new(1),
            epoch: Epoch::new(3),
            incarnation: Incarnation { start: 1, id: Uuid::from_u128(2) },
        };
        Grant::new(partition, token, Validity::new(self.gate.clone()))
    }

    pub fn partition(&self, key: &[u8]) -> PartitionId {
        KeyHash::Xxh3.partition(key, self.count)
    }

    pub fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Waits until so many calls have come.
    pub async fn wait_until_asked(&self, calls: usize) {
        self.asked.subscribe().wait_for(|asked| *asked >= calls).await.unwrap();
    }

    pub fn set_status(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap());
    }
}

#[async_trait]
impl Caller for Fake {
    async fn call(&self, key: Bytes, operation: &str, payload: Bytes, timeout: Duration) -> Result<Reply, CallError> {
        self.asked.send_modify(|calls| *calls += 1);
        let mood = self.mood.lock().unwrap().clone();
        match mood {
            Mood::Serves => {}
            Mood::Fails(error) => return Err(error),
            Mood::Hangs => std::future::pending().await,
            Mood::Panics => panic!("as told by the test"),
            Mood::Waits(permits) => permits.acquire().await.unwrap().forget(),
        }
        let partition = self.partition(&key);
        let request = service::Request {
            operation: operation.to_owned(),
            key,
            payload,
            form: Form::Native,
            remaining: timeout,
            once: None,
        };
        let payload = self.cache.handle(&self.grant(partition), request).await?;
        Ok(Reply { partition, node: name("node-2"), epoch: Epoch::new(3), payload })
    }
}

impl NodeView for Fake {
    fn node(&self) -> NodeName {
        name("node-1")
    }

    fn status(&self) -> Status {
        self.status.lock().unwrap().clone()
    }

    fn owner(&self, key: &[u8]) -> OwnerView {
        let partition = self.partition(key);
        let known = self.status.lock().unwrap().partitions[partition.index()].clone();
        let (waits, suspended) = (known.waits, self.status.lock().unwrap().suspended);
        OwnerView { partition, owner: known.owner, epoch: known.epoch, replicas: known.replicas, waits, suspended }
    }

    fn cache_stats(&self) -> Value {
        serde_json::to_value(self.cache.stats()).unwrap()
    }

    fn reaches_itself(&self, _: Duration) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn metrics_text(&self) -> String {
        self.metrics.encode(&gauges(&self.status(), (7, 3), cache_figures(&self.cache.stats())))
    }
}

fn status(count: PartitionCount) -> Status {
    let partition = |partition| PartitionStatus {
        partition,
        owner: Some(name("node-2")),
        epoch: Epoch::new(3),
        state: PartitionState::Serving,
        replicas: vec![name("node-2"), name("node-1")],
        learners: Vec::new(),
        short_of_memory: Vec::new(),
        under_replicated: false,
        waits: None,
    };
    let member = |node: &str, state, zone: Option<&str>| MemberStatus {
        node: name(node),
        state,
        zone: zone.map(str::to_owned),
        weight: 1,
        http: None,
        version: "0.1.0".to_owned(),
        owned: 0,
        coordinator: false,
    };
    Status {
        ring: RingName::new("cache-platform").unwrap(),
        node: name("node-1"),
        start: 2,
        zone: Some("a".to_owned()),
        phase: Phase::Active,
        uptime: Duration::from_millis(1500),
        plan_version: 9,
        members: vec![
            member("node-1", "active", Some("a")),
            member("node-2", "active", Some("b")),
            member("node-3", "unreachable", Some("b")),
        ],
        partitions: count.ids().map(partition).collect(),
        moves: Vec::new(),
        places_kept: Vec::new(),
        rules: CopyRules::default(),
        copied_bytes: 0,
        difference_bytes: 0,
        lease_margin: Duration::from_millis(2250),
        suspended: None,
        not_ready: None,
    }
}
