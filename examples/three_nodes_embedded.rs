//! Three nodes of a cache in one process, over one pair of connections; one leaves, and every key stays where a read finds
//! it.
//!
//! NATS first (`nats-server -js`), then:
//! ```sh
//! cargo run --example three_nodes_embedded
//! ```
//! The NATS server is the first argument, else `NATS_URL`, else `nats://localhost:4222`.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nats_ring::cache::{CacheClient, CacheConfig, CacheService, Limits};
use nats_ring::types::BootClock;
use nats_ring::{BoxError, Bytes, ConnectOptions, Connections, NodeBuilder, NodeName, Ring, RingName};

const KEYS: usize = 500;
const SHARE_LIMIT: Duration = Duration::from_secs(30);

async fn start(nats: &Connections, name: &str) -> Result<Ring, BoxError> {
    let node = NodeName::new(name)?;
    let max_value_bytes = Limits::within_payload(nats.max_payload()).max_value_bytes;
    let config = CacheConfig { memory_bytes: 16 << 20, max_value_bytes, node: node.clone() };
    let cache = Arc::new(CacheService::new(config, Arc::new(BootClock)));
    Ok(NodeBuilder::new(nats, RingName::new("three-nodes")?, node).start(cache).await?)
}

/// How many partitions each node owns, as this node sees it.
fn shares(ring: &Ring) -> BTreeMap<NodeName, usize> {
    let mut shares = BTreeMap::new();
    for owner in ring.status().partitions.into_iter().filter_map(|partition| partition.owner) {
        *shares.entry(owner).or_default() += 1;
    }
    shares
}

/// Waits until so many nodes share the partitions evenly; then says who owns how many.
async fn evenly_shared(ring: &Ring, nodes: usize) -> Result<String, BoxError> {
    let even = async {
        loop {
            let shares = shares(ring);
            let partitions = usize::from(ring.shape().partitions.get());
            let sum: usize = shares.values().sum();
            if shares.len() == nodes && sum == partitions && shares.values().all(|share| *share >= partitions / nodes) {
                return shares.iter().map(|(node, share)| format!("{node} {share}")).collect::<Vec<_>>().join(", ");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    Ok(tokio::time::timeout(SHARE_LIMIT, even)
        .await
        .map_err(|_| format!("not shared by {nodes} within {SHARE_LIMIT:?}"))?)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let nats = std::env::args().nth(1).or_else(|| std::env::var("NATS_URL").ok());
    let nats = ConnectOptions::new([nats.unwrap_or_else(|| "nats://localhost:4222".to_owned())]);
    let nats = Connections::open(&nats).await?;
    let one = start(&nats, "node-1").await?;
    let two = start(&nats, "node-2").await?;
    let three = start(&nats, "node-3").await?;
    println!("partitions: {}", evenly_shared(&three, 3).await?);

    let limits = Limits::within_payload(nats.max_payload());
    let cache = CacheClient::new(Arc::new(one.clone()), limits);
    for number in 0..KEYS {
        cache.set(format!("key-{number}").into(), Bytes::from(number.to_string()), None).await?;
    }
    println!("{KEYS} keys set through node-1");

    // From now on nothing is asked of it; what it holds moves first.
    two.shutdown().await?;
    println!("node-2 has left; partitions: {}", evenly_shared(&three, 2).await?);

    let cache = CacheClient::new(Arc::new(three.clone()), limits);
    let mut found = 0;
    for number in 0..KEYS {
        let entry = cache.get(format!("key-{number}").into()).await?.found;
        found += usize::from(entry.is_some_and(|entry| entry.value == number.to_string()));
    }
    println!("{found} of {KEYS} keys found through node-3");
    one.shutdown().await?;
    three.shutdown().await?;
    if found == KEYS { Ok(()) } else { Err("a key was lost".into()) }
}
