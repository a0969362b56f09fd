//! Processes that end without a word, and are started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::common::http::Http;
use crate::common::nats_server::NatsServer;
use crate::common::node::NodeProcess;
use crate::world::{
    DEFAULT_LEASE, DRAIN_LIMIT, FAST, Read, SETTLE_LIMIT, all, coordinator, owned_by, read_all, set, settled, start,
    start_number, taken_over, three,
};

/// Looks at `/ready` of some nodes again and again.
struct ReadyWatch {
    stop: Arc<AtomicBool>,
    lookers: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl ReadyWatch {
    async fn start(nodes: &[&NodeProcess]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut lookers = Vec::new();
        for node in nodes {
            lookers.push(tokio::spawn(look(node.url("/ready").await, Arc::clone(&stop))));
        }
        Self { stop, lookers }
    }

    /// Ends; fails if a node was not ready at any time.
    async fn assert_always_ready(self) {
        self.stop.store(true, Ordering::SeqCst);
        for looker in self.lookers {
            let (looks, refused) = looker.await.unwrap();
            assert!(refused.is_empty(), "not ready {} of {looks} times: {}", refused.len(), refused[0]);
            assert!(looks > 10, "looked {looks} times only");
        }
    }
}

async fn look(url: String, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let http = Http::with_limit(Duration::from_secs(3));
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let (mut looks, mut refused) = (0, Vec::new());
    while !stop.load(Ordering::SeqCst) {
        pace.tick().await;
        looks += 1;
        match http.get(&url).await {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => refused.push(format!("{} {}", answer.status, answer.text())),
            Err(error) => refused.push(error),
        }
    }
    (looks, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_the_others_answer_everything_within_two_leases_and_stay_ready_all_the_time() {
    let (_server, nodes) = three(&[]).await;
    set(&nodes[0], &all(), "before").await.unwrap();
    let before = settled(&nodes.iter().collect::<Vec<_>>(), SETTLE_LIMIT).await;
    let lost = owned_by(&before, "node-2");
    let kept: Vec<usize> = all().into_iter().filter(|p| !lost.contains(p)).collect();
    let survivors = [&nodes[0], &nodes[2]];
    let watch = ReadyWatch::start(&survivors).await;
    let killed = Instant::now();
    nodes[1].kill9();
    taken_over(&survivors, DEFAULT_LEASE * 2).await;
    eprintln!("killed: all 64 answered again by the others after {:?}", killed.elapsed());
    let after = settled(&survivors, SETTLE_LIMIT).await;
    watch.assert_always_ready().await;
    for node in survivors {
        let wrong = read_all(node, &kept).await.into_iter().filter(|r| *r != Read::Value("before".into())).count();
        assert_eq!(wrong, 0, "{}: keys of survivors kept their values", node.name);
    }
    assert!(lost.iter().all(|p| after[*p].1 > before[*p].1), "a takeover is a new epoch");
    assert!(kept.iter().all(|p| after[*p] == before[*p]), "what survivors owned stayed where it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_killed_then_it_and_the_next_oldest_at_once_leaves_one_that_owns_everything() {
    let server = NatsServer::start();
    let mut nodes = start(&server.url(), &["node-1", "node-2", "node-3", "node-4"], &[]).await;
    assert_eq!(coordinator(&nodes[3]).await, "node-1");
    nodes.remove(0).kill9();
    taken_over(&nodes.iter().collect::<Vec<_>>(), DEFAULT_LEASE * 2).await;
    settled(&nodes.iter().collect::<Vec<_>>(), SETTLE_LIMIT).await;
    assert_eq!(coordinator(&nodes[2]).await, "node-2");
    let killed = Instant::now();
    nodes[0].kill9();
    nodes[1].kill9();
    // Each is judged by a lease of its own: the second is looked at once the first was found silent.
    taken_over(&[&nodes[2]], DEFAULT_LEASE * 4).await;
    eprintln!("coordinator and next oldest killed: the last one owned everything after {:?}", killed.elapsed());
    assert_eq!(coordinator(&nodes[2]).await, "node-4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restarted_at_once_make_the_ring_whole_again_and_epochs_only_grow() {
    let (server, mut nodes) = three(FAST).await;
    for how in ["SIGTERM", "kill -9"] {
        let before = settled(&nodes.iter().collect::<Vec<_>>(), SETTLE_LIMIT).await;
        let starts = [start_number(&nodes[0]).await, start_number(&nodes[1]).await, start_number(&nodes[2]).await];
        if how == "SIGTERM" {
            nodes.iter().for_each(NodeProcess::sigterm);
            for node in &nodes {
                assert_eq!(node.wait_exit(DRAIN_LIMIT).await, Some(0), "{}:\n{}", node.name, node.log());
            }
        } else {
            nodes.iter().for_each(NodeProcess::kill9);
        }
        nodes = (1..=3).map(|n| NodeProcess::spawn(&format!("node-{n}"), &server.url(), FAST)).collect();
        let after = settled(&nodes.iter().collect::<Vec<_>>(), SETTLE_LIMIT).await;
        for (node, start) in nodes.iter().zip(starts) {
            assert_eq!(start_number(node).await, start + 1, "{how}: {}", node.name);
        }
        let grew = before.iter().zip(&after).all(|(before, after)| after.1 > before.1);
        assert!(grew, "{how}: every partition has a new owner, so every epoch grew: {before:?} {after:?}");
        set(&nodes[0], &all(), how).await.unwrap();
        crate::world::all_read(&nodes.iter().collect::<Vec<_>>(), &all(), how, Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_the_same_name_right_after_kill_9_waits_for_the_old_lease_and_then_runs() {
    let server = NatsServer::start();
    let mut nodes = start(&server.url(), &["node-1", "node-2"], &[]).await;
    nodes.remove(1).kill9();
    let killed = Instant::now();
    let again = NodeProcess::spawn("node-2", &server.url(), &[]);
    again.wait_log("waiting for its lease to run out", DEFAULT_LEASE).await;
    again.wait_ready(SETTLE_LIMIT).await;
    // Its heartbeat went out at most a sixth of a lease before the kill.
    assert!(killed.elapsed() >= DEFAULT_LEASE * 5 / 6, "ready after {:?}: it did not wait", killed.elapsed());
    nodes.push(again);
    settled(&nodes.iter().collect::<Vec<_>>(), SETTLE_LIMIT).await;
    assert_eq!(start_number(&nodes[1]).await, 2);
    // Alone in the ring there is nobody else to judge the old lease either. Both copies are gone; that both nodes are, and are not
    // merely cut off and go on by themselves, is certain eleven leases later.
    nodes.iter().for_each(NodeProcess::kill9);
    let alone = NodeProcess::spawn("node-1", &server.url(), &[]);
    let until_empty = SETTLE_LIMIT + DEFAULT_LEASE * 11;
    alone.wait_ready(until_empty).await;
    taken_over(&[&alone], until_empty).await;
    assert!(alone.is_running());
}
