//! Around every request: it ends in time, and with an answer, whatever happens in between.

use std::panic::AssertUnwindSafe;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::time::timeout;

use super::{ApiError, RequestLimits};
use crate::rpc::{TRACE_HEADER, traced};

/// Bounds a request's time, and answers where its handler panicked. What is called for it carries its `traceparent`.
pub(super) async fn guard(State(limits): State<RequestLimits>, request: Request, next: Next) -> Response {
    let trace = request.headers().get(TRACE_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let answered = AssertUnwindSafe(traced(trace, next.run(request))).catch_unwind();
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
