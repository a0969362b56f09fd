//! Preconditions, touch, persist and inspect, as the owner executes them.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::executor::block_on;
use serde_json::{Value, json};

use super::copies::Kept;
use super::*;
use crate::cache::native::encode_operation;
use crate::cache::{MAX_VERSIONS, Matching};
use crate::types::Consistency;

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn put<'a>(value: &'a [u8], content_type: &'a [u8], condition: Condition) -> Operation<'a> {
    Operation::Set { value, content_type, ttl_ms: None, condition }
}

#[tokio::test]
async fn what_a_failed_precondition_refuses_leaves_no_trace() {
    let (node, grant) = (node(), grant(0, 1));
    node.own(&grant).await;
    node.set(&grant, b"k", b"1", Some(1000)).await;
    let (stale, absent) = (Condition::if_version(version(1, 9)), Condition::if_absent());
    let before = node.cache.stats();
    for operation in [
        put(b"2", b"", stale.clone()),
        put(b"2", b"", absent),
        Operation::Delete { condition: stale.clone() },
        Operation::Touch { ttl_ms: 5, condition: stale.clone() },
        Operation::Persist { condition: stale.clone() },
    ] {
        let refused = node.native(&grant, b"k", &operation).await.unwrap_err();
        assert_eq!(refused.code, "precondition_failed", "{operation:?}");
        assert!(refused.message.contains("version 1.1"), "{refused}");
    }
    let refused = node.native(&grant, b"new", &put(b"2", b"", stale)).await.unwrap_err();
    assert_eq!(refused.code, "precondition_failed");
    let after = node.cache.stats();
    assert_eq!((after.entries, after.bytes, after.with_ttl), (before.entries, before.bytes, before.with_ttl));
    // Not even a number was taken.
    assert_eq!(node.set(&grant, b"k", b"2", None).await, version(1, 2));
}

#[tokio::test]
async fn a_refusal_that_tells_of_an_entry_waits_until_that_is_committed() {
    let log = Kept::new(2, 3);
    let (node, grant) = (node(), grant(0, 1).with_log(log.clone()));
    node.own(&grant).await;
    let stale = Condition::if_version(version(1, 99));
    for (operation, code) in [
        (put(b"2", b"", Condition::if_absent()), "precondition_failed"),
        (Operation::Delete { condition: stale.clone() }, "precondition_failed"),
        (Operation::Touch { ttl_ms: 5, condition: stale }, "precondition_failed"),
        (Operation::Increment { by: 1, ttl_ms: None }, "bad_request"),
    ] {
        let written = node.set(&grant, b"k", b"\"x\"", None).await;
        let payload = encode_operation(&operation, Some(Consistency::Quorum), 0).unwrap();
        let asked = request(operation.name(), b"k", payload, Form::Native);
        let refused = node.cache.handle(&grant, asked);
        tokio::pin!(refused);
        assert!(futures::poll!(&mut refused).is_pending(), "{operation:?} tells of what is not committed");
        log.commit(written);
        assert_eq!(refused.await.unwrap_err().code, code, "{operation:?}");
    }
    // At the ring's own level, which here is eventual, nothing is waited for.
    node.set(&grant, b"k", b"1", None).await;
    let absent = put(b"2", b"", Condition::if_absent());
    assert_eq!(node.native(&grant, b"k", &absent).await.unwrap_err().code, "precondition_failed");
}

#[tokio::test]
async fn nobody_makes_room_for_what_is_refused_anyway() {
    let (node, full, asked) = (node_with(200_000), grant(0, 1), grant(1, 1));
    node.cache.on_own(&[full.clone(), asked.clone()]).await.unwrap();
    for number in 0..1000 {
        node.set(&full, format!("key:{number}").as_bytes(), &text(1000), None).await;
    }
    let before = node.cache.stats();
    let large = text(100_000);
    let put_if = |condition| put(&large, b"", condition);
    let refused = node.native(&asked, b"new", &put_if(Condition::if_version(version(1, 1)))).await;
    assert_eq!(refused.unwrap_err().code, "precondition_failed");
    assert_eq!((node.cache.stats().entries, node.cache.stats().evicted), (before.entries, before.evicted));
    node.native(&asked, b"new", &put_if(Condition::if_absent())).await.unwrap();
    assert!(node.cache.stats().evicted > before.evicted, "there was room: the test does not test");
}

#[tokio::test]
async fn an_expired_entry_counts_as_absent() {
    let (node, grant) = (node(), grant(0, 1));
    node.own(&grant).await;
    let old = node.set(&grant, b"k", b"1", Some(10)).await;
    node.clock.advance(Duration::from_millis(10));
    assert_eq!(node.set_ttl(&grant, b"k", Some(1000)).await, None);
    let refused = node.native(&grant, b"k", &put(b"2", b"", Condition::if_version(old))).await.unwrap_err();
    assert!(refused.message.contains("no entry"), "{refused}");
    let created = node.native(&grant, b"k", &put(b"2", b"", Condition::if_absent())).await.unwrap();
    assert_eq!(decode::<Answer<'_>>(&created).unwrap(), Answer::Stored { version: version(1, 2), created: true });
}

#[tokio::test]
async fn touch_and_persist_move_the_end_and_the_sweeper_follows() {
    let (node, grant) = (node(), grant(0, 1));
    node.own(&grant).await;
    for key in [b"a", b"b", b"c"] {
        node.set(&grant, key, b"1", Some(1000)).await;
    }
    assert_eq!(node.set_ttl(&grant, b"a", Some(5000)).await, Some(version(1, 4)));
    assert_eq!(node.set_ttl(&grant, b"b", None).await, Some(version(1, 5)));
    // Nothing to take away any more.
    assert_eq!(node.set_ttl(&grant, b"b", None).await, Some(version(1, 5)));
    assert_eq!(node.cache.stats().with_ttl, 2);
    node.clock.advance(Duration::from_secs(1));
    assert_eq!((node.sweep(10), node.cache.stats().entries), (1, 2));
    let a = node.get(&grant, b"a").await.unwrap();
    assert_eq!((a.version, a.age_ms, a.remaining_ttl_ms), (version(1, 4), 1000, Some(4000)));
    node.clock.advance(Duration::from_secs(4));
    assert_eq!((node.sweep(10), node.cache.stats().entries, node.cache.stats().with_ttl), (1, 1, 0));
}

#[tokio::test]
async fn the_memory_bound_holds_while_entries_get_content_types_and_ends() {
    const BOUND_BYTES: u64 = 300_000;
    let (node, grant) = (node_with(BOUND_BYTES), grant(0, 1));
    node.own(&grant).await;
    let content_type = format!("text/{}", "x".repeat(250));
    for number in 0..3000_u64 {
        let key = format!("key:{number}");
        let operation = put(b"v", content_type.as_bytes(), Condition::NONE);
        node.native(&grant, key.as_bytes(), &operation).await.unwrap();
        node.get(&grant, key.as_bytes()).await;
        node.set_ttl(&grant, format!("key:{}", number.saturating_sub(number % 7)).as_bytes(), Some(60_000)).await;
        let stats = node.cache.stats();
        assert!(stats.bytes <= BOUND_BYTES, "{} bytes", stats.bytes);
        // Each weighs at least its bytes: 255 of them its content type's.
        assert!(stats.bytes >= stats.entries * 255, "{stats:?}");
        assert_eq!(stats.entries + stats.evicted, number + 1);
    }
    assert!(node.cache.stats().bytes > BOUND_BYTES * 8 / 10);
    node.clock.advance(Duration::from_secs(60));
    while node.sweep(100) == 100 {}
    assert_eq!(node.cache.stats().with_ttl, 0);
}

#[tokio::test]
async fn plain_clients_touch_persist_inspect_and_write_under_conditions() {
    let (node, grant) = (node(), grant(3, 7));
    node.own(&grant).await;
    let ask = async |operation: &str, body: &str| node.plain(&grant, operation, "k", body).await;
    let touched = |version: &str| json!({"touched": true, "node": "node-1", "version": version});
    assert_eq!(json_of(&ask("touch", r#"{"ttl":9}"#).await.unwrap()), json!({"touched": false, "node": "node-1"}));
    let missing = json!({"found": false, "partition": 3, "node": "node-1",
        "replicas": 1, "in_sync": 1, "consistency": "eventual"});
    assert_eq!(json_of(&ask("inspect", r#"{"key":"k"}"#).await.unwrap()), missing);
    ask("set", r#"{"key":"k","value":[1],"if_absent":true}"#).await.unwrap();
    let again = ask("set", r#"{"key":"k","value":[2],"if_absent":true}"#).await.unwrap_err();
    assert_eq!(again.code, "precondition_failed");
    ask("set", r#"{"key":"k","value":[2, 3],"if_version":["7.9","7.1"]}"#).await.unwrap();
    node.clock.advance(Duration::from_millis(1500));
    let answer = ask("touch", r#"{"key":"k","ttl":60,"if_version":"7.2"}"#).await.unwrap();
    assert_eq!(json_of(&answer), touched("7.3"));
    let seen = json!({"found": true, "partition": 3, "node": "node-1", "version": "7.3", "age": 1.5, "ttl": 60.0,
        "replicas": 1, "in_sync": 1, "consistency": "eventual",
        "bytes": 6, "content_type": "application/json"});
    assert_eq!(json_of(&ask("inspect", "{}").await.unwrap()), seen);
    assert_eq!(ask("persist", r#"{"key":"k","if_version":"7.2"}"#).await.unwrap_err().code, "precondition_failed");
    let persisted = json!({"persisted": true, "node": "node-1", "version": "7.4"});
    assert_eq!(json_of(&ask("persist", r#"{"key":"k"}"#).await.unwrap()), persisted);
    assert_eq!(json_of(&ask("inspect", "{}").await.unwrap())["ttl"], Value::Null);
    assert_eq!(ask("delete", r#"{"if_version":"7.1"}"#).await.unwrap_err().code, "precondition_failed");
    assert_eq!(json_of(&ask("delete", r#"{"if_version":"7.4"}"#).await.unwrap())["deleted"], true);
    // There is nothing that the condition could protect.
    assert_eq!(json_of(&ask("delete", r#"{"if_version":"7.4"}"#).await.unwrap())["deleted"], false);
}

#[tokio::test]
async fn a_value_that_no_nats_answer_can_hold_as_json_is_refused_to_plain_clients_saying_where_to_read_it() {
    let (node, grant) = (node(), grant(0, 1));
    node.own(&grant).await;
    let bytes = vec![0xff; 100_000];
    node.native(&grant, b"k", &put(&bytes, b"image/png", Condition::NONE)).await.unwrap();
    let refused = node.plain(&grant, "get", "k", "{}").await.unwrap_err();
    assert_eq!(refused.code, "too_large");
    assert!(refused.message.contains("/v1/keys/"), "{refused}");
    assert_eq!(node.get(&grant, b"k").await.unwrap().value, bytes);
    node.native(&grant, b"k", &put(&bytes[..70_000], b"image/png", Condition::NONE)).await.unwrap();
    assert!(node.plain(&grant, "get", "k", "{}").await.unwrap().contains(r#""encoding":"base64""#));
}

#[tokio::test]
async fn a_condition_with_too_many_versions_is_refused() {
    let (node, grant) = (node(), grant(0, 1));
    node.own(&grant).await;
    let if_match = Some(Matching::OneOf(vec![version(1, 1); MAX_VERSIONS + 1]));
    let condition = Condition { if_match, if_none_match: None };
    let refused = node.native(&grant, b"k", &Operation::Delete { condition }).await.unwrap_err();
    assert_eq!(refused.code, "bad_request");
}

/// Threads that spin until each round begins, so that their writes overlap: one wins each version, no number is skipped.
#[test]
fn of_conditional_writes_that_race_exactly_one_wins_each_version() {
    const WRITERS: u64 = 2;
    const ROUNDS: u64 = 20_000;
    let (node, grant) = (node(), grant(0, 1));
    block_on(node.own(&grant));
    let first = block_on(node.set(&grant, b"k", b"0", None));
    let arrived = AtomicU64::new(0);
    let wins: Vec<_> = (0..ROUNDS).map(|_| AtomicU64::new(0)).collect();
    let write = || {
        for (won, round) in wins.iter().zip(0..) {
            let expected = Version { sequence: first.sequence + round, ..first };
            let payload = encode(&put(b"1", b"", Condition::if_version(expected)), 0).unwrap();
            let request = request("set", b"k", payload, Form::Native);
            arrived.fetch_add(1, Ordering::SeqCst);
            let mut spins = 0_u32;
            while arrived.load(Ordering::SeqCst) < (round + 1) * WRITERS {
                spins += 1;
                // Where another process has the second core, spinning alone would take its time slices.
                if spins.is_multiple_of(1000) { std::thread::yield_now() } else { std::hint::spin_loop() }
            }
            match block_on(node.cache.handle(&grant, request)) {
                Ok(_) => drop(won.fetch_add(1, Ordering::SeqCst)),
                Err(refused) => assert_eq!(refused.code, "precondition_failed"),
            }
        }
    };
    std::thread::scope(|scope| (0..WRITERS).for_each(|_| drop(scope.spawn(write))));
    let doubles = wins.iter().filter(|won| won.load(Ordering::SeqCst) != 1).count();
    assert_eq!(doubles, 0, "of {ROUNDS} rounds so many had not one winner");
    assert_eq!(block_on(node.get(&grant, b"k")).unwrap().version.sequence, first.sequence + ROUNDS);
}
