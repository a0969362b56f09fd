//! Chains of exchanges that improve a placement, cheapest first, until there is none.
//!
//! The graph has one vertex per node; the edge `a -> b` is the cheapest partition in which `b` may take the place of `a`
//! without a zone being lost. Distances are found as by Bellman and Ford: edges may be negative, cycles are not.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};

use super::rules::{FORBIDDEN, Placement, Rules};

/// No such edge, or not reached.
const NONE: i64 = i64::MAX;
const NOWHERE: usize = usize::MAX;
/// Distances order chains by the balance their first node gains, then by cost, then by length. Of equally cheap chains
/// the shortest never passes one place of a partition twice, so its exchanges do not disturb each other.
const COST_UNIT: i64 = 1 << 16;
const GAIN_UNIT: i64 = 1 << 46;

/// Applies improving chains until the placement is the best.
pub(super) fn improve(rules: &Rules<'_>, placement: Placement) -> Placement {
    let nodes = rules.nodes();
    let edges = nodes * nodes;
    let mut graph = Graph { rules, placement, cost: vec![NONE; edges], via: vec![NOWHERE; edges] };
    for edge in 0..edges {
        graph.choose(edge / nodes, edge % nodes);
    }
    while graph.improve_once() {}
    graph.placement
}

struct Graph<'a> {
    rules: &'a Rules<'a>,
    placement: Placement,
    /// Per edge, row by row, what it costs, and in which partition.
    cost: Vec<i64>,
    via: Vec<usize>,
}

/// Cheapest chains from the nodes worth taking from to all others.
struct Reach {
    distance: Vec<i64>,
    before: Vec<Option<usize>>,
}

impl Graph<'_> {
    /// What it costs that `to` takes the place of `from` in the partition; `None` where it may not, or a zone is lost.
    fn exchange(&self, partition: usize, from: usize, to: usize) -> Option<i64> {
        let (rules, holders) = (self.rules, &self.placement.holders[partition]);
        let costs = rules.costs(partition);
        let fixed = || rules.is_fixed(partition, from) || rules.is_fixed(partition, to);
        if costs[to] == FORBIDDEN || fixed() || holders.contains(&to) {
            return None;
        }
        let (zone, to_zone) = (rules.zones[from], rules.zones[to]);
        let others = holders.iter().filter(|&&other| other != from).map(|&other| rules.zones[other]);
        let stays = |zone: usize| rules.taken[partition].contains(&zone) || others.clone().any(|other| other == zone);
        let keeps_zones = zone == to_zone || stays(zone) || !stays(to_zone);
        keeps_zones.then(|| i64::from(costs[to]) - i64::from(costs[from]))
    }

    /// Orders partitions of one cost. Every target begins elsewhere, so that few edges choose the same partition and
    /// few have to choose again when it has gone.
    fn order(&self, to: usize) -> impl Fn(i64, usize) -> (i64, bool, usize) + use<> {
        let first = to * self.rules.places.len() / self.rules.nodes();
        move |cost, partition| (cost, partition < first, partition)
    }

    fn choose(&mut self, from: usize, to: usize) {
        let order = self.order(to);
        let offers = self.placement.held[from].iter().filter_map(|&p| Some((self.exchange(p, from, to)?, p)));
        let best = offers.min_by_key(|&(cost, p)| order(cost, p));
        let at = from * self.rules.nodes() + to;
        (self.cost[at], self.via[at]) = best.unwrap_or((NONE, NOWHERE));
    }

    /// Brings the edges out of `from` up to date after the holders of the partition changed.
    fn update(&mut self, from: usize, partition: usize) {
        let holds = self.placement.holders[partition].contains(&from);
        for to in 0..self.rules.nodes() {
            let at = from * self.rules.nodes() + to;
            if self.via[at] == partition {
                self.choose(from, to);
            } else if let Some(cost) = self.exchange(partition, from, to).filter(|_| holds) {
                let order = self.order(to);
                if self.cost[at] == NONE || order(cost, partition) < order(self.cost[at], self.via[at]) {
                    (self.cost[at], self.via[at]) = (cost, partition);
                }
            }
        }
    }

    fn step(&self, from: usize, to: usize) -> Option<i64> {
        let cost = self.cost[from * self.rules.nodes() + to];
        (cost != NONE).then(|| cost * COST_UNIT + 1)
    }

    fn count(&self, node: usize) -> usize {
        self.placement.held[node].len()
    }

    /// One search, and every improving chain it found that is still a cheapest one when its turn comes. (Chains of
    /// one search consist of edges that exactly span the difference of the distances at their ends; taking such a
    /// chain leaves the distances valid as lower bounds.)
    fn improve_once(&mut self) -> bool {
        let reach = self.search();
        let mut targets: Vec<usize> = (0..self.rules.nodes()).filter(|&node| reach.before[node].is_some()).collect();
        targets.sort_by_key(|&node| (self.rules.shares[node].add(self.count(node)), reach.distance[node]));
        let mut improved = false;
        for target in targets {
            let path = reach.path_to(target);
            while self.improves(&reach, &path) && (!improved || self.is_independent(&path)) {
                self.apply(&path);
                improved = true;
            }
        }
        improved
    }

    fn search(&self) -> Reach {
        let nodes = self.rules.nodes();
        let mut reach = Reach { distance: vec![NONE; nodes], before: vec![None; nodes] };
        let mut queue = self.sources(&mut reach.distance);
        let mut queued = vec![false; nodes];
        queue.iter().for_each(|&node| queued[node] = true);
        while let Some(from) = queue.pop_front() {
            queued[from] = false;
            let start = reach.distance[from];
            for (to, waiting) in queued.iter_mut().enumerate() {
                let Some(step) = self.step(from, to) else { continue };
                if start + step < reach.distance[to] {
                    reach.distance[to] = start + step;
                    reach.before[to] = Some(from);
                    if !std::mem::replace(waiting, true) {
                        queue.push_back(to);
                    }
                }
            }
        }
        reach
    }

    /// The nodes that a chain may begin with, best first, and their distances: those that save at least what the node
    /// furthest below its share would cost.
    fn sources(&self, distance: &mut [i64]) -> VecDeque<usize> {
        let shares = &self.rules.shares;
        let nodes = || 0..self.rules.nodes();
        let least = nodes().map(|node| shares[node].add(self.count(node))).min();
        let mut sources: Vec<_> = nodes()
            .filter_map(|node| Some((shares[node].remove(self.count(node))?, node)))
            .filter(|(saved, _)| Some(*saved) >= least)
            .collect();
        sources.sort_by(|(a, _), (b, _)| b.cmp(a));
        let mut rank = 0;
        for (i, &(saved, node)) in sources.iter().enumerate() {
            rank += i64::from(i > 0 && sources[i - 1].0 != saved);
            distance[node] = rank * GAIN_UNIT;
        }
        sources.into_iter().map(|(_, node)| node).collect()
    }

    /// Whether the chain is still a cheapest one between its ends, and the placement better with it.
    fn improves(&self, reach: &Reach, path: &[usize]) -> bool {
        let (Some(&first), Some(&last)) = (path.first(), path.last()) else { return false };
        let spans =
            |ends: &[usize]| self.step(ends[0], ends[1]) == Some(reach.distance[ends[1]] - reach.distance[ends[0]]);
        let Some(saved) = self.rules.shares[first].remove(self.count(first)) else { return false };
        let balance = self.rules.shares[last].add(self.count(last)).cmp(&saved);
        let cheaper = reach.distance[last] < reach.distance[first];
        let better = balance == Ordering::Less || (balance == Ordering::Equal && cheaper);
        better && path.windows(2).all(spans)
    }

    fn is_independent(&self, path: &[usize]) -> bool {
        let mut seen = BTreeSet::new();
        path.windows(2).all(|ends| seen.insert(self.via[ends[0] * self.rules.nodes() + ends[1]]))
    }

    fn apply(&mut self, path: &[usize]) {
        let mut stale: BTreeSet<(usize, usize)> = BTreeSet::new();
        for ends in path.windows(2) {
            let (from, to) = (ends[0], ends[1]);
            let partition = self.via[from * self.rules.nodes() + to];
            let Placement { holders, held } = &mut self.placement;
            holders[partition].iter_mut().filter(|holder| **holder == from).for_each(|holder| *holder = to);
            held[from].retain(|&kept| kept != partition);
            held[to].push(partition);
            stale.insert((from, partition));
            stale.extend(holders[partition].iter().map(|&holder| (holder, partition)));
        }
        stale.into_iter().for_each(|(node, partition)| self.update(node, partition));
    }
}

impl Reach {
    /// From the chain's first node to `target`.
    fn path_to(&self, target: usize) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(Some(target), |&node| self.before[node]).collect();
        path.reverse();
        path
    }
}
