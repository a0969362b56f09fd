//! One entry, its record in the log, and what it weighs.

use std::time::Duration;

use crate::types::{Epoch, Time, Version};

/// What an entry costs beside its record: its slot in the tables of the map with the slack they have after growing, and
/// its part of the remembered evicted keys. `tests/cache_memory.rs` measures that it is enough.
const SLOT_BYTES: u64 = 112;
/// What a time to live adds: its place in the index by deadline.
pub(super) const DEADLINE_BYTES: u64 = 64;

/// When something was written, on the holder's own clock; it may be before that clock's zero, for an entry can be older
/// than the machine that holds it now has been running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written(i64);

impl Written {
    /// So long before now.
    pub(super) fn before(now: Time, age: Duration) -> Self {
        let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        Self((now.as_nanos() as i64).saturating_sub(age))
    }

    /// How long ago it is; zero where it was a moment later than `now` was read.
    pub(super) fn age(self, now: Time) -> Duration {
        Duration::from_nanos((now.as_nanos() as i64).saturating_sub(self.0).max(0).unsigned_abs())
    }
}

/// Length of a record's head: epoch, sequence, deadline, moment written, length of value, key and content type, all
/// little-endian; key, content type and value follow.
pub(super) const RECORD_HEAD_BYTES: usize = 39;
const LIFETIME_BYTES: usize = 24;

/// An entry; its bytes are elsewhere: in a request, a snapshot or the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// As [`ContentType::stored`](super::ContentType::stored) gives it: empty for JSON.
    pub(super) content_type: &'a [u8],
    pub(super) version: Version,
    /// When it ends; [`NEVER`] for one that does not.
    pub(super) deadline: Time,
    pub(super) written: Written,
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
        RECORD_HEAD_BYTES + self.key.len() + self.content_type.len() + self.value.len()
    }

    /// Appends it as a record.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&lifetime(self.version, self.deadline));
        out.extend_from_slice(&self.written.0.to_le_bytes());
        out.extend_from_slice(&(self.value.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.key.len() as u16).to_le_bytes());
        out.push(self.content_type.len() as u8);
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.content_type);
        out.extend_from_slice(self.value);
    }

    /// The record that these bytes begin with, as [`Item::write`] left it.
    pub(super) fn read(record: &'a [u8]) -> Self {
        let (head, rest) = record.split_at(RECORD_HEAD_BYTES);
        let number = |from: usize, len: usize| {
            head[from..from + len].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let (value_len, key_len, type_len) = (number(32, 4) as usize, number(36, 2) as usize, number(38, 1) as usize);
        let (key, rest) = rest.split_at(key_len);
        let (content_type, rest) = rest.split_at(type_len);
        Self {
            key,
            value: &rest[..value_len],
            content_type,
            version: Version { epoch: Epoch::new(number(0, 8)), sequence: number(8, 8) },
            deadline: Time::from_nanos(number(16, 8)),
            written: Written(number(24, 8) as i64),
        }
    }

    /// In bytes of memory.
    pub(super) fn weight(&self) -> u64 {
        weight_of_record(self.record_len() as u64, self.deadline != NEVER)
    }
}

/// Gives a record another version and end, in its place.
pub(super) fn rewrite_lifetime(record: &mut [u8], version: Version, deadline: Time) {
    record[..LIFETIME_BYTES].copy_from_slice(&lifetime(version, deadline));
}

/// What a record begins with: epoch, sequence, deadline.
fn lifetime(version: Version, deadline: Time) -> [u8; LIFETIME_BYTES] {
    let mut out = [0; LIFETIME_BYTES];
    for (at, number) in [version.epoch.get(), version.sequence, deadline.as_nanos()].into_iter().enumerate() {
        out[at * 8..][..8].copy_from_slice(&number.to_le_bytes());
    }
    out
}

/// What an entry weighs whose record has this length.
pub(super) fn weight_of_record(record_len: u64, has_deadline: bool) -> u64 {
    record_len + SLOT_BYTES + if has_deadline { DEADLINE_BYTES } else { 0 }
}

/// The most an entry can weigh whose key, content type and value have this length together.
pub(super) fn heaviest(content_len: usize) -> u64 {
    weight_of_record((RECORD_HEAD_BYTES + content_len) as u64, true)
}

/// No clock gets there in 580 years.
pub(super) const NEVER: Time = Time::from_nanos(u64::MAX);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_as_it_was_written_and_rewritten() {
        let version = Version { epoch: Epoch::new(u64::MAX - 3), sequence: 1 << 40 };
        let (written, deadline) = (Written(-5), Time::from_nanos(77));
        let item = Item { key: b"k", value: b"[1,2]", content_type: b"text/html", version, deadline, written };
        let mut record = Vec::new();
        item.write(&mut record);
        assert_eq!(record.len(), item.record_len());
        record.extend_from_slice(b"the next record");
        assert_eq!(Item::read(&record), item);
        let version = Version { epoch: Epoch::new(9), sequence: 3 };
        rewrite_lifetime(&mut record, version, NEVER);
        assert_eq!(Item::read(&record), Item { version, deadline: NEVER, ..item });
    }

    #[test]
    fn an_age_is_kept_across_clocks_and_never_negative() {
        let second = Duration::from_secs(1);
        let early = Time::ZERO + second;
        let written = Written::before(early, Duration::from_secs(3600));
        assert_eq!(written.age(early + second), Duration::from_secs(3601));
        assert_eq!(Written::before(early + second, Duration::ZERO).age(early), Duration::ZERO);
        assert_eq!(Written::before(early, Duration::MAX).age(early).as_secs(), i64::MAX as u64 / 1_000_000_000);
    }
}
