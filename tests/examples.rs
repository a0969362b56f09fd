//! Every example runs as its header says, against a real server, and shows what it promises.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(90);

/// Where cargo puts an example, which it builds along with all tests.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(built.is_file(), "{} is not there: cargo build --example {name}", built.display());
    built
}

fn spawn(name: &str, server: &NatsServer, more: &[&str]) -> NodeProcess {
    let mut command = Command::new(program(name));
    command.arg(server.url()).args(more).env_remove("RUST_LOG");
    NodeProcess::spawn_command(name, command)
}

/// Runs an example to its end; what it printed, once that contains its last line. Fails where it fails.
async fn run(name: &str, server: &NatsServer, last: &str) -> String {
    let example = spawn(name, server, &[]);
    assert_eq!(example.wait_exit(LIMIT).await, Some(0), "{name}:\n{}", example.log());
    example.wait_log(last, LIMIT).await;
    example.log()
}

fn assert_shows(output: &str, expected: &[&str]) {
    for text in expected {
        assert!(output.contains(text), "{text:?} is not in:\n{output}");
    }
}

#[tokio::test]
async fn counter_counts_every_increment_through_a_join_and_a_leave() {
    let server = NatsServer::start();
    let counted = "3300 increments acknowledged, 3300 counted";
    let output = run("counter", &server, counted).await;
    assert_shows(&output, &["300 increments from node-1", "node-3 came, node-1 left; "]);
    // The header's command can be given again: what the nodes left behind is in nobody's way.
    run("counter", &server, counted).await;
}

#[tokio::test]
async fn three_nodes_embedded_finds_every_key_after_one_node_has_left() {
    let server = NatsServer::start();
    let output = run("three_nodes_embedded", &server, "500 of 500 keys found").await;
    assert_shows(&output, &["partitions: node-1 2", ", node-2 2", ", node-3 2", "500 keys set through node-1"]);
    assert_shows(&output, &["node-2 has left; partitions: node-1 32, node-3 32"]);
}

#[tokio::test]
async fn sharded_worker_runs_each_job_once_and_at_both_nodes() {
    let server = NatsServer::start();
    let output = run("sharded_worker", &server, "600 jobs, each once: ").await;
    assert_shows(&output, &["node-1 has left", "each once: node-1 ran ", ", node-2 ran "]);
}

#[tokio::test]
async fn external_store_shows_the_stale_write_that_the_database_refused() {
    let server = NatsServer::start();
    let output = run("external_store", &server, "the balance is 200").await;
    assert_shows(&output, &["node-1: balance 100 at epoch ", ": written", "node-1 froze", "outcome unknown"]);
    assert_shows(
        &output,
        &["node-2 took over: balance 200 at epoch ", "node-1 woke up and went on: balance 50 at epoch "],
    );
    assert_shows(&output, &[": REFUSED by the store"]);
}

#[tokio::test]
async fn client_starts_a_node_only_where_nobody_serves_the_ring() {
    let server = NatsServer::start();
    let alone = run("client", &server, "example-node has \"value of user:3\"").await;
    assert_shows(&alone, &["there is no ring 'cache-platform'", "started a node"]);
    let again = run("client", &server, "example-node has \"value of user:3\"").await;
    assert_shows(&again, &["started a node"]);
    assert!(!again.contains("there is no ring"), "{again}");

    let node = NodeProcess::spawn("served", &server.url(), &[]);
    node.wait_ready(LIMIT).await;
    let health = node.url("/health?scope=ring").await;
    eventually(LIMIT, "every partition is served", || async {
        let answer = Http::new().get(&health).await;
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) { Ok(()) } else { Err(answer) }
    })
    .await;
    let output = run("client", &server, "served has \"value of user:3\"").await;
    assert!(!output.contains("started a node"), "{output}");
}

#[tokio::test]
async fn cache_http_serves_its_own_routes_and_the_caches_and_drains_on_ctrl_c() {
    let server = NatsServer::start();
    let example = spawn("cache_http", &server, &["127.0.0.1:0"]);
    let line = example.wait_log("listening on ", LIMIT).await;
    let base = line.strip_prefix("listening on ").unwrap();
    let http = Http::new();
    for from_cache in [false, true] {
        let answer = http.get(&format!("{base}/square/12")).await.unwrap();
        let expected = serde_json::json!({ "number": 12, "square": 144, "from_cache": from_cache });
        assert_eq!((answer.status, answer.json()), (200, expected));
    }
    let entry = http.get(&format!("{base}/cache/get?key=square:12")).await.unwrap().json();
    assert_eq!(entry["value"], 144);
    let owner = http.get(&format!("{base}/cache/owner?key=square:12")).await.unwrap().json();
    assert_eq!(owner["is_local"], true, "{owner}");
    for line in ["nats_ring_owned_partitions 64", "nats_ring_epoch_changes_total 64"] {
        eventually(LIMIT, line, || async {
            let metrics = http.get(&format!("{base}/cache/metrics")).await?.text();
            if metrics.lines().any(|found| found == line) { Ok(()) } else { Err(metrics) }
        })
        .await;
    }

    kill_process(Pid::from_raw(i32::try_from(example.pid()).unwrap()).unwrap(), Signal::INT).unwrap();
    assert_eq!(example.wait_exit(LIMIT).await, Some(0));
    example.wait_log("drained", LIMIT).await;
}

#[test]
fn every_example_says_its_command_and_is_listed_in_the_readme() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(root.join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let names: BTreeSet<String> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let here = ["cache_http", "client", "counter", "external_store", "sharded_worker", "three_nodes_embedded"];
    // That one takes part in tests/faults only.
    let expected: BTreeSet<String> = here.iter().chain(&["fenced_writer"]).map(|name| (*name).to_owned()).collect();
    assert_eq!(names, expected, "an example that no test here runs");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    for name in names {
        let text = std::fs::read_to_string(root.join(format!("examples/{name}.rs"))).unwrap();
        let head = text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
        assert!(head.contains(&format!("cargo run --example {name}")), "{name} does not say its command");
        assert!(
            name == "fenced_writer" || readme.contains(&format!("examples/{name}.rs")),
            "{name} is not in the README"
        );
    }
}
