//! From settings to a running node: connections, store, cache, ring.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::exit::{Code, Failure};
use super::front::{Counting, QUERIES};
use crate::cache::{CacheConfig, CacheService, Limits};
use crate::config::{Config, NatsLogin};
use crate::connect::{ConnectOptions, Credentials};
use crate::http;
use crate::metrics::Metrics;
use crate::node::{NodeBuilder, Ring};
use crate::ring::Timing;
use crate::types::BootClock;

/// State on its way here may take at least this much.
const STAGING_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Operations that are counted apart.
const OPERATIONS: [&str; 3] = ["get", "set", "delete"];
/// Shortest text that can be an nkey seed.
const SEED_CHARS_MIN: usize = 50;

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
    let builder = NodeBuilder::new(connect_options(config)?, config.platform.clone(), config.node.clone())
        .zone(config.zone.clone())
        .weight(config.weight)
        .http(Some(address.to_string()))
        .partitions(config.partitions)
        .kv_replicas(config.kv_replicas)
        .timing(Timing::for_lease(config.lease))
        .staging_bytes(staging_bytes(config.memory_bytes))
        .queries(QUERIES.to_vec())
        .observer(Arc::new(Counting(Arc::clone(&metrics))));
    let connected = builder.connect().await?;
    let cache = CacheConfig {
        memory_bytes: config.memory_bytes,
        max_value_bytes: Limits::within_payload(connected.max_payload()).max_value_bytes,
        node: config.node.clone(),
    };
    let cache = Arc::new(CacheService::new(cache, Arc::new(BootClock)));
    Ok(Started { ring: connected.start(cache.clone()).await?, cache, metrics })
}

fn staging_bytes(memory_bytes: u64) -> usize {
    usize::try_from((memory_bytes / 4).max(STAGING_BYTES_MIN)).unwrap_or(usize::MAX)
}

pub(super) fn connect_options(config: &Config) -> Result<ConnectOptions, Failure> {
    Ok(ConnectOptions {
        credentials: credentials(&config.login)?,
        wait: config.wait,
        ..ConnectOptions::new(config.nats.clone())
    })
}

fn credentials(login: &NatsLogin) -> Result<Credentials, Failure> {
    Ok(match login {
        NatsLogin::None => Credentials::None,
        NatsLogin::UserPassword { user, password } => {
            Credentials::UserPassword { user: user.clone(), password: password.clone() }
        }
        NatsLogin::Token(token) => Credentials::Token(token.clone()),
        NatsLogin::CredsFile(file) => Credentials::CredsFile(file.clone()),
        NatsLogin::NkeySeedFile(file) => Credentials::NkeySeed(seed(file)?),
    })
}

fn seed(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let message = format!("nkey seed file '{}' cannot be read ({error}): check nats-nkey", file.display());
        Failure::new(Code::Usage, message)
    })?;
    // Such files may carry comments and the lines that mark the seed's begin and end.
    let line = text.lines().map(str::trim).find(|line| line.starts_with('S') && line.len() >= SEED_CHARS_MIN);
    line.map(str::to_owned).ok_or_else(|| {
        Failure::new(Code::Usage, format!("file '{}' holds no nkey seed: check nats-nkey", file.display()))
    })
}
