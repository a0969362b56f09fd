//! A write whose outcome is unknown is sent again and executed once: real nodes and a real server, killed and frozen.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;
mod doors;
mod router;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use doors::{Bases, Door, Front, Library, Plain};
use hyper::Method;
use nats_ring::RingClient;
use nats_ring::cache::{CacheClient, Limits};
use nats_ring::types::{Consistency, RingName};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const READY: Duration = Duration::from_secs(60);
const LEASE: &str = "2s";
/// Longer than the lease: whoever is frozen for so long was replaced.
const FROZEN: Duration = Duration::from_secs(4);
/// How long the clients go on between two faults.
const BETWEEN: Duration = Duration::from_millis(1500);
/// How long one addition may be repeated: below what is remembered.
const PATIENCE: Duration = Duration::from_secs(50);
const COUNTERS: usize = 32;

struct Ground {
    server: NatsServer,
    nodes: BTreeMap<String, NodeProcess>,
    bases: Bases,
}

impl Ground {
    async fn start() -> Self {
        let mut ground = Self { server: NatsServer::start(), nodes: BTreeMap::new(), bases: Bases::default() };
        for name in ["node-1", "node-2", "node-3"] {
            ground.spawn(name).await;
        }
        for node in ground.nodes.values() {
            node.wait_ready(READY).await;
        }
        ground.whole().await;
        ground
    }

    async fn spawn(&mut self, name: &str) {
        let node = NodeProcess::spawn(name, &self.server.url(), &["--lease", LEASE]);
        let base = node.url("").await;
        self.bases.lock().unwrap().insert(name.to_owned(), base);
        self.nodes.insert(name.to_owned(), node);
    }

    /// Waits until all three nodes see every partition served, with as many copies as are asked for: a fault before that may take
    /// the last copy of one, and with it what it held and what is remembered of it.
    async fn whole(&self) {
        let http = Http::with_limit(Duration::from_secs(2));
        for node in self.nodes.values() {
            let url = node.url("/ring").await;
            eventually(READY, &format!("{} sees a whole ring", node.name), || async {
                let ring = http.get(&url).await?.json();
                let copies = |partition: &serde_json::Value| partition["replicas"].as_array().map_or(0, Vec::len);
                let partitions = ring["partitions"].as_array().ok_or("no partitions")?;
                let few = partitions.iter().filter(|one| one["state"] != "serving" || copies(one) < 3).count();
                if few == 0 { Ok(()) } else { Err(format!("{few} partitions are not whole")) }
            })
            .await;
        }
        sleep(BETWEEN).await;
    }

    async fn kill_and_start_again(&mut self, name: &str) {
        self.nodes.remove(name).unwrap().kill9();
        sleep(BETWEEN).await;
        self.spawn(name).await;
        self.nodes[name].wait_ready(READY).await;
        self.whole().await;
    }

    async fn doors(&self) -> Vec<Arc<dyn Door>> {
        let mut doors: Vec<Arc<dyn Door>> = Vec::new();
        let options = self.server.connect_options();
        for _ in 0..3 {
            let ring = RingName::new("cache-platform").unwrap();
            let client = RingClient::connect(options.clone(), ring).await.unwrap();
            let cache = CacheClient::new(Arc::new(client), Limits::default());
            doors.push(Arc::new(Library(cache.with_consistency(Consistency::Quorum))));
            doors.push(Arc::new(Front::new(Arc::clone(&self.bases))));
        }
        for _ in 0..2 {
            doors.push(Arc::new(Plain(async_nats::connect(self.server.url()).await.unwrap())));
        }
        doors
    }
}

/// Adds, one addition after the other, each repeated under its name until it is acknowledged; what was added to each counter.
async fn add_until(stop: Arc<AtomicBool>, client: usize, door: Arc<dyn Door>, repeats: Arc<Mutex<u64>>) -> Vec<i64> {
    let mut added = vec![0; COUNTERS];
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let counter = (number * 7 + client) % COUNTERS;
        let (key, name, by) = (format!("counter:{counter}"), format!("{client}-{number}"), 1 + (number % 5) as i64);
        let end = Instant::now() + PATIENCE;
        while let Err(why) = door.add(&key, by, &name).await {
            assert!(Instant::now() < end, "client {client}: {name} is not acknowledged: {why}");
            *repeats.lock().unwrap() += 1;
            sleep(Duration::from_millis(50)).await;
        }
        added[counter] += by;
    }
    added
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_are_exact_though_owners_and_servers_are_killed_and_everything_unknown_is_repeated() {
    let mut ground = Ground::start().await;
    let (stop, repeats) = (Arc::<AtomicBool>::default(), Arc::<Mutex<u64>>::default());
    let mut clients = JoinSet::new();
    for (client, door) in ground.doors().await.into_iter().enumerate() {
        clients.spawn(add_until(Arc::clone(&stop), client, door, Arc::clone(&repeats)));
    }
    sleep(BETWEEN).await;
    ground.kill_and_start_again("node-1").await;
    ground.server.kill9();
    ground.server.start_again();
    sleep(BETWEEN).await;
    ground.whole().await;
    ground.nodes["node-2"].sigstop();
    sleep(FROZEN).await;
    ground.nodes["node-2"].sigcont();
    ground.nodes["node-2"].wait_ready(READY).await;
    ground.whole().await;
    ground.kill_and_start_again("node-3").await;
    stop.store(true, Ordering::SeqCst);
    let mut sums = vec![0; COUNTERS];
    while let Some(added) = clients.join_next().await {
        sums.iter_mut().zip(added.unwrap()).for_each(|(sum, added)| *sum += added);
    }
    let total: i64 = sums.iter().sum();
    eprintln!("{total} added in all, {} additions repeated by their clients", repeats.lock().unwrap());
    assert!(total > 500, "{total} is too little to show anything");
    let reader = Front::new(Arc::clone(&ground.bases));
    for (counter, expected) in sums.iter().enumerate() {
        assert_eq!(reader.read(&format!("counter:{counter}")).await, *expected, "counter {counter}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_repeated_under_its_idempotency_key_answers_the_same_at_any_node() {
    let server = NatsServer::start();
    let nodes = [NodeProcess::spawn("node-1", &server.url(), &[]), NodeProcess::spawn("node-2", &server.url(), &[])];
    for node in &nodes {
        node.wait_ready(READY).await;
    }
    let http = Http::new();
    let mut answers = Vec::new();
    for (turn, name) in [(0, "\"order-7\""), (1, "\"order-7\""), (0, "order-7"), (1, "order-8")] {
        let url = nodes[turn].url("/v1/keys/stock/incr?by=-1").await;
        let answer = http.request_with(Method::POST, &url, &[("idempotency-key", name)], None).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answers.push(answer.text());
    }
    assert_eq!(answers, ["-1", "-1", "-1", "-2"]);
    let put = |name: &'static str, body: &'static str| {
        let (http, url) = (http.clone(), nodes[0].url("/v1/keys/page"));
        async move {
            http.request_with(Method::PUT, &url.await, &[("idempotency-key", name)], Some(body.into())).await.unwrap()
        }
    };
    assert_eq!(put("a", "one").await.status, 201);
    assert_eq!(put("a", "one").await.status, 201, "created, as the first time");
    assert_eq!(put("b", "two").await.status, 204);
    assert_eq!(put("a", "one").await.status, 201);
    let page = http.get(&nodes[1].url("/v1/keys/page").await).await.unwrap();
    assert_eq!(page.text(), "two", "the first write was not done again");
    let other = put("a", "three").await;
    assert_eq!((other.status, other.json()["error"]["code"].as_str()), (422, Some("request_id_reused")));
    assert_eq!(put(" ", "x").await.status, 400);
    let (url, name) = (nodes[0].url("/set").await, r#""key":"field","request_id":"a""#);
    for (value, status) in [(1, 200), (1, 200), (2, 422)] {
        let body = format!(r#"{{{name},"value":{value}}}"#);
        assert_eq!(http.request_with(Method::POST, &url, &[], Some(body.into())).await.unwrap().status, status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_client_names_its_request_in_a_header_or_a_field() {
    let server = NatsServer::start();
    let node = NodeProcess::spawn("node-1", &server.url(), &[]);
    node.wait_ready(READY).await;
    let plain = Plain(async_nats::connect(server.url()).await.unwrap());
    for (name, sum) in [("a", 1), ("a", 1), ("b", 2)] {
        let answer = plain.ask("cache-platform.key.incr.n", "", &[("Nats-Ring-Request-Id", name)]).await.unwrap();
        assert_eq!(answer["value"], sum, "{answer}");
    }
    for (name, sum) in [("c", 7), ("c", 7), ("d", 12)] {
        let body = format!(r#"{{"key":"n","by":5,"request_id":"{name}"}}"#);
        let answer = plain.ask("cache-platform.incr", &body, &[]).await.unwrap();
        assert_eq!(answer["value"], sum, "{answer}");
    }
    let long = "x".repeat(65);
    let refused = plain.ask("cache-platform.key.incr.n", "", &[("Nats-Ring-Request-Id", &long)]).await.unwrap_err();
    assert!(refused.contains("bad_request") && refused.contains("Nats-Ring-Request-Id"), "{refused}");
}
