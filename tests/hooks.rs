//! Hooks as ownership moves, with nodes in the test's own process and a real NATS server.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "common/mod.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::eventually::eventually;
use common::nats_server::NatsServer;
use common::recorder::{Call, Embedded, Recorder, settled};
use nats_ring::node::NodeError;
use nats_ring::ring::Event;
use nats_ring::service::Release;
use nats_ring::types::{BootClock, Clock, Epoch, PartitionId, Time};

const LIMIT: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_and_drain_call_the_hooks_once_each_in_epoch_order() {
    let server = NatsServer::start();
    let embedded = Embedded::fast(server.connect_options());
    let (first, second) = (Recorder::new("first"), Recorder::new("second"));
    let one = embedded.start("one", first.clone()).await;
    settled(&one, 1, LIMIT).await;
    let two = embedded.start("two", second.clone()).await;
    settled(&one, 2, LIMIT).await;
    let handed = first.calls().iter().filter(|call| matches!(call, Call::Release(_, _, Release::Handoff))).count();
    assert_eq!(handed, 8, "exactly half of 16 move: {:?}", first.calls());
    one.shutdown().await.unwrap();
    settled(&two, 1, LIMIT).await;
    let released = first.calls().iter().filter(|call| matches!(call, Call::Release(..))).count();
    assert_eq!(released, 16, "a drain releases everything");
    // The last one releases to nobody, and the epochs go on from there.
    two.shutdown().await.unwrap();
    let third = Recorder::new("third");
    let again = embedded.start("three", third.clone()).await;
    settled(&again, 1, LIMIT).await;
    assert!(third.calls().iter().all(|call| matches!(call, Call::Own(_, epoch) if *epoch > Epoch::new(1))));
    for recorder in [first, second, third] {
        recorder.assert_in_order();
    }
    again.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_on_own_gives_that_partition_to_another_node() {
    let server = NatsServer::start();
    let embedded = Embedded::fast(server.connect_options());
    let (bad, good) = (Recorder::new("bad"), Recorder::new("good"));
    let broken = PartitionId::new(3);
    bad.faults.lock().unwrap().own_fails.insert(broken);
    let one = embedded.start("one", bad.clone()).await;
    let mut events = one.events();
    eventually(LIMIT, "the other fifteen are served", || async {
        let served = one.owned_partitions().len();
        if served == 15 { Ok(()) } else { Err(served) }
    })
    .await;
    let two = embedded.start("two", good.clone()).await;
    eventually(LIMIT, "the other node serves it", || async {
        let owner = two.route(broken).map(|route| route.owner.node.to_string());
        if owner.as_deref() == Some("two") { Ok(()) } else { Err(owner) }
    })
    .await;
    assert!(good.calls().iter().any(|call| matches!(call, Call::Own(p, _) if *p == broken)));
    assert!(!bad.calls().iter().any(|call| matches!(call, Call::Own(p, _) if *p == broken)));
    let mut failed = false;
    while let Ok(event) = events.try_recv() {
        failed |= matches!(&*event, Event::HookFailed { hook: "on_own", .. });
    }
    assert!(failed, "the failure is an event");
    two.shutdown().await.unwrap();
    one.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_could_not_be_started_is_tried_again_where_there_is_nobody_else() {
    let server = NatsServer::start();
    let embedded = Embedded::fast(server.connect_options());
    let service = Recorder::new("one");
    let broken = PartitionId::new(3);
    service.faults.lock().unwrap().own_fails.insert(broken);
    let one = embedded.start("one", service.clone()).await;
    eventually(LIMIT, "the other fifteen are served", || async {
        let served = one.owned_partitions().len();
        if served == 15 { Ok(()) } else { Err(served) }
    })
    .await;
    service.faults.lock().unwrap().own_fails.clear();
    settled(&one, 1, LIMIT).await;
    one.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_hook_is_reported_then_costs_the_node_its_lease() {
    let server = NatsServer::start();
    let mut embedded = Embedded::fast(server.connect_options());
    embedded.timing.hook_slow = Duration::from_millis(300);
    embedded.timing.hook_limit = Duration::from_secs(1);
    let (bad, good) = (Recorder::new("bad"), Recorder::new("good"));
    let two = embedded.start("two", good.clone()).await;
    settled(&two, 1, LIMIT).await;
    bad.faults.lock().unwrap().own_hangs.extend((0..16).map(PartitionId::new));
    let one = embedded.start("one", bad.clone()).await;
    let mut events = one.events();
    assert_eq!(tokio::time::timeout(LIMIT, one.wait()).await.unwrap(), Err(NodeError::HookHung));
    let (mut slow, mut hung) = (false, false);
    while let Ok(event) = events.try_recv() {
        slow |= matches!(&*event, Event::HookSlow { hook: "on_own", .. });
        hung |= matches!(&*event, Event::HookHung { hook: "on_own", .. });
    }
    assert!(slow && hung, "slow {slow}, hung {hung}");
    settled(&two, 1, LIMIT).await;
    two.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_hook_that_hangs_meets_its_deadline_too() {
    let server = NatsServer::start();
    let mut embedded = Embedded::fast(server.connect_options());
    embedded.timing.hook_limit = Duration::from_secs(1);
    let (bad, good) = (Recorder::new("bad"), Recorder::new("good"));
    let one = embedded.start("one", bad.clone()).await;
    settled(&one, 1, LIMIT).await;
    bad.faults.lock().unwrap().release_hangs = true;
    let two = embedded.start("two", good.clone()).await;
    assert_eq!(tokio::time::timeout(LIMIT, one.wait()).await.unwrap(), Err(NodeError::HookHung));
    settled(&two, 1, LIMIT).await;
    two.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_away_for_longer_than_the_lease_suspends_and_resumes_without_any_hook_or_new_epoch() {
    let mut server = NatsServer::start();
    let embedded = Embedded::fast(server.connect_options());
    let (first, second) = (Recorder::new("first"), Recorder::new("second"));
    let one = embedded.start("one", first.clone()).await;
    let two = embedded.start("two", second.clone()).await;
    settled(&one, 2, LIMIT).await;
    settled(&two, 2, LIMIT).await;
    let before = (first.calls(), second.calls());
    let epochs = |ring: &nats_ring::node::Ring| ring.status().partitions.iter().map(|p| p.epoch).collect::<Vec<_>>();
    let epochs_before = epochs(&one);
    let mut events = one.events();
    server.stop();
    eventually(LIMIT, "both are suspended", || async {
        let margins = (one.status().lease_margin, two.status().lease_margin);
        if margins == (Duration::ZERO, Duration::ZERO) { Ok(()) } else { Err(margins) }
    })
    .await;
    assert!(!one.owns_key(b"any") && !two.owns_key(b"any"), "a suspended node must not take itself for the owner");
    // Four leases.
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.start_again();
    eventually(LIMIT, "both are back", || async {
        let reasons = (one.status().not_ready, two.status().not_ready);
        if reasons == (None, None) { Ok(()) } else { Err(reasons) }
    })
    .await;
    // Two leases more: whoever would evict has had the time to.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(epochs(&one), epochs_before);
    assert_eq!((first.calls(), second.calls()), before);
    let mut resumed = false;
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(&*event, Event::Evicted { .. } | Event::LeaseLost { .. }), "{event:?}");
        resumed |= matches!(&*event, Event::Resumed { .. });
    }
    assert!(resumed);
    one.shutdown().await.unwrap();
    two.shutdown().await.unwrap();
}

/// A clock that, once told to, holds up whoever reads it in a thread of the given name: the node's loop.
struct WedgingClock {
    wedged: AtomicBool,
}

impl Clock for WedgingClock {
    fn now(&self) -> Time {
        while self.wedged.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        BootClock.now()
    }
}

#[test]
fn a_node_whose_loop_does_not_turn_loses_its_lease_though_its_connections_live() {
    let runtime =
        |threads| tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
    let server = NatsServer::start();
    let clock = Arc::new(WedgingClock { wedged: AtomicBool::new(false) });
    let healthy = Embedded::fast(server.connect_options());
    let wedging = Embedded { clock: clock.clone(), ..Embedded::fast(server.connect_options()) };
    // Threads enough that those held up leave some for connections and their time-outs.
    let (wedged_runtime, test) = (runtime(8), runtime(2));
    let (first, second) = (Recorder::new("first"), Recorder::new("second"));
    let one = wedged_runtime.block_on(wedging.start("one", first.clone()));
    // By its own word: others see its claims before its service is told of them, and what it never had it cannot lose.
    wedged_runtime.block_on(settled(&one, 1, LIMIT));
    test.block_on(async {
        let two = healthy.start("two", second.clone()).await;
        settled(&two, 2, LIMIT).await;
        clock.wedged.store(true, Ordering::SeqCst);
        settled(&two, 1, LIMIT).await;
        clock.wedged.store(false, Ordering::SeqCst);
        // It finds itself evicted, says so to its service, and comes back as a new incarnation.
        settled(&two, 2, LIMIT).await;
        two.shutdown().await.unwrap();
    });
    assert!(first.calls().iter().any(|call| matches!(call, Call::Release(_, _, Release::Lost))));
    first.assert_in_order();
    wedged_runtime.block_on(async { one.shutdown().await.unwrap() });
}
