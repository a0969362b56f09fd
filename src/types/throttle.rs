//! At most one in a span of time: for log lines about what others can cause as often as they like.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Time;

/// Lets one through, then holds back for a while, and counts what it holds back.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    passed: Option<Time>,
    held_back: u64,
}

impl Throttle {
    /// One in each `every`.
    pub fn new(every: Duration) -> Self {
        Self { every, state: Mutex::default() }
    }

    /// Whether this one may pass; if so, how many were held back since the last that did.
    pub fn pass(&self, now: Time) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.passed.is_some_and(|at| now.since(at) < self.every) {
            state.held_back += 1;
            return None;
        }
        state.passed = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_each_span_passes_and_says_how_many_did_not() {
        let throttle = Throttle::new(Duration::from_secs(10));
        let at = |seconds| throttle.pass(Time::ZERO + Duration::from_secs(seconds));
        assert_eq!([at(0), at(1), at(9), at(10), at(11), at(40)], [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
