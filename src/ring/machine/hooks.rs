//! The hooks of the service: called, waited for, watched over in time.
//!
//! Per partition calls never overlap and come in epoch order: the phase a partition is in says which hook runs.

use std::collections::BTreeMap;

use super::moves::{Move, Step};
use super::partition::{Hook, Phase};
use super::{Action, Event, Machine, OpId, Outcome};
use crate::ring::event::Origin;
use crate::service::Release;
use crate::types::guard::{self, Guard};
use crate::types::{Epoch, PartitionId};

impl Machine {
    pub(super) fn start_hook(&mut self) -> Hook {
        Hook { op: self.op(), since: self.now, reported: false }
    }

    /// Calls `on_own` for all partitions that came with this step, those of one origin together. Not while suspended:
    /// they may be somebody else's by now.
    pub(super) fn flush_hooks(&mut self, partitions: &[PartitionId]) {
        if !self.may_act() && guard::holds(Guard::NoHookWhileSuspended) {
            return;
        }
        let mut batches: BTreeMap<u8, (Origin, Vec<(PartitionId, Epoch)>)> = BTreeMap::new();
        for partition in partitions.iter().copied() {
            if let Phase::Owned { epoch, origin, .. } = self.slot(partition).phase {
                batches.entry(origin as u8).or_insert((origin, Vec::new())).1.push((partition, epoch));
            }
        }
        for (origin, grants) in batches.into_values() {
            self.call_on_own(origin, grants);
        }
    }

    pub(super) fn call_on_own(&mut self, origin: Origin, grants: Vec<(PartitionId, Epoch)>) {
        let hook = self.start_hook();
        self.slots.hook_called(hook.op, grants.iter().map(|(partition, _)| *partition).collect());
        for (partition, _) in &grants {
            let phase = &mut self.slots[partition.index()].phase;
            if let Phase::Owned { epoch, revision, origin } | Phase::Starting { epoch, revision, origin, .. } = *phase {
                *phase = Phase::Starting { hook, epoch, revision, origin };
            }
        }
        self.out.push(Action::OnOwn { op: hook.op, grants, origin });
    }

    pub(super) fn hook_done(&mut self, op: OpId, result: Result<(), String>) {
        let concerned = self.slots.hook_done(op);
        if let Err(reason) = &result
            && let Some((hook, _)) = concerned.first().and_then(|p| self.slot(*p).hook())
        {
            self.emit(Event::HookFailed { hook, partitions: concerned.clone(), reason: reason.clone() });
        }
        if result.is_err() && concerned.len() > 1 && self.retry_one_by_one(&concerned) {
            return;
        }
        let mut lost = Vec::new();
        for partition in concerned {
            match self.slot(partition).phase.clone() {
                Phase::Starting { epoch, revision, origin, .. } => match &result {
                    Ok(()) => self.serve(partition, epoch, revision, origin),
                    Err(_) => self.give_back_failed(partition, epoch, revision),
                },
                Phase::LostWhileStarting { epoch, .. } => lost.push((partition, epoch)),
                Phase::Moving(_) => self.move_released(partition),
                Phase::Losing { .. } => self.step_aside(partition),
                _ => {}
            }
        }
        self.call_lost(lost);
        self.tell_losses_done();
    }

    /// A batch failed: the hook is idempotent, so each partition gets its own call and only those that fail go back.
    pub(super) fn retry_one_by_one(&mut self, partitions: &[PartitionId]) -> bool {
        let mut again = Vec::new();
        for partition in partitions {
            match self.slot(*partition).phase {
                Phase::Starting { epoch, origin, .. } => again.push((*partition, epoch, origin)),
                _ => return false,
            }
        }
        for (partition, epoch, origin) in again {
            self.call_on_own(origin, vec![(partition, epoch)]);
        }
        true
    }

    pub(super) fn call_lost(&mut self, grants: Vec<(PartitionId, Epoch)>) {
        if grants.is_empty() {
            return;
        }
        let hook = self.start_hook();
        self.slots.hook_called(hook.op, grants.iter().map(|(partition, _)| *partition).collect());
        for (partition, epoch) in &grants {
            self.set_phase(*partition, Phase::Losing { hook });
            self.emit(Event::Released { partition: *partition, epoch: *epoch, why: Release::Lost });
        }
        self.out.push(Action::OnRelease { op: hook.op, grants, why: Release::Lost });
    }

    pub(super) fn tell_losses_done(&mut self) {
        if self.slots.are_all_away() {
            self.losses_told();
        }
    }

    /// Reports a hook that runs for long; one that meets its limit costs the node its lease.
    pub(super) fn check_hook(&mut self, partition: PartitionId) {
        let Some((name, hook)) = self.slot(partition).hook().map(|(name, hook)| (name, *hook)) else { return };
        let running = self.now.since(hook.since);
        if running >= self.timing.hook_limit && guard::holds(Guard::HookLimit) {
            let partitions = self.slots.with_hook(hook.op);
            self.emit(Event::HookHung { hook: name, partitions, limit: self.timing.hook_limit });
            self.give_up(Outcome::HookHung);
        } else if running >= self.timing.hook_slow && !hook.reported {
            let partitions = self.slots.with_hook(hook.op);
            for p in &partitions {
                self.mark_reported(*p);
            }
            self.emit(Event::HookSlow { hook: name, partitions, running });
        }
    }

    pub(super) fn mark_reported(&mut self, partition: PartitionId) {
        match &mut self.slots[partition.index()].phase {
            Phase::Starting { hook, .. } | Phase::LostWhileStarting { hook, .. } | Phase::Losing { hook } => {
                hook.reported = true;
            }
            Phase::Moving(Move { step: Step::Releasing { hook }, .. }) => hook.reported = true,
            _ => {}
        }
    }
}
