//! Grants, asked as a service asks them that acts by itself: those of two processes never hold at once.

use std::collections::HashMap;

use nats_ring::service::Grant;
use nats_ring::types::PartitionId;

use super::{Held, ensure};
use crate::history::ProcessId;

const ONE_GRANT: &str = "one grant of a partition holds at a time";

/// Grants that were given and may still hold.
#[derive(Default)]
pub(crate) struct Grants {
    given: HashMap<PartitionId, Vec<(ProcessId, Grant)>>,
    /// The store forgot, so that there may be another ring in it than before.
    forgot: bool,
}

impl Grants {
    /// It runs no more: nobody is left to act by them.
    pub(crate) fn ended(&mut self, process: ProcessId) {
        self.given.values_mut().for_each(|known| known.retain(|(by, _)| *by != process));
    }

    /// The store went back, or is another one.
    pub(crate) fn store_went_back(&mut self) {
        self.forgot = true;
    }

    /// A process was told that it is the owner. Who finds a bucket empty begins a ring of its own and cannot know of one that
    /// was there before: it waits for nobody, and no sink admits the tokens of both (0009). In one ring nothing excuses.
    pub(crate) fn given(&mut self, process: ProcessId, grant: &Grant) -> Held {
        let known = self.given.entry(grant.partition).or_default();
        known.retain(|(by, grant)| *by != process && grant.is_current());
        let of_another = |other: &Grant| self.forgot && other.token.ring != grant.token.ring;
        let other = known.iter().find(|(_, other)| !of_another(other)).map(|(by, other)| (*by, other.epoch()));
        known.push((process, grant.clone()));
        ensure(other.is_none(), ONE_GRANT, || {
            let (partition, epoch) = (grant.partition, grant.epoch());
            format!("partition {partition}: {process:?} begins at epoch {epoch} while that of {other:?} holds")
        })
    }
}
