//! How far a copy is that is made for another node: for people who wait for it.

use std::time::Duration;

use crate::types::Time;

/// Live entries had to make room at a node while a copy was arriving there: its memory is too small for what it is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(in crate::node) struct Shortage {
    /// How many.
    pub(in crate::node) evicted: u64,
    /// What all that is held there may take.
    pub(in crate::node) bound_bytes: u64,
}

/// A copy that is made, or was made last, for a node.
#[derive(Debug, Clone, Copy)]
pub(in crate::node) struct Copied {
    begun: Time,
    last: Time,
    /// Acknowledged so far.
    pub(in crate::node) bytes: u64,
    /// What the service holds, which is about what there is to send; `None` where it does not say.
    estimate: Option<u64>,
    done: bool,
    /// Entries had to make room for it.
    pub(in crate::node) short: Option<Shortage>,
}

impl Copied {
    pub(super) fn begins(now: Time, estimate: Option<u64>) -> Self {
        Self { begun: now, last: now, bytes: 0, estimate, done: false, short: None }
    }

    pub(super) fn acknowledged(&mut self, now: Time, bytes: usize) {
        (self.last, self.bytes) = (now, self.bytes + bytes as u64);
    }

    pub(super) fn ends(&mut self, now: Time, short: Option<Shortage>) {
        (self.last, self.done, self.short) = (now, true, short);
    }

    /// How long it took, or has taken until something was last acknowledged.
    pub(super) fn took(self) -> Duration {
        self.last.since(self.begun)
    }

    /// Of how many, about; exact once all has been sent.
    pub(in crate::node) fn total_bytes(self) -> Option<u64> {
        if self.done { Some(self.bytes) } else { self.estimate.map(|estimate| estimate.max(self.bytes)) }
    }

    /// What the service held as it began.
    pub(in crate::node) fn estimate(self) -> Option<u64> {
        self.estimate
    }

    /// Over the time it took, or has taken so far; `None` before that can be told.
    pub(in crate::node) fn bytes_per_second(self) -> Option<u64> {
        let seconds = self.took().as_secs_f64();
        (seconds >= 0.001).then(|| (self.bytes as f64 / seconds) as u64)
    }

    /// What is left, at the rate so far; `None` where that cannot be told.
    pub(in crate::node) fn remaining(self) -> Option<Duration> {
        let rate = self.bytes_per_second().filter(|rate| *rate > 0)?;
        let left = self.total_bytes()?.saturating_sub(self.bytes);
        Some(Duration::from_millis(left.saturating_mul(1000) / rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_the_rate_so_far_and_all_that_was_sent_is_all_there_was() {
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let mut copied = Copied::begins(at(10), Some(1000));
        assert_eq!((copied.bytes_per_second(), copied.remaining()), (None, None));
        copied.acknowledged(at(12), 250);
        assert_eq!((copied.bytes_per_second(), copied.total_bytes()), (Some(125), Some(1000)));
        assert_eq!(copied.remaining(), Some(Duration::from_secs(6)));
        copied.acknowledged(at(16), 950);
        assert_eq!(
            (copied.total_bytes(), copied.remaining()),
            (Some(1200), Some(Duration::ZERO)),
            "it was an estimate"
        );
        copied.ends(at(16), None);
        assert_eq!((copied.total_bytes(), copied.took()), (Some(1200), Duration::from_secs(6)));
    }
}
