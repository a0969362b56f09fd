//! The first placement: every partition on the cheapest nodes for it, with no regard to balance where that would cost.

use std::cmp::Reverse;

use super::rules::{FORBIDDEN, Placement, Rules};

/// Fills every place. Each partition for itself has the most zones and, given those, the least cost, so no closed
/// chain can save anything. Among equals the node furthest below its share is taken, which leaves little to mend.
pub(super) fn place(rules: &Rules<'_>) -> Placement {
    let partitions = rules.places.len();
    let mut placement = Placement { holders: vec![Vec::new(); partitions], held: vec![Vec::new(); rules.nodes()] };
    let mut order: Vec<usize> = (0..partitions).collect();
    // Those with the least choice first: the others can make room.
    order.sort_by_key(|&partition| cheapest_nodes(rules.costs(partition)));
    for partition in order {
        for _ in 0..rules.places[partition] {
            if let Some(node) = next_holder(rules, &placement, partition) {
                placement.holders[partition].push(node);
                placement.held[node].push(partition);
            }
        }
    }
    placement
}

fn cheapest_nodes(costs: &[u32]) -> usize {
    let least = costs.iter().min();
    costs.iter().filter(|&cost| Some(cost) == least).count()
}

fn next_holder(rules: &Rules<'_>, placement: &Placement, partition: usize) -> Option<usize> {
    let holders = &placement.holders[partition];
    let zone_used = |node: usize| {
        let taken = holders.iter().map(|&other| rules.zones[other]).chain(rules.taken[partition].iter().copied());
        taken.into_iter().any(|zone| zone == rules.zones[node])
    };
    let first = |node: usize, cost: u32| (Reverse(rules.is_fixed(partition, node)), zone_used(node), cost);
    let next = |node: usize| rules.shares[node].add(placement.held[node].len());
    let mut best = None;
    for (node, &cost) in rules.costs(partition).iter().enumerate() {
        if cost == FORBIDDEN || holders.contains(&node) {
            continue;
        }
        let rank = first(node, cost);
        let better = best.is_none_or(|(chosen, least)| rank < least || (rank == least && next(node) < next(chosen)));
        if better {
            best = Some((node, rank));
        }
    }
    best.map(|(node, _)| node)
}
