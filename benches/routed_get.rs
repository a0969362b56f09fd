//! A routed get beside a bare request-reply of the NATS client, interleaved in one run.
//!
//! `make bench`. One nats-server, one node as a process of its own that owns half of the keys, and this process: a node
//! that asks for keys of the other, and a bare client that asks a bare responder (a process of its own, too). Each round
//! asks both, in turn, so that whatever else the machine does hits both alike. Printed: percentiles, the ratio of the
//! medians beside its limit, and requests a second with 64 in flight. `NATS_RING_BENCH_SHORT=1`: a second or two, no limit.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::disallowed_methods)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use futures::StreamExt;
use nats_ring::cache::{CacheClient, CacheConfig, CacheService, Limits};
use nats_ring::connect::Connections;
use nats_ring::node::{NodeBuilder, Ring};
use nats_ring::types::{BootClock, NodeName, RingName};

/// The median of a routed get may take this much of a bare request-reply's.
const LIMIT: f64 = 1.5;
const VALUE_BYTES: usize = 100;
const IN_FLIGHT: usize = 64;

/// How much is measured.
struct Plan {
    rounds: usize,
    throughput: Duration,
    slices: usize,
}

fn main() {
    if let Some(url) = std::env::args().skip_while(|arg| arg != "--responder").nth(1) {
        return runtime(2).block_on(respond(&url));
    }
    let short = std::env::var_os("NATS_RING_BENCH_SHORT").is_some();
    let plan = if short {
        Plan { rounds: 300, throughput: Duration::from_millis(200), slices: 1 }
    } else {
        Plan { rounds: 20_000, throughput: Duration::from_secs(1), slices: 5 }
    };
    let mut ratios = Vec::new();
    for (shape, node_threads, own_threads) in
        [("2 threads each", "2", 2), ("1 thread each", "1", 1), ("node 1, client 2", "1", 2)]
    {
        let ratio = runtime(own_threads).block_on(measure(shape, node_threads, &plan));
        ratios.push(ratio);
    }
    let best = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    println!(
        "routed get / bare request-reply, medians: best {best:.2}, as the program runs {:.2}, limit {LIMIT}",
        ratios[0]
    );
    assert!(short || ratios[0] <= LIMIT, "a routed get takes {:.2} of a bare request-reply, limit {LIMIT}", ratios[0]);
}

fn runtime(threads: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
}

/// The bare responder: answers what it was asked.
async fn respond(url: &str) {
    let client = async_nats::connect(url).await.unwrap();
    let mut requests = client.subscribe("bare").await.unwrap();
    while let Some(request) = requests.next().await {
        client.publish(request.reply.unwrap(), request.payload).await.unwrap();
    }
}

struct Responder(Child);

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start_here(server: &NatsServer) -> (Ring, CacheClient) {
    let (ring, node) = (RingName::new("cache-platform").unwrap(), NodeName::new("bench").unwrap());
    let nats = Connections::open(&server.connect_options()).await.unwrap();
    let limits = Limits::within_payload(nats.max_payload());
    let config = CacheConfig { memory_bytes: 1 << 28, max_value_bytes: limits.max_value_bytes, node: node.clone() };
    let cache = Arc::new(CacheService::new(config, Arc::new(BootClock)));
    let ring = NodeBuilder::new(nats, ring, node).start(cache).await.unwrap();
    let client = CacheClient::new(Arc::new(ring.clone()), limits);
    (ring, client)
}

async fn measure(shape: &str, node_threads: &str, plan: &Plan) -> f64 {
    let server = NatsServer::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
    command.args(["--node", "other", "--nats", &server.url(), "--http", ":0"]);
    command.env("TOKIO_WORKER_THREADS", node_threads);
    let other = NodeProcess::spawn_command("other", command);
    other.wait_ready(Duration::from_secs(20)).await;
    let mut responder = Command::new(std::env::current_exe().unwrap());
    responder.args(["--responder", &server.url()]).env("TOKIO_WORKER_THREADS", node_threads);
    let _responder = Responder(responder.spawn().unwrap());
    let (ring, cache) = start_here(&server).await;
    common::eventually::eventually(Duration::from_secs(20), "both own half", || async {
        if ring.status().owned() == 32 { Ok(()) } else { Err(ring.status().owned()) }
    })
    .await;
    let bare = async_nats::connect(server.url()).await.unwrap();
    let keys: Vec<Bytes> =
        (0..).map(|n| Bytes::from(format!("key-{n}"))).filter(|k| !ring.owns_key(k)).take(256).collect();
    for key in &keys {
        let value = Bytes::from(format!("\"{}\"", "v".repeat(VALUE_BYTES)));
        cache.set(key.clone(), value, None).await.unwrap();
    }
    let ratio = latency(shape, &cache, &bare, &keys, plan.rounds).await;
    throughput(shape, &cache, &bare, &keys, plan).await;
    ring.shutdown().await.unwrap();
    ratio
}

async fn ask_ring(cache: &CacheClient, key: &Bytes) {
    assert!(cache.get(key.clone()).await.unwrap().found.is_some());
}

async fn ask_bare(bare: &async_nats::Client, payload: &Bytes) {
    assert_eq!(bare.request("bare", payload.clone()).await.unwrap().payload.len(), payload.len());
}

async fn latency(shape: &str, cache: &CacheClient, bare: &async_nats::Client, keys: &[Bytes], rounds: usize) -> f64 {
    let payload = Bytes::from(vec![b'v'; VALUE_BYTES]);
    let headers: async_nats::HeaderMap =
        [("Ring-Epoch", "17"), ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
            .into_iter()
            .map(|(name, value)| (async_nats::HeaderName::from_static(name), async_nats::HeaderValue::from(value)))
            .collect();
    let (mut routed, mut plain, mut headed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let key = &keys[round % keys.len()];
        let began = Instant::now();
        ask_ring(cache, key).await;
        routed.push(began.elapsed());
        let began = Instant::now();
        ask_bare(bare, &payload).await;
        plain.push(began.elapsed());
        let began = Instant::now();
        bare.request_with_headers("bare", headers.clone(), payload.clone()).await.unwrap();
        headed.push(began.elapsed());
    }
    let ratio = percentile(&mut routed, 0.5).as_secs_f64() / percentile(&mut plain, 0.5).as_secs_f64();
    for (what, all) in [("routed get", &mut routed), ("bare", &mut plain), ("bare, 2 headers", &mut headed)] {
        let (p50, p99) = (percentile(all, 0.5), percentile(all, 0.99));
        println!("{shape:18} {what:16} p50 {p50:>9.1?}  p99 {p99:>9.1?}");
    }
    println!("{shape:18} routed / bare    p50 {ratio:.2}");
    ratio
}

fn percentile(all: &mut [Duration], share: f64) -> Duration {
    all.sort();
    all[((all.len() - 1) as f64 * share) as usize]
}

async fn throughput(shape: &str, cache: &CacheClient, bare: &async_nats::Client, keys: &[Bytes], plan: &Plan) {
    let payload = Bytes::from(vec![b'v'; VALUE_BYTES]);
    let (mut routed, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..plan.slices {
        let each = futures::stream::iter(keys.iter().cycle());
        routed.push(rate(plan.throughput, each.map(|key| ask_ring(cache, key))).await);
        let each = futures::stream::repeat(());
        plain.push(rate(plan.throughput, each.map(|()| ask_bare(bare, &payload))).await);
    }
    let spread = |all: &[f64]| {
        let (low, high) = all.iter().fold((f64::INFINITY, 0.0_f64), |(l, h), x| (l.min(*x), h.max(*x)));
        format!("{low:.0}..{high:.0}/s")
    };
    println!("{shape:18} {IN_FLIGHT} in flight: routed {}, bare {}", spread(&routed), spread(&plain));
}

async fn rate<F: Future<Output = ()>>(during: Duration, requests: impl futures::Stream<Item = F>) -> f64 {
    let began = Instant::now();
    let answered = requests.buffer_unordered(IN_FLIGHT);
    let counted = answered.take_while(|()| std::future::ready(began.elapsed() < during)).count().await;
    counted as f64 / began.elapsed().as_secs_f64()
}
