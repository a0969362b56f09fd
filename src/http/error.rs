//! Refusals and failures as HTTP answers: `{"error":{"code","message"}}` and the status that fits.

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::cache::NOT_ENOUGH_REPLICAS;
use crate::rpc::CallError;
use crate::service::{REQUEST_ID_REUSED, ServiceError};

/// What a client is told to wait before it tries again, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// An error answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    code: String,
    message: String,
    /// Fields beside `error`.
    more: Vec<(&'static str, Value)>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), more: Vec::new() }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub(super) fn overloaded(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message)
    }

    /// With one more field beside `error`.
    pub(super) fn with(mut self, field: &'static str, value: Value) -> Self {
        self.more.push((field, value));
        self
    }
}

/// The status of an error code, whoever raised it. Codes of a service that are not known here are its failures.
fn status_of(code: &str) -> StatusCode {
    match code {
        "bad_request" => StatusCode::BAD_REQUEST,
        "not_found" => StatusCode::NOT_FOUND,
        "precondition_failed" => StatusCode::PRECONDITION_FAILED,
        "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        REQUEST_ID_REUSED => StatusCode::UNPROCESSABLE_ENTITY,
        "overloaded" => StatusCode::TOO_MANY_REQUESTS,
        "unavailable" | NOT_ENOUGH_REPLICAS => StatusCode::SERVICE_UNAVAILABLE,
        "unknown" => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<ServiceError> for ApiError {
    fn from(ServiceError { code, message }: ServiceError) -> Self {
        Self { status: status_of(&code), code, message, more: Vec::new() }
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let mut message = error.to_string();
        if matches!(error, CallError::Unknown { .. }) {
            message.push_str(
                "; it may have been executed: repeat it under the same Idempotency-Key, or only if that does no harm",
            );
        }
        Self { status: status_of(error.code()), code: error.code().to_owned(), message, more: Vec::new() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": { "code": self.code, "message": self.message } });
        for (field, value) in self.more {
            body[field] = value;
        }
        let mut response = (self.status, Json(body)).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
}
