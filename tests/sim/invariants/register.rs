//! Nothing acknowledged is lost in planned moves, and no read is stale: each key as a register, judged by versions.
//!
//! Values are unique and versions order the writes of a key, so a request is judged by what was known to be done before it
//! began: it may find a later state of the key, never an earlier one.

use std::collections::HashMap;
use std::time::Duration;

use nats_ring::cache::Version;
use nats_ring::types::{Epoch, PartitionId};

use super::{Held, ensure};
use crate::history::{Answered, Asked, ProcessId, Term};

pub(super) const NO_LOSS: &str = "nothing acknowledged is lost in a planned move";
const NO_STALE: &str = "no read is stale, no write goes back";

/// The latest state of a key that is surely behind a request that begins now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Floor {
    version: Version,
    there: bool,
    /// When the request that showed it began.
    began: Duration,
}

#[derive(Default)]
struct Key {
    floor: Option<Floor>,
    values: HashMap<Version, u64>,
    /// Deletes that may still land, or have: when they began, and until when they may.
    deletes: Vec<(Duration, Duration)>,
}

/// What was known when a request began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Began {
    at: Duration,
    floor: Option<Floor>,
    empty_since: Epoch,
    resets: u32,
}

#[derive(Debug, Clone, Copy)]
struct Own {
    process: ProcessId,
    term: Term,
}

#[derive(Debug, Clone, Copy, Default)]
struct Partition {
    owned: Option<Own>,
    restored: Option<Own>,
    /// The latest epoch that began without what was there before.
    empty_since: Epoch,
}

/// Every key of the work load.
pub(crate) struct Register {
    keys: Vec<Key>,
    partition_of: Vec<PartitionId>,
    partitions: Vec<Partition>,
    generation: u64,
    resets: u32,
    /// Times that a partition began empty though it had had an owner.
    pub(crate) losses: u32,
}

impl Register {
    pub(crate) fn new(partition_of: Vec<PartitionId>, partitions: u16) -> Self {
        let keys = partition_of.iter().map(|_| Key::default()).collect();
        let partitions = vec![Partition::default(); usize::from(partitions)];
        Self { keys, partition_of, partitions, generation: 0, resets: 0, losses: 0 }
    }

    /// State was handed over.
    pub(crate) fn restored(&mut self, process: ProcessId, partition: PartitionId, term: Term) {
        self.partitions[partition.index()].restored = Some(Own { process, term });
    }

    /// What the owner held is gone.
    pub(crate) fn dropped(&mut self, process: ProcessId, partition: PartitionId) {
        let known = &mut self.partitions[partition.index()];
        known.owned = known.owned.filter(|own| own.process != process);
    }

    /// Somebody is the owner from now on: with what was there before, or with nothing, where the answer is `true`.
    pub(super) fn owned(&mut self, process: ProcessId, partition: PartitionId, term: Term) -> bool {
        if term.generation.get() > self.generation {
            self.generation = term.generation.get();
            self.resets += 1;
            self.keys.iter_mut().for_each(|key| *key = Key::default());
            self.partitions.fill(Partition::default());
        }
        let known = &mut self.partitions[partition.index()];
        let handed = known.restored.is_some_and(|own| own.process == process && own.term == term);
        let kept = known.owned.is_some_and(|own| own.process == process);
        if !handed && !kept {
            known.empty_since = known.empty_since.max(term.epoch);
            self.losses += u32::from(term.epoch > Epoch::new(1));
        }
        known.owned = Some(Own { process, term });
        !handed && !kept && term.epoch > Epoch::new(1)
    }

    /// A request begins.
    pub(crate) fn began(&mut self, key: usize, asked: Asked, at: Duration) -> Began {
        let empty_since = self.partitions[self.partition_of[key].index()].empty_since;
        let known = &mut self.keys[key];
        if asked == Asked::Delete {
            known.deletes.push((at, Duration::MAX));
        }
        Began { at, floor: known.floor, empty_since, resets: self.resets }
    }

    /// It was answered, or given up by its client.
    pub(crate) fn ended(&mut self, key: usize, asked: Asked, began: Began, answered: Answered, at: Duration) -> Held {
        if began.resets != self.resets {
            return Ok(());
        }
        let refused = matches!(answered, Answered::Refused);
        if asked == Asked::Delete && answered != Answered::Unknown {
            let known = &mut self.keys[key];
            let mine = known.deletes.iter().position(|(from, until)| *from == began.at && *until == Duration::MAX);
            match mine {
                Some(n) if refused => drop(known.deletes.remove(n)),
                Some(n) => known.deletes[n].1 = at,
                None => {}
            }
        }
        match (asked, answered) {
            (_, Answered::Unknown | Answered::Refused) => Ok(()),
            (Asked::Set(value), Answered::Stored(version)) => {
                self.not_before(key, began, version, true)?;
                self.is_of(key, version, value)?;
                self.raise(key, Floor { version, there: true, began: began.at });
                Ok(())
            }
            (_, Answered::Found(value, version)) => {
                self.not_before(key, began, version, false)?;
                self.is_of(key, version, value)?;
                self.raise(key, Floor { version, there: true, began: began.at });
                Ok(())
            }
            (_, Answered::Deleted(version)) => {
                self.not_before(key, began, version, true)?;
                self.raise(key, Floor { version, there: false, began: began.at });
                Ok(())
            }
            (_, Answered::Missing) => self.may_be_missing(key, began),
            (_, Answered::Stored(_)) => Ok(()),
        }
    }

    fn raise(&mut self, key: usize, floor: Floor) {
        let known = &mut self.keys[key].floor;
        if known.is_none_or(|before| before.version < floor.version) {
            *known = Some(floor);
        }
    }

    /// What is found, or written, is not older than what was done before it began.
    fn not_before(&self, key: usize, began: Began, version: Version, write: bool) -> Held {
        let ahead = began
            .floor
            .is_none_or(|floor| version > floor.version || version == floor.version && !write && floor.there);
        ensure(ahead, NO_STALE, || format!("key {key}: {version} after {:?} was done", began.floor))?;
        ensure(version.epoch >= began.empty_since, NO_STALE, || {
            format!("key {key}: {version}, though its partition was lost before epoch {}", began.empty_since)
        })
    }

    /// One version, one value.
    fn is_of(&mut self, key: usize, version: Version, value: u64) -> Held {
        let first = *self.keys[key].values.entry(version).or_insert(value);
        ensure(first == value, NO_STALE, || format!("key {key}: {version} is {first} and {value}"))
    }

    /// What was acknowledged is there, unless it was deleted since, or lost with its holder.
    fn may_be_missing(&self, key: usize, began: Began) -> Held {
        let Some(floor) = began.floor.filter(|floor| floor.there) else { return Ok(()) };
        let lost = self.partitions[self.partition_of[key].index()].empty_since > floor.version.epoch;
        let deleted = self.keys[key].deletes.iter().any(|(_, until)| *until >= floor.began);
        ensure(lost || deleted, NO_LOSS, || format!("key {key}: missing after {floor:?} was done"))
    }
}
