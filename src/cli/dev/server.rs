//! The private NATS server: found, checked, started on a free port, ended.
//!
//! In: a port that would be nice, a folder for its files. Out: its URL once it is ready.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::logs;
use crate::cli::exit::{Code, Failure};
use crate::connect::check_version;

/// Names the server to start.
const VARIABLE: &str = "NATS_SERVER";
const PROGRAM: &str = "nats-server";
/// Where `nats/install.sh` puts one.
const INSTALLED: &str = "nats/.bin";
/// How far apart the ports are that are tried one after the other.
const PORT_STEP: u16 = 100;
const VERSION_LIMIT: Duration = Duration::from_secs(10);
const READY_LIMIT: Duration = Duration::from_secs(20);
const END_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A program that will do.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) program: PathBuf,
    pub(super) version: String,
}

/// A running server.
pub(super) struct Server {
    child: Child,
    pub(super) pid: u32,
    pub(super) url: String,
    pub(super) log: PathBuf,
}

/// Finds a server: the one that is named, else the first of PATH and `nats/.bin` that is new enough.
pub(super) async fn find() -> Result<Found, Failure> {
    let mut refused = String::new();
    for program in candidates() {
        match version(&program).await {
            Ok(version) => return Ok(Found { program, version }),
            Err(reason) => drop(write!(refused, " ({}: {reason})", program.display())),
        }
    }
    let message = format!(
        "no usable {PROGRAM} on PATH or in {INSTALLED}{refused}: run nats/install.sh, name one with {VARIABLE}, or use a \
         NATS that runs with --nats"
    );
    Err(Failure::new(Code::Nats, message))
}

fn candidates() -> Vec<PathBuf> {
    if let Some(named) = env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        return vec![named.into()];
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from(INSTALLED)]);
    folders.map(|folder| folder.join(PROGRAM)).filter(|program| program.is_file()).collect()
}

/// What it says of itself, or why it cannot be used.
async fn version(program: &Path) -> Result<String, String> {
    let asked = Command::new(program).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let said = timeout(VERSION_LIMIT, asked).await.map_err(|_| "--version did not end".to_owned())?;
    let said = said.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = parse_version(&text).ok_or_else(|| format!("--version says '{}'", text.trim()))?;
    check_version(version).map_err(|error| error.to_string())?;
    Ok(version.to_owned())
}

/// `nats-server: v2.15.1` → `2.15.1`.
fn parse_version(said: &str) -> Option<&str> {
    let version = said.trim().rsplit(' ').next()?.trim_start_matches('v');
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

/// The port asked for, or the next free one of that plus 100, 200, …; 0 stays 0: the server picks.
pub(super) fn choose_port(asked: u16) -> Result<u16, Failure> {
    let mut candidates = (0..).map_while(|step: u16| asked.checked_add(step.checked_mul(PORT_STEP)?));
    candidates.find(|port| *port == 0 || is_free(*port)).ok_or_else(|| {
        let message =
            format!("no free port for NATS: {asked} and every hundredth above are taken: name one with --nats-port");
        Failure::new(Code::Nats, message)
    })
}

/// Whether nobody listens there and this process could.
pub(super) fn is_free(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A frozen process keeps its subscriptions until the server gives up on it: after 6 s here, as in the files of
/// `nats/`. The store goes with the folder: nothing waits for the disk.
fn configuration(port: u16, store: &Path) -> String {
    let port = if port == 0 { "-1".to_owned() } else { port.to_string() };
    format!(
        "server_name: \"nats-ring-dev\"\nlisten: \"127.0.0.1:{port}\"\nping_interval: \"2s\"\nping_max: 2\n\
         jetstream {{ store_dir: {store:?} }}\n"
    )
}

impl Server {
    /// Starts it; waits for nothing, so that the keeper can be told of it first.
    pub(super) fn spawn(found: &Found, port: u16, folder: &Path, log: PathBuf) -> Result<Self, Failure> {
        let fail = |error: std::io::Error| Failure::internal("nats-server cannot be started", error);
        let file = folder.join("nats.conf");
        fs::write(&file, configuration(port, &folder.join("jetstream"))).map_err(fail)?;
        let output = File::create(&log).map_err(fail)?;
        let mut command = Command::new(&found.program);
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(output.try_clone().map_err(fail)?).stderr(output);
        // A group of its own: Ctrl-C reaches `dev` alone, and nodes drain while NATS still runs.
        let child = command.process_group(0).kill_on_drop(true).spawn().map_err(fail)?;
        let pid = child.id().unwrap_or_default();
        Ok(Self { child, pid, url: String::new(), log })
    }

    /// Waits until clients can connect.
    pub(super) async fn wait_ready(&mut self) -> Result<(), Failure> {
        let log = self.log.clone();
        let ready = async {
            loop {
                let text = logs::since(&log, 0);
                if let (Some(port), true) = (listening_port(&text), text.contains("Server is ready")) {
                    return port;
                }
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            ended = self.child.wait() => Err(Failure::new(Code::Nats, self.epitaph(&ended))),
            port = timeout(READY_LIMIT, ready) => match port {
                Ok(port) => {
                    self.url = format!("nats://127.0.0.1:{port}");
                    Ok(())
                }
                Err(_) => {
                    let last = logs::last_line(&log);
                    Err(Failure::new(Code::Nats, format!("nats-server is not ready within {READY_LIMIT:?}: {last}")))
                }
            },
        }
    }

    /// Waits until it has ended, which it should not; says why.
    pub(super) async fn ended(&mut self) -> String {
        let ended = self.child.wait().await;
        self.epitaph(&ended)
    }

    fn epitaph(&self, ended: &std::io::Result<ExitStatus>) -> String {
        let how = ended.as_ref().map_or_else(ToString::to_string, ToString::to_string);
        format!("nats-server ended ({how}): {}", logs::last_line(&self.log))
    }

    /// Ends it.
    pub(super) async fn end(mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(END_LIMIT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// The port in `Listening for client connections on 127.0.0.1:4222`.
fn listening_port(log: &str) -> Option<u16> {
    let (_, after) = log.split_once("Listening for client connections on ")?;
    after.lines().next()?.trim().rsplit(':').next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_follows_the_name() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some("2.15.1"));
        assert_eq!(parse_version("nats-server: v2.12.0-RC.3"), Some("2.12.0-RC.3"));
        assert_eq!(parse_version("command not found"), None);
    }

    #[test]
    fn the_port_is_the_one_in_the_log() {
        let log = "[1] [INF] Starting\n[1] [INF] Listening for client connections on 127.0.0.1:41234\n[1] x\n";
        assert_eq!(listening_port(log), Some(41234));
        assert_eq!(listening_port("[1] [INF] Starting"), None);
    }

    #[test]
    fn a_taken_port_is_passed_over_and_none_asked_for_is_left_to_the_server() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        if let Ok(chosen) = choose_port(port) {
            assert!(chosen > port && (chosen - port).is_multiple_of(PORT_STEP), "{chosen} for {port}");
        }
        assert_eq!(choose_port(0).unwrap(), 0);
    }

    #[test]
    fn the_configuration_gives_up_on_a_frozen_client_after_six_seconds() {
        let text = configuration(0, Path::new("/tmp/x y"));
        for line in ["listen: \"127.0.0.1:-1\"", "ping_interval: \"2s\"", "ping_max: 2", "store_dir: \"/tmp/x y\""] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
