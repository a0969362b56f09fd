//! The planner's input from the ring's records: the same for the coordinator and for whoever only asks what would move.

use std::collections::BTreeMap;

use super::{Candidate, CurrentRow, PlanError, PlanInput, plan};
use crate::coord::{Claim, PlanMember, RingConfig};
use crate::types::{NodeId, NodeName, PartitionCount, PartitionId};

/// For each partition its replicas, the owner-to-be first: as many as operators ask for where all members keep copies,
/// else the owner alone. `claim` is the partition's claim; owners and replicas that are no members in that incarnation
/// are not live. `is_frozen` tells members that seem to be suspended.
///
/// # Errors
/// [`PlanError`] where the records contradict each other.
pub fn plan_rows<'a>(
    partitions: PartitionCount,
    members: &[PlanMember],
    claim: impl Fn(PartitionId) -> Option<&'a Claim>,
    is_frozen: impl Fn(&PlanMember) -> bool,
    config: &RingConfig,
) -> Result<Vec<Vec<NodeName>>, PlanError> {
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
    let input = PlanInput {
        partitions,
        replicas: if all_replicate { config.factor().get() } else { 1 },
        candidates: &candidates,
        current: &current,
        paused: config.paused,
        pins: &config.pins,
    };
    plan(&input).map(|assignment| assignment.rows)
}
