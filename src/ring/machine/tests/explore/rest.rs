//! Judging a situation: whether more than one executes, and whether the ring is at rest.
//!
//! In: a situation. Out: what is broken, or what keeps the ring from being at rest.

use std::sync::Arc;

use super::state::{PARTITIONS, State};
use crate::coord::{Key, Record};
use crate::types::PartitionId;

impl State {
    /// At most one executes, and it is the one that the store names.
    pub(super) fn judge(&mut self) -> Result<(), String> {
        for partition in PARTITIONS.ids() {
            let executing: Vec<_> = self.nodes.iter().filter_map(|node| node.executes(partition, self.now)).collect();
            if !executing.is_empty() {
                Arc::make_mut(&mut self.checker).judge(partition, executing.into_iter(), self.kv.as_ref())?;
            }
        }
        Ok(())
    }

    /// Why the ring is not at rest, if it is not.
    pub(super) fn unrest(&self) -> Option<String> {
        if self.writes.iter().any(|writing| !writing.stray) {
            return Some("a write is on its way".to_owned());
        }
        let live = || self.nodes.iter().filter(|node| node.machine.is_some());
        for node in live() {
            let under_way = !node.ring.is_empty() || !node.leases.is_empty() || !node.inbox.is_empty();
            if node.paused || under_way || node.is_due(self.now) {
                return Some(format!("{} is paused, or something is on its way to it", node.name));
            }
        }
        // With nobody left there is nothing to wait for.
        live().next()?;
        for node in live() {
            let report = node.machine.as_ref()?.report();
            if !report.joined || report.suspended || !report.moves.is_empty() {
                return Some(format!("{} has not joined, is suspended, or moves a partition", node.name));
            }
        }
        PARTITIONS.ids().find_map(|partition| self.misplaced(partition))
    }

    fn misplaced(&self, partition: PartitionId) -> Option<String> {
        let owner = self.nodes.iter().find_map(|node| node.executes(partition, self.now));
        let Some((Key::Plan, (_, Record::Plan(plan)))) = self.kv.records.get_key_value(&Key::Plan) else {
            return Some("no plan".to_owned());
        };
        let planned = plan.rows[partition.index()].first();
        let right = owner.is_some() && owner.as_ref().map(|(id, _)| &id.node) == planned;
        (!right).then(|| format!("partition {partition}: planned for {planned:?}, executed by {owner:?}"))
    }
}
