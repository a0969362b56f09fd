//! `--replicas`, `--consistency`, `--on-loss`: taken by who creates the ring, the ring's from then on; and what is told of
//! copies that are made.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

async fn ring(node: &NodeProcess) -> Value {
    Http::new().get(&node.url("/ring").await).await.unwrap().json()
}

async fn rules(node: &NodeProcess) -> [Value; 3] {
    let ring = ring(node).await;
    ["replicas", "consistency", "on_loss"].map(|field| ring[field].clone())
}

/// Waits until every partition has so many copies, as this node sees it.
async fn all_have(node: &NodeProcess, copies: usize) {
    eventually(LIMIT, &format!("every partition has {copies} copies"), || async {
        let ring = ring(node).await;
        let count = |one: &Value| one["replicas"].as_array().unwrap().len();
        let lacking = ring["partitions"].as_array().unwrap().iter().find(|one| count(one) != copies);
        lacking.map_or(Ok(()), |one| Err(one.to_string()))
    })
    .await;
}

/// A figure of a node without labels.
async fn figure(node: &NodeProcess, name: &str) -> u64 {
    let text = Http::new().get(&node.url("/metrics").await).await.unwrap().text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn who_creates_the_ring_says_what_it_keeps_to_and_who_comes_later_is_told_and_goes_on() {
    let server = NatsServer::start();
    let given = ["--replicas", "2", "--consistency", "quorum", "--on-loss", "wait"];
    let first = NodeProcess::spawn("node-1", &server.url(), &given);
    first.wait_ready(LIMIT).await;
    assert_eq!(rules(&first).await, [json!(2), json!("quorum"), json!("wait")]);
    let others = ["--replicas", "3", "--consistency", "quorum"];
    let second = NodeProcess::spawn("node-2", &server.url(), &others);
    second.wait_ready(LIMIT).await;
    let words = ["replicas is the ring's", "keeps to 2", "started with 3", "nats-ring replicas 3"];
    eventually(LIMIT, "the second node is told", || async {
        let log = second.log();
        if words.iter().all(|word| log.contains(word)) { Ok(()) } else { Err(log) }
    })
    .await;
    let (log, first_log) = (second.log(), first.log());
    assert_eq!(log.matches("is the ring's").count(), 1, "one line for what differs, none for the rest:\n{log}");
    assert!(!first_log.contains("is the ring's"), "{first_log}");
    for node in [&first, &second] {
        assert_eq!(rules(node).await, [json!(2), json!("quorum"), json!("wait")]);
        all_have(node, 2).await;
    }
}

#[tokio::test]
async fn what_the_first_node_did_not_say_is_the_default_and_no_later_one_writes_it() {
    let server = NatsServer::start();
    let first = NodeProcess::spawn("node-1", &server.url(), &[]);
    first.wait_ready(LIMIT).await;
    let second = NodeProcess::spawn("node-2", &server.url(), &["--on-loss", "wait"]);
    second.wait_ready(LIMIT).await;
    eventually(LIMIT, "it is told", || async {
        let log = second.log();
        if log.contains("nats-ring on-loss wait") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(rules(&second).await, [json!(3), json!("eventual"), json!("accept")]);
}

#[tokio::test]
async fn copies_that_a_newcomer_gets_are_counted_and_nothing_is_under_replicated_then() {
    const VALUES: u64 = 40;
    const VALUE_BYTES: u64 = 50_000;
    let server = NatsServer::start();
    let first = NodeProcess::spawn("node-1", &server.url(), &[]);
    first.wait_ready(LIMIT).await;
    let (http, url) = (Http::new(), first.url("/set").await);
    let value = "v".repeat(VALUE_BYTES as usize);
    for number in 0..VALUES {
        let body = json!({ "key": format!("k{number}"), "value": value });
        assert_eq!(http.post(&url, &body).await.unwrap().status, 200);
    }
    assert_eq!(figure(&first, "nats_ring_copied_bytes_total").await, 0);
    let second = NodeProcess::spawn("node-2", &server.url(), &[]);
    second.wait_ready(LIMIT).await;
    all_have(&second, 2).await;
    let copied = figure(&first, "nats_ring_copied_bytes_total").await;
    assert!(copied >= VALUES * VALUE_BYTES, "{copied} bytes");
    eventually(LIMIT, "nothing is under way any more", || async {
        let mut figures = Vec::new();
        for node in [&first, &second] {
            for name in ["nats_ring_learners", "nats_ring_under_replicated_partitions"] {
                figures.push(figure(node, name).await);
            }
        }
        if figures.iter().all(|figure| *figure == 0) { Ok(()) } else { Err(figures) }
    })
    .await;
}
