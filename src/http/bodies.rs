//! The JSON of what a node shows of itself and of the ring: `/owner`, `/stats`, `/ring`, `/health?scope=ring`.
//!
//! The same over NATS: `<ring>.owner`, `<ring>.stats` and `<ring>.ring` are answered with these bodies. Fields come in
//! the order in which people want to read them.

use serde::Serialize;
use serde_json::{Value, json};

use super::view::{NodeView, OwnerView, members_by_state};
use crate::node::{MemberStatus, MoveStatus, PartitionState, PartitionStatus, Phase, PlacesKept, Status};
use crate::types::{CopyRules, Epoch, NodeName, PartitionId};

#[derive(Serialize)]
struct Owner<'a> {
    key: &'a str,
    partition: PartitionId,
    owner: Option<NodeName>,
    is_local: bool,
    this_node: NodeName,
    epoch: Epoch,
    replicas: Vec<NodeName>,
}

#[derive(Serialize)]
struct Stats<'a> {
    cache: Value,
    ring: RingStats<'a>,
    node: NodeStats<'a>,
}

#[derive(Serialize)]
struct RingStats<'a> {
    name: &'a str,
    plan_version: u64,
    partitions: usize,
    owned: usize,
    not_served: usize,
    under_replicated: usize,
    #[serde(flatten)]
    rules: CopyRules,
    members: &'a [MemberStatus],
    members_by_state: Value,
    zones: Vec<&'a str>,
    moves: Vec<Value>,
}

#[derive(Serialize)]
struct NodeStats<'a> {
    name: &'a NodeName,
    start: u64,
    zone: Option<&'a str>,
    phase: Phase,
    uptime_seconds: f64,
    lease_margin_seconds: f64,
    learners: usize,
    copied_bytes: u64,
    difference_bytes: u64,
    ready: bool,
    not_ready: Option<&'a str>,
    version: &'static str,
}

#[derive(Serialize)]
struct Ring<'a> {
    version: u64,
    #[serde(flatten)]
    rules: CopyRules,
    places_kept: &'a [PlacesKept],
    partitions: &'a [PartitionStatus],
    nodes: &'a [MemberStatus],
}

/// `{"key","partition","owner","is_local","this_node","epoch","replicas"}`.
pub fn owner(view: &dyn NodeView, key: &str) -> String {
    let OwnerView { partition, owner, epoch, replicas } = view.owner(key.as_bytes());
    let this_node = view.node();
    let is_local = owner.as_ref() == Some(&this_node);
    text(&Owner { key, partition, owner, is_local, this_node, epoch, replicas })
}

/// `{"cache":{…},"ring":{…},"node":{…}}`.
pub fn stats(view: &dyn NodeView) -> String {
    let status = view.status();
    text(&Stats { cache: view.cache_stats(), ring: ring_stats(&status), node: node_stats(&status) })
}

fn ring_stats(status: &Status) -> RingStats<'_> {
    let states: serde_json::Map<String, Value> =
        members_by_state(status).into_iter().map(|(state, count)| (state.to_owned(), count.into())).collect();
    let mut zones: Vec<&str> = status.members.iter().filter_map(|m| m.zone.as_deref()).collect();
    zones.sort_unstable();
    zones.dedup();
    RingStats {
        name: status.ring.as_str(),
        plan_version: status.plan_version,
        partitions: status.partitions.len(),
        owned: status.owned(),
        not_served: missing(status).count(),
        under_replicated: status.under_replicated(),
        rules: status.rules,
        members: &status.members,
        members_by_state: states.into(),
        zones,
        moves: status.moves.iter().map(moving).collect(),
    }
}

fn node_stats(status: &Status) -> NodeStats<'_> {
    NodeStats {
        name: &status.node,
        start: status.start,
        zone: status.zone.as_deref(),
        phase: status.phase,
        uptime_seconds: milliseconds(status.uptime),
        lease_margin_seconds: milliseconds(status.lease_margin),
        learners: status.learners(),
        copied_bytes: status.copied_bytes,
        difference_bytes: status.difference_bytes,
        ready: status.not_ready.is_none(),
        not_ready: status.not_ready.as_deref(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// Seconds, exact to the millisecond.
fn milliseconds(span: std::time::Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}

fn moving(one: &MoveStatus) -> Value {
    let elapsed_seconds = milliseconds(one.elapsed);
    json!({ "partition": one.partition, "to": one.to, "step": one.step, "elapsed_seconds": elapsed_seconds })
}

/// `{"version","replicas","consistency","on_loss","places_kept":[…],"partitions":[{"partition","owner","epoch","state","replicas",
/// "learners","short_of_memory","under_replicated"},…],"nodes":[…]}`.
pub fn ring(status: &Status) -> String {
    let rules = status.rules;
    let Status { plan_version: version, places_kept, partitions, members, .. } = status;
    text(&Ring { version: *version, rules, places_kept, partitions, nodes: members })
}

/// Plain data with string keys: serialising it cannot fail.
fn text(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

/// The partitions without a serving owner. One on its way to another owner still has one; a suspended node serves none.
pub(super) fn missing(status: &Status) -> impl Iterator<Item = &PartitionStatus> {
    let suspended = status.phase == Phase::Suspended;
    status.partitions.iter().filter(move |p| {
        let served = matches!(p.state, PartitionState::Serving | PartitionState::Moving);
        !served || (suspended && p.owner.as_ref() == Some(&status.node))
    })
}
