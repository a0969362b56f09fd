//! One process of the simulated world: a machine, its clock, and what its server and its hooks are doing.

use std::collections::{BTreeMap, VecDeque};

use super::copying::Held;
use crate::coord::{Key, WatchScope};
use crate::ring::io::Input;
use crate::ring::machine::Machine;
use crate::types::{Epoch, NodeId, NodeName, PartitionId, Time};

/// What the server does with requests for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    /// Passes them on, or has none.
    #[default]
    Forward,
    /// Holds them back; those begun before still run.
    Park { running: bool },
    /// Executes them.
    Serve,
}

/// A partition at a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    pub(super) mode: Mode,
    /// Changes with each change of mode, so that an outcome of an earlier one is known as such.
    pub(super) parking: u64,
    /// At which epoch it was last parked.
    pub(super) parked_at: Epoch,
    /// The grant in force: its epoch, unless revoked.
    pub(super) grant: Option<Epoch>,
}

/// A process. It has lives (a crash ends one) and within them sessions, one machine each.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: NodeName,
    pub(super) life: u32,
    pub(super) session: u32,
    pub(super) machine: Option<Machine>,
    /// Ticks of its clock per million nanoseconds.
    pub(super) rate: u64,
    pub(super) offset: u64,
    pub(super) paused: bool,
    pub(super) backlog: VecDeque<Input>,
    pub(super) data_up: bool,
    /// What the machine was last told of it.
    pub(super) told_up: bool,
    pub(super) gate: Time,
    pub(super) parts: Vec<Part>,
    pub(super) held: Vec<Held>,
    pub(super) scope: Option<WatchScope>,
    pub(super) lease_watch: u32,
    pub(super) ring_live: bool,
    pub(super) lease_live: bool,
    pub(super) ring_floor: u64,
    pub(super) lease_floor: u64,
    pub(super) delivered: BTreeMap<Key, u64>,
    /// Longest delay of its watch, by class of key.
    pub(super) lags: [u64; 4],
    pub(super) wake_at: u64,
    pub(super) draining: bool,
}

impl Process {
    /// What its clock shows.
    pub(super) fn local(&self, real: u64) -> Time {
        let ticks = u128::from(real) * u128::from(self.rate) / 1_000_000;
        Time::from_nanos(self.offset + u64::try_from(ticks).expect("fits"))
    }

    /// When its clock shows `local`, not before.
    pub(super) fn real(&self, local: Time) -> u64 {
        let ticks = u128::from(local.as_nanos().saturating_sub(self.offset));
        u64::try_from((ticks * 1_000_000).div_ceil(u128::from(self.rate))).expect("fits")
    }

    /// Whether requests for the partition can execute at this moment, and at which epoch. A paused process counts: its
    /// requests stand in the middle of something.
    pub(super) fn executes(&self, partition: PartitionId, real: u64) -> Option<(NodeId, Epoch)> {
        let part = &self.parts[partition.index()];
        let runs = matches!(part.mode, Mode::Serve | Mode::Park { running: true });
        let epoch = part.grant.filter(|_| runs && self.local(real) < self.gate)?;
        Some((self.machine.as_ref()?.id()?, epoch))
    }
}
