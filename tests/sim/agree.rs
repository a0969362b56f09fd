//! At rest copies agree: each partition is at whom the plan names, as many as are asked for and there are, and all of them hold the same.

use std::sync::Arc;
use std::time::Duration;

use nats_ring::coord::{Claim, ClaimState, PlanRecord};
use nats_ring::types::{Consistency, NodeId, NodeName, PartitionId};

use crate::invariants::{Broken, Judge, ensure};
use crate::run::AT_REST_WITHIN;
use crate::told::expires;
use crate::world::World;

const AGREE: &str = "copies agree after the faults";

/// Waits until they do.
pub(crate) async fn copies_agree(world: &Arc<World>) -> Result<(), Broken> {
    if world.scenario.copying.is_none() {
        return Ok(());
    }
    let until = world.witness.now() + AT_REST_WITHIN;
    loop {
        world.witness.broken().map_or(Ok(()), Err)?;
        let disagree = world.witness.ask(|judge| disagree(world, judge));
        let Some(how) = disagree else { return Ok(()) };
        ensure(world.witness.now() < until, AGREE, || format!("not within {AT_REST_WITHIN:?}: {how}"))?;
        world.ring.advance(Duration::from_millis(50)).await;
    }
}

/// The level that so many nodes can give, the strongest first.
pub(crate) fn strongest(world: &World) -> Option<Consistency> {
    world.scenario.copying?;
    world.witness.ask(|judge| {
        let plan = judge.plans.latest.as_ref()?;
        let (factor, nodes) = (plan.config.factor().get(), plan.members.len());
        Consistency::ALL.into_iter().rev().find(|level| level.copies_needed(factor) <= nodes)
    })
}

/// The first thing that is not as it should be.
fn disagree(world: &World, judge: &Judge) -> Option<String> {
    let Some(plan) = &judge.plans.latest else { return Some("there is no plan".to_owned()) };
    for n in 0..world.scenario.partitions {
        let partition = PartitionId::new(n);
        let Some(claim) = judge.claims.claim(partition) else { return Some(format!("partition {n} has no claim")) };
        if let Some(how) = as_planned(plan, partition, claim).or_else(|| same(world, judge, partition, claim)) {
            return Some(how);
        }
    }
    None
}

fn as_planned(plan: &PlanRecord, partition: PartitionId, claim: &Claim) -> Option<String> {
    let row = plan.rows.get(partition.index())?;
    let member =
        |name: &NodeName| plan.members.iter().find(|member| member.id.node == *name).map(|member| member.id.clone());
    let mut planned: Vec<NodeId> = row.iter().filter_map(member).collect();
    let mut recorded = claim.replicas.clone();
    planned.sort();
    recorded.sort();
    let size = plan.config.factor().get().min(plan.members.len());
    let right = claim.state == ClaimState::Held && planned == recorded && recorded.len() == size;
    (!right).then(|| format!("partition {partition} is planned at {row:?}, {size} copies: {claim:?}"))
}

/// All members hold the same; of what ends by itself each may have another end.
fn same(world: &World, judge: &Judge, partition: PartitionId, claim: &Claim) -> Option<String> {
    let copies = judge.copies.as_ref()?;
    let (owner, others) = (&claim.owner, claim.replicas.iter().filter(|id| **id != claim.owner));
    let others: Vec<&NodeId> = others.collect();
    for (n, key) in world.keys.iter().enumerate().filter(|(n, _)| world.partition_of_key(*n) == partition) {
        let held = copies.held(owner, partition, key);
        for id in &others {
            let other = copies.held(id, partition, key);
            let ended = n < world.scenario.load.keys && expires(n) && (held.is_none() || other.is_none());
            if other != held && !ended {
                return Some(format!("partition {partition}, key {n}: {owner} has {held:?}, {id} has {other:?}"));
            }
        }
    }
    None
}
