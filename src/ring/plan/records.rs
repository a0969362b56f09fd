//! The planner's input from the ring's records: the same for the coordinator and for whoever only asks what would move.

use std::collections::BTreeMap;

use super::{Absent, Assignment, Candidate, CurrentRow, PlanError, PlanInput, plan};
use crate::coord::{Claim, KeptPlaces, PlanMember, RingConfig};
use crate::types::{Consistency, NodeId, NodeName, PartitionCount, PartitionId};

/// What is wanted of a plan.
#[derive(Debug, Clone, Copy)]
pub struct Wishes<'a> {
    /// By operators.
    pub config: &'a RingConfig,
    /// For nodes that may come back, or are back: the places they had.
    pub kept: &'a [KeptPlaces],
}

/// What a plan says of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// For each partition its replicas, the owner-to-be first.
    pub rows: Vec<Vec<NodeName>>,
    /// The places that are kept, out of those wished for.
    pub kept: Vec<KeptPlaces>,
}

/// For each partition its replicas, the owner-to-be first: as many as operators ask for where all members keep copies,
/// else the owner alone. `claim` is the partition's claim; owners and replicas that are no members in that incarnation
/// are not live. `is_frozen` tells members that seem to be suspended. No place is kept in a ring whose writes are to be
/// *strong*, for they need every copy.
///
/// # Errors
/// [`PlanError`] where the records contradict each other.
pub fn plan_rows<'a>(
    partitions: PartitionCount,
    members: &[PlanMember],
    claim: impl Fn(PartitionId) -> Option<&'a Claim>,
    is_frozen: impl Fn(&PlanMember) -> bool,
    wishes: Wishes<'_>,
) -> Result<Planned, PlanError> {
    let config = wishes.config;
    let live: BTreeMap<&NodeName, &NodeId> = members.iter().map(|member| (&member.id.node, &member.id)).collect();
    let is_live = |id: &&NodeId| live.get(&id.node) == Some(id);
    let candidate = |member: &PlanMember| Candidate {
        node: member.id.node.clone(),
        zone: member.zone.clone(),
        weight: member.weight,
        draining: member.draining,
        frozen: is_frozen(member),
        cordoned: config.cordoned.contains(&member.id.node),
        excluded: member.excluded.iter().copied().collect(),
    };
    let candidates: Vec<Candidate> = members.iter().map(candidate).collect();
    let current = partitions.ids().map(|partition| {
        let claim = claim(partition);
        let owner = claim.and_then(Claim::holder).filter(is_live);
        // Also where the owner is gone: who has a copy is the cheapest to go on with.
        let replicas = claim.into_iter().flat_map(|claim| &claim.replicas).filter(is_live);
        let replicas = replicas.filter(|id| Some(*id) != owner).map(|id| id.node.clone()).collect();
        CurrentRow { owner: owner.map(|id| id.node.clone()), replicas }
    });
    let current: Vec<CurrentRow> = current.collect();
    let all_replicate = members.iter().all(|member| member.replicates);
    let keeps = all_replicate && config.consistency != Consistency::Strong;
    let kept = if keeps { wishes.kept } else { &[] };
    let absent: Vec<Absent> = kept.iter().map(absent).collect();
    let input = PlanInput {
        partitions,
        replicas: if all_replicate { config.factor().get() } else { 1 },
        candidates: &candidates,
        current: &current,
        paused: config.paused,
        pins: &config.pins,
        absent: &absent,
    };
    let assignment = plan(&input)?;
    let kept = kept.iter().map(|places| still_kept(places, &candidates, &assignment, partitions));
    let kept = kept.filter(|places| !places.partitions.is_empty()).collect();
    Ok(Planned { rows: assignment.rows, kept })
}

fn absent(places: &KeptPlaces) -> Absent {
    let partitions = places.partitions.iter().copied().collect();
    Absent { node: places.id.node.clone(), zone: places.zone.clone(), places: partitions }
}

/// Those of the places that the plan keeps vacant, or has given back.
fn still_kept(
    places: &KeptPlaces,
    candidates: &[Candidate],
    plan: &Assignment,
    partitions: PartitionCount,
) -> KeptPlaces {
    let name = &places.id.node;
    let is_back = candidates.iter().any(|candidate| candidate.node == *name && !candidate.draining);
    let named = if is_back { &plan.rows } else { &plan.kept };
    let here = |partition: &PartitionId| {
        partitions.contains(*partition) && named.get(partition.index()).is_some_and(|names| names.contains(name))
    };
    KeptPlaces { partitions: places.partitions.iter().copied().filter(here).collect(), ..places.clone() }
}
