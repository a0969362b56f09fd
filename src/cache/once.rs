//! What a partition's owner remembers of the writes that came with a name: one that comes again is answered as the first time,
//! and not executed.
//!
//! It goes with the partition: in every change that copies get, and in every snapshot. Bounded in number and in age; what a
//! request may have been is not known any more where it was first sent before the newest one that was forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::rpc::WRITE_TIMEOUT;
use crate::service::{Form, REQUEST_ID_REUSED, Request, ServiceError, UNKNOWN};
use crate::types::{Once, RequestId, Time, Version};

/// So many writes are remembered for each partition.
pub(super) const REMEMBERED_MAX: usize = 8192;
/// For so long at most.
pub(super) const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// A request is older than its sender says by the time it was on its way: by no more than its caller waits, as long as none asks for more.
const ON_ITS_WAY: Duration = WRITE_TIMEOUT;

/// A write that is to be executed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) once: Once,
    /// XXH3-64 of all it asks.
    pub(super) asks: u64,
}

impl Named {
    /// `body`: what it asks beside operation and key, without the consistency, which may be another one the next time.
    pub(super) fn of(request: &Request, once: Once, body: &[u8]) -> Self {
        let mut hash = Xxh3::new();
        for part in [request.operation.as_bytes(), &request.key, body] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(&[u8::from(request.form == Form::Plain)]);
        Self { once, asks: hash.digest() }
    }
}

/// What a write came to, without the values it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    Stored {
        created: bool,
    },
    Deleted {
        existed: bool,
    },
    Lifetime,
    Incremented(i64),
    /// It changed nothing; the version of the entry, where there was one. Releases before do not know it, so it is told where they
    /// overlook it.
    Nothing {
        entry: Option<Version>,
    },
}

/// An executed write, as it travels with its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Executed {
    pub(super) id: RequestId,
    /// See [`Named::asks`].
    pub(super) asks: u64,
    pub(super) outcome: Outcome,
}

/// An executed write in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) version: Version,
    /// When it was executed, on the clock of whoever holds this.
    pub(super) at: Time,
    pub(super) executed: Executed,
}

/// The executed writes of one partition, in the order of their versions.
#[derive(Debug, Default)]
pub(super) struct Memory {
    kept: VecDeque<Remembered>,
    by_id: BTreeMap<RequestId, Version>,
    /// What was executed up to then may be forgotten; `None`: nothing is.
    forgotten_until: Option<Time>,
    /// What was executed up to then was never known here.
    blind_until: Option<Time>,
    /// The partition's owner so far may be of a release that knows no names.
    nameless: bool,
}

impl Memory {
    /// Of a partition whose past is not known at this moment.
    pub(super) fn beginning(now: Time) -> Self {
        Self { blind_until: Some(now), nameless: true, ..Self::default() }
    }

    /// What a request came to when it was executed; `None` where it was not.
    ///
    /// # Errors
    /// It is not the request that was executed under this name; or it is so old that this is not known.
    pub(super) fn recall(&self, named: &Named) -> Result<Option<(Version, Outcome)>, ServiceError> {
        let Named { once: Once { id, first_sent, again }, asks } = *named;
        if let Some(known) = self.by_id.get(&id).and_then(|version| self.find(*version)) {
            if known.executed.asks == asks {
                return Ok(Some((known.version, known.executed.outcome)));
            }
            let message =
                "another request was executed under this name; nothing was executed: give each request its own";
            return Err(ServiceError::new(REQUEST_ID_REUSED, message));
        }
        let unknown_until = self.forgotten_until.max(self.blind_until);
        let too_old = match again {
            true => unknown_until.is_some_and(|until| first_sent <= until + ON_ITS_WAY),
            // A first sending that was held up for so long that a second may have been executed since, and forgotten.
            false => self.forgotten_until.is_some_and(|until| first_sent < until),
        };
        if too_old {
            let message = "it was first sent so long ago that it is not known any more whether it was executed";
            return Err(ServiceError::new(UNKNOWN, message));
        }
        Ok(None)
    }

    /// A write was executed, or has come from its owner.
    pub(super) fn remember(&mut self, one: Remembered) {
        if let Some(known) = self.by_id.get(&one.executed.id).copied() {
            if known >= one.version {
                return;
            }
            // Its owner had forgotten it, and executed it anew.
            if let Ok(place) = self.kept.binary_search_by(|kept| kept.version.cmp(&known)) {
                self.kept.remove(place);
            }
        }
        match self.kept.back() {
            Some(newest) if newest.version >= one.version => {
                let place = self.kept.partition_point(|kept| kept.version < one.version);
                self.kept.insert(place, one);
            }
            _ => self.kept.push_back(one),
        }
        self.by_id.insert(one.executed.id, one.version);
        while self.kept.len() > REMEMBERED_MAX {
            self.forget_oldest();
        }
    }

    /// What was executed up to this moment is not known here.
    pub(super) fn is_blind_until(&mut self, moment: Time) {
        self.blind_until = self.blind_until.max(Some(moment));
    }

    /// Its owner is one that does not know names: what it executed up to this moment is not known, nor what it has passed on since.
    pub(super) fn is_nameless_until(&mut self, moment: Time) {
        self.nameless = true;
        self.is_blind_until(moment);
    }

    /// From this moment on its owner is one that knows names. What one before it executed, or passed on, is not known.
    pub(super) fn is_named_from(&mut self, moment: Time) {
        if std::mem::take(&mut self.nameless) {
            self.is_blind_until(moment);
        }
    }

    /// Takes in what its owner remembers of the partition: all there was, up to now.
    pub(super) fn take_in(&mut self, all: Vec<Remembered>, forgotten_until: Option<Time>) {
        (self.forgotten_until, self.blind_until, self.nameless) = (forgotten_until, None, false);
        all.into_iter().for_each(|one| self.remember(one));
    }

    /// Lets go of what is too old.
    pub(super) fn expire(&mut self, now: Time) {
        while self.kept.front().is_some_and(|oldest| now.since(oldest.at) > REMEMBERED_FOR) {
            self.forget_oldest();
        }
    }

    /// The newest of them, at most so many, oldest first; and up to when what was executed is not among them.
    pub(super) fn newest(&self, most: usize) -> (impl Iterator<Item = &Remembered>, Option<Time>) {
        let skipped = self.kept.len().saturating_sub(most);
        let last_skipped = skipped.checked_sub(1).and_then(|at| self.kept.get(at)).map(|kept| kept.at);
        (self.kept.range(skipped..), self.forgotten_until.max(self.blind_until).max(last_skipped))
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            self.by_id.remove(&oldest.executed.id);
            self.forgotten_until = self.forgotten_until.max(Some(oldest.at));
        }
    }

    fn find(&self, version: Version) -> Option<&Remembered> {
        let at = self.kept.binary_search_by(|kept| kept.version.cmp(&version)).ok()?;
        self.kept.get(at)
    }
}
