//! Requests with the key in the subject, on real servers: answered by the key's owner, at the first hop where the server maps
//! the subject to the partition as `nats/mapping.conf` says, and after a forward everywhere else.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, HeaderMap, Message, Subscriber};
use common::eventually::eventually;
use common::http::Http;
use common::nats_server::{NatsServer, ServerOptions};
use common::node::NodeProcess;
use futures::StreamExt;
use nats_ring::types::{KeyHash, PartitionCount};
use serde_json::{Value, json};

const READY: Duration = Duration::from_secs(30);
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
const ATTEMPT_LIMIT: Duration = Duration::from_millis(500);
const MAPPING: &str = include_str!("../nats/mapping.conf");

/// Two nodes, each with half of the partitions.
struct Ring {
    client: Client,
    nodes: [NodeProcess; 2],
    _server: NatsServer,
}

impl Ring {
    async fn start(conf: &str, flags: &[&str]) -> Self {
        let server = NatsServer::start_with(ServerOptions { extra: conf.to_owned(), ..ServerOptions::default() });
        let nodes = ["node-1", "node-2"].map(|name| NodeProcess::spawn(name, &server.url(), flags));
        let options = async_nats::ConnectOptions::new().request_timeout(Some(REQUEST_LIMIT));
        let client = options.connect(server.url()).await.unwrap();
        let ring = Self { client, nodes, _server: server };
        let http = Http::new();
        // Any of them may be asked who owns a key: both must have seen it.
        for node in &ring.nodes {
            let url = node.url("/ring").await;
            eventually(READY, &format!("{} sees that both have their half", node.name), || async {
                let seen = http.get(&url).await?.json();
                let of = |name: &str| {
                    let rows = seen["partitions"].as_array().cloned().unwrap_or_default();
                    rows.iter().filter(|row| row["owner"] == name && row["state"] == "serving").count()
                };
                if (of("node-1"), of("node-2")) == (32, 32) { Ok(()) } else { Err(seen.to_string()) }
            })
            .await;
        }
        ring
    }

    async fn message(&self, subject: &str, headers: &[(&str, &str)], payload: &str) -> Message {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let answer = self.client.request_with_headers(subject.to_owned(), headers, payload.to_owned().into()).await;
        answer.unwrap_or_else(|error| panic!("{subject}: {error}"))
    }

    async fn ask(&self, subject: &str, payload: &str) -> Value {
        serde_json::from_slice(&self.message(subject, &[], payload).await.payload).unwrap()
    }

    async fn owner(&self, key: &str) -> Value {
        let answer = self.ask("cache-platform.owner", &json!({ "key": key }).to_string()).await;
        assert!(answer["owner"].is_string(), "{answer}");
        answer["owner"].clone()
    }

    /// What passes between nodes from now on.
    async fn between_nodes(&self) -> Subscriber {
        self.overheard("cache-platform.node.*.*.call").await
    }

    async fn overheard(&self, subject: &'static str) -> Subscriber {
        let subscriber = self.client.subscribe(subject).await.unwrap();
        // Behind the subscription on the same connection: its answer shows that the server knows it.
        self.ask("cache-platform.ring", "").await;
        subscriber
    }

    /// What the subscription has heard until now, by its own connection's order.
    async fn heard(&self, mut overheard: Subscriber) -> Vec<String> {
        let end = "overheard.end";
        let mut until = self.client.subscribe(end).await.unwrap();
        self.client.publish(end, "".into()).await.unwrap();
        tokio::time::timeout(REQUEST_LIMIT, until.next()).await.unwrap().unwrap();
        overheard.unsubscribe().await.unwrap();
        let mut heard = Vec::new();
        while let Some(message) = overheard.next().await {
            heard.push(message.subject.to_string());
        }
        heard
    }
}

#[track_caller]
fn refused(answer: &Message, status: &str, says: &str) {
    let body: Value = serde_json::from_slice(&answer.payload).unwrap();
    let message = body["error"]["message"].as_str().unwrap_or_else(|| panic!("no error: {body}"));
    assert!(message.contains(says), "'{says}' is not in: {message}");
    let headers = answer.headers.as_ref().unwrap();
    assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), status, "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_mapping_any_node_takes_the_request_and_the_owner_answers() {
    let ring = Ring::start("", &[]).await;
    let mut answered = BTreeSet::new();
    for number in 0..20 {
        let key = format!("user:{number}");
        let set = ring.ask(&format!("cache-platform.key.set.{key}"), "Alice").await;
        assert_eq!((&set["success"], &set["node"]), (&json!(true), &ring.owner(&key).await), "{key}");
        let got = ring.ask("cache-platform.get", &json!({ "key": key }).to_string()).await;
        assert_eq!(got["value"], "Alice");
        answered.insert(set["node"].to_string());
    }
    assert_eq!(answered.len(), 2, "keys of both nodes were asked for");
    // Dots are no hindrance: everything behind the operation is the key.
    ring.ask("cache-platform.key.set.a.dotted.key", "[1, 2.50]").await;
    let got = ring.ask("cache-platform.key.get.a.dotted.key", "").await;
    assert_eq!((&got["found"], &got["value"]), (&json!(true), &json!([1, 2.5])));
    assert_eq!(ring.ask("cache-platform.get", r#"{"key":"a.dotted.key"}"#).await["found"], true);
    assert_eq!(ring.ask("cache-platform.key.delete.a.dotted.key", "").await["deleted"], true);
    assert_eq!(ring.ask("cache-platform.key.get.a.dotted.key", "").await["found"], false);
    let owner = ring.ask("cache-platform.key.owner.user:1", "").await;
    assert_eq!((&owner["key"], &owner["owner"]), (&json!("user:1"), &ring.owner("user:1").await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_set_stores_is_said_by_payload_and_headers_and_what_is_wrong_is_refused() {
    let ring = Ring::start("", &[]).await;
    let set = "cache-platform.key.set.k";
    let value = || async { ring.ask("cache-platform.key.get.k", "").await["value"].clone() };
    ring.message(set, &[], r#"{"name":"Bob"}"#).await;
    assert_eq!(value().await, json!({"name": "Bob"}));
    ring.message(set, &[("Content-Type", "text/plain")], "12").await;
    assert_eq!(value().await, json!("12"));
    ring.message(set, &[("Nats-Ring-Ttl", "1.5")], "short").await;
    assert_eq!(value().await, json!("short"));
    eventually(READY, "its time to live is over", || async {
        let answer = ring.ask("cache-platform.key.get.k", "").await;
        if answer["found"] == false { Ok(()) } else { Err(answer) }
    })
    .await;
    refused(&ring.message(set, &[("Nats-Ring-Ttl", "soon")], "x").await, "400", "Nats-Ring-Ttl");
    refused(&ring.message(set, &[("Content-Type", "application/json")], "Alice").await, "400", "not JSON");
    refused(&ring.message("cache-platform.key.frobnicate.k", &[], "").await, "400", "known: get, set, delete");
    refused(&ring.message("cache-platform.p.3.frobnicate.k", &[], "").await, "400", "known: get, set, delete");
    refused(&ring.message("cache-platform.key.get", &[], "").await, "400", "no key");
    let long = format!("cache-platform.key.get.{}", "k".repeat(1025));
    refused(&ring.message(&long, &[], "").await, "413", "1025 bytes");
    assert_eq!(ring.ask("cache-platform.key.get.k", "").await["found"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_mapping_the_owner_gets_the_request_at_the_first_hop() {
    let ring = Ring::start(MAPPING, &["--key-hash", "nats"]).await;
    let (between, partitions) = (ring.between_nodes().await, ring.overheard("cache-platform.p.>").await);
    let keys: Vec<String> = (0..320).map(|n| format!("{}:{n}", ["user", "ключ", "a-b_c", "{"][n % 4])).collect();
    let mut answered = BTreeSet::new();
    for key in &keys {
        let set = ring.ask(&format!("cache-platform.key.set.{key}"), key).await;
        assert_eq!(set["success"], true, "{key}: {set}");
        let got = ring.ask(&format!("cache-platform.key.get.{key}"), "").await;
        assert_eq!((&got["value"], &got["node"]), (&json!(key), &set["node"]), "{key}");
        answered.insert(set["node"].to_string());
    }
    assert_eq!(answered.len(), 2, "keys of both nodes were asked for");
    assert_eq!(ring.heard(between).await, Vec::<String>::new(), "a request was forwarded");
    let partition = |key: &str| KeyHash::Nats.partition(key.as_bytes(), PartitionCount::DEFAULT);
    let both = |key: &String| ["set", "get"].map(|op| format!("cache-platform.p.{}.{op}.{key}", partition(key)));
    assert_eq!(ring.heard(partitions).await, keys.iter().flat_map(both).collect::<Vec<_>>());
}

/// The mapping of another ring, made by the command in the file's head.
fn mapping_of_orders() -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("nats")).unwrap();
    std::fs::write(folder.path().join("nats/mapping.conf"), MAPPING).unwrap();
    let command = MAPPING.lines().find_map(|line| line.strip_prefix("#   sed ")).unwrap();
    let run = Command::new("sh").args(["-c", &format!("sed {command}")]).current_dir(folder.path()).status().unwrap();
    assert!(run.success(), "sed {command}");
    std::fs::read_to_string(folder.path().join("nats/mapping-orders.conf")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mapping_for_another_name_and_count_is_made_by_the_command_in_its_head() {
    let server = NatsServer::start_with(ServerOptions { extra: mapping_of_orders(), ..ServerOptions::default() });
    let flags = ["--platform", "orders", "--partitions", "256", "--key-hash", "nats"];
    let node = NodeProcess::spawn("node-1", &server.url(), &flags);
    let (http, url) = (Http::new(), node.url("/health?scope=ring").await);
    eventually(READY, "all partitions are served", || async {
        let answer = http.get(&url).await?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut overheard = client.subscribe("orders.p.>").await.unwrap();
    for number in 0..50 {
        let key = format!("order:{number}");
        let answer = client.request(format!("orders.key.set.{key}"), "1".into()).await.unwrap();
        assert!(answer.payload.starts_with(br#"{"success":true"#), "{answer:?}");
        let heard = tokio::time::timeout(REQUEST_LIMIT, overheard.next()).await.unwrap().unwrap();
        let partition = KeyHash::Nats.partition(key.as_bytes(), PartitionCount::new(256).unwrap());
        assert_eq!(heard.subject.as_str(), format!("orders.p.{partition}.set.{key}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tagged_key_that_the_server_takes_elsewhere_is_forwarded_to_the_owner_of_its_tag() {
    let ring = Ring::start(MAPPING, &["--key-hash", "nats"]).await;
    let mut forwarded = 0;
    for number in 0..40 {
        let key = format!("{{user:1}}:{number}");
        let partition = fnv_modulo(&key);
        let between = ring.between_nodes().await;
        let set = ring.ask(&format!("cache-platform.key.set.{key}"), "1").await;
        let passed_on = ring.heard(between).await.len();
        assert_eq!(set["node"], ring.owner("user:1").await, "{key} is where its tag is");
        let got = ring.ask("cache-platform.get", &json!({ "key": key }).to_string()).await;
        assert_eq!(got["value"], 1, "{key} is found by others too");
        let status = ring.ask("cache-platform.ring", "").await;
        let there = &status["partitions"][partition]["owner"];
        assert_eq!(passed_on, usize::from(*there != set["node"]), "{key} came to {there}");
        forwarded += passed_on;
    }
    assert!(forwarded > 0, "no key was taken elsewhere: the test does not test");
}

/// As the server hashes: all of the token.
fn fnv_modulo(token: &str) -> usize {
    let hash = token.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash as usize % 64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_at_another_partitions_subject_is_executed_by_the_keys_owner() {
    // The server maps by another hash than the ring's: nearly every request goes to another partition.
    let ring = Ring::start(MAPPING, &["--key-hash", "xxh3"]).await;
    let mut elsewhere = 0;
    for number in 0..40 {
        let key = format!("user:{number}");
        let set = ring.ask(&format!("cache-platform.key.set.{key}"), "1").await;
        let owner = ring.owner(&key).await;
        assert_eq!(set["node"], owner, "{key}");
        for partition in [0, 63] {
            let got = ring.ask(&format!("cache-platform.p.{partition}.get.{key}"), "").await;
            assert_eq!((&got["value"], &got["node"]), (&json!(1), &owner), "{key} at {partition}");
        }
        let status = ring.ask("cache-platform.ring", "").await;
        elsewhere += usize::from(status["partitions"][fnv_modulo(&key)]["owner"] != owner);
    }
    assert!(elsewhere > 0, "no key was taken elsewhere: the test does not test");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_an_owner_that_crashed_is_taken_over_its_keys_have_no_responders_and_then_the_next_owner_answers() {
    let ring = Ring::start(MAPPING, &["--key-hash", "nats"]).await;
    let mut key = String::new();
    for number in 0..64 {
        key = format!("user:{number}");
        if ring.owner(&key).await == "node-2" {
            break;
        }
    }
    // One that the server still sent to the dead node is not waited for.
    let request = || ring.client.request(format!("cache-platform.key.get.{key}"), "".into());
    let mapped = || async { tokio::time::timeout(ATTEMPT_LIMIT, request()).await.map_err(|_| "no answer") };
    ring.nodes[1].kill9();
    // At once, as soon as the server has noticed; long before the lease is over.
    eventually(READY, "nobody is on the subject", || async {
        match mapped().await {
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let answer = eventually(READY, "it is taken over", || async { mapped().await?.map_err(|_| "no responders") }).await;
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!((&answer["found"], &answer["node"]), (&json!(false), &json!("node-1")), "{answer}");
}
