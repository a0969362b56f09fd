//! Bad input over HTTP and over plain NATS: refused with a clear error, at no cost, and the node goes on.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use async_nats::{Client, Message};
use bytes::Bytes;
use common::http::{Answer, Http};
use common::nats_server::{NatsServer, ServerOptions};
use common::node::NodeProcess;
use futures::{StreamExt, stream};
use hyper::Method;
use nats_ring::coord::Revision;
use nats_ring::rpc::envelope::{CallHead, ChunkHead, OfferHead, seal};
use nats_ring::types::{Epoch, Incarnation, NodeId, NodeName, PartitionId};
use serde_json::{Value, json};
use uuid::Uuid;

const READY: Duration = Duration::from_secs(20);
/// Longest value with a server's default `max_payload`.
const VALUE_MAX_BYTES: usize = 768 * 1024;
/// Bodies over HTTP may have this much beside their value.
const HTTP_BODY_MAX_BYTES: usize = VALUE_MAX_BYTES + 6 * 1024 + 4096;

/// One node, asked in both ways.
struct Node {
    process: NodeProcess,
    client: Client,
    http: Http,
    _server: NatsServer,
}

impl Node {
    async fn start(extra: &str) -> Self {
        let server = NatsServer::start_with(ServerOptions { extra: extra.to_owned(), ..ServerOptions::default() });
        let process = NodeProcess::spawn("node-1", &server.url(), &[]);
        process.wait_ready(READY).await;
        let options = async_nats::ConnectOptions::new().request_timeout(Some(Duration::from_secs(10)));
        let client = options.connect(server.url()).await.unwrap();
        let node = Self { process, client, http: Http::new(), _server: server };
        common::eventually::eventually(READY, "all partitions are served", || async {
            let answer = node.http.get(&node.process.url("/health?scope=ring").await).await?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
        node
    }

    async fn over_http(&self, method: Method, path: &str, body: Option<Bytes>) -> Answer {
        self.http.request(method, &self.process.url(path).await, body).await.unwrap()
    }

    async fn over_nats(&self, subject: &str, body: impl Into<Bytes>) -> Message {
        self.client.request(subject.to_owned(), body.into()).await.unwrap_or_else(|e| panic!("{subject}: {e}"))
    }

    async fn stats(&self) -> Value {
        self.over_http(Method::GET, "/stats", None).await.json()
    }

    /// Who owns what at which epoch.
    async fn ring(&self) -> Value {
        self.over_http(Method::GET, "/ring", None).await.json()["partitions"].clone()
    }

    /// A good request in both ways, no entry too many, and a log without a panic.
    async fn is_well(&self) {
        let set = self.over_http(Method::POST, "/set", Some(r#"{"key":"good","value":1}"#.into())).await;
        assert_eq!(set.status, 200, "{}", set.text());
        let got = self.over_nats("cache-platform.get", r#"{"key":"good"}"#).await;
        let got: Value = serde_json::from_slice(&got.payload).unwrap();
        assert_eq!((&got["found"], &got["value"]), (&json!(true), &json!(1)));
        assert_eq!(self.stats().await["cache"]["entries"], 1);
        let log = self.process.log();
        assert!(self.process.is_running() && !log.contains("panicked"), "{log}");
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

/// The error in an HTTP answer, with a status that fits.
fn refused_over_http(answer: &Answer, status: u16, code: &str, says: &[&str]) {
    let body = answer.json();
    assert_eq!(answer.status, status, "{body}");
    check_error(&body, code, says);
}

/// The error in a NATS answer, in the body and in the headers of a micro service.
fn refused_over_nats(answer: &Message, status: u16, code: &str, says: &[&str]) {
    let body: Value = serde_json::from_slice(&answer.payload).unwrap();
    check_error(&body, code, says);
    let headers = answer.headers.as_ref().unwrap_or_else(|| panic!("no headers: {body}"));
    assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), status.to_string(), "{body}");
    assert_eq!(headers.get("Nats-Service-Error").unwrap().as_str(), body["error"]["message"], "{body}");
}

fn check_error(body: &Value, code: &str, says: &[&str]) {
    assert_eq!(body["error"]["code"], code, "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    for text in says {
        assert!(message.contains(text), "'{text}' is not in: {message}");
    }
}

/// Bodies of `set`, and how each is refused: status, code, what the message names.
fn bad_sets() -> Vec<(String, u16, &'static str, Vec<&'static str>)> {
    let large = format!(r#"{{"key":"k","value":"{}"}}"#, "v".repeat(VALUE_MAX_BYTES - 1));
    let long = format!(r#"{{"key":"{}","value":1}}"#, "k".repeat(1025));
    let bad = |body: &str, says: &[&'static str]| (body.to_owned(), 400, "bad_request", says.to_vec());
    vec![
        bad(r#"{"key":"","value":1}"#, &["\"key\"", "empty", "1 to 1024 bytes"]),
        (long, 413, "too_large", vec!["\"key\"", "1025 bytes", "1024 bytes"]),
        bad(r#"{"value":1}"#, &["\"key\"", "missing"]),
        bad(r#"{"key":7,"value":1}"#, &["\"key\"", "string", "7"]),
        bad(r#"{"key":"k"}"#, &["\"value\"", "missing"]),
        (large, 413, "too_large", vec!["\"value\"", "786433 bytes", "786432 bytes"]),
        bad("", &["JSON object"]),
        bad("{\"key\":\"k\",", &["JSON object"]),
        bad("not json", &["JSON object"]),
        bad("[\"k\",1]", &["JSON object"]),
        bad("\"k\"", &["JSON object"]),
        bad("null", &["JSON object"]),
        bad(r#"{"key":"k","value":1,"ttl":-1}"#, &["\"ttl\"", "-1", "315360000"]),
        bad(r#"{"key":"k","value":1,"ttl":NaN}"#, &["JSON"]),
        bad(r#"{"key":"k","value":1,"ttl":1e300}"#, &["\"ttl\"", "1e300", "315360000"]),
        bad(r#"{"key":"k","value":1,"ttl":"60"}"#, &["\"ttl\"", "number", "60"]),
        bad(r#"{"key":"k","value":1,"ttl":[60]}"#, &["\"ttl\"", "number", "an array"]),
    ]
}

#[tokio::test]
async fn a_bad_set_is_refused_over_http_and_nats_alike_naming_field_value_and_limit() {
    let node = Node::start("").await;
    for (body, status, code, says) in bad_sets() {
        let over_http = node.over_http(Method::POST, "/set", Some(body.clone().into())).await;
        refused_over_http(&over_http, status, code, &says);
        for subject in ["cache-platform.set", "cache-platform.p.7.set"] {
            let over_nats = node.over_nats(subject, body.clone()).await;
            refused_over_nats(&over_nats, status, code, &says);
        }
    }
    node.is_well().await;
}

#[tokio::test]
async fn a_bad_key_is_refused_by_every_operation_over_http_and_nats_alike() {
    let node = Node::start("").await;
    let long = "k".repeat(1025);
    let keys = [
        ("?key=".to_owned(), json!({"key": ""}), 400, "bad_request", vec!["\"key\"", "empty", "1024"]),
        (format!("?key={long}"), json!({"key": long}), 413, "too_large", vec!["\"key\"", "1025", "1024"]),
        (String::new(), json!({}), 400, "bad_request", vec!["\"key\"", "missing"]),
    ];
    for (method, operation) in [(Method::GET, "get"), (Method::DELETE, "delete"), (Method::GET, "owner")] {
        for (query, body, status, code, says) in &keys {
            let over_http = node.over_http(method.clone(), &format!("/{operation}{query}"), None).await;
            refused_over_http(&over_http, *status, code, says);
            let over_nats = node.over_nats(&format!("cache-platform.{operation}"), body.to_string()).await;
            refused_over_nats(&over_nats, *status, code, says);
        }
    }
    node.is_well().await;
}

#[tokio::test]
async fn bodies_over_the_limit_wrong_methods_and_unknown_paths_are_refused_over_http() {
    let node = Node::start("").await;
    let body = Bytes::from(vec![b' '; 8 * 1024 * 1024]);
    // The answer must reach a sender who is still sending.
    for _ in 0..8 {
        let refused = node.over_http(Method::POST, "/set", Some(body.clone())).await;
        refused_over_http(&refused, 413, "too_large", &["8388608 bytes", &HTTP_BODY_MAX_BYTES.to_string()]);
    }
    for (method, path, allow) in
        [(Method::GET, "/set", "POST"), (Method::POST, "/get?key=k", "GET,HEAD"), (Method::PUT, "/stats", "GET,HEAD")]
    {
        let url = node.process.url(path).await;
        let output = std::process::Command::new("curl")
            .args(["-s", "-i", "--noproxy", "*", "-X", method.as_str(), &url])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap().to_lowercase();
        assert!(
            text.starts_with("http/1.1 405") && text.contains(&format!("allow: {}", allow.to_lowercase())),
            "{text}"
        );
        assert!(text.contains("\"code\":\"method_not_allowed\""), "{text}");
    }
    let unknown = node.over_http(Method::GET, "/sett", None).await;
    refused_over_http(&unknown, 404, "not_found", &["/sett", "POST /set"]);
    node.is_well().await;
}

#[tokio::test]
async fn the_limit_of_values_follows_a_small_max_payload_of_the_server() {
    let node = Node::start("max_payload: 65536").await;
    let limit = 65_536 - 5 * 1024;
    let body = |size: usize| format!(r#"{{"key":"k","value":"{}"}}"#, "v".repeat(size - 2));
    let says = ["\"value\"".to_owned(), format!("{} bytes", limit + 1), format!("{limit} bytes")];
    let says: Vec<&str> = says.iter().map(String::as_str).collect();
    let over_http = node.over_http(Method::POST, "/set", Some(body(limit + 1).into())).await;
    refused_over_http(&over_http, 413, "too_large", &says);
    refused_over_nats(&node.over_nats("cache-platform.set", body(limit + 1)).await, 413, "too_large", &says);
    // At the limit it is taken and comes back in both ways.
    assert_eq!(node.over_http(Method::POST, "/set", Some(body(limit).into())).await.status, 200);
    let got = node.over_nats("cache-platform.get", r#"{"key":"k"}"#).await;
    assert!(got.payload.len() > limit && got.headers.is_none());
    let deleted = node.over_http(Method::DELETE, "/delete?key=k", None).await;
    assert_eq!(deleted.json()["deleted"], true);
    node.is_well().await;
}

/// Messages that are no messages: cut, of another format, random, and well-formed ones that claim the absurd.
fn garbage() -> Vec<Bytes> {
    let mut all: Vec<Bytes> =
        [&b""[..], b"\0", b"\x01", b"\x01\xff\xff", b"\x01\x02\x00\xff\xff", b"\x02\x00\x00", b"{}"]
            .into_iter()
            .map(Bytes::from_static)
            .collect();
    let mut state = 7u32;
    for size in (0..64).map(|n| n * 9) {
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let mut bytes: Vec<u8> = (0..size).map(|_| random()).collect();
        if let [format, ..] = &mut bytes[..] {
            *format = 1;
        }
        all.push(bytes.into());
    }
    all.extend(absurd());
    all
}

fn absurd() -> Vec<Bytes> {
    let call = |partition, operation: &str, key: &[u8], plain| CallHead {
        partition: PartitionId::new(partition),
        epoch: Epoch::new(u64::MAX),
        hops: u8::MAX,
        plain,
        remaining_ms: 50,
        operation: operation.to_owned(),
        key: key.to_vec(),
        trace: Some("\r\n".to_owned()),
        once: None,
    };
    let chunk = |partition, checksum| ChunkHead {
        partition: PartitionId::new(partition),
        epoch: Epoch::new(u64::MAX),
        stream: u64::MAX,
        sequence: u32::MAX,
        checksum,
    };
    let nobody = NodeId {
        node: NodeName::new("nobody").unwrap(),
        incarnation: Incarnation { start: u64::MAX, id: Uuid::from_u128(u128::MAX) },
    };
    let offer = |partition, chunks| OfferHead {
        partition: PartitionId::new(partition),
        epoch: Epoch::new(u64::MAX),
        revision: Revision(u64::MAX),
        from: nobody.clone(),
        stream: 1,
        chunks,
        age_ms: 0,
    };
    let payload = br#"{"key":"k","value":1}"#;
    let mut all = Vec::new();
    for partition in [0, 63, 64, u16::MAX] {
        all.push(seal(&call(partition, "set", b"k", true), payload).unwrap());
        all.push(seal(&call(partition, "no such operation", b"", false), &[1, 0xff]).unwrap());
        all.push(seal(&chunk(partition, 1), b"state").unwrap());
        all.push(seal(&offer(partition, 0), b"").unwrap());
        all.push(seal(&offer(partition, 9), b"").unwrap());
    }
    all
}

/// The subject of the node itself, without its last token.
async fn own_subject(node: &Node) -> String {
    let store = async_nats::jetstream::new(node.client.clone()).get_key_value("ring-cache-platform").await.unwrap();
    let lease = store.get("lease.node-1").await.unwrap().unwrap();
    let lease: Value = serde_json::from_slice(&lease).unwrap();
    let incarnation: Incarnation = serde_json::from_value(lease["incarnation"].clone()).unwrap();
    format!("cache-platform.node.node-1.{incarnation}")
}

#[tokio::test]
async fn garbage_on_every_subject_of_the_node_is_survived_and_stores_nothing() {
    let node = Node::start("").await;
    let own = own_subject(&node).await;
    let mut subjects: Vec<String> = ["call", "chunk", "offer", "nothing"].map(|token| format!("{own}.{token}")).into();
    let plain = ["get", "set", "delete", "owner", "stats", "ring", "p.0.get", "p.63.set", "p.5.nothing", "p.5.get"];
    subjects.extend(plain.map(|operation| format!("cache-platform.{operation}")));
    let before = node.ring().await;
    let replies = node.client.new_inbox();
    for subject in subjects {
        for message in garbage() {
            // With and without somebody who waits.
            node.client.publish(subject.clone(), message.clone()).await.unwrap();
            node.client.publish_with_reply(subject.clone(), replies.clone(), message).await.unwrap();
        }
    }
    // Each subject is read in order: what is answered after the garbage shows that the garbage was read.
    node.over_nats(&format!("{own}.chunk"), "last").await;
    for operation in plain {
        node.over_nats(&format!("cache-platform.{operation}"), "last").await;
    }
    node.is_well().await;
    assert_eq!(node.over_http(Method::GET, "/ready", None).await.status, 200);
    assert_eq!(node.ring().await, before, "forged offers changed who owns what");
    assert!(!node.process.log().contains("restarted"), "{}", node.process.log());
}

#[tokio::test]
async fn requests_without_a_reply_subject_are_executed_or_dropped_in_silence() {
    let node = Node::start("").await;
    for (operation, body) in
        [("set", "{}"), ("get", ""), ("delete", "[]"), ("owner", "{}"), ("stats", ""), ("get", "{\"key\":\"k\"}")]
    {
        node.client.publish(format!("cache-platform.{operation}"), body.into()).await.unwrap();
    }
    node.client.publish("cache-platform.set", r#"{"key":"quiet","value":1}"#.into()).await.unwrap();
    common::eventually::eventually(READY, "it is stored", || async {
        let got = node.over_http(Method::GET, "/get?key=quiet", None).await;
        if got.status == 200 { Ok(()) } else { Err(got.text()) }
    })
    .await;
    assert_eq!(node.over_http(Method::DELETE, "/delete?key=quiet", None).await.json()["deleted"], true);
    node.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_bad_requests_leave_no_entry_and_no_memory_behind() {
    const EACH: usize = 5_000;
    let node = Node::start("").await;
    let bodies = [r#"{"key":"","value":1}"#, "{", "[]", r#"{"key":"k","value":1,"ttl":-1}"#, r#"{"key":"k"}"#];
    let burst = async |count: usize| {
        let (node, bodies) = (&node, &bodies);
        let over_http = stream::iter(0..count).for_each_concurrent(32, |at| async move {
            let answer = node.over_http(Method::POST, "/set", Some(bodies[at % bodies.len()].into())).await;
            assert_eq!(answer.status, 400, "{}", answer.text());
        });
        let over_nats = stream::iter(0..count).for_each_concurrent(32, |at| async move {
            let answer = node.over_nats("cache-platform.set", bodies[at % bodies.len()]).await;
            assert_eq!(answer.headers.unwrap().get("Nats-Service-Error-Code").unwrap().as_str(), "400");
        });
        tokio::join!(over_http, over_nats);
    };
    // The first ones pay for connections and pools.
    burst(500).await;
    let before = node.resident_kib();
    burst(EACH).await;
    let after = node.resident_kib();
    eprintln!("{} bad requests: resident memory {before} KiB before, {after} KiB after", 2 * EACH);
    assert!(after < before + 8 * 1024, "{before} KiB before, {after} KiB after");
    assert_eq!(node.stats().await["cache"]["entries"], 0);
    node.is_well().await;
}
