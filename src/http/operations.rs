//! The cache's operations: `/set`, `/get`, `/delete`.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::key::Key;
use super::{ApiError, AppState};
use crate::cache::plain;

pub(super) async fn set(State(state): State<AppState>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let body = state.bodies.read(&headers, body).await?;
    let request = plain::parse_set(&body.bytes, &state.cache.limits())?;
    let reply = state.cache.set(request.key, request.value, request.ttl).await?;
    Ok(json(StatusCode::OK, plain::stored(&reply.node, reply.version)))
}

pub(super) async fn get(State(state): State<AppState>, Key(key): Key) -> Result<Response, ApiError> {
    let reply = state.cache.get(Bytes::from(key)).await?;
    Ok(match reply.found {
        Some(entry) => json(StatusCode::OK, plain::found(&entry.value, &reply.node, entry.version)),
        None => json(StatusCode::NOT_FOUND, plain::not_found(&reply.node)),
    })
}

pub(super) async fn delete(State(state): State<AppState>, Key(key): Key) -> Result<Response, ApiError> {
    let reply = state.cache.delete(Bytes::from(key)).await?;
    Ok(json(StatusCode::OK, plain::deleted(reply.existed, &reply.node)))
}

/// A body that is JSON text already.
fn json(status: StatusCode, body: Bytes) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}
