//! How long a planned switch pauses a partition under writes, small and large, and how fast a copy of it is made.
//!
//! `make bench`. Node processes on a real nats-server, default lease and factor: two nodes and a partition filled with so much; a third
//! joins, and its copy is made under writes; then the partition is pinned to one node after the other. The pause is as the nodes log it,
//! the gap is the longest time in which no quorum write to the partition was acknowledged, around each switch.
//! `NATS_RING_BENCH_SHORT=1`: a megabyte only, a few switches.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

#[path = "../tests/common/mod.rs"]
mod common;
mod figures;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::kv;
use common::eventually::eventually;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use figures::{pauses_in, row};
use futures::{StreamExt, TryStreamExt};
use nats_ring::admin::Admin;
use nats_ring::cache::{CacheClient, Limits};
use nats_ring::client::RingClient;
use nats_ring::connect::Connection;
use nats_ring::coord::{Claim, Key, PlanRecord, Record};
use nats_ring::types::{Consistency, KeyHash, NodeName, PartitionCount, PartitionId, RingName};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);
const PARTITIONS: u16 = 4;
/// The one that is looked at.
const PARTITION: PartitionId = PartitionId::new(0);
const VALUE_BYTES: usize = 50_000;
/// Each of the writers begins a write as often.
const WRITE_PACE: Duration = Duration::from_micros(1500);
const WRITERS: usize = 2;
/// What of the time around a switch is looked at for gaps.
const AROUND: Duration = Duration::from_millis(30);
const MEGABYTE: usize = 1_000_000;

fn main() {
    let short = std::env::var_os("NATS_RING_BENCH_SHORT").is_some();
    let (sizes, switches): (&[usize], usize) = if short { (&[1], 6) } else { (&[1, 200], 100) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        println!("three nodes, factor 3, {WRITERS} writers at quorum to the partition that moves");
        for megabytes in sizes {
            measure(megabytes * MEGABYTE, switches).await;
        }
    });
}

async fn measure(bytes: usize, switches: usize) {
    let mut bed = Bed::start().await;
    bed.fill(bytes).await;
    let megabytes = bytes / MEGABYTE;
    let load = Load::start(&bed.cache);
    load.flows().await;
    let took = bed.third_copy().await;
    let rate = bytes as f64 / MEGABYTE as f64 / took.as_secs_f64();
    let gap = load.longest_gap_since(Instant::now() - took);
    println!(
        "{megabytes:3} MB  copy under writes, planned to in sync: {took:.2?}, {rate:.0} MB/s; longest gap of the writers {gap:.1?}"
    );
    let gaps = bed.switch(switches, &load).await;
    let (written, failed) = load.end().await;
    let of = format!("partition={PARTITION} ");
    let logs = bed.nodes.iter().map(NodeProcess::log).collect::<Vec<_>>().join("\n");
    let own = logs.lines().filter(|line| line.contains(&of)).collect::<Vec<_>>().join("\n");
    row(&format!("{megabytes:3} MB  pause of a planned switch"), pauses_in(&own));
    row(&format!("{megabytes:3} MB  longest gap of the writers"), gaps);
    let abandoned = own.lines().filter(|line| line.contains("move abandoned")).count();
    println!("{megabytes:3} MB  {written} writes acknowledged, {failed} failed; {abandoned} moves abandoned");
}

/// A ring and its clients.
struct Bed {
    server: NatsServer,
    nodes: Vec<NodeProcess>,
    admin: Admin,
    cache: CacheClient,
    store: kv::Store,
}

impl Bed {
    async fn start() -> Self {
        let server = NatsServer::start();
        let nodes = vec![spawn(&server, 1), spawn(&server, 2)];
        for node in &nodes {
            node.wait_ready(LIMIT).await;
        }
        let ring = RingName::new("cache-platform").unwrap();
        let admin = Admin::open(&Connection::open(&server.connect_options()).await.unwrap(), &ring).await.unwrap();
        let client = RingClient::connect(server.connect_options(), ring).await.unwrap();
        let nats = async_nats::connect(server.url()).await.unwrap();
        let limits = Limits::within_payload(nats.server_info().max_payload);
        let cache = CacheClient::new(Arc::new(client), limits).with_consistency(Consistency::Quorum);
        let store = async_nats::jetstream::new(nats).get_key_value("ring-cache-platform").await.unwrap();
        let bed = Self { server, nodes, admin, cache, store };
        bed.copies(2).await;
        bed
    }

    async fn fill(&self, bytes: usize) {
        let value = format!("\"{}\"", "v".repeat(VALUE_BYTES));
        let writes = keys("bulk").take(bytes / VALUE_BYTES).map(|key| {
            let (cache, value) = (self.cache.clone(), value.clone());
            async move { cache.set(key.into(), value.into(), None).await.map(|_| ()) }
        });
        futures::stream::iter(writes).buffer_unordered(16).try_collect::<()>().await.unwrap();
    }

    /// From the plan that wants a copy at a third node to the claim that lists it.
    async fn third_copy(&mut self) -> Duration {
        self.nodes.push(spawn(&self.server, 3));
        eventually(LIMIT, "a third copy is planned", || async {
            let Record::Plan(PlanRecord { rows, .. }) = self.read(Key::Plan).await else { return Err("no plan") };
            if rows[PARTITION.index()].len() == 3 { Ok(()) } else { Err("two copies") }
        })
        .await;
        let began = Instant::now();
        self.copies(3).await;
        began.elapsed()
    }

    async fn copies(&self, count: usize) {
        eventually(LIMIT, &format!("{count} copies are in sync"), || async {
            let claim = self.claim().await;
            if claim.replicas.len() == count { Ok(()) } else { Err(claim) }
        })
        .await;
    }

    /// The longest time without an acknowledged write around each of so many switches.
    async fn switch(&self, switches: usize, load: &Load) -> Vec<Duration> {
        let names: Vec<NodeName> = self.nodes.iter().map(|node| NodeName::new(node.name.as_str()).unwrap()).collect();
        let mut gaps = Vec::new();
        for _ in 0..switches {
            let owner = self.claim().await.owner.node;
            let at = names.iter().position(|name| *name == owner).unwrap();
            let target = &names[(at + 1) % names.len()];
            let began = Instant::now();
            self.admin.pin(PARTITION, target).await.unwrap();
            self.admin.wait_at_rest(LIMIT).await.unwrap();
            tokio::time::sleep(AROUND).await;
            gaps.push(load.longest_gap_since(began));
        }
        gaps
    }

    async fn claim(&self) -> Claim {
        match self.read(Key::Own(PARTITION)).await {
            Record::Own(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    async fn read(&self, key: Key) -> Record {
        let value = self.store.get(key.text()).await.unwrap().unwrap();
        Record::decode(&key, &value).unwrap()
    }
}

/// Writers of small values, each one write after the other.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    writers: Vec<JoinHandle<usize>>,
}

impl Load {
    fn start(cache: &CacheClient) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<Instant>>>::default());
        let writers = (0..WRITERS).map(|number| {
            let (stop, acknowledged, cache) = (Arc::clone(&stop), Arc::clone(&acknowledged), cache.clone());
            tokio::spawn(async move {
                let mut failed = 0;
                let mut pace = tokio::time::interval(WRITE_PACE);
                pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
                let keys: Vec<String> = keys(&format!("writer-{number}")).take(100).collect();
                for key in keys.iter().cycle() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    pace.tick().await;
                    match cache.set(key.clone().into(), "1".into(), None).await {
                        Ok(_) => acknowledged.lock().unwrap().push(Instant::now()),
                        Err(error) => {
                            eprintln!("{key}: {error}");
                            failed += 1;
                        }
                    }
                }
                failed
            })
        });
        let writers = writers.collect();
        Self { stop, acknowledged, writers }
    }

    fn longest_gap_since(&self, began: Instant) -> Duration {
        let now = Instant::now();
        let since: Vec<Instant> = self.acknowledged.lock().unwrap().iter().copied().filter(|at| *at >= began).collect();
        let moments: Vec<Instant> = std::iter::once(began).chain(since).chain([now]).collect();
        moments.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap_or_default()
    }

    /// Waits until writes are acknowledged: a small copy is made in less time than the first of them takes.
    async fn flows(&self) {
        let flowing = async {
            while self.acknowledged.lock().unwrap().len() < 4 * WRITERS {
                tokio::time::sleep(WRITE_PACE).await;
            }
        };
        tokio::time::timeout(LIMIT, flowing).await.unwrap();
    }

    async fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        let mut failed = 0;
        for writer in self.writers {
            failed += writer.await.unwrap();
        }
        (self.acknowledged.lock().unwrap().len(), failed)
    }
}

/// Keys of the partition, as many as are asked for.
fn keys(of: &str) -> impl Iterator<Item = String> {
    let count = PartitionCount::new(PARTITIONS).unwrap();
    let all = (0..).map({
        let of = of.to_owned();
        move |number| format!("{of}-{number}")
    });
    all.filter(move |key| KeyHash::Xxh3.partition(key.as_bytes(), count) == PARTITION)
}

fn spawn(server: &NatsServer, number: usize) -> NodeProcess {
    let name = format!("node-{number}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
    command.args(["--node", &name, "--nats", &server.url(), "--http", ":0", "--partitions", &PARTITIONS.to_string()]);
    command.args(["--memory", "1GiB"]).env("RUST_LOG", "info,nats_ring::node::events=debug");
    NodeProcess::spawn_command(&name, command)
}
