//! The routes, and what their handlers share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, post};
use serde_json::json;

use super::body::BodyBudget;
use super::headers::idempotency_key;
use super::{ApiError, NodeView, guard, operations, rest, state};
use crate::cache::{CacheClient, MAX_KEY_BYTES};
use crate::types::Consistency;

/// What there is, as an unknown path is told.
const ENDPOINTS: [&str; 17] = [
    "POST /set",
    "GET /get?key=",
    "DELETE /delete?key=",
    "GET /v1/keys/{key}",
    "HEAD /v1/keys/{key}",
    "PUT /v1/keys/{key}",
    "DELETE /v1/keys/{key}",
    "POST /v1/keys/{key}/touch",
    "POST /v1/keys/{key}/persist",
    "POST /v1/keys/{key}/incr?by=",
    "POST /v1/keys/{key}/get-or-set",
    "GET /owner?key=",
    "GET /stats",
    "GET /health",
    "GET /ready",
    "GET /ring",
    "GET /metrics",
];

/// What a body may have beside its value: the key, each byte of which may be written as `\uXXXX`, the other fields, and
/// white space.
const AROUND_VALUE_BYTES: usize = 6 * MAX_KEY_BYTES + 4096;

/// Bounds on requests.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long a request may take altogether; above the cache client's own time-outs, which answer more precisely.
    pub request_timeout: Duration,
    /// What all bodies that are read or worked on may hold together; further ones wait.
    pub all_bodies_bytes: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            body_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(20),
            all_bodies_bytes: 32 << 20,
        }
    }
}

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    pub(super) cache: CacheClient,
    pub(super) view: Arc<dyn NodeView>,
    pub(super) bodies: BodyBudget,
    limits: RequestLimits,
}

impl AppState {
    /// Answers operations through the cache client, everything else from the view.
    pub fn new(cache: CacheClient, view: Arc<dyn NodeView>, limits: RequestLimits) -> Self {
        let body_max_bytes = cache.limits().max_value_bytes + AROUND_VALUE_BYTES;
        Self { cache, view, bodies: BodyBudget::new(limits, body_max_bytes), limits }
    }

    /// The cache, at the consistency a request asks for, if it does.
    pub(super) fn cache_at(&self, asked: Option<Consistency>) -> CacheClient {
        let cache = self.cache.clone();
        asked.map_or(cache.clone(), |level| cache.with_consistency(level))
    }

    /// The same for a write, with the name that its headers give it, if they do.
    pub(super) fn writer(&self, headers: &HeaderMap, asked: Option<Consistency>) -> Result<CacheClient, ApiError> {
        let cache = self.cache_at(asked);
        Ok(match idempotency_key(headers)? {
            Some(name) => cache.with_request_id(name),
            None => cache,
        })
    }
}

impl fmt::Debug for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppState").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The routes of a node.
pub fn app(state: AppState) -> Router {
    let limits = state.limits;
    Router::new()
        .route("/set", post(operations::set))
        .route("/get", get(operations::get))
        .route("/delete", delete(operations::delete))
        .route(rest::KEYS, entry())
        .route(&format!("{}{{*key}}", rest::KEYS), entry())
        .route("/owner", get(state::owner))
        .route("/stats", get(state::stats))
        .route("/health", get(state::health))
        .route("/ready", get(state::ready))
        .route("/ring", get(state::ring))
        .route("/metrics", get(state::metrics))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .layer(from_fn_with_state(limits, guard::guard))
        .with_state(state)
}

/// What can be done with one entry.
fn entry() -> MethodRouter<AppState> {
    get(rest::get).head(rest::head).put(rest::put).delete(rest::delete).post(rest::post)
}

/// The header `Allow` is added by the router.
async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let path = if uri.path().starts_with(rest::KEYS) { "/v1/keys/{key}" } else { uri.path() };
    let asked: Vec<_> = ENDPOINTS
        .into_iter()
        .filter(|endpoint| endpoint.split_once(' ').is_some_and(|(_, rest)| rest.split('?').next() == Some(path)))
        .collect();
    let message = format!("{method} {path} is not there; use {}", asked.join(", "));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

async fn unknown_path(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    let message = format!("there is nothing at {path}; there are {}", ENDPOINTS.join(", "));
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message).with("endpoints", json!(ENDPOINTS))
}
