//! What every store promises.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use nats_ring::coord::{CasError, Entry, Position, Revision, WatchItem, WatchScope};

use super::fixture::*;

pub(crate) async fn a_cas_at_the_last_revision_succeeds_and_its_revision_grows(fixture: impl Fixture) {
    let store = fixture.store();
    let first = create(&*store, "plan").await;
    let other = create(&*store, "meta").await;
    let second = put(&*store, "plan", first, "second").await.unwrap();
    assert!(first < other && other < second);
    let entry = store.get("plan").await.unwrap().unwrap();
    assert_eq!(entry, Entry { key: "plan".into(), value: Some(Bytes::from_static(b"second")), revision: second });
}

pub(crate) async fn a_cas_at_any_other_revision_is_a_conflict_and_changes_nothing(fixture: impl Fixture) {
    let store = fixture.store();
    let first = create(&*store, "plan").await;
    let last = put(&*store, "plan", first, "second").await.unwrap();
    for wrong in [Revision::NONE, first, Revision(last.0 + 1)] {
        assert_eq!(put(&*store, "plan", wrong, "wrong").await, Err(CasError::Conflict), "{wrong:?}");
    }
    assert_eq!(put(&*store, "config", first, "absent").await, Err(CasError::Conflict));
    assert_eq!(store.get("plan").await.unwrap().unwrap().revision, last);
    assert_eq!(store.get("config").await.unwrap(), None);
    let refused_for = Entry { key: "plan".into(), value: Some(Bytes::from_static(b"second")), revision: last };
    assert_eq!(store.get_latest("plan").await.unwrap(), Some(refused_for));
    assert_eq!(store.get_latest("config").await.unwrap(), None);
}

pub(crate) async fn a_deleted_key_can_be_created_again(fixture: impl Fixture) {
    let store = fixture.store();
    let first = create(&*store, "own.1").await;
    fixture.delete("own.1").await;
    let marker = store.get("own.1").await.unwrap().unwrap();
    assert!(marker.value.is_none() && marker.revision > first);
    assert_eq!(store.get_latest("own.1").await.unwrap(), Some(marker.clone()));
    assert_eq!(put(&*store, "own.1", first, "late").await, Err(CasError::Conflict));
    assert!(create(&*store, "own.1").await > marker.revision);
    assert_eq!(put(&*store, "own.1", Revision::NONE, "again").await, Err(CasError::Conflict));
}

pub(crate) async fn of_many_writers_at_one_revision_exactly_one_wins(fixture: impl Fixture) {
    let (one, two) = (fixture.store(), fixture.second().await);
    let start = create(&*one, "own.1").await;
    for round in 0..20 {
        let expected = if round == 0 { start } else { one.get("own.1").await.unwrap().unwrap().revision };
        let writers = (0..8).map(|n| {
            let store = if n % 2 == 0 { Arc::clone(&one) } else { Arc::clone(&two) };
            async move { put(&*store, "own.1", expected, &n.to_string()).await }
        });
        let outcomes = futures::future::join_all(writers).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Err(CasError::Conflict)).count(), 7);
    }
}

pub(crate) async fn the_snapshot_of_an_empty_scope_comes_at_once_and_is_empty(fixture: impl Fixture) {
    let store = fixture.store();
    let mut empty_bucket = store.watch(WatchScope::Ring).await.unwrap();
    assert_eq!(snapshot(&mut empty_bucket).await, Vec::new());
    create(&*store, "meta").await;
    let mut empty_scope = store.watch(WatchScope::AllLeases).await.unwrap();
    assert_eq!(snapshot(&mut empty_scope).await, Vec::new());
    create(&*store, "lease.a").await;
    assert_eq!(change(&mut empty_scope).await.key, "lease.a");
}

pub(crate) async fn the_snapshot_is_one_unit_of_what_exists_and_changes_follow(fixture: impl Fixture) {
    let store = fixture.store();
    for n in 0..100 {
        create(&*store, &format!("own.{n}")).await;
    }
    fixture.delete("own.7").await;
    let replaced = store.get("own.8").await.unwrap().unwrap().revision;
    let replaced = put(&*store, "own.8", replaced, "second").await.unwrap();
    let mut watch = store.watch(WatchScope::Ring).await.unwrap();
    let entries = snapshot(&mut watch).await;
    assert_eq!(entries.len(), 99);
    assert!(entries.iter().all(|entry| entry.key != "own.7" && entry.value.is_some()));
    assert!(entries.iter().any(|entry| entry.key == "own.8" && entry.revision == replaced));
    let later = create(&*store, "own.7").await;
    assert_eq!(change(&mut watch).await.revision, later);
    fixture.delete("own.7").await;
    assert_eq!(change(&mut watch).await.value, None);
}

pub(crate) async fn changes_of_a_key_come_in_order_and_up_to_the_last(fixture: impl Fixture) {
    let store = fixture.store();
    let mut watch = store.watch(WatchScope::Ring).await.unwrap();
    snapshot(&mut watch).await;
    let writer = Arc::clone(&store);
    let writing = tokio::spawn(async move {
        let mut last = [Revision::NONE; 4];
        for n in 0..200 {
            let key = n % last.len();
            last[key] = put(&*writer, &format!("own.{key}"), last[key], &n.to_string()).await.unwrap();
        }
        last
    });
    let last = writing.await.unwrap();
    let mut seen = std::collections::HashMap::new();
    while seen.values().max() != last.iter().max() {
        let entry = change(&mut watch).await;
        let before = seen.insert(entry.key.clone(), entry.revision);
        assert!(before.is_none_or(|before| before <= entry.revision), "{entry:?} after {before:?}");
    }
    for (key, revision) in last.iter().enumerate() {
        assert_eq!(seen.get(&format!("own.{key}")), Some(revision));
    }
}

pub(crate) async fn each_scope_sees_its_own_keys_and_no_others(fixture: impl Fixture) {
    let store = fixture.store();
    let all = ["meta", "config", "plan", "member.a", "own.0", "lease.a", "lease.b", "lease.c"];
    for key in all {
        create(&*store, key).await;
    }
    let cases = [
        (WatchScope::Ring, vec!["config", "member.a", "meta", "own.0", "plan"]),
        (WatchScope::Routes, vec!["meta", "own.0"]),
        (WatchScope::AllLeases, vec!["lease.a", "lease.b", "lease.c"]),
        (leases(&["a", "c", "absent"]), vec!["lease.a", "lease.c"]),
    ];
    for (scope, expected) in cases {
        let mut watch = store.watch(scope.clone()).await.unwrap();
        assert_eq!(keys(&snapshot(&mut watch).await), expected, "{scope:?}");
    }
}

pub(crate) async fn a_store_created_anew_ends_the_watch_with_a_gap_and_has_another_identity(fixture: impl Fixture) {
    let store = fixture.store();
    create(&*store, "meta").await;
    let before = store.identity().await.unwrap();
    assert_eq!(store.identity().await.unwrap(), before);
    let mut watch = store.watch(WatchScope::Ring).await.unwrap();
    snapshot(&mut watch).await;
    fixture.reset().await;
    let mut last = next(&mut watch).await;
    while let Some(item) = tokio::time::timeout(SOON, watch.next()).await.expect("nothing came") {
        assert!(matches!(item, WatchItem::Gap(_) | WatchItem::Reset(_)), "went on with {item:?}");
        last = item;
    }
    assert!(matches!(&last, WatchItem::Reset(_)), "{last:?}");
    assert_ne!(store.identity().await.unwrap(), before);
    let mut again = store.watch(WatchScope::Ring).await.unwrap();
    assert_eq!(snapshot(&mut again).await, Vec::new());
}

pub(crate) async fn a_watch_of_a_reader_that_saw_more_than_there_is_begins_with_a_reset(fixture: impl Fixture) {
    let store = fixture.store();
    let position = Position::default();
    create(&*store, "meta").await;
    let mut ring = store.watch_from(WatchScope::Ring, position.clone()).await.unwrap();
    snapshot(&mut ring).await;
    let seen = create(&*store, "own.1").await;
    assert_eq!(change(&mut ring).await.revision, seen);
    assert_eq!(position.get(), seen, "the position moves with what is seen");
    // What was seen elsewhere, of this very store: nothing is wrong.
    let mut leases = store.watch_from(WatchScope::AllLeases, position.clone()).await.unwrap();
    assert_eq!(snapshot(&mut leases).await, Vec::new());
    position.saw(Revision(seen.0 + 1));
    let mut ahead = store.watch_from(WatchScope::AllLeases, position).await.unwrap();
    assert!(matches!(next(&mut ahead).await, WatchItem::Reset(_)));
    assert_eq!(tokio::time::timeout(SOON, ahead.next()).await.unwrap(), None);
}

pub(crate) async fn nothing_is_sent_while_disconnected(mut fixture: impl Fixture) {
    let store = fixture.store();
    create(&*store, "meta").await;
    fixture.cut().await;
    let outcome = put(&*store, "plan", Revision::NONE, "queued").await;
    assert!(matches!(outcome, Err(CasError::NotSent(_))), "{outcome:?}");
    assert!(store.get("meta").await.is_err());
    assert!(store.watch(WatchScope::Ring).await.is_err());
    assert!(store.identity().await.is_err());
}
