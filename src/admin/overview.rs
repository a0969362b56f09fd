//! The ring as people see it, from its records.

use super::answers::{
    ConfigView, NodeOverview, NodeState, Overview, PartitionMove, PartitionOverview, PartitionStanding, PlacesKeptFor,
};
use super::reading::Observed;
use super::state::State;
use crate::coord::{ClaimState, KeptPlaces, Lease, LeaseState, MemberState, RingConfig};
use crate::types::{Epoch, NodeId, NodeName, PartitionId, RingName};

/// The whole of it.
pub(super) fn overview(ring: &RingName, state: &State, observed: &Observed) -> Overview {
    let config = state.config_in_force();
    let partitions: Vec<PartitionOverview> = state.partitions().ids().map(|id| partition(state, &config, id)).collect();
    let in_state = |wanted| {
        let found = partitions.iter().filter(move |p| p.state == wanted).map(|p| p.partition);
        found.collect::<Vec<PartitionId>>()
    };
    let (unowned, orphaned) = (in_state(PartitionStanding::Unowned), in_state(PartitionStanding::Orphaned));
    let under_replicated = partitions.iter().filter(|p| p.under_replicated).map(|p| p.partition).collect();
    let coordinator = state.live_members().first().map(|member| member.id.node.clone());
    Overview {
        ring: ring.clone(),
        partition_count: state.partitions(),
        key_hash: state.meta.as_ref().map_or_else(String::new, |meta| meta.key_hash.to_string()),
        generation: state.meta.as_ref().map(|meta| meta.generation).unwrap_or_default(),
        plan_version: state.plan.as_ref().map_or(0, |plan| plan.version),
        plan_current: state.plan.as_ref().is_some_and(|plan| plan.config == config),
        nodes: state.leases.iter().map(|(name, lease)| node(state, observed, &coordinator, name, lease)).collect(),
        coordinator,
        config: ConfigView::from(&config),
        moves: outstanding(state),
        unowned,
        orphaned,
        copies_wanted: copies_wanted(state, &config),
        under_replicated,
        copying: state.partitions().ids().filter(|id| is_copying(state, *id)).collect(),
        places_kept: places_kept(state),
        partitions,
        observed: observed.told,
        warnings: warnings(state, &config),
    }
}

/// Those of nodes that are back are taken.
fn places_kept(state: &State) -> Vec<PlacesKeptFor> {
    let plan = state.plan.as_ref();
    let is_back =
        |id: &NodeId| plan.is_some_and(|plan| plan.members.iter().any(|m| m.id.node == id.node && m.id != *id));
    let vacant = plan.into_iter().flat_map(|plan| &plan.kept).filter(|places| !is_back(&places.id));
    let told = |places: &KeptPlaces| PlacesKeptFor {
        node: places.id.node.clone(),
        places: places.partitions.len(),
        for_ms: places.return_ms,
    };
    vacant.map(told).collect()
}

/// Where claims differ from the plan.
pub(super) fn outstanding(state: &State) -> Vec<PartitionMove> {
    let differs = |partition: PartitionId| {
        let planned = state.planned(partition)?;
        let holder = state.holder(partition).filter(|id| !state.is_gone(id)).map(|id| id.node.clone());
        let (from, to) = (holder, Some(planned.clone()));
        (from != to).then_some(PartitionMove { partition, from, to })
    };
    state.partitions().ids().filter_map(differs).collect()
}

/// How many copies of each partition there can be of those asked for; 1 while a member does not know how to keep them.
pub(super) fn copies_wanted(state: &State, config: &RingConfig) -> usize {
    let members = state.live_members();
    let staying = members.iter().filter(|member| !member.draining).count();
    if keeps_copies(state) { config.factor().get().min(staying.max(1)) } else { 1 }
}

/// Whether partitions have copies: all live members know how to keep them.
fn keeps_copies(state: &State) -> bool {
    state.live_members().iter().all(|member| member.replicates)
}

/// Members of the partition's set that are live, as the start that is in it.
pub(super) fn live_replicas(state: &State, partition: PartitionId) -> Vec<&NodeId> {
    let replicas = state.claims.get(&partition).map_or(&[][..], |claim| &claim.replicas);
    replicas.iter().filter(|id| state.live(&id.node).as_ref() == Some(*id)).collect()
}

/// Who is planned to have a copy and has none that is in sync.
fn learners(state: &State, partition: PartitionId) -> Vec<NodeName> {
    let row = state.plan.as_ref().and_then(|plan| plan.rows.get(partition.index()));
    let replicas = live_replicas(state, partition);
    let missing = row.into_iter().flatten().filter(|name| !replicas.iter().any(|id| id.node == **name));
    if keeps_copies(state) { missing.cloned().collect() } else { Vec::new() }
}

fn is_copying(state: &State, partition: PartitionId) -> bool {
    let row = state.plan.as_ref().and_then(|plan| plan.rows.get(partition.index())).map_or(&[][..], Vec::as_slice);
    let replicas = state.claims.get(&partition).map_or(&[][..], |claim| &claim.replicas);
    let unplanned = replicas.iter().any(|id| !row.contains(&id.node));
    keeps_copies(state) && (unplanned || !learners(state, partition).is_empty())
}

fn partition(state: &State, config: &RingConfig, partition: PartitionId) -> PartitionOverview {
    let claim = state.claims.get(&partition);
    let holder = state.holder(partition);
    let planned = state.planned(partition).cloned();
    let standing = match holder {
        None => PartitionStanding::Unowned,
        Some(id) if state.is_gone(id) => PartitionStanding::Orphaned,
        Some(_) if claim.is_some_and(|claim| claim.state == ClaimState::Recovering) => PartitionStanding::Recovering,
        Some(id) if planned.as_ref().is_some_and(|to| *to != id.node) => PartitionStanding::Moving,
        Some(_) => PartitionStanding::Owned,
    };
    PartitionOverview {
        partition,
        owner: holder.map(|id| id.node.clone()),
        epoch: claim.map_or(Epoch::ZERO, |claim| claim.epoch),
        state: standing,
        planned,
        pinned: config.pins.get(&partition).cloned(),
        replicas: claim.map(|claim| claim.replicas.iter().map(|id| id.node.clone()).collect()).unwrap_or_default(),
        learners: learners(state, partition),
        under_replicated: live_replicas(state, partition).len() < copies_wanted(state, config),
    }
}

fn node(
    state: &State,
    observed: &Observed,
    coordinator: &Option<NodeName>,
    name: &NodeName,
    lease: &Lease,
) -> NodeOverview {
    let id = NodeId { node: name.clone(), incarnation: lease.incarnation };
    // What an earlier incarnation said of itself is as good as nothing.
    let member = state.members.get(name).filter(|member| member.incarnation == lease.incarnation);
    let draining = member.is_some_and(|member| member.state != MemberState::Active);
    let rows = state.plan.iter().flat_map(|plan| &plan.rows);
    NodeOverview {
        node: name.clone(),
        state: match lease.state {
            LeaseState::Left => NodeState::Left,
            LeaseState::Evicted => NodeState::Evicted,
            LeaseState::Live if observed.suspects.contains(name) => NodeState::Suspect,
            LeaseState::Live if draining => NodeState::Draining,
            LeaseState::Live if state.is_planned(&id) && member.is_some() => NodeState::Active,
            LeaseState::Live => NodeState::Joining,
        },
        draining: draining && lease.state == LeaseState::Live,
        cordoned: state.config_in_force().cordoned.contains(name),
        coordinator: coordinator.as_ref() == Some(name),
        owned: state.owned(&id),
        planned: rows.filter(|row| row.first() == Some(name)).count(),
        copies: state.claims.values().filter(|claim| claim.replicas.contains(&id)).count(),
        zone: member.and_then(|member| member.zone.clone()),
        weight: member.map(|member| member.weight),
        version: member.map(|member| member.version.clone()),
        http: member.and_then(|member| member.http.clone()),
        start: lease.incarnation.start,
        incarnation: lease.incarnation.token(),
        excluded: member.map(|member| member.excluded.clone()).unwrap_or_default(),
    }
}

fn warnings(state: &State, config: &RingConfig) -> Vec<String> {
    let unreadable = state.unreadable.iter().map(|(key, reason)| format!("key '{key}' cannot be read: {reason}"));
    let pins = config.pins.iter().filter_map(|(partition, node)| idle_pin(state, *partition, node));
    unreadable.chain(pins).collect()
}

/// Why a pin is not in force, if so.
pub(super) fn idle_pin(state: &State, partition: PartitionId, node: &NodeName) -> Option<String> {
    let members = state.live_members();
    let member = members.iter().find(|member| member.id.node == *node);
    let reason = match member {
        _ if !state.partitions().contains(partition) => "the ring has no such partition",
        None => "that node is away",
        Some(member) if member.draining => "that node is draining",
        Some(member) if member.excluded.contains(&partition) => "that node could not start it a moment ago",
        Some(_) => return None,
    };
    Some(format!("the pin of partition {partition} to node '{node}' is not in force: {reason}"))
}
