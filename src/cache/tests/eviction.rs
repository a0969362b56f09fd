//! The memory bound: kept, shared between partitions, and never a silent refusal.

use super::*;
use crate::cache::item::{Item, NEVER, Written};
use crate::cache::map::{BoundedMap, Gone};
use crate::types::Time;

const BOUND_BYTES: u64 = 1 << 20;

async fn fill(node: &Node, grant: &Grant, entries: usize, value_len: usize) {
    for number in 0..entries {
        node.set(grant, format!("key:{number}").as_bytes(), &text(value_len), None).await;
    }
}

#[tokio::test]
async fn the_bound_holds_and_live_entries_that_make_room_are_counted() {
    let node = node_with(BOUND_BYTES);
    let grants: Vec<_> = (0..4).map(|partition| grant(partition, 1)).collect();
    node.cache.on_own(&grants).await.unwrap();
    let mut written = 0;
    for (round, value_len) in [100, 5000, 300, 60_000, 1000].into_iter().enumerate() {
        for number in 0..600 {
            let grant = &grants[(number + round) % 4];
            node.set(grant, format!("{round}:{number}").as_bytes(), &text(value_len), None).await;
            written += 1;
            let stats = node.cache.stats();
            assert!(stats.bytes <= BOUND_BYTES, "{} bytes", stats.bytes);
            assert_eq!(stats.entries + stats.evicted, written);
        }
    }
}

#[test]
fn an_entry_whose_successor_was_not_admitted_counts_as_evicted() {
    let now = Time::ZERO;
    let mut map = BoundedMap::new(1);
    map.resize(2000, now);
    let mut put = |len| {
        let (value, written) = (text(len), Written::before(now, Duration::ZERO));
        let item =
            Item { key: b"k", value: &value, content_type: b"", version: version(1, 1), deadline: NEVER, written };
        map.insert(&item, now)
    };
    assert_eq!(put(100), (Gone::default(), true));
    assert_eq!(put(5000), (Gone { evicted: 1, expired: 0 }, false));
    assert!(map.look(b"k", now).is_none());
}

#[tokio::test]
async fn what_was_just_written_can_be_read_however_full_the_cache_is() {
    let node = node_with(BOUND_BYTES);
    let grants: Vec<_> = (0..16).map(|partition| grant(partition, 1)).collect();
    node.cache.on_own(&grants).await.unwrap();
    for number in 0..2000_usize {
        let (grant, key) = (&grants[number * 7 % 16], format!("key:{}", number % 90));
        // The same keys again in other lengths, so that entries grow where they are.
        let value = text(100 + number * 7919 % 60_000);
        node.set(grant, key.as_bytes(), &value, None).await;
        assert_eq!(node.get(grant, key.as_bytes()).await.map(|got| got.value.len()), Some(value.len()));
    }
}

#[tokio::test]
async fn a_busy_partition_uses_what_idle_ones_leave_and_yields_when_they_become_busy() {
    let node = node_with(BOUND_BYTES);
    let grants: Vec<_> = (0..4).map(|partition| grant(partition, 1)).collect();
    node.cache.on_own(&grants).await.unwrap();
    fill(&node, &grants[0], 2000, 1000).await;
    assert!(node.cache.stats().bytes > BOUND_BYTES * 3 / 4, "{:?}", node.cache.stats());
    for grant in &grants[1..] {
        fill(&node, grant, 2000, 1000).await;
    }
    // Each has about its equal share now, the first one too.
    node.cache.discard(PartitionId::new(0)).await;
    let rest = node.cache.stats().bytes;
    assert!(rest < BOUND_BYTES * 9 / 10 && rest > BOUND_BYTES / 2, "{rest} bytes in three partitions");
}

#[tokio::test]
async fn memory_of_expired_and_of_discarded_entries_is_used_by_others() {
    let node = node_with(BOUND_BYTES);
    let (first, second, third) = (grant(1, 1), grant(2, 1), grant(3, 1));
    node.cache.on_own(&[first.clone(), second.clone(), third.clone()]).await.unwrap();
    for number in 0..700 {
        node.set(&first, format!("key:{number}").as_bytes(), &text(1000), Some(1)).await;
    }
    assert_eq!(node.cache.stats().evicted, 0);
    node.clock.advance(Duration::from_secs(1));
    while node.sweep(100) == 100 {}
    fill(&node, &second, 650, 1000).await;
    assert_eq!(node.cache.stats().evicted, 0);
    node.cache.discard(PartitionId::new(2)).await;
    fill(&node, &third, 650, 1000).await;
    assert_eq!(node.cache.stats().evicted, 0);
}

#[tokio::test]
async fn an_entry_that_the_bound_can_never_hold_is_refused_and_the_old_one_stays() {
    let (node, grant) = (node_with(50_000), grant(0, 1));
    node.own(&grant).await;
    node.set(&grant, b"k", b"1", None).await;
    let refused = node.try_set(&grant, b"k", &text(60_000), None).await.unwrap_err();
    assert_eq!(refused.code, "too_large");
    assert!(refused.message.contains("60000 bytes") && refused.message.contains("limit of 50000"), "{refused}");
    assert_eq!(node.get(&grant, b"k").await.unwrap().value, b"1");
    node.set(&grant, b"k", &text(35_000), None).await;
    assert_eq!(node.get(&grant, b"k").await.unwrap().value.len(), 35_000);
}

#[tokio::test]
async fn entries_read_again_outlive_a_scan_of_entries_written_once() {
    let (node, grant) = (node_with(BOUND_BYTES), grant(0, 1));
    node.own(&grant).await;
    for number in 0..100 {
        let key = format!("hot:{number}");
        node.set(&grant, key.as_bytes(), &text(1000), None).await;
        node.get(&grant, key.as_bytes()).await;
    }
    fill(&node, &grant, 5000, 1000).await;
    let mut kept = 0;
    for number in 0..100 {
        kept += usize::from(node.get(&grant, format!("hot:{number}").as_bytes()).await.is_some());
    }
    assert!(kept >= 95, "{kept} of 100 were kept");
}
