//! Copies of other nodes' partitions: begun empty, filled with chunks of the owner's snapshot, then following its writes.
//!
//! A snapshot is made while writes go on: an entry in it may be newer than its beginning. All writes since its beginning follow
//! in their order, and what is older than what is there is passed over; so no trace of deleted entries is needed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::change::{Effect, Nameless, Unreadable};
use super::item::{Item, Written};
use super::once::{REMEMBERED_FOR, Remembered};
use super::partition::{Partition, Tenure};
use super::snapshot::{self, SnapshotError};
use super::stats::add;
use super::store::{Store, deadline, live_version};
use crate::replica::Change;
use crate::types::{PartitionId, Time, Version};

impl Store {
    /// Another node's from now on: what is held is a copy.
    pub(super) fn follow(&self, id: PartitionId) {
        if let Some(partition) = self.partition(id) {
            partition.write().follow();
        }
    }

    /// Does to a copy what the owner did, in the same order.
    pub(super) fn copy_changes(&self, id: PartitionId, changes: &[Change]) -> Result<(), Unreadable> {
        let now = self.clock().now();
        let partition = self.copy(id);
        for Change { version, made, body } in changes {
            let (effect, name) = Effect::decode(body)?;
            self.copy_change(&partition, effect, (*version, now.since(*made)), now);
            let memory = &mut partition.write().memory;
            match name {
                Ok(executed) => {
                    memory.is_named_from(*made);
                    if let Some(executed) = executed {
                        memory.remember(Remembered { version: *version, at: *made, executed });
                    }
                }
                Err(Nameless) => memory.is_nameless_until(*made),
            }
        }
        partition.write().memory.expire(now);
        Ok(())
    }

    fn copy_change(
        &self,
        partition: &Arc<Partition>,
        effect: Effect<'_>,
        (version, age): (Version, Duration),
        now: Time,
    ) {
        let ends = |ttl_ns: Option<u64>| deadline(ttl_ns.map(|ns| Duration::from_nanos(ns).saturating_sub(age)), now);
        match effect {
            Effect::Set { key, value, content_type, ttl_ns, age_ns } => {
                let of_value = age.saturating_add(Duration::from_nanos(age_ns));
                let (deadline, written) = (ends(ttl_ns), Written::before(now, of_value));
                self.copy_item(partition, &Item { key, value, content_type, version, deadline, written }, now);
            }
            Effect::Delete { key } => {
                let mut held = partition.write();
                if live_version(&held, key, now).is_some_and(|known| known < version) {
                    held.map.remove(key, now);
                }
            }
            Effect::Lifetime { key, ttl_ns } => {
                let mut held = partition.write();
                if live_version(&held, key, now).is_some_and(|known| known < version) {
                    let gone = held.map.change_lifetime(key, version, ends(ttl_ns), now);
                    self.counters.gone(gone);
                }
            }
        }
        partition.write().wrote(version);
    }

    /// Puts an entry of the owner's into a copy, unless a newer one is there. One that there is no room for is lost to the memory
    /// bound, like any evicted entry.
    fn copy_item(&self, partition: &Arc<Partition>, item: &Item<'_>, now: Time) {
        let newer = live_version(&partition.read(), item.key, now).is_some_and(|known| known >= item.version);
        if newer {
            return;
        }
        if item.is_expired(now) {
            partition.write().map.remove(item.key, now);
        } else if self.put(partition, item).is_err() {
            // What is there is older: better nothing than that.
            partition.write().map.remove(item.key, now);
            add(&self.counters.evicted, 1);
        }
    }

    /// Puts the entries of one chunk of an owner's snapshot, made so long ago, into a copy.
    pub(super) fn copy_chunk(&self, id: PartitionId, chunk: &Bytes, age: Duration) -> Result<(), SnapshotError> {
        let now = self.clock().now();
        let partition = self.copy(id);
        if let Some(recalled) = snapshot::recalled(chunk, now, age)? {
            let memory = &mut partition.write().memory;
            recalled.into_memory(memory);
            // As of a file that a process left, whose age is told by a clock which may have been set: what looks as old as that was
            // perhaps executed just now.
            if age > REMEMBERED_FOR {
                memory.is_blind_until(now);
            }
        }
        snapshot::each_entry(chunk, now, age, |item| {
            self.copy_item(&partition, &item, now);
            Ok(())
        })
    }

    /// An entry as it is held, whoever owns it.
    #[cfg(feature = "testing")]
    pub(super) fn held(&self, id: PartitionId, key: &[u8]) -> Option<(Version, Bytes)> {
        let (partition, now) = (self.partition(id)?, self.clock().now());
        let held = partition.read();
        held.map.look(key, now).map(|item| (item.version, Bytes::copy_from_slice(item.value)))
    }

    /// What the partition's entries weigh.
    pub(super) fn held_bytes(&self, id: PartitionId) -> Option<u64> {
        self.partition(id).map(|partition| partition.read().map.weight())
    }

    fn copy(&self, id: PartitionId) -> Arc<Partition> {
        self.partition(id).unwrap_or_else(|| self.install(id, Tenure::Copied))
    }
}
