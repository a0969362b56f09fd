//! Who should own what: a pure function from members and claims to a plan.
//!
//! In: the candidates, and for each partition who holds it now. Out: for each partition its replicas, owner-to-be first.
//!
//! # What is best
//! *Eligible* is every candidate that is not draining. It *may own* a partition it does not exclude; and where a rule
//! binds the partition to one of these, no other may. The first of these rules that applies counts:
//!
//! - a **frozen** owner keeps it;
//! - the node it is **pinned** to gets it, unless that node is frozen;
//! - its owner keeps it where that is **cordoned**, or all is **paused**;
//! - else nodes that are neither frozen nor cordoned may own it, and where there is none, those that are cordoned.
//!
//! So a pin wins over cordon and pause, for it is the more explicit wish; a pin to a node that is away, draining or
//! unable is not in force. Nothing binds what has no eligible owner: crashes and drains find new owners in any case.
//!
//! A partition that some node may own is always assigned, one that nobody may own never. Let `Q` be the number of those assigned, and `W` the weight of all eligible nodes, frozen and cordoned
//! ones included (so that freezing or cordoning a node moves nothing). A node of weight `w` has the quota `Q * w / W`.
//! Among all assignments, in this order:
//!
//! 1. **Balance.** Every owner count is the quota rounded down or up. Where partitions are bound or excluded this can be
//!    out of reach; then the sum of `d * d / w` is the smallest possible, `d` being a node's distance from its rounded
//!    quota. So what one node must leave, must hold or cannot give up is shared by weight among the others.
//! 2. **Moves.** As few partitions as possible that have a live owner get another.
//! 3. **Copies.** As few owners-to-be as possible that are not in sync.
//! 4. A fixed choice by name and number, so that the order of the candidates plays no part.
//!
//! Given the owners, the replicas are chosen in the same way: each partition has as many as asked for or, with fewer
//! nodes, as there are; frozen and cordoned nodes keep theirs and get no other, and while all is paused every node keeps
//! its own; then as many different zones as there can be (nodes without a zone
//! count as one zone), then balance as above, then the fewest copies.
//!
//! # Who may come back
//! While a place is kept for a node that is away, nobody else is planned there: the partition has as many replicas less. It is kept
//! where the copies in sync, of nodes that stay, are a majority of those asked for, and two at the least; and where others
//! would get it. Meanwhile copies in sync stay where they are: balance waits, as while all is
//! paused. Owners are planned as always. Where a place of a node that is back is vacant yet, it counts as in
//! sync.
//!
//! # How it is found
//! Every partition starts on a node that is cheapest for it: its owner, else one in sync, else any (`start`). That
//! may be out of balance. A *chain* mends it: `a` gives a partition to `b`, `b` gives one to `c`, and so on; only the
//! counts of its two ends change. In terms of minimum-cost flow with convex costs a chain is an augmenting path, and
//! two theorems apply: as long as no closed chain saves anything, an assignment is the cheapest for its counts, and it
//! stays so if each chain taken is a cheapest one between its ends; and if no chain improves such an assignment, it is
//! the best of all. At the start nothing closed can save anything, since each partition is where it is cheapest. So:
//! take cheapest improving chains until there is none (`chain`). The last, fruitless search proves the optimum.
//!
//! A second call on the result finds no improving chain at its start, therefore moves nothing.

mod chain;
mod problem;
mod records;
mod rules;
mod share;
mod start;
mod validate;

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{NodeName, PartitionCount, PartitionId};
use problem::Problem;
pub use records::{Planned, Wishes, plan_rows};
use rules::Rules;

/// A live member that the plan may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub node: NodeName,
    /// Its failure zone.
    pub zone: Option<String>,
    /// Its share relative to other nodes; at least 1.
    pub weight: u32,
    /// On its way out: gets nothing and loses everything, also where it is frozen.
    pub draining: bool,
    /// Suspended: keeps what it has and gets nothing new, neither as owner nor as replica.
    pub frozen: bool,
    /// Keeps what it has and gets nothing new, as operators wish, while anybody else can take it.
    pub cordoned: bool,
    /// Partitions it must not hold, neither as owner nor as replica.
    pub excluded: BTreeSet<PartitionId>,
}

/// Who holds a partition now. Names that are no candidates are passed over: they are not live.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CurrentRow {
    /// The live owner, if there is one.
    pub owner: Option<NodeName>,
    /// The other in-sync replicas.
    pub replicas: Vec<NodeName>,
}

/// A node that had places among the copies and may come back. One that is a candidate of this name, and not draining, is back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// Who.
    pub node: NodeName,
    /// Its failure zone: used by the places that are kept for it.
    pub zone: Option<String>,
    /// Where it had a place.
    pub places: BTreeSet<PartitionId>,
}

/// Everything a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// How many partitions the ring has.
    pub partitions: PartitionCount,
    /// Copies of each partition, the owner's included; at least 1.
    pub replicas: usize,
    /// Live members, in any order.
    pub candidates: &'a [Candidate],
    /// One row per partition.
    pub current: &'a [CurrentRow],
    /// Whether what has an eligible owner stays there.
    pub paused: bool,
    /// Owners that operators want. Names that are no candidates and partitions that are not the ring's are passed over.
    pub pins: &'a BTreeMap<PartitionId, NodeName>,
    /// Who may come back, in any order, each name once.
    pub absent: &'a [Absent],
}

/// The plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// For each partition the owner-to-be, then the other replicas by name; empty where nobody may own it.
    pub rows: Vec<Vec<NodeName>>,
    /// For each partition whose place is kept in it, by name.
    pub kept: Vec<Vec<NodeName>>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The current rows are not those of this ring.
    #[error("current has {given} rows, the ring has {partitions} partitions")]
    Rows {
        /// Rows given.
        given: usize,
        /// Rows needed.
        partitions: usize,
    },
    /// No copy at all was asked for.
    #[error("replicas is 0, at least 1 is needed (the owner counts)")]
    NoReplicas,
    /// A weight below the limit.
    #[error("the weight of node {node} is 0, at least 1 is needed")]
    ZeroWeight {
        /// Whose.
        node: NodeName,
    },
    /// Two candidates of one name.
    #[error("node {node} is a candidate twice")]
    Duplicate {
        /// Which.
        node: NodeName,
    },
    /// The planner's own check of its result failed: a bug, and the result must not be used.
    #[error("the computed plan breaks the rule '{rule}' at {at}: this is a bug of the planner")]
    Invalid {
        /// Which rule.
        rule: &'static str,
        /// The partition or node.
        at: String,
    },
}

/// The best plan for `input`, as the [module](self) defines it.
///
/// # Errors
/// [`PlanError`] where the input contradicts itself.
pub fn plan(input: &PlanInput<'_>) -> Result<Assignment, PlanError> {
    let planned = solve_all(&Problem::new(input)?)?;
    let away = |absent: &Absent| !input.candidates.iter().any(|c| c.node == absent.node && !c.draining);
    if !input.absent.iter().any(away) || planned.kept.iter().any(|kept| !kept.is_empty()) {
        return Ok(planned);
    }
    // There is nothing to wait for: copies need not stay where they are.
    let back: Vec<Absent> = input.absent.iter().filter(|absent| !away(absent)).cloned().collect();
    solve_all(&Problem::new(&PlanInput { absent: &back, ..*input })?)
}

fn solve_all(problem: &Problem<'_>) -> Result<Assignment, PlanError> {
    let owners: Vec<Option<usize>> =
        solve(&Rules::for_owners(problem)).iter().map(|holders| holders.first().copied()).collect();
    let mut rows: Vec<Vec<usize>> = owners.iter().map(|owner| owner.iter().copied().collect()).collect();
    let kept = problem.rows.iter().zip(&owners).map(|(row, owner)| problem.kept_places(row, *owner));
    let kept: Vec<Vec<usize>> = kept.collect();
    if problem.replicas > 1 {
        for (row, mut others) in rows.iter_mut().zip(solve(&Rules::for_replicas(problem, &owners, &kept))) {
            others.sort_unstable();
            row.append(&mut others);
        }
    }
    validate::check(problem, &rows, &kept)?;
    let named = |row: Vec<usize>| row.into_iter().map(|node| problem.nodes[node].node.clone()).collect();
    let absent = |kept: Vec<usize>| kept.into_iter().map(|at| problem.absent[at].node.node.clone()).collect();
    Ok(Assignment { rows: rows.into_iter().map(named).collect(), kept: kept.into_iter().map(absent).collect() })
}

fn solve(rules: &Rules<'_>) -> Vec<Vec<usize>> {
    chain::improve(rules, start::place(rules)).holders
}
