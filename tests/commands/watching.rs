//! `watch`: tells what happens while it happens, and ends when told.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::common::node::NodeProcess;
use super::ground::{Ground, READY, program};

/// A command that goes on in the background; its output can be waited for.
fn background(ring: &Ground, arguments: &[&str]) -> NodeProcess {
    let mut command: Command = program(arguments);
    command.env("NATS_RING_NATS", ring.server.url());
    NodeProcess::spawn_command("watch", command)
}

/// Waits until it tells changes from now on.
async fn watching(watch: &NodeProcess) {
    watch.wait_log("watching", READY).await;
}

#[tokio::test]
async fn it_tells_a_move_and_a_pause_while_they_happen_and_ends_as_asked() {
    let ring = Ground::start().await;
    a_move_and_a_pause_are_told(&ring).await;
    it_ends_after_the_time_given(&ring).await;
    it_ends_quietly_on_ctrl_c(&ring).await;
}

async fn a_move_and_a_pause_are_told(ring: &Ground) {
    let watch = background(ring, &["watch", "--json"]);
    watching(&watch).await;
    let owner = ring.json(&["ring"]).await["partitions"][9]["owner"].clone();
    let target = if owner == "a-1" { "b-1" } else { "a-1" };
    ring.json(&["move", "9", target, "--wait", "40s"]).await;
    ring.json(&["pause"]).await;
    watch.wait_log("\"paused\":true", READY).await;
    watch.wait_log("\"partition\":9,", READY).await;
    let events: Vec<Value> = watch.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["type"], "watching");
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).cloned().collect::<Vec<_>>();
    let moved = of("partition_owned").into_iter().find(|event| event["partition"] == 9).unwrap();
    assert_eq!((&moved["from"], &moved["to"]), (&owner, &json!(target)), "{events:?}");
    let changes = of("config_changed");
    assert_eq!(changes[0]["config"]["pins"], json!({ "9": target }), "{events:?}");
    assert!(!of("plan_written").is_empty(), "{events:?}");
}

async fn it_ends_after_the_time_given(ring: &Ground) {
    let run = ring.run(&["watch", "--for", "300ms"]).await;
    run.assert_says(&["watching: plan", "a-1", "a-2", "b-1"]);
    let counted = background(ring, &["watch", "--count", "1"]);
    watching(&counted).await;
    ring.json(&["resume"]).await;
    assert_eq!(counted.wait_exit(READY).await, Some(0), "{}", counted.log());
    assert_eq!(counted.log().lines().count(), 2, "{}", counted.log());
    assert!(counted.log().contains("configuration: not paused"), "{}", counted.log());
}

async fn it_ends_quietly_on_ctrl_c(ring: &Ground) {
    let watch = background(ring, &["watch"]);
    watching(&watch).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(watch.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(watch.wait_exit(Duration::from_secs(20)).await, Some(0), "{}", watch.log());
    assert_eq!(watch.log().lines().count(), 1, "{}", watch.log());
}
