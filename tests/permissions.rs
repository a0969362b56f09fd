//! The permissions of `docs/security.md`, taken from there as they stand: with no more than those a ring works, and a
//! client cannot touch its bucket.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::{NatsServer, ServerOptions};
use common::node::NodeProcess;
use futures::StreamExt;
use nats_ring::admin::{Admin, DrainOptions, DrainStep};
use nats_ring::cache::{CacheClient, Limits};
use nats_ring::client::RingClient;
use nats_ring::connect::{ConnectOptions, Connection, Credentials};
use nats_ring::coord::nats::NatsStore;
use nats_ring::coord::{Revision, Store, WatchItem, WatchScope};
use nats_ring::types::{NodeName, RingName};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(40);
const NODE: [&str; 6] =
    ["--nats-user", "node", "--nats-password", "change-me-node", "--nats-inbox-prefix", "_INBOX_node"];

/// The page's configuration.
fn documented() -> String {
    let page = include_str!("../docs/security.md");
    let (_, after) = page.split_once("```conf\n").unwrap();
    after.split_once("```").unwrap().0.to_owned()
}

fn server() -> NatsServer {
    NatsServer::start_with(ServerOptions { extra: documented(), ..ServerOptions::default() })
}

fn options(server: &NatsServer, user: &str) -> ConnectOptions {
    ConnectOptions {
        credentials: Credentials::UserPassword { user: user.to_owned(), password: format!("change-me-{user}") },
        inbox_prefix: Some("_INBOX_app".to_owned()),
        ..server.connect_options()
    }
}

/// A NATS client as this user, and what the server refuses it.
async fn plain(server: &NatsServer, user: &str) -> (async_nats::Client, Arc<Mutex<Vec<String>>>) {
    let refusals = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&refusals);
    let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), format!("change-me-{user}"))
        .custom_inbox_prefix("_INBOX_app")
        .request_timeout(Some(Duration::from_secs(10)))
        .event_callback(move |event| {
            if let async_nats::Event::ServerError(error) = event {
                heard.lock().unwrap().push(error.to_string());
            }
            std::future::ready(())
        });
    (options.connect(server.url()).await.unwrap(), refusals)
}

async fn whole(nodes: &[NodeProcess]) {
    let http = Http::new();
    for node in nodes {
        node.wait_ready(LIMIT).await;
        let (health, ring) = (node.url("/health?scope=ring").await, node.url("/ring").await);
        eventually(LIMIT, &format!("{} sees a ring that these nodes share out", node.name), || async {
            let (health, ring) = (http.get(&health).await?, http.get(&ring).await?.json());
            let live = |partition: &Value| nodes.iter().any(|node| partition["owner"] == *node.name);
            let shared = ring["partitions"].as_array().unwrap().iter().all(live);
            if health.status == 200 && shared { Ok(()) } else { Err(format!("{} {ring}", health.text())) }
        })
        .await;
    }
}

async fn ask(client: &async_nats::Client, operation: &str, body: Value) -> Value {
    let answer = client.request(format!("cache-platform.{operation}"), body.to_string().into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_documented_permissions_nodes_join_serve_move_and_take_over_and_are_refused_nothing() {
    let server = server();
    let spawn = |name| NodeProcess::spawn(name, &server.url(), &[&NODE[..], &["--lease", "1s"]].concat());
    let mut nodes = vec![spawn("node-1"), spawn("node-2"), spawn("node-3")];
    whole(&nodes).await;
    let (client, refusals) = plain(&server, "app").await;
    let set_and_get = async |round: &str| {
        for number in 0..24 {
            let key = format!("k{number}");
            assert_eq!(ask(&client, "set", json!({"key": key, "value": round})).await["success"], true);
            assert_eq!(ask(&client, "get", json!({"key": key})).await["value"], round);
        }
        assert_eq!(ask(&client, "touch", json!({"key": "k0", "ttl": 600})).await["touched"], true);
        assert_eq!(ask(&client, "inspect", json!({"key": "k0"})).await["found"], true);
        assert_eq!(ask(&client, "persist", json!({"key": "k0"})).await["persisted"], true);
        assert!(ask(&client, "incr", json!({"key": "sum"})).await["value"].is_i64());
        assert!(ask(&client, "get-or-set", json!({"key": "sum", "value": 0})).await["stored"].is_boolean());
        assert_eq!(ask(&client, "key.get.k0", json!({})).await["value"], round);
    };
    set_and_get("first").await;
    // With entries, so that state is transferred.
    let leaving = nodes.pop().unwrap();
    leaving.sigterm();
    assert_eq!(leaving.wait_exit(LIMIT).await, Some(0), "{}", leaving.log());
    for number in 0..24 {
        assert_eq!(ask(&client, "get", json!({"key": format!("k{number}")})).await["value"], "first");
    }
    nodes.pop().unwrap().kill9();
    whole(&nodes).await;
    set_and_get("second").await;
    for node in nodes.iter().chain([&leaving]) {
        assert!(!node.log().contains("NATS refuses"), "{}", node.log());
    }
    assert_eq!(*refusals.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_writes_the_bucket_or_speaks_as_a_node_is_refused_by_the_server() {
    let server = server();
    let nodes = [NodeProcess::spawn("node-1", &server.url(), &NODE)];
    whole(&nodes).await;
    let ring = RingName::new("cache-platform").unwrap();
    let connection = Connection::open(&options(&server, "router")).await.unwrap();
    let reader = NatsStore::open(&connection, &ring, None).await.unwrap();
    let meta = reader.get("meta").await.unwrap().unwrap();
    for user in ["app", "router"] {
        let (client, refusals) = plain(&server, user).await;
        for subject in [
            "$KV.ring-cache-platform.meta",
            "cache-platform.node.node-1.1-x.offer",
            "cache-platform.node.node-1.1-x.copy",
            "cache-platform.node.node-1.1-x.switch",
            "_INBOX_node.x",
        ] {
            client.publish(subject, "{}".into()).await.unwrap();
            eventually(LIMIT, &format!("{user} is refused {subject}"), || async {
                let refusals = refusals.lock().unwrap().clone();
                refusals.iter().any(|said| said.contains(subject)).then_some(()).ok_or(refusals)
            })
            .await;
        }
    }
    assert_eq!(reader.get("meta").await.unwrap().unwrap(), meta);
    // The library's way to write gets no acknowledgement, and the claim is as it was.
    let claim = reader.get("own.0").await.unwrap().unwrap();
    let written = reader.cas("own.0", claim.revision, "{}".into(), Duration::from_millis(500)).await;
    assert!(written.is_err(), "{written:?}");
    assert_eq!(reader.get("own.0").await.unwrap().unwrap().revision, claim.revision);
    assert_ne!(claim.revision, Revision::NONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_routes_by_itself_sees_the_ring_and_asks_any_node() {
    let server = server();
    let nodes = [NodeProcess::spawn("node-1", &server.url(), &NODE)];
    whole(&nodes).await;
    let connection = Connection::open(&options(&server, "router")).await.unwrap();
    let store = NatsStore::open(&connection, &RingName::new("cache-platform").unwrap(), None).await.unwrap();
    let first = store.watch(WatchScope::Ring).await.unwrap().next().await;
    let Some(WatchItem::Snapshot(entries)) = first else { panic!("{first:?}") };
    assert!(entries.iter().any(|entry| entry.key == "own.63"));
    let (client, refusals) = plain(&server, "router").await;
    assert_eq!(ask(&client, "set", json!({"key": "a", "value": 1})).await["success"], true);
    let by_key = client.request("cache-platform.key.get.a", "".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&by_key.payload).contains("\"value\":1"), "{by_key:?}");
    assert_eq!(*refusals.lock().unwrap(), Vec::<String>::new());
    // The library's client gets along with the same.
    let ring = RingName::new("cache-platform").unwrap();
    let routing = RingClient::connect(options(&server, "router"), ring).await.unwrap();
    assert_eq!(routing.node_for("a").unwrap().node.as_str(), "node-1");
    let cache = CacheClient::new(Arc::new(routing), Limits::default());
    assert_eq!(cache.get("a".into()).await.unwrap().found.unwrap().value, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_steers_and_drains_and_can_write_nothing_else_of_the_bucket() {
    let server = server();
    let nodes = ["node-1", "node-2"].map(|name| NodeProcess::spawn(name, &server.url(), &NODE));
    whole(&nodes).await;
    let ops = ConnectOptions { inbox_prefix: Some("_INBOX_ops".to_owned()), ..options(&server, "ops") };
    let connection = Connection::open(&ops).await.unwrap();
    let ring = RingName::new("cache-platform").unwrap();
    let admin = Admin::open(&connection, &ring).await.unwrap();
    assert!(admin.pause().await.unwrap().changed);
    admin.wait_at_rest(LIMIT).await.unwrap();
    let store = NatsStore::find(&connection, &ring).await.unwrap().unwrap();
    let claim = store.get("own.0").await.unwrap().unwrap();
    assert!(store.cas("own.0", claim.revision, "{}".into(), Duration::from_millis(500)).await.is_err());
    assert_eq!(store.get("own.0").await.unwrap().unwrap().revision, claim.revision);
    let node = NodeName::new("node-1").unwrap();
    let steps: Vec<_> = admin.drain(&node, DrainOptions::default()).await.unwrap().collect().await;
    assert_eq!(steps.last(), Some(&Ok(DrainStep::Left { node })));
    assert_eq!(nodes[0].wait_exit(LIMIT).await, Some(0), "{}", nodes[0].log());
    assert!(!nodes[0].log().contains("NATS refuses"), "{}", nodes[0].log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_logs_in_as_a_client_ends_with_code_4_and_says_what_it_may_not() {
    let server = server();
    let login = ["--nats-user", "app", "--nats-password", "change-me-app", "--nats-inbox-prefix", "_INBOX_app"];
    let node = NodeProcess::spawn("node-1", &server.url(), &login);
    assert_eq!(node.wait_exit(LIMIT).await, Some(4), "{}", node.log());
    let line = node.wait_log("nats-ring: ", LIMIT).await;
    assert!(line.contains("does not permit") && line.contains("$JS.API.INFO"), "{line}");
}
