//! Plain NATS clients: whoever only knows `<ring>.get` and `<ring>.set` is answered while nodes join, drain and freeze.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods)] // a test measures real time

#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::http::Http;
use common::nats_server::{NatsServer, ServerOptions};
use common::node::NodeProcess;
use nats_ring::types::{KeyHash, PartitionCount};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

const READY: Duration = Duration::from_secs(15);
const LEFT: Duration = Duration::from_secs(20);
/// What a plain client waits for an answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
const WORKERS: usize = 32;
/// 32 workers that each begin a request every 40 ms: 800 a second.
const PACE: Duration = Duration::from_millis(40);

/// What the clients saw.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    stop: AtomicBool,
    /// When a failed request was sent, and how it failed.
    failed: Mutex<Vec<(Instant, String)>>,
    wrong: Mutex<Vec<String>>,
    latencies: Mutex<Vec<Duration>>,
}

impl Seen {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    async fn percentile(&self, share: f64) -> Duration {
        let mut all = self.latencies.lock().await.clone();
        all.sort();
        all[((all.len() - 1) as f64 * share) as usize]
    }
}

/// How the clients ask.
#[derive(Clone, Copy)]
enum Way {
    /// Any node, with the key in the payload.
    AnyNode,
    /// The owner, to whose partition the server maps the key in the subject.
    Mapped,
}

impl Way {
    fn set(self, key: &str, value: u64) -> (String, String) {
        match self {
            Self::AnyNode => {
                ("cache-platform.set".to_owned(), serde_json::json!({"key": key, "value": value}).to_string())
            }
            Self::Mapped => (format!("cache-platform.key.set.{key}"), value.to_string()),
        }
    }

    fn get(self, key: &str) -> (String, String) {
        match self {
            Self::AnyNode => ("cache-platform.get".to_owned(), serde_json::json!({ "key": key }).to_string()),
            Self::Mapped => (format!("cache-platform.key.get.{key}"), String::new()),
        }
    }
}

/// One client with keys of its own: sets a key, reads it back, and knows what it must find.
async fn worker(number: usize, way: Way, client: async_nats::Client, seen: Arc<Seen>) {
    let mut tick = tokio::time::interval(PACE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    for round in 0u64.. {
        let key = format!("worker-{number}-key-{}", round % 16);
        let (subject, set) = way.set(&key, round);
        tick.tick().await;
        let stored = request(&client, &subject, set, &seen).await;
        tick.tick().await;
        let (subject, get) = way.get(&key);
        if let Some(found) = request(&client, &subject, get, &seen).await
            && stored.is_some()
            && found["value"] != serde_json::json!(round)
        {
            seen.wrong.lock().await.push(format!("{key}: set {round}, got {found}"));
        }
        if seen.stopped() {
            return;
        }
    }
}

async fn request(client: &async_nats::Client, subject: &str, body: String, seen: &Seen) -> Option<serde_json::Value> {
    let sent = Instant::now();
    let answer = tokio::time::timeout(CLIENT_TIMEOUT, client.request(subject.to_owned(), body.into())).await;
    let failure = match answer {
        Ok(Ok(message)) => {
            let value: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            if value.get("error").is_none() {
                seen.answered.fetch_add(1, Ordering::SeqCst);
                seen.latencies.lock().await.push(sent.elapsed());
                return Some(value);
            }
            value.to_string()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {CLIENT_TIMEOUT:?}"),
    };
    seen.failed.lock().await.push((sent, format!("{subject}: {failure}")));
    None
}

async fn start_clients(server: &NatsServer, way: Way) -> (Arc<Seen>, JoinSet<()>) {
    let seen = Arc::new(Seen::default());
    let options = async_nats::ConnectOptions::new().request_timeout(None);
    let client = options.connect(server.url()).await.unwrap();
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        workers.spawn(worker(number, way, client.clone(), Arc::clone(&seen)));
    }
    (seen, workers)
}

async fn start_node(name: &str, server: &NatsServer, flags: &[&str]) -> NodeProcess {
    let node = NodeProcess::spawn(name, &server.url(), flags);
    node.wait_ready(READY).await;
    node
}

/// A partition that nobody owns yet has nobody on its subject.
async fn wait_served(node: &NodeProcess) {
    let (http, url) = (Http::new(), node.url("/health?scope=ring").await);
    common::eventually::eventually(READY, "all partitions are served", || async {
        let answer = http.get(&url).await?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

#[test]
fn the_clients_keys_cover_every_partition() {
    let keys = (0..WORKERS).flat_map(|worker| (0..16).map(move |key| format!("worker-{worker}-key-{key}")));
    let keys: Vec<String> = keys.collect();
    for hash in KeyHash::ALL {
        let hit = keys.iter().map(|key| hash.partition(key.as_bytes(), PartitionCount::DEFAULT));
        assert_eq!(hit.collect::<BTreeSet<_>>().len(), 64, "{hash}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_clients_lose_nothing_while_nodes_join_and_drain_twenty_times() {
    let server = NatsServer::start();
    nothing_is_lost_over_twenty_changes(&server, &[], Way::AnyNode).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_the_server_maps_to_the_owner_lose_nothing_while_nodes_join_and_drain_twenty_times() {
    let extra = include_str!("../nats/mapping.conf").to_owned();
    let server = NatsServer::start_with(ServerOptions { extra, ..ServerOptions::default() });
    nothing_is_lost_over_twenty_changes(&server, &["--key-hash", "nats"], Way::Mapped).await;
}

async fn nothing_is_lost_over_twenty_changes(server: &NatsServer, flags: &[&str], way: Way) {
    let mut nodes = vec![start_node("node-0", server, flags).await, start_node("node-1", server, flags).await];
    wait_served(&nodes[0]).await;
    let (seen, mut workers) = start_clients(server, way).await;
    let began = Instant::now();
    let mut changes = 0;
    for number in 2..12 {
        nodes.push(start_node(&format!("node-{number}"), server, flags).await);
        // The oldest goes: each time the one that writes the plan.
        let leaving = nodes.remove(0);
        leaving.sigterm();
        let code = leaving.wait_exit(LEFT).await;
        assert_eq!(code, Some(0), "{}:\n{}", leaving.name, leaving.log());
        changes += 2;
    }
    let elapsed = began.elapsed();
    seen.stop.store(true, Ordering::SeqCst);
    while workers.join_next().await.is_some() {}
    let answered = seen.answered.load(Ordering::SeqCst);
    let rate = answered as f64 / elapsed.as_secs_f64();
    eprintln!(
        "{changes} joins and leaves in {elapsed:.1?}: {answered} requests answered, {rate:.0}/s, p50 {:?}, p99 {:?}, max {:?}",
        seen.percentile(0.5).await,
        seen.percentile(0.99).await,
        seen.percentile(1.0).await,
    );
    let failed: Vec<String> = seen.failed.lock().await.iter().map(|(_, why)| why.clone()).collect();
    assert!(failed.is_empty(), "{} failed: {:#?}", failed.len(), &failed[..failed.len().min(20)]);
    let wrong = seen.wrong.lock().await.clone();
    assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    assert!(changes >= 20 && rate >= 500.0, "{changes} changes at {rate:.0} requests/s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_node_freezes_the_failures_of_plain_clients_end_within_eight_seconds() {
    let server = NatsServer::start();
    let nodes = [
        start_node("node-1", &server, &[]).await,
        start_node("node-2", &server, &[]).await,
        start_node("node-3", &server, &[]).await,
    ];
    let (seen, mut workers) = start_clients(&server, Way::AnyNode).await;
    common::eventually::eventually(READY, "clients are answered", || async {
        if seen.answered.load(Ordering::SeqCst) > 500 { Ok(()) } else { Err("too few answers") }
    })
    .await;
    let frozen = Instant::now();
    nodes[1].sigstop();
    // The stated eight seconds, then five in which nothing may fail.
    tokio::time::sleep(Duration::from_secs(13)).await;
    seen.stop.store(true, Ordering::SeqCst);
    while workers.join_next().await.is_some() {}
    let failed = seen.failed.lock().await;
    let last = failed.iter().map(|(sent, _)| sent.saturating_duration_since(frozen)).max();
    eprintln!("a third of the nodes frozen: {} failed, the last one sent {last:?} after it", failed.len());
    assert!(!failed.is_empty(), "a frozen member of the queue group swallowed nothing: the test does not test");
    let late: Vec<_> =
        failed.iter().filter(|(sent, _)| sent.saturating_duration_since(frozen) > Duration::from_secs(8)).collect();
    assert!(late.is_empty(), "{} failed after 8 s: {:?}", late.len(), late.iter().take(5).collect::<Vec<_>>());
}
