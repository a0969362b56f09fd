//! Entries as resources: `/v1/keys/{key}`, raw bytes with their content type, HTTP's own preconditions and lifetimes.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::headers::{consistency, content_type, content_type_value, describe, etag, preconditions, ttl};
use super::key::key_in_path;
use super::{ApiError, AppState, update};
use crate::cache::{Condition, ContentType, NewEntry, Version};

/// What stands before a key in a path.
pub(super) const KEYS: &str = "/v1/keys/";
/// What can be asked for with POST.
const ACTIONS: [&str; 4] = ["touch", "persist", "incr", "get-or-set"];

/// The value, or 304 where the asker has it already.
pub(super) async fn get(State(state): State<AppState>, uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let (key, condition) = (key_of(&uri)?, preconditions(&headers)?);
    let entry = state.cache_at(consistency(&headers)?).get(key).await?.found.ok_or_else(missing)?;
    let modified = is_modified(condition, entry.version)?;
    let mut response = if modified { with_type(Body::from(entry.value), entry.content_type) } else { not_modified() };
    describe(response.headers_mut(), entry.version, entry.age, entry.remaining_ttl);
    Ok(response)
}

/// As [`get`], without the value: it is not even fetched from its owner.
pub(super) async fn head(State(state): State<AppState>, uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let (key, condition) = (key_of(&uri)?, preconditions(&headers)?);
    let entry = state.cache_at(consistency(&headers)?).inspect(key).await?.found.ok_or_else(missing)?;
    let mut response = if is_modified(condition, entry.version)? {
        let mut response = with_type(Body::empty(), entry.content_type);
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(entry.bytes));
        response
    } else {
        not_modified()
    };
    describe(response.headers_mut(), entry.version, entry.age, entry.remaining_ttl);
    Ok(response)
}

pub(super) async fn put(
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    // First of all the body: an answer to somebody who is still sending may be lost with the connection.
    let body = state.bodies.read(&headers, body).await?;
    let (key, condition) = (key_of(&uri)?, preconditions(&headers)?);
    let (value, content_type, ttl) = (body.bytes.clone(), content_type(&headers)?, ttl(&headers)?);
    let reply = state
        .writer(&headers, consistency(&headers)?)?
        .put(key, NewEntry { value, content_type, ttl }, condition)
        .await?;
    let status = if reply.created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    Ok(done(status, reply.version))
}

pub(super) async fn delete(
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let cache = state.writer(&headers, consistency(&headers)?)?;
    let reply = cache.delete_if(key_of(&uri)?, preconditions(&headers)?).await?;
    if reply.existed { Ok(StatusCode::NO_CONTENT) } else { Err(missing()) }
}

/// `…/touch` and so on: what is asked is the path's last segment, for keys may have slashes.
pub(super) async fn post(
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let path = uri.path();
    let Some((resource, action)) = path.rsplit_once('/') else { return Ok(not_for_post(path)) };
    if resource.len() < KEYS.len() || !ACTIONS.contains(&action) {
        return Ok(not_for_post(path));
    }
    let key = Bytes::from(key_in_path(&resource[KEYS.len()..])?);
    match action {
        "incr" => update::increment(&state, key, &uri, &headers).await,
        "get-or-set" => update::get_or_set(&state, key, &headers, body).await,
        _ => change(&state, key, action, &headers).await,
    }
}

/// Another time to live, or none any more.
async fn change(state: &AppState, key: Bytes, action: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let condition = preconditions(headers)?;
    let cache = state.writer(headers, consistency(headers)?)?;
    let reply = if action == "touch" {
        let ttl = ttl(headers)?.ok_or_else(|| {
            ApiError::bad_request(
                "touch: header cache-control is missing; write max-age=<seconds>, or POST to /persist for no end",
            )
        })?;
        cache.touch(key, ttl, condition).await?
    } else {
        cache.persist(key, condition).await?
    };
    Ok(done(StatusCode::NO_CONTENT, reply.version.ok_or_else(missing)?))
}

fn key_of(uri: &Uri) -> Result<Bytes, ApiError> {
    Ok(key_in_path(uri.path().strip_prefix(KEYS).unwrap_or_default())?.into())
}

/// Whether a reader's preconditions leave something to send. `If-None-Match` asks for nothing new, it refuses nothing.
fn is_modified(Condition { if_match, if_none_match }: Condition, version: Version) -> Result<bool, ApiError> {
    Condition { if_match, if_none_match: None }.check(Some(version))?;
    Ok(Condition { if_match: None, if_none_match }.check(Some(version)).is_ok())
}

pub(super) fn with_type(body: Body, content_type: ContentType) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, content_type_value(content_type));
    response
}

fn not_modified() -> Response {
    StatusCode::NOT_MODIFIED.into_response()
}

/// Without a body.
fn done(status: StatusCode, version: Version) -> Response {
    (status, [(ETAG, etag(version))]).into_response()
}

fn missing() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no entry with this key")
}

fn not_for_post(path: &str) -> Response {
    let message =
        format!("POST {path} is not there; use GET, HEAD, PUT or DELETE, or POST to …/{}", ACTIONS.join(", …/"));
    let mut response = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD,PUT,DELETE"));
    response
}
