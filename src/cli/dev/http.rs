//! Asking nodes over HTTP, as `curl` would: connections are kept, every request has a deadline.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// No answer that is asked for here comes near it.
const ANSWER_MAX_BYTES: usize = 4 << 20;

/// The client. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    limit: Duration,
}

/// Status and body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Http {
    /// Each request, its connection included, takes at most `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector), limit }
    }

    pub(super) async fn get(&self, node: SocketAddr, path: &str) -> Result<Answer, String> {
        self.request(node, Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn post(&self, node: SocketAddr, path: &str, json: String) -> Result<Answer, String> {
        self.request(node, Method::POST, path, json.into()).await
    }

    async fn request(&self, node: SocketAddr, method: Method, path: &str, body: Bytes) -> Result<Answer, String> {
        let request = Request::builder().method(method).uri(format!("http://{node}{path}"));
        let request = request.header("content-type", "application/json").body(Full::new(body));
        let request = request.map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| error.to_string())?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
            Ok(Answer { status, body: body.map_err(|error| error.to_string())?.to_bytes() })
        };
        let answer = tokio::time::timeout(self.limit, exchange).await;
        answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.limit)))
    }
}
