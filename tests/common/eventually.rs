//! Waiting in tests: for a state, with a deadline, never for luck.
#![allow(dead_code, unreachable_pub, clippy::disallowed_methods)] // shared by tests; a deadline needs a clock

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// How often a state is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `look` gives `Ok`, at most `limit`; fails with what it gave last.
pub async fn eventually<T, E, F, Fut>(limit: Duration, what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: Debug,
{
    let end = Instant::now() + limit;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(last) => assert!(Instant::now() < end, "not within {limit:?}: {what}; last seen: {last:?}"),
        }
        tokio::time::sleep(POLL).await;
    }
}
