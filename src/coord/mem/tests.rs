//! What the twin adds to the store's promises: faults, cuts, rollbacks.

use futures::{FutureExt, StreamExt};

use super::*;
use crate::coord::{Position, WatchItem};

const SOON: Duration = Duration::from_secs(1);

async fn put(store: &MemStore, key: &str, expected: u64) -> Result<Revision, CasError> {
    store.cas(key, Revision(expected), Bytes::from_static(b"v"), SOON).await
}

#[tokio::test]
async fn a_timed_out_write_lands_at_once_or_never_or_later_as_scripted() {
    let store = MemStore::new(1);
    for fault in [Fault::TimeoutApplied, Fault::TimeoutLost, Fault::TimeoutLate] {
        store.script(Some(fault));
    }
    for key in ["own.1", "own.2", "own.3"] {
        assert!(matches!(put(&store, key, 0).await, Err(CasError::Unknown(_))));
    }
    assert!(store.get("own.1").await.unwrap().is_some());
    assert!(store.get("own.2").await.unwrap().is_none());
    assert!(store.get("own.3").await.unwrap().is_none());
    assert_eq!(store.apply_late(), 1);
    assert!(store.get("own.3").await.unwrap().is_some());
}

#[tokio::test]
async fn a_late_write_does_not_land_over_a_later_one() {
    let store = MemStore::new(1);
    store.script(Some(Fault::TimeoutLate));
    put(&store, "own.1", 0).await.unwrap_err();
    put(&store, "own.1", 0).await.unwrap();
    assert_eq!(store.apply_late(), 0);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let run = |seed| async move {
        let store = MemStore::new(seed);
        store.set_faults(Faults { cas: vec![(Fault::TimeoutLost, 0.5)], ..Faults::default() });
        let mut outcomes = Vec::new();
        for n in 0..64 {
            outcomes.push(put(&store, &format!("own.{n}"), 0).await.is_ok());
        }
        outcomes
    };
    assert_eq!(run(7).await, run(7).await);
    assert_ne!(run(7).await, run(8).await);
}

#[tokio::test]
async fn a_rollback_is_a_gap_for_who_saw_more_and_nothing_for_who_did_not() {
    let store = MemStore::new(1);
    put(&store, "own.1", 0).await.unwrap();
    let mut early = store.watch(WatchScope::Ring).await.unwrap();
    assert!(matches!(early.next().await, Some(WatchItem::Snapshot(all)) if all.len() == 1));
    put(&store, "own.1", 1).await.unwrap();
    let mut late = store.watch(WatchScope::Ring).await.unwrap();
    assert!(matches!(late.next().await, Some(WatchItem::Snapshot(_))));
    store.rollback(1);
    assert_eq!(store.get("own.1").await.unwrap().unwrap().revision, Revision(1));
    put(&store, "own.2", 0).await.unwrap();
    assert!(matches!(late.next().await, Some(WatchItem::Reset(_))));
    assert_eq!(late.next().await, None);
    assert!(matches!(early.next().await, Some(WatchItem::Change(entry)) if entry.key == "own.2"));
}

/// As a node does whose coordinator changes: the watch of other leases begins after the store went back.
#[tokio::test]
async fn a_rollback_is_noticed_by_any_watch_of_a_reader_that_saw_more_by_another() {
    let store = MemStore::new(1);
    let position = Position::default();
    let mut ring = store.watch_from(WatchScope::Ring, position.clone()).await.unwrap();
    let mut leases = store.watch_from(WatchScope::AllLeases, position.clone()).await.unwrap();
    for watch in [&mut ring, &mut leases] {
        assert!(matches!(watch.next().await, Some(WatchItem::Snapshot(_))));
    }
    put(&store, "own.1", 0).await.unwrap();
    put(&store, "lease.a", 0).await.unwrap();
    assert!(matches!(leases.next().await, Some(WatchItem::Change(entry)) if entry.key == "lease.a"));
    drop(leases);
    store.rollback(1);
    // The watch that goes on saw the first of the two only, and the one that begins now neither.
    assert!(matches!(ring.next().await, Some(WatchItem::Reset(_))));
    let mut again = store.watch_from(WatchScope::AllLeases, position).await.unwrap();
    assert!(matches!(again.next().await, Some(WatchItem::Reset(_))));
}

#[tokio::test]
async fn a_watch_cut_off_goes_on_with_a_snapshot_and_a_held_one_with_the_changes() {
    let store = MemStore::new(1);
    let other = store.connect();
    let mut watch = other.watch(WatchScope::Ring).await.unwrap();
    assert_eq!(watch.next().await, Some(WatchItem::Snapshot(Vec::new())));
    other.set_connected(false);
    assert!(futures::FutureExt::now_or_never(watch.next()).is_none());
    assert!(matches!(put(&other, "own.1", 0).await, Err(CasError::NotSent(_))));
    put(&store, "own.1", 0).await.unwrap();
    other.set_connected(true);
    assert!(matches!(watch.next().await, Some(WatchItem::Snapshot(all)) if all.len() == 1));
    store.hold_watches(true);
    put(&store, "own.1", 1).await.unwrap();
    assert!(futures::FutureExt::now_or_never(watch.next()).is_none());
    store.hold_watches(false);
    assert!(matches!(watch.next().await, Some(WatchItem::Change(entry)) if entry.revision == Revision(2)));
}

/// As that of a process that was stopped for longer than its connection was away.
#[tokio::test]
async fn a_watch_that_nobody_asked_while_it_was_cut_off_goes_on_with_a_snapshot_too() {
    let store = MemStore::new(1);
    let other = store.connect();
    let mut watch = other.watch(WatchScope::Ring).await.unwrap();
    assert_eq!(watch.next().await, Some(WatchItem::Snapshot(Vec::new())));
    other.set_connected(false);
    put(&store, "own.1", 0).await.unwrap();
    other.set_connected(true);
    assert!(matches!(watch.next().await, Some(WatchItem::Snapshot(all)) if all.len() == 1));
}

#[tokio::test]
async fn watch_faults_repeat_changes_or_put_a_snapshot_in_their_place() {
    let store = MemStore::new(1);
    let mut watch = store.watch(WatchScope::Ring).await.unwrap();
    watch.next().await.unwrap();
    store.set_faults(Faults { watch_repeat: 1.0, ..Faults::default() });
    put(&store, "own.1", 0).await.unwrap();
    let (first, second) = (watch.next().await, watch.next().await);
    assert!(first.is_some() && first == second);
    store.set_faults(Faults { watch_gap: 1.0, ..Faults::default() });
    put(&store, "own.1", 1).await.unwrap();
    assert!(matches!(watch.next().await, Some(WatchItem::Gap(_))));
    assert!(matches!(watch.next().await, Some(WatchItem::Snapshot(all)) if all[0].revision == Revision(2)));
}

#[tokio::test]
async fn a_watch_knows_that_the_store_went_back_while_it_was_cut_off() {
    let store = MemStore::new(1);
    let cut = store.connect();
    put(&store, "own.1", 0).await.unwrap();
    put(&store, "own.2", 0).await.unwrap();
    let mut watch = cut.watch(WatchScope::Ring).await.unwrap();
    assert!(matches!(watch.next().await, Some(WatchItem::Snapshot(entries)) if entries.len() == 2));
    cut.set_connected(false);
    assert!(watch.next().now_or_never().is_none());
    store.rollback(1);
    cut.set_connected(true);
    assert!(matches!(watch.next().await, Some(WatchItem::Reset(_))));
}
