//! The service of the world: a map of small keys, each entry with the version that wrote it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::replica::{Apply, Change};
use crate::types::Version;
use crate::types::guard::{Guard, holds};

/// What a write does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Op {
    Set { key: u8, value: i64, padding: Vec<u8> },
    Delete { key: u8 },
    Add { key: u8, amount: i64 },
}

impl Op {
    pub(super) fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).unwrap().into()
    }
}

pub(super) type Entries = BTreeMap<u8, (Version, i64)>;

/// What it holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Service {
    pub(super) entries: Entries,
}

impl Service {
    pub(super) fn apply(&mut self, apply: &Apply) {
        match apply {
            Apply::Clear => self.entries.clear(),
            Apply::Changes(changes) => changes.iter().for_each(|change| self.change(change)),
            Apply::Chunk { body, .. } => {
                for (key, version, value) in postcard::from_bytes::<Vec<(u8, Version, i64)>>(body).unwrap() {
                    let newer = self.entries.get(&key).is_none_or(|(existing, _)| *existing < version);
                    if newer || !holds(Guard::NewestWins) {
                        self.entries.insert(key, (version, value));
                    }
                }
            }
        }
    }

    pub(super) fn change(&mut self, change: &Change) {
        let op: Op = postcard::from_bytes(&change.body).unwrap();
        let (Op::Set { key, .. } | Op::Delete { key } | Op::Add { key, .. }) = op;
        let existing = self.entries.get(&key).copied();
        if existing.is_some_and(|(version, _)| version >= change.version) && holds(Guard::NewestWins) {
            return;
        }
        match op {
            Op::Set { value, .. } => self.entries.insert(key, (change.version, value)),
            Op::Delete { .. } => self.entries.remove(&key),
            Op::Add { amount, .. } => {
                self.entries.insert(key, (change.version, existing.map_or(0, |(_, value)| value) + amount))
            }
        };
    }

    /// The next few entries of a snapshot, as they are now, and the key that it goes on with.
    pub(super) fn chunk(&self, from: u8, most: usize) -> (Bytes, Option<u8>) {
        let mut rest = self.entries.range(from..);
        let entries: Vec<_> =
            rest.by_ref().take(most).map(|(key, (version, value))| (*key, *version, *value)).collect();
        (postcard::to_stdvec(&entries).unwrap().into(), rest.next().map(|(key, _)| *key))
    }
}
