//! What the node knows: `/owner`, `/stats`, `/health`, `/ready`, `/ring`, `/metrics`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::key::{Key, parameter};
use super::{ApiError, AppState, bodies};
use crate::metrics;
use crate::node::Status;

pub(super) async fn owner(State(state): State<AppState>, Key(key): Key) -> Response {
    json_text(bodies::owner(state.view.as_ref(), &key))
}

pub(super) async fn stats(State(state): State<AppState>) -> Response {
    json_text(bodies::stats(state.view.as_ref()))
}

pub(super) async fn ring(State(state): State<AppState>) -> Response {
    json_text(bodies::ring(&state.view.status()))
}

fn json_text(body: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

pub(super) async fn metrics(State(state): State<AppState>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], state.view.metrics_text()).into_response()
}

/// How long a suspended node waits for what it asked itself over NATS.
const ITSELF_WITHIN: Duration = Duration::from_millis(500);
const CUT_OFF: &str = "suspended, and nothing comes back over NATS: cut off from the copies that it would serve with";

/// A suspended node is asked whether its copies can be reached at all: where its link stands half open it does not know.
pub(super) async fn ready(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let status = state.view.status();
    let serves =
        status.suspended.is_none() || status.not_ready.is_some() || state.view.reaches_itself(ITSELF_WITHIN).await;
    match status.not_ready.or_else(|| (!serves).then(|| CUT_OFF.to_owned())) {
        None => Ok(Json(json!({ "ready": true, "node": status.node, "suspended": status.suspended }))),
        Some(reason) => {
            let refused = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", reason);
            Err(refused.with("ready", Value::Bool(false)).with("suspended", json!(status.suspended)))
        }
    }
}

/// That this answers at all is the health of the process; `?scope=ring` asks for the ring's.
pub(super) async fn health(State(state): State<AppState>, uri: Uri) -> Result<Json<Value>, ApiError> {
    match parameter(uri.query().unwrap_or(""), "scope")?.as_deref() {
        None | Some("node") => {
            let Status { node, phase, suspended, .. } = state.view.status();
            Ok(Json(json!({ "status": "ok", "node": node, "phase": phase, "suspended": suspended })))
        }
        Some("ring") => ring_health(&state.view.status()),
        Some(other) => {
            let message = format!("parameter \"scope\" is '{}'; 'node' and 'ring' are allowed", other.escape_debug());
            Err(ApiError::bad_request(message))
        }
    }
}

fn ring_health(status: &Status) -> Result<Json<Value>, ApiError> {
    let missing: Vec<_> = bodies::missing(status).collect();
    let (partitions, suspended) = (status.partitions.len(), json!(status.suspended));
    if partitions == 0 {
        return Err(
            ApiError::unavailable("this node does not know the ring's partitions yet").with("missing", json!([]))
        );
    }
    if missing.is_empty() {
        let under_replicated = status.under_replicated();
        return Ok(Json(json!({
            "status": "ok", "partitions": partitions, "not_served": 0, "under_replicated": under_replicated,
            "suspended": suspended,
        })));
    }
    let message = format!("{} of {partitions} partitions have no serving owner", missing.len());
    let refused = ApiError::unavailable(message).with("not_served", json!(missing.len()));
    Err(refused.with("missing", json!(missing)).with("suspended", suspended))
}
