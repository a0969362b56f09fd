//! What the log says while the network misbehaves, and while somebody sends garbage: enough, and not more.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::eventually::eventually;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use common::proxy::{Link, Proxy};

const LIMIT: Duration = Duration::from_secs(40);
/// Long enough for eighty attempts to connect.
const CUT: Duration = Duration::from_secs(4);

fn lines_with<'a>(log: &'a str, text: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(text)).collect()
}

/// A node whose log shows what `RUST_LOG` asks for.
fn node(nats: &str, rust_log: &str) -> NodeProcess {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
    command.args(["--node", "node-1", "--http", ":0", "--lease", "1s", "--nats", nats]).env("RUST_LOG", rust_log);
    NodeProcess::spawn_command("node-1", command)
}

/// How many lines are logged while the link is cut, and when it is back.
async fn lines_while_cut(rust_log: &str) -> String {
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    let node = node(&proxy.url(), rust_log);
    node.wait_ready(LIMIT).await;
    let before = node.log().lines().count();
    proxy.set(Link::Cut);
    node.wait_log("connection to NATS lost", LIMIT).await;
    tokio::time::sleep(CUT).await;
    proxy.set(Link::Open);
    node.wait_log("connection to NATS is back", LIMIT).await;
    node.wait_ready(LIMIT).await;
    // The other connection may be back a moment later.
    let back = |log: &str| lines_with(log, "connection to NATS is back").len();
    eventually(LIMIT, "both connections are back", || async {
        let log = node.log();
        if back(&log) == 2 { Ok(()) } else { Err(log) }
    })
    .await;
    node.log().lines().skip(before).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_cut_link_is_told_once_for_each_connection_when_it_goes_and_when_it_is_back() {
    for rust_log in ["", "info"] {
        let log = lines_while_cut(rust_log).await;
        assert_eq!(lines_with(&log, "connection to NATS lost").len(), 2, "RUST_LOG={rust_log}\n{log}");
        assert_eq!(lines_with(&log, "async_nats").len(), 0, "RUST_LOG={rust_log}\n{log}");
        assert!(log.lines().count() < 30, "RUST_LOG={rust_log}\n{log}");
    }
}

#[tokio::test]
async fn who_names_the_clients_attempts_sees_them() {
    let log = lines_while_cut("info,async_nats::connector=error").await;
    assert!(lines_with(&log, "expected INFO, got nothing").len() > 10, "{log}");
}

#[tokio::test]
async fn garbage_from_whoever_may_publish_to_a_node_costs_a_line_now_and_then() {
    let server = NatsServer::start();
    let node = node(&server.url(), "info");
    node.wait_ready(LIMIT).await;
    let acquired = node.wait_log("lease acquired", LIMIT).await;
    let (_, incarnation) = acquired.split_once("incarnation=").unwrap();
    let own = format!("cache-platform.node.node-1.{}", incarnation.trim());
    let client = async_nats::connect(server.url()).await.unwrap();
    let started = Instant::now();
    for _ in 0..300 {
        client.publish(format!("{own}.call"), "garbage".into()).await.unwrap();
    }
    // Read in order: once this is answered, all of it has been read.
    client.request(format!("{own}.chunk"), "last".into()).await.unwrap();
    // What was logged reaches this process a moment later.
    node.wait_log("not understood", LIMIT).await;
    let log = node.log();
    let told = lines_with(&log, "not understood").len();
    let most = 1 + usize::try_from(started.elapsed().as_secs() / 10).unwrap();
    assert!((1..=most).contains(&told), "{told} lines\n{log}");
}
