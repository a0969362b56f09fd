//! A situation of the explored ring: the machines, the store, and everything that is on its way.
//!
//! In: a scenario. Out: the settled ring it starts from, and its parts for `moves` and `act` to change. Cheap to copy:
//! parts that a move leaves alone are shared.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::canon::{self, EPOCHS, LEASES, OPS, REVISIONS, TIMES, VERSIONS};
use super::tally::Tally;
use crate::coord::{
    CasError, Claim, ClaimState, Key, Lease, PlanRecord, Record, Revision, RingConfig, Update, WatchScope,
};
use crate::ring::io::{Input, Offer, OpId};
use crate::ring::machine::Machine;
use crate::ring::machine::tests::invariants::{Checker, Truth};
use crate::ring::settings::{Identity, Timing};
use crate::types::{Epoch, Generation, Incarnation, NodeId, NodeName, PartitionCount, PartitionId, Time};

/// The grain of time.
pub(super) const MS: u64 = 1_000_000;
/// Between heartbeats.
pub(super) const BEAT: Duration = Duration::from_millis(4);
/// Six beats.
pub(super) const LEASE: Duration = Duration::from_millis(24);
/// Two that are there and one that joins.
pub(super) const NODES: usize = 3;
/// As few as leave every node something to lose and something to win.
pub(super) const PARTITIONS: PartitionCount = PartitionCount::new(2).unwrap();

/// How often a thing may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Budget {
    pub(super) joins: u8,
    pub(super) crashes: u8,
    pub(super) pauses: u8,
    pub(super) timeouts: u8,
}

/// What is explored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) budget: Budget,
    /// The share of the node that joins; the others have 1. With 2 it gets one partition, with 8 both.
    pub(super) weight: u32,
    /// How many milliseconds anything may be on its way.
    pub(super) lag_ms: u64,
    /// Whether a node that was evicted starts again as a new incarnation.
    pub(super) returns: bool,
}

/// What the server does with requests for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub(super) enum Mode {
    #[default]
    Forward,
    Park {
        running: bool,
    },
    Serve,
}

/// A partition at a node.
#[derive(Debug, Clone, Copy, Default, Hash)]
pub(super) struct Part {
    pub(super) mode: Mode,
    pub(super) grant: Option<Epoch>,
}

/// What a watch has for a node.
#[derive(Debug, Clone, Hash)]
#[allow(clippy::large_enum_variant, reason = "few of them are alive at a time")]
pub(super) enum Watched {
    Snapshot { all: bool, updates: Vec<Update> },
    Change(Update),
}

/// What else is on its way to a node.
#[derive(Debug, Clone, Hash)]
pub(super) enum Thing {
    /// A write's outcome; after the deadline the node may have given up on it.
    Answer {
        op: OpId,
        result: Result<Revision, CasError>,
        deadline: Time,
    },
    /// `on_own` or `on_release` returns.
    HookEnds {
        op: OpId,
    },
    /// Nothing runs any more.
    Idle {
        partition: PartitionId,
        epoch: Epoch,
    },
    /// The state is with the target, unless that is gone.
    Transferred {
        to: NodeId,
        partition: PartitionId,
        epoch: Epoch,
    },
    Offered(Offer),
    Refused {
        partition: PartitionId,
        epoch: Epoch,
        reason: String,
    },
}

/// Something with the times between which it arrives.
#[derive(Debug, Clone, Hash)]
pub(super) struct Pending<T> {
    pub(super) from: Time,
    pub(super) by: Time,
    pub(super) what: T,
}

/// A process.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) name: NodeName,
    pub(super) session: u32,
    /// `None` before its start and after its end.
    pub(super) machine: Option<Machine>,
    pub(super) paused: bool,
    pub(super) gate: Time,
    pub(super) parts: [Part; PARTITIONS.get() as usize],
    pub(super) scope: Option<WatchScope>,
    /// In the order of the stream.
    pub(super) ring: VecDeque<Pending<Watched>>,
    pub(super) leases: VecDeque<Pending<Watched>>,
    /// In any order.
    pub(super) inbox: Vec<Pending<Thing>>,
}

impl Node {
    pub(super) fn id(&self) -> Option<NodeId> {
        self.machine.as_ref()?.id()
    }

    pub(super) fn runs(&self) -> bool {
        self.machine.is_some() && !self.paused
    }

    pub(super) fn is_due(&self, now: Time) -> bool {
        self.machine.as_ref().and_then(Machine::next_wake).is_some_and(|at| at <= now)
    }

    /// Whether requests for the partition can execute, and at which epoch. A paused process counts: its requests stand
    /// in the middle of something.
    pub(super) fn executes(&self, partition: PartitionId, now: Time) -> Option<(NodeId, Epoch)> {
        let part = &self.parts[partition.index()];
        let runs = matches!(part.mode, Mode::Serve | Mode::Park { running: true });
        let epoch = part.grant.filter(|_| runs && now < self.gate)?;
        Some((self.id()?, epoch))
    }
}

/// A write on its way to the store.
#[derive(Debug, Clone, Hash)]
pub(super) struct Writing {
    pub(super) process: usize,
    pub(super) session: u32,
    pub(super) op: OpId,
    pub(super) key: Key,
    pub(super) expected: Revision,
    pub(super) record: Record,
    pub(super) by: Time,
    pub(super) deadline: Time,
    /// Its answer will not count: it may land at any time from now on, or never.
    pub(super) stray: bool,
}

/// The store. Revisions grow by key; the creations of leases have one order, that of the nodes' ages.
#[derive(Debug, Clone, Default)]
pub(super) struct Kv {
    pub(super) records: BTreeMap<Key, (Revision, Record)>,
    pub(super) leases_written: BTreeMap<NodeName, Time>,
    /// Of the lease of this birth, what its last revision counts.
    pub(super) births: Vec<u64>,
}

impl Truth for Kv {
    fn claim(&self, partition: PartitionId) -> Option<&Claim> {
        match &self.records.get(&Key::Own(partition))?.1 {
            Record::Own(claim) => Some(claim),
            _ => None,
        }
    }

    fn lease(&self, node: &NodeName) -> Option<&Lease> {
        match &self.records.get(&Key::Lease(node.clone()))?.1 {
            Record::Lease(lease) => Some(lease),
            _ => None,
        }
    }
}

/// Whether a watch of `scope` follows the lease of `node`.
pub(super) fn follows(scope: &WatchScope, node: &NodeName) -> bool {
    match scope {
        WatchScope::AllLeases => true,
        WatchScope::Leases(names) => names.contains(node),
        WatchScope::Ring | WatchScope::Routes => false,
    }
}

impl Kv {
    pub(super) fn revision(&self, key: &Key) -> Revision {
        self.records.get(key).map_or(Revision::NONE, |(revision, _)| *revision)
    }

    /// The revision of the next write of `key`.
    fn next_revision(&mut self, key: &Key, record: &Record) -> Revision {
        let current = self.revision(key).0;
        let Record::Lease(lease) = record else {
            let number = canon::key_number(key);
            return Revision((REVISIONS | number << 32).max(current) + 1);
        };
        let Key::Lease(node) = key else { return Revision(current + 1) };
        if self.lease(node).is_some_and(|before| before.incarnation == lease.incarnation) {
            let birth = canon::birth(current);
            self.births[birth] += 1;
            return Revision(current + 1);
        }
        self.births.push(0);
        Revision(LEASES | (self.births.len() as u64 - 1) << 32)
    }

    pub(super) fn put(&mut self, key: &Key, record: &Record, now: Time) -> Revision {
        let revision = self.next_revision(key, record);
        self.records.insert(key.clone(), (revision, record.clone()));
        if let Key::Lease(node) = key {
            self.leases_written.insert(node.clone(), now);
        }
        revision
    }

    pub(super) fn snapshot(&self, wanted: impl Fn(&Key) -> bool) -> Vec<Update> {
        let wanted = self.records.iter().filter(|(key, _)| wanted(key));
        wanted
            .map(|(key, (revision, record))| Update { key: key.clone(), revision: *revision, record: record.clone() })
            .collect()
    }
}

/// A situation.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) now: Time,
    pub(super) nodes: [Arc<Node>; NODES],
    pub(super) kv: Arc<Kv>,
    pub(super) writes: Vec<Writing>,
    pub(super) left: Budget,
    pub(super) checker: Arc<Checker>,
    pub(super) scenario: &'static Scenario,
}

pub(super) fn timing() -> Timing {
    // Hooks are never so slow that it costs the lease: the worlds of `world` have that.
    let never = Duration::from_secs(1000);
    Timing {
        join_debounce: BEAT,
        move_timeout: BEAT * 3,
        hook_slow: never,
        hook_limit: never,
        backoff: BEAT,
        backoff_max: BEAT,
        ..Timing::for_lease(LEASE)
    }
}

fn former_owner() -> NodeId {
    let incarnation = Incarnation { start: 1, id: Uuid::from_u128(u128::MAX) };
    NodeId { node: NodeName::new("n0").expect("a name"), incarnation }
}

/// A ring that lived before: its partitions were given back, so that epochs and plans are counted from their marks.
fn heritage() -> Kv {
    let mut kv = Kv::default();
    let (generation, owner) = (Generation::new(1), former_owner());
    for partition in PARTITIONS.ids() {
        let epoch = Epoch::new(EPOCHS | u64::from(partition.get()) << 32);
        let claim =
            Claim { generation, epoch, owner: owner.clone(), replicas: Vec::new(), state: ClaimState::Released };
        kv.put(&Key::Own(partition), &Record::Own(claim), Time::ZERO);
    }
    let (members, gone, config, kept) = (Vec::new(), Vec::new(), RingConfig::default(), Vec::new());
    let rows = vec![Vec::new(); usize::from(PARTITIONS.get())];
    let plan = PlanRecord { version: VERSIONS, author: owner, generation, members, gone, rows, config, kept };
    kv.put(&Key::Plan, &Record::Plan(plan), Time::ZERO);
    kv
}

impl State {
    /// Two nodes that own one partition each, and nothing on its way.
    pub(super) fn settled(scenario: &'static Scenario) -> Self {
        let node = |number: usize| Node {
            name: NodeName::new(format!("n{number}")).expect("a name"),
            session: 0,
            machine: None,
            paused: false,
            gate: Time::ZERO,
            parts: Default::default(),
            scope: None,
            ring: VecDeque::new(),
            leases: VecDeque::new(),
            inbox: Vec::new(),
        };
        let mut state = Self {
            now: Time::from_nanos(TIMES + 1000 * MS),
            nodes: std::array::from_fn(|index| Arc::new(node(index + 1))),
            kv: Arc::new(heritage()),
            writes: Vec::new(),
            left: Budget::default(),
            checker: Arc::default(),
            scenario,
        };
        let mut tally = Tally::default();
        for index in 0..NODES - 1 {
            state.start(index, &mut tally).expect("a start");
            for _ in 0..300 {
                let first = state.moves().first().copied().expect("time goes on");
                state = state.after(first, &mut tally).expect("no invariant is broken");
            }
        }
        assert_eq!(state.unrest(), None, "the start is no settled ring");
        state.left = scenario.budget;
        state
    }

    /// A new incarnation of a node.
    pub(super) fn start(&mut self, index: usize, tally: &mut Tally) -> Result<(), String> {
        let now = self.now;
        let node = Arc::make_mut(&mut self.nodes[index]);
        node.session += 1;
        let life = (index as u64) << 8 | u64::from(node.session);
        let who = Identity {
            node: node.name.clone(),
            incarnation_id: Uuid::from_u128(u128::from(life)),
            generation: Generation::new(1),
            partitions: PARTITIONS,
            zone: None,
            weight: if index + 1 == NODES { self.scenario.weight } else { 1 },
            http: None,
            version: String::new(),
            replicates: false,
            former: None,
        };
        let mut machine = Machine::new(who, timing(), now);
        machine.last_op = OPS | life << 32;
        let scope = machine.first_scope();
        node.machine = Some(machine);
        let updates = self.kv.snapshot(|key| !matches!(key, Key::Lease(_)));
        self.watch(index, Watched::Snapshot { all: false, updates });
        self.watch_leases(index, scope);
        self.step(index, Input::Connection(true), tally)
    }

    /// Until when what is sent now has arrived.
    pub(super) fn by(&self) -> Time {
        self.now + Duration::from_millis(self.scenario.lag_ms)
    }

    pub(super) fn watch(&mut self, index: usize, what: Watched) {
        let (from, by) = (self.now, self.by());
        Arc::make_mut(&mut self.nodes[index]).ring.push_back(Pending { from, by, what });
    }

    pub(super) fn watch_leases(&mut self, index: usize, scope: WatchScope) {
        let updates = self.kv.snapshot(|key| matches!(key, Key::Lease(node) if follows(&scope, node)));
        let (from, by, all) = (self.now, self.by(), scope == WatchScope::AllLeases);
        let node = Arc::make_mut(&mut self.nodes[index]);
        node.scope = Some(scope);
        node.leases = VecDeque::from([Pending { from, by, what: Watched::Snapshot { all, updates } }]);
    }

    pub(super) fn post(&mut self, index: usize, from: Time, what: Thing) {
        let by = from.max(self.now) + Duration::from_millis(self.scenario.lag_ms);
        Arc::make_mut(&mut self.nodes[index]).inbox.push(Pending { from, by, what });
    }
}
