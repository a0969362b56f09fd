//! A process that stands still for longer than its lease and then goes on where it was.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use nats_ring::rpc::envelope::{CallHead, seal};
use nats_ring::types::{Epoch, PartitionId};
use tokio::task::JoinHandle;

use crate::common::eventually::eventually;
use crate::common::http::Http;
use crate::world::{
    Bucket, FAST, Read, SETTLE_LIMIT, all, all_read, keys, owned_by, read, set, settled, start_number, taken_over,
    three,
};

/// How long the woken node is asked.
const HAMMERING: Duration = Duration::from_secs(4);
/// What a request may wait: those sent while it is frozen wait in its socket.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads every key of `partitions` through the node at `base`, again and again.
fn hammer(base: String, partitions: &[usize]) -> Vec<JoinHandle<Vec<Read>>> {
    let http = Http::with_limit(PATIENCE);
    let began = Instant::now();
    let reader = |p: usize| {
        let (http, base) = (http.clone(), base.clone());
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.is_empty() || began.elapsed() < HAMMERING {
                seen.push(read(&http, &base, p).await);
            }
            seen
        })
    };
    partitions.iter().map(|p| reader(*p)).collect()
}

/// Asks the frozen incarnation's own subject for each key: the server keeps that for it until it goes on.
async fn ask_its_subject(nats: &str, subject: &str, partitions: &[usize]) -> Vec<JoinHandle<String>> {
    let client = async_nats::ConnectOptions::new().request_timeout(None).connect(nats).await.unwrap();
    let ask = |p: usize| {
        let body = serde_json::json!({ "key": keys()[p] }).to_string();
        let head = CallHead {
            partition: PartitionId::new(u16::try_from(p).unwrap()),
            epoch: Epoch::ZERO,
            hops: 0,
            plain: true,
            remaining_ms: 10_000,
            operation: "get".to_owned(),
            key: keys()[p].clone().into_bytes(),
            trace: None,
            once: None,
        };
        let (client, subject, message) = (client.clone(), subject.to_owned(), seal(&head, body.as_bytes()).unwrap());
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, client.request(subject, message)).await {
                Ok(Ok(message)) => String::from_utf8_lossy(&message.payload).into_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            }
        })
    };
    let asked: Vec<_> = partitions.iter().map(|p| ask(*p)).collect();
    client.flush().await.unwrap();
    asked
}

/// Fails for each answer that only somebody who still takes itself for the owner can give.
fn assert_new_or_refused(answers: &[Read]) -> usize {
    let new = answers.iter().filter(|r| **r == Read::Value("new".into())).count();
    let refused = answers.iter().filter(|r| matches!(r, Read::Refused(503 | 504, _))).count();
    let other: Vec<_> = answers.iter().filter(|r| **r != Read::Value("new".into())).collect();
    let other: Vec<_> = other.into_iter().filter(|r| !matches!(r, Read::Refused(503 | 504, _))).collect();
    assert!(other.is_empty(), "{} answers of a node that is not the owner, as {:?}", other.len(), other[0]);
    eprintln!("the woken node over HTTP: {new} answers with the new value, {refused} refused, none else");
    new
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_frozen_beyond_its_lease_never_answers_as_owner_again_and_comes_back_as_a_new_incarnation() {
    let (server, nodes) = three(FAST).await;
    set(&nodes[0], &all(), "old").await.unwrap();
    let before = settled(&nodes.iter().collect::<Vec<_>>(), SETTLE_LIMIT).await;
    let frozen = &nodes[1];
    let former = owned_by(&before, &frozen.name);
    let start = start_number(frozen).await;
    let base = frozen.url("").await;
    let incarnation = Bucket::open(&server.url()).await.leases().await[&frozen.name].incarnation;
    let subject = format!("cache-platform.node.{}.{incarnation}.call", frozen.name);

    frozen.sigstop();
    let others = [&nodes[0], &nodes[2]];
    taken_over(&others, SETTLE_LIMIT).await;
    set(others[0], &former, "new").await.unwrap();
    // These wait in its sockets, so that they are the first thing it sees.
    let direct = ask_its_subject(&server.url(), &subject, &former).await;
    let readers = hammer(base, &former);
    frozen.sigcont();

    let answers = Arc::new(Mutex::new(Vec::new()));
    for reader in readers {
        let more = reader.await.unwrap();
        answers.lock().unwrap().extend(more);
    }
    let new = assert_new_or_refused(&answers.lock().unwrap());
    assert!(new >= former.len(), "only {new} answers: the test asked too little");
    let mut by_nats = 0;
    for answer in join_all(direct).await {
        let answer = answer.unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        let is_owner = parsed["found"].is_boolean() && parsed["value"] != "new";
        assert!(!is_owner, "asked by NATS directly, it answered as owner: {answer}");
        by_nats += usize::from(parsed.is_object());
    }
    eprintln!("the woken node by NATS directly: {by_nats} of {} answered", former.len());
    assert!(by_nats > 0, "what was asked by NATS never reached it: the test asked nothing");
    settled(&nodes.iter().collect::<Vec<_>>(), SETTLE_LIMIT).await;
    eventually(SETTLE_LIMIT, "a new incarnation", || async {
        let now = start_number(frozen).await;
        if now == start + 1 { Ok(()) } else { Err(now) }
    })
    .await;
    all_read(&nodes.iter().collect::<Vec<_>>(), &former, "new", Duration::from_secs(5)).await;
}
