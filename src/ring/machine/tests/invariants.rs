//! What must hold whatever happens, judged from outside: of what executes, what is written and which hooks are called.
//!
//! In: those three, as the simulated worlds see them. Out: what was broken, or nothing. `world` and `explore` share it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::coord::{Claim, ClaimState, Lease, LeaseState};
use crate::ring::io::OpId;
use crate::types::{Epoch, Incarnation, NodeId, NodeName, PartitionId};

/// What was broken, or nothing.
pub(super) type Checked = Result<(), String>;

/// What the store says.
pub(super) trait Truth {
    fn claim(&self, partition: PartitionId) -> Option<&Claim>;
    fn lease(&self, node: &NodeName) -> Option<&Lease>;
}

/// How the calls for one partition in one life of a process stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
enum Calls {
    #[default]
    None,
    Owned {
        epoch: Epoch,
        ok: bool,
    },
    Released {
        epoch: Epoch,
    },
}

#[derive(Debug, Clone, Default, Hash)]
struct Hooks {
    calls: Calls,
    running: Option<OpId>,
}

/// A process, its life, a partition.
pub(super) type Place = (usize, u32, PartitionId);

/// Remembers what must not be contradicted later.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Checker {
    executed_by: BTreeMap<(PartitionId, Epoch), Incarnation>,
    offered: BTreeSet<(PartitionId, Epoch, NodeId, NodeId)>,
    given_away: BTreeSet<(PartitionId, Epoch, NodeId)>,
    hooks: BTreeMap<Place, Hooks>,
    running: BTreeMap<(usize, u32, OpId), Vec<PartitionId>>,
}

impl Checker {
    /// At every moment: at most one executes, it is the one the store names, and no epoch has two incarnations.
    pub(super) fn judge(
        &mut self,
        partition: PartitionId,
        mut executing: impl Iterator<Item = (NodeId, Epoch)>,
        truth: &impl Truth,
    ) -> Checked {
        let Some((id, epoch)) = executing.next() else { return Ok(()) };
        if let Some((other, theirs)) = executing.next() {
            return Err(format!("partition {partition}: {id} e{epoch} and {other} e{theirs} can both execute"));
        }
        let claim = truth.claim(partition);
        if !claim.is_some_and(|claim| claim.holder() == Some(&id) && claim.epoch == epoch) {
            return Err(format!("partition {partition}: {id} executes at e{epoch}, the claim is {claim:?}"));
        }
        let first = *self.executed_by.entry((partition, epoch)).or_insert(id.incarnation);
        if first != id.incarnation {
            return Err(format!("partition {partition}: e{epoch} executed by two incarnations"));
        }
        Ok(())
    }

    /// Epochs grow; a held claim changes hands only to whom it was offered, or once its owner is gone.
    pub(super) fn claim_follows(&self, truth: &impl Truth, partition: PartitionId, after: &Claim) -> Checked {
        let Some(before) = truth.claim(partition) else {
            let first = after.epoch == Epoch::new(1);
            return if first {
                Ok(())
            } else {
                Err(format!("partition {partition}: the first epoch is {}", after.epoch))
            };
        };
        if after.state == ClaimState::Released {
            let own = before.holder() == Some(&after.owner) && before.epoch == after.epoch;
            return if own { Ok(()) } else { Err(format!("partition {partition}: {before:?} released as {after:?}")) };
        }
        let same = before.holder() == Some(&after.owner) && before.epoch == after.epoch;
        if same && (before.state == ClaimState::Recovering || before.replicas != after.replicas) {
            let first = after.replicas.first() == Some(&after.owner) && after.state == ClaimState::Held;
            return if first { Ok(()) } else { Err(format!("partition {partition}: {before:?} changed to {after:?}")) };
        }
        if after.epoch != before.epoch.next() {
            return Err(format!("partition {partition}: epoch {} after {}", after.epoch, before.epoch));
        }
        let Some(holder) = before.holder().filter(|holder| **holder != after.owner) else { return Ok(()) };
        let offer = (partition, before.epoch, holder.clone(), after.owner.clone());
        let gone = truth
            .lease(&holder.node)
            .is_some_and(|lease| lease.state != LeaseState::Live || lease.incarnation != holder.incarnation);
        if gone || self.offered.contains(&offer) {
            return Ok(());
        }
        Err(format!("partition {partition}: {} took e{} from {holder}, which lives", after.owner, after.epoch))
    }

    pub(super) fn offered(&mut self, partition: PartitionId, epoch: Epoch, from: NodeId, to: NodeId) {
        self.given_away.insert((partition, epoch, from.clone()));
        self.offered.insert((partition, epoch, from, to));
    }

    pub(super) fn on_own(&mut self, place: Place, epoch: Epoch, op: OpId) -> Checked {
        let hooks = self.hooks.entry(place).or_default();
        let fits = match hooks.calls {
            Calls::None => true,
            Calls::Released { epoch: last } => epoch > last,
            Calls::Owned { epoch: last, ok } => !ok && epoch >= last,
        };
        if !fits || hooks.running.is_some() {
            return Err(format!("{place:?}: on_own e{epoch} after {hooks:?}"));
        }
        *hooks = Hooks { calls: Calls::Owned { epoch, ok: false }, running: Some(op) };
        self.running.entry((place.0, place.1, op)).or_default().push(place.2);
        Ok(())
    }

    pub(super) fn on_release(&mut self, place: Place, epoch: Epoch, op: OpId) -> Checked {
        let hooks = self.hooks.entry(place).or_default();
        let owned = matches!(hooks.calls, Calls::Owned { epoch: last, .. } if last == epoch);
        if !owned || hooks.running.is_some() {
            return Err(format!("{place:?}: on_release e{epoch} after {hooks:?}"));
        }
        *hooks = Hooks { calls: Calls::Released { epoch }, running: Some(op) };
        self.running.entry((place.0, place.1, op)).or_default().push(place.2);
        Ok(())
    }

    pub(super) fn hook_ended(&mut self, process: usize, life: u32, op: OpId, success: bool) {
        for partition in self.running.remove(&(process, life, op)).unwrap_or_default() {
            let hooks = self.hooks.entry((process, life, partition)).or_default();
            hooks.running = None;
            if let Calls::Owned { ok, .. } = &mut hooks.calls {
                *ok = success;
            }
        }
    }

    /// Served only after `on_own` succeeded at this epoch, and never at an epoch that was offered.
    pub(super) fn served(&self, place: Place, epoch: Epoch, id: &NodeId) -> Checked {
        let hooks = self.hooks.get(&place).cloned().unwrap_or_default();
        if hooks.calls != (Calls::Owned { epoch, ok: true }) || hooks.running.is_some() {
            return Err(format!("{place:?}: served at e{epoch} after {hooks:?}"));
        }
        if self.given_away.contains(&(place.2, epoch, id.clone())) {
            return Err(format!("{place:?}: e{epoch} is served again after it was offered"));
        }
        Ok(())
    }

    /// A machine that is over has told its service of every loss, where it is said to have.
    pub(super) fn all_told(&self, process: usize, life: u32) -> Checked {
        let of_this = |place: &Place| place.0 == process && place.1 == life;
        let untold = self.hooks.iter().find(|(place, hooks)| {
            of_this(place) && (hooks.running.is_some() || matches!(hooks.calls, Calls::Owned { ok: true, .. }))
        });
        untold.map_or(Ok(()), |(place, hooks)| Err(format!("{place:?}: over, and left at {hooks:?}")))
    }

    /// Nothing of this life is to be remembered any more.
    pub(super) fn forget_life(&mut self, process: usize, life: u32) {
        self.hooks.retain(|place, _| (place.0, place.1) != (process, life));
        self.running.retain(|place, _| (place.0, place.1) != (process, life));
    }

    /// Forgets what no later write or execution can contradict without contradicting the claim, now at this epoch.
    pub(super) fn forget_before(&mut self, partition: PartitionId, epoch: Epoch) {
        self.executed_by.retain(|(p, e), _| *p != partition || *e >= epoch);
        self.offered.retain(|(p, e, ..)| *p != partition || *e >= epoch);
        self.given_away.retain(|(p, e, _)| *p != partition || e.next() >= epoch);
    }
}

/// A live lease ends by its holder's word, or after `full` without a renewal (by the fastest clock).
pub(super) fn lease_follows(before: &Lease, after: &Lease, silent: Duration, full: Duration) -> Checked {
    let same = before.incarnation == after.incarnation;
    if same && before.state != LeaseState::Live {
        return Err(format!("lease {before:?} followed by {after:?}"));
    }
    if !same && after.incarnation.start <= before.incarnation.start {
        return Err(format!("start number {} after {}", after.incarnation.start, before.incarnation.start));
    }
    let taken = before.state == LeaseState::Live && (!same || after.state == LeaseState::Evicted);
    if taken && silent < full {
        return Err(format!("{before:?} was ended as {after:?} after {silent:?} of silence"));
    }
    Ok(())
}
