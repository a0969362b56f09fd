//! A plan is balanced and minimal: compared with an optimum that is computed in another way.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use nats_ring::coord::{Member, MemberState, PlanRecord};
use nats_ring::ring::plan::{Candidate, CurrentRow, PlanInput};
use nats_ring::types::{NodeId, NodeName, PartitionCount};

use super::{Held, ensure};
use crate::optimum::{View, owners_by_flow, owners_cost};

const FOLLOWS: &str = "each plan is made from the one before";
const KEEPS: &str = "a plan drops nobody who holds its lease";
const BALANCED: &str = "a plan is balanced and minimal";
const SAFE: &str = "places are kept only where enough copies remain";

/// When claims and wishes last changed, for whether the planner can have seen all of them.
#[derive(Default)]
pub(crate) struct Plans {
    pub(crate) latest: Option<PlanRecord>,
    changed: Duration,
    /// Those that have said that they leave.
    leaving: HashSet<NodeId>,
    /// How late changes reach their watches where nothing is wrong.
    lag: Duration,
    pub(crate) judged: u32,
}

impl Plans {
    pub(crate) fn new(lag: Duration) -> Self {
        Self { lag, ..Self::default() }
    }

    /// A member said something of itself.
    pub(crate) fn announced(&mut self, node: &NodeName, member: &Member) {
        if member.state == MemberState::Left {
            self.leaving.insert(NodeId { node: node.clone(), incarnation: member.incarnation });
        }
    }

    /// Members of the plan before stay in the next one as long as they hold their lease: only that it ended is evidence.
    pub(crate) fn keeps_who_lives(&self, plan: &PlanRecord, lives: impl Fn(&NodeId) -> bool) -> Held {
        let before = self.latest.iter().filter(|before| before.generation == plan.generation);
        let mut members = before.flat_map(|before| &before.members).map(|member| &member.id);
        let dropped = members.find(|id| {
            let kept = plan.members.iter().any(|member| member.id == **id);
            !kept && lives(id) && !self.leaving.contains(*id)
        });
        ensure(dropped.is_none(), KEEPS, || format!("plan {} by {} is without {dropped:?}", plan.version, plan.author))
    }

    /// Something that plans depend on was written.
    pub(crate) fn input_changed(&mut self, at: Duration) {
        self.changed = at;
    }

    /// A plan was written. It is judged where its author surely knew all that the store holds, and nothing is wrong that
    /// would make it think some node suspended: `calm`.
    pub(crate) fn wrote<'a>(
        &mut self,
        plan: PlanRecord,
        holder: impl Fn(usize) -> Option<&'a NodeId>,
        (calm, sent): (bool, Duration),
    ) -> Held {
        let before = self.latest.as_ref().filter(|before| before.generation == plan.generation);
        let next = before.is_none_or(|before| plan.version == before.version + 1);
        ensure(next, FOLLOWS, || format!("version {} after {:?}", plan.version, before.map(|before| before.version)))?;
        places_are_safe(&plan)?;
        let knew = sent >= self.changed + self.lag + Duration::from_millis(2);
        let held = if calm && knew {
            self.judged += 1;
            is_best(&plan, holder)
        } else {
            Ok(())
        };
        self.latest = Some(plan);
        held
    }
}

/// Where a place is vacant for somebody, a majority of the copies asked for, and two at the least, are planned; and nobody is planned
/// in its stead.
fn places_are_safe(plan: &PlanRecord) -> Held {
    let factor = plan.config.factor().get();
    let stays = |node: &NodeName| plan.members.iter().any(|member| member.id.node == *node && !member.draining);
    let vacant = |p: usize| {
        let kept = plan.kept.iter().filter(|places| !stays(&places.id.node));
        kept.filter(|places| places.partitions.iter().any(|partition| partition.index() == p)).count()
    };
    let unsafe_row = plan.rows.iter().enumerate().find(|(p, row)| {
        let vacant = vacant(*p);
        vacant > 0 && (row.len() < 2 || row.len() <= factor / 2 || row.len() + vacant > factor)
    });
    ensure(unsafe_row.is_none(), SAFE, || format!("{unsafe_row:?} of {factor}: {plan:?}"))
}

/// The rows cost as little as any can.
pub(crate) fn is_best<'a>(plan: &PlanRecord, holder: impl Fn(usize) -> Option<&'a NodeId>) -> Held {
    let candidate = |member: &nats_ring::coord::PlanMember| Candidate {
        node: member.id.node.clone(),
        zone: member.zone.clone(),
        weight: member.weight,
        draining: member.draining,
        frozen: false,
        cordoned: plan.config.cordoned.contains(&member.id.node),
        excluded: member.excluded.iter().copied().collect(),
    };
    let candidates: Vec<Candidate> = plan.members.iter().map(candidate).collect();
    let members: BTreeMap<_, _> = plan.members.iter().map(|member| (&member.id.node, &member.id)).collect();
    let owner = |p| holder(p).filter(|id| members.get(&id.node) == Some(id)).map(|id| id.node.clone());
    let current: Vec<CurrentRow> =
        (0..plan.rows.len()).map(|p| CurrentRow { owner: owner(p), replicas: Vec::new() }).collect();
    let Some(partitions) = u16::try_from(plan.rows.len()).ok().and_then(PartitionCount::new) else { return Ok(()) };
    let (pins, paused) = (&plan.config.pins, plan.config.paused);
    let absent = &[];
    let input = PlanInput { partitions, replicas: 1, candidates: &candidates, current: &current, paused, pins, absent };
    let view = View::new(input);
    if view.eligible.is_empty() {
        return Ok(());
    }
    let number = |name: &nats_ring::types::NodeName| view.eligible.iter().position(|node| node.node == *name);
    let owners: Vec<Option<usize>> = plan.rows.iter().map(|row| row.first().and_then(number)).collect();
    let (cost, least) = (owners_cost(&view, &owners), owners_by_flow(&input));
    ensure(cost == least, BALANCED, || format!("plan {} costs {cost}, the optimum {least}: {plan:?}", plan.version))
}
