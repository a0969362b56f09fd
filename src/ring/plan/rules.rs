//! One stage of planning as a table: how many places each partition has to fill, and what each node costs there.
//!
//! Owners and replicas are the same problem with different tables.

use super::problem::{Problem, Row};
use super::share::Share;

/// The node must not have a place in the partition.
pub(super) const FORBIDDEN: u32 = u32::MAX;

/// What a stage has to decide, and within which bounds.
pub(super) struct Rules<'a> {
    /// Zone of each node.
    pub(super) zones: &'a [usize],
    /// Share of each node in all places.
    pub(super) shares: Vec<Share>,
    /// Places to fill per partition.
    pub(super) places: Vec<usize>,
    /// Per partition the zones used already: the owner's, and those of places that are kept.
    pub(super) taken: Vec<Vec<usize>>,
    costs: Vec<u32>,
    fixed: Vec<bool>,
}

/// Who fills the places.
pub(super) struct Placement {
    /// Per partition.
    pub(super) holders: Vec<Vec<usize>>,
    /// Per node its partitions, in no order.
    pub(super) held: Vec<Vec<usize>>,
}

impl<'a> Rules<'a> {
    /// One place per partition: its owner's. A move outweighs all copies there can be.
    pub(super) fn for_owners(problem: &'a Problem<'_>) -> Self {
        let copies_at_most = u32::try_from(problem.rows.len()).unwrap_or(u32::MAX / 4);
        let cost = |row: &Row, node: usize| {
            // Where the owner has to go anyway its move is the same in every plan, so it need not be counted.
            let keeper = row.owner.filter(|&owner| problem.may_own(row, owner));
            let copy = u32::from(!row.in_sync.contains(&node));
            match keeper {
                _ if !problem.may_own(row, node) => FORBIDDEN,
                Some(owner) if owner == node => 0,
                Some(_) => copies_at_most + 1 + copy,
                None => copy,
            }
        };
        let count = problem.rows.len();
        Self::new(problem, vec![Vec::new(); count], &vec![1; count], cost, |_, _| false)
    }

    /// The places beside the owner's and those that are kept: `kept` has for each partition which of the absent nodes keep theirs.
    pub(super) fn for_replicas(problem: &'a Problem<'_>, owners: &[Option<usize>], kept: &[Vec<usize>]) -> Self {
        let cost = |row: &Row, node: usize| {
            let owner = owners[row.partition.index()];
            if owner.is_none() || owner == Some(node) || !problem.may_replicate(row, node) {
                FORBIDDEN
            } else {
                u32::from(!row.in_sync.contains(&node))
            }
        };
        let fixed = |row: &Row, node: usize| problem.keeps_copy(row, node);
        let zones_of = |(owner, kept): (&Option<usize>, &Vec<usize>)| {
            let owner = owner.iter().map(|&owner| problem.zones[owner]);
            owner.chain(kept.iter().map(|&absent| problem.absent[absent].zone)).collect()
        };
        let taken = owners.iter().zip(kept).map(zones_of).collect();
        let wanted: Vec<usize> = kept.iter().map(|kept| problem.replicas - 1 - kept.len()).collect();
        Self::new(problem, taken, &wanted, cost, fixed)
    }

    fn new(
        problem: &'a Problem<'_>,
        taken: Vec<Vec<usize>>,
        wanted: &[usize],
        cost: impl Fn(&Row, usize) -> u32,
        fixed: impl Fn(&Row, usize) -> bool,
    ) -> Self {
        let nodes = problem.nodes.len();
        let (cost, fixed) = (&cost, &fixed);
        let costs: Vec<u32> = problem.rows.iter().flat_map(|row| (0..nodes).map(move |n| cost(row, n))).collect();
        let fixed = problem.rows.iter().flat_map(|row| (0..nodes).map(move |n| fixed(row, n))).collect();
        let available = |p: usize| costs[p * nodes..][..nodes].iter().filter(|&&cost| cost != FORBIDDEN).count();
        let places: Vec<usize> = (0..problem.rows.len()).map(|p| available(p).min(wanted[p])).collect();
        let weights: Vec<u32> = problem.nodes.iter().map(|node| node.weight).collect();
        Self { zones: &problem.zones, shares: Share::of(places.iter().sum(), &weights), places, taken, costs, fixed }
    }

    pub(super) fn nodes(&self) -> usize {
        self.zones.len()
    }

    /// Whether the node neither gives nor takes a place of this partition.
    pub(super) fn is_fixed(&self, partition: usize, node: usize) -> bool {
        self.fixed[partition * self.nodes() + node]
    }

    /// What each node costs in this partition.
    pub(super) fn costs(&self, partition: usize) -> &[u32] {
        &self.costs[partition * self.nodes()..][..self.nodes()]
    }
}
