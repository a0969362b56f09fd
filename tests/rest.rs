//! REST over one entry: statuses, headers, preconditions and refusals of `/v1/keys/{key}`, driven in-process.
#![allow(clippy::unwrap_used)]

#[path = "common/one_node.rs"]
mod one_node;
#[path = "common/rest_model.rs"]
mod rest_model;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use axum::response::Response;
use bytes::Bytes;
use nats_ring::cache::{CacheClient, Limits};
use nats_ring::http::{AppState, RequestLimits, app};
use nats_ring::rpc::CallError;
use nats_ring::types::{ManualClock, PartitionId};
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

use one_node::{Fake, Mood, VALUE_MAX_BYTES};
use rest_model::{Model, Step, steps};

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    async fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status.as_u16(), headers: parts.headers, body: to_bytes(body, 1 << 24).await.unwrap() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    fn is(&self, status: u16, headers: &[(&str, Option<&str>)], body: &[u8]) {
        assert_eq!(self.status, status, "{:?}", self.body);
        for (name, value) in headers {
            assert_eq!(self.header(name), *value, "{name}");
        }
        assert_eq!(self.body, body);
    }

    #[track_caller]
    fn status_is(&self, status: u16) {
        assert_eq!(self.status, status, "{:?}", self.body);
    }

    #[track_caller]
    fn refused(&self, status: u16, code: &str, says: &str) {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!((self.status, &body["error"]["code"]), (status, &json!(code)), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(says), "{body}");
    }
}

/// `METHOD path`, headers as `name: value`, body.
pub(crate) async fn ask(fake: &Arc<Fake>, line: &str, headers: &[&str], body: impl Into<Body>) -> Answer {
    let (method, uri) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(uri);
    for header in headers {
        let (name, value) = header.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let client = CacheClient::new(fake.clone(), Limits { max_value_bytes: VALUE_MAX_BYTES });
    let app = app(AppState::new(client, fake.clone(), RequestLimits::default()));
    Answer::of(app.oneshot(request.body(body.into()).unwrap()).await.unwrap()).await
}

async fn fake() -> (Arc<Fake>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    (Fake::on_clock(clock.clone()).await, clock)
}

#[tokio::test]
async fn bytes_come_back_with_type_tag_age_and_the_time_they_have() {
    let (fake, clock) = fake().await;
    let png = ["content-type: image/png", "cache-control: max-age=60"];
    let created = ask(&fake, "PUT /v1/keys/logo", &png, &b"\xff\0png"[..]).await;
    created.is(201, &[("etag", Some("\"3.1\"")), ("content-length", Some("0"))], b"");
    clock.advance(Duration::from_millis(10_700));
    let expected = [
        ("content-type", Some("image/png")),
        ("etag", Some("\"3.1\"")),
        ("age", Some("10")),
        ("cache-control", Some("max-age=60")),
        ("content-length", Some("5")),
        ("last-modified", None),
    ];
    ask(&fake, "GET /v1/keys/logo", &[], "").await.is(200, &expected, b"\xff\0png");
    ask(&fake, "HEAD /v1/keys/logo", &[], "").await.is(200, &expected, b"");
    let replaced = ask(&fake, "PUT /v1/keys/logo", &[], "plain").await;
    replaced.is(204, &[("etag", Some("\"3.2\""))], b"");
    let expected = [
        ("content-type", Some("application/octet-stream")),
        ("age", Some("0")),
        ("cache-control", None),
        ("etag", Some("\"3.2\"")),
    ];
    ask(&fake, "GET /v1/keys/logo", &[], "").await.is(200, &expected, b"plain");
    ask(&fake, "DELETE /v1/keys/logo", &[], "").await.is(204, &[], b"");
    for line in ["GET /v1/keys/logo", "DELETE /v1/keys/logo", "POST /v1/keys/logo/persist"] {
        ask(&fake, line, &[], "").await.refused(404, "not_found", "no entry");
    }
    ask(&fake, "HEAD /v1/keys/logo", &[], "").await.is(404, &[], b"");
}

#[tokio::test]
async fn a_time_to_live_is_given_moved_and_taken_away() {
    let (fake, clock) = fake().await;
    ask(&fake, "PUT /v1/keys/k", &["cache-control: max-age=10"], "v").await;
    clock.advance(Duration::from_secs(4));
    let touched = ask(&fake, "POST /v1/keys/k/touch", &["cache-control: max-age=20"], "").await;
    touched.is(204, &[("etag", Some("\"3.2\""))], b"");
    clock.advance(Duration::from_secs(7));
    // Written 11 s ago, and it has 13 of its 20 s left.
    let expected = [("age", Some("11")), ("cache-control", Some("max-age=24")), ("etag", Some("\"3.2\""))];
    ask(&fake, "GET /v1/keys/k", &[], "").await.is(200, &expected, b"v");
    ask(&fake, "POST /v1/keys/k/persist", &[], "").await.is(204, &[("etag", Some("\"3.3\""))], b"");
    clock.advance(Duration::from_secs(1000));
    ask(&fake, "GET /v1/keys/k", &[], "").await.is(200, &[("cache-control", None), ("age", Some("1011"))], b"v");
    ask(&fake, "POST /v1/keys/k/touch", &["cache-control: max-age=1"], "").await;
    clock.advance(Duration::from_secs(1));
    ask(&fake, "GET /v1/keys/k", &[], "").await.refused(404, "not_found", "");
    ask(&fake, "POST /v1/keys/k/touch", &["cache-control: max-age=1"], "").await.refused(404, "not_found", "");
}

#[tokio::test]
async fn an_increment_answers_with_the_sum_and_refuses_what_it_cannot_add() {
    let (fake, clock) = fake().await;
    let json = ("content-type", Some("application/json"));
    ask(&fake, "POST /v1/keys/n/incr", &[], "").await.is(200, &[json, ("etag", Some("\"3.1\""))], b"1");
    let with_end = ["cache-control: max-age=9"];
    ask(&fake, "POST /v1/keys/n/incr?by=-6", &with_end, "").await.is(200, &[("etag", Some("\"3.2\""))], b"-5");
    ask(&fake, "GET /v1/keys/n", &[], "").await.is(200, &[json, ("cache-control", Some("max-age=9"))], b"-5");
    clock.advance(Duration::from_secs(9));
    ask(&fake, "POST /v1/keys/n/incr?by=7", &[], "").await.is(200, &[], b"7");
    for by in ["1.5", "one", "", "9223372036854775808"] {
        let line = format!("POST /v1/keys/n/incr?by={by}");
        ask(&fake, &line, &[], "").await.refused(400, "bad_request", "parameter \"by\"");
    }
    ask(&fake, "POST /v1/keys/n/incr", &["if-match: *"], "").await.refused(400, "bad_request", "if-match");
    let most = format!("POST /v1/keys/n/incr?by={}", i64::MAX);
    ask(&fake, &most, &[], "").await.refused(400, "bad_request", "beyond");
    ask(&fake, "PUT /v1/keys/n", &["content-type: text/plain"], "7").await.status_is(204);
    ask(&fake, "POST /v1/keys/n/incr", &[], "").await.refused(400, "bad_request", "text/plain");
}

#[tokio::test]
async fn get_or_set_answers_201_with_what_was_sent_or_200_with_what_was_there() {
    let (fake, clock) = fake().await;
    let line = "POST /v1/keys/a/b/get-or-set";
    let sent = ["content-type: text/html", "cache-control: max-age=9"];
    let expected =
        [("content-type", Some("text/html")), ("etag", Some("\"3.1\"")), ("cache-control", Some("max-age=9"))];
    ask(&fake, line, &sent, "<b>").await.is(201, &expected, b"<b>");
    clock.advance(Duration::from_secs(3));
    ask(&fake, line, &[], "other").await.is(200, &[expected[0], expected[1], ("age", Some("3"))], b"<b>");
    clock.advance(Duration::from_secs(6));
    ask(&fake, line, &[], "other").await.is(201, &[("etag", Some("\"3.2\""))], b"other");
    ask(&fake, line, &["if-none-match: *"], "x").await.refused(400, "bad_request", "if-none-match");
}

#[tokio::test]
async fn the_same_entry_is_json_for_set_and_get_whatever_it_is() {
    let (fake, _) = fake().await;
    let set = r#"{"key":"a/b","value":{"n": 1.50}}"#;
    assert_eq!(ask(&fake, "POST /set", &[], set).await.status, 200);
    let expected = [("content-type", Some("application/json")), ("etag", Some("\"3.1\""))];
    ask(&fake, "GET /v1/keys/a/b", &[], "").await.is(200, &expected, br#"{"n": 1.50}"#);

    let shown = async |content_type: &str, value: &'static [u8]| {
        let put = ask(&fake, "PUT /v1/keys/k", &[&format!("content-type: {content_type}")], value).await;
        assert!(put.status < 300, "{:?}", put.body);
        let mut shown: Value = serde_json::from_slice(&ask(&fake, "GET /get?key=k", &[], "").await.body).unwrap();
        for field in ["found", "node", "version"] {
            assert!(!shown.as_object_mut().unwrap().remove(field).unwrap().is_null());
        }
        shown
    };
    assert_eq!(shown("application/json", b" [1, 2]\n").await, json!({"value": [1, 2]}));
    assert_eq!(shown("application/geo+json", b"{}").await, json!({"value": {}}));
    let text = shown("text/plain; charset=utf-8", "g\u{fc}\"n".as_bytes()).await;
    assert_eq!(text, json!({"value": "g\u{fc}\"n", "content_type": "text/plain; charset=utf-8"}));
    let bytes = shown("image/png", b"\xff\0").await;
    assert_eq!(bytes, json!({"value": "/wA=", "content_type": "image/png", "encoding": "base64"}));
}

#[tokio::test]
async fn keys_in_the_path_are_percent_decoded_and_may_have_slashes() {
    let (fake, _) = fake().await;
    for (path, key) in [
        ("user:1", "user:1"),
        ("a/b/c", "a/b/c"),
        ("a%2Fb%2fc", "a/b/c"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("%D0%BA", "\u{43a}"),
        ("50%25", "50%"),
        ("a/touch", "a/touch"),
        ("/", "/"),
        ("a//b/", "a//b/"),
    ] {
        let put = ask(&fake, &format!("PUT /v1/keys/{path}"), &[], path).await;
        assert!(put.status < 300, "{path}: {:?}", put.body);
        let query: String = key.bytes().map(|b| format!("%{b:02x}")).collect();
        let shown = ask(&fake, &format!("GET /get?key={query}"), &[], "").await;
        assert_eq!(shown.status, 200, "{path}");
        ask(&fake, &format!("GET /v1/keys/{path}?ignored=1"), &[], "").await.is(200, &[], path.as_bytes());
        let touch = format!("POST /v1/keys/{path}/touch");
        ask(&fake, &touch, &["cache-control: max-age=5"], "").await.is(204, &[], b"");
        ask(&fake, &format!("DELETE /v1/keys/{path}"), &[], "").await.is(204, &[], b"");
    }
}

#[tokio::test]
async fn bad_input_is_refused_saying_what_is_wrong_and_stores_nothing() {
    let (fake, _) = fake().await;
    let long = format!("PUT /v1/keys/{}", "k".repeat(1025));
    let long_type = format!("content-type: text/{}", "x".repeat(251));
    let many = format!("if-match: {}", vec!["\"4.1\""; 65].join(","));
    let put = "PUT /v1/keys/k";
    for (line, header, status, code, says) in [
        ("PUT /v1/keys/", "", 400, "bad_request", "it is empty"),
        ("PUT /v1/keys/a%zz", "", 400, "bad_request", "'%zz'"),
        ("PUT /v1/keys/a%4", "", 400, "bad_request", "'%4'"),
        ("GET /v1/keys/a%", "", 400, "bad_request", "'%'"),
        ("DELETE /v1/keys/%ff", "", 400, "bad_request", "UTF-8"),
        (&long, "", 413, "too_large", "1025 bytes"),
        (put, "if-match: 4.1", 400, "bad_request", "if-match: '4.1'"),
        (put, "if-none-match: \"4.1", 400, "bad_request", "if-none-match"),
        ("GET /v1/keys/k", "if-none-match: x", 400, "bad_request", "if-none-match: 'x'"),
        (put, &many, 400, "bad_request", "65 versions"),
        (put, "cache-control: max-age=0", 400, "bad_request", "max-age is '0'"),
        (put, "cache-control: max-age=soon", 400, "bad_request", "315360000"),
        (put, "cache-control: no-store", 400, "bad_request", "no-store"),
        (put, "content-type: nonsense", 400, "bad_request", "type/subtype"),
        (put, &long_type, 413, "too_large", "255 bytes"),
        (put, "content-type: application/json", 400, "bad_request", "not JSON"),
        (put, "content-encoding: gzip", 400, "bad_request", "content-encoding"),
        (put, "content-range: bytes 0-1/2", 400, "bad_request", "content-range"),
        ("POST /v1/keys/k/touch", "", 400, "bad_request", "max-age=<seconds>"),
        ("POST /v1/keys/k", "", 405, "method_not_allowed", "/touch"),
        ("POST /v1/keys/touch", "", 405, "method_not_allowed", "/touch"),
        ("POST /v1/keys//touch", "", 400, "bad_request", "it is empty"),
        ("PATCH /v1/keys/k", "", 405, "method_not_allowed", "PUT /v1/keys/{key}"),
    ] {
        let headers: &[&str] = if header.is_empty() { &[] } else { &[header] };
        ask(&fake, line, headers, "{").await.refused(status, code, says);
    }
    let large = ask(&fake, put, &[], vec![7; VALUE_MAX_BYTES + 1]).await;
    large.refused(413, "too_large", "2001 bytes is over the limit of 2000 bytes");
    let larger = ask(&fake, put, &[], vec![7; VALUE_MAX_BYTES + 20_000]).await;
    larger.refused(413, "too_large", "over the limit of");
    assert_eq!(fake.cache.stats().entries, 0);
    assert_eq!(ask(&fake, put, &[], vec![7; VALUE_MAX_BYTES]).await.status, 201);
    let allowed = ask(&fake, "POST /v1/keys/k", &[], "").await;
    assert_eq!(allowed.header("allow"), Some("GET,HEAD,PUT,DELETE"));
}

#[tokio::test]
async fn failures_of_the_ring_have_the_status_they_have_elsewhere() {
    let (fake, _) = fake().await;
    let partition = PartitionId::new(3);
    let reason = "why".to_owned();
    for (error, status, code) in [
        (
            CallError::Unavailable { partition, waited: Duration::from_secs(2), reason: reason.clone() },
            503,
            "unavailable",
        ),
        (CallError::Overloaded { partition, reason: reason.clone() }, 429, "overloaded"),
        (CallError::Unknown { partition, reason }, 504, "unknown"),
    ] {
        fake.becomes(Mood::Fails(error));
        for line in ["GET /v1/keys/k", "PUT /v1/keys/k", "DELETE /v1/keys/k", "POST /v1/keys/k/persist"] {
            ask(&fake, line, &[], "").await.refused(status, code, "");
        }
        assert_eq!(ask(&fake, "HEAD /v1/keys/k", &[], "").await.status, status);
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_and_a_call_that_does_not_end_are_given_up() {
    let (fake, _) = fake().await;
    let limits = RequestLimits {
        body_timeout: Duration::from_millis(50),
        request_timeout: Duration::from_millis(500),
        all_bodies_bytes: 0,
    };
    let client = CacheClient::new(fake.clone(), Limits { max_value_bytes: VALUE_MAX_BYTES });
    let app = app(AppState::new(client, fake.clone(), limits));
    let put = |body: Body| Request::put("/v1/keys/k").body(body).unwrap();
    let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let slow = Answer::of(app.clone().oneshot(put(never)).await.unwrap()).await;
    slow.refused(408, "timeout", "nothing was executed");
    let pieces = (0..30).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1000])));
    let pieces = Body::from_stream(futures::stream::iter(pieces));
    Answer::of(app.clone().oneshot(put(pieces)).await.unwrap()).await.refused(413, "too_large", "in pieces");
    fake.becomes(Mood::Hangs);
    let hung = Answer::of(app.clone().oneshot(put("v".into())).await.unwrap()).await;
    hung.refused(504, "unknown", "may have been executed");
    fake.becomes(Mood::Serves);
    // The budget holds one body: had any of them kept its share, this one would wait in vain.
    Answer::of(app.oneshot(put("v".into())).await.unwrap()).await.status_is(201);
}

#[tokio::test]
async fn a_reader_that_has_the_value_gets_no_body_and_writers_are_refused_with_412() {
    let (fake, _) = fake().await;
    ask(&fake, "PUT /v1/keys/k", &["cache-control: max-age=60"], "v").await;
    let unchanged = [("etag", Some("\"3.1\"")), ("cache-control", Some("max-age=60")), ("content-type", None)];
    for line in ["GET /v1/keys/k", "HEAD /v1/keys/k"] {
        ask(&fake, line, &["if-none-match: W/\"3.1\""], "").await.is(304, &unchanged, b"");
        ask(&fake, line, &["if-match: \"3.1\"", "if-none-match: \"3.0\""], "").await.status_is(200);
        ask(&fake, line, &["if-match: \"3.0\"", "if-none-match: \"3.1\""], "").await.status_is(412);
    }
    for (line, header) in [
        ("PUT /v1/keys/k", "if-none-match: *"),
        ("PUT /v1/keys/k", "if-match: \"3.0\""),
        ("PUT /v1/keys/k", "if-match: W/\"3.1\""),
        ("PUT /v1/keys/new", "if-match: *"),
        ("DELETE /v1/keys/k", "if-none-match: \"3.1\""),
        ("DELETE /v1/keys/k", "if-match: \"3.0\""),
        ("POST /v1/keys/k/persist", "if-match: \"3.0\""),
    ] {
        ask(&fake, line, &[header], "v").await.refused(412, "precondition_failed", "nothing was executed");
    }
    // Where there is nothing, nothing can be protected.
    ask(&fake, "DELETE /v1/keys/new", &["if-match: \"3.0\""], "").await.refused(404, "not_found", "");
    let version = |text: &str| format!("DELETE /delete?key=k&if_version={text}");
    ask(&fake, &version("3.0"), &[], "").await.refused(412, "precondition_failed", "version 3.1");
    ask(&fake, &version("x"), &[], "").await.refused(400, "bad_request", "if_version");
    let set = r#"{"key":"k","value":1,"if_absent":true}"#;
    ask(&fake, "POST /set", &[], set).await.refused(412, "precondition_failed", "version 3.1");
    ask(&fake, &version("3.1"), &[], "").await.status_is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_writers_that_race_with_if_match_exactly_one_wins() {
    let fake = Fake::new().await;
    let mut tag = ask(&fake, "PUT /v1/keys/k", &[], "0").await.header("etag").unwrap().to_owned();
    for round in 0..50 {
        let racing = (0..16).map(|writer| {
            let (fake, tag) = (fake.clone(), format!("if-match: {tag}"));
            tokio::spawn(async move { ask(&fake, "PUT /v1/keys/k", &[&tag], format!("{round}:{writer}")).await })
        });
        let answers = futures::future::join_all(racing).await;
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        let won: Vec<_> = answers.iter().filter(|a| a.status == 204).collect();
        assert_eq!(won.len(), 1);
        assert_eq!(answers.iter().filter(|a| a.status == 412).count(), 15);
        tag = won[0].header("etag").unwrap().to_owned();
        let got = ask(&fake, "GET /v1/keys/k", &[], "").await;
        assert_eq!(got.header("etag"), Some(&*tag));
    }
}

async fn run(steps: Vec<Step>) {
    let (fake, clock) = fake().await;
    let mut model = Model::default();
    for step in steps {
        if let Step::Advance { ms } = step {
            clock.advance(Duration::from_millis(ms));
            model.advance(ms);
            continue;
        }
        let request = model.request(&step);
        let headers: Vec<&str> = request.headers.iter().map(String::as_str).collect();
        let answer = ask(&fake, &request.line, &headers, request.body.clone()).await;
        model.check(&step, &request, &answer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_sequence_of_requests_with_preconditions_is_answered_as_the_model_says(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}
