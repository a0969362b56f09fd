//! Minimum-cost maximum flow by successive shortest paths: the textbook method, on an explicit graph.

use std::collections::VecDeque;

const FAR: i64 = i64::MAX / 4;

struct Arc {
    to: usize,
    room: i64,
    cost: i64,
}

/// A network; each arc is followed by its reverse.
pub(crate) struct Network {
    arcs: Vec<Arc>,
    out: Vec<Vec<usize>>,
}

impl Network {
    pub(crate) fn new(vertices: usize) -> Self {
        Self { arcs: Vec::new(), out: vec![Vec::new(); vertices] }
    }

    pub(crate) fn arc(&mut self, from: usize, to: usize, room: i64, cost: i64) {
        self.out[from].push(self.arcs.len());
        self.arcs.push(Arc { to, room, cost });
        self.out[to].push(self.arcs.len());
        self.arcs.push(Arc { to: from, room: 0, cost: -cost });
    }

    /// The amount and cost of the cheapest of the largest flows.
    pub(crate) fn cheapest_flow(&mut self, source: usize, sink: usize) -> (i64, i64) {
        let (mut amount, mut cost) = (0, 0);
        while let Some((path, length)) = self.shortest_path(source, sink) {
            let room = path.iter().map(|&arc| self.arcs[arc].room).min().unwrap();
            for arc in path {
                self.arcs[arc].room -= room;
                self.arcs[arc ^ 1].room += room;
            }
            amount += room;
            cost += room * length;
        }
        (amount, cost)
    }

    fn shortest_path(&self, source: usize, sink: usize) -> Option<(Vec<usize>, i64)> {
        let (mut distance, mut by) = (vec![FAR; self.out.len()], vec![None; self.out.len()]);
        let (mut queue, mut queued) = (VecDeque::from([source]), vec![false; self.out.len()]);
        distance[source] = 0;
        while let Some(from) = queue.pop_front() {
            queued[from] = false;
            for &arc in &self.out[from] {
                let Arc { to, room, cost } = self.arcs[arc];
                if room > 0 && distance[from] + cost < distance[to] {
                    distance[to] = distance[from] + cost;
                    by[to] = Some(arc);
                    if !queued[to] {
                        queued[to] = true;
                        queue.push_back(to);
                    }
                }
            }
        }
        let mut path = Vec::new();
        let mut at = sink;
        while let Some(arc) = by[at] {
            path.push(arc);
            at = self.arcs[arc ^ 1].to;
        }
        (distance[sink] < FAR).then_some((path, distance[sink]))
    }
}
