//! How the memory bound of a node is shared by the partitions it holds.
//!
//! Each partition has a capacity, and their sum never exceeds the bound. A partition that needs more takes what is free,
//! then takes from the one that has most, as long as that one stays ahead: a busy partition may use what idle ones do
//! not need, and when all are busy they end up equal (max-min fairness). Memory that a partition no longer needs is
//! given back by the sweeper. Pure bookkeeping: the store applies what is decided here.

use std::collections::BTreeMap;

use crate::types::PartitionId;

/// Memory moves in parts of a fair share, so that it moves rarely.
const STEPS_PER_SHARE: u64 = 8;

#[derive(Debug)]
pub(super) struct Budget {
    bound: u64,
    free: u64,
    capacities: BTreeMap<PartitionId, u64>,
}

impl Budget {
    pub(super) fn new(bound: u64) -> Self {
        Self { bound, free: bound, capacities: BTreeMap::new() }
    }

    /// A partition is held from now on.
    pub(super) fn add(&mut self, partition: PartitionId) {
        self.capacities.entry(partition).or_insert(0);
    }

    /// A partition is no longer held.
    pub(super) fn remove(&mut self, partition: PartitionId) {
        self.free += self.capacities.remove(&partition).unwrap_or(0);
    }

    /// What it may hold now, in bytes.
    pub(super) fn capacity(&self, partition: PartitionId) -> u64 {
        self.capacities.get(&partition).copied().unwrap_or(0)
    }

    /// A quantum of memory: an eighth of an equal share.
    pub(super) fn step(&self) -> u64 {
        (self.bound / (self.capacities.len().max(1) as u64) / STEPS_PER_SHARE).max(1)
    }

    /// Lets a partition grow towards `wanted`, and to `must` at any rate, where others have it; returns those that
    /// must shrink first, to [`Budget::capacity`].
    pub(super) fn grow(&mut self, partition: PartitionId, wanted: u64, must: u64) -> Vec<PartitionId> {
        let Some(&before) = self.capacities.get(&partition) else { return Vec::new() };
        let step = self.step();
        let from_free = self.free.min(wanted.saturating_sub(before).max(step));
        self.free -= from_free;
        let mut capacity = before + from_free;
        let mut shrunk = Vec::new();
        while capacity < wanted.max(must) {
            let Some((victim, most)) = self.largest_other(partition) else { break };
            let taken = if most >= capacity.saturating_add(2 * step) {
                (wanted.max(must) - capacity).max(step).min((most - capacity) / 2)
            } else if capacity < must {
                (must - capacity).max(step).min(most)
            } else {
                break;
            };
            self.capacities.insert(victim, most - taken);
            capacity += taken;
            if !shrunk.contains(&victim) {
                shrunk.push(victim);
            }
        }
        self.capacities.insert(partition, capacity);
        shrunk
    }

    /// Takes back what a partition of this weight has far too much of; returns whether it must shrink.
    pub(super) fn give_back(&mut self, partition: PartitionId, weight: u64) -> bool {
        let step = self.step();
        let Some(capacity) = self.capacities.get_mut(&partition) else { return false };
        let enough = weight.saturating_add(step);
        if *capacity <= enough.saturating_add(step) {
            return false;
        }
        self.free += *capacity - enough;
        *capacity = enough;
        true
    }

    fn largest_other(&self, partition: PartitionId) -> Option<(PartitionId, u64)> {
        self.capacities
            .iter()
            .filter(|(other, capacity)| **other != partition && **capacity > 0)
            .max_by_key(|(_, capacity)| **capacity)
            .map(|(other, capacity)| (*other, *capacity))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUND: u64 = 64_000;

    fn p(number: u16) -> PartitionId {
        PartitionId::new(number)
    }

    fn budget(partitions: u16) -> Budget {
        let mut budget = Budget::new(BOUND);
        (0..partitions).for_each(|n| budget.add(p(n)));
        budget
    }

    fn grow_until_refused(budget: &mut Budget, partition: PartitionId) {
        loop {
            let before = budget.capacity(partition);
            budget.grow(partition, before + 1, 0);
            if budget.capacity(partition) == before {
                return;
            }
        }
    }

    #[test]
    fn one_busy_partition_may_use_everything_and_gives_up_half_to_a_second() {
        let mut budget = budget(8);
        grow_until_refused(&mut budget, p(0));
        assert_eq!(budget.capacity(p(0)), BOUND);
        grow_until_refused(&mut budget, p(1));
        let difference = budget.capacity(p(0)).abs_diff(budget.capacity(p(1)));
        assert!(difference <= 2 * budget.step(), "{budget:?}");
    }

    #[test]
    fn what_one_entry_must_have_is_taken_even_from_smaller_ones() {
        let mut budget = budget(4);
        (0..4).for_each(|n| grow_until_refused(&mut budget, p(n)));
        let shrunk = budget.grow(p(0), 0, BOUND / 2);
        assert!(budget.capacity(p(0)) >= BOUND / 2 && !shrunk.is_empty());
    }

    #[test]
    fn memory_no_longer_needed_is_given_back_and_a_discarded_partition_frees_its_own() {
        let mut budget = budget(2);
        grow_until_refused(&mut budget, p(0));
        assert_eq!(budget.free, 0);
        assert!(budget.give_back(p(0), 100));
        assert_eq!(budget.capacity(p(0)), 100 + budget.step());
        budget.remove(p(0));
        assert_eq!(budget.free, BOUND);
    }

    proptest! {
        #[test]
        fn the_sum_of_capacities_and_free_memory_is_always_the_bound(
            steps in prop::collection::vec((0u8..5, 0u16..6, 0u64..80_000), 1..200),
        ) {
            let mut budget = budget(3);
            for (what, partition, amount) in steps {
                match what {
                    0 => budget.add(p(partition)),
                    1 => budget.remove(p(partition)),
                    2 => { budget.give_back(p(partition), amount); }
                    3 => { budget.grow(p(partition), amount, 0); }
                    _ => { budget.grow(p(partition), 0, amount.min(BOUND)); }
                }
                prop_assert_eq!(budget.free + budget.capacities.values().sum::<u64>(), BOUND);
            }
        }
    }
}
