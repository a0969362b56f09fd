//! Simulated time as a node's clock: the same time that tokio's timers wait for.

use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use crate::types::{Clock, Time};

/// What every clock shows as its ring is made: well above zero, as a machine's that is up for a day.
const START: Duration = Duration::from_secs(24 * 3600);

/// Reads tokio's paused time, so that machine time and timers are one. May run fast or slow, as a real one does.
#[derive(Debug, Clone)]
pub(super) struct SimulatedClock {
    began: Instant,
    rate: f64,
}

impl SimulatedClock {
    /// A true clock that starts now.
    ///
    /// # Panics
    /// As [`pause`].
    pub(super) fn start() -> Self {
        pause();
        Self { began: read(), rate: 1.0 }
    }

    /// The same clock, running at `rate` times true time.
    pub(super) fn at_rate(&self, rate: f64) -> Self {
        Self { rate, ..self.clone() }
    }

    /// What it shows so long after the ring was made.
    pub(super) fn at(&self, elapsed: Duration) -> Time {
        // By far the most are true, and everybody asks for the time.
        Time::ZERO + START + if self.rate == 1.0 { elapsed } else { elapsed.mul_f64(self.rate) }
    }

    /// True time since the ring was made.
    pub(super) fn elapsed(&self) -> Duration {
        read().duration_since(self.began)
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Time {
        self.at(self.elapsed())
    }

    /// A true clock and the timers are one; of another the timers know nothing.
    fn longest_sleep(&self) -> Duration {
        if self.rate == 1.0 { Duration::from_secs(3600) } else { Duration::from_millis(100) }
    }
}

#[allow(clippy::disallowed_methods)] // The one place where simulated time is read.
fn read() -> Instant {
    Instant::now()
}

/// Pauses tokio's clock, unless it is: from now on it stands still while any task has something to do, and jumps to the
/// next timer when none has.
///
/// # Panics
/// Outside a runtime, and on one of several threads: tokio pauses the clock of a current-thread runtime only.
fn pause() {
    let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
    assert!(
        matches!(flavor, Ok(RuntimeFlavor::CurrentThread)),
        "nats_ring::testing needs tokio's current-thread runtime, which is what a bare #[tokio::test] uses: \
         take out `flavor = \"multi_thread\"`, or build the runtime with Builder::new_current_thread().enable_all()"
    );
    // There is no way to ask; pausing twice panics.
    let (true_time, simulated) = (std_now(), read());
    while std_now() == true_time {
        std::hint::spin_loop();
    }
    if read() != simulated {
        tokio::time::pause();
    }
}

#[allow(clippy::disallowed_methods)] // To find out whether tokio's clock stands still while this one goes on.
fn std_now() -> std::time::Instant {
    std::time::Instant::now()
}
