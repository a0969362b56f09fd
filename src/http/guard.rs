//! Around every request: it ends in time, and with an answer, whatever happens in between.

use std::panic::AssertUnwindSafe;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::time::timeout;

use super::{ApiError, RequestLimits};

/// Bounds a request's time, and answers where its handler panicked.
pub(super) async fn guard(State(limits): State<RequestLimits>, request: Request, next: Next) -> Response {
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind();
    match timeout(limits.request_timeout, answered).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!("a request's handler panicked");
            let message = "this node met an error of its own; the request may have been executed";
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message).into_response()
        }
        Err(_) => {
            let waited = limits.request_timeout;
            let message = format!("no answer within {waited:?}; the request may have been executed");
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "unknown", message).into_response()
        }
    }
}
