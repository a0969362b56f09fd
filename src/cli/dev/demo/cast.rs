//! What runs while the story is told: a private server, the nodes, and a connection; waited for by what they say.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::dev::base::{Base, find_server, print};
use crate::cli::dev::board::{Board, Readings};
use crate::cli::dev::fleet::{Fleet, Ground};
use crate::cli::dev::http::Http;
use crate::cli::dev::member::State;
use crate::cli::dev::node::Recipe;
use crate::cli::dev::server::Server;
use crate::cli::exit::{Code, Failure};
use crate::cli::signals::Signals;
use crate::connect::{ConnectOptions, Connection};
use crate::rpc::nats::NatsBus;
use crate::types::{BootClock, Clock, Time};

/// The ring of the story.
pub(super) const RING: &str = "demo";
const ZONES: usize = 2;
/// How long a step's own wait may take: a machine may be busy.
const STEP_LIMIT: Duration = Duration::from_secs(30);
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Everything that runs.
pub(super) struct Cast {
    pub(super) fleet: Fleet,
    pub(super) board: Board,
    pub(super) http: Http,
    pub(super) bus: NatsBus,
    server: Server,
    base: Base,
    begin: Time,
}

impl Cast {
    /// Starts the server, no node yet.
    pub(super) async fn gather(logs: Option<PathBuf>) -> Result<Self, Failure> {
        let begin = BootClock.now();
        let (base, mut keeper) = Base::open(logs)?;
        let (found, port) = find_server(0).await?;
        let server = base.start_server(&found, port, &mut keeper).await?;
        let connection = Connection::open(&ConnectOptions::new([server.url.clone()])).await?;
        let recipe = Recipe {
            program: base.program.clone(),
            nats: server.url.clone(),
            ring: RING.to_owned(),
            forget: std::env::vars_os().map(|(name, _)| name).filter(is_setting).collect(),
            flags: Vec::new(),
        };
        let ground = Ground { recipe, zones: ZONES, http_from: 0, logs: base.logs.clone() };
        let cast = Self {
            fleet: Fleet::new(ground, keeper),
            board: Board::default(),
            http: Http::new(REQUEST_LIMIT),
            bus: NatsBus::new(connection),
            server,
            base,
            begin,
        };
        cast.say(&format!("NATS {} runs ({})", found.version, found.program.display()));
        Ok(cast)
    }

    /// A line with the time since the start.
    pub(super) fn say(&self, text: &str) {
        print(&format!("{:>6.1} s  {text}", BootClock.now().since(self.begin).as_secs_f64()));
    }

    /// Waits until `is_so`, hearing what happens meanwhile; says how things stand where it does not come about. A node that
    /// ends otherwise than as asked ends the wait.
    pub(super) async fn until(
        &mut self,
        what: &str,
        is_so: impl Fn(&Fleet, &Board) -> bool,
    ) -> Result<Duration, Failure> {
        let since = BootClock.now();
        while !is_so(&self.fleet, &self.board) {
            if let Some(failed) = self.fleet.members.iter().find(|member| member.failed) {
                let how = failed.state.detail().unwrap_or_default();
                return Err(self.failed(&format!("{what}: {} ended ({how})", failed.name)));
            }
            let left = STEP_LIMIT.saturating_sub(BootClock.now().since(since));
            let Ok(Some(event)) = tokio::time::timeout(left, self.fleet.next()).await else {
                return Err(self.failed(&format!("{what}: not within {STEP_LIMIT:?}; {}", self.standing())));
            };
            self.fleet.hear(event);
            let members = self.fleet.members.iter().filter(|member| member.process.is_some());
            let readings: Readings<'_> = members.map(|m| (m.name.as_str(), m.reading.as_ref())).collect();
            self.board.look(&readings, BootClock.now());
        }
        Ok(BootClock.now().since(since))
    }

    /// Each running node, its state and what it holds.
    fn standing(&self) -> String {
        let one = |m: &crate::cli::dev::member::Member| {
            format!("{} is {} with {} partitions", m.name, m.state.word(), self.board.held(&m.name))
        };
        let nodes: Vec<String> = self.fleet.members.iter().map(one).collect();
        format!("{}; {} of {} partitions served", nodes.join(", "), self.board.served(), self.board.cells.len())
    }

    /// Why the story ends here.
    pub(super) fn failed(&self, what: &str) -> Failure {
        let logs = if self.base.keeps_logs {
            format!("see {}", self.base.logs.display())
        } else {
            "run it again with --logs FOLDER to keep the logs".to_owned()
        };
        Failure::new(Code::Internal, format!("the demo failed: {what}; {logs}"))
    }

    /// Addresses of the nodes that run, but for this one.
    pub(super) fn addresses(&self, without: Option<usize>) -> Vec<SocketAddr> {
        let members = self.fleet.members.iter().enumerate();
        let runs = members.filter(|(at, member)| member.state == State::Ready && Some(*at) != without);
        runs.filter_map(|(_, member)| member.address).collect()
    }

    /// How many partitions each running node holds.
    pub(super) fn shares(&self) -> Vec<usize> {
        let runs = self.fleet.members.iter().filter(|member| member.process.is_some());
        runs.map(|member| self.board.held(&member.name)).collect()
    }

    /// Ends everything; how long the whole story took.
    pub(super) async fn end(mut self, signals: &mut Signals) -> Result<f64, Failure> {
        let hurry = async {
            signals.next().await;
        };
        self.fleet.end(hurry, |_| ()).await;
        let failed = self.fleet.members.iter().find(|member| member.failed);
        let ended = failed.map(|member| {
            let how = member.state.detail().unwrap_or_default();
            self.failed(&format!("{} did not end in order ({how})", member.name))
        });
        let Self { server, base, begin, .. } = self;
        server.end().await;
        drop(base);
        let seconds = BootClock.now().since(begin).as_secs_f64();
        if ended.is_none() {
            let text = "all nodes drained and ended with exit code 0, then the NATS server; nothing is left behind";
            print(&format!("{seconds:>6.1} s  {text}"));
        }
        ended.map_or(Ok(seconds), Err)
    }
}

/// The story's nodes have the defaults, whatever is set here.
fn is_setting(name: &std::ffi::OsString) -> bool {
    name.to_string_lossy().starts_with("NATS_RING_")
}
