//! Increment and get-or-set: sums that are exact, one of many who stores, what goes to the copies.

use std::collections::HashSet;
use std::thread;

use proptest::prelude::*;

use super::copies::Kept;
use super::*;
use crate::cache::change::Effect;
use crate::cache::{ContentType, NewEntry};

fn increment(by: i64) -> Operation<'static> {
    Operation::Increment { by, ttl_ms: None }
}

impl Node {
    async fn increment(&self, grant: &Grant, key: &[u8], by: i64) -> Result<(i64, Version), ServiceError> {
        let answer = self.native(grant, key, &increment(by)).await?;
        let Answer::Incremented { value, version } = decode(&answer).unwrap() else { panic!("not an answer to incr") };
        Ok((value, version))
    }
}

#[tokio::test]
async fn an_absent_or_expired_entry_counts_as_zero_and_the_sum_is_an_entry_like_any_other() {
    let (node, grant) = (node(), grant(0, 3));
    node.own(&grant).await;
    assert_eq!(node.increment(&grant, b"n", 5).await.unwrap(), (5, version(3, 1)));
    assert_eq!(node.increment(&grant, b"n", -7).await.unwrap(), (-2, version(3, 2)));
    assert_eq!(node.get(&grant, b"n").await.unwrap().value, b"-2");
    node.set(&grant, b"n", b" 40 ", Some(10)).await;
    assert_eq!(node.increment(&grant, b"n", 2).await.unwrap().0, 42);
    node.clock.advance(Duration::from_millis(10));
    assert_eq!(node.increment(&grant, b"n", 1).await.unwrap().0, 1, "it has expired");
    let answer = node.plain(&grant, "incr", "n", r#"{"key":"n","by":9}"#).await.unwrap();
    assert_eq!(answer, r#"{"value":10,"node":"node-1","version":"3.6"}"#);
}

#[tokio::test]
async fn an_increment_keeps_the_time_to_live_unless_it_gives_another() {
    let (node, grant) = (node(), grant(0, 1));
    node.own(&grant).await;
    node.set(&grant, b"n", b"1", Some(1000)).await;
    node.clock.advance(Duration::from_millis(400));
    node.increment(&grant, b"n", 1).await.unwrap();
    let got = node.get(&grant, b"n").await.unwrap();
    assert_eq!((got.remaining_ttl_ms, got.age_ms), (Some(600), 0));
    let renewed = Operation::Increment { by: 1, ttl_ms: Some(5000) };
    node.native(&grant, b"n", &renewed).await.unwrap();
    assert_eq!(node.get(&grant, b"n").await.unwrap().remaining_ttl_ms, Some(5000));
    let refused = node.native(&grant, b"n", &Operation::Increment { by: 1, ttl_ms: Some(0) }).await.unwrap_err();
    assert!(refused.message.contains("\"ttl\""), "{refused}");
}

#[tokio::test]
async fn what_is_no_integer_or_would_overflow_is_refused_and_stays_as_it_was() {
    let (node, grant) = (node(), grant(0, 1));
    node.own(&grant).await;
    for (value, by, names) in [
        ("1.5", 1, "no integer"),
        ("1e3", 1, "(1e3)"),
        ("\"7\"", 1, "application/json"),
        ("null", 1, "no integer"),
        ("[1]", 1, "no integer"),
        ("9223372036854775808", 1, "no integer"),
        ("9223372036854775807", 1, "beyond"),
        ("-9223372036854775808", -1, "beyond"),
    ] {
        let stored = node.set(&grant, b"n", value.as_bytes(), None).await;
        let refused = node.increment(&grant, b"n", by).await.unwrap_err();
        assert!(refused.code == "bad_request" && refused.message.contains(names), "{value}: {refused}");
        let got = node.get(&grant, b"n").await.unwrap();
        assert_eq!((got.value, got.version), (value.as_bytes().to_vec(), stored));
    }
    let text = Operation::Set { value: b"7", content_type: b"text/plain", ttl_ms: None, condition: Condition::NONE };
    node.native(&grant, b"n", &text).await.unwrap();
    assert!(node.increment(&grant, b"n", 1).await.unwrap_err().message.contains("text/plain"));
}

#[tokio::test]
async fn what_is_there_is_answered_and_only_what_is_absent_is_stored() {
    let (node, grant) = (node(), grant(0, 2));
    node.own(&grant).await;
    let ask = |value: &str| format!(r#"{{"key":"k","value":{value},"ttl":1}}"#);
    let first = node.plain(&grant, "get-or-set", "k", &ask("[1]")).await.unwrap();
    assert_eq!(first, r#"{"stored":true,"value":[1],"node":"node-1","version":"2.1"}"#);
    let second = node.plain(&grant, "get-or-set", "k", &ask("2")).await.unwrap();
    assert_eq!(second, r#"{"stored":false,"value":[1],"node":"node-1","version":"2.1"}"#);
    node.clock.advance(Duration::from_secs(1));
    let third = node.plain(&grant, "get-or-set", "k", &ask("3")).await.unwrap();
    assert_eq!(third, r#"{"stored":true,"value":3,"node":"node-1","version":"2.2"}"#);
    assert_eq!((node.cache.stats().hits, node.cache.stats().misses), (1, 2));
    let bad = Operation::GetOrSet { value: b"{", content_type: b"", ttl_ms: None };
    assert!(node.native(&grant, b"k", &bad).await.unwrap_err().message.contains("not JSON"));
}

#[tokio::test]
async fn the_copies_get_the_sum_and_nothing_of_what_was_only_read() {
    let log = Kept::new(1, 3);
    let (node, grant) = (node(), grant(0, 1).with_log(log.clone()));
    node.own(&grant).await;
    node.increment(&grant, b"n", 4).await.unwrap();
    node.native(&grant, b"n", &Operation::Increment { by: 3, ttl_ms: Some(9) }).await.unwrap();
    let get_or_set = |key: &'static [u8]| (key, Operation::GetOrSet { value: b"1", content_type: b"", ttl_ms: None });
    for (key, operation) in [get_or_set(b"n"), get_or_set(b"m")] {
        node.native(&grant, key, &operation).await.unwrap();
    }
    let changes = log.take();
    let effects: Vec<_> =
        changes.iter().map(|change| (change.version, Effect::decode(&change.body).unwrap().0)).collect();
    let set = |key, value, ttl_ns| Effect::Set { key, value, content_type: b"", ttl_ns, age_ns: 0 };
    let expected = [
        (version(1, 1), set(&b"n"[..], &b"4"[..], None)),
        (version(1, 2), set(b"n", b"7", Some(9_000_000))),
        (version(1, 3), set(b"m", b"1", None)),
    ];
    assert_eq!(effects, expected);
}

#[tokio::test]
async fn the_client_has_both_typed() {
    let (client, caller) = client::client(None).await;
    let key = Bytes::from_static(b"n");
    let sum = client.increment(key.clone(), 7, None).await.unwrap();
    assert_eq!((sum.node.as_str(), sum.value, sum.version), ("node-1", 7, version(9, 1)));
    let new = || NewEntry {
        value: Bytes::from_static(b"<b>"),
        content_type: ContentType::new("text/html").unwrap(),
        ttl: Some(Duration::from_secs(2)),
    };
    let found = client.get_or_set(key, new()).await.unwrap();
    assert_eq!((found.stored, &found.entry.value[..], found.entry.version), (false, &b"7"[..], version(9, 1)));
    let other = Bytes::from_static(b"page");
    let stored = client.get_or_set(other.clone(), new()).await.unwrap();
    assert!(stored.stored);
    assert_eq!(client.get(other).await.unwrap().found, Some(stored.entry));
    let large = NewEntry { value: Bytes::from(vec![b'1'; 101]), content_type: ContentType::JSON, ttl: None };
    let calls = caller.calls();
    assert_eq!(client.get_or_set(Bytes::from_static(b"k"), large).await.unwrap_err().code(), "too_large");
    assert_eq!(caller.calls(), calls, "refused before it was sent");
}

/// Adds them from threads of their own; all sums that were answered.
fn add_all(node: &Node, grant: &Grant, lists: &[Vec<i32>]) -> Vec<i64> {
    let run = |list: &[i32]| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let sums = list.iter().map(|by| runtime.block_on(node.increment(grant, b"sum", i64::from(*by))).unwrap());
        sums.collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = lists.iter().map(|list| scope.spawn(move || run(list))).collect();
        let answers: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let versions: HashSet<Version> = answers.iter().map(|(_, version)| *version).collect();
        assert_eq!(versions.len(), answers.len(), "each write has a version of its own");
        answers.into_iter().map(|(sum, _)| sum).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn increments_at_the_same_time_add_up_exactly(lists in prop::collection::vec(prop::collection::vec(any::<i32>(), 1..60), 2..5)) {
        let (node, grant) = (node(), grant(0, 1));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(node.own(&grant));
        let sums = add_all(&node, &grant, &lists);
        let total: i64 = lists.iter().flatten().copied().map(i64::from).sum();
        let got = runtime.block_on(node.get(&grant, b"sum")).unwrap();
        prop_assert_eq!(String::from_utf8(got.value).unwrap(), total.to_string());
        prop_assert_eq!(got.version.sequence, sums.len() as u64);
        prop_assert!(sums.contains(&total));
    }
}
