//! The JSON of what a node shows of itself and of the ring: `/owner`, `/stats`, `/ring`, `/health?scope=ring`.
//!
//! The same over NATS: `<ring>.owner`, `<ring>.stats` and `<ring>.ring` are answered with these bodies. Fields come in
//! the order in which people want to read them.

use serde::Serialize;
use serde_json::{Value, json};

use super::view::{NodeView, OwnerView, members_by_state};
use crate::node::{MemberStatus, MoveStatus, PartitionStatus, Phase, PlacesKept, Status, Suspended, Waits};
use crate::types::{CopyRules, Epoch, NodeName, PartitionId};

#[derive(Serialize)]
struct Owner<'a> {
    key: &'a str,
    partition: PartitionId,
    owner: Option<NodeName>,
    is_local: bool,
    epoch: Epoch,
    in_sync: Vec<NodeName>,
    waits: Option<Waits>,
    suspended: Option<Suspended>,
    /// Whoever answers, as in every other answer.
    node: NodeName,
    /// The former names of `node` and `in_sync`.
    this_node: NodeName,
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
    waiting: usize,
    nodes: &'a [MemberStatus],
    nodes_by_state: Value,
    zones: Vec<&'a str>,
    moves: Vec<Value>,
    /// The former names of `nodes` and `nodes_by_state`.
    members: &'a [MemberStatus],
    members_by_state: Value,
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
    suspended: Option<Suspended>,
    ready: bool,
    not_ready: Option<&'a str>,
    version: &'static str,
}

#[derive(Serialize)]
struct Ring<'a> {
    node: &'a NodeName,
    phase: Phase,
    suspended: Option<Suspended>,
    plan_version: u64,
    /// The former name of `plan_version`.
    version: u64,
    #[serde(flatten)]
    rules: CopyRules,
    places_kept: &'a [PlacesKept],
    partitions: Vec<Row<'a>>,
    nodes: &'a [MemberStatus],
}

/// A partition; its `replicas` are the former name of `in_sync`.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    #[serde(flatten)]
    status: &'a PartitionStatus,
    in_sync: &'a [NodeName],
}

fn row(status: &PartitionStatus) -> Row<'_> {
    Row { status, in_sync: &status.replicas }
}

/// `{"key","partition","owner","is_local","epoch","in_sync","waits","suspended","node"}`.
pub fn owner(view: &dyn NodeView, key: &str) -> String {
    let OwnerView { partition, owner, epoch, replicas, waits, suspended } = view.owner(key.as_bytes());
    let (node, in_sync) = (view.node(), replicas.clone());
    let is_local = owner.as_ref() == Some(&node);
    let this_node = node.clone();
    text(&Owner { key, partition, owner, is_local, epoch, in_sync, waits, suspended, node, this_node, replicas })
}

/// `{"cache":{…},"ring":{…},"node":{…}}`.
pub fn stats(view: &dyn NodeView) -> String {
    let status = view.status();
    text(&Stats { cache: view.cache_stats(), ring: ring_stats(&status), node: node_stats(&status) })
}

fn ring_stats(status: &Status) -> RingStats<'_> {
    let counts = members_by_state(status).into_iter().map(|(state, count)| (state.to_owned(), count.into()));
    let states = Value::Object(counts.collect());
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
        waiting: status.waiting().count(),
        nodes: &status.members,
        nodes_by_state: states.clone(),
        zones,
        moves: status.moves.iter().map(moving).collect(),
        members: &status.members,
        members_by_state: states,
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
        suspended: status.suspended,
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

/// `{"node","phase","suspended","plan_version","replicas","consistency","on_loss","places_kept":[…],"partitions":[{"partition","owner","epoch",
/// "state","in_sync","learners","short_of_memory","under_replicated","waits"},…],"nodes":[…]}`.
pub fn ring(status: &Status) -> String {
    text(&Ring {
        node: &status.node,
        phase: status.phase,
        suspended: status.suspended,
        plan_version: status.plan_version,
        version: status.plan_version,
        rules: status.rules,
        places_kept: &status.places_kept,
        partitions: status.partitions.iter().map(row).collect(),
        nodes: &status.members,
    })
}

/// Plain data with string keys: serialising it cannot fail.
fn text(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

/// The partitions without a serving owner. One on its way to another owner still has one; a suspended node serves at most those
/// that have copies.
pub(super) fn missing(status: &Status) -> impl Iterator<Item = Row<'_>> {
    status.partitions.iter().filter(|p| !status.is_served(p)).map(row)
}
