//! A JetStream of three servers loses its leader under load: for seconds no heartbeat gets through, every gate closes, and the
//! copies go on by themselves.
//!
//! The library's client, HTTP and plain NATS clients read and write over all partitions at all levels. What was in flight
//! through the killed server at that moment is counted apart: where an answer is lost with it, nobody knows what became of
//! the request.
#![allow(unreachable_pub, dead_code, clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods)]

#[path = "../drill/account.rs"]
mod account;
#[path = "../common/mod.rs"]
mod common;
#[path = "../drill/doors.rs"]
mod doors;
mod load;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::NatsCluster;
use common::node::NodeProcess;
use doors::{Door, Front, Library, Plain};
use load::Load;
use nats_ring::cache::{CacheClient, Limits};
use nats_ring::client::RingClient;
use nats_ring::types::RingName;
use serde_json::Value;

const NAMES: [&str; 3] = ["node-1", "node-2", "node-3"];
/// As by default, which leaves followers on a busy machine time to answer; an election takes 5 to 11 s, so every gate closes.
const LEASE: &str = "3s";
const LIMIT: Duration = Duration::from_secs(40);
/// How long a killed server's connections may take to be told.
const IN_FLIGHT: Duration = Duration::from_millis(100);
/// The slowest answer.
const SLOWEST: Duration = Duration::from_secs(1);
const STREAM: &str = "KV_ring-cache-platform";

/// The number of the server that leads the bucket's stream.
async fn leader(url: &str) -> usize {
    let servers: Vec<_> = url.split(',').map(|url| url.parse::<async_nats::ServerAddr>().unwrap()).collect();
    let jetstream = async_nats::jetstream::new(async_nats::connect(servers).await.unwrap());
    eventually(LIMIT, "the bucket has a leader", || async {
        let stream = jetstream.get_stream(STREAM).await.map_err(|error| error.to_string())?;
        let name = stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()).ok_or("none")?;
        name.rsplit('-').next().unwrap().parse().map_err(|_| name.clone())
    })
    .await
}

/// Waits until every partition has three copies, as all nodes see it.
async fn whole(nodes: &[NodeProcess]) {
    let http = Http::with_limit(Duration::from_secs(3));
    eventually(LIMIT, "every partition has three copies", || async {
        for node in nodes {
            let ring: Value = http.get(&node.url("/ring").await).await?.json();
            let few = |row: &&Value| row["replicas"].as_array().is_none_or(|copies| copies.len() < NAMES.len());
            if let Some(row) = ring["partitions"].as_array().and_then(|rows| rows.iter().find(few)) {
                return Err(format!("{}: {row}", node.name));
            }
        }
        Ok(())
    })
    .await;
}

/// A figure of a node without labels.
async fn figure(node: &NodeProcess, name: &str) -> u64 {
    let text = Http::new().get(&node.url("/metrics").await).await.unwrap().text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

/// What a node said of itself meanwhile, as a load balancer and an operator ask it.
#[derive(Default)]
struct Heard {
    /// `/ready` said no, and why.
    not_ready: Vec<String>,
    /// For how much longer it serves with its copies, each time that it said it was suspended.
    remaining: Vec<f64>,
    /// `nats_ring_suspended` and `/ring` said so as well.
    elsewhere: bool,
    /// What `nats-ring owner` printed then, which asks any node.
    owner: Option<String>,
}

/// Asks a node again and again until it is told to stop.
async fn listen(base: String, url: String, stop: Arc<AtomicBool>) -> Heard {
    let (http, mut heard) = (Http::with_limit(Duration::from_secs(3)), Heard::default());
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let ready = http.get(&format!("{base}/ready")).await.unwrap();
        let body = ready.json();
        if ready.status != 200 {
            heard.not_ready.push(body.to_string());
        }
        let Some(remaining) = body["suspended"]["remaining_seconds"].as_f64() else { continue };
        heard.remaining.push(remaining);
        if !heard.elsewhere {
            let ring = http.get(&format!("{base}/ring")).await.unwrap().json();
            let figures = http.get(&format!("{base}/metrics")).await.unwrap().text();
            heard.elsewhere = ring["phase"] == "suspended"
                && ring["suspended"]["serves_with_copies"] == true
                && figures.lines().any(|line| line == "nats_ring_suspended 1");
        }
        // By then the others, one of whom may answer, are suspended as well.
        if heard.owner.is_none() && remaining < 26.5 {
            let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_nats-ring"));
            let printed = command.args(["owner", "k", "--nats", &url]).output().await.unwrap();
            heard.owner = Some(String::from_utf8([printed.stdout, printed.stderr].concat()).unwrap());
        }
    }
    heard
}

async fn doors(cluster: &NatsCluster, nodes: &[NodeProcess]) -> Vec<(&'static str, Arc<dyn Door>)> {
    let ring = RingName::new("cache-platform").unwrap();
    let client = RingClient::connect(cluster.connect_options(), ring).await.unwrap();
    let library = Library(CacheClient::new(Arc::new(client), Limits::within_payload(1 << 20)));
    let servers: Vec<_> = cluster.url().split(',').map(|url| url.parse::<async_nats::ServerAddr>().unwrap()).collect();
    let options = || async_nats::ConnectOptions::new().reconnect_delay_callback(|_| Duration::from_millis(10));
    let mut bases = Vec::new();
    for node in nodes {
        bases.push(node.url("").await);
    }
    vec![
        ("library", Arc::new(library)),
        ("http", Arc::new(Front::new(Arc::new(Mutex::new(bases))))),
        ("plain", Arc::new(Plain(options().connect(servers).await.unwrap()))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jetstream_leader_killed_under_load_fails_nothing_but_what_was_in_flight_through_it() {
    let mut cluster = NatsCluster::start();
    let mut nodes = Vec::new();
    for name in NAMES {
        let node = NodeProcess::spawn(name, &cluster.url(), &["--lease", LEASE]);
        node.wait_ready(LIMIT).await;
        nodes.push(node);
    }
    whole(&nodes).await;
    let load = Load::start(&doors(&cluster, &nodes).await);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let led = leader(&cluster.url()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut listeners = Vec::new();
    for node in &nodes {
        listeners.push(tokio::spawn(listen(node.url("").await, cluster.url(), Arc::clone(&stop))));
    }
    let killed = Instant::now();
    cluster.server(led).kill9();
    let up: Vec<String> = (0..3).filter(|n| *n != led).map(|n| cluster.server(n).url()).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    leader(&up.join(",")).await;
    let elected = killed.elapsed();
    eventually(LIMIT, "all have resumed", || async {
        let waits = nodes.iter().find(|node| !node.log().contains("resumed"));
        waits.map_or(Ok(()), |node| Err(node.name.clone()))
    })
    .await;
    let resumed = killed.elapsed();
    stop.store(true, Ordering::SeqCst);
    let heard = futures::future::try_join_all(listeners).await.unwrap();
    whole(&nodes).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (outcome, mut confirmed) = (load.stop().await, Vec::new());
    for node in &nodes {
        confirmed.push(figure(node, "nats_ring_confirmed_requests_total").await);
    }
    eprintln!(
        "leader killed: another after {elected:.1?}, all resumed after {resumed:.1?}; confirmed requests {confirmed:?}"
    );
    let told = outcome.judge(killed, killed + IN_FLIGHT);
    for node in &nodes {
        for line in
            node.log().lines().filter(|line| ["WARN", "suspend", "resumed"].iter().any(|word| line.contains(word)))
        {
            eprintln!("    {}: {line}", node.name);
        }
    }
    assert!(
        confirmed.iter().all(|count| *count > 0),
        "each node has served while its lease was suspended: {confirmed:?}"
    );
    let suspended = "is suspended: it serves what all copies confirm, for ";
    let owners: Vec<_> = heard.iter().filter_map(|heard| heard.owner.as_ref()).collect();
    assert!(owners.iter().any(|text| text.contains(suspended)), "{owners:#?}");
    for (node, heard) in nodes.iter().zip(&heard) {
        let most = heard.remaining.iter().copied().fold(0.0, f64::max);
        eprintln!(
            "    {}: said {} times that it was suspended, at first for {most} s more",
            node.name,
            heard.remaining.len()
        );
        let owner = heard.owner.as_deref().unwrap_or_default();
        assert!(owner.contains("owns partition"), "JetStream is away, and nodes can be asked: {owner}");
        // Ten leases, of which 3/4 of the first one are over.
        assert!(heard.elsewhere && (15.0..=27.75).contains(&most), "{}: {:?}", node.name, heard.remaining);
        // Its connection to the killed server may be the one that is lost.
        let refused: Vec<_> = heard.not_ready.iter().filter(|text| !text.contains("not connected")).collect();
        assert!(refused.is_empty(), "a load balancer would have sent nothing any more: {refused:?}");
    }
    assert!(told.failed.is_empty(), "{} failed: {:#?}", told.failed.len(), &told.failed[..told.failed.len().min(8)]);
    assert!(told.lost.is_empty(), "{:#?}", told.lost);
    assert!(told.slowest <= SLOWEST, "{:?}", told.slowest);
}
