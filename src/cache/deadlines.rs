//! Which entries of a partition end next.
//!
//! A heap in one block of memory. What is removed or replaced stays in it until it is due or until there is more of that
//! than of the rest: the caller knows which deadlines still count.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::map::KeyDigest;
use crate::types::Time;

/// Below this many, deadlines that no longer count are not worth clearing away.
const STALE_IGNORED: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(Time, KeyDigest)>>,
    /// How many of them count.
    live: usize,
}

impl Deadlines {
    /// How many entries have a deadline.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// An entry ends then.
    pub(super) fn add(&mut self, deadline: Time, digest: KeyDigest) {
        self.heap.push(Reverse((deadline, digest)));
        self.live += 1;
    }

    /// The deadline of one entry counts no longer.
    pub(super) fn forget_one(&mut self) {
        self.live -= 1;
    }

    /// Takes out the first deadline that is over by now; it may be one that counts no longer.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<(Time, KeyDigest)> {
        let Reverse((deadline, _)) = self.heap.peek()?;
        if *deadline > now {
            return None;
        }
        self.heap.pop().map(|Reverse(first)| first)
    }

    /// Whether it is time to [`Deadlines::retain`].
    pub(super) fn is_mostly_stale(&self) -> bool {
        self.heap.len() > 2 * self.live + STALE_IGNORED
    }

    /// Clears away those that count no longer.
    pub(super) fn retain(&mut self, counts: impl Fn(Time, KeyDigest) -> bool) {
        self.heap.retain(|Reverse((deadline, digest))| counts(*deadline, *digest));
        self.heap.shrink_to_fit();
    }
}
