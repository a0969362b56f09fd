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
    changes: VecDeque<Change>,
    bytes: usize,
    max_bytes: usize,
    pin: Option<Pin>,
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
        Self { base, changes: VecDeque::new(), bytes: 0, max_bytes, pin: None }
    }

    /// The newest version; the base where nothing was written since.
    pub fn tail(&self) -> Version {
        self.changes.back().map_or(self.base, |newest| newest.version)
    }

    /// What comes right before the oldest write kept.
    pub fn base(&self) -> Version {
        self.base
    }

    /// What is kept, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
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
        self.bytes += change.weight();
        self.changes.push_back(change);
        self.trim();
    }

    /// The writes right after `version`, as many as fit: the first always does. `None` where `version` is not contained.
    pub fn after(&self, version: Version, max_bytes: usize) -> Option<Vec<Change>> {
        let mut bytes = 0;
        let fits = |change: &&Change| {
            let first = bytes == 0;
            bytes += change.weight();
            first || bytes <= max_bytes
        };
        Some(self.changes.range(self.index_after(version)?..).take_while(fits).cloned().collect())
    }

    /// Bytes of the writes after `version`; `None` where it is not contained.
    pub fn bytes_after(&self, version: Version) -> Option<usize> {
        Some(self.changes.range(self.index_after(version)?..).map(Change::weight).sum())
    }

    /// Keeps what comes after a version beyond the log's own bound, up to `max_bytes` in all; `None` ends that.
    pub(super) fn pin(&mut self, after: Option<Version>, max_bytes: usize) {
        self.pin = after.map(|after| Pin { after, max_bytes });
        self.trim();
    }

    fn trim(&mut self) {
        while self.bytes > self.max_bytes && self.changes.len() > 1 {
            let Some(oldest) = self.changes.front() else { return };
            let needed = self.pin.is_some_and(|pin| pin.after < oldest.version && self.bytes <= pin.max_bytes);
            if needed {
                return;
            }
            self.bytes -= oldest.weight();
            self.base = oldest.version;
            self.changes.pop_front();
        }
    }

    /// Where in `changes` the writes after this version begin.
    fn index_after(&self, version: Version) -> Option<usize> {
        if version == self.base {
            return Some(0);
        }
        self.changes.binary_search_by(|change| change.version.cmp(&version)).ok().map(|at| at + 1)
    }
}
