//! The built program against real servers: what keeps it from starting, how it says so, and how it ends when asked.
//!
//! Every refusal is looked at as a script and a person would: the exit code, and the last line on stderr.
#![allow(clippy::unwrap_used)]

mod common;

use common::{eventually, node};

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use common::nats_server::{NatsServer, ServerOptions};
use eventually::eventually;
use futures::StreamExt;
use nats_ring::connect::Connection;
use nats_ring::coord::nats::NatsStore;
use nats_ring::coord::{Key, Record, Store, WatchItem, WatchScope};
use nats_ring::types::RingName;
use node::NodeProcess;

const RING: &str = "cache-platform";
/// How long a refusal may take that needs no waiting: the machine may be busy with other tests.
const REFUSAL_LIMIT: Duration = Duration::from_secs(20);
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// A node with these arguments alone.
fn program(arguments: &[&str]) -> NodeProcess {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
    command.args(arguments);
    NodeProcess::spawn_command("refused", command)
}

/// Waits until the program has ended by itself: exit code, and the line it ended with.
async fn ended(node: &NodeProcess) -> (i32, String) {
    let code = node.wait_exit(REFUSAL_LIMIT).await.unwrap();
    let line = node.wait_log("nats-ring: ", REFUSAL_LIMIT).await;
    assert_eq!(node.log().lines().last(), Some(line.as_str()), "the reason is the last line");
    (code, line)
}

/// Asserts that the program ends with this code, and that its last line holds all of `says`.
async fn assert_refused(node: &NodeProcess, code: i32, says: &[&str]) {
    let (found, line) = ended(node).await;
    assert_eq!(found, code, "{}", node.log());
    for text in says {
        assert!(line.contains(text), "'{text}' is not in: {line}");
    }
}

/// How many partitions each node holds, as the ring's bucket says.
async fn held(connection: &Connection) -> BTreeMap<String, usize> {
    let store = NatsStore::open(connection, &RingName::new(RING).unwrap(), None).await.unwrap();
    let Some(WatchItem::Snapshot(entries)) = store.watch(WatchScope::Ring).await.unwrap().next().await else {
        panic!("the watch does not begin with a snapshot");
    };
    let mut held = BTreeMap::new();
    for entry in entries {
        let (Some(key @ Key::Own(_)), Some(value)) = (Key::parse(&entry.key), entry.value) else { continue };
        let Record::Own(claim) = Record::decode(&key, &value).unwrap() else { panic!("{key:?} is no claim") };
        if let Some(owner) = claim.holder() {
            *held.entry(owner.node.to_string()).or_default() += 1;
        }
    }
    held
}

async fn wait_held(connection: &Connection, nodes: &[(&str, usize)]) {
    let wanted: BTreeMap<String, usize> = nodes.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect();
    eventually(SETTLE_LIMIT, &format!("partitions are held as {wanted:?}"), || async {
        let held = held(connection).await;
        if held == wanted { Ok(()) } else { Err(held) }
    })
    .await;
}

/// A server that greets as `version` and answers pings, and nothing else.
fn pretender(version: &str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let info = format!(
        "INFO {{\"server_id\":\"OLD\",\"server_name\":\"old\",\"version\":\"{version}\",\"proto\":1,\"host\":\"127.0.0.1\",\
         \"port\":{port},\"headers\":true,\"max_payload\":1048576,\"jetstream\":true}}\r\n"
    );
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let info = info.clone();
            std::thread::spawn(move || greet(&client, &info));
        }
    });
    port
}

fn greet(mut client: &TcpStream, info: &str) {
    let _ = client.write_all(info.as_bytes());
    for line in BufReader::new(client).lines().map_while(Result::ok) {
        if line.starts_with("PING") {
            let _ = client.write_all(b"PONG\r\n");
        }
    }
}

#[tokio::test]
async fn names_that_are_not_one_subject_token_and_no_partitions_are_refused_before_anything_is_tried() {
    for (flag, value, hint) in [
        ("--node", "a.b", "one token"),
        ("--node", "*", "one token"),
        ("--platform", "my ring", "one token"),
        ("--platform", "", "one token"),
        ("--partitions", "0", "1 to 4096"),
    ] {
        let node = program(&[flag, value]);
        assert_refused(&node, 2, &[&flag[2..], value, hint]).await;
    }
}

#[tokio::test]
async fn an_unknown_flag_and_an_unknown_key_of_the_file_are_named() {
    assert_refused(&program(&["--nodes", "a"]), 2, &["--nodes", "see nats-ring --help"]).await;
    let before = program(&["--nats", "nats://localhost:4222", "status"]);
    assert_refused(&before, 2, &["'status'", "flags stand behind the command"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ring.toml");
    std::fs::write(&file, "node = \"a\"\nmemroy = \"1GiB\"\n").unwrap();
    assert_refused(&program(&["--config", file.to_str().unwrap()]), 2, &["ring.toml", "memroy", "memory"]).await;
}

#[tokio::test]
async fn urls_and_key_files_that_cannot_be_used_are_usage_errors() {
    let http = ["--http", ":0"];
    let bad_url = [&http[..], &["--nats", "http://me:secret@host"]].concat();
    let node = program(&bad_url);
    assert_refused(&node, 2, &["nats://host:port"]).await;
    assert!(!node.log().contains("secret"), "{}", node.log());
    for flag in ["--nats-creds", "--nats-nkey"] {
        assert_refused(&program(&[&http[..], &[flag, "absent.file"]].concat()), 2, &["absent.file"]).await;
    }
}

#[tokio::test]
async fn a_taken_http_port_is_told_before_nats_is_asked() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let node = program(&["--http", &address, "--nats", "nats://127.0.0.1:9", "--wait", "60s"]);
    assert_refused(&node, 5, &[&address, "choose another address with --http"]).await;
}

#[tokio::test]
async fn an_absent_nats_is_waited_for_aloud_and_then_refused() {
    let mut server = NatsServer::start();
    server.stop();
    let node = NodeProcess::spawn("node-1", &server.url(), &["--wait", "1s"]);
    assert_refused(&node, 3, &[&server.port().to_string(), "within 1s", "nats-server -js"]).await;
    assert!(node.log().contains("waiting for NATS at"), "{}", node.log());
}

#[tokio::test]
async fn asked_to_end_while_it_waits_for_nats_it_ends_with_code_0() {
    let mut server = NatsServer::start();
    server.stop();
    let node = NodeProcess::spawn("node-1", &server.url(), &["--wait", "5m"]);
    node.wait_log("waiting for NATS at", REFUSAL_LIMIT).await;
    node.sigterm();
    assert_eq!(node.wait_exit(REFUSAL_LIMIT).await, Some(0), "{}", node.log());
}

#[tokio::test]
async fn a_nats_without_jetstream_is_refused_at_once() {
    let server = NatsServer::start_with(ServerOptions { jetstream: false, ..ServerOptions::default() });
    let node = NodeProcess::spawn("node-1", &server.url(), &["--wait", "5m"]);
    assert_refused(&node, 3, &["no JetStream", "nats-server -js"]).await;
}

#[tokio::test]
async fn a_nats_that_is_too_old_is_refused_by_version() {
    let url = format!("nats://127.0.0.1:{}", pretender("2.9.10"));
    let node = NodeProcess::spawn("node-1", &url, &["--wait", "5m"]);
    assert_refused(&node, 3, &["2.9.10", "2.11.0", "upgrade"]).await;
}

#[tokio::test]
async fn wrong_credentials_are_refused_and_right_ones_from_flag_or_variable_taken() {
    let extra = "authorization { user: ring, password: right }".to_owned();
    let server = NatsServer::start_with(ServerOptions { extra, ..ServerOptions::default() });
    let wrong = NodeProcess::spawn("node-1", &server.url(), &["--nats-user", "ring", "--nats-password", "wrong"]);
    assert_refused(&wrong, 4, &["refused the credentials", "check user"]).await;
    assert_refused(&NodeProcess::spawn("node-1", &server.url(), &[]), 4, &["refused the credentials"]).await;

    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
    command.args(["--nats", &server.url(), "--http", ":0", "--nats-user", "ring"]);
    command.env("NATS_RING_NATS_PASSWORD", "right");
    NodeProcess::spawn_command("right", command).address().await;
}

#[tokio::test]
async fn a_partition_count_other_than_the_rings_is_refused_with_both() {
    let server = NatsServer::start();
    let first = NodeProcess::spawn("node-1", &server.url(), &["--partitions", "48"]);
    first.address().await;
    let second = NodeProcess::spawn("node-2", &server.url(), &[]);
    assert_refused(&second, 7, &["partitions = 48", "partitions = 64", "start it with the ring's value"]).await;
}

#[tokio::test]
async fn a_key_hash_other_than_the_rings_is_refused_with_both_also_where_it_is_the_default() {
    let server = NatsServer::start();
    let first = NodeProcess::spawn("node-1", &server.url(), &["--key-hash", "nats"]);
    first.address().await;
    let second = NodeProcess::spawn("node-2", &server.url(), &[]);
    assert_refused(&second, 7, &["key hash = nats", "key hash = xxh3", "start it with the ring's value"]).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
    command.args(["--node", "node-2", "--nats", &server.url(), "--http", ":0"]).env("NATS_RING_KEY_HASH", "nats");
    NodeProcess::spawn_command("node-2", command).address().await;
}

#[tokio::test]
async fn a_name_that_a_live_node_holds_is_refused_and_the_holder_goes_on() {
    let server = NatsServer::start();
    let connection = server.connect().await;
    let holder = NodeProcess::spawn("node-1", &server.url(), &[]);
    wait_held(&connection, &[("node-1", 64)]).await;
    let second = NodeProcess::spawn("node-1", &server.url(), &[]);
    assert_refused(&second, 6, &["'node-1'", "--node"]).await;
    assert!(holder.is_running());
    assert_eq!(held(&connection).await, BTreeMap::from([("node-1".to_owned(), 64)]));
}

#[tokio::test]
async fn a_single_node_asked_to_end_gives_everything_back_and_exits_with_code_0() {
    let server = NatsServer::start();
    let connection = server.connect().await;
    let node = NodeProcess::spawn("node-1", &server.url(), &["--log-format", "json"]);
    node.address().await;
    wait_held(&connection, &[("node-1", 64)]).await;
    node.sigterm();
    assert_eq!(node.wait_exit(SETTLE_LIMIT).await, Some(0), "{}", node.log());
    assert_eq!(held(&connection).await, BTreeMap::new());
    let log = node.log();
    let not_json = log.lines().find(|line| serde_json::from_str::<serde_json::Value>(line).is_err());
    assert_eq!(not_json, None, "--log-format json");
}

#[tokio::test]
async fn of_two_nodes_the_one_asked_to_end_exits_with_code_0_and_the_other_owns_all() {
    let server = NatsServer::start();
    let connection = server.connect().await;
    let (leaves, stays) = (("node-1", 32), ("node-2", 32));
    let first = NodeProcess::spawn(leaves.0, &server.url(), &[]);
    let second = NodeProcess::spawn(stays.0, &server.url(), &[]);
    wait_held(&connection, &[leaves, stays]).await;
    first.sigterm();
    assert_eq!(first.wait_exit(SETTLE_LIMIT).await, Some(0), "{}", first.log());
    assert_eq!(held(&connection).await, BTreeMap::from([(stays.0.to_owned(), 64)]));
    assert!(second.is_running());
}

#[tokio::test]
async fn a_second_signal_ends_a_drain_at_once_with_code_130() {
    let mut server = NatsServer::start();
    let node = NodeProcess::spawn("node-1", &server.url(), &[]);
    wait_held(&server.connect().await, &[("node-1", 64)]).await;
    // Without NATS nothing can be given back: the drain goes on until it is cut short.
    server.stop();
    node.sigterm();
    node.wait_log("draining; a second signal", REFUSAL_LIMIT).await;
    node.sigterm();
    assert_refused(&node, 130, &["second TERM", "the others take"]).await;
}
