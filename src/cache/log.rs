//! The bytes of a partition's entries: an append-only log in segments, compacted as entries go.
//!
//! The heap cannot serve a cache within a bound by itself: entries that stay, scattered over pages that are else empty,
//! keep those pages, and after a change in the sizes of values twice the memory was resident (measured with three
//! allocators). Here the records that stay are moved together, and whole segments go back to the heap.

use super::item::{Item, RECORD_HEAD_BYTES, rewrite_lifetime};
use crate::types::{Time, Version};

/// A log has about this many segments when it is full: few enough to be allocated in large blocks, enough for the one
/// being filled and the one being emptied not to matter.
const SEGMENTS: u64 = 64;
const SEGMENT_BYTES_LEAST: u64 = 4 * 1024;
const SEGMENT_BYTES_MOST: u64 = 256 * 1024;
/// Records larger than this part of a segment have one to themselves, so that segments end well filled.
const OWN_SEGMENT_PART: usize = 8;
/// Dead bytes are left where they are up to this part of the live ones: the more, the less is copied.
const DEAD_PART: u64 = 12;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    segment: u32,
    offset: u32,
    len: u32,
}

impl Place {
    /// Length of the record.
    pub(super) fn len(self) -> u64 {
        u64::from(self.len)
    }
}

#[derive(Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    live: usize,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    segments: Vec<Segment>,
    /// Indexes of segments that hold nothing.
    vacant: Vec<u32>,
    /// The one being filled.
    open: Option<u32>,
    live: u64,
    /// Bytes of dead records in segments that also have live ones.
    dead: u64,
    segment_bytes: usize,
}

impl Log {
    /// Fits the size of further segments to the memory the log may have.
    pub(super) fn size_for(&mut self, capacity: u64) {
        let size = (capacity / SEGMENTS).clamp(SEGMENT_BYTES_LEAST, SEGMENT_BYTES_MOST);
        self.segment_bytes = size.next_power_of_two() as usize;
    }

    /// Adds a record.
    pub(super) fn append(&mut self, item: &Item<'_>) -> Place {
        let len = item.record_len();
        let index = self.segment_for(len);
        let segment = &mut self.segments[index as usize];
        let offset = segment.bytes.len() as u32;
        item.write(&mut segment.bytes);
        segment.live += len;
        self.live += len as u64;
        Place { segment: index, offset, len: len as u32 }
    }

    /// The record at a place that was not released.
    pub(super) fn read(&self, place: Place) -> Item<'_> {
        let from = place.offset as usize;
        Item::read(&self.segments[place.segment as usize].bytes[from..from + place.len as usize])
    }

    /// Gives the record there another version and end.
    pub(super) fn rewrite_lifetime(&mut self, place: Place, version: Version, deadline: Time) {
        let from = place.offset as usize;
        let record = &mut self.segments[place.segment as usize].bytes[from..from + place.len as usize];
        rewrite_lifetime(record, version, deadline);
    }

    /// The record there is dead. A segment without live records is given back.
    pub(super) fn release(&mut self, place: Place) {
        let segment = &mut self.segments[place.segment as usize];
        segment.live -= place.len as usize;
        self.live -= place.len();
        self.dead += place.len();
        if segment.live == 0 {
            self.vacate(place.segment);
        }
    }

    /// Gives out the emptiest segment while there are too many dead bytes, for its live records to be put back in with
    /// [`Log::append`]; the places of all its records are void.
    pub(super) fn take_sparse(&mut self) -> Option<Taken> {
        // Measured in dead records, not in free room, so that each segment given out brings the end nearer.
        if self.dead <= self.live / DEAD_PART + self.segment_bytes as u64 {
            return None;
        }
        let index = (0..self.segments.len() as u32)
            .filter(|index| Some(*index) != self.open && self.dead_in(*index) > 0)
            .max_by_key(|index| self.dead_in(*index))?;
        let live = self.segments[index as usize].live as u64;
        let bytes = self.vacate(index);
        self.live -= live;
        Some(Taken { segment: index, bytes })
    }

    fn dead_in(&self, index: u32) -> usize {
        let segment = &self.segments[index as usize];
        segment.bytes.len() - segment.live
    }

    fn vacate(&mut self, index: u32) -> Vec<u8> {
        self.dead -= self.dead_in(index) as u64;
        let segment = std::mem::take(&mut self.segments[index as usize]);
        if self.open == Some(index) {
            self.open = None;
        }
        self.vacant.push(index);
        segment.bytes
    }

    /// A segment with room for a record of this length.
    fn segment_for(&mut self, len: usize) -> u32 {
        if len > self.segment_bytes / OWN_SEGMENT_PART {
            return self.add_segment(len);
        }
        if let Some(open) = self.open {
            let bytes = &self.segments[open as usize].bytes;
            if bytes.capacity() - bytes.len() >= len {
                return open;
            }
        }
        let index = self.add_segment(self.segment_bytes);
        self.open = Some(index);
        index
    }

    fn add_segment(&mut self, bytes: usize) -> u32 {
        let segment = Segment { bytes: Vec::with_capacity(bytes), live: 0 };
        if let Some(index) = self.vacant.pop() {
            self.segments[index as usize] = segment;
            return index;
        }
        self.segments.push(segment);
        (self.segments.len() - 1) as u32
    }
}

/// A segment taken out of the log.
#[derive(Debug)]
pub(super) struct Taken {
    segment: u32,
    bytes: Vec<u8>,
}

impl Taken {
    /// All its records, dead ones included, with the places they had.
    pub(super) fn records(&self) -> impl Iterator<Item = (Place, Item<'_>)> {
        let mut offset = 0;
        std::iter::from_fn(move || {
            let rest = &self.bytes[offset..];
            if rest.len() < RECORD_HEAD_BYTES {
                return None;
            }
            let item = Item::read(rest);
            let place = Place { segment: self.segment, offset: offset as u32, len: item.record_len() as u32 };
            offset += item.record_len();
            Some((place, item))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::cache::item::{NEVER, Written};

    fn item<'a>(key: &'a [u8], value: &'a [u8]) -> Item<'a> {
        let written = Written::before(Time::ZERO, Duration::ZERO);
        Item { key, value, content_type: b"", version: Version::default(), deadline: NEVER, written }
    }

    fn compact(log: &mut Log, places: &mut HashMap<u8, (Place, usize)>) {
        while let Some(taken) = log.take_sparse() {
            for (place, item) in taken.records() {
                let (current, _) = places.get_mut(&item.key[0]).unwrap();
                if *current == place {
                    *current = log.append(&item);
                }
            }
        }
    }

    proptest! {
        /// Overwriting at random leaves dead bytes everywhere; they stay few, and what is live stays as it was.
        #[test]
        fn dead_bytes_stay_few_and_live_records_stay_whole(
            writes in prop::collection::vec((0u8..50, 0usize..3000), 1..600),
        ) {
            let (mut log, mut places) = (Log::default(), HashMap::new());
            log.size_for(0);
            for (key, len) in writes {
                let value = vec![key; len];
                let place = log.append(&item(&[key], &value));
                if let Some((old, _)) = places.insert(key, (place, len)) {
                    log.release(old);
                }
                compact(&mut log, &mut places);
                prop_assert!(log.dead <= log.live / DEAD_PART + log.segment_bytes as u64);
            }
            for (key, (place, len)) in &places {
                let (key, value) = ([*key], vec![*key; *len]);
                prop_assert_eq!(log.read(*place), item(&key, &value));
            }
            places.values().for_each(|(place, _)| log.release(*place));
            prop_assert_eq!((log.live, log.dead), (0, 0));
            prop_assert!(log.segments.iter().all(|segment| segment.bytes.capacity() == 0));
        }
    }
}
