//! The partitions held by this node, their entries, and the memory they share.
//!
//! Locks, in this order, and never two partitions at once: budget, table, partition. None is held over an await.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::budget::Budget;
use super::change::Effect;
use super::condition::Condition;
use super::item::{DEADLINE_BYTES, Item, NEVER, Written, heaviest};
use super::limits::{UNAVAILABLE, too_large};
use super::map::BoundedMap;
use super::once::Outcome;
use super::partition::{Held, Partition, Tenure};
use super::refused::Refused;
use super::stats::{self, CacheStats, Counters, add, read};
use super::write::Write;
use crate::service::{Grant, Memory, ServiceError};
use crate::types::{Chance, Clock, PartitionId, Time, Version};

/// Expired entries that are looked for before live ones are evicted.
const SWEPT_BEFORE_EVICTION: usize = 32;
/// Entries taken out of one partition at a time: the longest that sweeping keeps requests waiting.
const SWEPT_AT_ONCE: usize = 256;

type Table = BTreeMap<PartitionId, Arc<Partition>>;

/// A value to be stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewValue<'a> {
    pub(super) bytes: &'a [u8],
    /// Empty for JSON.
    pub(super) content_type: &'a [u8],
    pub(super) ttl: Option<Duration>,
}

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) version: Version,
    /// There was none before.
    pub(super) created: bool,
}

impl Stored {
    /// By a write that comes again.
    pub(super) fn before((version, outcome): (Version, Outcome)) -> Self {
        Self { version, created: outcome == Outcome::Stored { created: true } }
    }
}

pub(super) struct Store {
    bound_bytes: u64,
    clock: Arc<dyn Clock>,
    /// For the seeds of the maps.
    chance: Chance,
    table: RwLock<Table>,
    budget: Mutex<Budget>,
    /// How often memory became free for others to take.
    freed: AtomicU64,
    /// The partition swept last.
    swept_last: Mutex<Option<PartitionId>>,
    pub(super) counters: Counters,
}

impl Store {
    pub(super) fn new(bound_bytes: u64, clock: Arc<dyn Clock>, chance: Chance) -> Self {
        Self {
            bound_bytes,
            clock,
            chance,
            table: RwLock::default(),
            budget: Mutex::new(Budget::new(bound_bytes)),
            freed: AtomicU64::new(0),
            swept_last: Mutex::new(None),
            counters: Counters::default(),
        }
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Reads the live entry with this key, if there is one; `answer` is made of it before it can change. The version is that of
    /// the write which the answer goes back to: where there is no entry, of the last write of all.
    pub(super) fn get<T>(
        &self,
        grant: &Grant,
        key: &[u8],
        answer: impl FnOnce(Option<Item<'_>>, Time) -> T,
    ) -> Result<(T, Version), ServiceError> {
        let now = self.clock.now();
        let partition = self.partition(grant.partition).ok_or_else(|| not_held(grant))?;
        let held = partition.read();
        ensure_serving(&held, grant)?;
        let found = held.map.get(key, now);
        add(if found.is_some() { &self.counters.hits } else { &self.counters.misses }, 1);
        let version = found.map_or(held.last_version(), |item| item.version);
        Ok((answer(found, now), version))
    }

    /// Like [`Store::get`], but it counts neither as a read nor as a use.
    pub(super) fn inspect<T>(
        &self,
        grant: &Grant,
        key: &[u8],
        answer: impl FnOnce(Option<Item<'_>>, Time) -> T,
    ) -> Result<(T, Version), ServiceError> {
        let now = self.clock.now();
        let partition = self.partition(grant.partition).ok_or_else(|| not_held(grant))?;
        let held = partition.read();
        ensure_serving(&held, grant)?;
        let found = held.map.look(key, now);
        let version = found.map_or(held.last_version(), |item| item.version);
        Ok((answer(found, now), version))
    }

    /// Whether a write that comes now was executed before.
    pub(super) fn was_executed(&self, write: &Write<'_>) -> bool {
        let partition = self.partition(write.grant.partition);
        partition.is_some_and(|partition| matches!(write.executed_before(&partition.read()), Ok(Some(_))))
    }

    /// Stores a value in place of what is there, if the condition holds.
    pub(super) fn set(&self, write: &Write<'_>, value: NewValue<'_>, condition: &Condition) -> Result<Stored, Refused> {
        let Write { grant, key, .. } = *write;
        let content_len = key.len() + value.content_type.len() + value.bytes.len();
        self.ensure_can_ever_fit(content_len, value.bytes.len())?;
        let now = self.clock.now();
        let partition = self.partition(grant.partition).ok_or_else(|| not_held(grant))?;
        if !condition.is_none() || write.named.is_some() {
            // A first look, before others have to make room for what is refused anyway; the one below decides.
            let held = partition.read();
            ensure_serving(&held, grant)?;
            if let Some(executed) = write.executed_before(&held)? {
                return Ok(Stored::before(executed));
            }
            judge(&held, condition, live_version(&held, key, now))?;
        }
        self.prepare_room(&partition, heaviest(content_len), now);
        let mut held = partition.write();
        ensure_serving(&held, grant)?;
        if let Some(executed) = write.executed_before(&held)? {
            return Ok(Stored::before(executed));
        }
        let before = live_version(&held, key, now);
        judge(&held, condition, before)?;
        let created = before.is_none();
        let version = self.replace(&mut held, write, value, now, Outcome::Stored { created })?;
        Ok(Stored { version, created })
    }

    /// Puts a value in place of what is there: a write, under the partition's lock. Its version.
    pub(super) fn replace(
        &self,
        held: &mut Held,
        write: &Write<'_>,
        value: NewValue<'_>,
        now: Time,
        outcome: Outcome,
    ) -> Result<Version, ServiceError> {
        let Write { grant, key, .. } = *write;
        let version = held.next_version(grant.epoch());
        let NewValue { bytes: value, content_type, ttl } = value;
        let (deadline, written) = (deadline(ttl, now), Written::before(now, Duration::ZERO));
        self.insert(held, &Item { key, value, content_type, version, deadline, written }, now)?;
        let effect = Effect::Set { key, value, content_type, ttl_ns: ttl.map(nanos), age_ns: 0 };
        write.done(held, version, now, outcome, &effect);
        Ok(version)
    }

    /// Takes an entry out, if the condition holds for it; says whether a live one was there, and the version of the
    /// deletion.
    pub(super) fn delete(&self, write: &Write<'_>, condition: &Condition) -> Result<(bool, Version), Refused> {
        let (Write { grant, key, .. }, now) = (*write, self.clock.now());
        let partition = self.partition(grant.partition).ok_or_else(|| not_held(grant))?;
        let mut held = partition.write();
        ensure_serving(&held, grant)?;
        if let Some((version, outcome)) = write.executed_before(&held)? {
            return Ok((outcome == Outcome::Deleted { existed: true }, version));
        }
        if let Some(version) = live_version(&held, key, now) {
            judge(&held, condition, Some(version))?;
        }
        let version = held.next_version(grant.epoch());
        let removed = held.map.remove(key, now);
        let existed = removed == Some(true);
        write.done(&mut held, version, now, Outcome::Deleted { existed }, &Effect::Delete { key });
        add(&self.counters.expired, u64::from(removed == Some(false)));
        Ok((existed, version))
    }

    /// Gives an entry another time to live, from now on, or none, if the condition holds for it; its version from now on, or
    /// `None` where there is no entry, and the version that this answer goes back to. Value and age stay.
    pub(super) fn set_ttl(
        &self,
        write: &Write<'_>,
        ttl: Option<Duration>,
        condition: &Condition,
    ) -> Result<(Option<Version>, Version), Refused> {
        let (Write { grant, key, .. }, now) = (*write, self.clock.now());
        let partition = self.partition(grant.partition).ok_or_else(|| not_held(grant))?;
        if ttl.is_some() {
            self.prepare_room(&partition, DEADLINE_BYTES, now);
        }
        let mut held = partition.write();
        ensure_serving(&held, grant)?;
        match write.executed_before(&held)? {
            Some((version, Outcome::Nothing { entry })) => return Ok((entry, version)),
            Some((version, _)) => return Ok((Some(version), version)),
            None => {}
        }
        let Some(item) = held.map.look(key, now) else {
            let upto = write.changed_nothing(&mut held, now, None);
            return Ok((None, upto.unwrap_or(held.last_version())));
        };
        let (found, has_none) = (item.version, item.deadline == NEVER);
        judge(&held, condition, Some(found))?;
        if ttl.is_none() && has_none {
            let upto = write.changed_nothing(&mut held, now, Some(found));
            return Ok((Some(found), upto.unwrap_or(found)));
        }
        // To the copies it is the whole entry: what has ended at one of them lives on as here.
        let Item { value, content_type, .. } = item;
        let age_ns = nanos(item.written.age(now));
        let effect = Effect::Set { key, value, content_type, ttl_ns: ttl.map(nanos), age_ns };
        let change = write.change(Outcome::Lifetime, &effect);
        let version = held.next_version(grant.epoch());
        let gone = held.map.change_lifetime(key, version, deadline(ttl, now), now);
        write.changed(&mut held, version, now, change);
        self.counters.gone(gone);
        Ok((Some(version), version))
    }

    /// Begins a grant with the data that was restored or kept for it, else with none.
    pub(super) fn own(&self, grant: &Grant) {
        let now = self.clock.now();
        if self.partition(grant.partition).is_some_and(|partition| partition.write().begin(grant, now)) {
            return;
        }
        self.install(grant.partition, Tenure::Owned(grant.token.clone()));
    }

    /// An empty partition that waits for its grant to begin, to be filled with [`Store::put`].
    pub(super) fn begin_restore(&self, grant: &Grant) -> Arc<Partition> {
        self.install(grant.partition, Tenure::Restored(grant.token.clone()))
    }

    /// Puts in an entry with the version it has already.
    pub(super) fn put(&self, partition: &Arc<Partition>, item: &Item<'_>) -> Result<(), ServiceError> {
        let content_len = item.key.len() + item.content_type.len() + item.value.len();
        self.ensure_can_ever_fit(content_len, item.value.len())?;
        let now = self.clock.now();
        self.prepare_room(partition, item.weight(), now);
        self.insert(&mut partition.write(), item, now)
    }

    /// A partition whose entries are asked for, by its owner.
    pub(super) fn owned(&self, grant: &Grant) -> Result<Arc<Partition>, ServiceError> {
        let partition = self.partition(grant.partition).ok_or_else(|| not_held(grant))?;
        ensure_serving(&partition.read(), grant)?;
        Ok(partition)
    }

    /// Lets a partition go, with all its entries.
    pub(super) fn discard(&self, id: PartitionId) {
        let removed = self.take(id);
        self.free(id, removed);
    }

    /// Lets a partition go; its memory is for [`Store::free`] to free, which may take a while.
    pub(super) fn take(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.write_table().remove(&id)
    }

    /// Frees what was taken; only then its memory is there for others.
    pub(super) fn free(&self, id: PartitionId, taken: Option<Arc<Partition>>) {
        drop(taken);
        let mut budget = self.budget();
        if !self.read_table().contains_key(&id) {
            budget.remove(id);
            self.freed.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Takes out up to `max_entries` expired entries, partition after partition, going on where the last call ended;
    /// says how many. Memory that partitions no longer need is made free on the way.
    pub(super) fn sweep(&self, now: Time, max_entries: usize) -> usize {
        let mut swept = 0;
        for partition in self.partitions_to_sweep() {
            while swept < max_entries {
                let at_once = SWEPT_AT_ONCE.min(max_entries - swept);
                let found = partition.write().map.sweep(now, at_once);
                swept += found;
                if found < at_once {
                    break;
                }
            }
            partition.write().memory.expire(now);
            self.give_back(&partition, now);
            *self.swept_last.lock().unwrap_or_else(PoisonError::into_inner) = Some(partition.id);
            if swept >= max_entries {
                break;
            }
        }
        add(&self.counters.expired, swept as u64);
        swept
    }

    pub(super) fn memory(&self) -> Memory {
        Memory { bound_bytes: self.bound_bytes, evicted: read(&self.counters.evicted) }
    }

    pub(super) fn stats(&self) -> CacheStats {
        let (hits, misses) = (read(&self.counters.hits), read(&self.counters.misses));
        let mut stats = CacheStats {
            hits,
            misses,
            hit_rate: if hits == 0 { 0.0 } else { hits as f64 / (hits + misses) as f64 },
            expired: read(&self.counters.expired),
            evicted: read(&self.counters.evicted),
            failures: read(&self.counters.failures),
            capacity_bytes: self.bound_bytes,
            ..CacheStats::default()
        };
        for partition in self.read_table().values() {
            let held = partition.read();
            let (entries, with_ttl) = (held.map.len() as u64, held.map.with_deadline() as u64);
            let whose = if held.is_copy() { &mut stats.copied } else { &mut stats.owned };
            whose.add(stats::Held { entries, with_ttl, bytes: held.map.weight() });
        }
        let mut all = stats.owned;
        all.add(stats.copied);
        CacheStats { entries: all.entries, with_ttl: all.with_ttl, bytes: all.bytes, ..stats }
    }

    fn insert(&self, held: &mut Held, item: &Item<'_>, now: Time) -> Result<(), ServiceError> {
        let (gone, admitted) = held.map.insert(item, now);
        self.counters.gone(gone);
        if admitted {
            return Ok(());
        }
        // Between preparing and storing, another partition took the room.
        Err(ServiceError::new("overloaded", "the cache's memory is being divided anew; not stored, try again"))
    }

    pub(super) fn ensure_can_ever_fit(&self, content_len: usize, value_len: usize) -> Result<(), ServiceError> {
        let needed = BoundedMap::capacity_to_hold(heaviest(content_len));
        if needed <= self.bound_bytes {
            return Ok(());
        }
        let bound = self.bound_bytes;
        Err(too_large(format!(
            "field \"value\": with {value_len} bytes the entry needs {needed} bytes of memory, over the limit of {bound} \
             bytes that this node's cache may hold (--memory)"
        )))
    }

    /// Sees to it that an entry of this weight fits a partition: sweeps it, then lets it grow; what is still missing is
    /// evicted from it when the entry is put in.
    pub(super) fn prepare_room(&self, partition: &Arc<Partition>, weight: u64, now: Time) {
        let must = BoundedMap::capacity_to_hold(weight);
        let fits = |held: &Held| {
            let capacity = held.map.capacity();
            held.map.weight() + weight <= capacity && must <= capacity
        };
        if fits(&partition.read()) {
            return;
        }
        let mut held = partition.write();
        let swept = held.map.sweep(now, SWEPT_BEFORE_EVICTION);
        add(&self.counters.expired, swept as u64);
        let (fits, wanted, large) = (fits(&held), held.map.weight() + weight, must > held.map.capacity());
        drop(held);
        let in_vain = !large && *partition.refused_at() == Some(self.freed.load(Ordering::SeqCst));
        if !fits && !in_vain {
            self.grow(partition, wanted, must, now);
        }
    }

    fn grow(&self, partition: &Arc<Partition>, wanted: u64, must: u64, now: Time) {
        let mut budget = self.budget();
        let freed = self.freed.load(Ordering::SeqCst);
        let shrunk = budget.grow(partition.id, wanted.max(must), must);
        let capacity = budget.capacity(partition.id);
        for victim in shrunk.into_iter().filter_map(|id| self.partition(id)) {
            let gone = victim.write().map.resize(budget.capacity(victim.id), now);
            self.counters.gone(gone);
        }
        let mut held = partition.write();
        if capacity != held.map.capacity() {
            self.counters.gone(held.map.resize(capacity, now));
        }
        drop(held);
        *partition.refused_at() = (capacity < wanted).then_some(freed);
    }

    fn give_back(&self, partition: &Arc<Partition>, now: Time) {
        let mut budget = self.budget();
        let mut held = partition.write();
        self.counters.gone(held.map.shrink_tables(now));
        if budget.give_back(partition.id, held.map.weight()) {
            self.counters.gone(held.map.resize(budget.capacity(partition.id), now));
            self.freed.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Puts an empty partition in place of what is there.
    pub(super) fn install(&self, id: PartitionId, tenure: Tenure) -> Arc<Partition> {
        self.discard(id);
        let partition = Arc::new(Partition::new(id, tenure, self.chance.number(), self.clock.now()));
        let mut budget = self.budget();
        budget.add(id);
        self.freed.fetch_add(1, Ordering::SeqCst);
        self.write_table().insert(id, partition.clone());
        partition
    }

    /// All partitions, beginning after the one swept last.
    fn partitions_to_sweep(&self) -> Vec<Arc<Partition>> {
        let last = *self.swept_last.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.read_table();
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let before = last.map_or(Bound::Excluded(PartitionId::new(0)), Bound::Included);
        table
            .range((after, Bound::Unbounded))
            .chain(table.range((Bound::Unbounded, before)))
            .map(|(_, p)| p.clone())
            .collect()
    }

    pub(super) fn partition(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.read_table().get(&id).cloned()
    }

    fn read_table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_table(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn live_version(held: &Held, key: &[u8], now: Time) -> Option<Version> {
    held.map.look(key, now).map(|item| item.version)
}

fn judge(held: &Held, condition: &Condition, current: Option<Version>) -> Result<(), Refused> {
    condition.check(current).map_err(Refused::by(current.unwrap_or(held.last_version())))
}

pub(super) fn deadline(ttl: Option<Duration>, now: Time) -> Time {
    ttl.map_or(NEVER, |ttl| now + ttl)
}

pub(super) fn ensure_serving(held: &Held, grant: &Grant) -> Result<(), ServiceError> {
    if held.serves(grant.epoch()) { Ok(()) } else { Err(not_held(grant)) }
}

pub(super) fn not_held(grant: &Grant) -> ServiceError {
    let (partition, epoch) = (grant.partition, grant.epoch());
    ServiceError::new(UNAVAILABLE, format!("partition {partition} is not held here at epoch {epoch}"))
}
