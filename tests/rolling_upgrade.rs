//! A rolling upgrade from the program of an earlier commit to today's, and back down again, under traffic: no request
//! fails, no entry is lost, and either program coordinates a ring in which the other one takes part.
//!
//! `scripts/previous.sh` builds the earlier program. Where it is not there the test is skipped, and says so loudly; where
//! `NATS_RING_REQUIRE_PREVIOUS=1` is set (the checks of every change set it), that is a failure.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::bulk::Bulk;
use common::eventually::eventually;
use common::http::Http;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use common::traffic::Traffic;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const READY: Duration = Duration::from_secs(30);
const SETTLED: Duration = Duration::from_secs(60);
const LEFT: Duration = Duration::from_secs(60);
/// Of 10 to 60 KB.
const ENTRIES: usize = 600;
const FRONT_CLIENTS: usize = 4;
/// How often each of them writes and reads back.
const FRONT_PACE: Duration = Duration::from_millis(20);

/// Which program a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Old,
    New,
}

/// The earlier program, or `None` after saying that it is not there.
fn previous() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("previous");
    let commit = std::fs::read_to_string(folder.join("commit")).unwrap_or_default();
    let program = folder.join("nats-ring");
    if program.is_file() && !commit.is_empty() {
        eprintln!("the earlier program is that of commit {}", commit.trim());
        return Some(program);
    }
    let required = std::env::var("NATS_RING_REQUIRE_PREVIOUS").is_ok_and(|v| v == "1");
    let program = program.display();
    assert!(!required, "NATS_RING_REQUIRE_PREVIOUS=1, and there is no {program}: run scripts/previous.sh");
    eprintln!("\n**** SKIPPED: the rolling upgrade: there is no {program} (scripts/previous.sh builds it) ****\n");
    None
}

/// A ring of three whose nodes are replaced one by one.
struct Cluster {
    server: NatsServer,
    previous: PathBuf,
    nodes: Vec<(Program, NodeProcess)>,
    front: Arc<Front>,
    http: Http,
}

impl Cluster {
    fn new(previous: PathBuf) -> Self {
        let (server, front) = (NatsServer::start(), Arc::default());
        Self { server, previous, nodes: Vec::new(), front, http: Http::new() }
    }

    async fn join(&mut self, program: Program, name: &str) {
        let mut command = match program {
            Program::Old => Command::new(&self.previous),
            Program::New => Command::new(env!("CARGO_BIN_EXE_nats-ring")),
        };
        // A lease that a machine busy with other tests keeps up with: this is not about suspension.
        command.args(["--node", name, "--nats", &self.server.url(), "--http", ":0", "--lease", "6s"]);
        let node = NodeProcess::spawn_command(name, command);
        node.wait_ready(READY).await;
        self.nodes.push((program, node));
    }

    /// Ends a node as a rolling upgrade does, and starts another program under its name.
    async fn replace(&mut self, name: &str, program: Program) {
        let at = self.nodes.iter().position(|(_, node)| node.name == name).unwrap();
        let (before, node) = self.nodes.remove(at);
        assert_ne!(before, program, "{name}");
        self.open_front().await;
        node.sigterm();
        assert_eq!(node.wait_exit(LEFT).await, Some(0), "{name}:\n{}", node.log());
        self.settled().await;
        self.join(program, name).await;
        self.settled().await;
        self.open_front().await;
    }

    /// As a balancer does: requests go to nodes that are not about to end.
    async fn open_front(&self) {
        let addresses = self.addresses().await;
        *self.front.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    async fn addresses(&self) -> Vec<String> {
        let mut addresses = Vec::new();
        for (_, node) in &self.nodes {
            addresses.push(node.url("").await);
        }
        addresses
    }

    async fn ring(&self, node: &NodeProcess) -> Result<Value, String> {
        let answer = self.http.get(&node.url("/ring").await).await?;
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
    }

    /// Waits until all nodes say the same: every partition served, each node its share of them.
    async fn settled(&self) {
        let share = 64 / self.nodes.len();
        eventually(SETTLED, "all nodes see the same balanced ring", || async {
            let mut tables = Vec::new();
            for (_, node) in &self.nodes {
                let ring = self.ring(node).await.map_err(|error| format!("{}: {error}", node.name))?;
                let rows = ring["partitions"].as_array().unwrap();
                let row =
                    |row: &Value| (row["state"] == "serving").then(|| (row["owner"].clone(), row["epoch"].clone()));
                tables.push(rows.iter().map(row).collect::<Option<Vec<_>>>().ok_or("not all are served")?);
            }
            let owned = |name: &str| tables[0].iter().filter(|(owner, _)| *owner == json!(name)).count();
            let shares: Vec<usize> = self.nodes.iter().map(|(_, node)| owned(&node.name)).collect();
            let even = tables[0].len() == 64 && shares.iter().all(|owned| *owned >= share);
            if even && tables.iter().all(|table| *table == tables[0]) { Ok(()) } else { Err(format!("{shares:?}")) }
        })
        .await;
    }

    /// An operator with either program sees the whole ring.
    async fn operators_see_all(&self) {
        for program in [self.previous.clone(), PathBuf::from(env!("CARGO_BIN_EXE_nats-ring"))] {
            let asked =
                Command::new(&program).args(["nodes", "--json", "--nats", &self.server.url()]).output().unwrap();
            let said = String::from_utf8_lossy(&asked.stdout);
            assert!(asked.status.success(), "{program:?}: {said} {}", String::from_utf8_lossy(&asked.stderr));
            assert!(self.nodes.iter().all(|(_, node)| said.contains(&node.name)), "{program:?}: {said}");
        }
    }

    /// Which program writes the plan; all nodes say the same.
    async fn coordinator(&self) -> Program {
        let mut found = Vec::new();
        for (_, node) in &self.nodes {
            let ring = self.ring(node).await.unwrap();
            let writes = ring["nodes"].as_array().unwrap().iter().find(|member| member["coordinator"] == json!(true));
            found.push(writes.unwrap_or_else(|| panic!("nobody coordinates: {ring}"))["node"].clone());
        }
        assert!(found.iter().all(|name| *name == found[0]), "{found:?}");
        self.nodes.iter().find(|(_, node)| found[0] == json!(node.name)).unwrap().0
    }
}

/// HTTP clients behind a balancer, and what became of their requests.
#[derive(Default)]
struct Front {
    addresses: Mutex<Vec<String>>,
    stop: AtomicBool,
    answered: AtomicU64,
    problems: Mutex<Vec<String>>,
}

impl Front {
    fn address(&self, turn: usize) -> String {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses[turn % addresses.len()].clone()
    }

    fn problem(&self, what: String) {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// Writes growing numbers to keys of its own and reads each back at another node.
    async fn write_and_read(self: Arc<Self>, client: usize) {
        let http = Http::new();
        let mut tick = tokio::time::interval(FRONT_PACE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        for round in 0.. {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            tick.tick().await;
            let key = format!("front-{client}-{}", round % 16);
            let set = http.post(&format!("{}/set", self.address(round)), &json!({"key": key, "value": round})).await;
            match set {
                Ok(answer) if answer.status == 200 => self.answered.fetch_add(1, Ordering::Relaxed),
                other => return self.problem(format!("set {key}: {other:?}")),
            };
            match http.get(&format!("{}/get?key={key}", self.address(round + 1))).await {
                Ok(answer) if answer.status == 200 && answer.json()["value"] == json!(round) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                other => return self.problem(format!("get {key}, {round} was acknowledged: {other:?}")),
            }
        }
    }
}

/// Replaces each node in turn and looks at everything after each; says which programs coordinated a mixed ring.
async fn replace_each(
    cluster: &mut Cluster,
    order: [&str; 3],
    to: Program,
    bulk: &Arc<Bulk>,
    traffic: &Traffic,
) -> Vec<Program> {
    let mut mixed = Vec::new();
    for name in order {
        let began = Instant::now();
        cluster.replace(name, to).await;
        let changed = began.elapsed();
        let coordinator = cluster.coordinator().await;
        if cluster.nodes.iter().any(|(program, _)| *program != to) {
            mixed.push(coordinator);
        }
        cluster.operators_see_all().await;
        bulk.read_all(&traffic.client, &cluster.addresses().await).await;
        eprintln!("{name} replaced by {to:?} in {changed:.1?}; the coordinator is {coordinator:?}");
        let plain = traffic.account.problems.lock().await;
        assert!(plain.is_empty(), "{name}: {} problems: {:#?}", plain.len(), &plain[..plain.len().min(10)]);
        let front = cluster.front.problems.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(front.is_empty(), "{name}: {front:#?}");
    }
    mixed
}

/// Eviction and takeover over the border between the two, in both directions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_program_evicts_the_other_one_that_was_killed_and_takes_over_from_it() {
    let Some(previous) = previous() else { return };
    let mut cluster = Cluster::new(previous);
    cluster.join(Program::Old, "node-1").await;
    cluster.join(Program::New, "node-2").await;
    cluster.settled().await;
    for (killed, joins, name) in [(Program::Old, Program::Old, "node-3"), (Program::New, Program::New, "node-4")] {
        assert_eq!(cluster.coordinator().await, killed);
        let (program, oldest) = cluster.nodes.remove(0);
        assert_eq!(program, killed);
        oldest.kill9();
        cluster.settled().await;
        assert_ne!(cluster.coordinator().await, killed);
        cluster.join(joins, name).await;
        cluster.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_upgrade_from_the_earlier_program_and_back_fails_no_request_and_loses_no_entry() {
    let Some(previous) = previous() else { return };
    let mut cluster = Cluster::new(previous);
    let front = Arc::clone(&cluster.front);
    for name in ["node-1", "node-2", "node-3"] {
        cluster.join(Program::Old, name).await;
    }
    cluster.settled().await;
    cluster.open_front().await;
    let client = async_nats::connect(cluster.server.url()).await.unwrap();
    let bulk = Bulk::new(ENTRIES);
    bulk.write_all(&client).await;
    let traffic = Traffic::start(&client);
    let mut front_clients = JoinSet::new();
    for number in 0..FRONT_CLIENTS {
        front_clients.spawn(Arc::clone(&front).write_and_read(number));
    }

    // The oldest, which coordinates, goes last: up to then the earlier program writes the plan.
    let up = replace_each(&mut cluster, ["node-2", "node-3", "node-1"], Program::New, &bulk, &traffic).await;
    assert_eq!(up, [Program::Old, Program::Old]);
    // Now node-2 is the oldest.
    let down = replace_each(&mut cluster, ["node-3", "node-1", "node-2"], Program::Old, &bulk, &traffic).await;
    assert_eq!(down, [Program::New, Program::New]);

    front.stop.store(true, Ordering::SeqCst);
    while let Some(ended) = front_clients.join_next().await {
        ended.unwrap();
    }
    let account = traffic.stop().await;
    let problems = account.problems.lock().await;
    assert!(problems.is_empty(), "{} problems: {:#?}", problems.len(), &problems[..problems.len().min(10)]);
    let front_problems = front.problems.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(front_problems.is_empty(), "{front_problems:#?}");
    for (key, value) in account.last_written.lock().await.iter() {
        let answer = cluster.http.get(&format!("{}/get?key={key}", front.address(0))).await.unwrap();
        assert_eq!(answer.json()["value"], json!(value), "{key}: the last acknowledged write is not what is read");
    }
    let (plain, over_http) = (account.answered.load(Ordering::SeqCst), front.answered.load(Ordering::SeqCst));
    eprintln!(
        "{plain} requests of plain clients and {over_http} over HTTP answered, none failed; {ENTRIES} entries kept"
    );
    assert!(plain > 1000 && over_http > 1000, "too little traffic to show anything: {plain}, {over_http}");
}
