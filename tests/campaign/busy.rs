//! Nobody is evicted for being busy: a ring under light traffic while other processes take all of the machine.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nats_ring::coord::LeaseState;

use crate::checker::ownership::{Change, Ownership, What};
use crate::clients::{CACHE_RING, Clients, Doors};
use crate::common::eventually::eventually;
use crate::common::http::Http;
use crate::common::nats_server::NatsServer;
use crate::common::node::NodeProcess;
use crate::history::{Clock, History, Moment};
use crate::minutes;
use crate::observer::Observer;
use crate::plant::Recorded;
use crate::round::PARTITIONS;

const NODES: usize = 3;
/// Processes that do nothing but turn, for each core.
const BURNERS_EACH: usize = 2;
/// A burner ends by itself after so long, whatever becomes of whoever started it.
const BURN_LIMIT: Duration = Duration::from_secs(1200);
/// The argument that makes this program a burner.
pub const BURN: &str = "burn";
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A process that turns until it is killed.
struct Burner(Child);

impl Burner {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        Self(command.arg(BURN).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a burner does.
pub fn burn() -> Vec<String> {
    let (began, mut turns) = (Instant::now(), 0_u64);
    while began.elapsed() < BURN_LIMIT {
        for _ in 0..1_000_000 {
            turns = std::hint::black_box(turns.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
    Vec::new()
}

async fn ready(nodes: &[NodeProcess]) {
    let http = Http::with_limit(Duration::from_secs(5));
    for node in nodes {
        let url = node.url("/health?scope=ring").await;
        eventually(READY_LIMIT, &node.name, || async {
            let answer = http.get(&url).await?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }
}

/// The longest time between two renewals of a lease, as the server stamped them.
fn longest_silence(changes: &[Change]) -> Duration {
    let mut last: HashMap<&str, Moment> = HashMap::new();
    let renewals = changes.iter().filter_map(|Change { at, what }| match what {
        What::Lease(node, lease) if lease.state == LeaseState::Live => Some((*at, node.as_str())),
        _ => None,
    });
    let silences = renewals.filter_map(|(at, node)| Some(at - last.insert(node, at)?));
    Duration::from_nanos(silences.max().unwrap_or(0))
}

/// For as long as `MINUTES` says; what must not be.
pub fn busy() -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(under_load())
}

async fn under_load() -> Vec<String> {
    let (length, clock, history) = (minutes(5.0), Clock::start(), History::default());
    let server = NatsServer::start();
    let spawn = |n| NodeProcess::spawn(&format!("node-{n}"), &server.url(), &["--platform", CACHE_RING]);
    let nodes: Vec<NodeProcess> = (1..=NODES).map(spawn).collect();
    ready(&nodes).await;
    let doors = Doors::default();
    for node in &nodes {
        let base = node.url("").await;
        doors.write().unwrap().push((node.name.clone(), base));
    }
    let observer = Observer::start(&server.url(), CACHE_RING).await;
    let cores = std::thread::available_parallelism().unwrap().get();
    let burners: Vec<Burner> = (0..BURNERS_EACH * cores).map(|_| Burner::start()).collect();
    let clients = Clients::start_light(&[server.url()], &doors, clock, &history).await;
    let began = Instant::now();
    while began.elapsed() < length {
        tokio::time::sleep(Duration::from_secs(10).min(length.saturating_sub(began.elapsed()))).await;
        eprintln!("{:4.0} s  {:?}", began.elapsed().as_secs_f64(), history.counts());
    }
    let changes = observer.changes();
    clients.stop().await;
    drop(burners);
    let (counts, ownership) = (history.counts(), Ownership::of(&changes));
    let suspended: usize = nodes.iter().map(|node| node.log().matches("suspended: no heartbeat").count()).sum();
    let renewals = changes.iter().filter(|change| matches!(change.what, What::Lease(..))).count();
    eprintln!(
        "busy for {length:?} with {} burners on {cores} cores: {renewals} renewals, longest silence {:?}; evictions {}, suspensions {suspended}, changes of owner {}; {counts:?}, {:.2} % ok",
        BURNERS_EACH * cores,
        longest_silence(&changes),
        ownership.evictions.len(),
        ownership.changes(),
        counts.share_ok() * 100.0
    );
    let recorded = Recorded { operations: history.operations(), cache: changes, ..Recorded::default() };
    let mut wrong = recorded.judged(PARTITIONS);
    // Renewed every half second: a watch that saw nothing would have seen no eviction either.
    if (renewals as u64) <= NODES as u64 * length.as_secs() {
        wrong.push(format!("only {renewals} renewals were seen in {length:?}"));
    }
    wrong.extend(ownership.evictions.iter().map(|eviction| format!("{} was evicted for being busy", eviction.node)));
    if ownership.changes() > 0 {
        wrong.push(format!("{} changes of owner", ownership.changes()));
    }
    wrong
}
