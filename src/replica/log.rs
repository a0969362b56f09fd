//! The newest writes of a partition, in their order: what a copy a few writes behind is brought up to date from.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{Time, Version};

/// What a change costs beside its body: its version and its slot.
pub(super) const CHANGE_BYTES: usize = 64;

/// One write, as the owner executed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which write.
    pub version: Version,
    /// When, on the clock of whoever holds this: on its way it has an age instead, which whoever carries it sees to.
    #[serde(skip)]
    pub made: Time,
    /// What it did, in the service's own encoding.
    pub body: Bytes,
}

impl Change {
    /// What it counts against bounds.
    pub fn weight(&self) -> usize {
        CHANGE_BYTES + self.body.len()
    }
}

/// Whether a write of version `next` can be the one right after `before`: the same owner's next number, or the first of a
/// later owner.
pub(super) fn follows(before: Version, next: Version) -> bool {
    next == before.next() || (next.epoch > before.epoch && next == Version::first_of(next.epoch))
}

/// The newest writes of a partition, contiguous; bounded in bytes. The newest one is always kept, whatever its size.
#[derive(Debug, Clone)]
pub struct Log {
    /// What comes right before the oldest write kept.
    base: Version,
    kept: VecDeque<Kept>,
    /// Of all writes up to the base, as [`Kept::up_to`] counts.
    up_to_base: u64,
    max_bytes: usize,
    pin: Option<Pin>,
}

#[derive(Debug, Clone)]
struct Kept {
    change: Change,
    /// Bytes of all writes that ever were in the log, up to this one: what lies between two is a difference.
    up_to: u64,
}

/// Writes that are kept beyond the log's own bound, because a follower still needs them.
#[derive(Debug, Clone, Copy)]
struct Pin {
    after: Version,
    max_bytes: usize,
}

impl Log {
    /// An empty log of a copy that has everything up to `base`.
    pub fn starting_at(base: Version, max_bytes: usize) -> Self {
        Self { base, kept: VecDeque::new(), up_to_base: 0, max_bytes, pin: None }
    }

    /// The newest version; the base where nothing was written since.
    pub fn tail(&self) -> Version {
        self.kept.back().map_or(self.base, |newest| newest.change.version)
    }

    /// What comes right before the oldest write kept.
    pub fn base(&self) -> Version {
        self.base
    }

    /// What is kept, in bytes.
    pub fn bytes(&self) -> usize {
        (self.up_to_tail() - self.up_to_base) as usize
    }

    /// Whether this is the base or the version of a write that is kept.
    pub fn contains(&self, version: Version) -> bool {
        self.index_after(version).is_some()
    }

    /// Whether this can come next.
    pub fn accepts(&self, next: Version) -> bool {
        follows(self.tail(), next)
    }

    /// Adds the next write, which [`Log::accepts`]; the oldest go.
    pub fn push(&mut self, change: Change) {
        let up_to = self.up_to_tail() + change.weight() as u64;
        self.kept.push_back(Kept { change, up_to });
        self.trim();
    }

    /// The writes right after `version`, as many as fit: the first always does. `None` where `version` is not contained.
    pub fn after(&self, version: Version, max_bytes: usize) -> Option<Vec<Change>> {
        let start = self.index_after(version)?;
        let limit = self.up_to(start).saturating_add(max_bytes as u64);
        let fits = |(nth, kept): &(usize, &Kept)| *nth == 0 || kept.up_to <= limit;
        let batch = self.kept.range(start..).enumerate().take_while(fits);
        Some(batch.map(|(_, kept)| kept.change.clone()).collect())
    }

    /// Bytes of the writes after `version`; `None` where it is not contained.
    pub fn bytes_after(&self, version: Version) -> Option<usize> {
        Some((self.up_to_tail() - self.up_to(self.index_after(version)?)) as usize)
    }

    /// Keeps what comes after a version beyond the log's own bound, up to `max_bytes` in all; `None` ends that.
    pub(super) fn pin(&mut self, after: Option<Version>, max_bytes: usize) {
        self.pin = after.map(|after| Pin { after, max_bytes });
        self.trim();
    }

    fn trim(&mut self) {
        while self.bytes() > self.max_bytes && self.kept.len() > 1 {
            let Some(oldest) = self.kept.front() else { return };
            let (version, up_to) = (oldest.change.version, oldest.up_to);
            if self.pin.is_some_and(|pin| pin.after < version && self.bytes() <= pin.max_bytes) {
                return;
            }
            (self.base, self.up_to_base) = (version, up_to);
            self.kept.pop_front();
        }
    }

    /// Bytes up to the write before this place in `kept`.
    fn up_to(&self, start: usize) -> u64 {
        start.checked_sub(1).and_then(|at| self.kept.get(at)).map_or(self.up_to_base, |kept| kept.up_to)
    }

    fn up_to_tail(&self) -> u64 {
        self.kept.back().map_or(self.up_to_base, |newest| newest.up_to)
    }

    /// Where in `kept` the writes after this version begin.
    fn index_after(&self, version: Version) -> Option<usize> {
        if version == self.base {
            return Some(0);
        }
        self.kept.binary_search_by(|kept| kept.change.version.cmp(&version)).ok().map(|at| at + 1)
    }
}
