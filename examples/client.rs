//! A client of the cache that is no node of it: routes to owners in one hop, over one connection.
//!
//! NATS first (`nats-server -js`), and a cache on it if you like (`cargo run -- --node node-1`, `make run`). Then:
//! ```sh
//! cargo run --example client
//! ```
//! The NATS server is the first argument, else `NATS_URL`, else `nats://localhost:4222`. Where nobody serves the cache
//! there, it starts a node of its own to talk to.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Duration;

use nats_ring::cache::{CacheClient, CacheConfig, CacheService, Limits};
use nats_ring::types::BootClock;
use nats_ring::{
    BoxError, Bytes, ClientError, ConnectOptions, Connections, NodeBuilder, NodeName, Ring, RingClient, RingName,
};

/// The cache that the program serves where it is not told otherwise.
const RING: &str = "cache-platform";
const KEYS: [&str; 3] = ["user:1", "user:2", "user:3"];

/// A client, if there is such a ring and somebody owns its keys.
async fn connect(nats: &Connections) -> Result<Option<RingClient>, BoxError> {
    match RingClient::connect(nats, RingName::new(RING)?).await {
        Ok(client) => Ok(KEYS.iter().all(|key| client.node_for(key).is_some()).then_some(client)),
        Err(error @ ClientError::NoSuchRing { .. }) => {
            println!("{error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn start_node(nats: &Connections) -> Result<Ring, BoxError> {
    let node = NodeName::new("example-node")?;
    let max_value_bytes = Limits::within_payload(nats.max_payload()).max_value_bytes;
    let config = CacheConfig { memory_bytes: 16 << 20, max_value_bytes, node: node.clone() };
    let cache = Arc::new(CacheService::new(config, Arc::new(BootClock)));
    let ring = NodeBuilder::new(nats, RingName::new(RING)?, node).start(cache).await?;
    ring.ready().await?;
    println!("nobody serves '{RING}' here: started a node");
    Ok(ring)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let nats = std::env::args().nth(1).or_else(|| std::env::var("NATS_URL").ok());
    let nats = ConnectOptions::new([nats.unwrap_or_else(|| "nats://localhost:4222".to_owned())]);
    let nats = Connections::open(&nats).await?;
    let (client, own_node) = match connect(&nats).await? {
        Some(client) => (client, None),
        None => {
            let node = start_node(&nats).await?;
            (RingClient::connect(&nats, RingName::new(RING)?).await?, Some(node))
        }
    };

    // The cache's own client works over a RingClient as over a node.
    let cache = CacheClient::new(Arc::new(client.clone()), Limits::within_payload(nats.max_payload()));
    for key in KEYS {
        let value = Bytes::from(format!("\"value of {key}\""));
        let stored = cache.set(Bytes::from(key), value, Some(Duration::from_secs(60))).await?;
        let read = cache.get(Bytes::from(key)).await?;
        let value = read.found.ok_or("what was just set is not there")?.value;
        let partition = client.partition_for(key);
        println!("{key}: partition {partition}, {} has {}", stored.node, String::from_utf8_lossy(&value));
    }
    client.close().await;
    match own_node {
        Some(node) => Ok(node.shutdown().await?),
        None => Ok(()),
    }
}
