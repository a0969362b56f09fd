//! What HTTP tells of a node that is suspended, and of partitions of which every copy is lost: driven in-process with a node that
//! says what it is told to.
#![allow(clippy::unwrap_used)]

#[path = "common/one_node.rs"]
mod one_node;

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use nats_ring::cache::{CacheClient, Limits};
use nats_ring::http::{AppState, RequestLimits, app};
use nats_ring::node::{Phase, Suspended, Waits};
use serde_json::{Value, json};
use tower::ServiceExt;

use one_node::{Fake, VALUE_MAX_BYTES, name};

async fn text(fake: &Arc<Fake>, path: &str) -> (u16, String) {
    let client = CacheClient::new(fake.clone(), Limits { max_value_bytes: VALUE_MAX_BYTES });
    let routes = app(AppState::new(client, fake.clone(), RequestLimits::default()));
    let response = routes.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status.as_u16(), String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap())
}

async fn ask(fake: &Arc<Fake>, path: &str) -> (u16, Value) {
    let (status, body) = text(fake, path).await;
    (status, serde_json::from_str(&body).unwrap())
}

async fn assert_has_figure(fake: &Arc<Fake>, line: &str) {
    let (_, text) = text(fake, "/metrics").await;
    assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
}

fn suspend(fake: &Arc<Fake>, serves_with_copies: bool, remaining_seconds: f64) -> Value {
    let suspended = Suspended { serves_with_copies, remaining_seconds };
    fake.set_status(|s| (s.phase, s.suspended) = (Phase::Suspended, Some(suspended)));
    json!({"serves_with_copies": serves_with_copies, "remaining_seconds": remaining_seconds})
}

#[tokio::test]
async fn a_suspended_node_counts_its_own_partitions_as_not_served_but_for_those_with_copies_while_these_serve() {
    let fake = Fake::new().await;
    fake.set_status(|s| s.partitions[1].owner = Some(s.node.clone()));
    let told = suspend(&fake, false, 0.0);
    let (status, body) = ask(&fake, "/health?scope=ring").await;
    assert_eq!((status, &body["missing"][0]["partition"], &body["suspended"]), (503, &json!(1), &told), "{body}");
    let told = suspend(&fake, true, 20.5);
    let (status, body) = ask(&fake, "/health?scope=ring").await;
    assert_eq!((status, &body["status"], &body["suspended"]), (200, &json!("ok"), &told), "{body}");
    fake.set_status(|s| s.partitions[1].replicas = vec![s.node.clone()]);
    assert_eq!(ask(&fake, "/health?scope=ring").await.0, 503, "a set of the owner alone confirms nothing");
}

#[tokio::test]
async fn every_answer_about_a_suspended_node_says_what_it_does_and_for_how_much_longer() {
    let fake = Fake::new().await;
    let told = suspend(&fake, true, 20.5);
    for path in ["/ready", "/health", "/health?scope=ring", "/ring", "/owner?key=k"] {
        let (status, body) = ask(&fake, path).await;
        assert_eq!((status, &body["suspended"]), (200, &told), "{path}");
    }
    assert_eq!(ask(&fake, "/stats").await.1["node"]["suspended"], told);
    for line in ["nats_ring_suspended 1", "nats_ring_suspension_margin_seconds 20.5", "nats_ring_ready 1"] {
        assert_has_figure(&fake, line).await;
    }
    let told = suspend(&fake, false, 0.0);
    fake.set_status(|s| s.not_ready = Some("suspended".to_owned()));
    let (status, body) = ask(&fake, "/ready").await;
    assert_eq!((status, &body["ready"], &body["suspended"]), (503, &json!(false), &told), "{body}");
}

#[tokio::test]
async fn a_partition_all_copies_of_which_are_lost_says_what_it_waits_for_and_what_to_do() {
    let fake = Fake::new().await;
    let partition = fake.partition(b"k").index();
    for (waits, expected) in [
        (Waits::until_empty_start(vec![name("node-3")], 12.5), ("empty_start", json!(12.5), "starts empty by itself")),
        (Waits::until_accepted(vec![name("node-3")]), ("acceptance", Value::Null, "nats-ring on-loss accept")),
    ] {
        fake.set_status(|s| s.partitions[partition].waits = Some(waits));
        let told = ask(&fake, "/ring").await.1["partitions"][partition]["waits"].clone();
        assert_eq!(ask(&fake, "/owner?key=k").await.1["waits"], told);
        assert_eq!((&told["for"], &told["lost"]), (&json!(expected.0), &json!(["node-3"])), "{told}");
        assert_eq!(told["remaining_seconds"], expected.1, "{told}");
        assert!(told["hint"].as_str().unwrap().contains(expected.2), "{told}");
        assert_eq!(ask(&fake, "/stats").await.1["ring"]["waiting"], 1);
        assert_has_figure(&fake, &format!("nats_ring_waiting_partitions{{waits_for=\"{}\"}} 1", expected.0)).await;
    }
}
