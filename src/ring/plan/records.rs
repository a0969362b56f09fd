//! The planner's input from the ring's records: the same for the coordinator and for whoever only asks what would move.

use std::collections::BTreeMap;

use super::{Candidate, CurrentRow, PlanError, PlanInput, plan};
use crate::coord::{PlanMember, RingConfig};
use crate::types::{NodeId, NodeName, PartitionCount, PartitionId};

/// For each partition its replicas, the owner-to-be first. `holder` names the owner a claim names; owners that are no
/// members in that incarnation are not live. `is_frozen` tells members that seem to be suspended.
///
/// # Errors
/// [`PlanError`] where the records contradict each other.
pub fn plan_rows<'a>(
    partitions: PartitionCount,
    members: &[PlanMember],
    holder: impl Fn(PartitionId) -> Option<&'a NodeId>,
    is_frozen: impl Fn(&PlanMember) -> bool,
    config: &RingConfig,
) -> Result<Vec<Vec<NodeName>>, PlanError> {
    let live: BTreeMap<&NodeName, &NodeId> = members.iter().map(|member| (&member.id.node, &member.id)).collect();
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
        let owner = holder(partition).filter(|id| live.get(&id.node) == Some(id));
        CurrentRow { owner: owner.map(|id| id.node.clone()), replicas: Vec::new() }
    });
    let current: Vec<CurrentRow> = current.collect();
    let input = PlanInput {
        partitions,
        replicas: 1,
        candidates: &candidates,
        current: &current,
        paused: config.paused,
        pins: &config.pins,
    };
    plan(&input).map(|assignment| assignment.rows)
}
