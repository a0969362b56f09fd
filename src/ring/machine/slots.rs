//! The partitions at this node, and which of them are to be looked at.
//!
//! A partition is brought towards the plan by looking at its slot, its claim, the plan, and what this node may do. Where
//! none of these has changed since it was last looked at, and nothing it waits for is due, another look does nothing: so
//! there is none, and a step costs what it changes, not the number of partitions.

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};

use super::partition::{Phase, Slot};
use crate::ring::settings::Timing;
use crate::types::{PartitionCount, PartitionId, Time};

/// See the [module](self).
#[derive(Debug, Clone, Hash)]
pub(super) struct Slots {
    all: Vec<Slot>,
    partitions: PartitionCount,
    touched: BTreeSet<PartitionId>,
    all_touched: bool,
    /// Nothing that a partition not touched waits for is due before.
    pub(super) wake: Option<Time>,
}

impl Slots {
    pub(super) fn new(partitions: PartitionCount) -> Self {
        let all = partitions.ids().map(|_| Slot::default()).collect();
        Self { all, partitions, touched: BTreeSet::new(), all_touched: true, wake: None }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.all.iter()
    }

    pub(super) fn touch(&mut self, partition: PartitionId) {
        self.touched.insert(partition);
    }

    pub(super) fn touch_all(&mut self) {
        self.all_touched = true;
    }

    /// The partitions to be looked at now, in their order.
    pub(super) fn take_due(&mut self, now: Time) -> Vec<PartitionId> {
        let touched = std::mem::take(&mut self.touched);
        let due = self.wake.is_some_and(|at| at <= now);
        if std::mem::take(&mut self.all_touched) || due {
            self.wake = None;
            return self.partitions.ids().collect();
        }
        touched.into_iter().collect()
    }

    /// These were looked at: what they wait for is waited for.
    pub(super) fn looked_at(&mut self, partitions: &[PartitionId], now: Time, timing: &Timing) {
        let wakes = partitions.iter().filter_map(|p| self.all[p.index()].next_wake(timing, now));
        self.wake = wakes.chain(self.wake).min();
    }

    /// When a partition is to be looked at again at the latest.
    pub(super) fn next_wake(&self, timing: &Timing, now: Time) -> Option<Time> {
        let of_touched = self.touched.iter().filter_map(|p| self.all[p.index()].next_wake(timing, now));
        of_touched.chain(self.wake).min()
    }
}

impl Index<usize> for Slots {
    type Output = Slot;

    fn index(&self, index: usize) -> &Slot {
        &self.all[index]
    }
}

impl IndexMut<usize> for Slots {
    fn index_mut(&mut self, index: usize) -> &mut Slot {
        let slot = &mut self.all[index];
        // The end of a move makes room for another partition's.
        self.all_touched |= matches!(slot.phase, Phase::Moving(_));
        self.touched.extend(u16::try_from(index).map(PartitionId::new));
        slot
    }
}
