//! The entries of one partition: a map bounded by weight, with an index by deadline.
//!
//! Eviction is CLOCK-Pro, close to S3-FIFO (crate `quick_cache`): an entry read or written again stays, one seen once
//! goes first. It reads no clock and draws no random numbers; expiry is done here, on the moments passed in.

use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::unsync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::deadlines::Deadlines;
use super::item::{Item, NEVER, weight_of_record};
use super::log::{Log, Place};
use crate::types::{Time, Version};

/// The part of the capacity that entries seen again may fill; the rest is where new ones prove themselves.
const HOT_SHARE: f64 = 0.9;
/// Weight of an entry while none is known, to guess how many evicted keys are worth remembering.
const ASSUMED_WEIGHT: u64 = 1024;
/// Tables larger than this for each entry they are sized for are rebuilt (they never shrink by themselves).
const TABLE_BYTES_PER_ENTRY: usize = 96;
/// Below this, tables are not worth rebuilding.
const TABLE_BYTES_IGNORED: usize = 32 * 1024;
/// Each change of capacity rounds the number of remembered keys down; after this many it is set anew.
const RESIZES_UNTIL_REBUILD: u32 = 256;

/// A key in the tables: 128 bits of its hash, seeded per map. The record has the key itself and is compared; should two
/// keys ever agree, the one written later takes the place of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KeyDigest([u64; 2]);

/// An entry in the tables.
#[derive(Debug, Clone, Copy)]
struct Slot {
    place: Place,
    has_deadline: bool,
}

struct ByWeight;

impl Weighter<KeyDigest, Slot> for ByWeight {
    fn weight(&self, _digest: &KeyDigest, slot: &Slot) -> u64 {
        weight_of_record(slot.place.len(), slot.has_deadline)
    }
}

/// Collects what the policy let go, so that counters, log and the index by deadline can follow. Shared, because changing
/// the capacity reports to nobody else; never contended, because the map has one user at a time.
#[derive(Clone, Default)]
struct Collect(Arc<Mutex<Vec<(KeyDigest, Slot)>>>);

impl Collect {
    fn take(&self) -> Vec<(KeyDigest, Slot)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Lifecycle<KeyDigest, Slot> for Collect {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), digest: KeyDigest, slot: Slot) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((digest, slot));
    }
}

/// Secret, against chosen keys; nothing that can be observed depends on it.
#[derive(Clone, Copy)]
struct Seeded(u64);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

type Entries = Cache<KeyDigest, Slot, ByWeight, Seeded, Collect>;

/// How many entries went, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Gone {
    /// Alive, for want of room.
    pub(super) evicted: u64,
    /// At the end of their time.
    pub(super) expired: u64,
}

impl Gone {
    fn count(&mut self, expired: bool) {
        if expired { self.expired += 1 } else { self.evicted += 1 }
    }
}

pub(super) struct BoundedMap {
    entries: Entries,
    log: Log,
    out: Collect,
    deadlines: Deadlines,
    seed: u64,
    capacity: u64,
    built_for: u64,
    resizes: u32,
}

impl BoundedMap {
    /// An empty map that holds nothing until it is resized. Its hashes are seeded.
    pub(super) fn new(seed: u64) -> Self {
        let out = Collect::default();
        Self {
            entries: build(1, ASSUMED_WEIGHT, seed, out.clone()),
            log: Log::default(),
            out,
            deadlines: Deadlines::default(),
            seed,
            capacity: 0,
            built_for: 0,
            resizes: 0,
        }
    }

    /// The least capacity at which an entry of this weight is admitted.
    pub(super) fn capacity_to_hold(weight: u64) -> u64 {
        weight + weight / 8 + 1
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn weight(&self) -> u64 {
        self.entries.weight()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn with_deadline(&self) -> usize {
        self.deadlines.len()
    }

    /// The live entry with this key.
    pub(super) fn get(&self, key: &[u8], now: Time) -> Option<Item<'_>> {
        let slot = self.entries.get(&self.digest(key))?;
        Some(self.log.read(slot.place)).filter(|item| item.key == key && !item.is_expired(now))
    }

    /// The live entry with this key; does not count as a use of it.
    pub(super) fn look(&self, key: &[u8], now: Time) -> Option<Item<'_>> {
        self.peek(self.digest(key), now).filter(|item| item.key == key)
    }

    /// What all entries are found by with [`BoundedMap::peek`], in no particular order.
    pub(super) fn digests(&self) -> Vec<KeyDigest> {
        self.entries.iter().map(|(digest, _)| *digest).collect()
    }

    /// An entry if it still lives; does not count as a use of it.
    pub(super) fn peek(&self, digest: KeyDigest, now: Time) -> Option<Item<'_>> {
        let slot = self.entries.peek(&digest)?;
        Some(self.log.read(slot.place)).filter(|item| !item.is_expired(now))
    }

    /// Puts an entry in, in place of the one with the same key; says what had to go for it, and whether it stayed.
    pub(super) fn insert(&mut self, item: &Item<'_>, now: Time) -> (Gone, bool) {
        let mut gone = Gone::default();
        let digest = self.digest(item.key);
        // An entry that grows where it is can push itself out; put in anew, room is made for it first.
        let (mut admitted, replaced) = self.insert_once(digest, item, now, &mut gone);
        if !admitted {
            (admitted, _) = self.insert_once(digest, item, now, &mut gone);
            // There is neither: the one it was to replace is gone for want of room.
            gone.evicted += u64::from(replaced && !admitted);
        }
        if admitted && item.deadline != NEVER {
            self.deadlines.add(item.deadline, digest);
        }
        self.tidy();
        (gone, admitted)
    }

    /// Whether it stayed, and whether a live one with its key went for it.
    fn insert_once(&mut self, digest: KeyDigest, item: &Item<'_>, now: Time, gone: &mut Gone) -> (bool, bool) {
        let place = self.log.append(item);
        self.entries.insert(digest, Slot { place, has_deadline: item.deadline != NEVER });
        let (mut admitted, mut replaced) = (true, false);
        for (old_digest, old) in self.out.take() {
            if old.place == place {
                admitted = false;
                self.log.release(place);
                continue;
            }
            let expired = self.forget(old, now);
            // The entry it replaces was not evicted.
            if old_digest != digest || expired {
                gone.count(expired);
            } else {
                replaced = true;
            }
        }
        (admitted, replaced)
    }

    /// Takes an entry out; `Some(true)` where a live one was there, `Some(false)` an expired one.
    pub(super) fn remove(&mut self, key: &[u8], now: Time) -> Option<bool> {
        let digest = self.digest(key);
        let slot = *self.entries.peek(&digest)?;
        if self.log.read(slot.place).key != key {
            return None;
        }
        self.entries.remove(&digest);
        let expired = self.forget(slot, now);
        self.tidy();
        Some(!expired)
    }

    /// Gives the live entry with this key, if there is one, another version and end; counts as a use of it. Says what had to
    /// go where it has become heavier than the room there is.
    pub(super) fn change_lifetime(&mut self, key: &[u8], version: Version, deadline: Time, now: Time) -> Gone {
        if self.look(key, now).is_none() {
            return Gone::default();
        }
        let digest = self.digest(key);
        if let Some(mut slot) = self.entries.get_mut(&digest) {
            if slot.has_deadline {
                self.deadlines.forget_one();
            }
            self.log.rewrite_lifetime(slot.place, version, deadline);
            slot.has_deadline = deadline != NEVER;
        }
        if deadline != NEVER {
            self.deadlines.add(deadline, digest);
        }
        if self.weight() > self.capacity {
            return self.resize(self.capacity, now);
        }
        self.tidy();
        Gone::default()
    }

    /// Takes out up to `max_entries` expired entries, the longest expired first, and says how many.
    pub(super) fn sweep(&mut self, now: Time, max_entries: usize) -> usize {
        let mut swept = 0;
        while swept < max_entries {
            let Some((deadline, digest)) = self.deadlines.pop_due(now) else { break };
            if let Some(slot) = self.entries.peek(&digest).copied()
                && self.log.read(slot.place).deadline == deadline
            {
                self.entries.remove(&digest);
                self.forget(slot, now);
                swept += 1;
            }
        }
        self.tidy();
        swept
    }

    /// Changes the capacity, evicting what no longer fits.
    pub(super) fn resize(&mut self, capacity: u64, now: Time) -> Gone {
        self.capacity = capacity;
        self.resizes += 1;
        self.log.size_for(capacity);
        let grows_far = capacity > self.built_for.saturating_mul(2);
        if !grows_far {
            self.entries.set_capacity(capacity.max(1));
        }
        let shrank_far = capacity < self.built_for / 2;
        if grows_far || shrank_far || self.resizes >= RESIZES_UNTIL_REBUILD || self.tables_too_large() {
            self.rebuild();
        }
        self.account_out(now)
    }

    /// Gives back tables that have become far too large for what they hold.
    pub(super) fn shrink_tables(&mut self, now: Time) -> Gone {
        if self.tables_too_large() {
            self.rebuild();
        }
        self.account_out(now)
    }

    fn account_out(&mut self, now: Time) -> Gone {
        let mut gone = Gone::default();
        for (_, slot) in self.out.take() {
            gone.count(self.forget(slot, now));
        }
        self.tidy();
        gone
    }

    /// Takes what is no longer in the tables out of index and log; says whether it had expired.
    fn forget(&mut self, slot: Slot, now: Time) -> bool {
        let item = self.log.read(slot.place);
        let expired = item.is_expired(now);
        if slot.has_deadline {
            self.deadlines.forget_one();
        }
        self.log.release(slot.place);
        expired
    }

    /// Clears away deadlines that count no longer, and moves live records out of sparse segments, so that these go back
    /// to the heap.
    fn tidy(&mut self) {
        if self.deadlines.is_mostly_stale() {
            let (entries, log) = (&self.entries, &self.log);
            self.deadlines.retain(|deadline, digest| {
                entries.peek(&digest).is_some_and(|slot| log.read(slot.place).deadline == deadline)
            });
        }
        while let Some(taken) = self.log.take_sparse() {
            for (place, item) in taken.records() {
                let digest = self.digest(item.key);
                let is_live = self.entries.peek(&digest).is_some_and(|slot| slot.place == place);
                if is_live && let Some(mut slot) = self.entries.peek_mut(&digest) {
                    slot.place = self.log.append(&item);
                }
            }
        }
    }

    fn digest(&self, key: &[u8]) -> KeyDigest {
        let hash = xxh3_128_with_seed(key, self.seed);
        KeyDigest([hash as u64, (hash >> 64) as u64])
    }

    fn tables_too_large(&self) -> bool {
        // With half as many evicted keys remembered as entries would fit.
        let sized_for = self.entries.len() + to_remember(self.capacity, self.average_weight());
        self.entries.memory_used().total() > TABLE_BYTES_IGNORED + TABLE_BYTES_PER_ENTRY * sized_for
    }

    fn average_weight(&self) -> u64 {
        self.weight().checked_div(self.len() as u64).unwrap_or(ASSUMED_WEIGHT)
    }

    /// Moves all entries into tables made for the present capacity and the entries' average weight.
    fn rebuild(&mut self) {
        let entries = build(self.capacity, self.average_weight(), self.seed, self.out.clone());
        let mut old = std::mem::replace(&mut self.entries, entries);
        for (digest, slot) in old.drain() {
            self.entries.insert(digest, slot);
        }
        (self.built_for, self.resizes) = (self.capacity, 0);
    }
}

/// How many evicted keys are worth remembering: half as many as entries fit.
fn to_remember(capacity: u64, average_weight: u64) -> usize {
    (usize::try_from(capacity / average_weight.max(1)).unwrap_or(usize::MAX) / 2).max(32)
}

fn build(capacity: u64, average_weight: u64, seed: u64, out: Collect) -> Entries {
    let remembered = to_remember(capacity, average_weight);
    let options = OptionsBuilder::new()
        .estimated_items_capacity(remembered)
        .weight_capacity(capacity.max(1))
        .hot_allocation(HOT_SHARE)
        .ghost_allocation(1.0)
        .build();
    match options {
        Ok(options) => Cache::with_options(options, ByWeight, Seeded(seed), out),
        // Only missing figures are refused; both are given above.
        Err(_) => Cache::with(remembered, capacity.max(1), ByWeight, Seeded(seed), out),
    }
}

impl fmt::Debug for BoundedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedMap").field("entries", &self.len()).field("weight", &self.weight()).finish()
    }
}
