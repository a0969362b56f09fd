//! Nodes that leave together.

use std::time::Duration;

use nats_ring::coord::ClaimState;

use crate::common::nats_server::NatsServer;
use crate::common::node::NodeProcess;
use crate::world::{Bucket, DRAIN_LIMIT, FAST, SETTLE_LIMIT, all, all_read, set, settled, start, three};

async fn leave_at_once(nodes: &[NodeProcess]) {
    nodes.iter().for_each(NodeProcess::sigterm);
    for node in nodes {
        assert_eq!(node.wait_exit(DRAIN_LIMIT).await, Some(0), "{}:\n{}", node.name, node.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_leave_at_once_and_the_third_has_everything() {
    let (_server, mut nodes) = three(&[]).await;
    set(&nodes[0], &all(), "kept").await.unwrap();
    // The oldest stays the first time, and leaves the second time.
    let leaving = nodes.split_off(1);
    leave_at_once(&leaving).await;
    settled(&[&nodes[0]], SETTLE_LIMIT).await;
    all_read(&[&nodes[0]], &all(), "kept", Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_two_oldest_of_three_leave_at_once_and_the_youngest_has_everything() {
    let (_server, mut nodes) = three(FAST).await;
    set(&nodes[0], &all(), "kept").await.unwrap();
    let stays = nodes.pop().unwrap();
    leave_at_once(&nodes).await;
    settled(&[&stays], SETTLE_LIMIT).await;
    all_read(&[&stays], &all(), "kept", Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_two_leave_at_once_and_every_claim_is_released() {
    let server = NatsServer::start();
    let nodes = start(&server.url(), &["node-1", "node-2"], FAST).await;
    leave_at_once(&nodes).await;
    let claims = Bucket::open(&server.url()).await.claims().await;
    assert_eq!(claims.len(), 64);
    let held: Vec<_> = claims.iter().filter(|(_, claim)| claim.state != ClaimState::Released).collect();
    assert!(held.is_empty(), "{} claims still held, as {:?}", held.len(), held[0]);
}
