//! The log that an owner's changes go to, as one request writes to it: each of its changes, and what is told of their copies, is seen.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use nats_ring::replica::Change;
use nats_ring::service::{ChangeLog, Copies, Grant, NotCommitted};
use nats_ring::types::Version;

use crate::history::{ProcessId, Term, What, Witness};

/// See the [module](self).
pub(crate) struct Told {
    pub(crate) grant: Grant,
    pub(crate) process: ProcessId,
    pub(crate) witness: Arc<Witness>,
    pub(crate) key: Bytes,
    pub(crate) deletes: bool,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Told").field("grant", &self.grant).finish_non_exhaustive()
    }
}

/// Whether its entries may have a time to live: keys are numbers, and every fourth may.
pub(crate) fn may_end(key: &[u8]) -> bool {
    std::str::from_utf8(key).ok().and_then(|key| key.parse::<usize>().ok()).is_some_and(expires)
}

/// The same of a key by its number.
pub(crate) fn expires(key: usize) -> bool {
    key % 4 == 1
}

impl Told {
    /// The same grant, whose changes are seen.
    pub(crate) fn seen(self) -> Grant {
        let grant = self.grant.clone();
        if grant.log().is_some() { grant.with_log(Arc::new(self)) } else { grant }
    }
}

impl ChangeLog for Told {
    fn append(&self, change: Change) {
        let (partition, term, version) = (self.grant.partition, Term::from(&self.grant.token), change.version);
        self.witness.note(Some(self.process), || What::Wrote { partition, version });
        let what = (self.key.clone(), self.deletes, may_end(&self.key));
        self.witness.ask(|judge| {
            judge.copies.iter_mut().for_each(|copies| copies.appended(partition, term, version, what.clone()));
        });
        if let Some(log) = self.grant.log() {
            log.append(change);
        }
    }

    fn copies(&self) -> Copies {
        self.grant.log().map_or(Copies::ONE, ChangeLog::copies)
    }

    fn committed(&self, version: Version) -> BoxFuture<'static, Result<Copies, NotCommitted>> {
        let Some(log) = self.grant.log() else { return std::future::ready(Err(NotCommitted)).boxed() };
        let (heard, witness, process) = (log.committed(version), Arc::clone(&self.witness), self.process);
        let (partition, term) = (self.grant.partition, Term::from(&self.grant.token));
        async move {
            let copies = heard.await?;
            witness.note(Some(process), || What::Committed { partition, version });
            witness.ask(|judge| {
                judge.copies.iter_mut().for_each(|known| known.committed(partition, term, version));
            });
            Ok(copies)
        }
        .boxed()
    }
}
