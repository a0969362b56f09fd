//! `replicas`, `consistency`, `on-loss`: what the ring keeps to with its copies, changed while it runs.

use serde_json::json;

use super::common::eventually::eventually;
use super::common::http::Http;
use super::common::nats_server::NatsServer;
use super::common::node::NodeProcess;
use super::ground::{Ground, READY};

const WAIT: &str = "40s";

#[tokio::test]
async fn what_the_ring_keeps_to_is_changed_while_it_runs() {
    let ring = Ground::start().await;
    fewer_copies_are_kept_and_more_again(&ring).await;
    requests_that_name_no_consistency_get_the_rings(&ring).await;
    a_choice_for_losses_is_kept(&ring).await;
    what_cannot_be_asked_for_is_refused(&ring).await;
    a_node_is_safe_to_stop_where_one_copy_is_asked_for_and_where_others_have_theirs(&ring).await;
}

/// A copy that takes seconds: 12 MB at 1 MB a second.
#[tokio::test]
async fn a_copy_under_way_shows_how_far_it_is() {
    let server = NatsServer::start();
    let flags = ["--lease", "6s", "--partitions", "4", "--copy-rate", "1MB"];
    let first = NodeProcess::spawn("a-1", &server.url(), &flags);
    first.wait_ready(READY).await;
    let (http, url) = (Http::new(), first.url("/set").await);
    for number in 0..24 {
        let body = json!({"key": format!("key-{number}"), "value": "v".repeat(500_000)});
        assert_eq!(http.post(&url, &body).await.unwrap().status, 200);
    }
    let second = NodeProcess::spawn("a-2", &server.url(), &flags);
    let ring = Ground { nodes: vec![first, second], server };
    let seen = eventually(READY, "a copy is under way", || async {
        let status = ring.json(&["status"]).await;
        let copied = status["copies_under_way"]["copied_bytes"].as_u64();
        if copied.is_some_and(|bytes| bytes > 0) { Ok(status) } else { Err(status) }
    })
    .await;
    let copies = &seen["copies_under_way"];
    assert_eq!((&seen["silent"], &seen["suspended"]), (&json!([]), &json!([])), "{seen}");
    let one = &copies["listed"][0];
    assert_eq!(
        (&one["from"], &one["node"], &one["caught_up"]),
        (&json!("a-1"), &json!("a-2"), &json!(false)),
        "{seen}"
    );
    assert!(one["total_bytes"].as_u64().unwrap() > 400_000 && one["bytes_per_second"].is_u64(), "{seen}");
    ring.run(&["status"]).await.assert_says(&["copying  ", " under way: ", "a-1 -> a-2  ", " of ", "B/s, ", " left"]);
}

async fn fewer_copies_are_kept_and_more_again(ring: &Ground) {
    let change = ring.json(&["replicas", "2", "--wait", WAIT]).await;
    assert_eq!((&change["changed"], &change["config"]["replicas"]), (&json!(true), &json!(2)), "{change}");
    assert_eq!(change["notes"], json!([]), "{change}");
    let seen = ring.json(&["ring"]).await;
    for one in seen["partitions"].as_array().unwrap() {
        let replicas = one["replicas"].as_array().unwrap();
        assert_eq!((replicas.len(), &replicas[0]), (2, &one["owner"]), "{one}");
        assert_eq!((&one["learners"], &one["under_replicated"]), (&json!([]), &json!(false)), "{one}");
    }
    ring.run(&["ring", "--partitions"]).await.assert_says(&["in sync", "learning", "63"]);
    ring.run(&["replicas", "2"]).await.assert_says(&["nothing to change: 2 copies"]);
    let change = ring.json(&["replicas", "5", "--wait", WAIT]).await;
    assert!(change["notes"][0].as_str().unwrap().contains("3 of 5"), "{change}");
    ring.run(&["status"]).await.assert_says(&["3 of each (5 with more nodes)", "healthy\n"]);
    assert_eq!(ring.json(&["replicas", "3", "--wait", WAIT]).await["changed"], true);
}

async fn requests_that_name_no_consistency_get_the_rings(ring: &Ground) {
    ring.run(&["set", "k", "0"]).await.assert_says(&["stored"]);
    let change = ring.run(&["consistency", "strong"]).await;
    change.assert_says(&["answered at strong"]);
    let told = eventually(READY, "its owner knows", || async {
        let seen = ring.json(&["inspect", "k"]).await;
        if seen["consistency"] == "strong" { Ok(()) } else { Err(seen) }
    });
    told.await;
    let status = ring.json(&["status"]).await;
    assert_eq!(status["config"]["consistency"], "strong");
    ring.run(&["set", "k", "1"]).await.assert_says(&["stored"]);
    assert_eq!(ring.json(&["consistency", "eventual"]).await["config"]["consistency"], "eventual");
}

async fn a_choice_for_losses_is_kept(ring: &Ground) {
    assert_eq!(ring.json(&["on-loss", "wait"]).await["config"]["on_loss"], "wait");
    ring.run(&["status"]).await.assert_says(&["on loss wait"]);
    ring.run(&["on-loss", "accept"]).await.assert_says(&["starts empty"]);
}

async fn what_cannot_be_asked_for_is_refused(ring: &Ground) {
    for count in ["0", "8", "-1", "many"] {
        ring.run(&["replicas", count]).await.assert_failed(2, &[count, "1 to 7"]);
    }
    ring.run(&["consistency", "all"]).await.assert_failed(2, &["'all'", "eventual, quorum or strong"]);
    ring.run(&["on-loss", "panic"]).await.assert_failed(2, &["'panic'", "accept or wait"]);
    assert_eq!(ring.json(&["status"]).await["config"]["replicas"], 3);
}

async fn a_node_is_safe_to_stop_where_one_copy_is_asked_for_and_where_others_have_theirs(ring: &Ground) {
    ring.json(&["replicas", "1", "--wait", WAIT]).await;
    let safety = ring.json(&["safe-to-stop", "a-1"]).await;
    assert_eq!(safety["safe"], true, "one copy is all that is asked for: {safety}");
    ring.json(&["replicas", "3", "--wait", WAIT]).await;
    assert_eq!(ring.json(&["safe-to-stop", "a-1"]).await["reasons"], json!([]));
}
