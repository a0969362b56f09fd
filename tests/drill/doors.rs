//! The three ways into the ring: the library's client, HTTP, a plain NATS client.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::RequestErrorKind;
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use nats_ring::cache::CacheClient;
use nats_ring::rpc::CallError;
use nats_ring::types::Consistency;
use serde_json::{Value, json};

use crate::account::Failure;
use crate::common::http::query;

/// How long a client goes on with one request.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a refusal.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// A way to write and read numbers.
#[async_trait]
pub trait Door: Send + Sync {
    async fn set(&self, key: &str, value: u64, level: Consistency) -> Result<(), Failure>;
    async fn get(&self, key: &str, level: Consistency) -> Result<Option<u64>, Failure>;
}

/// The library's client, without joining.
pub struct Library(pub CacheClient);

impl Library {
    fn failure(error: CallError) -> Failure {
        let text = format!("library: {error}");
        match error.code() {
            "unknown" => Failure::Unknown(text),
            _ => Failure::Refused(text),
        }
    }
}

#[async_trait]
impl Door for Library {
    async fn set(&self, key: &str, value: u64, level: Consistency) -> Result<(), Failure> {
        let client = self.0.clone().with_consistency(level);
        client.set(key.to_owned().into(), value.to_string().into(), None).await.map(|_| ()).map_err(Self::failure)
    }

    async fn get(&self, key: &str, level: Consistency) -> Result<Option<u64>, Failure> {
        let client = self.0.clone().with_consistency(level);
        let reply = client.get(key.to_owned().into()).await.map_err(Self::failure)?;
        Ok(reply.found.map(|found| serde_json::from_slice(&found.value).unwrap()))
    }
}

/// A plain NATS client.
pub struct Plain(pub async_nats::Client);

impl Plain {
    pub async fn ask(&self, operation: &str, body: Value) -> Result<Value, Failure> {
        let request = async_nats::Request::new().payload(body.to_string().into()).timeout(Some(PATIENCE));
        let answer = match self.0.send_request(format!("cache-platform.{operation}"), request).await {
            Ok(message) => serde_json::from_slice::<Value>(&message.payload).unwrap(),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                return Err(Failure::Refused(format!("plain {operation}: no responders")));
            }
            Err(error) => return Err(Failure::Unknown(format!("plain {operation}: {error}"))),
        };
        match answer["error"]["code"].as_str() {
            None => Ok(answer),
            Some("unknown") => Err(Failure::Unknown(format!("plain {operation}: {answer}"))),
            Some(_) => Err(Failure::Refused(format!("plain {operation}: {answer}"))),
        }
    }
}

#[async_trait]
impl Door for Plain {
    async fn set(&self, key: &str, value: u64, level: Consistency) -> Result<(), Failure> {
        self.ask("set", json!({"key": key, "value": value, "consistency": level})).await.map(|_| ())
    }

    async fn get(&self, key: &str, level: Consistency) -> Result<Option<u64>, Failure> {
        Ok(self.ask("get", json!({"key": key, "consistency": level})).await?["value"].as_u64())
    }
}

/// HTTP to any of the nodes, those that are restarting included. What is refused, and what is closed before any byte of the answer has
/// come, is sent again, to the next one; nothing else is.
pub struct Front {
    http: Client<HttpConnector, Full<Bytes>>,
    bases: Arc<Mutex<Vec<String>>>,
    turn: AtomicUsize,
}

/// What one try came to.
enum Tried {
    Answer(u16, Value),
    Again(String),
    Failed(Failure),
}

impl Front {
    /// `bases`: such as `http://127.0.0.1:8080`; may change.
    pub fn new(bases: Arc<Mutex<Vec<String>>>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { http: Client::builder(TokioExecutor::new()).build(connector), bases, turn: AtomicUsize::new(0) }
    }

    async fn ask(&self, path: &str, body: Option<Value>) -> Result<(u16, Value), Failure> {
        let end = Instant::now() + PATIENCE;
        loop {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let base = {
                let bases = self.bases.lock().unwrap();
                bases[turn % bases.len()].clone()
            };
            let left = end.saturating_duration_since(Instant::now());
            let tried = tokio::time::timeout(left, self.attempt(&format!("{base}{path}"), body.as_ref())).await;
            match tried.unwrap_or_else(|_| Tried::Failed(Failure::Unknown(format!("{base}{path}: no answer in time"))))
            {
                Tried::Answer(status, answer) => return Ok((status, answer)),
                Tried::Failed(failure) => return Err(failure),
                Tried::Again(why) if Instant::now() + REFUSED_PAUSE > end => return Err(Failure::Refused(why)),
                Tried::Again(_) => tokio::time::sleep(REFUSED_PAUSE).await,
            }
        }
    }

    async fn attempt(&self, url: &str, body: Option<&Value>) -> Tried {
        let request = Request::builder().uri(url).method(if body.is_some() { "POST" } else { "GET" });
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.header("content-type", "application/json").body(Full::new(body.into())).unwrap();
        let response = match self.http.request(request).await {
            Ok(response) => response,
            Err(error) if error.is_connect() || closed_before_an_answer(&error) => {
                return Tried::Again(format!("{url}: {error:?}"));
            }
            Err(error) => return Tried::Failed(Failure::Unknown(format!("{url}: {error:?}"))),
        };
        let status = response.status().as_u16();
        let body = match response.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Tried::Failed(Failure::Unknown(format!("{url}: {status}, cut off: {error}"))),
        };
        let text = String::from_utf8_lossy(&body).into_owned();
        match status {
            200 | 404 => Tried::Answer(status, serde_json::from_slice(&body).unwrap()),
            429 | 503 => Tried::Again(format!("{url}: {status} {text}")),
            _ => Tried::Failed(Failure::Unknown(format!("{url}: {status} {text}"))),
        }
    }
}

fn closed_before_an_answer(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return error.is_incomplete_message() || error.is_closed() || error.is_canceled() || reset(error);
        }
        next = error.source();
    }
    false
}

/// A connection that the other side is done with. (Nothing of an answer was read: that would have been an answer.)
fn reset(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| matches!(cause.kind(), ConnectionReset | BrokenPipe | ConnectionAborted))
}

#[async_trait]
impl Door for Front {
    async fn set(&self, key: &str, value: u64, level: Consistency) -> Result<(), Failure> {
        let body = json!({"key": key, "value": value, "consistency": level});
        match self.ask("/set", Some(body)).await? {
            (200, _) => Ok(()),
            (status, answer) => Err(Failure::Refused(format!("/set: {status} {answer}"))),
        }
    }

    async fn get(&self, key: &str, level: Consistency) -> Result<Option<u64>, Failure> {
        let (_, answer) = self.ask(&format!("/get?key={}&consistency={level}", query(key)), None).await?;
        Ok(answer["value"].as_u64())
    }
}
