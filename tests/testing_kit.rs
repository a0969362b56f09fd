//! The test kit, used as those who embed the crate use it: hooks, handoffs, time to live, faults, all in simulated time.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "testing_kit/recorded.rs"]
mod recorded;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nats_ring::cache::{CacheClient, CacheConfig, CacheService, Limits};
use nats_ring::node::{NodeError, PartitionState, Phase};
use nats_ring::ring::Timing;
use nats_ring::rpc::Caller;
use nats_ring::service::Release;
use nats_ring::testing::{TestNode, TestRing};
use nats_ring::types::{Epoch, NodeName, PartitionId};
use recorded::{Call, Counter, History};

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

async fn ring_of(nodes: &[&str], history: &Arc<History>) -> TestRing {
    let ring = TestRing::new();
    for node in nodes {
        ring.add_node(*node, Counter::new(node, history)).await;
    }
    ring.settled().await;
    ring
}

async fn add(caller: &dyn Caller, key: &str) -> u64 {
    let reply = caller.call(key.to_owned().into(), "add", Bytes::new(), 5 * SECOND).await.unwrap();
    String::from_utf8(reply.payload.to_vec()).unwrap().parse().unwrap()
}

#[tokio::test]
async fn hooks_come_in_order_with_growing_epochs_through_join_leave_and_crash() {
    let history = History::new();
    let ring = ring_of(&["node-1"], &history).await;
    assert_eq!(history.of("node-1").len(), 16, "the first node owns all");
    ring.add_node("node-2", Counter::new("node-2", &history)).await;
    ring.settled().await;
    let moved: Vec<Call> = history.of("node-2");
    assert_eq!(moved.len(), 8, "half of them move, not one more");
    assert!(moved.iter().all(|call| matches!(call, Call::Own(_, epoch) if *epoch == Epoch::new(2))), "{moved:?}");
    ring.add_node("node-3", Counter::new("node-3", &history)).await;
    ring.settled().await;
    ring.leave("node-1").await.unwrap();
    ring.settled().await;
    let handed = history.of("node-1").into_iter().filter(|call| matches!(call, Call::Release(_, _, Release::Handoff)));
    assert_eq!(handed.count(), 16, "a leaving node is told of everything it gives away");
    let before = history.of("node-3").len();
    ring.crash("node-3").await;
    ring.settled().await;
    assert_eq!(history.of("node-3").len(), before, "a crashed node is told nothing");
    assert!(ring.owners().await.values().all(|(owner, _)| owner.as_str() == "node-2"));
    history.assert_alternate_with_growing_epochs();
}

#[tokio::test]
async fn a_crashed_node_is_replaced_once_its_lease_has_run_out_and_may_come_back() {
    let history = History::new();
    let ring = ring_of(&["node-1"], &history).await;
    ring.add_node("node-2", Counter::new("node-2", &history)).await;
    ring.settled().await;
    ring.crash("node-2").await;
    let crashed_at = ring.elapsed();
    ring.advance(Duration::from_millis(2500)).await;
    let (_, orphaned) = ring.owners().await.into_iter().find(|(_, (owner, _))| owner.as_str() == "node-2").unwrap();
    assert_eq!(orphaned.1, Epoch::new(2), "nobody takes it while the lease lasts");
    ring.settled().await;
    let took = ring.elapsed() - crashed_at;
    assert!(took > Duration::from_millis(2500) && took < 5 * SECOND, "{took:?}");
    ring.add_node("node-2", Counter::new("node-2", &history)).await;
    ring.settled().await;
    assert_eq!(ring.node("node-2").status().start, 2);
    assert_eq!(ring.node("node-2").owned_partitions().len(), 8);
}

#[tokio::test]
async fn a_handoff_moves_what_a_service_holds_and_a_crash_loses_it() {
    let history = History::new();
    let ring = ring_of(&["node-1"], &history).await;
    let keys: Vec<String> = (0..64).map(|n| format!("key-{n}")).collect();
    let caller = ring.caller();
    for key in &keys {
        assert_eq!(add(&*caller, key).await, 1);
    }
    ring.add_node("node-2", Counter::new("node-2", &history)).await;
    ring.settled().await;
    for key in &keys {
        assert_eq!(add(&*caller, key).await, 2, "{key}");
    }
    ring.leave("node-1").await.unwrap();
    for key in &keys {
        assert_eq!(add(&ring.node("node-2"), key).await, 3, "{key}");
    }
    ring.add_node("node-3", Counter::new("node-3", &history)).await;
    ring.settled().await;
    ring.crash("node-2").await;
    ring.settled().await;
    let after: Vec<u64> = futures::future::join_all(keys.iter().map(|key| add(&*caller, key))).await;
    assert!(after.contains(&4) && after.contains(&1), "{after:?}");
}

#[tokio::test]
async fn requests_go_on_while_partitions_move() {
    let history = History::new();
    let ring = ring_of(&["node-1", "node-2"], &history).await;
    let caller = ring.caller();
    let asked = async {
        let mut count = 0;
        while ring.nodes().len() > 1 {
            count += 1;
            assert_eq!(add(&*caller, "key").await, count);
            ring.advance(Duration::from_millis(3)).await;
        }
        count
    };
    let (count, left) = tokio::join!(asked, ring.leave("node-1"));
    left.unwrap();
    assert!(count > 50, "{count}");
}

#[tokio::test]
async fn an_entry_of_the_cache_is_there_until_its_time_is_over() {
    let ring = TestRing::new();
    let config =
        |name: &str| CacheConfig { memory_bytes: 16 << 20, max_value_bytes: 1024, node: NodeName::new(name).unwrap() };
    ring.add_node("node-1", Arc::new(CacheService::new(config("node-1"), ring.clock()))).await;
    ring.settled().await;
    let cache = CacheClient::new(ring.caller(), Limits { max_value_bytes: 1024 });
    let key = Bytes::from_static(b"user:1");
    cache.set(key.clone(), Bytes::from_static(b"\"Alice\""), Some(60 * MINUTE)).await.unwrap();
    ring.advance(30 * MINUTE).await;
    ring.add_node("node-2", Arc::new(CacheService::new(config("node-2"), ring.clock()))).await;
    ring.settled().await;
    ring.leave("node-1").await.unwrap();
    ring.advance(29 * MINUTE).await;
    let found = cache.get(key.clone()).await.unwrap().found.unwrap();
    assert!(found.remaining_ttl.unwrap() < MINUTE, "{found:?}");
    let plain = ring.plain("get", &br#"{"key":"user:1"}"#[..]).await.unwrap();
    assert!(String::from_utf8_lossy(&plain).contains("Alice"), "{plain:?}");
    ring.advance(2 * MINUTE).await;
    assert_eq!(cache.get(key).await.unwrap().found, None);
}

#[tokio::test]
async fn a_partition_whose_hook_fails_is_given_back_and_planned_elsewhere() {
    let history = History::new();
    let ring = ring_of(&["node-1"], &history).await;
    let broken = Counter::new("node-2", &history);
    broken.fails_for((0..16).map(PartitionId::new));
    ring.add_node("node-2", broken.clone()).await;
    ring.advance(5 * SECOND).await;
    assert_eq!(history.of("node-2"), [], "its hooks fail");
    ring.settled().await;
    assert_eq!(ring.node("node-1").owned_partitions().len(), 16);
    broken.fails_for([]);
    ring.advance(5 * MINUTE).await;
    ring.settled().await;
    assert_eq!(ring.node("node-2").owned_partitions().len(), 8, "tried again once the pause was over");
    history.assert_alternate_with_growing_epochs();
}

#[tokio::test]
async fn a_hook_that_hangs_ends_the_node_after_its_limit() {
    let history = History::new();
    let timing = Timing { hook_limit: 20 * SECOND, ..Timing::for_lease(3 * SECOND) };
    let ring = TestRing::builder().timing(timing).build();
    ring.add_node("node-1", Counter::new("node-1", &history)).await;
    ring.settled().await;
    let hanging = Counter::new("node-2", &history);
    hanging.hangs();
    let node = ring.add_node("node-2", hanging).await;
    let began = ring.elapsed();
    assert_eq!(node.wait().await, Err(NodeError::HookHung));
    assert!(ring.elapsed() - began > 20 * SECOND);
    ring.settled().await;
    assert_eq!(ring.node("node-1").owned_partitions().len(), 16);
    ring.add_node("node-2", Counter::new("node-2", &history)).await;
    ring.settled().await;
    assert_eq!(ring.node("node-2").owned_partitions().len(), 8, "restarted, with a service that does not hang");
}

#[tokio::test]
#[should_panic(expected = "node node-1 runs already")]
async fn a_name_that_is_taken_is_refused() {
    let history = History::new();
    let ring = ring_of(&["node-1"], &history).await;
    ring.add_node("node-1", Counter::new("node-1", &history)).await;
}

#[tokio::test]
async fn a_node_frozen_beyond_its_lease_is_replaced_then_told_and_comes_back() {
    let history = History::new();
    let ring = ring_of(&["node-1", "node-2"], &history).await;
    ring.pause("node-2");
    ring.settled().await;
    assert_eq!(ring.node("node-1").owned_partitions().len(), 16);
    let asleep = history.of("node-2").len();
    ring.advance(MINUTE).await;
    assert_eq!(history.of("node-2").len(), asleep, "nothing of a frozen node gets on");
    assert!(!ring.node("node-2").owns_key(b"any") && ring.node("node-2").status().lease_margin.is_zero());
    ring.resume("node-2");
    ring.settled().await;
    let lost = history.of("node-2").into_iter().filter(|call| matches!(call, Call::Release(_, _, Release::Lost)));
    assert_eq!(lost.count(), 8);
    assert_eq!(ring.node("node-2").owned_partitions().len(), 8);
    history.assert_alternate_with_growing_epochs();
}

#[tokio::test]
async fn a_node_cut_off_is_replaced_and_one_cut_off_for_a_moment_is_not() {
    let history = History::new();
    let ring = ring_of(&["node-1", "node-2", "node-3"], &history).await;
    let before = ring.owners().await;
    ring.cut("node-3");
    ring.advance(SECOND).await;
    ring.heal("node-3");
    ring.advance(MINUTE).await;
    ring.settled().await;
    assert_eq!(ring.owners().await, before, "same owners, same epochs");
    ring.cut("node-3");
    ring.settled().await;
    assert!(ring.owners().await.values().all(|(owner, _)| owner.as_str() != "node-3"));
    assert_eq!(ring.node("node-3").status().phase, Phase::Suspended);
    ring.heal("node-3");
    ring.settled().await;
    assert_eq!(ring.node("node-3").status().start, 2);
    history.assert_alternate_with_growing_epochs();
}

#[tokio::test]
async fn when_all_are_cut_off_nobody_is_evicted() {
    let history = History::new();
    let ring = ring_of(&["node-1", "node-2"], &history).await;
    let before = (ring.owners().await, history.all());
    ring.cut("node-1");
    ring.cut("node-2");
    ring.advance(10 * MINUTE).await;
    ring.heal("node-1");
    ring.heal("node-2");
    ring.advance(10 * SECOND).await;
    ring.settled().await;
    assert_eq!((ring.owners().await, history.all()), before);
}

#[tokio::test]
async fn clocks_that_run_apart_by_the_promised_five_percent_evict_nobody() {
    let history = History::new();
    let ring = TestRing::new();
    for (name, rate) in [("node-1", 1.025), ("node-2", 0.975)] {
        ring.add_node(TestNode::new(name).clock_rate(rate).zone("a"), Counter::new(name, &history)).await;
    }
    ring.settled().await;
    let before = ring.owners().await;
    ring.advance(10 * MINUTE).await;
    assert_eq!(ring.owners().await, before);
    ring.settled().await;
}

#[tokio::test]
async fn a_node_whose_member_record_was_cleaned_away_may_leave_all_the_same() {
    let history = History::new();
    let ring = ring_of(&["node-1", "node-2"], &history).await;
    assert!(ring.clean_up("member.node-2").await);
    ring.leave("node-2").await.unwrap();
    ring.settled().await;
    assert_eq!(ring.node("node-1").owned_partitions().len(), 16);
    history.assert_alternate_with_growing_epochs();
}

type Run = (Vec<(Duration, String, Call)>, BTreeMap<PartitionId, (NodeName, Epoch)>);

/// On a runtime of its own, its clock paused from the start: timers of runs in one runtime do not tick alike.
fn run_alone(seed: u64) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(run(seed))
}

/// One run: what was called when, and who owned what at the end.
async fn run(seed: u64) -> Run {
    let ring = TestRing::builder().seed(seed).store_delay(Duration::from_millis(20)).build();
    let history = History::timed(ring.clock());
    for name in ["node-1", "node-2", "node-3"] {
        ring.add_node(name, Counter::new(name, &history)).await;
        ring.settled().await;
    }
    ring.crash("node-2").await;
    ring.settled().await;
    ring.leave("node-1").await.unwrap();
    ring.settled().await;
    history.assert_alternate_with_growing_epochs();
    (history.timed_calls(), ring.owners().await)
}

#[test]
fn a_seed_gives_the_same_run_to_the_millisecond() {
    for seed in 0..5 {
        let (one, two) = (run_alone(seed), run_alone(seed));
        let differ = one.0.iter().zip(&two.0).find(|(one, two)| one != two);
        assert_eq!(differ, None, "seed {seed}");
        assert!(one == two, "seed {seed}");
    }
    assert!(run_alone(7).0 != run_alone(8).0, "another seed, other delays");
}

#[tokio::test]
async fn all_seeds_end_with_the_same_owners() {
    let mut runs = Vec::new();
    for seed in 0..20 {
        let owners: Vec<_> = run(seed).await.1.into_iter().map(|(p, (owner, _))| (p, owner)).collect();
        assert_eq!(owners.len(), 16, "seed {seed}");
        runs.push(owners);
    }
    runs.dedup();
    assert_eq!(runs.len(), 1);
}

#[tokio::test]
async fn an_hour_of_a_quiet_ring_passes_in_a_moment() {
    let history = History::new();
    let ring = ring_of(&["node-1", "node-2", "node-3"], &history).await;
    let (before, began) = (ring.owners().await, std_now());
    ring.advance(60 * MINUTE).await;
    let took = std_now() - began;
    println!("one hour of three nodes took {took:?}");
    assert!(took < MINUTE, "{took:?}");
    assert_eq!(ring.owners().await, before);
}

#[allow(clippy::disallowed_methods)] // What a simulated hour costs is a matter of true time.
fn std_now() -> std::time::Instant {
    std::time::Instant::now()
}

#[tokio::test]
async fn nothing_is_left_when_the_ring_is_dropped() {
    let history = History::new();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let ring = ring_of(&["node-1", "node-2"], &history).await;
    let handle = ring.node("node-1");
    ring.pause("node-2");
    assert!(tasks() > 10);
    drop(ring);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tasks(), before);
    assert_eq!(handle.wait().await, Err(NodeError::GaveUp("the node's task is gone".to_owned())));
    drop(handle);
    assert_eq!(Arc::strong_count(&history), 1, "services are let go of");
}

#[tokio::test]
async fn what_does_not_settle_says_why() {
    let history = History::new();
    let ring = TestRing::new();
    let broken = Counter::new("node-1", &history);
    broken.fails_for([PartitionId::new(5)]);
    ring.add_node("node-1", broken).await;
    let unsettled = ring.settles_within(10 * SECOND).await.unwrap_err();
    assert!(unsettled.to_string().contains("partition 5"), "{unsettled}");
    let known = &ring.node("node-1").status().partitions[5];
    assert_eq!((known.state, known.owner.clone()), (PartitionState::Unowned, None));
}

#[tokio::test]
#[should_panic(expected = "no node node-2 runs; there are: node-1")]
async fn a_node_that_is_not_there_is_named_with_those_that_are() {
    ring_of(&["node-1"], &History::new()).await.pause("node-2");
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "current-thread runtime")]
async fn a_runtime_of_several_threads_is_refused_with_what_to_do() {
    let _ = TestRing::new();
}

#[tokio::test(start_paused = true)]
async fn a_runtime_whose_clock_is_paused_already_will_do() {
    let ring = ring_of(&["node-1"], &History::new()).await;
    assert!(ring.elapsed() < 10 * SECOND);
}
