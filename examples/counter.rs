//! Counters by key, whose state moves along with their partitions: not one increment is lost while nodes come and go.
//!
//! NATS first (`nats-server -js`), then:
//! ```sh
//! cargo run --example counter
//! ```
//! The NATS server is the first argument, else `NATS_URL`, else `nats://localhost:4222`. While it runs, any NATS client can
//! count along: `nats req counters.add '{"key":"shared"}'`.
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use nats_ring::{
    BoxError, Bytes, CallError, Chunks, ConnectOptions, Connections, Grant, NodeBuilder, NodeName, PartitionId,
    Release, Request, Ring, RingName, Service, ServiceError, async_trait,
};

const KEYS: usize = 100;

type Counts = HashMap<String, u64>;

/// Counts per key, kept by the partition they belong to.
#[derive(Default)]
struct Counters {
    partitions: Mutex<HashMap<PartitionId, Counts>>,
}

impl Counters {
    fn with<T>(&self, partition: PartitionId, work: impl FnOnce(&mut Counts) -> T) -> T {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        work(partitions.entry(partition).or_default())
    }
}

#[async_trait]
impl Service for Counters {
    /// Owned from now on, not yet served. What was handed over is there already, by `restore`.
    async fn on_own(&self, _: &[Grant]) -> Result<(), BoxError> {
        Ok(())
    }

    /// `Handoff`: the state is asked for next. `Lost`: another node may own it already, nothing may be written.
    async fn on_release(&self, _: &[Grant], _: Release) -> Result<(), BoxError> {
        Ok(())
    }

    async fn handle(&self, grant: &Grant, request: Request) -> Result<Bytes, ServiceError> {
        let step = match request.operation.as_str() {
            "add" => 1,
            "get" => 0,
            other => return Err(ServiceError::new("bad_request", format!("there is no operation '{other}'"))),
        };
        let key = String::from_utf8_lossy(&request.key).into_owned();
        let count = self.with(grant.partition, |counts| {
            let count = counts.entry(key).or_default();
            *count += step;
            *count
        });
        Ok(Bytes::from(count.to_string()))
    }

    /// For plain clients: `<ring>.add`, `<ring>.get`.
    fn operations(&self) -> Vec<&'static str> {
        vec!["add", "get"]
    }

    async fn snapshot(&self, grant: &Grant, _: usize) -> Result<Chunks, BoxError> {
        let chunk = self.with(grant.partition, |counts| serde_json::to_vec(counts))?;
        Ok(futures::stream::iter([Ok(Bytes::from(chunk))]).boxed())
    }

    async fn restore(&self, grant: &Grant, chunks: Vec<Bytes>, _: Duration) -> Result<(), BoxError> {
        let counts = chunks.first().map_or(Ok(Counts::new()), |chunk| serde_json::from_slice(chunk))?;
        self.with(grant.partition, |held| *held = counts);
        Ok(())
    }

    async fn discard(&self, partition: PartitionId) {
        self.with(partition, Counts::clear);
    }
}

async fn start(nats: &Connections, name: &str) -> Result<Ring, BoxError> {
    let builder = NodeBuilder::new(nats, RingName::new("counters")?, NodeName::new(name)?);
    let ring = builder.start(Arc::new(Counters::default())).await?;
    ring.ready().await?;
    println!("{name} takes part");
    Ok(ring)
}

/// Adds one to each of the keys in turn, `times` over, some at a time; how often that was acknowledged.
async fn increment(ring: &Ring, times: usize) -> Result<usize, CallError> {
    let additions = (0..times * KEYS).map(|number| async move {
        let key = format!("key-{}", number % KEYS);
        ring.call(&key, "add", "").await
    });
    futures::stream::iter(additions).buffer_unordered(16).try_fold(0, async |count, _| Ok(count + 1)).await
}

async fn sum(ring: &Ring) -> Result<usize, BoxError> {
    let mut sum = 0;
    for number in 0..KEYS {
        let reply = ring.call(format!("key-{number}"), "get", "").read().await?;
        sum += std::str::from_utf8(&reply.payload)?.parse::<usize>()?;
    }
    Ok(sum)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let nats = std::env::args().nth(1).or_else(|| std::env::var("NATS_URL").ok());
    let nats = ConnectOptions::new([nats.unwrap_or_else(|| "nats://localhost:4222".to_owned())]);
    let nats = Connections::open(&nats).await?;
    let (one, two) = tokio::try_join!(start(&nats, "node-1"), start(&nats, "node-2"))?;
    let before = sum(&two).await?;
    let mut acknowledged = increment(&one, 3).await?;
    println!("{acknowledged} increments from node-1");

    // From two nodes at once, while one node comes and another leaves.
    let three = tokio::spawn({
        let nats = nats.clone();
        async move { start(&nats, "node-3").await }
    });
    acknowledged += increment(&two, 10).await?;
    let three = three.await??;
    let (left, from_two, from_three) = tokio::join!(one.shutdown(), increment(&two, 10), increment(&three, 10));
    left?;
    acknowledged += from_two? + from_three?;
    println!("node-3 came, node-1 left; {} partitions are node-3's now", three.owned_partitions().len());

    let counted = sum(&three).await? - before;
    println!("{acknowledged} increments acknowledged, {counted} counted");
    two.shutdown().await?;
    three.shutdown().await?;
    if counted == acknowledged { Ok(()) } else { Err("an increment was lost, or counted twice".into()) }
}
