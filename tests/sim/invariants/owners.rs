//! At most one effective owner per partition.

use nats_ring::types::{FencingToken, Incarnation, PartitionId};

use super::{Held, ensure};
use crate::history::Term;

const ONE_OWNER: &str = "at most one effective owner per partition";

/// For each partition the highest term executed under, and by which incarnation.
pub(crate) struct Owners {
    highest: Vec<Option<(Term, Incarnation)>>,
    pub(crate) changes: u32,
}

impl Owners {
    pub(crate) fn new(partitions: u16) -> Self {
        Self { highest: vec![None; usize::from(partitions)], changes: 0 }
    }

    /// Nothing is executed under a term after a higher one was executed under, nor under the same one by another
    /// incarnation.
    pub(crate) fn executed(&mut self, partition: PartitionId, token: &FencingToken) -> Held {
        let (term, by) = (Term::from(token), token.incarnation);
        let Some(highest) = self.highest.get_mut(partition.index()) else { return Ok(()) };
        match *highest {
            Some((before, _)) if term < before => ensure(false, ONE_OWNER, || {
                format!("partition {partition}: executed at {term} after it was executed at {before}")
            }),
            Some((before, first)) if term == before => ensure(first == by, ONE_OWNER, || {
                format!("partition {partition}: executed at {term} by two incarnations, {first:?} and {by:?}")
            }),
            _ => {
                let changed = highest.is_some_and(|(_, first)| first != by);
                self.changes += u32::from(changed);
                *highest = Some((term, by));
                Ok(())
            }
        }
    }
}
