//! Get, set and delete in both forms; time to live; versions; counters; requests where the partition is not held.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn plain_requests_are_answered_in_the_json_promised() {
    let (node, grant) = (node(), grant(3, 7));
    node.own(&grant).await;
    let get = r#"{"key":"user:1"}"#;
    assert_eq!(node.plain(&grant, "get", "user:1", get).await.unwrap(), r#"{"found":false,"node":"node-1"}"#);
    let set = r#"{"key":"user:1","value":{"n":12345678901234567890.10},"ttl":60}"#;
    let stored = node.plain(&grant, "set", "user:1", set).await.unwrap();
    assert_eq!(stored, r#"{"success":true,"node":"node-1","version":"7.1"}"#);
    let found = node.plain(&grant, "get", "user:1", get).await.unwrap();
    assert_eq!(found, r#"{"found":true,"value":{"n":12345678901234567890.10},"node":"node-1","version":"7.1"}"#);
    for deleted in ["true", "false"] {
        let answer = node.plain(&grant, "delete", "user:1", get).await.unwrap();
        assert_eq!(answer, format!(r#"{{"deleted":{deleted},"node":"node-1"}}"#));
    }
}

#[tokio::test]
async fn an_expired_entry_is_invisible_at_once_and_swept_and_counted_once() {
    let (node, grant) = (node(), grant(0, 1));
    node.own(&grant).await;
    node.set(&grant, b"short", b"1", Some(1000)).await;
    node.set(&grant, b"long", b"2", Some(5000)).await;
    node.set(&grant, b"forever", b"3", None).await;
    node.clock.advance(Duration::from_millis(999));
    assert_eq!(node.get(&grant, b"short").await.unwrap().remaining_ttl_ms, Some(1));
    node.clock.advance(Duration::from_millis(1));
    assert_eq!(node.get(&grant, b"short").await, None);
    assert_eq!(node.cache.stats().entries, 3);
    assert_eq!((node.sweep(10), node.sweep(10)), (1, 0));
    let stats = node.cache.stats();
    assert_eq!((stats.entries, stats.with_ttl, stats.expired, stats.evicted), (2, 1, 1, 0));
    assert_eq!(node.get(&grant, b"long").await.unwrap().remaining_ttl_ms, Some(4000));
    assert_eq!(node.get(&grant, b"forever").await.unwrap().remaining_ttl_ms, None);
}

#[tokio::test]
async fn a_sweep_takes_no_more_than_it_may_and_goes_on_in_the_next_partition() {
    let node = node();
    for partition in 0..3 {
        let grant = grant(partition, 1);
        node.own(&grant).await;
        for number in 0..500 {
            node.set(&grant, format!("key:{number}").as_bytes(), b"1", Some(1)).await;
        }
    }
    node.clock.advance(Duration::from_secs(1));
    assert_eq!(node.sweep(700), 700);
    assert_eq!(node.sweep(700), 700);
    assert_eq!(node.sweep(700), 100);
    assert_eq!((node.cache.stats().entries, node.cache.stats().expired), (0, 1500));
}

#[tokio::test]
async fn an_expired_entry_is_not_deleted_and_writing_over_it_counts_it_as_expired() {
    let (node, grant) = (node(), grant(0, 1));
    node.own(&grant).await;
    node.set(&grant, b"a", b"1", Some(10)).await;
    node.set(&grant, b"b", b"1", Some(10)).await;
    node.clock.advance(Duration::from_millis(10));
    assert_eq!(node.delete(&grant, b"a").await, (false, version(1, 3)));
    node.set(&grant, b"b", b"2", None).await;
    assert_eq!(node.cache.stats().expired, 2);
    assert_eq!(node.sweep(10), 0);
    assert_eq!(node.get(&grant, b"b").await.unwrap().value, b"2");
}

#[tokio::test]
async fn writes_are_numbered_within_the_epoch_and_a_repeated_on_own_does_not_number_anew() {
    let (node, five) = (node(), grant(0, 5));
    node.own(&five).await;
    assert_eq!(node.set(&five, b"a", b"1", None).await, version(5, 1));
    assert_eq!(node.delete(&five, b"x").await, (false, version(5, 2)));
    node.own(&five).await;
    assert_eq!(node.set(&five, b"b", b"1", None).await, version(5, 3));
    assert_eq!(node.delete(&five, b"a").await, (true, version(5, 4)));
    assert_eq!(version(5, 4).to_string(), "5.4");
    assert!(version(6, 1) > version(5, 4));
}

#[tokio::test]
async fn requests_for_a_partition_or_epoch_that_is_not_held_are_unavailable_and_counted() {
    let node = node();
    node.own(&grant(0, 5)).await;
    for wrong in [grant(1, 5), grant(0, 4), grant(0, 6)] {
        let refused = node.native(&wrong, b"k", &Operation::Get).await.unwrap_err();
        assert_eq!(refused.code, "unavailable");
        assert_eq!(node.try_set(&wrong, b"k", b"1", None).await.unwrap_err().code, "unavailable");
        assert_eq!(node.native(&wrong, b"k", &DELETE).await.unwrap_err().code, "unavailable");
    }
    assert_eq!(node.cache.stats().failures, 9);
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_code_and_what_is_wrong() {
    let (node, grant) = (node_with(200_000), grant(0, 1));
    node.own(&grant).await;
    let (long_key, large, long_type) = ([b'k'; 1025], text(100_001), format!("text/{}", "x".repeat(251)));
    let typed = |value, content_type| Operation::Set { value, content_type, ttl_ms: None, condition: Condition::NONE };
    let cases = [
        (&b""[..], Operation::Get, "bad_request", "\"key\""),
        (&long_key, Operation::Get, "too_large", "1025 bytes"),
        (b"k", set(b"{", None), "bad_request", "not JSON"),
        (b"k", set(b"\xff", None), "bad_request", "not JSON"),
        (b"k", typed(b"{", &b"application/x+json"[..]), "bad_request", "not JSON"),
        (b"k", typed(b"1", b"a b"), "bad_request", "\"content_type\""),
        (b"k", typed(b"1", long_type.as_bytes()), "too_large", "256 bytes"),
        (b"k", set(b"1", Some(0)), "bad_request", "\"ttl\""),
        (b"k", set(b"1", Some(u64::MAX)), "bad_request", "\"ttl\""),
        (b"k", Operation::Touch { ttl_ms: 0, condition: Condition::NONE }, "bad_request", "\"ttl\""),
        (b"k", set(&large, None), "too_large", "100001 bytes is over the limit of 100000"),
    ];
    for (key, operation, code, names) in cases {
        let refused = node.native(&grant, key, &operation).await.unwrap_err();
        assert_eq!(refused.code, code, "{refused}");
        assert!(refused.message.contains(names), "{refused}");
    }
    let get = encode(&Operation::Get, 0).unwrap();
    for operation in ["set", "increment"] {
        let refused = node.cache.handle(&grant, request(operation, b"k", get.clone(), Form::Native)).await;
        assert_eq!(refused.unwrap_err().code, "bad_request");
    }
    assert_eq!(node.plain(&grant, "increment", "k", "{}").await.unwrap_err().code, "bad_request");
    assert_eq!(node.cache.plain_key("get", br#"{"key":"k"}"#).unwrap(), "k");
    assert_eq!(node.cache.plain_key("get", br#"{"key":""}"#).unwrap_err().code, "bad_request");
    assert_eq!(node.cache.stats().entries, 0);
}

#[tokio::test]
async fn reads_are_counted_as_hits_and_misses() {
    let (node, grant) = (node(), grant(0, 1));
    node.own(&grant).await;
    assert_eq!(node.cache.stats().hit_rate, 0.0);
    node.set(&grant, b"k", b"1", None).await;
    for key in [b"k", b"k", b"k", b"x"] {
        node.get(&grant, key).await;
    }
    let stats = node.cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.hit_rate), (3, 1, 0.75));
    assert_eq!(stats.capacity_bytes, 16 << 20);
    assert!(stats.bytes > 0 && stats.bytes < 1000, "{}", stats.bytes);
}
