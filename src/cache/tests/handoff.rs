//! Ownership comes and goes: snapshot and restore, a handoff that is called off, loss, and what is left behind.

use futures::TryStreamExt;

use super::*;
use crate::service::Release;

const CHUNK_BYTES: usize = 4096;

async fn snapshot(node: &Node, grant: &Grant) -> Vec<Bytes> {
    node.cache.snapshot(grant, CHUNK_BYTES).await.unwrap().try_collect().await.unwrap()
}

async fn release(node: &Node, grant: &Grant, why: Release) {
    node.cache.on_release(std::slice::from_ref(grant), why).await.unwrap();
}

/// Three entries in epoch 1, one that ends in 10 s, on a node that has handed its partition over.
async fn handed_over(entries: usize) -> (Node, Vec<Bytes>) {
    let (node, one) = (node(), grant(0, 1));
    node.own(&one).await;
    for number in 0..entries {
        node.set(&one, format!("key:{number}").as_bytes(), &text(1000), None).await;
    }
    node.set(&one, b"short", b"1", Some(10_000)).await;
    node.set(&one, b"over", b"1", Some(1)).await;
    node.clock.advance(Duration::from_secs(4));
    release(&node, &one, Release::Handoff).await;
    let chunks = snapshot(&node, &one).await;
    (node, chunks)
}

#[tokio::test]
async fn the_next_owner_has_all_live_entries_with_their_versions_and_writes_in_its_own_epoch() {
    let (_, chunks) = handed_over(100).await;
    assert!(chunks.len() > 20 && chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES));
    let (next, two) = (node(), grant(0, 2));
    next.clock.advance(Duration::from_secs(1_000_000));
    next.cache.restore(&two, chunks, Duration::ZERO).await.unwrap();
    assert_eq!(next.native(&two, b"key:7", &Operation::Get).await.unwrap_err().code, "unavailable");
    next.own(&two).await;
    for number in 0..100 {
        let got = next.get(&two, format!("key:{number}").as_bytes()).await.unwrap();
        assert_eq!((got.value, got.version), (text(1000), version(1, number + 1)));
    }
    let short = next.get(&two, b"short").await.unwrap();
    assert_eq!((short.age_ms, short.remaining_ttl_ms), (4000, Some(6000)));
    assert_eq!(next.get(&two, b"over").await, None);
    assert_eq!(next.cache.stats().entries, 101);
    assert_eq!(next.set(&two, b"key:7", b"2", None).await, version(2, 1));
    next.clock.advance(Duration::from_secs(6));
    assert_eq!(next.get(&two, b"short").await, None);
    assert_eq!(next.sweep(10), 1);
}

#[tokio::test]
async fn time_that_a_chunk_waits_for_the_rest_is_subtracted_from_the_time_to_live() {
    let (node, one) = (node(), grant(0, 1));
    node.own(&one).await;
    node.set(&one, b"short", b"1", Some(10_000)).await;
    let mut stream = node.cache.snapshot(&one, CHUNK_BYTES).await.unwrap();
    let first = stream.try_next().await.unwrap().unwrap();
    node.clock.advance(Duration::from_secs(3));
    let trailer = stream.try_next().await.unwrap().unwrap();
    assert!(stream.try_next().await.unwrap().is_none());
    let (next, two) = (super::node(), grant(0, 2));
    next.cache.restore(&two, vec![first, trailer], Duration::ZERO).await.unwrap();
    next.own(&two).await;
    let short = next.get(&two, b"short").await.unwrap();
    assert_eq!((short.age_ms, short.remaining_ttl_ms), (3000, Some(7000)));
}

#[tokio::test]
async fn a_snapshot_that_is_not_whole_or_not_intact_is_refused_and_what_was_there_stays() {
    let (_, chunks) = handed_over(20).await;
    let (next, two) = (node(), grant(0, 2));
    next.own(&two).await;
    next.set(&two, b"mine", b"1", None).await;
    let mut damaged: Vec<(String, Vec<Bytes>)> = vec![("none".into(), Vec::new())];
    for at in 0..chunks.len() {
        let mut without = chunks.clone();
        without.remove(at);
        damaged.push((format!("without {at}"), without));
        let mut swapped = chunks.clone();
        swapped.swap(at, (at + 1) % chunks.len());
        damaged.push((format!("swapped {at}"), swapped));
        for (byte, mask) in [(0, 0xff), (1, 1), (2, 1), (5, 0x80), (chunks[at].len() / 2, 4), (chunks[at].len() - 1, 1)]
        {
            let mut flipped = chunks.clone();
            let mut bytes = flipped[at].to_vec();
            bytes[byte] ^= mask;
            flipped[at] = bytes.into();
            damaged.push((format!("chunk {at} byte {byte}"), flipped));
        }
        let mut cut = chunks.clone();
        cut[at] = cut[at].slice(..cut[at].len() / 2);
        damaged.push((format!("cut {at}"), cut));
        let mut doubled = chunks.clone();
        doubled.insert(at, doubled[at].clone());
        damaged.push((format!("doubled {at}"), doubled));
    }
    for (what, chunks) in damaged {
        assert!(next.cache.restore(&two, chunks, Duration::ZERO).await.is_err(), "{what} was accepted");
    }
    assert_eq!(next.cache.stats().entries, 1);
    assert_eq!(next.get(&two, b"mine").await.unwrap().value, b"1");
    next.cache.restore(&two, chunks, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn an_empty_partition_has_a_snapshot_too_and_an_entry_over_the_chunk_size_is_an_error() {
    let (node, one) = (node(), grant(0, 1));
    node.own(&one).await;
    let chunks = snapshot(&node, &one).await;
    assert_eq!(chunks.len(), 1);
    node.cache.restore(&grant(0, 2), chunks, Duration::ZERO).await.unwrap();
    node.own(&grant(0, 2)).await;
    node.set(&grant(0, 2), b"large", &text(5000), None).await;
    let chunks: Result<Vec<_>, _> = node.cache.snapshot(&grant(0, 2), CHUNK_BYTES).await.unwrap().try_collect().await;
    assert!(chunks.unwrap_err().to_string().contains("chunk of 4096 bytes"));
}

#[tokio::test]
async fn a_handoff_called_off_keeps_the_entries_under_the_next_epoch() {
    let (node, _) = handed_over(3).await;
    let two = grant(0, 2);
    node.own(&two).await;
    assert_eq!(node.get(&two, b"key:1").await.unwrap().version, version(1, 2));
    assert_eq!(node.set(&two, b"key:1", b"2", None).await, version(2, 1));
}

#[tokio::test]
async fn entries_left_from_before_another_owner_are_never_served() {
    let (node, _) = handed_over(3).await;
    let three = grant(0, 3);
    node.own(&three).await;
    assert_eq!(node.get(&three, b"key:1").await, None);
    assert_eq!(node.cache.stats().entries, 0);
}

#[tokio::test]
async fn what_was_restored_for_a_handoff_called_off_is_not_used_for_a_later_epoch() {
    let (_, chunks) = handed_over(3).await;
    let next = node();
    next.cache.restore(&grant(0, 2), chunks, Duration::ZERO).await.unwrap();
    next.own(&grant(0, 3)).await;
    assert_eq!(next.get(&grant(0, 3), b"key:1").await, None);
}

#[tokio::test]
async fn a_lost_partition_is_gone_at_once_and_a_handed_over_one_when_discarded() {
    let (node, _) = handed_over(3).await;
    assert_eq!(node.cache.stats().entries, 5);
    node.cache.discard(PartitionId::new(0)).await;
    assert_eq!((node.cache.stats().entries, node.cache.stats().bytes), (0, 0));
    let five = grant(0, 5);
    node.own(&five).await;
    node.set(&five, b"k", b"1", None).await;
    release(&node, &five, Release::Lost).await;
    assert_eq!(node.cache.stats().entries, 0);
    assert_eq!(node.native(&five, b"k", &Operation::Get).await.unwrap_err().code, "unavailable");
}

#[tokio::test]
async fn the_time_between_the_last_chunk_and_its_restoration_is_taken_off_as_well() {
    let (_, chunks) = handed_over(1).await;
    let (next, two) = (node(), grant(0, 2));
    next.cache.restore(&two, chunks, Duration::from_secs(5)).await.unwrap();
    next.own(&two).await;
    // Of its ten seconds four were over when it was handed over, and five were waited. This node's clock began just now:
    // the entry is older than it.
    assert_eq!(next.get(&two, b"short").await.unwrap().age_ms, 9000);
    next.clock.advance(Duration::from_millis(1000));
    assert!(next.get(&two, b"short").await.is_none());
}

/// On a machine that has other things to do: no thread is free for as long as the test says.
#[test]
fn the_time_until_a_restoration_begins_is_taken_off_as_well() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (_, chunks) = handed_over(1).await;
        let (next, two) = (node(), grant(0, 2));
        let (free, busy) = std::sync::mpsc::sync_channel::<()>(1);
        let occupied = tokio::task::spawn_blocking(move || busy.recv());
        let later = async {
            next.clock.advance(Duration::from_secs(5));
            free.send(()).unwrap();
        };
        let (restored, ()) = tokio::join!(next.cache.restore(&two, chunks, Duration::ZERO), later);
        restored.unwrap();
        occupied.await.unwrap().unwrap();
        next.own(&two).await;
        assert_eq!(next.get(&two, b"short").await.unwrap().age_ms, 9000);
    });
}
