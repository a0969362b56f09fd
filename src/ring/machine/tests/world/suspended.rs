//! Owners that no heartbeat gets through for, and go on with what their copies confirm: whoever could at a moment has no
//! successor that executes.
//!
//! Of the network nothing is asked here: members that are cut off from the store may still hear each other.

use super::checker::Checked;
use super::process::{Mode, Process};
use super::{LEASE, World};
use crate::types::guard::{Guard, holds};
use crate::types::{Epoch, PartitionId};

/// From the gate's end to that of the ten leases.
const SUSPENDED: u64 = LEASE * 10 - LEASE * 3 / 4;

impl Process {
    /// At which epoch it would still execute, if its copies confirm that.
    fn may_be_confirmed(&self, partition: PartitionId, now: u64) -> Option<Epoch> {
        let part = &self.parts[partition.index()];
        let limit = if holds(Guard::SuspendLimit) { SUSPENDED } else { SUSPENDED * 1000 };
        let until = self.gate.as_nanos();
        let within = until > 0 && self.local(now).as_nanos() < until + limit;
        part.grant.filter(|_| within && part.mode == Mode::Serve && self.machine.is_some())
    }
}

impl World {
    pub(super) fn judge_suspended(&self, partition: PartitionId) -> Checked {
        for process in self.processes.iter().filter(|_| self.replicates) {
            let Some(epoch) = process.may_be_confirmed(partition, self.now) else { continue };
            let Some(lead) = process.held[partition.index()].lead.as_ref().filter(|lead| lead.epoch == epoch) else {
                continue;
            };
            let sets = || std::iter::once(&lead.set.in_sync).chain(&lead.set.pending);
            let me = process.machine.as_ref().and_then(|machine| machine.id());
            let confirms = |other: &Process| other.held[partition.index()].promised <= epoch;
            let all = sets().flatten().filter(|id| me.as_ref() != Some(id)).all(|id| {
                let of =
                    |other: &&Process| other.machine.as_ref().and_then(|machine| machine.id()).as_ref() == Some(id);
                self.processes.iter().find(of).is_some_and(confirms)
            });
            if !all || sets().any(|set| set.len() < 2) {
                continue;
            }
            let mut later =
                self.processes.iter().filter_map(|other| Some((&other.name, other.executes(partition, self.now)?.1)));
            if let Some((other, at)) = later.find(|(_, at)| *at > epoch) {
                return Err(format!(
                    "whoever goes on with its copies has no successor: partition {partition}, {} at {epoch}, {} at {at}",
                    process.name, other
                ));
            }
        }
        Ok(())
    }
}
