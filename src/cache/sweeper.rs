//! Takes out expired entries in the background: without it they hold memory until they are read.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use super::CacheService;

/// How often expired entries are looked for.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
/// Entries taken out between two moments in which other tasks may run, and how often per tick.
const SWEEP_SLICE: usize = 1024;
const SWEEP_SLICES_MAX: usize = 64;
/// Pause before a sweeper that failed is started again.
const SWEEP_RESTART: Duration = Duration::from_secs(1);

impl CacheService {
    /// Sweeps until it is dropped; starts again should it ever fail.
    pub async fn keep_sweeping(self: Arc<Self>) {
        loop {
            let ended = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&self).sweep_for_ever())).await;
            tracing::error!(?ended, "the sweeper of expired entries ended and is started again");
            tokio::time::sleep(SWEEP_RESTART).await;
        }
    }

    async fn sweep_for_ever(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for _ in 0..SWEEP_SLICES_MAX {
                if self.sweep(self.now(), SWEEP_SLICE) < SWEEP_SLICE {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}
