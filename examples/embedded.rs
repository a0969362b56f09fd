//! Counters sharded over the processes that run this: the hooks as ownership moves, and calls by key from anywhere.
//!
//! NATS first (`nats-server -js`), then, in a terminal each, as many as you like:
//! ```sh
//! cargo run --example embedded -- node-1
//! cargo run --example embedded -- node-2
//! ```
//! Each counts for a key of its own and for one they share. Ctrl-C drains: the counts move to the others. `NATS_URL` names
//! another server.
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use nats_ring::connect::ConnectOptions;
use nats_ring::node::NodeBuilder;
use nats_ring::service::{BoxError, Chunks, Grant, Release, Request, Service, ServiceError};
use nats_ring::types::{NodeName, PartitionId, RingName};

type Counts = HashMap<Vec<u8>, u64>;

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
    async fn on_own(&self, grants: &[Grant]) -> Result<(), BoxError> {
        for Grant { partition, token, .. } in grants {
            let keys = self.with(*partition, |counts| counts.len());
            if keys > 0 {
                println!("partition {partition} is ours at epoch {}, with {keys} keys", token.epoch);
            }
        }
        Ok(())
    }

    /// `Handoff`: the state is asked for next. `Lost`: another node may own it already, nothing may be written.
    async fn on_release(&self, grants: &[Grant], why: Release) -> Result<(), BoxError> {
        println!("{} partitions go: {why:?}", grants.len());
        Ok(())
    }

    async fn handle(&self, grant: &Grant, request: Request) -> Result<Bytes, ServiceError> {
        if request.operation != "add" {
            return Err(ServiceError::new(
                "bad_request",
                format!("operation '{}': there is only add", request.operation),
            ));
        }
        let count = self.with(grant.partition, |counts| {
            let count = counts.entry(request.key.to_vec()).or_default();
            *count += 1;
            *count
        });
        Ok(Bytes::from(count.to_string()))
    }

    /// For plain clients: `nats req counters.add '{"key":"shared"}'`.
    fn operations(&self) -> Vec<&'static str> {
        vec!["add"]
    }

    async fn snapshot(&self, grant: &Grant, _: usize) -> Result<Chunks, BoxError> {
        let chunk = self.with(grant.partition, |counts| serde_json::to_vec(&counts.iter().collect::<Vec<_>>()))?;
        Ok(futures::stream::iter([Ok(Bytes::from(chunk))]).boxed())
    }

    async fn restore(&self, grant: &Grant, chunks: Vec<Bytes>, _: std::time::Duration) -> Result<(), BoxError> {
        let counts: Vec<(Vec<u8>, u64)> =
            chunks.first().map_or(Ok(Vec::new()), |chunk| serde_json::from_slice(chunk))?;
        self.with(grant.partition, |held| *held = counts.into_iter().collect());
        Ok(())
    }

    async fn discard(&self, partition: PartitionId) {
        self.with(partition, |counts| counts.clear());
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "node-1".to_owned());
    let nats = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://localhost:4222".to_owned());
    let node = NodeBuilder::new(ConnectOptions::new([nats]), RingName::new("counters")?, NodeName::new(&name)?);
    let ring = node.start(Arc::new(Counters::default())).await?;
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = every_second.tick() => {}
            _ = tokio::signal::ctrl_c() => break,
            ended = ring.wait() => return Ok(ended?),
        }
        for key in [name.as_str(), "shared"] {
            // Answered by the key's owner, wherever that is.
            match ring.call(key, "add", "").await {
                Ok(reply) => println!("{key}: {} says {}", reply.node, String::from_utf8_lossy(&reply.payload)),
                Err(error) => println!("{key}: {error}"),
            }
        }
    }
    println!("draining");
    Ok(ring.shutdown().await?)
}
