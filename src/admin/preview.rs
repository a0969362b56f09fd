//! What would move, and whether a node may go: the nodes' own planner on the ring as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::answers::{NodeShare, NodeState, Overview, PartitionMove, Preview, Reason, Safety};
use super::overview::{copies_wanted, live_replicas, overview};
use super::state::State;
use super::{Admin, AdminError};
use crate::coord::{LeaseState, PlanMember, Revision};
use crate::ring::plan::{Wishes, plan_rows};
use crate::types::{Incarnation, NodeId, NodeName, PartitionId};

/// Most partitions named in one reason.
const NAMED_MAX: usize = 8;

/// The ring's plan with these members instead of those it has.
pub(super) fn preview(state: &State, members: &[PlanMember]) -> Result<Preview, AdminError> {
    let config = state.config_in_force();
    let claim = |partition| state.claims.get(&partition);
    let kept = state.plan.as_ref().map_or(&[][..], |plan| &plan.kept);
    let rows = plan_rows(state.partitions(), members, claim, |_| false, Wishes { config: &config, kept })
        .map_err(|error| AdminError::Plan(error.to_string()))?
        .rows;
    let alive = state.live_members();
    let names = alive.iter().chain(members).map(|member| &member.id.node);
    let mut shares: BTreeMap<&NodeName, (usize, usize)> = names.map(|name| (name, (0, 0))).collect();
    let (mut moves, mut stranded) = (Vec::new(), Vec::new());
    for (partition, row) in state.partitions().ids().zip(&rows) {
        let from = state.holder(partition).filter(|id| !state.is_gone(id)).map(|id| &id.node);
        let to = row.first();
        from.and_then(|name| shares.get_mut(name)).into_iter().for_each(|share| share.0 += 1);
        to.and_then(|name| shares.get_mut(name)).into_iter().for_each(|share| share.1 += 1);
        if to.is_none() {
            stranded.push(partition);
        }
        if from != to {
            moves.push(PartitionMove { partition, from: from.cloned(), to: to.cloned() });
        }
    }
    let share = |(node, (before, after)): (&NodeName, (usize, usize))| NodeShare { node: node.clone(), before, after };
    Ok(Preview { moves, nodes: shares.into_iter().map(share).collect(), stranded, paused: config.paused })
}

/// The members without this one.
pub(super) fn others(state: &State, node: &NodeName) -> Vec<PlanMember> {
    state.live_members().into_iter().filter(|member| member.id.node != *node).collect()
}

/// The name's live incarnation, or why there is none.
pub(super) fn live_node(state: &State, node: &NodeName) -> Result<NodeId, AdminError> {
    let state_of = |lease: LeaseState| if lease == LeaseState::Evicted { NodeState::Evicted } else { NodeState::Left };
    match (state.live(node), state.leases.get(node)) {
        (Some(id), _) => Ok(id),
        (None, Some(lease)) => Err(AdminError::NotLive { node: node.clone(), state: state_of(lease.state).as_str() }),
        (None, None) => Err(AdminError::UnknownNode { node: node.clone(), known: state.known_nodes() }),
    }
}

/// What of this node's partitions nobody else could own.
pub(super) fn stranded_by(state: &State, id: &NodeId) -> Result<Vec<PartitionId>, AdminError> {
    let without = preview(state, &others(state, &id.node))?;
    let owned = |partition: &PartitionId| state.holder(*partition) == Some(id);
    Ok(without.stranded.into_iter().filter(owned).collect())
}

impl Admin {
    /// What would move if this node left.
    ///
    /// # Errors
    /// [`AdminError::UnknownNode`], or [`AdminError::NotLive`].
    pub async fn plan_without(&self, node: &NodeName) -> Result<Preview, AdminError> {
        let state = self.read().await?;
        live_node(&state, node)?;
        preview(&state, &others(&state, node))
    }

    /// What would move if a node of this name, zone and weight joined.
    ///
    /// # Errors
    /// [`AdminError::AlreadyMember`], or [`AdminError::Plan`] where the weight is zero.
    pub async fn plan_with(&self, node: &NodeName, zone: Option<&str>, weight: u32) -> Result<Preview, AdminError> {
        let state = self.read().await?;
        if state.live(node).is_some() {
            return Err(AdminError::AlreadyMember { node: node.clone() });
        }
        let mut members = others(&state, node);
        members.push(PlanMember {
            id: NodeId { node: node.clone(), incarnation: Incarnation { start: 0, id: Uuid::nil() } },
            since: Revision(u64::MAX),
            draining: false,
            zone: zone.map(str::to_owned),
            weight,
            excluded: Vec::new(),
            replicates: state.live_members().iter().all(|member| member.replicates),
            return_ms: 0,
        });
        preview(&state, &members)
    }

    /// Whether this node may be stopped (TERM, then wait for its end) without a request refused or an entry lost: the
    /// question between two steps of a rolling restart. Yes where every partition is owned as planned, the plan is made
    /// with the present configuration, no node is joining, draining or silent (they are watched for up to a lease), and
    /// others could take all that this one owns; and where copies are kept, each partition that this one has a copy of has
    /// another one in sync. It is an answer about this moment: ask for one node at a time.
    ///
    /// # Errors
    /// [`AdminError::UnknownNode`].
    pub async fn safe_to_stop(&self, node: &NodeName) -> Result<Safety, AdminError> {
        let leases = self.read().await?.leases;
        let live = leases.values().filter(|lease| lease.state == LeaseState::Live);
        let longest = live.map(|lease| Duration::from_millis(lease.lease_ms)).max().unwrap_or_default();
        let (state, observed) = self.observe(longest).await?;
        if !state.known_nodes().contains(node) {
            return Err(AdminError::UnknownNode { node: node.clone(), known: state.known_nodes() });
        }
        let mut reasons = restlessness(&overview(&self.ring, &state, &observed), Some(node));
        if let Some(id) = state.live(node) {
            let stranded = stranded_by(&state, &id)?;
            let alone = others(&state, node).iter().all(|member| member.draining);
            if !stranded.is_empty() || alone {
                let what = if alone { "no other node".to_owned() } else { format!("nobody for {}", list(&stranded)) };
                let message = format!("there is {what} to take what '{node}' owns: its entries would be lost");
                reasons.push(Reason { code: "nobody_else", message });
            }
            reasons.extend(only_copies(&state, &id));
        }
        Ok(Safety { node: node.clone(), safe: reasons.is_empty(), reasons })
    }
}

/// Where copies are kept: what this node alone has one of that is in sync.
fn only_copies(state: &State, id: &NodeId) -> Option<Reason> {
    let config = state.config_in_force();
    let alone = |partition: &PartitionId| {
        let replicas = live_replicas(state, *partition);
        replicas.contains(&id) && replicas.len() == 1
    };
    let only: Vec<PartitionId> = state.partitions().ids().filter(alone).collect();
    if only.is_empty() || copies_wanted(state, &config) == 1 {
        return None;
    }
    let message = format!("'{}' has the only copy in sync of {}", id.node, list(&only));
    Some(Reason { code: "only_copy", message })
}

/// What keeps copies from being where the plan wants them.
pub(super) fn copying(seen: &Overview) -> Option<Reason> {
    let message = || format!("copies are being made or dropped of {}", list(&seen.copying));
    (!seen.copying.is_empty()).then(|| Reason { code: "copying", message: message() })
}

/// What keeps a ring from being at rest, its copies apart; `but` may drain.
pub(super) fn restlessness(seen: &Overview, but: Option<&NodeName>) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut because = |code, message: String| reasons.push(Reason { code, message });
    if seen.plan_version == 0 {
        because("no_plan", "no plan was made yet".to_owned());
    } else if !seen.plan_current {
        because("replanning", "the plan was not yet made with the present configuration".to_owned());
    }
    if !seen.unowned.is_empty() {
        because("unowned", format!("nobody owns {}", list(&seen.unowned)));
    }
    if !seen.orphaned.is_empty() {
        because("orphaned", format!("the owner is gone of {}", list(&seen.orphaned)));
    }
    let owned = |p: &&PartitionMove| !seen.unowned.contains(&p.partition) && !seen.orphaned.contains(&p.partition);
    let moving: Vec<PartitionId> = seen.moves.iter().filter(owned).map(|m| m.partition).collect();
    if !moving.is_empty() {
        because("moving", format!("another owner is planned for {}", list(&moving)));
    }
    for node in &seen.nodes {
        let (name, other) = (&node.node, but != Some(&node.node));
        match node.state {
            NodeState::Joining => because("joining", format!("node '{name}' is joining")),
            NodeState::Draining if other => because("draining", format!("node '{name}' is draining")),
            NodeState::Suspect => because("suspect", format!("node '{name}' does not renew its lease")),
            _ => {}
        }
    }
    reasons
}

fn list(partitions: &[PartitionId]) -> String {
    let named: Vec<String> = partitions.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = partitions.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("partition{} {}{more}", if partitions.len() == 1 { "" } else { "s" }, named.join(", "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::reading::Observed;
    use super::*;
    use crate::coord::{Claim, ClaimState, Lease, Member, MemberState, PlanRecord, RingConfig};
    use crate::types::{Epoch, Generation, RingName};

    fn id(name: &str) -> NodeId {
        NodeId { node: NodeName::new(name).unwrap(), incarnation: Incarnation { start: 1, id: Uuid::from_u128(7) } }
    }

    /// Live nodes a and b, both planned for partition 0, of whose copies these are in sync.
    fn state(replicas: &[&str], replicates: bool) -> State {
        let mut state = State::default();
        for (name, since) in [("a", 1), ("b", 2)] {
            let (node, incarnation) = (id(name).node, id(name).incarnation);
            let lease = Lease { incarnation, state: LeaseState::Live, beat: 1, lease_ms: 1000, resumed: None };
            let (zone, http, version) = (None, None, "0.1.0".to_owned());
            let (since, excluded, weight) = (Revision(since), Vec::new(), 1);
            let state_of = MemberState::Active;
            let return_ms = 0;
            #[rustfmt::skip]
            let member =
                Member { incarnation, since, state: state_of, zone, weight, http, version, excluded, replicates, return_ms };
            state.leases.insert(node.clone(), lease);
            state.members.insert(node, member);
        }
        let owner = id(replicas[0]);
        let rows = vec![vec![owner.node.clone(), id(if replicas[0] == "a" { "b" } else { "a" }).node]];
        let generation = Generation::new(1);
        let members = state.live_members();
        let (version, config, gone, kept) = (1, RingConfig::default(), Vec::new(), Vec::new());
        let plan = PlanRecord { version, author: id("a"), generation, members, gone, rows, config, kept };
        state.plan = Some(plan);
        let (epoch, replicas) = (Epoch::new(4), replicas.iter().map(|name| id(name)).collect());
        let claim = Claim { generation, epoch, owner, replicas, state: ClaimState::Held };
        state.claims.insert(PartitionId::new(0), claim);
        state
    }

    #[test]
    fn whoever_has_the_only_copy_in_sync_is_not_safe_to_stop() {
        let reason = |state: &State, node: &str| only_copies(state, &id(node)).map(|reason| reason.message);
        let one = state(&["a"], true);
        assert_eq!(reason(&one, "a").unwrap(), "'a' has the only copy in sync of partition 0");
        assert_eq!(reason(&one, "b"), None, "it has none");
        let mut both = state(&["b", "a"], true);
        assert_eq!((reason(&both, "a"), reason(&both, "b")), (None, None));
        both.leases.get_mut(&id("b").node).unwrap().state = LeaseState::Evicted;
        assert_eq!(reason(&both, "a"), None, "it is the only node: nothing more is asked of its copies");
        assert_eq!(reason(&state(&["a"], false), "a"), None, "where no copies are kept there is one of each");
    }

    #[test]
    fn a_partition_whose_copies_are_not_those_planned_is_told_as_such() {
        let ring = RingName::new("r").unwrap();
        let seen = |state: &State| overview(&ring, state, &Observed::default());
        let one = seen(&state(&["a"], true));
        let partition = &one.partitions[0];
        let names = |names: &[&str]| names.iter().map(|name| id(name).node).collect::<Vec<_>>();
        assert_eq!((&partition.replicas, &partition.learners), (&names(&["a"]), &names(&["b"])));
        assert!(partition.under_replicated && one.copies_wanted == 2);
        assert_eq!((one.copying.len(), copying(&one).unwrap().code), (1, "copying"));
        let both = seen(&state(&["a", "b"], true));
        assert!(!both.partitions[0].under_replicated && both.copying.is_empty() && copying(&both).is_none());
        let mut surplus = state(&["a", "b"], true);
        surplus.plan.as_mut().unwrap().rows[0].pop();
        assert_eq!(seen(&surplus).copying, [PartitionId::new(0)], "a copy is to be dropped");
        let none = seen(&state(&["a"], false));
        assert_eq!((none.copies_wanted, none.partitions[0].learners.len(), none.copying.len()), (1, 0, 0));
        assert!(!none.partitions[0].under_replicated);
    }
}
