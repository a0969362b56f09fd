//! A request's body, read within bounds: its own size, the time it may take, and what all bodies together may hold.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{ApiError, RequestLimits};

/// What one permit stands for.
const PERMIT_BYTES: usize = 1024;
/// How much of a body that is too large is read and thrown away, and for how long: a connection closed on a sender in the
/// middle of its body takes the answer with it.
const DISCARDED_BYTES_MAX: usize = 16 << 20;
const DISCARD_LIMIT: Duration = Duration::from_secs(1);

/// Bounds the memory that bodies take while they are read and worked on.
#[derive(Debug, Clone)]
pub(super) struct BodyBudget {
    permits: Arc<Semaphore>,
    limits: RequestLimits,
    body_max_bytes: usize,
}

/// A body, and its share of the budget until it is dropped.
#[derive(Debug)]
pub(super) struct HeldBody {
    pub(super) bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl BodyBudget {
    pub(super) fn new(limits: RequestLimits, body_max_bytes: usize) -> Self {
        // The largest body must fit.
        let budget_bytes = limits.all_bodies_bytes.max(body_max_bytes);
        let permits = Semaphore::new(budget_bytes.div_ceil(PERMIT_BYTES).min(Semaphore::MAX_PERMITS));
        Self { permits: Arc::new(permits), limits, body_max_bytes }
    }

    /// Reads the body. One that is too large is refused, and takes no memory once that is known.
    pub(super) async fn read(&self, headers: &HeaderMap, mut body: Body) -> Result<HeldBody, ApiError> {
        let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        if let Some(size) = announced.filter(|size| *size > self.body_max_bytes) {
            // Who waits to be asked for it has sent nothing yet, and is not asked.
            if !headers.contains_key(EXPECT) {
                discard(&mut body).await;
            }
            return Err(self.too_large(&format!("of {size} bytes")));
        }
        let share = self.share_of(announced.unwrap_or(self.body_max_bytes)).await?;
        let limit = self.limits.body_timeout;
        timeout(limit, self.read_within(share, body)).await.unwrap_or_else(|_| {
            let message = format!("the body did not arrive within {limit:?}; nothing was executed");
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        })
    }

    /// Waits for its turn where the bodies of other requests take all there is.
    async fn share_of(&self, size: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let permits = u32::try_from(size.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let limit = self.limits.body_timeout;
        match timeout(limit, self.permits.clone().acquire_many_owned(permits)).await {
            Ok(share) => share.map_err(|_| ApiError::unavailable("this node is ending")),
            Err(_) => Err(ApiError::overloaded(format!(
                "other requests' bodies held all the memory there is for them on this node for {limit:?}; nothing was executed"
            ))),
        }
    }

    async fn read_within(&self, share: OwnedSemaphorePermit, mut body: Body) -> Result<HeldBody, ApiError> {
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| ApiError::bad_request(format!("the body could not be read: {e}")))?;
            // Trailers say nothing here.
            let Ok(data) = frame.into_data() else { continue };
            if read.len() + data.len() > self.body_max_bytes {
                drop((read, share));
                discard(&mut body).await;
                return Err(self.too_large("sent in pieces"));
            }
            read.extend_from_slice(&data);
        }
        Ok(HeldBody { bytes: read.freeze(), _share: share })
    }

    fn too_large(&self, what: &str) -> ApiError {
        let message = format!("a body {what} is over the limit of {} bytes", self.body_max_bytes);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }
}

/// Reads on for a while, keeping nothing.
async fn discard(body: &mut Body) {
    let reading = async {
        let mut left = DISCARDED_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Who sends more, or more slowly, learns it from the connection's end.
    let _ = timeout(DISCARD_LIMIT, reading).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_gets_no_turn_is_told_of_overload_and_one_that_does_not_come_of_its_time() {
        let limits = RequestLimits { all_bodies_bytes: 0, ..RequestLimits::default() };
        let budget = BodyBudget::new(limits, 1024);
        let held = budget.read(&HeaderMap::new(), Body::from("x")).await.unwrap();
        let refused = budget.read(&HeaderMap::new(), Body::from("y")).await.unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::TOO_MANY_REQUESTS);
        drop(held);
        let silent = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let late = budget.read(&HeaderMap::new(), silent).await.unwrap_err();
        assert_eq!(late.into_response().status(), StatusCode::REQUEST_TIMEOUT);
        assert!(budget.read(&HeaderMap::new(), Body::from("z")).await.is_ok());
    }
}
