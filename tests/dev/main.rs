//! `nats-ring dev` as a process: without a terminal, on a terminal, controlled from a second one, ended, and killed. What
//! it says is compared with what the ring and the process table say.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod terminal;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_nats-ring");
/// How long a start, a command or an end may take: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);

/// A running `dev`, and the folder in which it keeps its temporary files.
struct Dev {
    process: NodeProcess,
    temporary: TempDir,
}

impl Dev {
    /// On free ports, its NATS its own.
    fn start(more: &[&str]) -> Self {
        Self::start_at(&[&["--http-from", "0", "--nats-port", "0"], more].concat())
    }

    fn start_at(flags: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = dev_command(temporary.path());
        command.args(flags);
        Self { process: NodeProcess::spawn_command("dev", command), temporary }
    }

    /// Waits until all its nodes are ready; where its NATS is.
    async fn ready(&self) -> String {
        self.process.wait_log("Ctrl-C ends all", LIMIT).await;
        let line = self.process.wait_log("runs: NATS on ", LIMIT).await;
        line.split("NATS on ").nth(1).unwrap().split(". Logs").next().unwrap().to_owned()
    }

    /// Every process it started: nodes, server, keeper.
    fn children(&self) -> Vec<u32> {
        let listed = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        let pairs = text.lines().map(|line| line.split_whitespace().map(|n| n.parse().unwrap()).collect::<Vec<u32>>());
        pairs.filter(|pair| pair[1] == self.process.pid()).map(|pair| pair[0]).collect()
    }

    async fn assert_nothing_left(&self, children: &[u32]) {
        eventually(LIMIT, "no process is left", || async {
            let left: Vec<&u32> = children.iter().filter(|pid| lives(**pid)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        eventually(LIMIT, "no folder is left", || async {
            let left: Vec<_> = std::fs::read_dir(self.temporary.path()).unwrap().map(|e| e.unwrap().path()).collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
}

fn dev_command(temporary: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    // What a user may have set for something else.
    command.arg("dev").env("TMPDIR", temporary).env("NATS_RING_NATS", "nats://127.0.0.1:9");
    command
}

/// Whether the process runs: one that only waits for its parent to ask how it ended does not.
fn lives(pid: u32) -> bool {
    let listed = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = String::from_utf8(listed.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

/// A command from a second terminal: exit code, JSON answer, what it said on stderr.
fn ask(nats: &str, words: &[&str]) -> (i32, Value, String) {
    let asked = Command::new(PROGRAM).arg("dev").args(words).args(["--json", "--nats", nats]).output().unwrap();
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    (asked.status.code().unwrap(), serde_json::from_slice(&asked.stdout).unwrap_or_default(), said)
}

fn done(nats: &str, words: &[&str]) -> Value {
    let (code, answer, said) = ask(nats, words);
    assert!(code == 0 && answer["ok"] == true, "{words:?}: {code} {answer} {said}");
    answer
}

fn status(nats: &str) -> BTreeMap<String, Value> {
    let (code, answer, said) = ask(nats, &["status"]);
    assert_eq!(code, 0, "{said}");
    let nodes = answer["nodes"].as_array().unwrap();
    nodes.iter().map(|node| (node["node"].as_str().unwrap().to_owned(), node.clone())).collect()
}

/// How many partitions each node serves, as the node at this address says.
async fn held(http: &str) -> BTreeMap<String, usize> {
    let ring = Http::new().get(&format!("{http}/ring")).await.unwrap().json();
    let mut held = BTreeMap::new();
    for partition in ring["partitions"].as_array().unwrap().iter().filter(|p| p["state"] == "serving") {
        *held.entry(partition["owner"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    held
}

/// Waits until exactly these nodes hold all 64 partitions, as equally as can be.
async fn wait_shared(http: &str, nodes: &[&str]) {
    eventually(LIMIT, &format!("{nodes:?} share all partitions"), || async {
        let held = held(http).await;
        let (least, most) = (held.values().min().copied(), held.values().max().copied());
        let balanced = most.unwrap_or(0) <= least.unwrap_or(0) + 1 && held.values().sum::<usize>() == 64;
        if balanced && held.keys().eq(nodes.iter()) { Ok(()) } else { Err(held) }
    })
    .await;
}

fn text_of<'a>(node: &'a Value, field: &str) -> &'a str {
    node[field].as_str().unwrap_or_else(|| panic!("no {field}: {node}"))
}

#[tokio::test]
async fn nodes_are_spread_over_zones_and_term_ends_everything_it_started() {
    let dev = Dev::start(&["--nodes", "4", "--zones", "2"]);
    let nats = dev.ready().await;
    let nodes = status(&nats);
    let zones: Vec<&str> = nodes.values().map(|node| text_of(node, "zone")).collect();
    assert_eq!(zones, ["a", "b", "a", "b"]);
    assert!(nodes.values().all(|node| node["state"] == "ready" && node["partitions"] == 16), "{nodes:?}");
    wait_shared(text_of(&nodes["node-2"], "http"), &["node-1", "node-2", "node-3", "node-4"]).await;
    let children = dev.children();
    assert_eq!(children.len(), 4 + 2, "nodes, server and keeper");

    dev.process.sigterm();
    assert_eq!(dev.process.wait_exit(LIMIT).await, Some(0), "{}", dev.process.log());
    let log = dev.process.log();
    assert_eq!(log.matches(" ended (exit code 0)").count(), 4, "each drained: {log}");
    assert!(log.contains("all ended") && !log.contains('\u{1b}'), "no escape codes without a terminal: {log}");
    dev.assert_nothing_left(&children).await;
}

#[tokio::test]
async fn a_second_terminal_adds_stops_kills_and_restarts_nodes() {
    let dev = Dev::start(&["--nodes", "2"]);
    let nats = dev.ready().await;
    let first = text_of(&status(&nats)["node-1"], "http").to_owned();

    let added = done(&nats, &["add", "spare"]);
    assert_eq!(added["node"], "spare", "{added}");
    wait_shared(&first, &["node-1", "node-2", "spare"]).await;

    let stopped = done(&nats, &["stop", "node-2"]);
    assert!(text_of(&stopped, "message").contains("exit code 0"), "{stopped}");
    wait_shared(&first, &["node-1", "spare"]).await;
    assert_eq!(status(&nats)["node-2"]["state"], "ended");

    let pid = status(&nats)["spare"]["pid"].as_u64().unwrap();
    let killed = done(&nats, &["kill", "spare"]);
    assert!(text_of(&killed, "message").contains("killed") && !lives(u32::try_from(pid).unwrap()), "{killed}");
    wait_shared(&first, &["node-1"]).await;

    done(&nats, &["restart", "spare"]);
    let restarted = status(&nats)["spare"].clone();
    assert!(restarted["state"] == "ready" && restarted["pid"] != pid, "{restarted}");
    wait_shared(&first, &["node-1", "spare"]).await;
    let before = restarted["pid"].clone();
    done(&nats, &["restart", "spare"]);
    assert_ne!(status(&nats)["spare"]["pid"], before, "also one that runs is started anew");
    wait_shared(&first, &["node-1", "spare"]).await;

    let (code, answer, said) = ask(&nats, &["kill", "node-9"]);
    assert_eq!((code, answer["error"]["code"].as_str()), (10, Some("not_found")));
    assert!(said.contains("no node 'node-9'") && said.contains("node-1, node-2, spare"), "{said}");
    let (code, _, said) = ask(&nats, &["stop", "node-2"]);
    assert!(code == 2 && said.contains("'node-2' has ended already"), "{said}");
    let (code, _, said) = ask(&nats, &["add", "node-1"]);
    assert!(code == 2 && said.contains("a node 'node-1' already"), "{said}");
    dev.process.sigterm();
    assert_eq!(dev.process.wait_exit(LIMIT).await, Some(0), "{}", dev.process.log());
}

#[tokio::test]
async fn a_frozen_node_is_taken_over_and_comes_back_when_it_is_thawed() {
    let dev = Dev::start(&["--nodes", "2"]);
    let nats = dev.ready().await;
    let first = text_of(&status(&nats)["node-1"], "http").to_owned();
    done(&nats, &["freeze", "node-2"]);
    assert_eq!(status(&nats)["node-2"]["state"], "frozen");
    wait_shared(&first, &["node-1"]).await;
    dev.process.wait_log("all 64 partitions are served again", LIMIT).await;
    done(&nats, &["thaw", "node-2"]);
    wait_shared(&first, &["node-1", "node-2"]).await;
    // Frozen again, it still does not outlive the others.
    done(&nats, &["freeze", "node-2"]);
    let children = dev.children();
    dev.process.sigterm();
    assert_eq!(dev.process.wait_exit(LIMIT).await, Some(0), "{}", dev.process.log());
    dev.assert_nothing_left(&children).await;
}

#[tokio::test]
async fn killed_itself_it_leaves_no_process_and_no_folder_behind_not_even_a_frozen_node() {
    let dev = Dev::start(&["--nodes", "3"]);
    let nats = dev.ready().await;
    done(&nats, &["freeze", "node-3"]);
    let children = dev.children();
    assert_eq!(children.len(), 3 + 2);
    dev.process.kill9();
    dev.assert_nothing_left(&children).await;
}

#[tokio::test]
async fn a_node_that_dies_by_itself_is_shown_with_its_end_and_stays_dead() {
    let dev = Dev::start(&["--nodes", "2"]);
    let nats = dev.ready().await;
    let pid = status(&nats)["node-2"]["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    let line = dev.process.wait_log("node-2 ended", LIMIT).await;
    assert!(line.contains("node-2 ended (killed: ") && line.contains("INFO"), "with its last log line: {line}");
    dev.process.wait_log("all 64 partitions are served again", LIMIT).await;
    let node = status(&nats)["node-2"].clone();
    assert!(node["state"] == "ended" && node["pid"].is_null(), "{node}");
    wait_shared(text_of(&status(&nats)["node-1"], "http"), &["node-1"]).await;
}

/// Exit code and last line.
async fn refused(dev: &Dev) -> (i32, String) {
    let code = dev.process.wait_exit(REFUSAL_LIMIT).await.unwrap();
    let line = dev.process.wait_log("nats-ring: ", REFUSAL_LIMIT).await;
    dev.assert_nothing_left(&[]).await;
    (code, line)
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_told_and_nothing_is_left() {
    let dev = Dev::start(&["--nodes", "2", "--", "--lease", "1ms"]);
    let (code, line) = refused(&dev).await;
    assert!(code == 1 && line.contains("did not start (exit code 2: lease '1ms'"), "{code} {line}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, line) = refused(&Dev::start_at(&["--nodes", "1", "--http-from", &port])).await;
    assert!(code == 5 && line.contains(&format!("port {port} is taken")), "{code} {line}");

    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("nats-server");
    std::fs::write(&old, "#!/bin/sh\necho 'nats-server: v2.10.25'\n").unwrap();
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let mut command = dev_command(temporary.path());
    command.env("NATS_SERVER", &old);
    let dev = Dev { process: NodeProcess::spawn_command("dev", command), temporary };
    let (code, line) = refused(&dev).await;
    assert!(code == 3 && line.contains("2.10.25") && line.contains("2.11.0"), "{code} {line}");
}

#[tokio::test]
async fn a_taken_nats_port_is_left_alone_and_another_one_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let dev = Dev::start_at(&["--nodes", "1", "--http-from", "0", "--nats-port", &port.to_string()]);
    let nats = dev.ready().await;
    assert!(!nats.ends_with(&format!(":{port}")), "{nats}");
    dev.process.wait_log(&format!("port {port} is taken"), LIMIT).await;
    assert!(dev.process.log().contains(&format!("dev kill node-1 --nats {nats}")), "{}", dev.process.log());
}

#[tokio::test]
async fn on_a_nats_that_runs_already_only_the_nodes_are_its_own_and_there_is_one_dev_a_ring() {
    let server = NatsServer::start();
    let (code, _, said) = ask(&server.url(), &["status"]);
    assert!(code == 3 && said.contains("no 'nats-ring dev' answers for ring 'cache-platform'"), "{code} {said}");
    let flags = ["--nodes", "2", "--http-from", "0", "--nats", &server.url()];
    let dev = Dev::start_at(&flags);
    dev.ready().await;
    assert_eq!(status(&server.url()).len(), 2);
    let (code, line) = refused(&Dev::start_at(&flags)).await;
    assert!(code == 6 && line.contains("runs for ring 'cache-platform'"), "{code} {line}");
    dev.process.sigterm();
    assert_eq!(dev.process.wait_exit(LIMIT).await, Some(0), "{}", dev.process.log());
    // It is still there for others.
    server.connect().await;
    let (code, _, said) = ask("nats://me:s3cret@127.0.0.1:9", &["status"]);
    assert!(code == 3 && said.contains("nats://127.0.0.1:9") && !said.contains("s3cret"), "{code} {said}");
}

#[tokio::test]
async fn the_demo_holds_every_step_within_a_minute_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("demo").env("TMPDIR", temporary.path()).env("NATS_RING_LEASE", "nonsense");
    let dev = Dev { process: NodeProcess::spawn_command("demo", command), temporary };
    assert_eq!(dev.process.wait_exit(2 * LIMIT).await, Some(0), "{}", dev.process.log());
    let log = dev.process.log();
    for step in [
        "5 nodes in zones a and b",
        "320 entries set",
        "joined under load",
        "drained under load",
        "killed (kill -9)",
        "frozen (SIGSTOP)",
    ] {
        assert!(log.contains(step), "{step}: {log}");
    }
    assert_eq!(log.matches(" 0 failed").count(), 3, "{log}");
    let seconds = log.split("Every step held, in ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(seconds.unwrap() < 60.0, "{log}");
    dev.assert_nothing_left(&[]).await;
}

#[tokio::test]
async fn a_demo_whose_node_dies_says_which_step_did_not_hold() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("demo").env("TMPDIR", temporary.path());
    let dev = Dev { process: NodeProcess::spawn_command("demo", command), temporary };
    dev.process.wait_log("NATS ", LIMIT).await;
    let node = eventually(LIMIT, "node-4 runs", || async {
        dev.children().into_iter().find(|pid| arguments(*pid).contains("serve --node node-4 ")).ok_or("not yet")
    });
    let node = Pid::from_raw(node.await.cast_signed()).unwrap();
    kill_process(node, Signal::KILL).unwrap();
    let (code, line) = refused(&dev).await;
    assert!(
        code == 1 && line.contains("the demo failed: ") && line.contains("node-4 ended (killed: "),
        "{code} {line}"
    );
    assert!(!dev.process.log().contains("Every step held"), "{}", dev.process.log());
}

fn arguments(pid: u32) -> String {
    let listed = Command::new("ps").args(["-o", "args=", "-p", &pid.to_string()]).output().unwrap();
    String::from_utf8(listed.stdout).unwrap()
}
