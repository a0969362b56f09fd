//! Rows of the failure table in docs/failures.md that take several nodes and no server: whole rings in memory, in simulated
//! time.
#![allow(clippy::unwrap_used)]

#[path = "testing_kit/recorded.rs"]
#[allow(dead_code)]
mod recorded;

use std::sync::Arc;
use std::time::Duration;

use nats_ring::ring::Timing;
use nats_ring::testing::TestRing;
use recorded::{Counter, History};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(3);

/// A ring whose moves come one after the other, slowly enough to fail in between.
async fn slow_ring(nodes: &[&str]) -> (TestRing, Arc<History>) {
    let (history, timing) = (History::new(), Timing { parallel_moves: 1, ..Timing::for_lease(LEASE) });
    let ring = TestRing::builder().timing(timing).store_delay(40 * MILLI).build();
    for node in nodes {
        ring.add_node(*node, Counter::new(node, &history)).await;
    }
    ring.settled().await;
    (ring, history)
}

async fn owned(ring: &TestRing, name: &str) -> usize {
    ring.owners().await.values().filter(|(owner, _)| owner.as_str() == name).count()
}

/// Waits until the node has no more than so many.
async fn until_at_most(ring: &TestRing, name: &str, count: usize) {
    while owned(ring, name).await > count {
        ring.advance(MILLI).await;
    }
}

#[tokio::test]
async fn a_node_that_dies_while_it_drains_is_taken_over_for_what_it_still_held() {
    let (ring, _) = slow_ring(&["node-1", "node-2", "node-3"]).await;
    let leaving = ring.node("node-3");
    tokio::select! {
        left = leaving.shutdown() => panic!("it left before it could die: {left:?}"),
        () = until_at_most(&ring, "node-3", 3) => {}
    }
    let held = owned(&ring, "node-3").await;
    assert!(held > 0, "it had given everything away");
    let died = ring.elapsed();
    ring.crash("node-3").await;
    ring.settled().await;
    assert!(ring.elapsed() - died > LEASE - LEASE / 4, "a lease is waited for, however it was about to leave");
    assert_eq!((owned(&ring, "node-1").await, owned(&ring, "node-2").await), (8, 8));
}

#[tokio::test]
async fn moves_go_on_without_a_coordinator_and_the_next_oldest_plans() {
    let (ring, history) = slow_ring(&["node-1", "node-2"]).await;
    ring.add_node("node-3", Counter::new("node-3", &history)).await;
    // Both give some of theirs to the newcomer; the first move of node-2 has landed.
    until_at_most(&ring, "node-2", 7).await;
    ring.crash("node-1").await;
    let died = ring.elapsed();
    until_at_most(&ring, "node-2", 6).await;
    assert!(ring.elapsed() - died < LEASE / 2, "a switch is between two nodes");
    ring.settled().await;
    assert_eq!((owned(&ring, "node-2").await, owned(&ring, "node-3").await), (8, 8));
}

#[tokio::test]
async fn a_frozen_peer_holds_a_leaving_node_up_for_seconds_only() {
    let (ring, _) = slow_ring(&["node-1", "node-2", "node-3"]).await;
    let (began, leaving) = (ring.elapsed(), ring.node("node-3"));
    until_drained(&ring, &leaving).await;
    ring.pause("node-2");
    leaving.shutdown().await.unwrap();
    assert!(ring.elapsed() - began < 20 * SECOND, "{:?}", ring.elapsed() - began);
    ring.resume("node-2");
}

/// Asks it to drain and waits until it owns nothing; it is still saying farewell then.
async fn until_drained(ring: &TestRing, leaving: &nats_ring::Ring) {
    tokio::select! {
        left = leaving.shutdown() => panic!("it has left already: {left:?}"),
        () = until_at_most(ring, "node-3", 0) => {}
    }
}
