//! The planner's check of its own result, written from the rules and not from the way the result was found.

use std::collections::BTreeSet;

use super::PlanError;
use super::problem::{Problem, Row};
use super::share::Share;

/// Refuses rows that break a rule.
pub(super) fn check(problem: &Problem<'_>, rows: &[Vec<usize>]) -> Result<(), PlanError> {
    for (row, planned) in problem.rows.iter().zip(rows) {
        if let Some(rule) = broken_rule(problem, row, planned) {
            return Err(PlanError::Invalid { rule, at: format!("partition {}", row.partition) });
        }
    }
    check_balance(problem, rows)
}

fn broken_rule(problem: &Problem<'_>, row: &Row, planned: &[usize]) -> Option<&'static str> {
    let nodes = 0..problem.nodes.len();
    let Some((&owner, others)) = planned.split_first() else {
        let unowned_in_vain = nodes.into_iter().any(|node| problem.may_own(row, node));
        return unowned_in_vain.then_some("assigned while some node may own it");
    };
    if !problem.may_own(row, owner) {
        return Some("the owner-to-be may own it");
    }
    if others.iter().any(|&node| !problem.may_replicate(row, node)) {
        return Some("replicas may hold it");
    }
    if planned.iter().collect::<BTreeSet<_>>().len() != planned.len() {
        return Some("replicas are on distinct nodes");
    }
    let keeps = |holder: usize| problem.nodes[holder].frozen && problem.may_own(row, holder);
    if row.owner.is_some_and(|now| now != owner && keeps(now)) {
        return Some("frozen nodes keep what they own");
    }
    let possible = nodes.into_iter().filter(|&node| node == owner || problem.may_replicate(row, node)).count();
    (planned.len() != problem.replicas.min(possible)).then_some("as many replicas as asked for and possible")
}

/// Every owner count is the quota rounded down or up; where frozen nodes or exclusions bind, that may be impossible.
fn check_balance(problem: &Problem<'_>, rows: &[Vec<usize>]) -> Result<(), PlanError> {
    if problem.nodes.iter().any(|node| node.frozen || !node.excluded.is_empty()) {
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
    use super::*;
    use crate::ring::plan::{Candidate, CurrentRow, PlanInput};
    use crate::types::{NodeName, PartitionCount, PartitionId};

    fn rule_broken_by(rows: &[Vec<usize>]) -> Option<&'static str> {
        let node = |name| Candidate {
            node: NodeName::new(name).unwrap(),
            zone: None,
            weight: 1,
            draining: false,
            frozen: name == "c",
            excluded: BTreeSet::from([PartitionId::new(0)]).into_iter().filter(|_| name == "b").collect(),
        };
        let candidates = ["a", "b", "c"].map(node);
        let owned_by_c = CurrentRow { owner: Some(candidates[2].node.clone()), replicas: vec![] };
        let current = [CurrentRow::default(), owned_by_c];
        let partitions = PartitionCount::new(2).unwrap();
        let input = PlanInput { partitions, replicas: 2, candidates: &candidates, current: &current };
        match check(&Problem::new(&input).unwrap(), rows) {
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
    fn owners_out_of_balance_are_named() {
        let names = ["a", "b"];
        let node = |name| Candidate {
            node: NodeName::new(name).unwrap(),
            zone: None,
            weight: 1,
            draining: false,
            frozen: false,
            excluded: BTreeSet::new(),
        };
        let (candidates, current) = (names.map(node), [const { CurrentRow { owner: None, replicas: vec![] } }; 2]);
        let partitions = PartitionCount::new(2).unwrap();
        let input = PlanInput { partitions, replicas: 1, candidates: &candidates, current: &current };
        let problem = Problem::new(&input).unwrap();
        let refused = PlanError::Invalid { rule: "owners are balanced by weight", at: "node a".to_owned() };
        assert_eq!(check(&problem, &[vec![0], vec![1]]), Ok(()));
        assert_eq!(check(&problem, &[vec![0], vec![0]]), Err(refused));
    }
}
