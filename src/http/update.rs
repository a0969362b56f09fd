//! What reads and writes an entry in one: `POST /v1/keys/{key}/incr` and `/get-or-set`. Both answer with the entry as it is
//! from then on.

use axum::body::Body;
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;

use super::headers::{consistency, content_type, describe, etag, ttl};
use super::key::parameter;
use super::rest::with_type;
use super::{ApiError, AppState};
use crate::cache::{ContentType, NewEntry};

/// The sum, as the JSON number that the entry is.
pub(super) async fn increment(
    state: &AppState,
    key: Bytes,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    refuse_preconditions("incr", headers)?;
    let by = by(uri)?;
    let reply = state.writer(headers, consistency(headers)?)?.increment(key, by, ttl(headers)?).await?;
    let mut response = with_type(Body::from(reply.value.to_string()), ContentType::JSON);
    response.headers_mut().insert(ETAG, etag(reply.version));
    Ok(response)
}

/// The parameter `by`.
fn by(uri: &Uri) -> Result<i64, ApiError> {
    let Some(text) = parameter(uri.query().unwrap_or(""), "by")? else { return Ok(1) };
    text.trim().parse().map_err(|_| {
        let (least, most, given) = (i64::MIN, i64::MAX, text.escape_debug());
        ApiError::bad_request(format!("parameter \"by\": '{given}' is no integer from {least} to {most}"))
    })
}

/// 200 with the entry that was there, or 201 with what was sent.
pub(super) async fn get_or_set(
    state: &AppState,
    key: Bytes,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    // First of all the body, as for a PUT.
    let body = state.bodies.read(headers, body).await?;
    refuse_preconditions("get-or-set", headers)?;
    let new = NewEntry { value: body.bytes.clone(), content_type: content_type(headers)?, ttl: ttl(headers)? };
    let reply = state.writer(headers, consistency(headers)?)?.get_or_set(key, new).await?;
    let entry = reply.entry;
    let mut response = with_type(Body::from(entry.value), entry.content_type);
    describe(response.headers_mut(), entry.version, entry.age, entry.remaining_ttl);
    *response.status_mut() = if reply.stored { StatusCode::CREATED } else { StatusCode::OK };
    Ok(response)
}

/// Neither asks anything of the entry; to ignore what a client asks would do what it wanted to prevent.
fn refuse_preconditions(operation: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    match [IF_MATCH, IF_NONE_MATCH].iter().find(|name| headers.contains_key(*name)) {
        Some(name) => Err(ApiError::bad_request(format!("{operation}: header {name}: it asks nothing of the entry"))),
        None => Ok(()),
    }
}
