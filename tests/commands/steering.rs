//! `pause`, `resume`, `cordon`, `uncordon`, `move`, `unpin`: asked for once, in force until it is undone.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ground::Ground;

/// How long a change may take to be carried out.
const WAIT: &str = "40s";

async fn owned(ring: &Ground) -> BTreeMap<String, u64> {
    let nodes = ring.json(&["nodes"]).await;
    let nodes = nodes["nodes"].as_array().unwrap().clone();
    nodes.iter().map(|node| (node["node"].as_str().unwrap().to_owned(), node["owned"].as_u64().unwrap())).collect()
}

async fn owner(ring: &Ground, partition: usize) -> String {
    ring.json(&["ring"]).await["partitions"][partition]["owner"].as_str().unwrap().to_owned()
}

async fn config(ring: &Ground) -> Value {
    ring.json(&["status"]).await["config"].clone()
}

#[tokio::test]
async fn what_operators_ask_for_holds_until_it_is_undone() {
    let ring = Ground::start().await;
    a_pause_is_told_and_undone(&ring).await;
    a_partition_is_moved_stays_and_is_let_go(&ring).await;
    a_cordoned_node_gets_nothing_from_a_node_that_leaves(&ring).await;
}

async fn a_pause_is_told_and_undone(ring: &Ground) {
    let change = ring.json(&["pause"]).await;
    assert_eq!((&change["changed"], &change["config"]["paused"]), (&json!(true), &json!(true)));
    assert_eq!(ring.json(&["pause"]).await["changed"], false);
    ring.run(&["status"]).await.assert_says(&["paused"]);
    ring.run(&["resume", "--wait", WAIT]).await.assert_says(&["balanced"]);
    assert_eq!(config(ring).await["paused"], false);
}

async fn a_partition_is_moved_stays_and_is_let_go(ring: &Ground) {
    let before = owner(ring, 5).await;
    let target = if before == "b-1" { "a-1" } else { "b-1" };
    let change = ring.json(&["move", "5", target, "--wait", WAIT]).await;
    assert_eq!(change["config"]["pins"], json!({ "5": target }));
    assert_eq!(owner(ring, 5).await, target);
    ring.run(&["status"]).await.assert_says(&["pinned", &format!("5 to {target}")]);
    ring.run(&["unpin", "5"]).await.assert_says(&["left to the planner"]);
    assert_eq!(config(ring).await["pins"], json!({}));

    ring.run(&["move", "64", target]).await.assert_failed(10, &["partition 64", "64"]);
    ring.run(&["move", "5", "z-9"]).await.assert_failed(10, &["'z-9'"]);
    ring.run(&["move", "five", "b-1"]).await.assert_failed(2, &["five"]);
    ring.run(&["unpin", "64"]).await.assert_failed(10, &["partition 64"]);
}

async fn a_cordoned_node_gets_nothing_from_a_node_that_leaves(ring: &Ground) {
    ring.run(&["cordon", "z-9"]).await.assert_failed(10, &["'z-9'", "a-1, a-2, b-1"]);
    ring.run(&["cordon", "b-1", "--wait", WAIT]).await.assert_says(&["b-1", "gets nothing new"]);
    ring.run(&["nodes"]).await.assert_says(&["cordoned"]);
    let before = owned(ring).await;
    let drained = ring.run(&["drain", "a-2"]).await;
    assert_eq!(drained.code, Some(0), "{drained:?}");
    let after = owned(ring).await;
    assert_eq!((after["b-1"], after["a-1"]), (before["b-1"], 64 - before["b-1"]), "before: {before:?}");
    ring.run(&["uncordon", "b-1", "--wait", WAIT]).await.assert_says(&["its share"]);
    let after = owned(ring).await;
    assert_eq!((after["a-1"], after["b-1"]), (32, 32));
}
