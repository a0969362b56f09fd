//! A plain client's `get` by way of any node (two hops) beside the same by the key in a subject that the server maps to the
//! owner (one hop), interleaved in one run.
//!
//! `make bench`. One nats-server with `nats/mapping.conf`, two nodes as processes of their own, and this process: one client.
//! Each round asks in both ways for the same key, in turn, so that whatever else the machine does hits both alike.
//! Printed: percentiles of both, and the ratio of the medians. `NATS_RING_BENCH_SHORT=1`: a second or two.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::{NatsServer, ServerOptions};
use common::node::NodeProcess;
use serde_json::Value;

const VALUE_BYTES: usize = 100;
const KEYS: usize = 256;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let rounds = if std::env::var_os("NATS_RING_BENCH_SHORT").is_some() { 300 } else { 20_000 };
    let extra = include_str!("../nats/mapping.conf").to_owned();
    let server = NatsServer::start_with(ServerOptions { extra, ..ServerOptions::default() });
    let nodes = ["node-1", "node-2"].map(|name| NodeProcess::spawn(name, &server.url(), &["--key-hash", "nats"]));
    wait_for_halves(&nodes[0]).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let keys: Vec<String> = (0..KEYS).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        ask(&client, format!("cache-platform.key.set.{key}"), "v".repeat(VALUE_BYTES)).await;
    }
    let (mut any_node, mut mapped) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for key in keys.iter().cycle().take(rounds) {
        any_node.push(ask(&client, "cache-platform.get".to_owned(), format!(r#"{{"key":"{key}"}}"#)).await);
        mapped.push(ask(&client, format!("cache-platform.key.get.{key}"), String::new()).await);
    }
    let two = show("any node, then the owner", &mut any_node);
    let one = show("mapped to the owner", &mut mapped);
    println!("mapped / any node, medians: {:.2}", one.as_secs_f64() / two.as_secs_f64());
}

async fn wait_for_halves(node: &NodeProcess) {
    node.wait_ready(Duration::from_secs(20)).await;
    let (http, url) = (Http::new(), node.url("/ring").await);
    eventually(Duration::from_secs(20), "each node serves half", || async {
        let ring = http.get(&url).await?.json();
        let rows = ring["partitions"].as_array().cloned().unwrap_or_default();
        let of = |name: &str| rows.iter().filter(|row| row["owner"] == name && row["state"] == "serving").count();
        if (of("node-1"), of("node-2")) == (32, 32) { Ok(()) } else { Err(ring.to_string()) }
    })
    .await;
}

async fn ask(client: &async_nats::Client, subject: String, payload: String) -> Duration {
    let began = Instant::now();
    let answer = client.request(subject, payload.into()).await.unwrap();
    let elapsed = began.elapsed();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["found"] == true || answer["success"] == true, "{answer}");
    elapsed
}

/// Prints percentiles; answers the median.
fn show(way: &str, taken: &mut [Duration]) -> Duration {
    taken.sort();
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize];
    println!("{way:25} {} rounds: p50 {:?}, p90 {:?}, p99 {:?}", taken.len(), at(0.5), at(0.9), at(0.99));
    at(0.5)
}
