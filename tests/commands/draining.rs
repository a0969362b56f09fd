//! `drain` and `safe-to-stop`: a node goes from afar, told step by step, and the last one is not let go by mistake.

use super::ground::{Ground, READY};

#[tokio::test]
async fn a_node_is_drained_from_afar_and_the_last_one_only_by_force() {
    let ring = Ground::start().await;
    let set = ring.run(&["set", "kept", "1"]).await;
    assert_eq!(set.code, Some(0), "{set:?}");
    its_steps_are_told_as_json(&ring).await;
    its_steps_are_told_as_text(&ring).await;
    ring.run(&["get", "kept"]).await.assert_says(&["1\n"]);
    the_last_one_is_not_safe_to_stop(&ring).await;
}

async fn its_steps_are_told_as_json(ring: &Ground) {
    let drained = ring.run(&["drain", "b-1", "--json"]).await;
    assert_eq!(drained.code, Some(0), "{drained:?}");
    let steps = drained.documents();
    let (first, last) = (&steps[0], &steps[steps.len() - 1]);
    assert_eq!((&first["type"], &first["node"]), (&"acknowledged".into(), &"b-1".into()), "{steps:?}");
    assert_eq!((&last["type"], &last["node"]), (&"left".into(), &"b-1".into()), "{steps:?}");
    let left: Vec<u64> = steps.iter().filter_map(|step| step["left"].as_u64()).collect();
    assert!(left.is_sorted_by(|a, b| a > b), "{left:?}");
    let times: Vec<f64> = steps.iter().map(|step| step["elapsed_seconds"].as_f64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");

    assert_eq!(ring.nodes[2].wait_exit(READY).await, Some(0), "{}", ring.nodes[2].log());
    let status = ring.json(&["status"]).await;
    assert_eq!((&status["healthy"], &status["unowned"]), (&true.into(), &0.into()), "{status}");
    ring.run(&["drain", "b-1"]).await.assert_failed(10, &["'b-1'", "not live"]);
    ring.run(&["drain", "z-9"]).await.assert_failed(10, &["'z-9'"]);
    let nodes = ring.run(&["nodes"]).await;
    assert!(!nodes.out.contains("b-1"), "{nodes:?}");
    ring.run(&["nodes", "--all"]).await.assert_says(&["b-1", "left"]);
}

async fn its_steps_are_told_as_text(ring: &Ground) {
    let drained = ring.run(&["drain", "a-2"]).await;
    drained.assert_says(&["draining a-2: 32 of 32 partitions left, ", "a-2 has left after "]);
    assert_eq!(ring.nodes[1].wait_exit(READY).await, Some(0));
}

async fn the_last_one_is_not_safe_to_stop(ring: &Ground) {
    let run = ring.run(&["safe-to-stop", "a-1", "--json"]).await;
    run.assert_failed(11, &["a-1 is not safe to stop"]);
    let safety = &run.documents()[0];
    assert_eq!((&safety["safe"], &safety["reasons"][0]["code"]), (&false.into(), &"nobody_else".into()), "{safety}");
    ring.run(&["drain", "a-1"]).await.assert_failed(11, &["'a-1'", "force"]);
    assert!(ring.nodes[0].is_running());
    let forced = ring.run(&["drain", "a-1", "--force"]).await;
    assert_eq!(forced.code, Some(0), "{forced:?}");
    assert_eq!(ring.nodes[0].wait_exit(READY).await, Some(0));
    let status = ring.json(&["status"]).await;
    assert_eq!((&status["healthy"], &status["unowned"]), (&false.into(), &64.into()), "{status}");
    ring.run(&["status"]).await.assert_says(&["not healthy", "0 of 64", "none alive"]);
    ring.run(&["status", "--check"]).await.assert_failed(11, &["not healthy", "64 without an owner"]);
}
