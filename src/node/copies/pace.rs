//! So many bytes a second, and no more, for all copies that this node makes together.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::types::{Clock, Time};

/// See the [module](self).
pub(super) struct Pace {
    bytes_per_second: u64,
    clock: Arc<dyn Clock>,
    free_at: Mutex<Time>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64, clock: Arc<dyn Clock>) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), clock, free_at: Mutex::new(Time::ZERO) }
    }

    /// Waits for the turn of so many bytes.
    pub(super) async fn take(&self, bytes: usize) {
        let wait = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.clock.now();
            let begins = (*free_at).max(now);
            let nanos = (bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second;
            *free_at = begins + Duration::from_nanos(nanos);
            begins.since(now)
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ManualClock;

    #[tokio::test(start_paused = true)]
    #[allow(clippy::disallowed_methods)] // The runtime's paused time is what is looked at.
    async fn what_is_taken_together_comes_at_the_rate_and_what_was_not_used_is_not_saved_up() {
        let clock = Arc::new(ManualClock::default());
        let pace = Pace::new(1_000, clock.clone());
        let begun = tokio::time::Instant::now();
        for _ in 0..3 {
            pace.take(500).await;
        }
        assert_eq!(begun.elapsed(), Duration::from_millis(1_500), "none, 500 ms, 1 s: the clock stands");
        clock.advance(Duration::from_secs(100));
        let begun = tokio::time::Instant::now();
        pace.take(500).await;
        pace.take(500).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(500));
    }
}
