//! From settings to a running node: connections, store, cache, ring.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::exit::{Code, Failure};
use super::login;
use crate::cache::{CacheConfig, CacheService, Limits, OPERATIONS};
use crate::config::Config;
use crate::connect::{ConnectOptions, Connections};
use crate::http;
use crate::http::front::{Counting, QUERIES};
use crate::metrics::Metrics;
use crate::node::{Copying, CreatedWith, NodeBuilder, Returning, Ring};
use crate::ring::Timing;
use crate::types::BootClock;

/// State on its way here may take at least this much.
const STAGING_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// What runs once the node has been started.
pub(super) struct Started {
    pub(super) ring: Ring,
    pub(super) cache: Arc<CacheService>,
    pub(super) metrics: Arc<Metrics>,
}

/// Binds the HTTP address: before anything else, so that a node nobody can reach never joins.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    http::bind(address).await.map_err(|error| {
        let message = format!("{error}: choose another address with --http, or end what listens there");
        Failure::new(Code::Http, message)
    })
}

/// Connects, opens the ring's bucket and starts the node; `address` is where its HTTP listens.
pub(super) async fn start(config: &Config, address: SocketAddr) -> Result<Started, Failure> {
    let metrics = Arc::new(Metrics::new(&OPERATIONS));
    let timing = Timing::for_lease(config.lease);
    let options = ConnectOptions {
        name: format!("{} {}", config.platform, config.node),
        reconnect_delay_max: timing.beat(),
        ..login::connect_options(&config.nats, config.wait)?
    };
    let nats = Connections::open(&options).await?;
    let cache = CacheConfig {
        memory_bytes: config.memory_bytes,
        max_value_bytes: Limits::within_payload(nats.max_payload()).max_value_bytes,
        node: config.node.clone(),
    };
    let cache = Arc::new(CacheService::new(cache, Arc::new(BootClock)));
    let ring = NodeBuilder::new(nats, config.platform.clone(), config.node.clone())
        .zone(config.zone.clone())
        .weight(config.weight)
        .http(Some(address.to_string()))
        .partitions(config.partitions)
        .key_hash(config.key_hash)
        .created_with(CreatedWith {
            replicas: config.replicas,
            consistency: config.consistency,
            on_loss: config.on_loss,
        })
        .kv_replicas(config.kv_replicas)
        .timing(timing)
        .copying(Copying { parallel: config.copy_parallel, bytes_per_second: config.copy_bytes_per_second })
        .returning(Returning {
            delay: config.return_delay,
            keep: config.keep.clone(),
            evicted_delay: config.evicted_delay,
            ..Returning::default()
        })
        .staging_bytes(staging_bytes(config.memory_bytes))
        .queries(QUERIES.to_vec())
        .observer(Arc::new(Counting(Arc::clone(&metrics))))
        .start(cache.clone())
        .await?;
    Ok(Started { ring, cache, metrics })
}

fn staging_bytes(memory_bytes: u64) -> usize {
    usize::try_from((memory_bytes / 4).max(STAGING_BYTES_MIN)).unwrap_or(usize::MAX)
}
