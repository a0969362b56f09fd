//! One entry, its version, its record in the log, and what it weighs.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::{Epoch, Time};

/// What an entry costs beside its record: its slot in the tables of the map with the slack they have after growing, and
/// its part of the remembered evicted keys. `tests/cache_memory.rs` measures that it is enough.
const SLOT_BYTES: u64 = 112;
/// What a time to live adds: its place in the index by deadline.
const DEADLINE_BYTES: u64 = 64;

/// Orders all writes of one partition: owners one after the other, each numbering its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version {
    /// The epoch of the owner that executed the write.
    pub epoch: Epoch,
    /// The write's number within the epoch, from 1.
    pub sequence: u64,
}

impl fmt::Display for Version {
    /// `<epoch>.<sequence>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

/// What the bytes of a value are. Room for more kinds is left in every format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// JSON text.
    #[default]
    Json,
}

impl Kind {
    /// Its number in the formats.
    pub const fn number(self) -> u8 {
        match self {
            Self::Json => 0,
        }
    }

    /// The kind with this number, if this release knows it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Json),
            _ => None,
        }
    }
}

/// Length of a record's head: epoch, sequence, deadline, value length, key length, kind, all little-endian.
pub(super) const RECORD_HEAD_BYTES: usize = 31;

/// An entry; its bytes are elsewhere: in a request, a snapshot or the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) kind: Kind,
    pub(super) version: Version,
    /// When it ends; [`NEVER`] for one that does not.
    pub(super) deadline: Time,
}

impl<'a> Item<'a> {
    pub(super) fn is_expired(&self, now: Time) -> bool {
        self.deadline <= now
    }

    /// How long it still lives; `None` where it has no end.
    pub(super) fn remaining(&self, now: Time) -> Option<Duration> {
        (self.deadline != NEVER).then(|| self.deadline.since(now))
    }

    pub(super) fn record_len(&self) -> usize {
        RECORD_HEAD_BYTES + self.key.len() + self.value.len()
    }

    /// Appends it as a record.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version.epoch.get().to_le_bytes());
        out.extend_from_slice(&self.version.sequence.to_le_bytes());
        out.extend_from_slice(&self.deadline.as_nanos().to_le_bytes());
        out.extend_from_slice(&(self.value.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.key.len() as u16).to_le_bytes());
        out.push(self.kind.number());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
    }

    /// The record that these bytes begin with, as [`Item::write`] left it.
    pub(super) fn read(record: &'a [u8]) -> Self {
        let (head, rest) = record.split_at(RECORD_HEAD_BYTES);
        let number = |from: usize, len: usize| {
            head[from..from + len].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let (value_len, key_len) = (number(24, 4) as usize, number(28, 2) as usize);
        Self {
            key: &rest[..key_len],
            value: &rest[key_len..key_len + value_len],
            kind: Kind::from_number(head[30]).unwrap_or_default(),
            version: Version { epoch: Epoch::new(number(0, 8)), sequence: number(8, 8) },
            deadline: Time::from_nanos(number(16, 8)),
        }
    }

    /// In bytes of memory.
    pub(super) fn weight(&self) -> u64 {
        weight_of_record(self.record_len() as u64, self.deadline != NEVER)
    }
}

/// What an entry weighs whose record has this length.
pub(super) fn weight_of_record(record_len: u64, has_deadline: bool) -> u64 {
    record_len + SLOT_BYTES + if has_deadline { DEADLINE_BYTES } else { 0 }
}

/// The most an entry with this key and value can weigh.
pub(super) fn heaviest(key_len: usize, value_len: usize) -> u64 {
    weight_of_record((RECORD_HEAD_BYTES + key_len + value_len) as u64, true)
}

/// No clock gets there in 580 years.
pub(super) const NEVER: Time = Time::from_nanos(u64::MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let version = Version { epoch: Epoch::new(u64::MAX - 3), sequence: 1 << 40 };
        let item = Item { key: b"k", value: b"[1,2]", kind: Kind::Json, version, deadline: Time::from_nanos(77) };
        let mut record = Vec::new();
        item.write(&mut record);
        assert_eq!(record.len(), item.record_len());
        record.extend_from_slice(b"the next record");
        assert_eq!(Item::read(&record), item);
    }
}
