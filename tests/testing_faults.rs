//! What can be made to go wrong with a ring in memory, one thing at a time, and what is seen of it from outside.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // The test of the kit uses the rest.
#[path = "testing_kit/recorded.rs"]
mod recorded;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nats_ring::testing::{BusFaults, FaultKind, Link, Observed, Observer, StoreFaults, TestRing, TestRingBuilder};
use nats_ring::types::NodeName;
use recorded::{Counter, History};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// The writes that were sent, with their senders, and those decided and answered, by number.
#[derive(Default)]
struct Seen {
    sent: Mutex<Vec<(u64, String)>>,
    decided: Mutex<Vec<u64>>,
    answered: Mutex<Vec<u64>>,
}

impl Observer for Seen {
    fn saw(&self, _: Duration, what: &Observed<'_>) {
        match what {
            Observed::Sent(write) => self.sent.lock().unwrap().push((write.number, write.by.to_string())),
            Observed::Decided { write, .. } => self.decided.lock().unwrap().push(write.number),
            Observed::Answered { write, .. } => self.answered.lock().unwrap().push(write.number),
            _ => {}
        }
    }
}

async fn ring_of(builder: TestRingBuilder, history: &Arc<History>) -> TestRing {
    let ring = builder.build();
    for node in NODES {
        ring.add_node(node, Counter::new(node, history)).await;
    }
    ring.settled().await;
    ring
}

async fn owned_by(ring: &TestRing, node: &str) -> usize {
    let node = NodeName::new(node).unwrap();
    ring.owners().await.values().filter(|(owner, _)| *owner == node).count()
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_main_loop_stands_still_is_replaced_and_comes_back_once_it_turns_again() {
    let history = History::new();
    let ring = ring_of(TestRing::builder(), &history).await;
    ring.wedge("node-2");
    ring.settled().await;
    assert_eq!(owned_by(&ring, "node-2").await, 0);
    ring.unwedge("node-2");
    ring.settled().await;
    assert!(owned_by(&ring, "node-2").await >= 5);
    history.assert_alternate_with_growing_epochs();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_send_or_cannot_receive_is_replaced_and_comes_back() {
    let history = History::new();
    let ring = ring_of(TestRing::builder(), &history).await;
    for (link, kind) in
        [(Link::Mute, FaultKind::LinkMute), (Link::Deaf, FaultKind::LinkDeaf), (Link::Silent, FaultKind::LinkSilent)]
    {
        ring.set_link("node-3", link);
        ring.settled().await;
        assert_eq!(owned_by(&ring, "node-3").await, 0, "{link:?}");
        ring.set_link("node-3", Link::Up);
        ring.settled().await;
        assert!(owned_by(&ring, "node-3").await >= 5, "{link:?}");
        assert_eq!(ring.fired()[&kind], 1);
    }
    history.assert_alternate_with_growing_epochs();
}

/// Unreachable, it gives way though its heartbeats get through; without them, it cannot keep its lease.
#[tokio::test(start_paused = true)]
async fn a_node_that_loses_one_of_its_connections_is_replaced_and_comes_back() {
    let history = History::new();
    let ring = ring_of(TestRing::builder(), &history).await;
    let wires = [
        (TestRing::set_data_link as fn(&TestRing, &str, Link), FaultKind::DataLinkAlone),
        (TestRing::set_heartbeat_link, FaultKind::HeartbeatLinkAlone),
    ];
    for (set, kind) in wires {
        set(&ring, "node-3", Link::Down);
        ring.settled().await;
        assert_eq!(owned_by(&ring, "node-3").await, 0, "{kind:?}");
        set(&ring, "node-3", Link::Up);
        ring.settled().await;
        assert!(owned_by(&ring, "node-3").await >= 5, "{kind:?}");
        assert_eq!(ring.fired()[&kind], 1);
    }
    history.assert_alternate_with_growing_epochs();
}

#[tokio::test(start_paused = true)]
async fn a_write_on_its_way_lands_although_its_sender_was_killed_and_nobody_is_told() {
    let (seen, history) = (Arc::new(Seen::default()), History::new());
    let ring = ring_of(TestRing::builder().observer(seen.clone()), &history).await;
    ring.set_store_delay("node-2", 100 * MS, 100 * MS);
    let before = seen.sent.lock().unwrap().len();
    let newest =
        || seen.sent.lock().unwrap()[before..].iter().find(|(_, by)| by == "node-2/1").map(|(number, _)| *number);
    let write = loop {
        match newest() {
            Some(write) => break write,
            None => ring.advance(MS).await,
        }
    };
    assert!(!seen.decided.lock().unwrap().contains(&write), "it takes a tenth of a second");
    ring.crash("node-2").await;
    ring.advance(200 * MS).await;
    assert!(seen.decided.lock().unwrap().contains(&write));
    assert!(!seen.answered.lock().unwrap().contains(&write));
}

#[tokio::test(start_paused = true)]
async fn while_jetstream_answers_nothing_nobody_is_evicted_and_all_goes_on_afterwards() {
    let history = History::new();
    let ring = ring_of(TestRing::builder(), &history).await;
    let (owners, calls) = (ring.owners().await, history.all());
    ring.set_jetstream_silent(true);
    ring.advance(20 * SECOND).await;
    ring.set_jetstream_silent(false);
    ring.settled().await;
    assert!(ring.fired()[&FaultKind::JetStreamSilent] > 3);
    assert_eq!((ring.owners().await, history.all()), (owners, calls), "same owners, same epochs, no hook was called");
}

#[tokio::test(start_paused = true)]
async fn nats_away_as_a_whole_evicts_nobody_whether_or_not_it_is_noticed() {
    let history = History::new();
    let ring = ring_of(TestRing::builder(), &history).await;
    let owners = ring.owners().await;
    for link in [Link::Down, Link::Silent] {
        ring.set_away(link);
        ring.advance(30 * SECOND).await;
        ring.set_away(Link::Up);
        ring.settled().await;
        assert_eq!(ring.owners().await, owners, "{link:?}");
    }
}

/// What was on its way to it went with its connection, and is told anew: else it would wait for ever for its name.
#[tokio::test(start_paused = true)]
async fn a_process_stopped_for_longer_than_its_connection_is_away_sees_what_there_is() {
    let history = History::new();
    let ring = ring_of(TestRing::builder(), &history).await;
    ring.crash("node-3").await;
    ring.set_store_faults(StoreFaults { watch_lag: 2 * SECOND, ..StoreFaults::default() });
    ring.add_node("node-3", Counter::new("node-3", &history)).await;
    ring.advance(MS).await;
    ring.pause("node-3");
    ring.advance(100 * MS).await;
    ring.cut("node-3");
    ring.advance(100 * MS).await;
    ring.heal("node-3");
    ring.advance(5 * SECOND).await;
    ring.resume("node-3");
    ring.set_store_faults(StoreFaults::default());
    ring.settled().await;
    assert!(owned_by(&ring, "node-3").await >= 5);
}

#[tokio::test(start_paused = true)]
async fn slow_watches_and_late_or_lost_writes_are_survived_and_counted() {
    let history = History::new();
    let ring = ring_of(TestRing::builder().seed(3), &history).await;
    ring.set_store_faults(StoreFaults {
        write_lost: 0.05,
        write_unanswered: 0.05,
        write_late: 0.05,
        late_by: 2 * SECOND,
        write_conflict: 0.05,
        watch_lag: 40 * MS,
        watch_repeat: 0.05,
        watch_gap: 0.02,
    });
    ring.set_bus_faults(BusFaults { delay: 10 * MS, loss: 0.02, duplicate: 0.02, ..BusFaults::default() });
    ring.advance(60 * SECOND).await;
    ring.crash("node-1").await;
    ring.advance(20 * SECOND).await;
    ring.set_store_faults(StoreFaults::default());
    ring.set_bus_faults(BusFaults::default());
    ring.settled().await;
    history.assert_alternate_with_growing_epochs();
    let fired = ring.fired();
    for kind in [
        FaultKind::WriteLost,
        FaultKind::WriteUnanswered,
        FaultKind::WriteLate,
        FaultKind::WriteConflict,
        FaultKind::WatchLagged,
        FaultKind::WatchRepeated,
        FaultKind::WatchGap,
        FaultKind::MessageDelayed,
    ] {
        assert!(fired[&kind] > 0, "{kind:?}: {fired:?}");
    }
}
