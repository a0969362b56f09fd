//! Everything that runs in a round, and what is done to it: servers, nodes of both rings, the proxies on each link.
//!
//! In: faults and planned changes. Out: what runs, what ended by itself and should not have, and when which node had
//! a reason to lose its lease.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::checker::ownership::Eviction;
use crate::clients::{CACHE_RING, Doors, WRITERS_RING};
use crate::common::http::Http;
use crate::common::node::NodeProcess;
use crate::common::proxy::{Link, Proxy};
use crate::common::sink::program;
use crate::history::{Clock, Moment, nanos};
use crate::schedule::{CLIENT_LINKS, Direction, Fault, Kind, LEASE, Planned, Topology, first_nodes};
use crate::servers::Servers;

/// What the ring of the cache may take until it is whole, once everything is healed: two elections of JetStream and some more.
const WHOLE_LIMIT: Duration = Duration::from_secs(40);
/// What a node may take to leave: the program's own limit is 60 s.
const LEAVE_LIMIT: Duration = Duration::from_secs(75);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A slow link is so much slower in each direction.
const SLOWER: Duration = Duration::from_millis(60);
/// Exit codes of a node that was asked to leave: it has, or it met its limit.
const LEFT: [i32; 2] = [0, 8];

/// A node with a proxy to each server.
struct Member {
    process: NodeProcess,
    links: Vec<Proxy>,
}

/// A time in which a node might lose its lease, and which.
struct Reason {
    nodes: Vec<String>,
    /// Of a fault between servers: any node may be cut off from the stream's leader, with no connection lost.
    any: bool,
    from: Moment,
    to: Moment,
}

/// Servers, nodes, links.
pub struct Ground {
    pub servers: Servers,
    members: BTreeMap<String, Member>,
    leaving: Vec<NodeProcess>,
    clients: Vec<Vec<Proxy>>,
    pub doors: Doors,
    sink: String,
    logs: PathBuf,
    clock: Clock,
    reasons: Vec<Reason>,
    pub wrong: Vec<String>,
}

fn is_writer(name: &str) -> bool {
    name.starts_with("writer")
}

impl Ground {
    /// Starts servers and the first nodes of both rings, and waits until both are whole.
    pub async fn start(topology: Topology, sink: &str, logs: &Path, clock: Clock) -> Self {
        std::fs::create_dir_all(logs).unwrap();
        let mut servers = Servers::start(topology, logs).await;
        let mut clients = Vec::new();
        for _ in 0..CLIENT_LINKS {
            clients.push(servers.proxies().await);
        }
        let (members, leaving, reasons, wrong) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        let (sink, logs, doors) = (sink.to_owned(), logs.to_owned(), Doors::default());
        let mut ground = Self { servers, members, leaving, clients, doors, sink, logs, clock, reasons, wrong };
        let (nodes, writers) = first_nodes();
        for name in nodes.iter().chain(&writers) {
            ground.join(name).await;
        }
        ground.whole().await;
        ground
    }

    /// Addresses for each of the plain clients' connections.
    pub fn client_urls(&self) -> Vec<String> {
        self.clients.iter().map(|links| urls(links)).collect()
    }

    /// Names of all nodes that shall run.
    pub fn names(&self) -> String {
        self.members.keys().cloned().collect::<Vec<_>>().join(" ")
    }

    /// A node under this name, on links of its own.
    async fn join(&mut self, name: &str) {
        let links = self.servers.proxies().await;
        let lease = format!("{}ms", LEASE.as_millis());
        let common = ["--node", name, "--nats", &urls(&links), "--lease", &lease].map(str::to_owned);
        let command = if is_writer(name) {
            let mut command = Command::new(program());
            command.args(common).args(["--ring", WRITERS_RING, "--sink", &self.sink]);
            command
        } else {
            let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
            command.args(common).args(["--platform", CACHE_RING, "--http", ":0", "--partitions", "64"]);
            command
        };
        let process = NodeProcess::spawn_logging(name, command, Some(&self.logs.join(format!("{name}.log"))));
        self.members.insert(name.to_owned(), Member { process, links });
    }

    /// Tells clients where HTTP is by now. A node that does not listen yet is found the next time.
    pub fn open_doors(&self) {
        let nodes = self.members.iter().filter(|(name, _)| !is_writer(name));
        let doors: Vec<_> = nodes
            .filter_map(|(name, member)| Some((name.clone(), format!("http://{}", member.process.known_address()?))))
            .collect();
        if !doors.is_empty() {
            *self.doors.write().unwrap() = doors;
        }
    }

    /// Does it.
    pub async fn inject(&mut self, fault: &Fault, lasts: Duration) {
        let now = self.clock.now();
        let any = matches!(fault.kind, Kind::RoutesCut | Kind::RoutesStalled);
        let kills = matches!(fault.kind, Kind::KillNode | Kind::KillNodeForGood | Kind::KillTwoNodes);
        // Who was killed is evicted as soon as JetStream answers; who was not may renew its lease by then.
        let later = if kills { WHOLE_LIMIT } else { LEASE * 2 };
        let to = now + nanos(lasts + later);
        self.reasons.push(Reason { nodes: fault.nodes.clone(), any, from: now, to });
        match fault.kind {
            Kind::KillNode | Kind::KillNodeForGood | Kind::KillTwoNodes => {
                fault.nodes.iter().for_each(|name| self.members[name].process.kill9());
            }
            Kind::Freeze => fault.nodes.iter().for_each(|name| self.members[name].process.sigstop()),
            Kind::LinkCut => self.set_links(fault, Link::Cut),
            Kind::LinkStalled => self.set_links(fault, Link::Stalled),
            Kind::LinkSwallows | Kind::CutOffFromTwo => self.set_links(fault, Link::Swallowing),
            Kind::LinkSlow => self.set_links(fault, Link::Slow(SLOWER)),
            Kind::ClientLink => self.set_client_links(fault.direction, Link::Stalled),
            Kind::KillServer => self.servers.kill9(fault.server.unwrap_or(0)),
            Kind::KillLeader => {
                let leader = self.servers.leader(&format!("KV_ring-{CACHE_RING}")).await;
                self.servers.kill9(leader.unwrap_or(0));
            }
            Kind::KillAllServers => (0..self.servers.count()).for_each(|number| self.servers.kill9(number)),
            Kind::RoutesCut => self.servers.set_routes(fault.server.unwrap_or(0), Link::Cut),
            Kind::RoutesStalled => self.servers.set_routes(fault.server.unwrap_or(0), Link::Swallowing),
        }
    }

    fn set_links(&self, fault: &Fault, link: Link) {
        let (to_server, to_client) = directed(fault.direction, link);
        for member in fault.nodes.iter().filter_map(|name| self.members.get(name)) {
            for (_, proxy) in member.links.iter().enumerate().filter(|(number, _)| fault.server != Some(*number)) {
                proxy.set_each(to_server, to_client);
            }
        }
    }

    fn set_client_links(&self, direction: Direction, link: Link) {
        let (to_server, to_client) = directed(direction, link);
        self.clients[0].iter().for_each(|proxy| proxy.set_each(to_server, to_client));
    }

    /// Ends the fault: what was killed comes back, what was broken is whole.
    pub async fn heal(&mut self, fault: &Fault) {
        match fault.kind {
            Kind::KillNode | Kind::KillTwoNodes => {
                for name in &fault.nodes {
                    self.join(name).await;
                }
            }
            Kind::KillNodeForGood => {
                fault.nodes.iter().for_each(|name| drop(self.members.remove(name)));
                if let Some(instead) = &fault.instead {
                    self.join(instead).await;
                }
            }
            Kind::Freeze => fault.nodes.iter().for_each(|name| self.members[name].process.sigcont()),
            Kind::ClientLink => self.set_client_links(Direction::Both, Link::Open),
            Kind::KillServer | Kind::KillLeader | Kind::KillAllServers => self.servers.start_killed(),
            Kind::RoutesCut | Kind::RoutesStalled => self.servers.set_routes(fault.server.unwrap_or(0), Link::Open),
            _ => self.set_links(&Fault { direction: Direction::Both, ..fault.clone() }, Link::Open),
        }
    }

    /// Begins a join or a drain; waits for neither.
    pub async fn begin(&mut self, planned: &Planned) {
        match planned {
            Planned::Join(name) => self.join(name).await,
            Planned::Drain(name) => {
                let Some(member) = self.members.remove(name) else { return };
                member.process.sigterm();
                self.leaving.push(member.process);
                // Its links stay until the round ends.
                self.clients.push(member.links);
            }
        }
    }

    /// Notes processes that ended by themselves, and starts them again.
    pub async fn look_after(&mut self) {
        let exit = |member: &Member| member.process.exit_status();
        let ended: Vec<_> = self.members.iter().filter_map(|(name, m)| Some((name.clone(), exit(m)?))).collect();
        for (name, status) in ended {
            self.wrong.push(format!("{name} ended by itself: {status}"));
            self.join(&name).await;
        }
    }

    /// Waits until every node is ready and serves with the others all partitions; how long that took. It is wrong if it takes
    /// too long.
    pub async fn whole(&mut self) -> Duration {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < WHOLE_LIMIT {
            self.open_doors();
            match self.missing().await {
                Some(missing) => last = missing,
                None => return began.elapsed(),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.wrong.push(format!("not whole {WHOLE_LIMIT:?} after all was healed: {last}"));
        began.elapsed()
    }

    /// Who is not ready, and why; or which partitions are not served, as some node sees it.
    async fn missing(&self) -> Option<String> {
        let http = Http::with_limit(Duration::from_secs(2));
        let doors = self.doors.read().unwrap().clone();
        let count = self.members.keys().filter(|name| !is_writer(name)).count();
        if doors.len() < count {
            return Some(format!("{} of {count} nodes listen", doors.len()));
        }
        for (name, base) in doors {
            for path in ["/ready", "/health?scope=ring"] {
                match http.get(&format!("{base}{path}")).await {
                    Ok(answer) if answer.status == 200 => {}
                    Ok(answer) => return Some(format!("{name}: {path}: {} {}", answer.status, answer.text())),
                    Err(error) => return Some(format!("{name}: {error}")),
                }
            }
        }
        None
    }

    /// Waits until all that were asked to leave have left.
    pub async fn left(&mut self) {
        let began = Instant::now();
        for process in std::mem::take(&mut self.leaving) {
            while process.is_running() && began.elapsed() < LEAVE_LIMIT {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let code = process.exit_status().map(|status| status.code());
            if !code.flatten().is_some_and(|code| LEFT.contains(&code)) {
                self.wrong.push(format!("{} was asked to leave and ended with {code:?}", process.name));
            }
        }
    }

    /// Evictions of nodes to which nothing was done.
    pub fn unexplained<'a>(&self, evictions: &'a [Eviction]) -> Vec<&'a Eviction> {
        let explains = |reason: &Reason, eviction: &Eviction| {
            (reason.any || reason.nodes.contains(&eviction.node)) && (reason.from..=reason.to).contains(&eviction.at)
        };
        evictions.iter().filter(|eviction| !self.reasons.iter().any(|reason| explains(reason, eviction))).collect()
    }
}

fn directed(direction: Direction, link: Link) -> (Link, Link) {
    match direction {
        Direction::Both => (link, link),
        Direction::ToServer => (link, Link::Open),
        Direction::FromServer => (Link::Open, link),
    }
}

fn urls(links: &[Proxy]) -> String {
    links.iter().map(Proxy::url).collect::<Vec<_>>().join(",")
}
