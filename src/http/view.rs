//! What HTTP needs to know of its node, and how that reads as figures for metrics.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::cache::{CacheStats, Held};
use crate::metrics::{Figure, Gauges};
use crate::node::{PartitionState, Status, Suspended, Waits, WaitsFor};
use crate::types::{Epoch, NodeName, PartitionId};

/// Who owns a key, as far as is known here.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnerView {
    /// The key's partition.
    pub partition: PartitionId,
    /// Its owner; `None` while there is none.
    pub owner: Option<NodeName>,
    /// Its epoch.
    pub epoch: Epoch,
    /// Who has a copy in sync: the owner first.
    pub replicas: Vec<NodeName>,
    /// What the partition waits for where every copy of it is lost.
    pub waits: Option<Waits>,
    /// What the node that answers does while it is suspended; `None` where it is not.
    pub suspended: Option<Suspended>,
}

/// A node, as its front ends see it. Nothing here waits for the network.
pub trait NodeView: Send + Sync {
    /// This node's name.
    fn node(&self) -> NodeName;
    /// What it knows of itself and of the ring.
    fn status(&self) -> Status;
    /// Who owns a key.
    fn owner(&self, key: &[u8]) -> OwnerView;
    /// The cache in figures.
    fn cache_stats(&self) -> serde_json::Value;
    /// Whether what it asks of itself over NATS comes back within so long.
    fn reaches_itself(&self, within: Duration) -> BoxFuture<'_, bool>;
    /// Text for Prometheus: see [`Metrics::encode`](crate::metrics::Metrics::encode) and [`gauges`].
    fn metrics_text(&self) -> String;
}

/// The state of the moment for metrics: with the messages dropped and the requests sent again so far.
pub fn gauges(status: &Status, (dropped_messages, resends): (u64, u64), cache: Vec<Figure>) -> Gauges {
    Gauges {
        partitions: status.partitions.len(),
        owned_partitions: status.owned(),
        partitions_by_state: partitions_by_state(status),
        members_by_state: members_by_state(status),
        moves_under_way: status.moves.len(),
        under_replicated: status.under_replicated_here(),
        learners: status.learners(),
        copied_bytes: status.copied_bytes,
        difference_bytes: status.difference_bytes,
        waiting_partitions: waiting_partitions(status),
        plan_version: status.plan_version,
        lease_margin: status.lease_margin,
        suspended: status.suspended.is_some(),
        suspension_margin: status.suspended.map_or(0.0, |suspended| suspended.remaining_seconds),
        ready: status.not_ready.is_none(),
        dropped_messages,
        resends,
        cache,
    }
}

const HELD_ENTRIES_HELP: &str =
    "Entries held, of partitions that this node owns and of copies that it keeps for others";
const HELD_BYTES_HELP: &str =
    "What the entries weigh, of partitions that this node owns and of copies that it keeps for others";

/// The cache's figures for metrics.
pub fn cache_figures(stats: &CacheStats) -> Vec<Figure> {
    let held = |of: fn(&Held) -> u64| vec![("owned", of(&stats.owned) as f64), ("copied", of(&stats.copied) as f64)];
    vec![
        Figure::gauge("entries", "Entries held", stats.entries as f64),
        Figure::gauge("entries_with_ttl", "Entries held that have a time to live", stats.with_ttl as f64),
        Figure::gauge("bytes", "What the entries weigh, with the memory needed to keep them", stats.bytes as f64),
        Figure::gauges_by("held_entries", HELD_ENTRIES_HELP, "held_as", held(|held| held.entries)),
        Figure::gauges_by("held_bytes", HELD_BYTES_HELP, "held_as", held(|held| held.bytes)),
        Figure::gauge("capacity_bytes", "Bound on what the entries weigh", stats.capacity_bytes as f64),
        Figure::counter("hits", "Reads that found a live entry", stats.hits),
        Figure::counter("misses", "Reads that found none", stats.misses),
        Figure::counter("expired", "Entries whose time was over", stats.expired),
        Figure::counter("evicted", "Live entries that had to make room", stats.evicted),
        Figure::counter("failures", "Requests answered with an error", stats.failures),
    ]
}

fn waiting_partitions(status: &Status) -> Vec<(&'static str, usize)> {
    let count = |what| status.waiting().filter(|(_, waits)| waits.what == what).count();
    vec![("empty_start", count(WaitsFor::EmptyStart)), ("acceptance", count(WaitsFor::Acceptance))]
}

fn partitions_by_state(status: &Status) -> Vec<(&'static str, usize)> {
    let states = [
        (PartitionState::Unowned, "unowned"),
        (PartitionState::Starting, "starting"),
        (PartitionState::Serving, "serving"),
        (PartitionState::Moving, "moving"),
        (PartitionState::Orphaned, "orphaned"),
    ];
    let count = |state| status.partitions.iter().filter(|p| p.state == state).count();
    states.into_iter().map(|(state, name)| (name, count(state))).collect()
}

/// How many members are in which state, the well-known states first, also where they are none.
pub(super) fn members_by_state(status: &Status) -> Vec<(&'static str, usize)> {
    let mut counts: Vec<(&'static str, usize)> =
        ["joining", "active", "draining", "left", "unreachable"].map(|state| (state, 0)).into();
    for member in &status.members {
        match counts.iter_mut().find(|(state, _)| *state == member.state) {
            Some((_, count)) => *count += 1,
            None => counts.push((member.state, 1)),
        }
    }
    counts
}
