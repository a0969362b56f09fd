//! The HTTP contract: every endpoint and every refusal, driven in-process with a node that does as it is told.
#![allow(clippy::unwrap_used)]

#[path = "common/one_node.rs"]
mod one_node;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use bytes::Bytes;
use nats_ring::cache::{CacheClient, Limits};
use nats_ring::http::{AppState, RequestLimits, app};
use nats_ring::node::{LearnerStatus, MoveStatus, PartitionState};
use nats_ring::rpc::CallError;
use nats_ring::service::ServiceError;
use nats_ring::types::PartitionId;
use serde_json::{Value, json};
use tower::ServiceExt;

use one_node::{Fake, Mood, VALUE_MAX_BYTES, name};

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The error's code, having checked that it is a well-formed error of this status that says this.
    fn refused(&self, status: u16, code: &str, says: &str) -> Value {
        let body = self.json();
        assert_eq!(self.status.as_u16(), status, "{body}");
        assert_eq!(body["error"]["code"], code, "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(says), "{body}");
        body
    }
}

fn routes(fake: &Arc<Fake>, limits: RequestLimits) -> Router {
    let client = CacheClient::new(fake.clone(), Limits { max_value_bytes: VALUE_MAX_BYTES });
    app(AppState::new(client, fake.clone(), limits))
}

async fn ask_with(limits: RequestLimits, fake: &Arc<Fake>, request: Request<Body>) -> Answer {
    let response = routes(fake, limits).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer { status: parts.status, headers: parts.headers, body: to_bytes(body, 1 << 24).await.unwrap() }
}

fn request(line: &str, body: impl Into<Body>) -> Request<Body> {
    let (method, uri) = line.split_once(' ').unwrap();
    Request::builder().method(method).uri(uri).body(body.into()).unwrap()
}

async fn ask(fake: &Arc<Fake>, line: &str) -> Answer {
    ask_with(RequestLimits::default(), fake, request(line, Body::empty())).await
}

async fn set(fake: &Arc<Fake>, body: impl Into<Body>) -> Answer {
    ask_with(RequestLimits::default(), fake, request("POST /set", body)).await
}

#[tokio::test]
async fn what_was_set_is_found_by_its_key_until_it_is_deleted() {
    let fake = Fake::new().await;
    let stored = set(&fake, r#"{"key":"user:1","value":{"name":"Alice"},"ttl":60}"#).await;
    let stored_body = stored.json();
    assert_eq!(
        (stored.status, &stored_body["success"], &stored_body["node"]),
        (StatusCode::OK, &json!(true), &json!("node-2"))
    );

    let found = ask(&fake, "GET /get?key=user:1").await;
    assert_eq!(found.status, StatusCode::OK);
    assert_eq!(
        found.json(),
        json!({"found": true, "value": {"name": "Alice"}, "node": "node-2", "version": stored_body["version"]})
    );

    let deleted = ask(&fake, "DELETE /delete?key=user:1").await;
    assert_eq!((deleted.status, deleted.json()), (StatusCode::OK, json!({"deleted": true, "node": "node-2"})));
    let again = ask(&fake, "DELETE /delete?key=user:1").await;
    assert_eq!((again.status, again.json()), (StatusCode::OK, json!({"deleted": false, "node": "node-2"})));
    let missing = ask(&fake, "GET /get?key=user:1").await;
    assert_eq!((missing.status, missing.json()), (StatusCode::NOT_FOUND, json!({"found": false, "node": "node-2"})));
}

#[tokio::test]
async fn any_json_value_comes_back_as_the_text_that_was_given() {
    let fake = Fake::new().await;
    for value in ["null", "false", "12345678901234567890.10", r#""é \u00e9 🦀""#, "[1, {\"a\": []}]", "\"\""] {
        assert_eq!(set(&fake, format!(r#"{{"key":"k","value":{value}}}"#)).await.status, StatusCode::OK, "{value}");
        let found = ask(&fake, "GET /get?key=k").await;
        let text = String::from_utf8(found.body.to_vec()).unwrap();
        assert!(text.starts_with(&format!(r#"{{"found":true,"value":{value},"node""#)), "{text}");
    }
}

#[tokio::test]
async fn keys_of_any_script_are_the_same_key_in_body_and_query() {
    let fake = Fake::new().await;
    for (key, queried) in [
        ("ключ", "%D0%BA%D0%BB%D1%8E%D1%87"),
        ("🦀 & =?#", "%F0%9F%A6%80+%26+%3D%3F%23"),
        ("a b", "a%20b"),
        ("a+b", "a%2Bb"),
        ("50%", "50%25"),
        ("e\u{301}", "e%CC%81"),
        ("nul\u{0}", "nul%00"),
    ] {
        let body = json!({"key": key, "value": key}).to_string();
        assert_eq!(set(&fake, body).await.status, StatusCode::OK);
        let found = ask(&fake, &format!("GET /get?x=1&key={queried}&y")).await.json();
        assert_eq!(found["value"], key);
        assert_eq!(ask(&fake, &format!("GET /owner?key={queried}")).await.json()["key"], key);
        assert_eq!(ask(&fake, &format!("DELETE /delete?key={queried}")).await.json()["deleted"], true);
    }
}

#[tokio::test]
async fn a_body_is_taken_whatever_its_content_type_says() {
    let fake = Fake::new().await;
    for content_type in ["application/json", "application/x-www-form-urlencoded", "text/plain"] {
        let mut request = request("POST /set", r#"{"key":"k","value":1}"#);
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
        let stored = ask_with(RequestLimits::default(), &fake, request).await;
        assert_eq!(stored.status, StatusCode::OK, "{content_type}");
    }
}

#[tokio::test]
async fn a_bad_body_is_refused_naming_field_value_and_limit() {
    let fake = Fake::new().await;
    let long_key = format!(r#"{{"key":"{}","value":1}}"#, "k".repeat(1025));
    let large = format!(r#"{{"key":"k","value":"{}"}}"#, "v".repeat(VALUE_MAX_BYTES));
    for (body, status, says) in [
        ("", 400, "JSON object"),
        ("{", 400, "JSON object"),
        ("[]", 400, "JSON object"),
        (r#"{"value":1}"#, 400, "\"key\" is missing"),
        (r#"{"key":"","value":1}"#, 400, "1 to 1024 bytes"),
        (r#"{"key":5,"value":1}"#, 400, "\"key\""),
        (r#"{"key":"k"}"#, 400, "\"value\" is missing"),
        (r#"{"key":"k","value":1,"ttl":-1}"#, 400, "-1"),
        (r#"{"key":"k","value":1,"ttl":1e12}"#, 400, "315360000"),
        (r#"{"key":"k","value":1,"ttl":"soon"}"#, 400, "\"ttl\""),
        (&long_key, 413, "1024 bytes"),
        (&large, 413, "2000 bytes"),
    ] {
        let code = if status == 413 { "too_large" } else { "bad_request" };
        set(&fake, body.to_owned()).await.refused(status, code, says);
    }
    set(&fake, Bytes::from_static(b"{\"key\":\"\xff\",\"value\":1}")).await.refused(400, "bad_request", "");
    assert_eq!(fake.cache.stats().entries, 0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_announced_or_in_pieces() {
    let fake = Fake::new().await;
    let size = VALUE_MAX_BYTES + 20_000;
    let mut announced =
        request("POST /set", Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()));
    announced.headers_mut().insert("content-length", size.into());
    let refused = ask_with(RequestLimits::default(), &fake, announced).await;
    refused.refused(413, "too_large", &format!("{size} bytes"));

    // Who waits to be asked for its body is not asked.
    let touched = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&touched);
    let body = futures::stream::poll_fn(move |_| {
        seen.store(true, Ordering::SeqCst);
        Poll::<Option<Result<Bytes, std::io::Error>>>::Pending
    });
    let mut waiting = request("POST /set", Body::from_stream(body));
    waiting.headers_mut().insert("content-length", size.into());
    waiting.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
    ask_with(RequestLimits::default(), &fake, waiting).await.refused(413, "too_large", &format!("{size} bytes"));
    assert!(!touched.load(Ordering::SeqCst), "its body was asked for");

    let pieces = (0..size / 1000).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1000])));
    let pieces = Body::from_stream(futures::stream::iter(pieces));
    set(&fake, pieces).await.refused(413, "too_large", "in pieces");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up_and_frees_its_share() {
    let fake = Fake::new().await;
    let limits =
        RequestLimits { body_timeout: Duration::from_millis(50), all_bodies_bytes: 0, ..RequestLimits::default() };
    let routes = routes(&fake, limits);
    let slow = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let response = routes.clone().oneshot(request("POST /set", slow)).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    // The budget holds one body: were the share not free again, this one would wait in vain.
    let response = routes.oneshot(request("POST /set", r#"{"key":"k","value":1}"#)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_missing_repeated_empty_long_or_undecodable_key_is_refused() {
    let fake = Fake::new().await;
    let long = "k".repeat(1025);
    for endpoint in ["GET /get", "DELETE /delete", "GET /owner"] {
        ask(&fake, endpoint).await.refused(400, "bad_request", "\"key\" is missing");
        ask(&fake, &format!("{endpoint}?kex=1")).await.refused(400, "bad_request", "\"key\" is missing");
        ask(&fake, &format!("{endpoint}?key=")).await.refused(400, "bad_request", "it is empty");
        ask(&fake, &format!("{endpoint}?key")).await.refused(400, "bad_request", "it is empty");
        ask(&fake, &format!("{endpoint}?key=a&key=b")).await.refused(400, "bad_request", "more than once");
        ask(&fake, &format!("{endpoint}?key=%ff")).await.refused(400, "bad_request", "UTF-8");
        ask(&fake, &format!("{endpoint}?key={long}")).await.refused(413, "too_large", "1025 bytes");
    }
}

#[tokio::test]
async fn every_way_a_call_can_fail_has_its_status_and_code() {
    let fake = Fake::new().await;
    let partition = PartitionId::new(3);
    let waited = Duration::from_secs(2);
    let reason = || "why".to_owned();
    let own = |code: &str| CallError::Service(ServiceError::new(code, "why"));
    for (error, status, code, retry) in [
        (CallError::Unavailable { partition, waited, reason: reason() }, 503, "unavailable", true),
        (CallError::Overloaded { partition, reason: reason() }, 429, "overloaded", true),
        (CallError::Unknown { partition, reason: reason() }, 504, "unknown", false),
        (CallError::TooLarge { size: 9, limit: 8 }, 413, "too_large", false),
        (own("bad_request"), 400, "bad_request", false),
        (own("unavailable"), 503, "unavailable", true),
        (own("internal"), 500, "internal", false),
        (own("of_its_own"), 500, "of_its_own", false),
    ] {
        fake.becomes(Mood::Fails(error));
        for line in ["GET /get?key=k", "DELETE /delete?key=k", "POST /set"] {
            let answer = ask_with(RequestLimits::default(), &fake, request(line, r#"{"key":"k","value":1}"#)).await;
            let body = answer.refused(status, code, "");
            assert_eq!(answer.headers.contains_key("retry-after"), retry, "{body}");
            let says_unknown = body["error"]["message"].as_str().unwrap().contains("may have been executed");
            assert_eq!(says_unknown, code == "unknown", "{body}");
        }
    }
}

#[tokio::test]
async fn a_call_that_never_ends_or_panics_is_answered_nevertheless() {
    let fake = Fake::new().await;
    let limits = RequestLimits { request_timeout: Duration::from_millis(50), ..RequestLimits::default() };
    fake.becomes(Mood::Hangs);
    let hung = ask_with(limits, &fake, request("GET /get?key=k", Body::empty())).await;
    hung.refused(504, "unknown", "may have been executed");
    fake.becomes(Mood::Panics);
    ask(&fake, "GET /get?key=k").await.refused(500, "internal", "may have been executed");
    fake.becomes(Mood::Serves);
    assert_eq!(ask(&fake, "GET /get?key=k").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_wrong_method_says_which_one_is_right() {
    let fake = Fake::new().await;
    for (line, allow, right) in [
        ("GET /set", "POST", "POST /set"),
        ("PUT /set", "POST", "POST /set"),
        ("POST /get?key=k", "GET,HEAD", "GET /get?key="),
        ("GET /delete?key=k", "DELETE", "DELETE /delete?key="),
        ("POST /stats", "GET,HEAD", "GET /stats"),
        ("DELETE /metrics", "GET,HEAD", "GET /metrics"),
    ] {
        let answer = ask(&fake, line).await;
        answer.refused(405, "method_not_allowed", right);
        assert_eq!(answer.headers["allow"], allow, "{line}");
    }
}

#[tokio::test]
async fn an_unknown_path_lists_what_there_is() {
    let fake = Fake::new().await;
    for line in ["GET /", "POST /sett", "GET /get/key", "DELETE /"] {
        let body = ask(&fake, line).await.refused(404, "not_found", "POST /set");
        assert_eq!(body["endpoints"].as_array().unwrap().len(), 17, "{body}");
    }
}

#[tokio::test]
async fn the_owner_is_named_and_null_while_there_is_none() {
    let fake = Fake::new().await;
    let partition = fake.partition(b"user:1");
    let mut expected = json!({
        "key": "user:1", "partition": partition.get(), "owner": "node-2", "is_local": false, "epoch": 3,
        "in_sync": ["node-2", "node-1"], "waits": null, "suspended": null, "node": "node-1",
        "this_node": "node-1", "replicas": ["node-2", "node-1"],
    });
    assert_eq!(ask(&fake, "GET /owner?key=user:1").await.json(), expected);
    fake.set_status(|s| s.partitions[partition.index()].owner = Some(name("node-1")));
    expected["owner"] = json!("node-1");
    expected["is_local"] = json!(true);
    assert_eq!(ask(&fake, "GET /owner?key=user:1").await.json(), expected);
    fake.set_status(|s| s.partitions[partition.index()].owner = None);
    expected["owner"] = Value::Null;
    expected["is_local"] = json!(false);
    assert_eq!(ask(&fake, "GET /owner?key=user:1").await.json(), expected);
}

#[tokio::test]
async fn stats_tell_of_cache_ring_and_node() {
    let fake = Fake::new().await;
    set(&fake, r#"{"key":"k","value":1,"ttl":60}"#).await;
    ask(&fake, "GET /get?key=k").await;
    fake.set_status(|s| {
        let elapsed = Duration::from_millis(250);
        s.moves = vec![MoveStatus { partition: PartitionId::new(1), to: name("node-2"), step: "parking", elapsed }];
        s.partitions[0].state = PartitionState::Orphaned;
        s.partitions[2].owner = Some(name("node-1"));
    });
    let stats = ask(&fake, "GET /stats").await.json();
    for field in ["entries", "with_ttl", "bytes", "hits", "misses", "hit_rate", "expired", "evicted", "failures"] {
        assert!(stats["cache"][field].is_number(), "{field}: {stats}");
    }
    assert_eq!((&stats["cache"]["hits"], &stats["cache"]["with_ttl"]), (&json!(1), &json!(1)));
    let held = json!({"entries": 1, "with_ttl": 1, "bytes": stats["cache"]["bytes"]});
    assert_eq!(stats["cache"]["owned"], held);
    assert_eq!(stats["cache"]["copied"], json!({"entries": 0, "with_ttl": 0, "bytes": 0}));
    let ring = &stats["ring"];
    assert_eq!((&ring["name"], &ring["partitions"], &ring["owned"]), (&json!("cache-platform"), &json!(4), &json!(1)));
    assert_eq!((&ring["not_served"], &ring["zones"]), (&json!(1), &json!(["a", "b"])));
    assert_eq!(ring["nodes"][2]["state"], "unreachable");
    for (name, former) in [("nodes", "members"), ("nodes_by_state", "members_by_state")] {
        assert_eq!(ring[name], ring[former], "a client of the release before asks for {former}");
    }
    assert_eq!(ring["nodes_by_state"], json!({"joining": 0, "active": 2, "draining": 0, "left": 0, "unreachable": 1}));
    assert_eq!(ring["moves"], json!([{"partition": 1, "to": "node-2", "step": "parking", "elapsed_seconds": 0.25}]));
    let node = &stats["node"];
    assert_eq!((&node["name"], &node["zone"], &node["phase"]), (&json!("node-1"), &json!("a"), &json!("active")));
    assert_eq!((&node["uptime_seconds"], &node["lease_margin_seconds"]), (&json!(1.5), &json!(2.25)));
}

#[tokio::test]
async fn the_process_is_healthy_whatever_the_ring_is() {
    let fake = Fake::new().await;
    fake.set_status(|s| s.partitions.clear());
    for line in ["GET /health", "GET /health?scope=node", "HEAD /health"] {
        assert_eq!(ask(&fake, line).await.status, StatusCode::OK, "{line}");
    }
    ask(&fake, "GET /health?scope=galaxy").await.refused(400, "bad_request", "'galaxy'; 'node' and 'ring'");
}

#[tokio::test]
async fn the_ring_is_healthy_only_while_every_partition_has_a_serving_owner() {
    let fake = Fake::new().await;
    let ask_ring = || ask(&fake, "GET /health?scope=ring");
    let mut whole = json!({"status": "ok", "partitions": 4, "not_served": 0, "under_replicated": 0, "suspended": null});
    assert_eq!(ask_ring().await.json(), whole);
    fake.set_status(|s| s.partitions[3].under_replicated = true);
    whole["under_replicated"] = json!(1);
    assert_eq!(ask_ring().await.json(), whole);
    fake.set_status(|s| s.partitions[1].state = PartitionState::Moving);
    assert_eq!(ask_ring().await.status, StatusCode::OK);
    for state in [PartitionState::Unowned, PartitionState::Starting, PartitionState::Orphaned] {
        fake.set_status(|s| s.partitions[2].state = state);
        let body = ask_ring().await.refused(503, "unavailable", "1 of 4 partitions");
        assert_eq!((body["missing"].as_array().unwrap().len(), &body["not_served"]), (1, &json!(1)), "{body}");
        assert_eq!(body["missing"][0]["partition"], 2, "{body}");
    }
    fake.set_status(|s| s.partitions.clear());
    ask_ring().await.refused(503, "unavailable", "does not know");
}

#[tokio::test]
async fn a_node_that_is_not_ready_says_why() {
    let fake = Fake::new().await;
    let ready = json!({"ready": true, "node": "node-1", "suspended": null});
    assert_eq!(ask(&fake, "GET /ready").await.json(), ready);
    fake.set_status(|s| s.not_ready = Some("not in the plan yet".to_owned()));
    let body = ask(&fake, "GET /ready").await.refused(503, "not_ready", "not in the plan yet");
    assert_eq!(body["ready"], false);
}

#[tokio::test]
async fn the_ring_lists_partitions_and_nodes_with_null_for_no_owner() {
    let fake = Fake::new().await;
    fake.set_status(|s| {
        s.partitions[3].owner = None;
        s.partitions[3].state = PartitionState::Unowned;
        let learner = LearnerStatus {
            node: name("node-3"),
            caught_up: false,
            copied_bytes: 5000,
            total_bytes: Some(10_000),
            bytes_per_second: Some(2500),
            remaining_seconds: Some(2.0),
        };
        s.partitions[2].learners = vec![learner];
        s.partitions[2].under_replicated = true;
    });
    let ring = ask(&fake, "GET /ring").await.json();
    assert_eq!((&ring["plan_version"], &ring["version"]), (&json!(9), &json!(9)), "the second is its former name");
    assert_eq!((&ring["node"], &ring["phase"], &ring["suspended"]), (&json!("node-1"), &json!("active"), &Value::Null));
    assert_eq!(
        (&ring["replicas"], &ring["consistency"], &ring["on_loss"]),
        (&json!(3), &json!("eventual"), &json!("accept"))
    );
    let partition = |number: u16, owner: Option<&str>, state: &str| {
        json!({
            "partition": number, "owner": owner, "epoch": 3, "state": state, "in_sync": ["node-2", "node-1"],
            "replicas": ["node-2", "node-1"], "learners": [], "short_of_memory": [], "under_replicated": false,
            "waits": null,
        })
    };
    assert_eq!(ring["partitions"][0], partition(0, Some("node-2"), "serving"));
    assert_eq!(ring["partitions"][3], partition(3, None, "unowned"));
    let learner = json!({
        "node": "node-3", "caught_up": false, "copied_bytes": 5000, "total_bytes": 10_000, "bytes_per_second": 2500,
        "remaining_seconds": 2.0,
    });
    assert_eq!(ring["partitions"][2]["learners"], json!([learner]));
    assert_eq!(ring["nodes"][1]["node"], "node-2");
}

#[tokio::test]
async fn metrics_are_text_with_the_cache_and_the_ring_in_figures() {
    let fake = Fake::new().await;
    set(&fake, r#"{"key":"k","value":1}"#).await;
    let answer = ask(&fake, "GET /metrics").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    for line in [
        "nats_ring_cache_entries 1.0",
        r#"nats_ring_cache_held_entries{held_as="owned"} 1.0"#,
        r#"nats_ring_cache_held_entries{held_as="copied"} 0.0"#,
        r#"nats_ring_waiting_partitions{waits_for="acceptance"} 0"#,
        "nats_ring_suspended 0",
        "nats_ring_partitions 4",
        r#"nats_ring_partitions_by_state{state="serving"} 4"#,
        r#"nats_ring_members{state="unreachable"} 1"#,
        r#"nats_ring_members{state="draining"} 0"#,
        "nats_ring_dropped_messages_total 7",
        "nats_ring_router_resends_total 3",
        r#"nats_ring_requests_total{operation="get",outcome="ok"} 0"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}
