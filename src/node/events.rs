//! Events out of the node: one log line each, and a bounded broadcast for whoever listens.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::ring::{Event, MemberChange, PlacesEnd};
use crate::types::NodeName;

/// Events kept for a listener that is slow; a slower one misses the oldest and is told how many.
const CAPACITY: usize = 1024;

/// Copies below both are debug lines: they come by the dozen when a node joins.
const LARGE_COPY_BYTES: u64 = 1_000_000;
const LONG_COPY: Duration = Duration::from_secs(1);

/// Takes events.
#[derive(Clone)]
pub(super) struct EventSender {
    node: NodeName,
    sender: broadcast::Sender<Arc<Event>>,
}

impl EventSender {
    /// Events of this node.
    pub(super) fn new(node: NodeName) -> Self {
        Self { node, sender: broadcast::channel(CAPACITY).0 }
    }

    /// Logs the event and tells all listeners.
    pub(super) fn emit(&self, event: Event) {
        log(&self.node, &event);
        // Nobody needs to listen.
        let _ = self.sender.send(Arc::new(event));
    }

    /// Listens from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.subscribe()
    }
}

/// One line per event that an operator would want; per-partition ones only at debug, they come 64 at a time.
fn log(node: &NodeName, event: &Event) {
    match event {
        Event::LeaseAcquired { incarnation } => tracing::info!(%node, %incarnation, "lease acquired"),
        Event::LeaseWaiting { at_most } => {
            tracing::info!(%node, ?at_most, "the name is held by an earlier start; waiting for its lease to run out");
        }
        Event::Suspended => {
            tracing::warn!(%node, "suspended: no heartbeat got through for 3/4 of a lease; serves only with what all copies confirm");
        }
        Event::Resumed { after } => tracing::info!(%node, ?after, "resumed: nobody had evicted this node"),
        Event::LeaseLost { reason } => tracing::warn!(%node, reason, "lease lost: owns nothing any more"),
        Event::Evicted { node: other, silent } => {
            tracing::warn!(%node, evicted = %other, ?silent, "evicted a silent node")
        }
        Event::Member { node: other, change } => {
            let change = match change {
                MemberChange::Joined => "joined",
                MemberChange::Draining => "drains",
                MemberChange::Gone => "is gone",
            };
            tracing::info!(%node, member = %other, "member {change}");
        }
        Event::PlacesKept { node: other, places, within } => {
            tracing::info!(%node, away = %other, places, ?within, "its places among the copies are kept: it may come back");
        }
        Event::PlacesEnded { node: other, end: PlacesEnd::Returned } => {
            tracing::info!(%node, back = %other, "back in its places among the copies");
        }
        Event::PlacesEnded { node: other, end: PlacesEnd::GivenUp } => {
            tracing::info!(%node, away = %other, "its places among the copies are kept no longer: others get them");
        }
        Event::Coordinating(true) => tracing::info!(%node, "this node writes the plan now"),
        Event::Coordinating(false) => tracing::info!(%node, "another node writes the plan now"),
        Event::Planned { version, members, moves } => tracing::info!(%node, version, members, moves, "plan written"),
        Event::Config { paused, cordoned, pins } => {
            let cordoned: Vec<&str> = cordoned.iter().map(NodeName::as_str).collect();
            tracing::info!(%node, paused, cordoned = cordoned.join(","), pins = pins.len(), "operators changed the configuration");
        }
        Event::ConfigRefused { reason } => {
            tracing::warn!(%node, reason, "the configuration is not usable; the last one that was stays in force");
        }
        Event::PlanFailed { reason } => tracing::error!(%node, reason, "no plan could be made"),
        Event::Owned { partition, epoch, origin } => tracing::debug!(%node, %partition, %epoch, ?origin, "owned"),
        Event::Released { partition, epoch, why } => tracing::debug!(%node, %partition, %epoch, ?why, "released"),
        Event::MoveStarted { partition, to } => tracing::debug!(%node, %partition, %to, "move started"),
        Event::MoveFinished { partition, to, pause, bytes } => {
            tracing::debug!(%node, %partition, %to, ?pause, bytes, "move finished");
        }
        Event::MoveAbandoned { partition, to, reason, pause } => {
            tracing::warn!(%node, %partition, %to, reason, ?pause, "move abandoned; it will be tried again");
        }
        Event::ReplicaAdded { partition, node: replica } => {
            tracing::debug!(%node, %partition, %replica, "replica in sync");
        }
        Event::ReplicaRemoved { partition, node: replica, why } => {
            tracing::debug!(%node, %partition, %replica, ?why, "replica no longer in sync");
        }
        Event::CopyStarted { partition, to, of_bytes } => {
            if of_bytes.is_some_and(|bytes| bytes >= LARGE_COPY_BYTES) {
                tracing::info!(%node, %partition, %to, ?of_bytes, "copy started");
            } else {
                tracing::debug!(%node, %partition, %to, ?of_bytes, "copy started");
            }
        }
        Event::CopyDone { partition, to, bytes, took } => {
            if *bytes >= LARGE_COPY_BYTES || *took >= LONG_COPY {
                tracing::info!(%node, %partition, %to, bytes, ?took, "copy done");
            } else {
                tracing::debug!(%node, %partition, %to, bytes, ?took, "copy done");
            }
        }
        Event::CopyFailed { partition, to, bytes, reason } => {
            tracing::info!(%node, %partition, %to, bytes, reason, "copy given up");
        }
        Event::CopyShort { partition, to, evicted, wanted_bytes, bound_bytes } => {
            tracing::warn!(
                %node, %partition, %to, evicted, wanted_bytes, bound_bytes,
                "memory is short where a copy is kept: live entries made room for it; give that node more --memory"
            );
        }
        Event::Recovering { partition } => tracing::debug!(%node, %partition, "taken over; gathering its state"),
        Event::RecoveryFailed { partition, reason } => {
            tracing::error!(%node, %partition, reason, "the copy here cannot be gone on with; given back");
        }
        Event::Lost { partition, accepted: true } => {
            tracing::error!(%node, %partition, "no copy survived: the partition starts empty");
        }
        Event::Lost { partition, accepted: false } => {
            tracing::error!(%node, %partition, "no copy survived: the partition waits until the loss is accepted");
        }
        Event::StartsEmptyLater { partition, after } => {
            tracing::error!(%node, %partition, ?after, "no copy survived, or those that did are cut off: it starts empty then");
        }
        Event::FormerSets { missing, after } => {
            let missing = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            tracing::warn!(%node, missing, ?after, "the store went back: nothing is planned before all are here, or so long");
        }
        Event::HookFailed { hook, partitions, reason } => {
            tracing::warn!(%node, hook, partitions = %list(partitions), reason, "hook failed");
        }
        Event::HookSlow { hook, partitions, running } => {
            tracing::warn!(%node, hook, partitions = %list(partitions), ?running, "hook runs for long");
        }
        Event::HookHung { hook, partitions, limit } => {
            tracing::error!(%node, hook, partitions = %list(partitions), ?limit, "hook met its limit: giving up the lease");
        }
        Event::Draining => tracing::info!(%node, "draining"),
        Event::Left => tracing::info!(%node, "left the ring"),
        Event::TaskRestarted { task, reason, restarts } => {
            tracing::warn!(%node, task, reason, restarts, "background task restarted");
        }
    }
}

fn list(partitions: &[crate::types::PartitionId]) -> String {
    let shown: Vec<String> = partitions.iter().take(8).map(ToString::to_string).collect();
    let more = partitions.len().saturating_sub(8);
    if more == 0 { shown.join(",") } else { format!("{} and {more} more", shown.join(",")) }
}
