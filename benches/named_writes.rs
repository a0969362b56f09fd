//! A write with a name beside the same without: what it costs that owners remember what they executed.
//!
//! `make bench`. One nats-server, three nodes as processes of their own with three copies of each partition, and this
//! process: one plain client. Each round writes the same key in both ways, in turn, so that whatever else the machine does
//! hits both alike. Printed, for each consistency: percentiles of both, the ratio of the medians, and writes a second with
//! 64 in flight. `NATS_RING_BENCH_SHORT=1`: a second or two.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

#[path = "../tests/common/mod.rs"]
mod common;
mod figures;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use futures::StreamExt;
use serde_json::Value;

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const VALUE_BYTES: usize = 100;
const KEYS: usize = 256;
const IN_FLIGHT: usize = 64;

/// Writes through a plain client; every name is another one.
struct Writer {
    client: async_nats::Client,
    consistency: &'static str,
    names: AtomicU64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let short = std::env::var_os("NATS_RING_BENCH_SHORT").is_some();
    let (rounds, slices) = if short { (200, 1) } else { (20_000, 10) };
    let slice = Duration::from_millis(if short { 100 } else { 1000 });
    let server = NatsServer::start();
    let nodes = NODES.map(|name| NodeProcess::spawn(name, &server.url(), &[]));
    wait_for_copies(&nodes[0]).await;
    for consistency in ["eventual", "quorum"] {
        let client = async_nats::connect(server.url()).await.unwrap();
        let writer = Writer { client, consistency, names: AtomicU64::new(0) };
        writer.latency(rounds).await;
        writer.throughput(slices, slice).await;
    }
}

/// Every partition served, with all its copies.
async fn wait_for_copies(node: &NodeProcess) {
    node.wait_ready(Duration::from_secs(20)).await;
    let (http, url) = (Http::new(), node.url("/ring").await);
    eventually(Duration::from_secs(30), "three copies of each partition", || async {
        let ring = http.get(&url).await?.json();
        let rows = ring["partitions"].as_array().cloned().unwrap_or_default();
        let whole = |row: &&Value| row["in_sync"].as_array().is_some_and(|replicas| replicas.len() == NODES.len());
        if rows.iter().filter(whole).count() == 64 { Ok(()) } else { Err(ring.to_string()) }
    })
    .await;
}

impl Writer {
    async fn write(&self, round: usize, named: bool) -> Duration {
        let (consistency, value) = (self.consistency, "v".repeat(VALUE_BYTES));
        let mut headers = async_nats::HeaderMap::new();
        if named {
            let name = self.names.fetch_add(1, Ordering::Relaxed);
            headers.insert("Nats-Ring-Request-Id", format!("{consistency}-{name}"));
        } else {
            // As many bytes on the way.
            headers.insert("Nats-Ring-Request-No", format!("{consistency}-{round}"));
        }
        let body = format!(r#"{{"key":"key-{}","value":"{value}","consistency":"{consistency}"}}"#, round % KEYS);
        let began = Instant::now();
        let answer =
            self.client.request_with_headers("cache-platform.set".to_owned(), headers, body.into()).await.unwrap();
        let elapsed = began.elapsed();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer["success"] == true, "{answer}");
        elapsed
    }

    async fn latency(&self, rounds: usize) {
        let (mut named, mut plain) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
        for round in 0..rounds {
            named.push(self.write(round, true).await);
            plain.push(self.write(round, false).await);
        }
        let ratio = median(&mut named).as_secs_f64() / median(&mut plain).as_secs_f64();
        figures::row(&format!("{}, named", self.consistency), named);
        figures::row(&format!("{}, without a name", self.consistency), plain);
        println!("{}: named / without, medians: {ratio:.3}", self.consistency);
    }

    async fn throughput(&self, slices: usize, slice: Duration) {
        let (mut named, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..slices {
            named.push(self.rate(slice, true).await);
            plain.push(self.rate(slice, false).await);
        }
        let spread = |all: &[f64]| {
            let (low, high) = all.iter().fold((f64::INFINITY, 0.0_f64), |(l, h), x| (l.min(*x), h.max(*x)));
            format!("{low:.0}..{high:.0}/s")
        };
        println!("{}, {IN_FLIGHT} in flight: named {}, without {}", self.consistency, spread(&named), spread(&plain));
        let ratio = named.iter().sum::<f64>() / plain.iter().sum::<f64>();
        println!("{}: named / without, writes a second: {ratio:.3}", self.consistency);
    }

    async fn rate(&self, during: Duration, named: bool) -> f64 {
        let began = Instant::now();
        let writes = futures::stream::iter(0..).map(|round| self.write(round, named));
        let answered = writes.buffer_unordered(IN_FLIGHT);
        let counted = answered.take_while(|_| std::future::ready(began.elapsed() < during)).count().await;
        counted as f64 / began.elapsed().as_secs_f64()
    }
}

fn median(all: &mut [Duration]) -> Duration {
    all.sort();
    all[all.len() / 2]
}
