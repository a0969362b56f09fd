//! A node as a process of its own: the built program, started with a free HTTP port, watched, signalled and ended.
//!
//! In: a name, the NATS servers, further arguments. Out: where its HTTP listens (read from its log line
//! `http listening address=…`), its readiness, its exit code; on a failed test the last lines of its log.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stderr)] // shared by tests: none uses all of it

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use super::eventually::eventually;
use super::http::Http;

/// How many log lines are kept for a failing test.
const LOG_LINES: usize = 400;
/// How long a process may take to open its HTTP port once it was started.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to read what an ended process said, and its own processes with it.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// What a process said.
struct Log {
    last: Mutex<VecDeque<String>>,
    file: Option<File>,
}

impl Log {
    fn add(&self, line: String) {
        if let Some(mut file) = self.file.as_ref() {
            // A full disk costs the log, not the test.
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
        let mut last = self.last.lock().unwrap();
        if last.len() == LOG_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
}

/// A running node. Dropping it kills the process, frozen or not.
pub struct NodeProcess {
    pub name: String,
    child: Mutex<Child>,
    pid: Pid,
    log: Arc<Log>,
    readers: [JoinHandle<()>; 2],
    listening: watch::Receiver<Option<SocketAddr>>,
}

impl NodeProcess {
    /// Starts the program; waits for nothing. `nats` is what `--nats` takes: servers, comma-separated.
    pub fn spawn(name: &str, nats: &str, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
        command.args(["--node", name, "--nats", nats, "--http", ":0"]).args(more);
        Self::spawn_command(name, command)
    }

    /// Starts any command line of the program under this harness.
    pub fn spawn_command(name: &str, command: Command) -> Self {
        Self::spawn_logging(name, command, None)
    }

    /// The same; all it logs is kept in this file as well.
    pub fn spawn_logging(name: &str, mut command: Command, file: Option<&Path>) -> Self {
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let file = file.map(|file| OpenOptions::new().create(true).append(true).open(file).unwrap());
        let log = Arc::new(Log { last: Mutex::new(VecDeque::new()), file });
        let (found, listening) = watch::channel(None);
        let found = Arc::new(found);
        let readers = [
            follow(child.stdout.take().unwrap(), log.clone(), found.clone()),
            follow(child.stderr.take().unwrap(), log.clone(), found),
        ];
        let pid = Pid::from_child(&child);
        Self { name: name.to_owned(), child: Mutex::new(child), pid, log, readers, listening }
    }

    /// Where its HTTP listens, as soon as it says so.
    pub async fn address(&self) -> SocketAddr {
        let mut listening = self.listening.clone();
        let said = tokio::time::timeout(LISTEN_LIMIT, listening.wait_for(Option::is_some)).await;
        match said {
            Ok(Ok(address)) => (*address).unwrap(),
            _ => panic!("{} does not listen (exit: {:?}); its log:\n{}", self.name, self.exit_status(), self.log()),
        }
    }

    /// Where its HTTP listens, if it has said so by now.
    pub fn known_address(&self) -> Option<SocketAddr> {
        *self.listening.borrow()
    }

    /// `http://ADDRESS` followed by `path`, which begins with a slash.
    pub async fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address().await)
    }

    /// Waits until `/ready` answers 200; says the reason given last where it does not.
    pub async fn wait_ready(&self, limit: Duration) {
        let url = self.url("/ready").await;
        let http = Http::with_limit(Duration::from_secs(2));
        let what = format!("{} is ready", self.name);
        eventually(limit, &what, || async {
            let answer = http.get(&url).await?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
        })
        .await;
    }

    /// Waits until the process has ended and its last words are in the log; its exit code, or `None` where a signal
    /// ended it.
    pub async fn wait_exit(&self, limit: Duration) -> Option<i32> {
        let what = format!("{} has ended", self.name);
        let status = eventually(limit, &what, || async { self.exit_status().ok_or("still running") }).await;
        // What it wrote is in the pipes still, until they are read to their ends.
        let read = || async { self.readers.iter().all(JoinHandle::is_finished).then_some(()).ok_or("not read yet") };
        eventually(READ_LIMIT, &format!("all that {} said is read", self.name), read).await;
        status.code()
    }

    /// Whether the process has not ended yet.
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// Asks it to drain and end.
    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// As Ctrl-C does: examples end by that.
    pub fn sigint(&self) {
        self.signal(Signal::INT);
    }

    /// Ends it without a word.
    pub fn kill9(&self) {
        self.signal(Signal::KILL);
        let _ = self.child.lock().unwrap().wait();
    }

    /// Freezes it.
    pub fn sigstop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The last lines it logged.
    pub fn log(&self) -> String {
        self.log.last.lock().unwrap().iter().cloned().collect::<Vec<_>>().join("\n")
    }

    /// Waits until it has logged a line that contains `text`; gives the line.
    pub async fn wait_log(&self, text: &str, limit: Duration) -> String {
        let what = format!("{} logs '{text}'", self.name);
        eventually(limit, &what, || async {
            let log = self.log.last.lock().unwrap();
            log.iter().find(|line| line.contains(text)).cloned().ok_or("not logged")
        })
        .await
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().try_wait().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap_or_else(|e| panic!("{}: {signal:?}: {e}", self.name));
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("---- last log lines of {}\n{}\n----", self.name, self.log());
        }
    }
}

/// Keeps the last lines of one of the process's outputs, and finds the address in them.
fn follow(
    output: impl Read + Send + 'static,
    log: Arc<Log>,
    found: Arc<watch::Sender<Option<SocketAddr>>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(address) = listening_address(&line) {
                found.send_replace(Some(address));
            }
            log.add(line);
        }
    })
}

/// The address in a line such as `… INFO http listening address=127.0.0.1:40123`.
fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("http listening")?;
    let address = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '[' | ']');
    after.split(|c| !address(c)).find_map(|word| word.parse().ok())
}

#[test]
fn the_address_is_found_in_the_log_line() {
    let port = |line: &str| listening_address(line).map(|a| a.port());
    assert_eq!(port("2026-01-01T10:00:00.1Z  INFO nats_ring: http listening address=127.0.0.1:40123"), Some(40123));
    assert_eq!(port(r#"{"message":"http listening","address":"[::1]:8081"}"#), Some(8081));
    assert_eq!(port("INFO nats connected address=127.0.0.1:4222"), None);
}
