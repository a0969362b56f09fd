//! The ways in, each adding under a name: the library, HTTP at all nodes in turn, a plain NATS client that repeats itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use nats_ring::cache::CacheClient;
use serde_json::Value;

use crate::common::http::Http;

/// Where each node's HTTP is.
pub type Bases = Arc<Mutex<BTreeMap<String, String>>>;

const LIMIT: Duration = Duration::from_secs(6);
const PLAIN_LIMIT: Duration = Duration::from_millis(1500);

/// One try to add, at quorum; why it is not acknowledged.
#[async_trait]
pub trait Door: Send + Sync {
    async fn add(&self, key: &str, by: i64, name: &str) -> Result<(), String>;
}

pub struct Library(pub CacheClient);

#[async_trait]
impl Door for Library {
    async fn add(&self, key: &str, by: i64, name: &str) -> Result<(), String> {
        let cache = self.0.clone().with_request_id(name.to_owned());
        cache.increment(key.to_owned().into(), by, None).await.map(|_| ()).map_err(|error| error.to_string())
    }
}

pub struct Front {
    http: Http,
    bases: Bases,
    turn: AtomicUsize,
}

impl Front {
    pub fn new(bases: Bases) -> Self {
        Self { http: Http::with_limit(LIMIT), bases, turn: AtomicUsize::new(0) }
    }

    fn base(&self) -> String {
        let bases = self.bases.lock().unwrap();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % bases.len();
        bases.values().nth(turn).unwrap().clone()
    }

    /// What a counter is, at quorum.
    pub async fn read(&self, key: &str) -> i64 {
        let url = format!("{}/v1/keys/{key}", self.base());
        let answer = self.http.request_with(Method::GET, &url, &[("consistency", "quorum")], None).await.unwrap();
        answer.text().parse().unwrap_or_else(|_| panic!("{key}: {} {}", answer.status, answer.text()))
    }
}

#[async_trait]
impl Door for Front {
    async fn add(&self, key: &str, by: i64, name: &str) -> Result<(), String> {
        let url = format!("{}/v1/keys/{key}/incr?by={by}", self.base());
        let headers = [("idempotency-key", name), ("consistency", "quorum")];
        let answer = self.http.request_with(Method::POST, &url, &headers, None).await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
    }
}

pub struct Plain(pub async_nats::Client);

impl Plain {
    pub async fn ask(&self, subject: &str, body: &str, headers: &[(&str, &str)]) -> Result<Value, String> {
        let mut map = async_nats::HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(*name, *value));
        let request =
            async_nats::Request::new().payload(body.to_owned().into()).headers(map).timeout(Some(PLAIN_LIMIT));
        let answer = self.0.send_request(subject.to_owned(), request).await.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())?;
        if answer["error"].is_null() { Ok(answer) } else { Err(answer.to_string()) }
    }
}

#[async_trait]
impl Door for Plain {
    async fn add(&self, key: &str, by: i64, name: &str) -> Result<(), String> {
        let headers = [("Nats-Ring-Request-Id", name), ("Nats-Ring-Consistency", "quorum")];
        self.ask(&format!("cache-platform.key.incr.{key}"), &by.to_string(), &headers).await.map(|_| ())
    }
}
