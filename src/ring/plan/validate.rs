//! The planner's check of its own result, written from the rules and not from the way the result was found.

use std::collections::BTreeSet;

use super::PlanError;
use super::problem::{Problem, Row};
use super::share::Share;

/// Refuses rows that break a rule.
pub(super) fn check(problem: &Problem<'_>, rows: &[Vec<usize>], kept: &[Vec<usize>]) -> Result<(), PlanError> {
    for ((row, planned), kept) in problem.rows.iter().zip(rows).zip(kept) {
        if let Some(rule) = broken_rule(problem, row, planned, kept) {
            return Err(PlanError::Invalid { rule, at: format!("partition {}", row.partition) });
        }
    }
    check_balance(problem, rows)
}

fn broken_rule(problem: &Problem<'_>, row: &Row, planned: &[usize], kept: &[usize]) -> Option<&'static str> {
    let nodes = 0..problem.nodes.len();
    let Some((&owner, others)) = planned.split_first() else {
        let unowned_in_vain = nodes.into_iter().any(|node| problem.may_own(row, node));
        return unowned_in_vain.then_some("assigned while some node may own it");
    };
    if problem.excludes(row, owner) {
        return Some("the owner-to-be may own it");
    }
    if others.iter().any(|&node| !problem.may_replicate(row, node)) {
        return Some("replicas may hold it");
    }
    if planned.iter().collect::<BTreeSet<_>>().len() != planned.len() {
        return Some("replicas are on distinct nodes");
    }
    if let Some(rule) = broken_wish(problem, row, owner) {
        return Some(rule);
    }
    let possible = nodes.into_iter().filter(|&node| node == owner || problem.may_replicate(row, node)).count();
    if let Some(rule) = broken_promise(problem, row, planned, kept) {
        return Some(rule);
    }
    let wanted = problem.replicas - kept.len();
    (planned.len() != wanted.min(possible)).then_some("as many replicas as asked for and possible")
}

/// What there is to keep where places are kept for nodes that are away.
fn broken_promise(problem: &Problem<'_>, row: &Row, planned: &[usize], kept: &[usize]) -> Option<&'static str> {
    let had_it = |&at: &usize| problem.absent[at].node.places.contains(&row.partition);
    if !kept.iter().all(had_it) {
        return Some("places are kept for those that had them");
    }
    let in_sync = planned.iter().filter(|&&node| row.is_in_sync(node)).count();
    let enough = problem.are_enough(in_sync) && in_sync + kept.len() <= problem.replicas;
    (!kept.is_empty() && !enough).then_some("places are kept where enough copies remain")
}

/// What suspension and operators say of the owner-to-be, the strongest rule first.
fn broken_wish(problem: &Problem<'_>, row: &Row, owner: usize) -> Option<&'static str> {
    let can = |node: usize| !problem.excludes(row, node);
    let now = row.owner.filter(|&node| can(node));
    if let Some(now) = now.filter(|&node| problem.nodes[node].frozen) {
        return (owner != now).then_some("frozen nodes keep what they own");
    }
    if problem.nodes[owner].frozen {
        return Some("frozen nodes get nothing new");
    }
    if let Some(pin) = row.pin.filter(|&node| can(node) && !problem.nodes[node].frozen) {
        return (owner != pin).then_some("a pinned partition goes where it is pinned to");
    }
    let stays = |node: usize| problem.paused || problem.nodes[node].cordoned;
    if let Some(now) = now.filter(|&node| stays(node)) {
        return (owner != now).then_some("what is paused or cordoned stays where it is");
    }
    let others = (0..problem.nodes.len()).filter(|&node| can(node));
    let mut others = others.filter(|&node| !problem.nodes[node].frozen && !problem.nodes[node].cordoned);
    let in_vain = problem.nodes[owner].cordoned && others.next().is_some();
    in_vain.then_some("cordoned nodes get nothing new while others can take it")
}

/// Every owner count is the quota rounded down or up; where partitions are bound or excluded, that may be impossible.
fn check_balance(problem: &Problem<'_>, rows: &[Vec<usize>]) -> Result<(), PlanError> {
    let bound = problem.paused || problem.rows.iter().any(|row| row.pin.is_some());
    if bound || problem.nodes.iter().any(|node| node.frozen || node.cordoned || !node.excluded.is_empty()) {
        return Ok(());
    }
    let weights: Vec<u32> = problem.nodes.iter().map(|node| node.weight).collect();
    for (node, share) in Share::of(rows.len(), &weights).iter().enumerate() {
        let count = rows.iter().filter(|row| row.first() == Some(&node)).count();
        if count < share.floor || count > share.ceil {
            return Err(PlanError::Invalid {
                rule: "owners are balanced by weight",
                at: format!("node {}", problem.nodes[node].node),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ring::plan::{Candidate, CurrentRow, PlanInput};
    use crate::types::{NodeName, PartitionCount, PartitionId};

    fn rule_broken_by(rows: &[Vec<usize>]) -> Option<&'static str> {
        broken_by(&["a", "b", "c"], false, &[], rows)
    }

    /// `b` excludes partition 0, `c` is frozen and owns partition 1, `d` is cordoned and owns partition 2, if there.
    fn broken_by(names: &[&str], paused: bool, pins: &[(u16, &str)], rows: &[Vec<usize>]) -> Option<&'static str> {
        let node = |name: &&str| Candidate {
            node: NodeName::new(name).unwrap(),
            zone: None,
            weight: 1,
            draining: false,
            frozen: *name == "c",
            cordoned: *name == "d",
            excluded: BTreeSet::from([PartitionId::new(0)]).into_iter().filter(|_| *name == "b").collect(),
        };
        let candidates: Vec<Candidate> = names.iter().map(node).collect();
        let owned_by = |name| CurrentRow { owner: Some(NodeName::new(name).unwrap()), replicas: vec![] };
        let current = &[CurrentRow::default(), owned_by("c"), owned_by("d")][..rows.len()];
        let partitions = PartitionCount::new(u16::try_from(rows.len()).unwrap()).unwrap();
        let pins = pins.iter().map(|(p, name)| (PartitionId::new(*p), NodeName::new(name).unwrap())).collect();
        let replicas = if rows.len() == 2 { 2 } else { 1 };
        let candidates = &candidates[..];
        let input = PlanInput { partitions, replicas, candidates, current, paused, pins: &pins, absent: &[] };
        match check(&Problem::new(&input).unwrap(), rows, &vec![vec![]; rows.len()]) {
            Err(PlanError::Invalid { rule, .. }) => Some(rule),
            _ => None,
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        assert_eq!(rule_broken_by(&[vec![0], vec![2, 0]]), None);
        assert_eq!(rule_broken_by(&[vec![], vec![2, 0]]), Some("assigned while some node may own it"));
        assert_eq!(rule_broken_by(&[vec![1], vec![2, 0]]), Some("the owner-to-be may own it"));
        assert_eq!(rule_broken_by(&[vec![0, 2], vec![2, 0]]), Some("replicas may hold it"));
        assert_eq!(rule_broken_by(&[vec![0], vec![2, 2]]), Some("replicas are on distinct nodes"));
        assert_eq!(rule_broken_by(&[vec![0], vec![0, 2]]), Some("frozen nodes keep what they own"));
        assert_eq!(rule_broken_by(&[vec![0], vec![2]]), Some("as many replicas as asked for and possible"));
    }

    #[test]
    fn each_wish_of_operators_that_is_broken_is_named() {
        let broken = |paused, pins: &[(u16, &str)], rows: [usize; 3]| {
            broken_by(&["a", "b", "c", "d"], paused, pins, &rows.map(|owner| vec![owner]))
        };
        assert_eq!(broken(false, &[], [0, 2, 3]), None);
        assert_eq!(broken(false, &[], [3, 2, 3]), Some("cordoned nodes get nothing new while others can take it"));
        assert_eq!(broken(false, &[], [0, 2, 0]), Some("what is paused or cordoned stays where it is"));
        assert_eq!(broken(false, &[], [2, 2, 3]), Some("frozen nodes get nothing new"));
        assert_eq!(broken(false, &[(0, "d"), (2, "a")], [3, 2, 0]), None);
        assert_eq!(broken(true, &[(2, "a")], [0, 2, 3]), Some("a pinned partition goes where it is pinned to"));
        assert_eq!(broken(false, &[(1, "a")], [0, 0, 3]), Some("frozen nodes keep what they own"));
        assert_eq!(broken(true, &[(0, "b"), (1, "c"), (2, "z")], [0, 2, 3]), None);
    }

    #[test]
    fn owners_out_of_balance_are_named() {
        let names = ["a", "b"];
        let node = |name| Candidate {
            node: NodeName::new(name).unwrap(),
            zone: None,
            weight: 1,
            draining: false,
            frozen: false,
            cordoned: false,
            excluded: BTreeSet::new(),
        };
        let (candidates, current) = (names.map(node), [const { CurrentRow { owner: None, replicas: vec![] } }; 2]);
        let partitions = PartitionCount::new(2).unwrap();
        let pins = BTreeMap::new();
        let (paused, pins) = (false, &pins);
        let (replicas, candidates, current, absent) = (1, &candidates[..], &current[..], &[][..]);
        let input = PlanInput { partitions, replicas, candidates, current, paused, pins, absent };
        let problem = Problem::new(&input).unwrap();
        let refused = PlanError::Invalid { rule: "owners are balanced by weight", at: "node a".to_owned() };
        let none = [const { vec![] }; 2];
        assert_eq!(check(&problem, &[vec![0], vec![1]], &none), Ok(()));
        assert_eq!(check(&problem, &[vec![0], vec![0]], &none), Err(refused));
    }
}
