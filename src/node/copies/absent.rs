//! What is kept for nodes that are away, of all partitions that are led here, within one bound: a node that is gone for good must not
//! cost the memory of those that live.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::led::Led;
use crate::types::{PartitionId, Time};

struct Held {
    led: Weak<Led>,
    /// The first of those waited for is given up then: what was kept for longest ends first.
    until: Time,
    bytes: usize,
}

/// What is kept, and its sum: this is looked at each turn of each partition.
#[derive(Default)]
struct All {
    of: BTreeMap<PartitionId, Held>,
    bytes: usize,
}

impl All {
    fn insert(&mut self, partition: PartitionId, held: Held) {
        self.remove(partition);
        self.bytes += held.bytes;
        self.of.insert(partition, held);
    }

    fn remove(&mut self, partition: PartitionId) -> Option<Held> {
        let held = self.of.remove(&partition)?;
        self.bytes -= held.bytes;
        Some(held)
    }
}

/// See the [module](self).
pub(super) struct Absent {
    max_bytes: usize,
    held: Mutex<All>,
}

impl Absent {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, held: Mutex::default() }
    }

    /// A partition's part may have changed. Beyond the bound what was kept for longest goes.
    pub(super) fn weigh(&self, led: &Arc<Led>) {
        let kept = led.kept_for_absent();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match kept {
            Some((until, bytes)) => held.insert(led.partition(), Held { led: Arc::downgrade(led), until, bytes }),
            None => _ = held.remove(led.partition()),
        }
        let mut beyond = Vec::new();
        while held.bytes > self.max_bytes {
            let longest = held.of.iter().filter(|(_, held)| held.bytes > 0).min_by_key(|(_, held)| held.until);
            let Some(partition) = longest.map(|(partition, _)| *partition) else { break };
            let Some(gone) = held.remove(partition) else { break };
            beyond.push((partition, gone));
        }
        drop(held);
        for (partition, Held { led, bytes, .. }) in beyond {
            tracing::info!(%partition, bytes, "what was kept for absent nodes is beyond its bound: let go");
            if let Some(led) = led.upgrade() {
                led.forget_absent();
            }
        }
    }

    /// A partition is led here no more.
    pub(super) fn end(&self, partition: PartitionId) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(partition);
    }
}
