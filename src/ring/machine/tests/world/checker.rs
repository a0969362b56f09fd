//! Judges the ring from outside, one invariant per function.

use std::collections::{BTreeMap, BTreeSet};

use super::process::Process;
use super::store::Kv;
use super::{LEASE, World};
use crate::coord::{Claim, ClaimState, Key, Lease, LeaseState, Record, RingConfig};
use crate::ring::io::OpId;
use crate::types::{Epoch, Incarnation, NodeId, PartitionCount, PartitionId};

/// What was broken, or nothing.
pub(super) type Checked = Result<(), String>;

/// How the calls for one partition in one life of a process stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

#[derive(Debug, Clone, Default)]
struct Hooks {
    calls: Calls,
    running: Option<OpId>,
}

type Place = (usize, u32, PartitionId);

/// Remembers what must not be contradicted later.
#[derive(Debug, Default)]
pub(super) struct Checker {
    executed_by: BTreeMap<(PartitionId, Epoch), Incarnation>,
    offered: BTreeSet<(PartitionId, Epoch, NodeId, NodeId)>,
    given_away: BTreeSet<(PartitionId, Epoch, NodeId)>,
    hooks: BTreeMap<Place, Hooks>,
    running: BTreeMap<(usize, u32, OpId), Vec<PartitionId>>,
}

impl Checker {
    /// At every moment: at most one executes, it is the one the store names, and no epoch has two incarnations.
    pub(super) fn judge(&mut self, processes: &[Process], kv: &Kv, partitions: PartitionCount, now: u64) -> Checked {
        for partition in partitions.ids() {
            let mut executing = processes.iter().filter_map(|process| process.executes(partition, now));
            let Some((id, epoch)) = executing.next() else { continue };
            if let Some((other, theirs)) = executing.next() {
                return Err(format!("partition {partition}: {id} e{epoch} and {other} e{theirs} can both execute"));
            }
            let claim = kv.claim(partition);
            if !claim.is_some_and(|claim| claim.holder() == Some(&id) && claim.epoch == epoch) {
                return Err(format!("partition {partition}: {id} executes at e{epoch}, the claim is {claim:?}"));
            }
            let first = *self.executed_by.entry((partition, epoch)).or_insert(id.incarnation);
            if first != id.incarnation {
                return Err(format!("partition {partition}: e{epoch} executed by two incarnations"));
            }
        }
        Ok(())
    }

    /// A write that is about to be applied.
    pub(super) fn written(&self, kv: &Kv, key: &Key, record: &Record, now: u64) -> Checked {
        match (key, record) {
            (Key::Own(partition), Record::Own(claim)) => match kv.claim(*partition) {
                Some(before) => self.claim_follows(kv, *partition, before, claim),
                None if claim.epoch == Epoch::new(1) => Ok(()),
                None => Err(format!("partition {partition}: the first epoch is {}", claim.epoch)),
            },
            (Key::Lease(node), Record::Lease(lease)) => match kv.lease(node) {
                Some(before) => {
                    let written = kv.written.get(key).copied().unwrap_or(0);
                    lease_follows(before, lease, now - written)?;
                    not_for_an_outage(kv, lease, written, now)
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Epochs grow; a held claim changes hands only to whom it was offered, or once its owner is gone.
    fn claim_follows(&self, kv: &Kv, partition: PartitionId, before: &Claim, after: &Claim) -> Checked {
        if after.state == ClaimState::Released {
            let own = before.holder() == Some(&after.owner) && before.epoch == after.epoch;
            return if own { Ok(()) } else { Err(format!("partition {partition}: {before:?} released as {after:?}")) };
        }
        if after.epoch != before.epoch.next() {
            return Err(format!("partition {partition}: epoch {} after {}", after.epoch, before.epoch));
        }
        let Some(holder) = before.holder().filter(|holder| **holder != after.owner) else { return Ok(()) };
        let offer = (partition, before.epoch, holder.clone(), after.owner.clone());
        let gone = kv
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
}

/// Nobody is evicted because the store was away: there was a full lease to renew in before it or after it.
fn not_for_an_outage(kv: &Kv, lease: &Lease, written: u64, now: u64) -> Checked {
    let Some((from, until)) = kv.outage.filter(|(_, until)| lease.state == LeaseState::Evicted && written < *until)
    else {
        return Ok(());
    };
    let full = LEASE * 100 / 106;
    // An observer may judge until a sixth of a lease after its own last acknowledgement.
    if from.saturating_sub(written) >= full - LEASE / 4 || now - until >= full {
        return Ok(());
    }
    Err(format!("{lease:?}: evicted {} ms after the store was away", (now - until) / super::MS))
}

/// A live lease ends by its holder's word, or a full lease after its last renewal (by the fastest clock).
fn lease_follows(before: &Lease, after: &Lease, silent: u64) -> Checked {
    let same = before.incarnation == after.incarnation;
    if same && before.state != LeaseState::Live {
        return Err(format!("lease {before:?} followed by {after:?}"));
    }
    if !same && after.incarnation.start <= before.incarnation.start {
        return Err(format!("start number {} after {}", after.incarnation.start, before.incarnation.start));
    }
    let taken = before.state == LeaseState::Live && (!same || after.state == LeaseState::Evicted);
    if taken && silent < LEASE * 100 / 106 {
        return Err(format!("{before:?} was ended as {after:?} after {} ms of silence", silent / super::MS));
    }
    Ok(())
}

impl World {
    /// Why the ring is not at rest, if it is not.
    pub(super) fn unrest(&self) -> Option<String> {
        let live: Vec<&Process> = self.processes.iter().filter(|process| process.machine.is_some()).collect();
        for process in &live {
            let report = process.machine.as_ref()?.report();
            if process.draining || report.draining {
                return Some(format!("{} still drains", process.name));
            }
            if !report.joined || report.suspended {
                return Some(format!("{} has not joined, or is suspended", process.name));
            }
            if let Some(moving) = report.moves.first() {
                return Some(format!("{}: {moving:?}", process.name));
            }
        }
        let mut counts = vec![0_usize; live.len()];
        for partition in self.partitions.ids() {
            let owner = live.iter().position(|process| process.executes(partition, self.now).is_some());
            let Some(owner) = owner else {
                return Some(format!("partition {partition} has no owner: {:?}", self.kv.claim(partition)));
            };
            counts[owner] += 1;
        }
        if self.wished().is_none_or(|config| config != RingConfig::default()) {
            return self.unplanned().or_else(|| self.unmet_pin());
        }
        let (least, most) = (counts.iter().min()?, counts.iter().max()?);
        (most - least > 1).then(|| format!("owners are out of balance: {counts:?}"))
    }
}
