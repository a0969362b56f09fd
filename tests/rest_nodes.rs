//! REST and the cache's operations over real nodes: the same answers from the owner and from a node that forwards, over
//! HTTP and over NATS, and entries that keep type, age and end when they move.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::eventually::eventually;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

const READY: Duration = Duration::from_secs(30);

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.body)).to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Two nodes on one NATS.
struct Ring {
    nodes: Vec<NodeProcess>,
    http: Client<HttpConnector, Full<Bytes>>,
    nats: async_nats::Client,
    _server: NatsServer,
}

impl Ring {
    async fn start() -> Self {
        let server = NatsServer::start();
        let nodes: Vec<_> =
            ["node-1", "node-2"].iter().map(|name| NodeProcess::spawn(name, &server.url(), &[])).collect();
        let nats = async_nats::connect(server.url()).await.unwrap();
        let http = Client::builder(TokioExecutor::new()).build_http();
        let ring = Self { nodes, http, nats, _server: server };
        for node in &ring.nodes {
            node.wait_ready(READY).await;
        }
        eventually(READY, "both own half of the ring", || async {
            let table = ring.ask(0, "GET /ring", &[], "").await.json();
            let count =
                |name: &str| table["partitions"].as_array().unwrap().iter().filter(|p| p["owner"] == name).count();
            if (count("node-1"), count("node-2")) == (32, 32) { Ok(()) } else { Err(table.to_string()) }
        })
        .await;
        ring
    }

    /// `METHOD path` at one of the nodes.
    async fn ask(&self, node: usize, line: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(self.nodes[node].url(path).await);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let exchange = async {
            let (parts, body) = self.http.request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Answer { status: parts.status.as_u16(), headers: parts.headers, body }
        };
        tokio::time::timeout(READY, exchange).await.unwrap()
    }

    /// The status, and that it carries no body or a well-formed error.
    async fn status(&self, node: usize, line: &str, headers: &[(&str, &str)]) -> u16 {
        let answer = self.ask(node, line, headers, "").await;
        if answer.status >= 400 && !line.starts_with("HEAD") {
            assert!(answer.json()["error"]["code"].is_string(), "{:?}", answer.body);
        }
        answer.status
    }

    async fn over_nats(&self, operation: &str, body: Value) -> Value {
        let subject = format!("cache-platform.{operation}");
        let answer = self.nats.request(subject, body.to_string().into()).await.unwrap();
        let mut read: Value = serde_json::from_slice(&answer.payload).unwrap();
        if let Some(headers) = answer.headers {
            read["status"] = json!(headers.get("Nats-Service-Error-Code").unwrap().as_str());
        }
        read
    }

    /// A key of each node.
    async fn keys(&self) -> [String; 2] {
        let mut keys = [String::new(), String::new()];
        for number in 0..64 {
            let key = format!("dir/key {number}");
            let owner = self.ask(0, &format!("GET /owner?key=dir/key+{number}"), &[], "").await.json();
            let at = usize::from(owner["owner"] == "node-2");
            keys[at] = key;
        }
        assert!(keys.iter().all(|key| !key.is_empty()));
        keys.map(|key| key.replace(' ', "%20"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_for_every_key_with_the_same_statuses_and_headers() {
    let ring = Ring::start().await;
    for key in ring.keys().await {
        for node in [0, 1] {
            contract(&ring, node, &format!("/v1/keys/{key}")).await;
        }
    }
    let metrics = ring.ask(0, "GET /metrics", &[], "").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    for operation in ["get", "set", "delete", "touch", "persist", "inspect"] {
        let line = format!(r#"nats_ring_requests_total{{operation="{operation}",outcome="ok"}}"#);
        let count = metrics.lines().find_map(|l| l.strip_prefix(&line)).unwrap_or_else(|| panic!("no {operation}"));
        assert!(count.trim().parse::<u64>().unwrap() > 0, "{operation}: {count}");
    }
    assert!(metrics.contains(r#"operation="set",outcome="precondition_failed"} "#), "{metrics}");
}

async fn contract(ring: &Ring, node: usize, path: &str) {
    let line = |method: &str| format!("{method} {path}");
    let value = vec![0xff; 300_000];
    let put = [("content-type", "image/png"), ("cache-control", "max-age=600"), ("if-none-match", "*")];
    let created = ring.ask(node, &line("PUT"), &put, value.clone()).await;
    assert_eq!((created.status, created.body.len()), (201, 0));
    let first = created.header("etag").to_owned();
    assert_eq!(ring.ask(node, &line("PUT"), &put, "again").await.json()["error"]["code"], "precondition_failed");

    let got = ring.ask(node, &line("GET"), &[], "").await;
    assert!(got.status == 200 && got.body == value);
    let head = ring.ask(node, &line("HEAD"), &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for answer in [&got, &head] {
        assert_eq!((answer.header("content-type"), answer.header("etag")), ("image/png", &*first));
        assert_eq!((answer.header("content-length"), answer.header("cache-control")), ("300000", "max-age=600"));
        assert!(answer.header("age").parse::<u64>().unwrap() < 600 && !answer.headers.contains_key("last-modified"));
    }
    assert_eq!(ring.status(node, &line("GET"), &[("if-none-match", &first)]).await, 304);
    assert_eq!(ring.status(node, &line("HEAD"), &[("if-none-match", "*")]).await, 304);
    assert_eq!(ring.status(node, &line("GET"), &[("if-match", "\"1.999999\"")]).await, 412);
    assert_eq!(ring.status(node, &line("DELETE"), &[("if-match", "\"1.999999\"")]).await, 412);

    let touched = ring.ask(node, &format!("POST {path}/touch"), &[("cache-control", "max-age=60")], "").await;
    assert_eq!(touched.status, 204);
    assert_ne!(touched.header("etag"), first);
    assert_eq!(ring.status(node, &format!("POST {path}/persist"), &[("if-match", &first)]).await, 412);
    assert_eq!(ring.status(node, &format!("POST {path}/persist"), &[]).await, 204);
    assert!(!ring.ask(node, &line("HEAD"), &[], "").await.headers.contains_key("cache-control"));

    assert_eq!(ring.ask(node, &line("PUT"), &[("content-type", "text/plain")], "short").await.status, 204);
    for (header, value) in [("if-match", "nonsense"), ("cache-control", "max-age=x"), ("content-type", "x")] {
        assert_eq!(ring.status(node, &line("PUT"), &[(header, value)]).await, 400, "{header}");
    }
    assert_eq!(ring.status(node, &format!("GET {path}%zz"), &[]).await, 400);
    assert_eq!(ring.ask(node, &line("PUT"), &[], vec![0; 800_000]).await.status, 413);
    assert_eq!(ring.status(node, &line("DELETE"), &[]).await, 204);
    for method in ["DELETE", "GET", "HEAD"] {
        assert_eq!(ring.status(node, &line(method), &[]).await, 404);
    }
    assert_eq!(ring.status(node, &format!("POST {path}/persist"), &[]).await, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_nats_clients_have_the_same_operations() {
    let ring = Ring::start().await;
    let png = ring.ask(0, "PUT /v1/keys/logo", &[("content-type", "image/png")], &b"\xff\0"[..]).await;
    assert_eq!(png.status, 201);
    let got = ring.over_nats("get", json!({"key": "logo"})).await;
    assert_eq!((&got["value"], &got["encoding"]), (&json!("/wA="), &json!("base64")));

    let set = ring.over_nats("set", json!({"key": "k", "value": [1], "if_absent": true})).await;
    let version = set["version"].clone();
    let again = ring.over_nats("set", json!({"key": "k", "value": [2], "if_absent": true})).await;
    assert_eq!((&again["error"]["code"], &again["status"]), (&json!("precondition_failed"), &json!("412")));
    let touched = ring.over_nats("touch", json!({"key": "k", "ttl": 60, "if_version": version})).await;
    assert_eq!(touched["touched"], true, "{touched}");
    let seen = ring.over_nats("inspect", json!({"key": "k"})).await;
    let owner = ring.over_nats("owner", json!({"key": "k"})).await;
    assert_eq!((&seen["node"], &seen["partition"]), (&owner["owner"], &owner["partition"]));
    assert_eq!((&seen["version"], &seen["bytes"]), (&touched["version"], &json!(3)));
    assert!(seen["ttl"].as_f64().unwrap() > 30.0 && seen["age"].as_f64().unwrap() < 60.0, "{seen}");
    assert_eq!(ring.over_nats("touch", json!({"key": "k"})).await["status"], "400");
    let stale = ring.over_nats("delete", json!({"key": "k", "if_version": version})).await;
    assert_eq!(stale["status"], "412", "{stale}");
    assert_eq!(ring.over_nats("persist", json!({"key": "k"})).await["persisted"], true);
    let got = ring.ask(1, "GET /v1/keys/k", &[], "").await;
    assert_eq!((got.header("content-type"), &got.body[..]), ("application/json", &b"[1]"[..]));
    assert_eq!(ring.over_nats("delete", json!({"key": "k"})).await["deleted"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_at_both_nodes_over_http_and_nats_add_up_exactly() {
    let ring = Ring::start().await;
    for key in ring.keys().await {
        let (line, plain) = (format!("POST /v1/keys/{key}/incr?by=3"), key.replace("%20", " "));
        let http = (0..40).map(|number| ring.ask(number % 2, &line, &[], ""));
        let nats = (0..20).map(|_| ring.over_nats("incr", json!({"key": plain, "by": -1})));
        let (http, nats) = futures::join!(futures::future::join_all(http), futures::future::join_all(nats));
        assert!(http.iter().all(|answer| answer.status == 200) && nats.iter().all(|answer| answer["value"].is_i64()));
        let mut tags: Vec<_> = http.iter().map(|answer| answer.header("etag").trim_matches('"').to_owned()).collect();
        tags.extend(nats.iter().map(|answer| answer["version"].as_str().unwrap().to_owned()));
        tags.sort_unstable();
        tags.dedup();
        assert_eq!(tags.len(), 60, "each is a write of its own");
        assert_eq!(ring.ask(1, &format!("GET /v1/keys/{key}"), &[], "").await.body, "100");

        let fresh = format!("POST /v1/keys/{key}:lock/get-or-set");
        let racing = (0..16).map(|asker| ring.ask(asker % 2, &fresh, &[], asker.to_string()));
        let answers = futures::future::join_all(racing).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
        assert!(answers.iter().all(|answer| answer.body == answers[0].body), "all get the one that was stored");
    }
    let got = ring.nats.request("cache-platform.key.incr.counter", "5".into()).await.unwrap();
    let got: Value = serde_json::from_slice(&got.payload).unwrap();
    assert_eq!(got["value"], 5, "{got}");
    let taken = ring.over_nats("get-or-set", json!({"key": "counter", "value": 9})).await;
    assert_eq!((&taken["stored"], &taken["value"]), (&json!(false), &json!(5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_keeps_type_tag_age_and_end_when_its_partition_moves() {
    let ring = Ring::start().await;
    let keys = ring.keys().await;
    let path = format!("/v1/keys/{}", keys[1]);
    let put = [("content-type", "text/css"), ("cache-control", "max-age=900")];
    let created = ring.ask(0, &format!("PUT {path}"), &put, "a{}").await;
    let tag = created.header("etag").to_owned();
    // A stated time, so that there is an age to lose.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    ring.nodes[1].sigterm();
    assert_eq!(ring.nodes[1].wait_exit(READY).await, Some(0));
    let got = ring.ask(0, &format!("GET {path}"), &[], "").await;
    assert_eq!((got.status, got.header("content-type"), got.header("etag")), (200, "text/css", &*tag));
    assert!(got.header("age").parse::<u64>().unwrap() >= 2, "{}", got.header("age"));
    let max_age: u64 = got.header("cache-control").strip_prefix("max-age=").unwrap().parse().unwrap();
    assert!((899..=900).contains(&max_age), "{max_age}");
    // The next owner judges conditions on the same version.
    assert_eq!(ring.status(0, &format!("DELETE {path}"), &[("if-match", &tag)]).await, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_writers_at_both_nodes_that_race_exactly_one_wins() {
    let ring = Ring::start().await;
    for key in ring.keys().await {
        let line = format!("PUT /v1/keys/{key}");
        let mut tag = ring.ask(0, &line, &[], "0").await.header("etag").to_owned();
        for round in 0..10 {
            let condition = [("if-match", &*tag)];
            let racing = (0..16).map(|writer| ring.ask(writer % 2, &line, &condition, format!("{round}:{writer}")));
            let answers = futures::future::join_all(racing).await;
            let won: Vec<_> = answers.iter().filter(|answer| answer.status == 204).collect();
            assert_eq!(won.len(), 1);
            assert!(answers.iter().all(|answer| [204, 412].contains(&answer.status)));
            let next = won[0].header("etag").to_owned();
            assert_eq!(ring.ask(1, &format!("GET /v1/keys/{key}"), &[], "").await.header("etag"), next);
            tag = next;
        }
    }
}
