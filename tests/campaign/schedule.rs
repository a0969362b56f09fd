//! What is done to a ring, and when: made from a seed, before anything runs.
//!
//! Kinds of faults are dealt from a shuffled deck, so that a short round has met most of them. A fault lasts 0.5 to 6 s; then all is
//! healed, and two times in three the next one waits until the rings are whole, then 3 to 5 s. So each fault is followed by as much
//! time without it as it cost, or more. What it costs, with a lease of 2 s: a crash some 2.5 s of one node's partitions, a third at the most, where writes
//! are retried for 5 s and reads for 2 s; JetStream's three servers without a leader 6 to 9 s of everything, in 5 of 12 faults on the cluster. A client that
//! was not served waits half a second, so it does one operation or less a second then, and ten to sixteen otherwise: in
//! a round of nothing but elections 1 of 10 would fail. Every eleventh or twelfth fault is an outage of all of NATS.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

/// Length of the lease of all nodes.
pub const LEASE: Duration = Duration::from_secs(2);
/// Nodes of the cache at the start, and at the least; at the most.
pub const NODES: std::ops::RangeInclusive<usize> = 3..=5;
/// Nodes that write to the sink.
pub const WRITERS: usize = 3;
/// Connections of plain clients.
pub const CLIENT_LINKS: usize = 2;

/// Where NATS runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Single,
    /// Three servers, the buckets in three copies.
    Cluster,
}

impl Topology {
    pub fn servers(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Cluster => 3,
        }
    }
}

/// Kind of a fault, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KillNode,
    KillNodeForGood,
    KillTwoNodes,
    Freeze,
    LinkCut,
    LinkStalled,
    LinkSwallows,
    LinkSlow,
    CutOffFromTwo,
    ClientLink,
    KillServer,
    KillLeader,
    KillAllServers,
    RoutesCut,
    RoutesStalled,
}

const SINGLE: &[Kind] = &[
    Kind::KillNode,
    Kind::KillNodeForGood,
    Kind::KillTwoNodes,
    Kind::Freeze,
    Kind::Freeze,
    Kind::LinkCut,
    Kind::LinkStalled,
    Kind::LinkSwallows,
    Kind::LinkSlow,
    Kind::ClientLink,
    Kind::KillAllServers,
];

const CLUSTER: &[Kind] = &[
    Kind::KillNode,
    Kind::KillNodeForGood,
    Kind::Freeze,
    Kind::LinkSwallows,
    Kind::CutOffFromTwo,
    Kind::CutOffFromTwo,
    Kind::ClientLink,
    Kind::KillServer,
    Kind::KillLeader,
    Kind::KillAllServers,
    Kind::RoutesCut,
    Kind::RoutesStalled,
];

/// Which way nothing gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Both,
    ToServer,
    FromServer,
}

/// A fault, with all that was left to chance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    /// The nodes it is done to; none where it is done to servers or clients.
    pub nodes: Vec<String>,
    /// The server it is done to, or for a link the one it leads to; `None` for all.
    pub server: Option<usize>,
    pub direction: Direction,
    /// Who comes instead of a node that was killed for good.
    pub instead: Option<String>,
}

/// A planned change beside the fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    Join(String),
    Drain(String),
}

/// One fault and the time after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub fault: Fault,
    pub lasts: Duration,
    pub planned: Option<Planned>,
    /// Whether the rings are to be whole before the rest begins.
    pub patient: bool,
    pub rest: Duration,
}

/// Names of the nodes at the start.
pub fn first_nodes() -> (Vec<String>, Vec<String>) {
    let named = |prefix: &str, count| (1..=count).map(|n| format!("{prefix}-{n}")).collect();
    (named("node", *NODES.start() + 1), named("writer", WRITERS))
}

/// So many steps.
pub fn steps(seed: u64, topology: Topology, count: usize) -> Vec<Step> {
    let rng = StdRng::seed_from_u64(seed);
    let (nodes, writers) = first_nodes();
    let mut maker = Maker { rng, topology, named: nodes.len(), nodes, writers, deck: Vec::new() };
    (0..count).map(|_| maker.step()).collect()
}

struct Maker {
    rng: StdRng,
    topology: Topology,
    nodes: Vec<String>,
    writers: Vec<String>,
    /// How many names were given to nodes.
    named: usize,
    deck: Vec<Kind>,
}

impl Maker {
    fn step(&mut self) -> Step {
        if self.deck.is_empty() {
            self.deck = if self.topology == Topology::Single { SINGLE } else { CLUSTER }.to_vec();
            self.deck.shuffle(&mut self.rng);
        }
        let kind = self.deck.pop().unwrap();
        let fault = self.fault(kind);
        let planned = self.planned(&fault);
        let lasts = self.rng.random_range(Self::lasts_ms(kind));
        let (patient, rest) = (self.rng.random_ratio(2, 3), self.rng.random_range(3000..5000));
        Step { fault, lasts: Duration::from_millis(lasts), planned, patient, rest: Duration::from_millis(rest) }
    }

    /// Beyond the lease for what costs one node its lease, shorter for what stops everybody.
    fn lasts_ms(kind: Kind) -> std::ops::Range<u64> {
        match kind {
            Kind::KillNode | Kind::KillNodeForGood => 500..4000,
            Kind::KillAllServers => 500..3000,
            Kind::ClientLink => 1000..3000,
            Kind::LinkSlow => 3000..6000,
            _ => 2500..6000,
        }
    }

    fn fault(&mut self, kind: Kind) -> Fault {
        let directions = [Direction::Both, Direction::Both, Direction::ToServer, Direction::FromServer];
        let direction = *directions.choose(&mut self.rng).unwrap();
        let mut fault = Fault { kind, nodes: Vec::new(), server: None, direction, instead: None };
        match kind {
            Kind::KillNodeForGood => {
                let at = self.rng.random_range(0..self.nodes.len());
                let new = self.new_name();
                fault.nodes.push(std::mem::replace(&mut self.nodes[at], new.clone()));
                fault.instead = Some(new);
            }
            Kind::KillTwoNodes => fault.nodes = self.nodes.sample(&mut self.rng, 2).cloned().collect(),
            Kind::ClientLink | Kind::KillLeader | Kind::KillAllServers => {}
            Kind::KillServer | Kind::RoutesCut | Kind::RoutesStalled => {
                fault.server = Some(self.rng.random_range(0..self.topology.servers()));
            }
            Kind::CutOffFromTwo => {
                fault.nodes.push(self.someone());
                // The one it still has.
                fault.server = Some(self.rng.random_range(0..self.topology.servers()));
            }
            _ => fault.nodes.push(self.someone()),
        }
        fault
    }

    /// A node of the cache, or one time in four a writer.
    fn someone(&mut self) -> String {
        let from = if self.rng.random_bool(0.25) { &self.writers } else { &self.nodes };
        from.choose(&mut self.rng).unwrap().clone()
    }

    fn new_name(&mut self) -> String {
        self.named += 1;
        format!("node-{}", self.named)
    }

    /// In every other step a node of the cache joins or leaves, one that the fault is not done to.
    fn planned(&mut self, fault: &Fault) -> Option<Planned> {
        if self.rng.random_bool(0.5) {
            return None;
        }
        let count = self.nodes.len();
        let drains = count > *NODES.start() && (count >= *NODES.end() || self.rng.random_bool(0.5));
        if !drains {
            let name = self.new_name();
            self.nodes.push(name.clone());
            return Some(Planned::Join(name));
        }
        let at = self.rng.random_range(0..count);
        let touched = fault.nodes.contains(&self.nodes[at]) || fault.instead.as_ref() == Some(&self.nodes[at]);
        (!touched).then(|| Planned::Drain(self.nodes.remove(at)))
    }
}

#[test]
fn the_same_seed_gives_the_same_steps_and_another_seed_others() {
    let steps_of = |seed| steps(seed, Topology::Cluster, 20);
    assert_eq!(steps_of(7), steps_of(7));
    assert_ne!(steps_of(7), steps_of(8));
}

#[test]
fn total_outages_are_rare_nodes_stay_within_bounds_and_every_kind_comes_up() {
    for (topology, kinds) in [(Topology::Single, SINGLE), (Topology::Cluster, CLUSTER)] {
        let steps = steps(3, topology, 120);
        let outages = steps.iter().filter(|step| step.fault.kind == Kind::KillAllServers).count();
        assert!((9..12).contains(&outages), "{outages} outages of everything in 120 faults");
        assert!(kinds.iter().all(|kind| steps.iter().any(|step| step.fault.kind == *kind)), "{topology:?}");
        let mut count = *NODES.start() + 1;
        for step in &steps {
            match step.planned {
                Some(Planned::Join(_)) => count += 1,
                Some(Planned::Drain(_)) => count -= 1,
                None => {}
            }
            assert!(NODES.contains(&count), "{count} nodes");
        }
    }
}
