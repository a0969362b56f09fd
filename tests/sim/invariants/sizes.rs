//! `not_enough_replicas` only where the in-sync set was really too small, or its ring not at rest: by the sizes of the sets that were
//! written, and of those that were about to be.

use std::time::Duration;

use nats_ring::coord::{Claim, PlanRecord};
use nats_ring::types::{Consistency, PartitionId};

use super::{Held, ensure};

const ENOUGH: &str = "not enough replicas only where there are not";
/// One more than the largest factor.
const SIZES: usize = 8;

#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    /// In the set that is recorded.
    now: usize,
    /// For each size: when the set, or one on its way to be recorded, was last smaller than that.
    smaller_at: [Duration; SIZES],
}

/// Sets of all partitions, as far as their sizes go.
pub(crate) struct SetSizes {
    sizes: Vec<Sizes>,
    factor: usize,
    /// When the factor, or all that was known, was another one last.
    other_at: Duration,
    /// How late an owner may know what is in the store.
    late: Duration,
    forgotten: bool,
    /// What an owner is about to record cannot be seen on its way there.
    ill: bool,
}

impl SetSizes {
    pub(crate) fn new(partitions: u16, late: Duration) -> Self {
        let sizes = vec![Sizes::default(); usize::from(partitions)];
        Self { sizes, factor: 0, other_at: Duration::ZERO, late, forgotten: false, ill: false }
    }

    /// A claim was written, or is on its way to the store: its set counts from then on, or might.
    pub(crate) fn seen(&mut self, partition: PartitionId, claim: &Claim, (written, at): (bool, Duration)) {
        let sizes = &mut self.sizes[partition.index()];
        let size = if claim.holder().is_some() { claim.replicas.len() } else { 0 };
        let least = if written { sizes.now.min(size) } else { size };
        sizes.smaller_at.iter_mut().skip(least + 1).for_each(|smaller| *smaller = at);
        if written {
            sizes.now = size;
        }
    }

    pub(crate) fn planned(&mut self, plan: &PlanRecord, at: Duration) {
        let factor = plan.config.factor().get();
        if factor != self.factor {
            (self.factor, self.other_at) = (factor, at);
        }
    }

    /// All that was known counts for nothing.
    pub(crate) fn forget(&mut self, at: Duration) {
        (self.other_at, self.forgotten) = (at, true);
        self.sizes.iter_mut().for_each(|sizes| sizes.now = 0);
    }

    /// The store falls ill, or is well again.
    pub(crate) fn store(&mut self, ill: bool, at: Duration) {
        (self.ill, self.other_at) = (ill, at);
    }

    /// Whether the store ever forgot what it had been told.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    /// Whether a request since that time may have met a set that is too small for its level.
    pub(crate) fn was_small(&self, partition: PartitionId, level: Consistency, since: Duration) -> bool {
        let (sizes, needed) = (&self.sizes[partition.index()], level.copies_needed(self.factor.max(1)));
        let recently = |at: Duration| at + self.late >= since;
        self.ill || sizes.now < needed || recently(sizes.smaller_at[needed.min(SIZES - 1)]) || recently(self.other_at)
    }

    /// A request since that time was refused because there were too few copies.
    pub(crate) fn refused(&self, partition: PartitionId, level: Consistency, since: Duration) -> Held {
        ensure(self.was_small(partition, level, since), ENOUGH, || {
            let (sizes, factor) = (&self.sizes[partition.index()], self.factor);
            format!("partition {partition}: {level} is refused, asked at {since:?}, of {factor} copies: {sizes:?}")
        })
    }
}
