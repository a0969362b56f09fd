//! NATS restarted, away, or robbed of the ring's bucket.

use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::common::eventually::eventually;
use crate::common::http::Http;
use crate::common::nats_server::NatsServer;
use crate::common::node::NodeProcess;
use crate::world::{
    DEFAULT_LEASE, FAST, FAST_LEASE, Read, SETTLE_LIMIT, all, all_read, owned_by, read_all, served_table, set,
    standing, three,
};

/// "A few seconds".
const SOON: Duration = Duration::from_secs(8);

fn refs(nodes: &[NodeProcess]) -> Vec<&NodeProcess> {
    nodes.iter().collect()
}

async fn not_ready_reason(node: &NodeProcess) -> Result<String, String> {
    let answer = Http::with_limit(Duration::from_secs(2)).get(&node.url("/ready").await).await?;
    match answer.status {
        503 => Ok(answer.json()["error"]["message"].as_str().unwrap_or("").to_owned()),
        other => Err(format!("{}: {other}", node.name)),
    }
}

/// A plain client that connects anew sets and gets a key.
async fn plain_client_is_served(server: &NatsServer, value: &str) {
    eventually(SOON, "a plain client is served", || async {
        let client = async_nats::connect(server.url()).await.map_err(|error| error.to_string())?;
        let ask = async |operation: &str, body: serde_json::Value| {
            let subject = format!("cache-platform.{operation}");
            let answer = client.request(subject, body.to_string().into()).await.map_err(|error| error.to_string())?;
            serde_json::from_slice::<serde_json::Value>(&answer.payload).map_err(|error| error.to_string())
        };
        let stored = ask("set", serde_json::json!({"key": "plain", "value": value})).await?;
        let found = ask("get", serde_json::json!({"key": "plain"})).await?;
        if found["value"] == value { Ok(()) } else { Err(format!("{stored} {found}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_restarted_with_its_files_evicts_nobody_and_service_resumes_with_the_same_epochs() {
    let (mut server, nodes) = three(&[]).await;
    set(&nodes[0], &all(), "before").await.unwrap();
    let before = standing(&nodes, &server.url()).await;
    for how in ["graceful", "kill -9"] {
        if how == "graceful" {
            server.stop();
        } else {
            server.kill9();
        }
        server.start_again();
        let again = Instant::now();
        all_read(&refs(&nodes), &all(), "before", SOON).await;
        plain_client_is_served(&server, how).await;
        eprintln!("NATS restarted, {how}: served everywhere {:?} after it was ready", again.elapsed());
    }
    // A lease and a bit: whoever would evict has had the time to.
    tokio::time::sleep(DEFAULT_LEASE + DEFAULT_LEASE / 3).await;
    assert_eq!(standing(&nodes, &server.url()).await, before);
    set(&nodes[1], &all(), "after").await.unwrap();
    all_read(&refs(&nodes), &all(), "after", SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_away_for_three_leases_suspends_all_and_all_resume_with_the_same_epochs() {
    let (mut server, nodes) = three(FAST).await;
    set(&nodes[0], &all(), "before").await.unwrap();
    let before = standing(&nodes, &server.url()).await;
    let table = served_table(&nodes[0]).await.unwrap();
    let gone = Instant::now();
    server.stop();
    for node in &nodes {
        eventually(FAST_LEASE * 2, "/ready says that it is suspended", || async {
            let reason = not_ready_reason(node).await?;
            if reason.contains("suspended") { Ok(()) } else { Err(reason) }
        })
        .await;
    }
    let own = join_all(nodes.iter().map(|node| async { read_all(node, &owned_by(&table, &node.name)).await })).await;
    let unavailable = Read::Refused(503, "\"unavailable\"".to_owned());
    assert!(own.iter().flatten().all(|r| *r == unavailable), "reads of nodes' own keys: {own:?}");
    tokio::time::sleep((FAST_LEASE * 3).saturating_sub(gone.elapsed())).await;
    server.start_again();
    let again = Instant::now();
    for node in &nodes {
        node.wait_ready(SOON).await;
    }
    all_read(&refs(&nodes), &all(), "before", SOON).await;
    eprintln!("NATS back: all resumed after {:?}", again.elapsed());
    // Two leases more: whoever would evict has had the time to.
    tokio::time::sleep(FAST_LEASE * 2).await;
    assert_eq!(standing(&nodes, &server.url()).await, before);
}

/// Deletes the ring's bucket as an operator's mistake would.
async fn delete_bucket(server: &NatsServer) {
    let client = async_nats::connect(server.url()).await.unwrap();
    async_nats::jetstream::new(client).delete_stream(crate::world::STREAM).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_deleted_stops_every_node_and_the_ring_resumes_under_a_higher_generation() {
    let (server, nodes) = three(&[]).await;
    let before = crate::world::Bucket::open(&server.url()).await.meta().await;
    let deleted = Instant::now();
    delete_bucket(&server).await;
    for node in &nodes {
        eventually(DEFAULT_LEASE.saturating_sub(deleted.elapsed()), "stopped acting", || not_ready_reason(node)).await;
    }
    crate::world::settled(&refs(&nodes), DEFAULT_LEASE * 4).await;
    eprintln!("bucket deleted: whole again after {:?}", deleted.elapsed());
    let after = crate::world::Bucket::open(&server.url()).await.meta().await;
    assert!(after.generation > before.generation, "{before:?} {after:?}");
    assert_eq!(after.nonce, before.nonce, "tokens of both lives must be comparable");
    assert!(nodes.iter().all(NodeProcess::is_running));
    set(&nodes[0], &all(), "after").await.unwrap();
    all_read(&refs(&nodes), &all(), "after", SETTLE_LIMIT).await;
}
