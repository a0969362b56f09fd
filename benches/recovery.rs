//! How long a ring of three nodes takes to get over a crash, to move a partition, and to give a new node its share.
//!
//! `make bench`. Node processes on a real nats-server, default lease. Crashes: `kill -9` of one of three, the coordinator
//! every third time, until a survivor has answered for a key of each of the 64 partitions. Joins and drains under light
//! load: from the start of a third process to its share, and for how long each partition that moved was parked, by the
//! nodes' own log. `NATS_RING_BENCH_SHORT=1`: two crashes, one join, one drain.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

#[path = "../tests/common/mod.rs"]
mod common;
mod figures;
#[allow(dead_code)] // The tests of faults use the rest.
#[path = "../tests/faults/world.rs"]
mod world;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::http::Http;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use figures::{pauses_in, row};
use futures::future::join_all;
use tokio::task::JoinHandle;
use world::{DEFAULT_LEASE, DRAIN_LIMIT, Read, SETTLE_LIMIT, all, keys, read, set, settled};

/// A crash that is not over by then never is.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// One request every 5 ms.
const LOAD_PACE: Duration = Duration::from_millis(5);

struct Plan {
    kills: usize,
    changes: usize,
}

fn main() {
    let short = std::env::var_os("NATS_RING_BENCH_SHORT").is_some();
    let plan = if short { Plan { kills: 2, changes: 1 } } else { Plan { kills: 20, changes: 10 } };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let crashes = crashes(plan.kills).await;
        let (shares, ready, pauses, load) = planned(plan.changes).await;
        println!("three nodes, 64 partitions, lease {DEFAULT_LEASE:?}");
        row("kill -9 to all 64 answering", crashes);
        row("pause of a planned switch", pauses);
        row("third node, process start to its share", shares);
        row("third node, process start to ready", ready);
        println!("requests during joins and drains: {} answered, {} failed", load.0, load.1);
    });
}

/// Logs each finished move.
fn spawn(number: usize, server: &NatsServer) -> NodeProcess {
    let name = format!("node-{number}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
    command.args(["--node", &name, "--nats", &server.url(), "--http", ":0"]);
    command.env("RUST_LOG", "info,nats_ring::node::events=debug");
    NodeProcess::spawn_command(&name, command)
}

async fn share(nodes: &[NodeProcess]) {
    settled(&nodes.iter().collect::<Vec<_>>(), SETTLE_LIMIT).await;
}

async fn crashes(kills: usize) -> Vec<Duration> {
    let server = NatsServer::start();
    let mut nodes: Vec<NodeProcess> = (0..3).map(|n| spawn(n, &server)).collect();
    let mut took = Vec::new();
    for kill in 0..kills {
        share(&nodes).await;
        set(&nodes[0], &all(), "value").await.unwrap();
        // Nodes stand by age: the first is the coordinator.
        let victim = nodes.remove(kill % 3);
        let base = nodes[kill % 2].url("").await;
        victim.kill9();
        took.push(all_answered(&base).await);
        nodes.push(spawn(3 + kill, &server));
    }
    took
}

/// From now until each partition's key was answered through this node.
async fn all_answered(base: &str) -> Duration {
    let killed = Instant::now();
    let http = Http::new();
    join_all(all().into_iter().map(|p| {
        let http = http.clone();
        async move {
            while !matches!(read(&http, base, p).await, Read::Value(_) | Read::Missing) {
                assert!(killed.elapsed() < RECOVERY_LIMIT, "partition {p} was never answered again");
            }
        }
    }))
    .await;
    killed.elapsed()
}

/// Requests of a plain client, one after the other.
struct Load {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicUsize>,
    task: JoinHandle<usize>,
}

impl Load {
    async fn start(server: &NatsServer) -> Self {
        let client = async_nats::connect(server.url()).await.unwrap();
        let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, failures) = (Arc::clone(&stop), Arc::clone(&failed));
        let task = tokio::spawn(async move {
            let mut pace = tokio::time::interval(LOAD_PACE);
            let mut answered = 0;
            for key in keys().iter().cycle() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                pace.tick().await;
                let body = serde_json::json!({ "key": key }).to_string();
                match client.request("cache-platform.get", body.into()).await {
                    Ok(message) if !message.payload.starts_with(b"{\"error\"") => answered += 1,
                    _ => _ = failures.fetch_add(1, Ordering::SeqCst),
                }
            }
            answered
        });
        Self { stop, failed, task }
    }

    async fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        (self.task.await.unwrap(), self.failed.load(Ordering::SeqCst))
    }
}

type Planned = (Vec<Duration>, Vec<Duration>, Vec<Duration>, (usize, usize));

/// A third node joins, then the oldest drains, so many times.
async fn planned(changes: usize) -> Planned {
    let server = NatsServer::start();
    let mut nodes: Vec<NodeProcess> = (0..2).map(|n| spawn(n, &server)).collect();
    share(&nodes).await;
    set(&nodes[0], &all(), &"v".repeat(1000)).await.unwrap();
    let load = Load::start(&server).await;
    let (mut shares, mut ready, mut pauses) = (Vec::new(), Vec::new(), Vec::new());
    for change in 0..changes {
        let began = Instant::now();
        nodes.push(spawn(2 + change, &server));
        nodes[2].wait_ready(SETTLE_LIMIT).await;
        ready.push(began.elapsed());
        share(&nodes).await;
        shares.push(began.elapsed());
        let leaving = nodes.remove(0);
        leaving.sigterm();
        assert_eq!(leaving.wait_exit(DRAIN_LIMIT).await, Some(0), "{}", leaving.log());
        pauses.extend(pauses_in(&leaving.log()));
        share(&nodes).await;
    }
    pauses.extend(nodes.iter().flat_map(|node| pauses_in(&node.log())));
    (shares, ready, pauses, load.end().await)
}
