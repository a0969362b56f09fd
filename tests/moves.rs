//! The cache keeps its entries through every planned move: 100 MB per node, while nodes join and drain under traffic.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods)]

mod common;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::bulk::Bulk;
use common::eventually::eventually;
use common::http::Http;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use common::traffic::{Account, Traffic};
use serde_json::{Value, json};

const READY: Duration = Duration::from_secs(20);
/// How long a planned change may take altogether, 100 MB per node on the move.
const SETTLED: Duration = Duration::from_secs(60);
const LEFT: Duration = Duration::from_secs(60);
/// So many of 10 to 60 KB that each of three nodes holds 100 MB and a little more.
const ENTRIES: usize = 9_300;
const BYTES_PER_NODE: u64 = 100_000_000;
/// The most that an entry may outlive its time: the way of one message, the offer, and of the question that found it.
const OVERTIME_MAX: Duration = Duration::from_millis(250);

/// Some nodes of one ring.
struct Cluster {
    server: NatsServer,
    nodes: Vec<NodeProcess>,
    http: Http,
}

impl Cluster {
    async fn start(count: usize) -> Self {
        let mut cluster = Self { server: NatsServer::start(), nodes: Vec::new(), http: Http::new() };
        for number in 1..=count {
            cluster.join(&format!("node-{number}")).await;
        }
        cluster.settled().await;
        cluster
    }

    async fn join(&mut self, name: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
        // A lease that a machine busy with other tests keeps up with: this is not about suspension.
        command.args([
            "--node",
            name,
            "--nats",
            &self.server.url(),
            "--http",
            ":0",
            "--memory",
            "1GiB",
            "--lease",
            "6s",
        ]);
        command.env("RUST_LOG", "info,nats_ring::node::events=debug");
        let node = NodeProcess::spawn_command(name, command);
        node.wait_ready(READY).await;
        self.nodes.push(node);
    }

    /// Ends these at the same time; each must drain and exit 0.
    async fn drain(&mut self, names: &[&str]) {
        let (leaving, staying) = std::mem::take(&mut self.nodes).into_iter().partition(|n| names.contains(&&*n.name));
        self.nodes = staying;
        let leaving: Vec<NodeProcess> = leaving;
        assert_eq!(leaving.len(), names.len());
        leaving.iter().for_each(NodeProcess::sigterm);
        for node in leaving {
            assert_eq!(node.wait_exit(LEFT).await, Some(0), "{}:\n{}", node.name, node.log());
            report_moves(&node);
        }
    }

    async fn addresses(&self) -> Vec<String> {
        let mut addresses = Vec::new();
        for node in &self.nodes {
            addresses.push(node.url("").await);
        }
        addresses
    }

    async fn ask(&self, node: &NodeProcess, path: &str) -> Result<Value, String> {
        let answer = self.http.get(&node.url(path).await).await?;
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
    }

    /// Waits until every node sees every partition served, each by its share of them.
    async fn settled(&self) {
        let share = 64 / self.nodes.len();
        for node in &self.nodes {
            eventually(SETTLED, &format!("{} sees a balanced ring", node.name), || async {
                let ring = self.ask(node, "/ring").await?;
                let partitions = ring["partitions"].as_array().unwrap();
                let served = partitions.iter().filter(|p| p["state"] == "serving").count();
                let owned = |n: &NodeProcess| partitions.iter().filter(|p| p["owner"] == json!(n.name)).count();
                let shares: Vec<usize> = self.nodes.iter().map(owned).collect();
                if served == 64 && shares.iter().all(|owned| *owned >= share) {
                    Ok(())
                } else {
                    Err(format!("{served} {shares:?}"))
                }
            })
            .await;
        }
    }

    async fn coordinator(&self) -> String {
        let ring = self.ask(&self.nodes[0], "/ring").await.unwrap();
        let found = ring["nodes"].as_array().unwrap().iter().find(|node| node["coordinator"] == true).cloned();
        found.unwrap_or_else(|| panic!("nobody coordinates: {ring}"))["node"].as_str().unwrap().to_owned()
    }

    /// One field of `/stats`, of every node.
    async fn cache_figures(&self, field: &str) -> Vec<u64> {
        let mut figures = Vec::new();
        for node in &self.nodes {
            figures.push(self.ask(node, "/stats").await.unwrap()["cache"][field].as_u64().unwrap());
        }
        figures
    }
}

/// Pauses and volume of the moves that this node made, from its log.
fn report_moves(node: &NodeProcess) {
    let log = node.log();
    let field = |line: &str, name: &str| line.split(&format!("{name}=")).nth(1)?.split(' ').next().map(str::to_owned);
    let mut pauses: Vec<Duration> = Vec::new();
    let mut bytes = 0u64;
    for line in log.lines().filter(|line| line.contains("move finished")) {
        let pause = field(line, "pause").and_then(|text| text.replace("µ", "u").parse::<PauseText>().ok());
        pauses.extend(pause.map(|PauseText(pause)| pause));
        bytes += field(line, "bytes").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    }
    pauses.sort();
    let at =
        |share: f64| pauses.get((pauses.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or_default();
    let abandoned: Vec<_> = log.lines().filter(|line| line.contains("move abandoned")).collect();
    eprintln!(
        "{}: gave {} partitions, {:.1} MB; pause p50 {:.0?}, max {:.0?}; {} moves abandoned {abandoned:#?}",
        node.name,
        pauses.len(),
        bytes as f64 / 1e6,
        at(0.5),
        at(1.0),
        abandoned.len()
    );
}

/// A duration as `{:?}` writes it.
struct PauseText(Duration);

impl std::str::FromStr for PauseText {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let units = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("s", 1.0)];
        let (number, unit) = units.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size))).ok_or(())?;
        Ok(Self(Duration::from_secs_f64(number.parse::<f64>().map_err(|_| ())? * unit)))
    }
}

/// Does one planned change and says how long it took; then everything must be there.
async fn after(what: &str, began: Instant, cluster: &Cluster, bulk: &Arc<Bulk>, traffic: &Traffic) {
    cluster.settled().await;
    let (changed, reading) = (began.elapsed(), Instant::now());
    bulk.read_all(&traffic.client, &cluster.addresses().await).await;
    let slowest = std::mem::take(&mut *traffic.account.slowest.lock().await);
    eprintln!(
        "{what}: {changed:.1?}; all read in {:.1?}; slowest request of a plain client {slowest:.0?}",
        reading.elapsed()
    );
    let problems = traffic.account.problems.lock().await;
    assert!(problems.is_empty(), "{what}: {} problems: {:#?}", problems.len(), &problems[..problems.len().min(10)]);
    assert!(cluster.cache_figures("evicted").await.iter().all(|evicted| *evicted == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_entry_is_there_after_joins_drains_a_coordinators_drain_and_two_at_once() {
    let test_began = Instant::now();
    let mut cluster = Cluster::start(3).await;
    let client = async_nats::connect(cluster.server.url()).await.unwrap();
    let bulk = Bulk::new(ENTRIES);
    let began = Instant::now();
    bulk.write_all(&client).await;
    let megabytes = bulk.bytes() as f64 / 1e6;
    let rate = megabytes / began.elapsed().as_secs_f64();
    eprintln!("{ENTRIES} entries, {megabytes:.0} MB, written in {:.1?}: {rate:.0} MB/s", began.elapsed());
    let held = cluster.cache_figures("bytes").await;
    assert!(held.iter().all(|bytes| *bytes >= BYTES_PER_NODE), "{held:?}");
    let traffic = Traffic::start(&client);

    let began = Instant::now();
    cluster.join("node-4").await;
    after("a fourth joins", began, &cluster, &bulk, &traffic).await;

    let (coordinator, began) = (cluster.coordinator().await, Instant::now());
    let other = cluster.nodes.iter().map(|n| n.name.clone()).find(|name| *name != coordinator).unwrap();
    cluster.drain(&[&other]).await;
    after("one drains", began, &cluster, &bulk, &traffic).await;

    let began = Instant::now();
    cluster.drain(&[&coordinator]).await;
    assert_ne!(cluster.coordinator().await, coordinator);
    after("the coordinator drains", began, &cluster, &bulk, &traffic).await;

    cluster.join("node-5").await;
    cluster.settled().await;
    let names: Vec<String> = cluster.nodes.iter().map(|n| n.name.clone()).collect();
    let began = Instant::now();
    cluster.drain(&[&names[0], &names[1]]).await;
    after("two drain at once", began, &cluster, &bulk, &traffic).await;

    let account = traffic.stop().await;
    check_account(&cluster, &account).await;
    eprintln!("the whole test took {:.1?}", test_began.elapsed());
}

async fn check_account(cluster: &Cluster, account: &Account) {
    let [answered, alive, ended] =
        [&account.answered, &account.alive, &account.ended].map(|n| n.load(Ordering::SeqCst));
    let overtime = *account.longest_overtime.lock().await;
    eprintln!(
        "{answered} requests of plain clients answered; {alive} entries seen alive before their time was over, {ended} seen \
         to end; longest overtime {overtime:.1?}"
    );
    let problems = account.problems.lock().await;
    assert!(problems.is_empty(), "{} problems: {:#?}", problems.len(), &problems[..problems.len().min(10)]);
    for (key, value) in account.last_written.lock().await.iter() {
        let answer = cluster.ask(&cluster.nodes[0], &format!("/get?key={key}")).await.unwrap();
        assert_eq!(answer["value"], json!(value), "{key}: the last acknowledged write is not what is read");
    }
    assert!(alive > 100 && ended > 100, "too few entries with a time to live: {alive}, {ended}");
    assert!(overtime <= OVERTIME_MAX, "an entry was found {overtime:?} after its time to live was over");
}
