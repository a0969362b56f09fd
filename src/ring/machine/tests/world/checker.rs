//! Judges the ring from outside: `invariants`, at every step and write of this world.

use std::time::Duration;

use super::super::invariants::{Truth, lease_follows};
use super::process::Process;
use super::store::Kv;
use super::{LEASE, World};
use crate::coord::{Claim, Key, Lease, LeaseState, Record, RingConfig};
use crate::types::{NodeName, PartitionId};

pub(super) use super::super::invariants::{Checked, Checker};

impl Truth for Kv {
    fn claim(&self, partition: PartitionId) -> Option<&Claim> {
        self.claim(partition)
    }

    fn lease(&self, node: &NodeName) -> Option<&Lease> {
        self.lease(node)
    }
}

impl World {
    /// At every moment.
    pub(super) fn judge(&mut self) -> Checked {
        for partition in self.partitions.ids() {
            let executing = self.processes.iter().filter_map(|process| process.executes(partition, self.now));
            self.checker.judge(partition, executing, &self.kv)?;
            self.judge_suspended(partition)?;
        }
        Ok(())
    }

    /// A write that is about to be applied.
    pub(super) fn may_be_written(&self, key: &Key, record: &Record) -> Checked {
        let (kv, now) = (&self.kv, self.now);
        match (key, record) {
            (Key::Own(partition), Record::Own(claim)) => self.checker.claim_follows(kv, *partition, claim),
            (Key::Lease(node), Record::Lease(lease)) => match kv.lease(node) {
                Some(before) => {
                    let written = kv.written.get(key).copied().unwrap_or(0);
                    let silent = Duration::from_nanos(now - written);
                    lease_follows(before, lease, silent, Duration::from_nanos(LEASE * 100 / 106))?;
                    not_for_an_outage(kv, lease, written, now)
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
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
        if let Some(misplaced) = self.misplaced_copy() {
            return Some(misplaced);
        }
        if self.wished().is_none_or(|config| config != RingConfig::default()) {
            return self.unplanned().or_else(|| self.unmet_pin());
        }
        let (least, most) = (counts.iter().min()?, counts.iter().max()?);
        (most - least > 1).then(|| format!("owners are out of balance: {counts:?}"))
    }
}
