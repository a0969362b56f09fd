//! The cache and its HTTP inside a program of one's own, beside routes that use it as a library.
//!
//! NATS first (`nats-server -js`), then:
//! ```sh
//! cargo run --example cache_http
//! curl localhost:8080/square/12         # computed, then from the cache, wherever in the ring that is
//! curl 'localhost:8080/cache/owner?key=square:12'
//! ```
//! The NATS server is the first argument, else `NATS_URL`, else `nats://localhost:4222`; where HTTP listens the second,
//! else `127.0.0.1:8080`. Ctrl-C hands the cache's entries over to the other nodes and ends it.
#![allow(clippy::print_stdout)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use nats_ring::cache::{CacheClient, CacheConfig, CacheService, Limits, OPERATIONS};
use nats_ring::http::front::{Answers, Counting, Front, QUERIES, count_events};
use nats_ring::http::{AppState, ConnectionLimits, RequestLimits};
use nats_ring::metrics::Metrics;
use nats_ring::types::BootClock;
use nats_ring::{BoxError, Bytes, ConnectOptions, Connections, NodeBuilder, NodeName, RingName};
use serde_json::{Value, json};

const TTL: Duration = Duration::from_secs(60);

/// A route of one's own: computes once per minute and key, whichever process is asked.
async fn square(
    State(cache): State<CacheClient>,
    Path(number): Path<u32>,
) -> Result<Json<Value>, (StatusCode, String)> {
    let unavailable = |error: nats_ring::CallError| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let key = Bytes::from(format!("square:{number}"));
    let found = cache.get(key.clone()).await.map_err(unavailable)?.found;
    let from_cache = found.is_some();
    let square = match found {
        Some(entry) => serde_json::from_slice(&entry.value).unwrap_or_default(),
        None => {
            let square = u64::from(number).pow(2);
            cache.set(key, Bytes::from(square.to_string()), Some(TTL)).await.map_err(unavailable)?;
            square
        }
    };
    Ok(Json(json!({ "number": number, "square": square, "from_cache": from_cache })))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let nats = std::env::args().nth(1).or_else(|| std::env::var("NATS_URL").ok());
    let nats = ConnectOptions::new([nats.unwrap_or_else(|| "nats://localhost:4222".to_owned())]);
    let address: SocketAddr = std::env::args().nth(2).unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse()?;
    let listener = nats_ring::http::bind(address).await?;
    let address = listener.local_addr()?;

    // A node of the cache. Each process needs a name of its own: its port tells them apart here.
    let nats = Connections::open(&nats).await?;
    let node = NodeName::new(format!("web-{}", address.port()))?;
    let limits = Limits::within_payload(nats.max_payload());
    let config = CacheConfig { memory_bytes: 64 << 20, max_value_bytes: limits.max_value_bytes, node: node.clone() };
    let cache = Arc::new(CacheService::new(config, Arc::new(BootClock)));
    let metrics = Arc::new(Metrics::new(&OPERATIONS));
    let ring = NodeBuilder::new(nats, RingName::new("web-cache")?, node)
        .http(Some(address.to_string()))
        .queries(QUERIES.to_vec())
        .observer(Arc::new(Counting(Arc::clone(&metrics))))
        .start(cache.clone())
        .await?;
    ring.answer_queries(Arc::new(Answers { cache: Arc::clone(&cache), metrics: Arc::clone(&metrics) }));
    tokio::spawn(count_events(&ring, Arc::clone(&metrics)));
    let sweeper = tokio::spawn(Arc::clone(&cache).keep_sweeping());

    // Its HTTP below /cache, the program's own beside it.
    let client = CacheClient::new(Arc::new(ring.clone()), limits);
    let front = Arc::new(Front { ring: ring.clone(), cache, metrics });
    let app = axum::Router::new()
        .route("/square/{number}", get(square))
        .with_state(client.clone())
        .nest("/cache", nats_ring::http::app(AppState::new(client, front, RequestLimits::default())));
    ring.ready().await?;
    println!("listening on http://{address}");

    // HTTP goes on until the node has left: requests for what has moved are passed on.
    let leaving = ring.clone();
    let ended = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => println!("draining"),
            _ = leaving.wait() => {}
        }
        match leaving.shutdown().await {
            Ok(()) => println!("drained"),
            Err(error) => println!("{error}"),
        }
    };
    nats_ring::http::serve(listener, app, ConnectionLimits::default(), ended).await;
    sweeper.abort();
    Ok(())
}
