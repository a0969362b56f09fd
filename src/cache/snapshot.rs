//! A partition's entries on their way to another node: chunks that each fit one message, closed by a trailer.
//!
//! # Format 1
//! - a chunk of entries: `[1][0]`, then postcard: its number from 0, its age mark (nanoseconds since the snapshot began),
//!   then entries until it ends;
//! - the trailer, the last chunk: `[1][1]`, then postcard: chunks before it, entries in them, its age mark; then, since there are
//!   names of requests, which of the writes that came with one are remembered, then, where there are such, those of them that
//!   changed nothing (each is overlooked by releases before); then the XXH3-64 of all bytes before it, this chunk's included,
//!   little-endian.
//!
//! An entry carries its age and the time it had left when its chunk was made. The difference of the two age marks is how
//! long the chunk waited for the rest; the receiver adds it to the one and subtracts it from the other. No clock is
//! compared with another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::content_type;
use super::item::{Item, NEVER, Written};
use super::map::KeyDigest;
use super::native::as_bytes;
use super::once::{Executed, Memory, Outcome, Remembered};
use super::partition::Partition;
use crate::types::{Clock, Time, Version};

const FORMAT: u8 = 1;
const ENTRIES: u8 = 0;
const TRAILER: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// A chunk that has so much takes no further entry: several are under way at once, and requests wait behind them.
const AIM_BYTES: usize = 128 * 1024;
/// The most an entry needs beside key, content type and value, and a chunk beside its entries: all numbers at their longest.
const AROUND_ENTRY_BYTES: usize = 64;
const AROUND_CHUNK_BYTES: usize = 32;
/// The most a write that came with a name needs in the trailer.
const TOLD_BYTES: usize = 96;

/// Why a snapshot could not be made or is refused. A refused one leaves nothing behind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// An entry is larger than a chunk may be.
    #[error("an entry of {size} bytes does not fit a chunk of {limit} bytes")]
    EntryTooLarge {
        /// Size of the entry with what goes around it.
        size: usize,
        /// Size of a chunk.
        limit: usize,
    },
    /// Written by a release that this one does not understand.
    #[error("snapshot chunk {position}: format {format} is not known; known: {FORMAT}")]
    UnknownFormat {
        /// Which chunk, from 0.
        position: usize,
        /// The format it names.
        format: u8,
    },
    /// A chunk is not where it belongs.
    #[error("snapshot: chunk {expected} is missing or out of order")]
    Missing {
        /// The number of the chunk expected.
        expected: usize,
    },
    /// Bytes were changed or cut off.
    #[error("snapshot chunk {position} is damaged: {what}")]
    Damaged {
        /// Which chunk, from 0.
        position: usize,
        /// What does not fit.
        what: String,
    },
}

#[derive(Serialize, Deserialize)]
struct ChunkHead {
    number: u32,
    age_ns: u64,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    chunks: u32,
    entries: u64,
    age_ns: u64,
}

/// The writes that came with a name, as they are told: all that are remembered, or the newest of them.
#[derive(Serialize, Deserialize)]
struct Told {
    /// How long ago the newest one was executed that is not among them, if there was one.
    forgotten_ns: Option<u64>,
    /// Oldest first.
    writes: Vec<ToldWrite>,
    /// Those that changed nothing, told apart.
    #[serde(skip)]
    changed_nothing: Vec<ToldWrite>,
}

/// Version, how long ago, what.
type ToldWrite = (Version, u64, Executed);

/// The same, as it is held.
pub(super) struct Recalled {
    all: Vec<Remembered>,
    forgotten_until: Option<Time>,
}

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    version: Version,
    age_ns: u64,
    remaining_ns: Option<u64>,
    #[serde(serialize_with = "as_bytes")]
    content_type: &'a [u8],
    #[serde(serialize_with = "as_bytes")]
    key: &'a [u8],
    #[serde(serialize_with = "as_bytes")]
    value: &'a [u8],
}

/// Makes the chunks, one by one, as they are asked for.
pub(super) struct Writer {
    partition: Arc<Partition>,
    /// What is still to be written.
    left: Vec<KeyDigest>,
    max_bytes: usize,
    clock: Arc<dyn Clock>,
    began: Time,
    hash: Xxh3,
    chunks: u32,
    entries: u64,
    done: bool,
}

impl Writer {
    /// Of the entries that the partition has now.
    pub(super) fn new(partition: Arc<Partition>, max_bytes: usize, clock: Arc<dyn Clock>) -> Self {
        let began = clock.now();
        let left = partition.read().map.digests();
        Self { partition, left, max_bytes, clock, began, hash: Xxh3::new(), chunks: 0, entries: 0, done: false }
    }

    fn age_ns(&self, now: Time) -> u64 {
        nanos(now.since(self.began))
    }

    fn write(&mut self) -> Result<Bytes, SnapshotError> {
        let now = self.clock.now();
        let mut out = begin(ENTRIES, &ChunkHead { number: self.chunks, age_ns: self.age_ns(now) });
        let empty_len = out.len();
        // Held for one chunk, never from one to the next.
        let held = self.partition.read();
        while let Some(digest) = self.left.last() {
            if let Some(item) = held.map.peek(*digest, now) {
                let size = item.key.len() + item.content_type.len() + item.value.len() + AROUND_ENTRY_BYTES;
                if size + AROUND_CHUNK_BYTES > self.max_bytes {
                    return Err(SnapshotError::EntryTooLarge { size, limit: self.max_bytes });
                }
                let full = out.len() + size > self.max_bytes.min(AIM_BYTES);
                if full && out.len() > empty_len {
                    break;
                }
                out = append(out, &Entry::of(&item, now));
                self.entries += 1;
            }
            self.left.pop();
        }
        drop(held);
        if out.len() == empty_len {
            return Ok(self.close(now));
        }
        self.chunks += 1;
        self.hash.update(&out);
        Ok(out.into())
    }

    fn close(&mut self, now: Time) -> Bytes {
        self.done = true;
        let trailer = Trailer { chunks: self.chunks, entries: self.entries, age_ns: self.age_ns(now) };
        let told = self.told(now);
        let mut out = append(begin(TRAILER, &trailer), &told);
        if !told.changed_nothing.is_empty() {
            out = append(out, &told.changed_nothing);
        }
        self.hash.update(&out);
        out.extend_from_slice(&self.hash.digest().to_le_bytes());
        out.into()
    }
}

impl Writer {
    fn told(&self, now: Time) -> Told {
        let most = self.max_bytes.saturating_sub(2 * AROUND_CHUNK_BYTES + CHECKSUM_BYTES) / TOLD_BYTES;
        let held = self.partition.read();
        let (newest, forgotten_until) = held.memory.newest(most);
        let told = newest.map(|one| (one.version, nanos(now.since(one.at)), one.executed));
        let (changed_nothing, writes) =
            told.partition(|(_, _, executed)| matches!(executed.outcome, Outcome::Nothing { .. }));
        Told { forgotten_ns: forgotten_until.map(|until| nanos(now.since(until))), writes, changed_nothing }
    }
}

impl Told {
    /// As it is held from `now` on, so long after it was told.
    fn at(self, now: Time, waited: Duration) -> Recalled {
        let ago = |ns: u64| now - Duration::from_nanos(ns).saturating_add(waited);
        let held = |(version, age_ns, executed)| Remembered { version, at: ago(age_ns), executed };
        let mut all: Vec<_> = self.writes.into_iter().chain(self.changed_nothing).map(held).collect();
        all.sort_unstable_by_key(|one| one.version);
        Recalled { all, forgotten_until: self.forgotten_ns.map(ago) }
    }
}

impl Recalled {
    pub(super) fn into_memory(self, memory: &mut Memory) {
        memory.take_in(self.all, self.forgotten_until);
    }
}

impl Iterator for Writer {
    type Item = Result<Bytes, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let chunk = self.write();
        self.done |= chunk.is_err();
        Some(chunk)
    }
}

impl<'a> Entry<'a> {
    fn of(item: &Item<'a>, now: Time) -> Self {
        Self {
            version: item.version,
            age_ns: nanos(item.written.age(now)),
            remaining_ns: item.remaining(now).map(nanos),
            content_type: item.content_type,
            key: item.key,
            value: item.value,
        }
    }
}

fn begin(tag: u8, head: &impl Serialize) -> Vec<u8> {
    append(vec![FORMAT, tag], head)
}

fn append(out: Vec<u8>, what: &impl Serialize) -> Vec<u8> {
    // Writing plain numbers and bytes to memory cannot fail; were it to, the reader would find the chunk damaged.
    postcard::to_extend(what, out).unwrap_or_default()
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A snapshot that is whole and intact.
pub(super) struct Checked<'a> {
    chunks: &'a [Bytes],
    age_ns: u64,
    told: Option<Told>,
}

/// Checks all chunks, so that nothing is installed of a snapshot that is not whole.
pub(super) fn check(chunks: &[Bytes]) -> Result<Checked<'_>, SnapshotError> {
    let Some((last, before)) = chunks.split_last() else { return Err(SnapshotError::Missing { expected: 0 }) };
    let (trailer, told) = check_trailer(last, before)?;
    let checked = Checked { chunks: before, age_ns: trailer.age_ns, told };
    let mut entries = 0;
    checked.for_each(Time::ZERO, Duration::ZERO, |_| {
        entries += 1;
        Ok(())
    })?;
    if entries != trailer.entries {
        let what = format!("{entries} entries were read, {} written", trailer.entries);
        return Err(SnapshotError::Damaged { position: before.len(), what });
    }
    Ok(checked)
}

fn check_trailer(last: &Bytes, before: &[Bytes]) -> Result<(Trailer, Option<Told>), SnapshotError> {
    let position = before.len();
    let damaged = |what: &str| SnapshotError::Damaged { position, what: what.to_owned() };
    // Cut off at the end: the last chunk that came is one of entries.
    let (trailer, told, checksum) = read_trailer(last, position)?;
    if trailer.chunks as usize != position {
        return Err(SnapshotError::Missing { expected: position.min(trailer.chunks as usize) });
    }
    let mut hash = Xxh3::new();
    before.iter().for_each(|chunk| hash.update(chunk));
    hash.update(&last[..last.len() - CHECKSUM_BYTES]);
    if hash.digest().to_le_bytes() != checksum {
        return Err(damaged("the checksum over all chunks differs"));
    }
    Ok((trailer, told))
}

/// A trailer, what it tells of named writes if it knows of such, and the checksum.
fn read_trailer(chunk: &Bytes, position: usize) -> Result<(Trailer, Option<Told>, &[u8]), SnapshotError> {
    let damaged = |what: String| SnapshotError::Damaged { position, what };
    let body = open(chunk, TRAILER, position)?;
    let split = body.len().checked_sub(CHECKSUM_BYTES).ok_or_else(|| damaged("it is too short".to_owned()))?;
    let (body, checksum) = body.split_at(split);
    let (trailer, rest) = postcard::take_from_bytes(body).map_err(|error| damaged(error.to_string()))?;
    if rest.is_empty() {
        return Ok((trailer, None, checksum));
    }
    let (mut told, rest): (Told, _) = postcard::take_from_bytes(rest).map_err(|error| damaged(error.to_string()))?;
    if !rest.is_empty() {
        // What is left of it are fields of a later release.
        told.changed_nothing = postcard::from_bytes(rest).map_err(|error| damaged(error.to_string()))?;
    }
    Ok((trailer, Some(told), checksum))
}

/// What a chunk, made so long ago, tells of the writes that came with a name: only a trailer does.
pub(super) fn recalled(chunk: &Bytes, now: Time, age: Duration) -> Result<Option<Recalled>, SnapshotError> {
    let [FORMAT, TRAILER, ..] = chunk.as_ref() else { return Ok(None) };
    let (_, told, _) = read_trailer(chunk, 0)?;
    Ok(told.map(|told| told.at(now, age)))
}

/// What follows format and tag.
fn open(chunk: &Bytes, tag: u8, position: usize) -> Result<&[u8], SnapshotError> {
    match chunk.as_ref() {
        [FORMAT, found, body @ ..] if *found == tag => Ok(body),
        [FORMAT, ..] => Err(SnapshotError::Missing { expected: position }),
        [format, ..] => Err(SnapshotError::UnknownFormat { position, format: *format }),
        [] => Err(SnapshotError::Damaged { position, what: "it is empty".to_owned() }),
    }
}

impl Checked<'_> {
    /// The writes that came with a name, as they are held from `now` on, `waited` after the last chunk was made.
    pub(super) fn recalled(&mut self, now: Time, waited: Duration) -> Option<Recalled> {
        self.told.take().map(|told| told.at(now, waited))
    }

    /// Gives out the entries as they are to be held from `now` on, `waited` after the last chunk was made; those whose
    /// time is over are given out expired.
    pub(super) fn for_each(
        &self,
        now: Time,
        waited: Duration,
        mut take: impl FnMut(Item<'_>) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        for (position, chunk) in self.chunks.iter().enumerate() {
            let (head, body) = chunk_head(chunk, position)?;
            let waited_ns = self.age_ns.saturating_sub(head.age_ns).saturating_add(nanos(waited));
            entries(body, position, now, waited_ns, &mut take)?;
        }
        Ok(())
    }
}

/// Number and age of a chunk of entries, and the entries.
fn chunk_head(chunk: &Bytes, position: usize) -> Result<(ChunkHead, &[u8]), SnapshotError> {
    let body = open(chunk, ENTRIES, position)?;
    let (head, rest): (ChunkHead, _) = postcard::take_from_bytes(body)
        .map_err(|error| SnapshotError::Damaged { position, what: error.to_string() })?;
    if head.number as usize != position {
        return Err(SnapshotError::Missing { expected: position });
    }
    Ok((head, rest))
}

fn entries(
    mut rest: &[u8],
    position: usize,
    now: Time,
    waited_ns: u64,
    mut take: impl FnMut(Item<'_>) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let damaged = |what: String| SnapshotError::Damaged { position, what };
    while !rest.is_empty() {
        let (entry, left): (Entry<'_>, _) =
            postcard::take_from_bytes(rest).map_err(|error| damaged(error.to_string()))?;
        rest = left;
        content_type::check_stored(entry.content_type).map_err(|error| damaged(error.message))?;
        let left = |remaining: u64| Duration::from_nanos(remaining.saturating_sub(waited_ns));
        let deadline = entry.remaining_ns.map_or(NEVER, |remaining| now + left(remaining));
        let written = Written::before(now, Duration::from_nanos(entry.age_ns.saturating_add(waited_ns)));
        let Entry { key, value, content_type, version, .. } = entry;
        take(Item { key, value, content_type, version, deadline, written })?;
    }
    Ok(())
}

/// Gives out the entries of one chunk, `age` after it was made; none of a trailer. For who takes the chunks in as they come: that
/// all of them have come, and as they were sent, is told elsewhere.
pub(super) fn each_entry(
    chunk: &Bytes,
    now: Time,
    age: Duration,
    take: impl FnMut(Item<'_>) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    if let [FORMAT, TRAILER, ..] = chunk.as_ref() {
        return Ok(());
    }
    let body = open(chunk, ENTRIES, 0)?;
    let (head, rest): (ChunkHead, _) = postcard::take_from_bytes(body)
        .map_err(|error| SnapshotError::Damaged { position: 0, what: error.to_string() })?;
    entries(rest, head.number as usize, now, nanos(age), take)
}
