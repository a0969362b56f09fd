//! The partitions at this node, and which of them are to be looked at.
//!
//! A partition is brought towards the plan by looking at its slot, its claim, the plan, and what this node may do. Where
//! none of these has changed since it was last looked at, and nothing it waits for is due, another look does nothing: so
//! there is none, and a step costs what it changes, not the number of partitions. What is asked of all of them together
//! (which one an outcome belongs to, how many are moving) is kept as they change, for the same reason.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::{Index, IndexMut};

use super::OpId;
use super::partition::{Phase, Slot};
use crate::ring::settings::Timing;
use crate::types::{PartitionCount, PartitionId, Time};

/// See the [module](self).
#[derive(Debug, Clone)]
pub(super) struct Slots {
    all: Vec<Slot>,
    partitions: PartitionCount,
    touched: BTreeSet<PartitionId>,
    all_touched: bool,
    /// Those that would begin to move if fewer were moving: looked at as soon as there is room.
    waiting: BTreeSet<PartitionId>,
    /// When each is to be looked at, as of its last look.
    wakes: Vec<Option<Time>>,
    /// The same in the order of time.
    due: BTreeSet<(Time, PartitionId)>,
    index: Derived,
}

/// What follows from the slots.
#[derive(Debug, Clone, Default)]
struct Derived {
    moving: usize,
    not_away: usize,
    /// Whose write an outcome is of. One whose outcome is of no interest any more stays until it comes.
    writes: BTreeMap<OpId, PartitionId>,
    /// Which partitions a hook was called for.
    hooks: BTreeMap<OpId, Vec<PartitionId>>,
    /// Those that were ever excluded.
    excluded: BTreeSet<PartitionId>,
}

impl Slots {
    pub(super) fn new(partitions: PartitionCount) -> Self {
        let all: Vec<Slot> = partitions.ids().map(|_| Slot::default()).collect();
        Self {
            wakes: vec![None; all.len()],
            all,
            partitions,
            touched: BTreeSet::new(),
            all_touched: true,
            waiting: BTreeSet::new(),
            due: BTreeSet::new(),
            index: Derived::default(),
        }
    }

    pub(super) fn touch(&mut self, partition: PartitionId) {
        self.touched.insert(partition);
    }

    pub(super) fn touch_all(&mut self) {
        self.all_touched = true;
    }

    /// What is due by now is to be looked at too.
    pub(super) fn touch_due(&mut self, now: Time) {
        while let Some((_, partition)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.wake_at(partition, None);
            self.touched.insert(partition);
        }
        if std::mem::take(&mut self.all_touched) {
            self.touched.extend(self.partitions.ids());
        }
    }

    /// The next one after that to be looked at now: they are gone through in their order, each once, and while there is room
    /// for another move those that wait for it are among them.
    pub(super) fn next_touched(&mut self, after: Option<PartitionId>, moves_at_most: usize) -> Option<PartitionId> {
        let first = |of: &BTreeSet<PartitionId>| match after {
            Some(after) => of.range((Excluded(after), Unbounded)).next().copied(),
            None => of.first().copied(),
        };
        let has_room = self.index.moving < moves_at_most;
        let waiting = has_room.then(|| first(&self.waiting)).flatten();
        let next = first(&self.touched).into_iter().chain(waiting).min()?;
        self.touched.remove(&next);
        self.waiting.remove(&next);
        Some(next)
    }

    /// It would begin to move if there were room.
    pub(super) fn wait_for_room(&mut self, partition: PartitionId) {
        self.waiting.insert(partition);
    }

    /// These were looked at: what they wait for is waited for.
    pub(super) fn looked_at(&mut self, partitions: &[PartitionId], now: Time, timing: &Timing) {
        for partition in partitions {
            self.wake_at(*partition, self.all[partition.index()].next_wake(timing, now));
        }
    }

    fn wake_at(&mut self, partition: PartitionId, wake: Option<Time>) {
        let before = std::mem::replace(&mut self.wakes[partition.index()], wake);
        if before != wake {
            before.iter().for_each(|at| _ = self.due.remove(&(*at, partition)));
            self.due.extend(wake.map(|at| (at, partition)));
        }
    }

    /// When a partition is to be looked at again at the latest.
    pub(super) fn next_wake(&self, timing: &Timing, now: Time) -> Option<Time> {
        let of_touched = self.touched.iter().filter_map(|p| self.all[p.index()].next_wake(timing, now));
        let later = (Excluded((now, PartitionId::new(u16::MAX))), Unbounded);
        of_touched.chain(self.due.range(later).next().map(|(at, _)| *at)).min()
    }

    /// The only way from one phase to another; answers the one before.
    pub(super) fn set_phase(&mut self, partition: PartitionId, phase: Phase) -> Phase {
        let is_away = |phase: &Phase| matches!(phase, Phase::Away);
        let is_moving = |phase: &Phase| matches!(phase, Phase::Moving(_));
        let (away, moving) = (is_away(&phase), is_moving(&phase));
        let before = std::mem::replace(&mut self[partition.index()].phase, phase);
        self.index.not_away = self.index.not_away + usize::from(!away) - usize::from(!is_away(&before));
        self.index.moving = self.index.moving + usize::from(moving) - usize::from(is_moving(&before));
        before
    }

    /// How many are moving.
    pub(super) fn moving(&self) -> usize {
        self.index.moving
    }

    pub(super) fn are_all_away(&self) -> bool {
        self.index.not_away == 0
    }

    pub(super) fn write_sent(&mut self, op: OpId, partition: PartitionId) {
        self.index.writes.insert(op, partition);
    }

    pub(super) fn write_done(&mut self, op: OpId) -> Option<PartitionId> {
        self.index.writes.remove(&op)
    }

    /// A hook was called for them, which are in their order.
    pub(super) fn hook_called(&mut self, op: OpId, partitions: Vec<PartitionId>) {
        self.index.hooks.insert(op, partitions);
    }

    pub(super) fn hook_done(&mut self, op: OpId) -> Vec<PartitionId> {
        let concerned = self.with_hook(op);
        self.index.hooks.remove(&op);
        concerned
    }

    /// Whom that hook runs for.
    pub(super) fn with_hook(&self, op: OpId) -> Vec<PartitionId> {
        let called = self.index.hooks.get(&op).into_iter().flatten();
        called.copied().filter(|p| self.all[p.index()].hook().is_some_and(|(_, hook)| hook.op == op)).collect()
    }

    pub(super) fn exclude(&mut self, partition: PartitionId, until: Time) {
        self[partition.index()].excluded_until = Some(until);
        self.index.excluded.insert(partition);
    }

    pub(super) fn excluded(&self, now: Time) -> impl Iterator<Item = PartitionId> {
        self.index.excluded.iter().copied().filter(move |p| self.all[p.index()].is_excluded(now))
    }
}

impl Hash for Slots {
    /// What follows from the rest tells nothing more.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { all, partitions, touched, all_touched, waiting, wakes, due: _, index: _ } = self;
        (all, partitions, touched, all_touched, waiting, wakes).hash(state);
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
        self.touched.extend(u16::try_from(index).map(PartitionId::new));
        &mut self.all[index]
    }
}
