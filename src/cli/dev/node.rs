//! One node as a child process: started, followed, signalled; its end is told once.
//!
//! In: how to start it, signals. Out: [`NodeEvent`]s. One task owns the process, so that a signal can never go to another
//! process that got the number of one which has ended.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::http::Http;
use super::logs;
use super::reading::{self, Reading};

/// How often a node is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How often its log is read until it says where it listens.
const ADDRESS_EVERY: Duration = Duration::from_millis(30);
/// Signals that may wait for the task that sends them.
const SIGNALS_MAX: usize = 16;

/// What happened to the process with this life number.
#[derive(Debug)]
pub(super) struct NodeEvent {
    pub(super) node: String,
    pub(super) life: u64,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Listens(SocketAddr),
    Seen(Box<Result<Reading, String>>),
    Ended(Option<ExitStatus>),
}

/// How to start a node.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub(super) program: PathBuf,
    pub(super) nats: String,
    pub(super) ring: String,
    /// Variables it does not get.
    pub(super) forget: Vec<OsString>,
    pub(super) flags: Vec<String>,
}

/// A process; dropping it kills it.
pub(super) struct Process {
    pub(super) pid: u32,
    signals: mpsc::Sender<Signal>,
    _owner: AbortOnDropHandle<()>,
    _looks: AbortOnDropHandle<()>,
}

/// Which process of which node, and where it tells what happens to it.
#[derive(Clone)]
pub(super) struct Teller {
    pub(super) node: String,
    pub(super) life: u64,
    pub(super) events: mpsc::Sender<NodeEvent>,
}

impl Teller {
    async fn tell(&self, what: What) {
        // Nobody listens any more once everything ends.
        let _ = self.events.send(NodeEvent { node: self.node.clone(), life: self.life, what }).await;
    }
}

impl Process {
    /// Starts a node; `port` 0: a free one, which its log then names.
    pub(super) fn spawn(
        recipe: &Recipe,
        zone: &str,
        port: u16,
        log: &Path,
        http: Http,
        teller: Teller,
    ) -> std::io::Result<Self> {
        let from = logs::length(log);
        let mut child = command(recipe, &teller.node, zone, port, log)?.spawn()?;
        let pid = child.id().unwrap_or_default();
        let (signals, mut wanted) = mpsc::channel(SIGNALS_MAX);
        let told = teller.clone();
        let owner = tokio::spawn(async move {
            let status = until_ended(&mut child, pid, &mut wanted).await;
            told.tell(What::Ended(status)).await;
        });
        let known = (port != 0).then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let looks = tokio::spawn(follow(http, known, log.to_owned(), from, teller));
        Ok(Self { pid, signals, _owner: AbortOnDropHandle::new(owner), _looks: AbortOnDropHandle::new(looks) })
    }

    /// Sends a signal, if the process still lives.
    pub(super) fn signal(&self, signal: Signal) {
        // A full queue has the same signals in it.
        let _ = self.signals.try_send(signal);
    }
}

fn command(recipe: &Recipe, node: &str, zone: &str, port: u16, log: &Path) -> std::io::Result<Command> {
    let output = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new(&recipe.program);
    command.args(["serve", "--node", node, "--zone", zone, "--http", &format!(":{port}")]);
    command.args(["--nats", &recipe.nats, "--platform", &recipe.ring]).args(&recipe.flags);
    for variable in &recipe.forget {
        command.env_remove(variable);
    }
    if port == 0 {
        // The line with the address must not be filtered out.
        command.env_remove("RUST_LOG");
    }
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // A group of its own: Ctrl-C reaches `dev` alone, which ends the nodes in order.
    command.process_group(0).kill_on_drop(true);
    Ok(command)
}

async fn until_ended(child: &mut Child, pid: u32, wanted: &mut mpsc::Receiver<Signal>) -> Option<ExitStatus> {
    let process = Pid::from_raw(pid.cast_signed());
    loop {
        tokio::select! {
            status = child.wait() => return status.ok(),
            Some(signal) = wanted.recv() => {
                if let Some(process) = process {
                    let _ = kill_process(process, signal);
                }
            }
        }
    }
}

/// Finds out where the node listens, then looks at it again and again.
async fn follow(http: Http, known: Option<SocketAddr>, log: PathBuf, from: u64, teller: Teller) {
    let address = loop {
        if let Some(address) = known.or_else(|| logs::listening_address(&logs::since(&log, from))) {
            break address;
        }
        sleep(ADDRESS_EVERY).await;
    };
    teller.tell(What::Listens(address)).await;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        teller.tell(What::Seen(Box::new(reading::take(&http, address).await))).await;
    }
}
