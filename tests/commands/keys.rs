//! `get`, `set`, `delete`, `owner`: one entry, from the command line and back.

use serde_json::json;

use super::ground::{Ground, finish};

#[tokio::test]
async fn an_entry_is_set_found_at_its_owner_and_deleted() {
    let ring = Ground::start().await;
    texts_and_json_come_back_as_they_were(&ring).await;
    bytes_come_back_as_they_are(&ring).await;
    stdin_is_a_value(&ring).await;
    the_owner_is_who_stored_it(&ring).await;
    an_entry_is_inspected(&ring).await;
    what_is_not_there_has_a_code_of_its_own(&ring).await;
    a_ttl_ends_an_entry(&ring).await;
    numbers_are_added_to(&ring).await;
    a_value_is_stored_where_there_is_none(&ring).await;
    a_request_may_name_its_consistency(&ring).await;
    what_the_ring_refuses_is_a_usage_error(&ring).await;
}

async fn texts_and_json_come_back_as_they_were(ring: &Ground) {
    ring.run(&["set", "user:1", "Alice"]).await.assert_says(&["stored 'user:1'", "version"]);
    let alice = ring.run(&["get", "user:1"]).await;
    assert_eq!((alice.code, alice.out.as_str()), (Some(0), "Alice\n"));
    for value in ["42", "-5", "12345678901234567890.10", r#"{"b":1,"a":[true,null]}"#, r#""42""#] {
        let set = ring.json(&["set", "user:2", value]).await;
        assert_eq!(set["success"], true, "{set}");
        let get = ring.run(&["get", "user:2", "--json"]).await;
        assert!(get.out.contains(&format!(r#""value":{value},"#)), "{value}: {}", get.out);
        let found = &get.documents()[0];
        assert_eq!((&found["found"], &found["node"], &found["version"]), (&json!(true), &set["node"], &set["version"]));
    }
}

/// Values of a content type of their own come over REST alone.
async fn bytes_come_back_as_they_are(ring: &Ground) {
    let bytes: Vec<u8> = vec![0x89, b'P', 0, 0xff, b'\n', 0xfe];
    let value = futures::stream::once(std::future::ready(Ok::<_, std::io::Error>(bytes.clone())));
    let url = ring.nodes[0].url("/v1/keys/logo").await;
    let request = hyper::Request::put(url).header("content-type", "image/png");
    let request = request.body(axum::body::Body::from_stream(value)).unwrap();
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    assert_eq!(client.request(request).await.unwrap().status(), 201);

    let mut command = ring.command(&["get", "logo"]);
    let got = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!((got.status.code(), got.stdout), (Some(0), bytes));
    let found = ring.json(&["get", "logo"]).await;
    assert_eq!((&found["encoding"], &found["value"]), (&json!("base64"), &json!("iVAA/wr+")), "{found}");
}

async fn stdin_is_a_value(ring: &Ground) {
    let set = finish(ring.command(&["set", "piped", "-"]), "two\nlines\n").await;
    assert_eq!(set.code, Some(0), "{set:?}");
    assert_eq!(ring.json(&["get", "piped"]).await["value"], "two\nlines");
}

async fn the_owner_is_who_stored_it(ring: &Ground) {
    for number in 0..6 {
        let key = format!("owned:{number}");
        let set = ring.json(&["set", &key, "1"]).await;
        let owner = ring.json(&["owner", &key]).await;
        assert_eq!((&owner["key"], &owner["owner"]), (&json!(key), &set["node"]), "{owner}");
        let text = ring.run(&["owner", &key]).await;
        let replicas: Vec<&str> = owner["replicas"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
        let expected = format!(
            "{} owns partition {} at epoch {}, in sync with {}\n",
            replicas[0],
            owner["partition"],
            owner["epoch"],
            replicas[1..].join(", ")
        );
        assert_eq!((text.out, replicas.len(), &set["node"]), (expected, 3, &json!(replicas[0])));
    }
}

async fn an_entry_is_inspected(ring: &Ground) {
    let set = ring.json(&["set", "looked:at", "[1,2]", "--ttl", "1h"]).await;
    let seen = ring.json(&["inspect", "looked:at"]).await;
    let owner = ring.json(&["owner", "looked:at"]).await;
    assert_eq!((&seen["found"], &seen["bytes"]), (&json!(true), &json!(5)), "{seen}");
    assert_eq!((&seen["node"], &seen["version"]), (&set["node"], &set["version"]), "{seen}");
    assert_eq!(seen["partition"], owner["partition"], "{seen}");
    assert_eq!((&seen["replicas"], &seen["in_sync"], &seen["consistency"]), (&json!(3), &json!(3), &json!("eventual")));
    let (age, ttl) = (seen["age"].as_f64().unwrap(), seen["ttl"].as_f64().unwrap());
    assert!((0.0..60.0).contains(&age) && (3540.0..=3600.0).contains(&ttl), "{seen}");
    ring.run(&["inspect", "looked:at"]).await.assert_says(&["node", "version", "ttl", " s\n", "application/json"]);
    let missing = ring.run(&["inspect", "nothing", "--json"]).await;
    missing.assert_failed(10, &["'nothing' is not there"]);
    assert_eq!(missing.documents()[0]["found"], false);
}

async fn what_is_not_there_has_a_code_of_its_own(ring: &Ground) {
    assert_eq!(ring.json(&["delete", "user:1"]).await["deleted"], true);
    assert_eq!(ring.json(&["delete", "user:1"]).await["deleted"], false);
    ring.run(&["delete", "user:1"]).await.assert_says(&["was not there"]);
    let missing = ring.run(&["get", "user:1"]).await;
    missing.assert_failed(10, &["'user:1' is not there"]);
    assert_eq!(missing.out, "");
    let missing = ring.run(&["get", "user:1", "--json"]).await;
    missing.assert_failed(10, &["'user:1'"]);
    assert_eq!(missing.documents()[0]["found"], false);
}

async fn a_ttl_ends_an_entry(ring: &Ground) {
    ring.run(&["set", "brief", "1", "--ttl", "1ms"]).await.assert_says(&["stored"]);
    ring.run(&["get", "brief"]).await.assert_failed(10, &["'brief'"]);
    ring.run(&["set", "long", "1", "--ttl", "1h"]).await.assert_says(&["stored"]);
    ring.run(&["get", "long"]).await.assert_says(&["1\n"]);
}

async fn numbers_are_added_to(ring: &Ground) {
    for (arguments, sum) in
        [(&["incr", "n"][..], "1\n"), (&["incr", "n", "41"], "42\n"), (&["incr", "n", "-2"], "40\n")]
    {
        let run = ring.run(arguments).await;
        assert_eq!((run.code, run.out.as_str()), (Some(0), sum), "{run:?}");
    }
    let sum = ring.json(&["incr", "n", "2", "--ttl", "1h", "--consistency", "strong"]).await;
    assert_eq!(sum["value"], 42, "{sum}");
    assert!(ring.json(&["inspect", "n"]).await["ttl"].as_f64().unwrap() > 3000.0);
    ring.run(&["set", "word", "hello"]).await.assert_says(&["stored"]);
    ring.run(&["incr", "word"]).await.assert_failed(2, &["no integer", "hello"]);
    ring.run(&["incr", "n", "9223372036854775807"]).await.assert_failed(2, &["beyond"]);
    ring.run(&["incr", "n", "1.5"]).await.assert_failed(2, &["1.5"]);
}

async fn a_value_is_stored_where_there_is_none(ring: &Ground) {
    for value in ["first", "second"] {
        let run = ring.run(&["get-or-set", "kept", value]).await;
        assert_eq!((run.code, run.out.as_str()), (Some(0), "first\n"), "{run:?}");
    }
    assert_eq!(ring.json(&["get-or-set", "kept", "third", "--consistency", "quorum"]).await["stored"], false);
    assert_eq!(ring.json(&["get-or-set", "other", "{}", "--ttl", "1h"]).await["stored"], true);
}

async fn a_request_may_name_its_consistency(ring: &Ground) {
    for level in ["eventual", "quorum", "strong"] {
        ring.run(&["set", "levelled", level, "--consistency", level]).await.assert_says(&["stored"]);
        ring.run(&["get", "levelled", "--consistency", level]).await.assert_says(&[level]);
    }
    ring.run(&["delete", "levelled", "--consistency", "strong"]).await.assert_says(&["deleted"]);
    ring.run(&["get", "k", "--consistency", "most"]).await.assert_failed(2, &["most", "eventual, quorum or strong"]);
}

async fn what_the_ring_refuses_is_a_usage_error(ring: &Ground) {
    ring.run(&["get", ""]).await.assert_failed(2, &["bad_request", "key"]);
    ring.run(&["set", "k", "1", "--ttl", "11y"]).await.assert_failed(2, &["ttl", "10 years"]);
    let over_max_payload = finish(ring.command(&["set", "k", "-"]), &"v".repeat(2_000_000)).await;
    over_max_payload.assert_failed(2, &["nothing was sent", "max_payload", "smaller"]);
    ring.run(&["set", "k", "1", "--ttl", "0"]).await.assert_failed(2, &["ttl", "no end"]);
    ring.run(&["get", &"k".repeat(1025)]).await.assert_failed(2, &["too_large", "1024"]);
}
