//! What holds of all copies together, judged from outside: from what was written, and what each service holds.

use std::collections::BTreeMap;

use super::service::{Entries, Service};
use crate::replica::Change;
use crate::types::{Epoch, Version};

/// A write: after which one, and what there is once it is applied.
#[derive(Debug)]
struct Written {
    after: Version,
    entries: Entries,
}

/// All that was ever written.
#[derive(Debug, Default)]
pub(super) struct Judge {
    history: BTreeMap<Version, Written>,
    /// The newest write that was called committed. Those before it in its history are as well.
    committed: Option<Version>,
    /// When the owners began to serve.
    began: BTreeMap<Epoch, u64>,
    pub(super) commits: u64,
}

impl Judge {
    /// An owner has written, after what it had.
    pub(super) fn wrote(&mut self, after: Version, change: &Change) -> Result<(), String> {
        let mut service = Service { entries: self.entries_at(after).cloned().unwrap_or_default() };
        service.change(change);
        let written = Written { after, entries: service.entries };
        match self.history.insert(change.version, written) {
            Some(_) => Err(format!("a version names one write: {} names two", change.version)),
            None => Ok(()),
        }
    }

    /// What there is at this version; nothing at the beginning.
    fn entries_at(&self, version: Version) -> Option<&Entries> {
        self.history.get(&version).map(|written| &written.entries)
    }

    /// Whether a history up to `version` goes through `through`.
    pub(super) fn has(&self, version: Version, through: Version) -> bool {
        let mut at = version;
        while at > through {
            let Some(written) = self.history.get(&at) else { return false };
            at = written.after;
        }
        at == through
    }

    /// An owner calls everything up to here committed.
    pub(super) fn committed(&mut self, version: Version) -> Result<(), String> {
        let before = self.committed.unwrap_or_default();
        if self.committed.is_none() || self.has(version, before) {
            self.committed = Some(version);
            self.commits += 1;
            return Ok(());
        }
        if self.has(before, version) {
            return Ok(());
        }
        Err(format!("what is committed stays: {before} was, and {version} is now, which does not come after it"))
    }

    /// The owner of this epoch serves.
    pub(super) fn began(&mut self, epoch: Epoch, at_ms: u64) {
        self.began.entry(epoch).or_insert(at_ms);
    }

    /// What the owner of `epoch` executed then is answered.
    pub(super) fn answered(&self, epoch: Epoch, executed_ms: u64, tail: Version) -> Result<(), String> {
        let later = self.began.range(epoch.next()..).find(|(_, at_ms)| **at_ms < executed_ms);
        if let Some((later, at_ms)) = later {
            return Err(format!(
                "nothing is answered that an owner executed after a later one began: {epoch} at {executed_ms} ms, {later} at {at_ms} ms"
            ));
        }
        let committed = self.committed.unwrap_or_default();
        match self.has(committed, tail) || !self.history.contains_key(&tail) {
            true => Ok(()),
            false => Err(format!("what is answered while suspended is committed: {tail} is not in {committed}")),
        }
    }

    /// No copy survived: it all begins anew.
    pub(super) fn all_lost(&mut self) {
        self.committed = None;
    }

    /// Whether a copy at this place has all that is committed.
    pub(super) fn has_committed(&self, at: Version) -> Result<(), String> {
        match self.committed {
            Some(committed) if !self.has(at, committed) => Err(format!("{committed} is committed, and not in {at}")),
            _ => Ok(()),
        }
    }

    /// Whether this is what there is at that version: each write once, in order.
    pub(super) fn is_exact(&self, at: Version, service: &Service) -> Result<(), String> {
        let nothing = Entries::new();
        let expected = self.entries_at(at).unwrap_or(&nothing);
        if *expected == service.entries {
            return Ok(());
        }
        Err(format!("at {at} holds {:?} instead of {expected:?}", service.entries))
    }
}
