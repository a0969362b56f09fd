//! At most one effective owner per partition.

use std::time::Duration;

use nats_ring::types::{FencingToken, PartitionId};

use super::{Held, ensure};
use crate::history::Term;

const ONE_OWNER: &str = "at most one effective owner per partition";

/// For each partition the highest token executed under.
pub(crate) struct Owners {
    highest: Vec<Option<FencingToken>>,
    /// The store forgot what it knew of it: where nobody alive knew it either, its terms begin again.
    forgotten: Vec<bool>,
    /// How long after a store went back former owners may be at work: until all of their gates are closed.
    grace: Duration,
    excused_until: Duration,
    /// It was made anew, empty: no heartbeat of before is taken any more.
    made_anew: bool,
    /// Executions under a former token that were excused by that.
    pub(crate) excused: u32,
    pub(crate) changes: u32,
}

impl Owners {
    pub(crate) fn new(partitions: u16, grace: Duration) -> Self {
        let count = usize::from(partitions);
        let (highest, forgotten) = (vec![None; count], vec![false; count]);
        Self { highest, forgotten, grace, excused_until: Duration::ZERO, made_anew: false, excused: 0, changes: 0 }
    }

    /// The store lost what it had acknowledged: what follows is best effort until every gate of before is closed.
    pub(crate) fn store_went_back(&mut self, made_anew: bool, at: Duration) {
        self.made_anew = made_anew;
        self.excused_until = at + self.grace;
        self.forgotten.fill(true);
    }

    /// Whether somebody executed under a later token already. Tokens of two rings have no order: one that was begun in a bucket
    /// made anew, by who never saw the ring before, waits for nobody of that (0011).
    pub(crate) fn is_replaced(&self, partition: PartitionId, token: &FencingToken) -> bool {
        let highest = self.highest.get(partition.index()).and_then(Option::as_ref);
        highest.is_some_and(|highest| highest.ring == token.ring && highest != token && !highest.admits(token))
    }

    /// Nothing is executed under a token after a higher one was executed under, nor under the same term by another
    /// incarnation.
    pub(crate) fn executed(&mut self, partition: PartitionId, token: &FencingToken, at: Duration) -> Held {
        let Some(highest) = self.highest.get_mut(partition.index()) else { return Ok(()) };
        let Some(before) = highest else {
            *highest = Some(token.clone());
            return Ok(());
        };
        if before == token {
            return Ok(());
        }
        // Whoever goes on in a ring made anew waits until nobody of before can act: no excuse for who does.
        let outlived = self.made_anew && before.ring == token.ring && token.generation < before.generation;
        let excused = at < self.excused_until && !outlived;
        // Begun again once: whoever was at work before must not be seen from then on.
        let forgotten = !excused && std::mem::take(&mut self.forgotten[partition.index()]);
        if before.admits(token) || forgotten {
            self.changes += u32::from(before.incarnation != token.incarnation);
            *highest = Some(token.clone());
            return Ok(());
        }
        self.excused += u32::from(excused);
        ensure(excused, ONE_OWNER, || {
            let (now, then) = (Term::from(token), Term::from(&*before));
            let (by, first) = (token.incarnation, before.incarnation);
            format!("partition {partition}: executed at {now} by {by:?} after it was executed at {then} by {first:?}")
        })
    }
}
