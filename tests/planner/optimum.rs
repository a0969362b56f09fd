//! The least cost any plan can have, by minimum-cost flow and, for tiny rings, by trying everything.
//!
//! Costs are one number: imbalance, then moves, then copies, each outweighing all that follow.

use std::collections::BTreeMap;

use nats_ring::ring::plan::{Absent, Candidate, PlanInput};
use nats_ring::types::PartitionId;

use crate::flow::Network;

/// Makes `1 / weight` whole for the weights the histories use.
const WEIGHTS_LCM: i64 = 12;

/// A candidate that is not draining, and what the input says of it at each partition.
pub(crate) struct View<'a> {
    pub(crate) input: PlanInput<'a>,
    pub(crate) eligible: Vec<&'a Candidate>,
    /// Nothing but weights decides how many partitions a node gets.
    pub(crate) is_free: bool,
    total_weight: i64,
    /// Whether any place is kept: then copies stay where they are.
    pub(crate) waits: bool,
}

impl<'a> View<'a> {
    pub(crate) fn new(input: PlanInput<'a>) -> Self {
        let eligible: Vec<_> = input.candidates.iter().filter(|c| !c.draining).collect();
        let unbound = |node: &&Candidate| !node.frozen && !node.cordoned && node.excluded.is_empty();
        let is_free = eligible.iter().all(unbound) && !input.paused && input.pins.is_empty();
        let total_weight = eligible.iter().map(|node| i64::from(node.weight)).sum();
        Self { input, eligible, is_free, total_weight, waits: false }
    }

    pub(crate) fn partitions(&self) -> usize {
        self.input.current.len()
    }

    pub(crate) fn excludes(&self, p: usize, node: &Candidate) -> bool {
        node.excluded.contains(&PartitionId::new(u16::try_from(p).unwrap()))
    }

    pub(crate) fn owns(&self, p: usize, node: &Candidate) -> bool {
        self.input.current[p].owner.as_ref() == Some(&node.node)
    }

    pub(crate) fn in_sync(&self, p: usize, node: &Candidate) -> bool {
        let is_back = || self.input.absent.iter().any(|back| back.node == node.node && has_place(back, p));
        let now = || self.eligible.iter().filter(|node| self.is_in_sync_now(p, node)).count();
        self.is_in_sync_now(p, node) || (is_back() && now() < self.input.replicas)
    }

    fn is_in_sync_now(&self, p: usize, node: &Candidate) -> bool {
        self.owns(p, node) || self.input.current[p].replicas.contains(&node.node)
    }

    /// Whose places are kept in a partition of this owner.
    pub(crate) fn kept_places(&self, p: usize, owner: usize) -> Vec<&'a Absent> {
        let copies = |in_sync: &dyn Fn(&Candidate) -> bool| {
            self.eligible.iter().filter(|node| in_sync(node) && !self.excludes(p, node)).count()
        };
        let now = copies(&|node| self.is_in_sync_now(p, node));
        let new_owner = usize::from(!self.in_sync(p, self.eligible[owner]));
        let missing = self.input.replicas.saturating_sub(copies(&|node| self.in_sync(p, node)) + new_owner);
        let away = |absent: &&Absent| self.eligible.iter().all(|node| node.node != absent.node);
        let mut had_one: Vec<_> = self.input.absent.iter().filter(away).filter(|absent| has_place(absent, p)).collect();
        had_one.sort_by(|a, b| a.node.cmp(&b.node));
        had_one.truncate(missing);
        let could = |node: &Candidate| !self.excludes(p, node) && (!self.is_bound(node) || self.in_sync(p, node));
        let nodes = (0..self.eligible.len()).filter(|&n| n == owner || could(self.eligible[n])).count();
        let for_others = nodes > self.input.replicas - had_one.len();
        if now < 2 || 2 * now <= self.input.replicas || !for_others { Vec::new() } else { had_one }
    }

    /// The nodes that may own the partition: first the rules that leave one, then everybody who gets new ones.
    pub(crate) fn possible_owners(&self, p: usize) -> Vec<usize> {
        let id = PartitionId::new(u16::try_from(p).unwrap());
        let able: Vec<usize> = (0..self.eligible.len()).filter(|&n| !self.excludes(p, self.eligible[n])).collect();
        let those = |wanted: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
            able.iter().copied().filter(|&n| wanted(self.eligible[n])).collect()
        };
        let tiers = [
            those(&|node| node.frozen && self.owns(p, node)),
            those(&|node| !node.frozen && self.input.pins.get(&id) == Some(&node.node)),
            those(&|node| (self.input.paused || node.cordoned) && self.owns(p, node)),
            those(&|node| !node.frozen && !node.cordoned),
            those(&|node| !node.frozen),
        ];
        tiers.into_iter().find(|tier| !tier.is_empty()).unwrap_or_default()
    }

    /// Whether the node keeps its copy of the partition, if it has one, and gets no other.
    pub(crate) fn is_bound(&self, node: &Candidate) -> bool {
        node.frozen || node.cordoned
    }

    pub(crate) fn keeps_copy(&self, p: usize, node: &Candidate) -> bool {
        (self.input.paused || self.waits || self.is_bound(node)) && self.in_sync(p, node)
    }

    fn move_unit(&self) -> i64 {
        self.partitions() as i64 + 1
    }

    fn balance_unit(&self) -> i64 {
        self.move_unit() * self.move_unit()
    }

    pub(crate) fn owner_cost(&self, p: usize, n: usize) -> i64 {
        let node = self.eligible[n];
        let owner = &self.input.current[p].owner;
        let moved = self.input.candidates.iter().any(|c| Some(&c.node) == owner.as_ref() && c.node != node.node);
        i64::from(moved) * self.move_unit() + i64::from(!self.in_sync(p, node))
    }

    /// What it costs the balance that node `n` holds `count` of `places`.
    pub(crate) fn imbalance(&self, n: usize, count: usize, places: usize) -> i64 {
        let (count, (low, high)) = (count as i64, self.quota(n, places));
        let distance = (low - count).max(count - high).max(0);
        // Where the quota can be met any price for missing it will do; a straight one makes a smaller graph.
        let penalty = if self.is_free && self.input.replicas == 1 { distance } else { distance * distance };
        penalty * (WEIGHTS_LCM / i64::from(self.eligible[n].weight)) * self.balance_unit()
    }

    /// The quota of node `n` in `places`, rounded down and up.
    pub(crate) fn quota(&self, n: usize, places: usize) -> (i64, i64) {
        let scaled = places as i64 * i64::from(self.eligible[n].weight);
        (scaled / self.total_weight, (scaled + self.total_weight - 1) / self.total_weight)
    }

    /// The part of the graph from the nodes to the sink: one arc per stretch of equal marginal cost.
    fn node_arcs(&self, network: &mut Network, first_node: usize, sink: usize, places: usize) -> i64 {
        let mut nothing_held = 0;
        for n in 0..self.eligible.len() {
            nothing_held += self.imbalance(n, 0, places);
            let costs: Vec<i64> = (0..=places).map(|count| self.imbalance(n, count, places)).collect();
            let marginals: Vec<i64> = costs.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let mut start = 0;
            for end in 1..=places {
                if end == places || marginals[end] != marginals[start] {
                    network.arc(first_node + n, sink, (end - start) as i64, marginals[start]);
                    start = end;
                }
            }
        }
        nothing_held
    }
}

fn has_place(absent: &Absent, p: usize) -> bool {
    absent.places.contains(&PartitionId::new(u16::try_from(p).unwrap()))
}

/// The least cost of an assignment of owners. Partitions that are alike for every node are one vertex.
pub(crate) fn owners_by_flow(input: &PlanInput<'_>) -> i64 {
    let view = View::new(*input);
    let mut kinds: BTreeMap<Vec<(usize, i64)>, i64> = BTreeMap::new();
    for p in 0..view.partitions() {
        let options: Vec<_> = view.possible_owners(p).into_iter().map(|n| (n, view.owner_cost(p, n))).collect();
        if !options.is_empty() {
            *kinds.entry(options).or_default() += 1;
        }
    }
    let (source, sink, first_node) = (0, 1, 2);
    let first_kind = first_node + view.eligible.len();
    let mut network = Network::new(first_kind + kinds.len());
    let places: i64 = kinds.values().sum();
    for (kind, (options, &count)) in kinds.iter().enumerate() {
        network.arc(source, first_kind + kind, count, 0);
        for &(n, cost) in options {
            network.arc(first_kind + kind, first_node + n, count, cost);
        }
    }
    let nothing_held = view.node_arcs(&mut network, first_node, sink, usize::try_from(places).unwrap());
    let (amount, cost) = network.cheapest_flow(source, sink);
    assert_eq!(amount, places);
    nothing_held + cost
}

/// The cost of given owners, by the same measure.
pub(crate) fn owners_cost(view: &View<'_>, owners: &[Option<usize>]) -> i64 {
    let held = |n: usize| owners.iter().filter(|&&owner| owner == Some(n)).count();
    let places = owners.iter().flatten().count();
    let balance: i64 = (0..view.eligible.len()).map(|n| view.imbalance(n, held(n), places)).sum();
    balance + owners.iter().enumerate().filter_map(|(p, owner)| Some(view.owner_cost(p, (*owner)?))).sum::<i64>()
}

/// The least cost, by trying every assignment.
pub(crate) fn owners_by_brute_force(input: &PlanInput<'_>) -> i64 {
    let view = View::new(*input);
    let mut all: Vec<Vec<Option<usize>>> = vec![Vec::new()];
    for p in 0..view.partitions() {
        let mut options: Vec<Option<usize>> = view.possible_owners(p).into_iter().map(Some).collect();
        if options.is_empty() {
            options.push(None);
        }
        let extend = |owners: &Vec<Option<usize>>, &option: &Option<usize>| [owners.clone(), vec![option]].concat();
        all = all.iter().flat_map(|owners| options.iter().map(move |option| extend(owners, option))).collect();
    }
    all.iter().map(|owners| owners_cost(&view, owners)).min().unwrap()
}

/// A partition's places beside the owner's: those frozen nodes keep, and who may fill the others.
pub(crate) struct Places {
    pub(crate) kept: Vec<usize>,
    pub(crate) open: usize,
    pub(crate) options: Vec<usize>,
    /// The zones of places that are kept for who is away.
    pub(crate) vacant: Vec<Option<String>>,
}

/// The least cost of replicas where owners and kept places are given: zones lost, imbalance, copies.
pub(crate) fn replicas_by_flow(view: &View<'_>, owners: &[Option<usize>], places: &[Places]) -> i64 {
    let (source, sink, first_node) = (0, 1, 2);
    let nodes = view.eligible.len();
    let mut network = Network::new(first_node + nodes + places.len() * (1 + nodes));
    let total: usize = places.iter().map(|place| place.kept.len() + place.open).sum();
    let (mut kept_cost, mut wanted) = (0, 0);
    for (p, place) in places.iter().enumerate() {
        let partition = first_node + nodes + p * (1 + nodes);
        wanted += place.open + place.kept.len();
        network.arc(source, partition, place.open as i64, 0);
        let used = owners[p].iter().chain(&place.kept).map(|&n| &view.eligible[n].zone);
        let used: Vec<_> = used.chain(&place.vacant).collect();
        let mut zones: Vec<_> = place.options.iter().map(|&n| &view.eligible[n].zone).collect();
        zones.sort();
        zones.dedup();
        for (z, zone) in zones.into_iter().enumerate() {
            let vertex = partition + 1 + z;
            if !used.contains(&zone) {
                network.arc(partition, vertex, 1, -zone_unit(view));
            }
            network.arc(partition, vertex, nodes as i64, 0);
            for &n in place.options.iter().filter(|&&n| &view.eligible[n].zone == zone) {
                network.arc(vertex, first_node + n, 1, i64::from(!view.in_sync(p, view.eligible[n])));
            }
        }
        for &n in &place.kept {
            // Worth more than anything, so that the flow surely goes there.
            network.arc(source, first_node + n, 1, -kept_unit(view));
            kept_cost += kept_unit(view);
        }
    }
    let nothing_held = view.node_arcs(&mut network, first_node, sink, total);
    let (amount, cost) = network.cheapest_flow(source, sink);
    assert_eq!(amount, wanted as i64);
    nothing_held + cost + kept_cost
}

/// The cost of given replicas, by the same measure; each row begins with the owner.
pub(crate) fn replicas_cost(view: &View<'_>, rows: &[Vec<usize>], places: &[Places]) -> i64 {
    let total: usize = places.iter().map(|place| place.kept.len() + place.open).sum();
    let held = |n: usize| rows.iter().filter(|row| row.iter().skip(1).any(|&other| other == n)).count();
    let mut cost: i64 = (0..view.eligible.len()).map(|n| view.imbalance(n, held(n), total)).sum();
    for (p, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_empty()) {
        let before: Vec<usize> = row[..1].iter().chain(&places[p].kept).copied().collect();
        let zones = |nodes: &[usize]| distinct_zones(view, nodes, &places[p].vacant);
        cost -= zone_unit(view) * (zones(row) - zones(&before)) as i64;
        cost += row[1..].iter().filter(|&&n| !view.in_sync(p, view.eligible[n])).count() as i64;
    }
    cost
}

pub(crate) fn distinct_zones(view: &View<'_>, nodes: &[usize], vacant: &[Option<String>]) -> usize {
    let mut zones: Vec<_> = nodes.iter().map(|&n| &view.eligible[n].zone).chain(vacant).collect();
    zones.sort();
    zones.dedup();
    zones.len()
}

/// More than the balance can cost in all.
fn zone_unit(view: &View<'_>) -> i64 {
    let worst = (4 * view.partitions()) as i64;
    worst * worst * WEIGHTS_LCM * view.balance_unit() * 16
}

fn kept_unit(view: &View<'_>) -> i64 {
    zone_unit(view) * 64
}
