//! Copies that are made for other nodes: what they survive, what they say of themselves, and what becomes of one for which there
//! is no memory.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nats_ring::cache::{CacheClient, CacheConfig, CacheService, Limits};
use nats_ring::node::{Copying, Event, LearnerStatus, Ring, WaitsFor};
use nats_ring::testing::{Observed, Observer, TestRing};
use nats_ring::{
    BoxError, Bytes, Chunks, Grant, NodeName, PartitionId, Release, Request, Service, ServiceError, async_trait,
};
use tokio::sync::broadcast::Receiver;

const VALUE_BYTES: usize = 20_000;
const ENTRIES: usize = 300;
/// A chunk takes entries until it has so much, and may be this many under way.
const CHUNK_BYTES: u64 = 160 * 1024;
const WINDOW: u64 = 8;
const MEGABYTE: u64 = 1_000_000;

/// What the nodes have sent each other about copies.
#[derive(Default)]
struct Sent(AtomicU64);

impl Observer for Sent {
    fn saw(&self, _: Duration, what: &Observed<'_>) {
        if let Observed::Published { by: Some(_), message, .. } = what
            && message.subject.ends_with(".copy")
        {
            self.0.fetch_add(message.payload.len() as u64, Ordering::Relaxed);
        }
    }
}

fn limits() -> Limits {
    Limits { max_value_bytes: 1 << 20 }
}

async fn add(ring: &TestRing, node: &str, memory_bytes: u64) -> Ring {
    let config = CacheConfig { memory_bytes, max_value_bytes: 1 << 20, node: NodeName::new(node).unwrap() };
    ring.add_node(node, Arc::new(CacheService::new(config, ring.clock()))).await
}

fn value(number: usize) -> Bytes {
    format!("\"{}\"", char::from(b'a' + (number % 26) as u8).to_string().repeat(VALUE_BYTES)).into()
}

async fn fill(ring: &TestRing) {
    let cache = CacheClient::new(ring.caller(), limits());
    for number in 0..ENTRIES {
        cache.set(format!("key-{number}").into(), value(number), None).await.unwrap();
    }
}

fn learner(owner: &Ring) -> Option<LearnerStatus> {
    owner.status().partitions[0].learners.first().cloned()
}

/// Lets time pass until the copy is so far.
async fn copied(ring: &TestRing, owner: &Ring, bytes: u64) -> LearnerStatus {
    for _ in 0..5_000 {
        if let Some(learner) = learner(owner).filter(|learner| learner.copied_bytes >= bytes) {
            return learner;
        }
        ring.advance(Duration::from_millis(10)).await;
    }
    panic!("not {bytes} bytes of a copy within 50 s: {:?}", learner(owner));
}

/// Lets time pass until there are two copies in sync.
async fn two_copies(ring: &TestRing, owner: &Ring) {
    for _ in 0..12_000 {
        if owner.status().partitions[0].replicas.len() == 2 {
            return;
        }
        ring.advance(Duration::from_millis(10)).await;
    }
    panic!("no second copy within two minutes: {:?}", learner(owner));
}

fn about_copies(events: &mut Receiver<Arc<Event>>) -> Vec<Event> {
    std::iter::from_fn(|| events.try_recv().ok())
        .filter(|event| {
            matches!(
                **event,
                Event::CopyStarted { .. } | Event::CopyDone { .. } | Event::CopyFailed { .. } | Event::CopyShort { .. }
            )
        })
        .map(|event| (*event).clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_link_is_cut_for_two_seconds_goes_on_where_it_was() {
    let sent = Arc::new(Sent::default());
    let copying = Copying { parallel: 1, bytes_per_second: MEGABYTE };
    let builder = TestRing::builder().partitions(1).lease(Duration::from_secs(10)).copying(copying);
    let ring = builder.observer(sent.clone()).build();
    let owner = add(&ring, "node-1", 64 * MEGABYTE).await;
    ring.settled().await;
    fill(&ring).await;
    let mut events = owner.events();
    add(&ring, "node-2", 64 * MEGABYTE).await;

    let on_the_way = copied(&ring, &owner, 2 * MEGABYTE).await;
    let total = on_the_way.total_bytes.unwrap();
    assert!((6 * MEGABYTE..8 * MEGABYTE).contains(&total), "{total}");
    let rate = on_the_way.bytes_per_second.unwrap();
    assert!((MEGABYTE / 2..2 * MEGABYTE).contains(&rate), "{rate}");
    assert!((2.0..12.0).contains(&on_the_way.remaining_seconds.unwrap()), "{on_the_way:?}");
    let all = owner.status().answer().copies_under_way;
    let listed: Vec<_> = all.listed.iter().map(|copy| (copy.partition.get(), copy.from.as_str())).collect();
    assert_eq!((all.learners, listed), (1, vec![(0, "node-1")]), "what an operator is told who asks the node");
    assert_eq!((all.copied_bytes, all.total_bytes), (on_the_way.copied_bytes, total));

    ring.cut("node-2");
    ring.advance(Duration::from_secs(2)).await;
    ring.heal("node-2");
    two_copies(&ring, &owner).await;
    let told = about_copies(&mut events);
    let [Event::CopyStarted { .. }, Event::CopyDone { bytes, took, .. }] = &told[..] else { panic!("{told:?}") };
    assert!((6 * MEGABYTE..7 * MEGABYTE).contains(bytes) && *took > Duration::from_secs(7), "{bytes} {took:?}");
    let again = sent.0.load(Ordering::Relaxed) - bytes;
    assert!(again < WINDOW * CHUNK_BYTES, "{again} bytes were sent beside the {bytes} that there are");
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_which_nothing_arrives_for_half_a_minute_is_given_up_and_begins_anew() {
    let copying = Copying { parallel: 1, bytes_per_second: MEGABYTE };
    let ring = TestRing::builder().partitions(1).lease(Duration::from_secs(60)).copying(copying).build();
    let owner = add(&ring, "node-1", 64 * MEGABYTE).await;
    ring.settled().await;
    fill(&ring).await;
    let mut events = owner.events();
    add(&ring, "node-2", 64 * MEGABYTE).await;
    copied(&ring, &owner, 2 * MEGABYTE).await;
    ring.cut("node-2");
    ring.advance(Duration::from_secs(20)).await;
    assert_eq!(about_copies(&mut events).len(), 1, "it is not given up yet");
    ring.advance(Duration::from_secs(35)).await;
    let told = about_copies(&mut events);
    assert!(matches!(told.first(), Some(Event::CopyFailed { bytes, .. }) if *bytes >= 2 * MEGABYTE), "{told:?}");
    ring.heal("node-2");
    two_copies(&ring, &owner).await;
    assert!(matches!(about_copies(&mut events).last(), Some(Event::CopyDone { .. })));
}

/// The copy is a member all the same: the owner has everything, and the bound on memory is each node's own.
#[tokio::test(start_paused = true)]
async fn a_learner_without_the_memory_for_its_copy_is_told_of_by_its_owner_and_nothing_is_lost() {
    let ring = TestRing::builder().partitions(1).build();
    let owner = add(&ring, "node-1", 64 * MEGABYTE).await;
    ring.settled().await;
    fill(&ring).await;
    let mut events = owner.events();
    let bound = 2 * MEGABYTE;
    add(&ring, "node-2", bound).await;
    two_copies(&ring, &owner).await;
    let told = about_copies(&mut events);
    let short = told.iter().find_map(|event| match event {
        Event::CopyShort { evicted, wanted_bytes, bound_bytes, .. } => Some((*evicted, *wanted_bytes, *bound_bytes)),
        _ => None,
    });
    let (evicted, wanted_bytes, bound_bytes) = short.unwrap_or_else(|| panic!("{told:?}"));
    assert!(evicted > 150 && wanted_bytes > 6 * MEGABYTE && bound_bytes == bound, "{told:?}");
    let shown = owner.status().partitions[0].short_of_memory.clone();
    let shown: Vec<_> = shown.iter().map(|s| (s.node.as_str(), s.evicted, s.wanted_bytes, s.bound_bytes)).collect();
    assert_eq!(shown, [("node-2", evicted, wanted_bytes, bound_bytes)]);

    let cache = CacheClient::new(ring.caller(), limits());
    for number in 0..ENTRIES {
        let found = cache.get(format!("key-{number}").into()).await.unwrap().found;
        assert_eq!(found.map(|found| found.value), Some(value(number)), "key-{number}");
    }
}

/// What is counted as having made room is counted from the beginning of the copy it is told with.
#[tokio::test(start_paused = true)]
async fn a_copy_for_which_there_is_room_says_nothing_of_memory() {
    let ring = TestRing::builder().partitions(1).build();
    let owner = add(&ring, "node-1", 64 * MEGABYTE).await;
    ring.settled().await;
    fill(&ring).await;
    let mut events = owner.events();
    add(&ring, "node-2", 64 * MEGABYTE).await;
    two_copies(&ring, &owner).await;
    let told = about_copies(&mut events);
    assert!(matches!(told[..], [Event::CopyStarted { .. }, Event::CopyDone { .. }]), "{told:?}");
    assert_eq!(owner.status().partitions[0].short_of_memory, []);
}

/// Keeps copies of nothing, and panics once, over one call.
struct Fragile(Mutex<Option<&'static str>>);

impl Fragile {
    fn called(&self, call: &'static str) {
        let panics = self.0.lock().unwrap().take_if(|over| *over == call).is_some();
        assert!(!panics, "on purpose, over {call}");
    }
}

#[async_trait]
impl Service for Fragile {
    async fn on_own(&self, _: &[Grant]) -> Result<(), BoxError> {
        Ok(())
    }

    async fn on_release(&self, _: &[Grant], _: Release) -> Result<(), BoxError> {
        Ok(())
    }

    async fn handle(&self, _: &Grant, _: Request) -> Result<Bytes, ServiceError> {
        Ok(Bytes::new())
    }

    async fn snapshot(&self, _: &Grant, _: usize) -> Result<Chunks, BoxError> {
        self.called("snapshot");
        Ok(Box::pin(futures::stream::empty()))
    }

    fn replicates(&self) -> bool {
        true
    }

    fn clear(&self, _: PartitionId) {
        self.called("clear");
    }

    fn held_bytes(&self, _: PartitionId) -> Option<u64> {
        self.called("held_bytes");
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_over_a_copy_has_it_made_anew() {
    let healthy = || Arc::new(Fragile(Mutex::default()));
    for (over, at_owner) in [("snapshot", true), ("held_bytes", true), ("clear", false)] {
        let ring = TestRing::builder().partitions(1).build();
        let (first, second) = (healthy(), healthy());
        let owner = ring.add_node("node-1", first.clone()).await;
        ring.settled().await;
        let mut events = owner.events();
        *if at_owner { &first } else { &second }.0.lock().unwrap() = Some(over);
        ring.add_node("node-2", second.clone()).await;
        two_copies(&ring, &owner).await;
        assert!(first.0.lock().unwrap().is_none() && second.0.lock().unwrap().is_none(), "{over} was called");
        let told = about_copies(&mut events);
        assert!(matches!(told.last(), Some(Event::CopyDone { .. })), "{over}: {told:?}");
        let failed = told.iter().filter(|event| matches!(event, Event::CopyFailed { .. })).count();
        assert_eq!(failed, usize::from(over != "held_bytes"), "{over}: {told:?}");
    }
}

/// A node of four has no copy, and is left alone.
#[tokio::test(start_paused = true)]
async fn a_partition_of_which_every_copy_is_lost_says_whom_it_lost_and_how_long_it_waits() {
    let lease = Duration::from_secs(1);
    let ring = TestRing::builder().partitions(1).lease(lease).build();
    let mut nodes = Vec::new();
    for name in ["node-1", "node-2", "node-3", "node-4"] {
        nodes.push(add(&ring, name, 64 * MEGABYTE).await);
    }
    ring.settled().await;
    let in_sync = || nodes[0].status().partitions[0].replicas.clone();
    for _ in 0..1_000 {
        if in_sync().len() == 3 {
            break;
        }
        ring.advance(Duration::from_millis(100)).await;
    }
    let mut had = in_sync();
    had.sort();
    assert_eq!(had.len(), 3, "{had:?}");
    let left = nodes.iter().find(|node| !had.contains(node.name())).unwrap().clone();
    drop(nodes);
    for node in &had {
        ring.crash(node.as_str()).await;
    }
    let waits = || left.status().partitions[0].waits.clone();
    for _ in 0..200 {
        if waits().is_some() {
            break;
        }
        ring.advance(Duration::from_millis(50)).await;
    }
    let first = waits().unwrap();
    let mut lost = first.lost.clone();
    lost.sort();
    assert_eq!((first.what, lost), (WaitsFor::EmptyStart, had));
    let remaining = first.remaining_seconds.unwrap();
    assert!((10.0..=11.0).contains(&remaining), "{first:?}");
    assert_eq!(left.status().answer().waiting_partitions, 1);
    ring.advance(Duration::from_secs(4)).await;
    let later = waits().unwrap().remaining_seconds.unwrap();
    assert!((remaining - later - 4.0).abs() <= 0.5, "{remaining} s, and four seconds later {later} s");
    ring.advance(Duration::from_secs(8)).await;
    assert_eq!((waits(), left.status().owned()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_node_holds_is_told_apart_by_whose_it_is() {
    let ring = TestRing::builder().partitions(2).build();
    let mut caches = Vec::new();
    for name in ["node-1", "node-2"] {
        let config =
            CacheConfig { memory_bytes: 64 * MEGABYTE, max_value_bytes: 1 << 20, node: NodeName::new(name).unwrap() };
        let cache = Arc::new(CacheService::new(config, ring.clock()));
        ring.add_node(name, cache.clone()).await;
        caches.push(cache);
    }
    ring.settled().await;
    fill(&ring).await;
    let entries = ENTRIES as u64;
    let held = || [caches[0].stats(), caches[1].stats()];
    for _ in 0..1_000 {
        if held().iter().all(|stats| stats.entries == entries) {
            break;
        }
        ring.advance(Duration::from_millis(100)).await;
    }
    let [one, two] = held();
    assert_eq!((one.owned, one.copied), (two.copied, two.owned), "each has the other's as copies");
    assert!(one.owned.entries > 0 && one.copied.entries > 0, "{one:?}");
    for stats in [one, two] {
        assert_eq!(stats.entries, stats.owned.entries + stats.copied.entries);
        assert_eq!(stats.bytes, stats.owned.bytes + stats.copied.bytes);
    }
}
