//! The cache's operations: `/set`, `/get`, `/delete`.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::headers::IDEMPOTENCY_KEY;
use super::key::{Key, parameter};
use super::{ApiError, AppState};
use crate::cache::{Condition, ContentType, NewEntry, plain};
use crate::types::{Consistency, UnknownConsistency};

pub(super) async fn set(State(state): State<AppState>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let body = state.bodies.read(&headers, body).await?;
    let request = plain::parse_set(&body.bytes, &state.cache.limits())?;
    let entry = NewEntry { value: request.value, content_type: ContentType::JSON, ttl: request.ttl };
    let asked = plain::parse_consistency("set", &body.bytes)?;
    let cache = state.writer(&headers, asked)?;
    // As over NATS, a header comes before the field.
    let named = plain::parse_request_name("set", &body.bytes)?.filter(|_| !headers.contains_key(IDEMPOTENCY_KEY));
    let cache = match named {
        Some(name) => cache.with_request_id(name),
        None => cache,
    };
    let reply = cache.put(request.key, entry, request.condition).await?;
    Ok(json(StatusCode::OK, plain::stored(&reply.node, reply.version)))
}

pub(super) async fn get(State(state): State<AppState>, Key(key): Key, uri: Uri) -> Result<Response, ApiError> {
    let reply = state.cache_at(consistency(&uri)?).get(Bytes::from(key)).await?;
    Ok(match reply.found {
        Some(entry) => json(StatusCode::OK, plain::found(&entry, &reply.node)),
        None => json(StatusCode::NOT_FOUND, plain::not_found(&reply.node)),
    })
}

pub(super) async fn delete(
    State(state): State<AppState>,
    Key(key): Key,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let version = parameter(uri.query().unwrap_or(""), "if_version")?;
    let condition = match version {
        Some(text) => Condition::if_version(plain::parse_version(&text)?),
        None => Condition::NONE,
    };
    let reply = state.writer(&headers, consistency(&uri)?)?.delete_if(Bytes::from(key), condition).await?;
    Ok(json(StatusCode::OK, plain::deleted(reply.existed, &reply.node)))
}

fn consistency(uri: &Uri) -> Result<Option<Consistency>, ApiError> {
    let asked = parameter(uri.query().unwrap_or(""), "consistency")?;
    let level = asked.map(|text| text.parse()).transpose();
    level.map_err(|error: UnknownConsistency| ApiError::bad_request(format!("parameter \"consistency\": {error}")))
}

/// A body that is JSON text already.
fn json(status: StatusCode, body: Bytes) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}
