//! A small HTTP client for tests: many requests at once over kept connections, each with a deadline.
//!
//! In: method, URL, JSON. Out: status and body, or why there was no answer. Cheap to clone.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // shared by tests: none uses all of it

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;

/// How long a request may take where nothing else is said.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Status and body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The client.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    limit: Duration,
}

impl Http {
    pub fn new() -> Self {
        Self::with_limit(REQUEST_LIMIT)
    }

    /// Each request, its connection included, takes at most `limit`.
    pub fn with_limit(limit: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(256).build(connector);
        Self { client, limit }
    }

    pub async fn get(&self, url: &str) -> Result<Answer, String> {
        self.request(Method::GET, url, None).await
    }

    pub async fn delete(&self, url: &str) -> Result<Answer, String> {
        self.request(Method::DELETE, url, None).await
    }

    pub async fn post(&self, url: &str, json: &serde_json::Value) -> Result<Answer, String> {
        self.request(Method::POST, url, Some(json.to_string().into())).await
    }

    /// Any request; a body goes as `application/json`.
    pub async fn request(&self, method: Method, url: &str, body: Option<Bytes>) -> Result<Answer, String> {
        let json = body.as_ref().map(|_| ("content-type", "application/json"));
        self.request_with(method, url, json.as_slice(), body).await
    }

    /// Any request, with these headers.
    pub async fn request_with(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<Bytes>,
    ) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.unwrap_or_default())).map_err(|e| format!("{url}: {e}"))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|e| format!("{url}: {e:?}"))?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.map_err(|e| format!("{url}: {e:?}"))?.to_bytes();
            Ok(Answer { status, body })
        };
        match tokio::time::timeout(self.limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("{url}: no answer within {:?}", self.limit)),
        }
    }
}

/// The text as part of a URL's query.
pub fn query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
