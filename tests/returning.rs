//! A node that comes back soon is brought up to date by what it missed, not copied anew; what it cannot go on from is copied.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nats_ring::cache::{CacheClient, CacheConfig, CacheService, Limits};
use nats_ring::coord::{Key, Record};
use nats_ring::node::{Event, Returning, Ring};
use nats_ring::testing::{Observed, Observer, TestRing, TestRingBuilder};
use nats_ring::types::{Consistency, Generation};
use nats_ring::{BoxError, Bytes, Grant, NodeName, PartitionId, Release, Request, Service, ServiceError, async_trait};
use tokio::sync::broadcast::Receiver;

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const VALUE_BYTES: usize = 5_000;
const ENTRIES: usize = 1_200;
const ALL_BYTES: u64 = (ENTRIES * VALUE_BYTES) as u64;
const MEGABYTE: u64 = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);

fn cache_of(ring: &TestRing, node: &str) -> Arc<CacheService> {
    let node = NodeName::new(node).unwrap();
    let config = CacheConfig { memory_bytes: 64 * MEGABYTE, max_value_bytes: 1 << 20, node };
    Arc::new(CacheService::new(config, ring.clock()))
}

struct Bed {
    ring: TestRing,
    cache: CacheClient,
}

fn value(number: usize, round: usize) -> Bytes {
    format!("\"{round}-{}\"", char::from(b'a' + (number % 26) as u8).to_string().repeat(VALUE_BYTES)).into()
}

fn key(number: usize) -> Bytes {
    format!("key-{number}").into()
}

impl Bed {
    /// Three nodes, and everything at each of them: 6 MB.
    async fn start(builder: TestRingBuilder) -> Self {
        let ring = builder.partitions(4).build();
        for node in NODES {
            ring.add_node(node, cache_of(&ring, node)).await;
        }
        ring.settled().await;
        let cache = CacheClient::new(ring.caller(), Limits { max_value_bytes: 1 << 20 });
        let bed = Self { ring, cache };
        bed.all_in_sync().await;
        bed.write(0..ENTRIES, 0).await;
        bed
    }

    async fn write(&self, numbers: std::ops::Range<usize>, round: usize) {
        for number in numbers {
            let quorum = self.cache.clone().with_consistency(Consistency::Quorum);
            quorum.set(key(number), value(number, round), None).await.unwrap();
        }
    }

    async fn assert_holds(&self, numbers: std::ops::Range<usize>, round: usize) {
        for number in numbers {
            let found = self.cache.get(key(number)).await.unwrap().found;
            assert_eq!(found.map(|found| found.value), Some(value(number, round)), "key-{number}");
        }
    }

    fn status_of(&self, node: &str) -> nats_ring::node::Status {
        self.ring.node(node).status()
    }

    /// Lets time pass until every partition has a copy at each node.
    async fn all_in_sync(&self) {
        for _ in 0..12_000 {
            let all = |status: nats_ring::node::Status| status.partitions.iter().all(|p| p.replicas.len() == 3);
            if NODES.iter().all(|node| all(self.status_of(node))) {
                return;
            }
            self.ring.advance(Duration::from_millis(10)).await;
        }
        panic!("not in sync within two minutes: {:?}", self.status_of("node-1").partitions);
    }

    /// Bytes of whole copies and of differences that these nodes have sent.
    fn sent(&self, nodes: &[&str]) -> (u64, u64) {
        let sum = |(copied, missed): (u64, u64), node: &&str| {
            let status = self.status_of(node);
            (copied + status.copied_bytes, missed + status.difference_bytes)
        };
        nodes.iter().fold((0, 0), sum)
    }

    /// Has `node-3` own everything there is, so that what it holds is what is read.
    async fn leave_all_to_the_third(&self) {
        for node in &NODES[..2] {
            self.ring.leave(node).await.unwrap();
        }
        self.ring.settled().await;
    }
}

fn started(events: &mut Receiver<Arc<Event>>) -> Vec<Event> {
    let all = std::iter::from_fn(|| events.try_recv().ok());
    all.filter(|event| matches!(**event, Event::CopyStarted { .. })).map(|event| (*event).clone()).collect()
}

fn listeners(bed: &Bed) -> Vec<Receiver<Arc<Event>>> {
    NODES[..2].iter().map(|node| bed.ring.node(node)).map(|ring: Ring| ring.events()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_evicted_while_frozen_is_sent_what_it_missed_and_nothing_else() {
    let bed = Bed::start(TestRing::builder()).await;
    let mut events = listeners(&bed);
    let before = bed.sent(&NODES[..2]);
    bed.ring.pause("node-3");
    bed.ring.advance(6 * SECOND).await;
    // More of each partition than is kept for anybody: 1.2 MB in all.
    bed.write(0..ENTRIES / 5, 1).await;
    bed.ring.resume("node-3");
    bed.all_in_sync().await;
    assert!(bed.status_of("node-3").start >= 2, "it was evicted");
    let after = bed.sent(&NODES[..2]);
    let (copied, missed) = (after.0 - before.0, after.1 - before.1);
    let copies: Vec<Event> = events.iter_mut().flat_map(started).collect();
    assert_eq!((copied, copies), (0, Vec::new()));
    assert!((ALL_BYTES / 5..ALL_BYTES / 5 * 2).contains(&missed), "{missed}");
    bed.leave_all_to_the_third().await;
    bed.assert_holds(0..ENTRIES / 5, 1).await;
    bed.assert_holds(ENTRIES / 5..ENTRIES, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_cut_off_goes_on_from_what_it_has_too() {
    let bed = Bed::start(TestRing::builder()).await;
    let before = bed.sent(&NODES[..2]);
    bed.ring.cut("node-3");
    bed.ring.advance(10 * SECOND).await;
    bed.write(0..100, 1).await;
    bed.ring.heal("node-3");
    bed.all_in_sync().await;
    let after = bed.sent(&NODES[..2]);
    assert_eq!(after.0, before.0, "copied");
    bed.leave_all_to_the_third().await;
    bed.assert_holds(0..100, 1).await;
    bed.assert_holds(100..ENTRIES, 0).await;
}

/// The owners have let go what it missed.
#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_late_is_copied_anew_and_holds_the_same() {
    let returning = Returning { delay: 20 * SECOND, ..Returning::default() };
    let bed = Bed::start(TestRing::builder().returning(returning)).await;
    let before = bed.sent(&NODES[..2]);
    bed.ring.pause("node-3");
    bed.ring.advance(6 * SECOND).await;
    bed.write(0..ENTRIES / 2, 1).await;
    bed.ring.advance(30 * SECOND).await;
    bed.write(0..ENTRIES / 2, 2).await;
    bed.ring.resume("node-3");
    bed.all_in_sync().await;
    let copied = bed.sent(&NODES[..2]).0 - before.0;
    assert!(copied > ALL_BYTES / 10 * 9, "{copied}");
    bed.leave_all_to_the_third().await;
    bed.assert_holds(0..ENTRIES / 2, 2).await;
    bed.assert_holds(ENTRIES / 2..ENTRIES, 0).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_absent_nodes_stays_within_its_bound_over_all_partitions() {
    let returning = Returning { delay: 20 * SECOND, max_bytes: 500_000, ..Returning::default() };
    let bed = Bed::start(TestRing::builder().returning(returning)).await;
    let before = bed.sent(&NODES[..2]);
    bed.ring.pause("node-3");
    bed.ring.advance(6 * SECOND).await;
    // 750 KB each of four partitions at two owners: beyond what they may keep of it.
    bed.write(0..ENTRIES / 2, 1).await;
    bed.ring.resume("node-3");
    bed.all_in_sync().await;
    let copied = bed.sent(&NODES[..2]).0 - before.0;
    assert!(copied > ALL_BYTES / 2, "{copied}");
    bed.leave_all_to_the_third().await;
    bed.assert_holds(0..ENTRIES / 2, 1).await;
}

#[tokio::test(start_paused = true)]
async fn with_no_delay_nothing_is_kept_and_every_copy_begins_anew() {
    let returning = Returning { delay: Duration::ZERO, ..Returning::default() };
    let bed = Bed::start(TestRing::builder().returning(returning)).await;
    let before = bed.sent(&NODES[..2]);
    bed.ring.pause("node-3");
    bed.ring.advance(6 * SECOND).await;
    bed.ring.resume("node-3");
    bed.all_in_sync().await;
    let copied = bed.sent(&NODES[..2]).0 - before.0;
    assert!(copied > ALL_BYTES / 10 * 9, "{copied}");
}

/// Where a deleted store comes back empty, copies of the former one have no place in it.
#[tokio::test(start_paused = true)]
async fn another_store_drops_what_was_kept() {
    let bed = Bed::start(TestRing::builder()).await;
    bed.ring.pause("node-3");
    bed.ring.advance(6 * SECOND).await;
    bed.ring.recreate_store();
    bed.ring.advance(10 * SECOND).await;
    bed.ring.resume("node-3");
    bed.ring.settled().await;
    bed.all_in_sync().await;
    for number in 0..50 {
        assert!(bed.cache.get(key(number)).await.unwrap().found.is_none(), "key-{number}");
    }
}

/// A service that takes a second to let go of what it held of a partition.
struct SlowToLetGo;

#[async_trait]
impl Service for SlowToLetGo {
    async fn on_own(&self, _: &[Grant]) -> Result<(), BoxError> {
        Ok(())
    }

    async fn on_release(&self, _: &[Grant], _: Release) -> Result<(), BoxError> {
        Ok(())
    }

    async fn handle(&self, _: &Grant, _: Request) -> Result<Bytes, ServiceError> {
        Ok(Bytes::new())
    }

    fn replicates(&self) -> bool {
        true
    }

    async fn discard(&self, _: PartitionId) {
        tokio::time::sleep(SECOND).await;
    }
}

/// Whether the ring's second generation was written down.
#[derive(Default)]
struct SecondGeneration(AtomicBool);

impl Observer for SecondGeneration {
    fn saw(&self, _: Duration, what: &Observed<'_>) {
        let Observed::Decided { write, outcome: Ok(_) } = what else { return };
        if let Ok(Record::Meta(meta)) = Record::decode(&Key::Meta, &write.value)
            && write.key == Key::Meta.text()
            && meta.generation == Generation::new(2)
        {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Until the others hear of it, they go on by what the store has forgotten, and may give out an epoch a second time.
#[tokio::test(start_paused = true)]
async fn who_finds_that_the_store_went_back_says_so_before_its_service_has_let_go_of_what_it_held() {
    let second = Arc::new(SecondGeneration::default());
    let ring = TestRing::builder().partitions(8).observer(second.clone()).build();
    for node in &NODES[..2] {
        ring.add_node(*node, Arc::new(SlowToLetGo)).await;
    }
    ring.settled().await;
    ring.roll_back(1);
    // Eight partitions take eight seconds.
    ring.advance(SECOND).await;
    assert!(second.0.load(Ordering::Relaxed));
    ring.settled().await;
    assert_eq!(ring.owners().await.len(), 8);
}

/// One of the four files is damaged: that partition is copied anew, the others go on from what was kept.
#[tokio::test(start_paused = true)]
async fn a_node_that_drained_and_is_back_goes_on_from_its_files_and_a_damaged_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let returning = Returning { keep: Some(folder.path().to_owned()), ..Returning::default() };
    let bed = Bed::start(TestRing::builder().returning(returning)).await;
    let owned_by = |node: &str| bed.status_of(node).owned();
    assert!(owned_by("node-3") > 0, "what it owned itself is kept too");
    let before = bed.sent(&NODES[..2]);
    bed.ring.leave("node-3").await.unwrap();
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&files[0], bytes).unwrap();
    bed.write(0..ENTRIES / 5, 1).await;
    bed.ring.add_node("node-3", cache_of(&bed.ring, "node-3")).await;
    bed.all_in_sync().await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "used, or of no use");
    let after = bed.sent(&NODES[..2]);
    let copied = after.0 - before.0;
    assert!((ALL_BYTES / 8..ALL_BYTES / 2).contains(&copied), "one of four: {copied}");
    bed.leave_all_to_the_third().await;
    bed.assert_holds(0..ENTRIES / 5, 1).await;
    bed.assert_holds(ENTRIES / 5..ENTRIES, 0).await;
}

/// What a file holds of another ring is nobody's here.
#[tokio::test(start_paused = true)]
async fn files_of_another_ring_are_refused_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let returning = || Returning { keep: Some(folder.path().to_owned()), ..Returning::default() };
    let first = TestRing::builder().partitions(2).returning(returning()).build();
    for node in &NODES[..2] {
        first.add_node(*node, cache_of(&first, node)).await;
    }
    first.settled().await;
    first.advance(SECOND).await;
    first.leave("node-2").await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    let second = TestRing::builder().partitions(2).seed(2).returning(returning()).build();
    second.add_node("node-2", cache_of(&second, "node-2")).await;
    second.settled().await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(second.owners().await.len(), 2);
}
