//! What simulated time costs: seconds of a ring in memory (`nats_ring::testing`) in one second of this thread's processor
//! time. Others on the machine do not count.
//!
//! `cargo bench --bench simulation`, with a part of a name to run only some. The figures are in
//! `docs/decisions/0005-simulated-time.md`. `NATS_RING_BENCH_SHORT=1`: small rings for a tenth of the time, and the limits.
//!
//! Rings of many partitions have limits, far above what they take: what costs a step as much as there are partitions is
//! above them.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use nats_ring::cache::{CacheClient, CacheConfig, CacheService, Limits};
use nats_ring::testing::TestRing;
use nats_ring::{Bytes, NodeName};

/// Simulated seconds in one of a quiet ring of 1024 and of 4096 partitions.
const MANY_AT_LEAST: f64 = 50.0;
const MOST_AT_LEAST: f64 = 5.0;

const LIMITS: Limits = Limits { max_value_bytes: 1024 };

/// A ring of so many nodes and partitions; it is quiet, or asked so many times a second.
struct Case {
    nodes: u32,
    partitions: u16,
    requests_per_second: u32,
    seconds: u32,
    limit: Option<Limit>,
}

/// Far from what it takes, whatever the machine: so that only another order of magnitude meets it.
#[derive(Clone, Copy)]
struct Limit {
    /// Simulated seconds in one.
    at_least: f64,
    /// For starting all nodes, and for getting over a crash.
    at_most: Duration,
}

fn processor_time() -> Duration {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(at.tv_sec.try_into().unwrap(), at.tv_nsec.try_into().unwrap())
}

async fn add(ring: &TestRing, n: u32) {
    let name = format!("node-{n}");
    let node = NodeName::new(&name).unwrap();
    let config = CacheConfig { memory_bytes: 16 << 20, max_value_bytes: LIMITS.max_value_bytes, node };
    let cache = CacheService::within(config, ring.clock(), ring.process(), ring.chance());
    ring.add_node(name.as_str(), Arc::new(cache)).await;
}

async fn run(case: &Case) {
    let began = processor_time();
    let ring = TestRing::builder().partitions(case.partitions).build();
    for n in 1..=case.nodes {
        add(&ring, n).await;
    }
    ring.settled().await;
    let started = processor_time();
    let end = ring.elapsed() + Duration::from_secs(1) * case.seconds;
    let cache = CacheClient::new(ring.caller(), LIMITS);
    let mut count = 0u32;
    while ring.elapsed() < end {
        let Some(pause) = Duration::from_secs(1).checked_div(case.requests_per_second) else {
            ring.advance(end - ring.elapsed()).await;
            break;
        };
        count += 1;
        let key = Bytes::from(format!("key-{}", count % 1000));
        if count.is_multiple_of(2) {
            cache.set(key, Bytes::from("\"value\""), None).await.unwrap();
        } else {
            cache.get(key).await.unwrap();
        }
        ring.advance(pause).await;
    }
    let passed = processor_time();
    ring.crash("node-1").await;
    ring.settled().await;
    let recovered = processor_time();
    let in_one = f64::from(case.seconds) / (passed - started).as_secs_f64();
    println!(
        "{} nodes, {:4} partitions, {:4} requests/s: {:6.0} s in one; starting takes {:6.1} ms, a crash {:6.1} ms",
        case.nodes,
        case.partitions,
        case.requests_per_second,
        in_one,
        (started - began).as_secs_f64() * 1e3,
        (recovered - passed).as_secs_f64() * 1e3,
    );
    if let Some(Limit { at_least, at_most }) = case.limit {
        assert!(in_one >= at_least, "{in_one:.0} simulated seconds in one, limit {at_least}");
        for (what, took) in [("starting", started - began), ("a crash", recovered - passed)] {
            assert!(took <= at_most, "{what} took {took:?}, limit {at_most:?}");
        }
    }
}

fn main() {
    let short = std::env::var_os("NATS_RING_BENCH_SHORT").is_some();
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let many = |at_least, seconds| Some(Limit { at_least, at_most: Duration::from_secs(seconds) });
    for (nodes, partitions, requests_per_second, seconds, limit) in [
        (3, 16, 0, 600, None),
        (3, 64, 0, 600, None),
        (3, 64, 30, 300, None),
        (3, 64, 200, 60, None),
        (9, 64, 0, 300, None),
        (9, 64, 30, 300, None),
        (3, 1024, 0, 60, many(MANY_AT_LEAST, 4)),
        (3, 4096, 0, 20, many(MOST_AT_LEAST, 15)),
        (3, 4096, 200, 20, None),
    ] {
        let skipped = short && partitions > 64 && limit.is_none();
        let seconds = if short && limit.is_none() { seconds / 10 } else { seconds };
        if !skipped && (format!("{nodes}x{partitions}").contains(&wanted) || wanted.is_empty()) {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            runtime.block_on(run(&Case { nodes, partitions, requests_per_second, seconds, limit }));
        }
    }
}
