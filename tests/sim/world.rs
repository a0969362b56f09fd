//! The ring of a run, its processes, and what of it is wrong at the moment.
//!
//! In: processes to be started. Out: nodes to call through; what the schedule says is done to it in `acts`.

mod acts;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nats_ring::cache::{CacheConfig, CacheService, CacheStats};
use nats_ring::node::{NodeError, Ring};
use nats_ring::rpc::server::ServerLimits;
use nats_ring::service::Service;
use nats_ring::testing::{BusFaults, NodeProcess, StoreFaults, TestNode, TestRing};
use nats_ring::types::{Clock, Consistency, KeyHash, NodeName, PartitionCount, PartitionId, Time};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::fired::{Fired, Kind};
use crate::generator::{NodeSpec, Scenario};
use crate::history::{ProcessId, What, Witness};
use crate::load::{Figures, LIMITS};
use crate::schedule::{Action, Wires};
use crate::service::{Mood, Recorded};

/// Far more than the work load writes: nothing is evicted.
const MEMORY_BYTES: u64 = 64 << 20;
/// What brings back a process that ended by itself waits so long.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Nodes at once.
const NODES_MAX: usize = 9;

/// A process that has not ended.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) process: ProcessId,
    pub(crate) spec: NodeSpec,
    pub(crate) ring: Ring,
    pub(crate) mood: Arc<Mood>,
    /// Its callers stop with it.
    gone: CancellationToken,
    pub(crate) draining: bool,
    pub(crate) paused: bool,
    pub(crate) cut: bool,
    /// The service, to see what it holds.
    service: Arc<Recorded>,
    pub(crate) wedged: bool,
    /// Calls that go through it.
    calls: TaskTracker,
}

/// What ends something that began.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Resume(ProcessId),
    Heal(ProcessId, Wires),
    Hooks(ProcessId),
    Unwedge(ProcessId),
    Fast(ProcessId),
    Back,
    Bus,
    Leader,
    Cas,
    Watch,
    Start { name: String, spec: NodeSpec },
    Do(Action),
}

/// A node to call through, held for as long as the call takes.
pub(crate) struct Through {
    pub(crate) ring: Ring,
    pub(crate) gone: CancellationToken,
    _call: TaskTrackerToken,
}

/// Everything of one run.
pub(crate) struct World {
    pub(crate) ring: TestRing,
    pub(crate) scenario: Scenario,
    pub(crate) witness: Arc<Witness>,
    pub(crate) figures: Figures,
    pub(crate) keys: Vec<Bytes>,
    pub(crate) fired: Mutex<Fired>,
    began: Time,
    state: Mutex<State>,
}

struct State {
    members: Vec<Member>,
    store_faults: StoreFaults,
    bus_faults: BusFaults,
    /// Until when something may come that a watch was slow to tell.
    told_by: Duration,
    /// Reads do not work: nobody can start.
    unreadable: bool,
    processes: u16,
    /// Processes of each name so far.
    of_name: BTreeMap<String, u32>,
    names: usize,
    starting: usize,
    ends: Vec<(Duration, End)>,
}

/// A node's own clock, at its own rate, as the ring makes it.
struct Rated {
    inner: Arc<dyn Clock>,
    began: Time,
    rate: f64,
}

impl Clock for Rated {
    fn now(&self) -> Time {
        let now = self.inner.now();
        if self.rate == 1.0 { now } else { self.began + now.since(self.began).mul_f64(self.rate) }
    }
}

/// The bus while nothing is wrong with it.
fn usual_bus(scenario: &Scenario) -> BusFaults {
    let (delay, subscribe) = (scenario.bus_delay, scenario.subscribe_delay);
    BusFaults { delay, delay_in: delay, subscribe, ..BusFaults::default() }
}

/// The store while nothing is wrong with it.
fn usual_store(scenario: &Scenario) -> StoreFaults {
    StoreFaults { watch_lag: scenario.watch_lag, ..StoreFaults::default() }
}

impl World {
    pub(crate) fn new(ring: TestRing, scenario: Scenario, witness: Arc<Witness>, keys: Vec<Bytes>) -> Arc<Self> {
        let usual = usual_bus(&scenario);
        ring.set_bus_faults(usual);
        ring.set_store_faults(usual_store(&scenario));
        let state = State {
            members: Vec::new(),
            store_faults: usual_store(&scenario),
            bus_faults: usual,
            told_by: Duration::ZERO,
            unreadable: false,
            processes: 0,
            of_name: BTreeMap::new(),
            names: 0,
            starting: 0,
            ends: Vec::new(),
        };
        let (figures, fired) = (Figures::default(), Mutex::default());
        let began = ring.clock().now();
        Arc::new(Self { began, ring, scenario, witness, figures, keys, fired, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fire(&self, kind: Kind) {
        self.fired.lock().unwrap_or_else(PoisonError::into_inner).add(kind, 1);
    }

    /// Of a key.
    pub(crate) fn partition_of(&self, key: &str) -> PartitionId {
        let count = PartitionCount::new(self.scenario.partitions).expect("drawn in its range");
        KeyHash::default().partition(key.as_bytes(), count)
    }

    /// Of one of the keys.
    pub(crate) fn partition_of_key(&self, key: usize) -> PartitionId {
        self.ring.partition_for(&self.keys[key])
    }

    /// The level that operators want where a request names none.
    pub(crate) fn asked_level(&self) -> Consistency {
        self.scenario.copying.map_or(Consistency::Eventual, |copying| copying.rules.consistency)
    }

    /// The level that is surely in force there: once the store went back it may have forgotten what they want.
    pub(crate) fn usual_level(&self) -> Consistency {
        let forgotten = self.witness.ask(|judge| judge.sizes.is_forgotten());
        if forgotten { Consistency::Eventual } else { self.asked_level() }
    }

    /// What is due later, since the last time it was asked for.
    pub(crate) fn take_ends(&self) -> Vec<(Duration, End)> {
        std::mem::take(&mut self.state().ends)
    }

    fn later(&self, after: Duration, end: End) {
        let at = self.witness.now() + after;
        self.state().ends.push((at, end));
    }

    /// Starting or there.
    pub(crate) fn nodes(&self) -> usize {
        let state = self.state();
        state.members.len() + state.starting
    }

    pub(crate) fn starting(&self) -> usize {
        self.state().starting
    }

    /// Asked to leave, and not gone yet.
    pub(crate) fn is_anybody_leaving(&self) -> bool {
        self.state().members.iter().any(|member| member.draining)
    }

    /// A node that is up and not stopped, to call through.
    pub(crate) fn some_node(&self, who: usize) -> Option<Through> {
        let state = self.state();
        let up: Vec<&Member> = state.members.iter().filter(|member| !member.paused && !member.draining).collect();
        let member = up.get(who % up.len().max(1))?;
        Some(Through { ring: member.ring.clone(), gone: member.gone.clone(), _call: member.calls.token() })
    }

    /// Names of all that are there and not on their way out.
    pub(crate) fn staying(&self) -> Vec<String> {
        self.state().members.iter().filter(|m| !m.draining).map(|member| member.name.clone()).collect()
    }

    /// Whether anybody else takes part and stays.
    fn is_another_ready(&self, than: ProcessId) -> bool {
        let state = self.state();
        let others = state.members.iter().filter(|member| member.process != than && !member.draining);
        others.into_iter().any(|member| member.ring.status().not_ready.is_none())
    }

    fn note(&self, process: Option<ProcessId>, what: impl FnOnce() -> String) {
        self.witness.note(process, || What::Fault(what()));
    }

    /// A new name.
    pub(crate) fn join(self: &Arc<Self>) {
        let mut state = self.state();
        state.names += 1;
        let number = state.names;
        drop(state);
        let spec = self.scenario.nodes[number % self.scenario.nodes.len()].clone();
        self.start(format!("n{number}"), spec);
    }

    /// Starts a process; it counts as starting until it has agreed with the ring on its shape.
    fn start(self: &Arc<Self>, name: String, spec: NodeSpec) {
        self.state().starting += 1;
        let world = Arc::clone(self);
        tokio::spawn(async move { world.started(name, spec).await });
    }

    async fn started(self: Arc<Self>, name: String, spec: NodeSpec) {
        if self.state().unreadable {
            self.state().starting -= 1;
            return self.later(RESTART_AFTER, End::Start { name, spec });
        }
        let (process, of) = self.next_process(&name);
        let told_of = of.clone();
        self.witness.note(Some(process), || What::Started { node: of.to_string() });
        let mood = Arc::new(Mood::default());
        let service = Arc::new(self.service(process, &of, &spec, &mood));
        self.witness.ask(|judge| {
            judge.copies.iter_mut().for_each(|copies| copies.started(told_of.clone(), Arc::clone(&service.cache)));
        });
        let limits = ServerLimits { parked: self.scenario.parked, ..ServerLimits::default() };
        let mut node = TestNode::new(&name).weight(spec.weight).clock_rate(spec.clock_rate).limits(limits);
        if let Some(zone) = spec.zone {
            node = node.zone(&format!("z{zone}"));
        }
        if spec.clock_rate != 1.0 {
            self.fire(Kind::ClockDrift);
        }
        // An error where the ring's shape cannot be read: a process that ends at once.
        let ring = self.ring.try_add_node(node, Arc::clone(&service) as Arc<dyn Service>).await;
        self.state().starting -= 1;
        let Ok(ring) = ring else {
            self.witness.note(Some(process), || What::Ended { how: "did not start".to_owned() });
            return self.later(RESTART_AFTER, End::Start { name, spec });
        };
        let (gone, calls) = (CancellationToken::new(), TaskTracker::new());
        let (draining, paused, cut, wedged) = (false, false, false, false);
        let member = Member {
            name,
            process,
            spec,
            ring: ring.clone(),
            mood,
            service,
            gone,
            draining,
            paused,
            cut,
            wedged,
            calls,
        };
        self.state().members.push(member);
        // A handle keeps its node alive; the world's own is the one that counts.
        tokio::spawn(async move {
            let ended = ring.wait().await;
            drop(ring);
            self.ended(process, ended).await;
        });
    }

    fn next_process(&self, name: &str) -> (ProcessId, NodeProcess) {
        let mut state = self.state();
        state.processes += 1;
        let process = ProcessId(state.processes);
        let number = state.of_name.entry(name.to_owned()).or_default();
        *number += 1;
        (process, NodeProcess { node: NodeName::new(name).expect("a name"), number: *number })
    }

    fn service(&self, process: ProcessId, of: &NodeProcess, spec: &NodeSpec, mood: &Arc<Mood>) -> Recorded {
        let clock: Arc<dyn Clock> =
            Arc::new(Rated { inner: self.ring.clock(), began: self.began, rate: spec.clock_rate });
        let node = of.node.clone();
        let config = CacheConfig { memory_bytes: MEMORY_BYTES, max_value_bytes: LIMITS.max_value_bytes, node };
        Recorded {
            process,
            of: of.clone(),
            clock: Arc::clone(&clock),
            cache: Arc::new(CacheService::within(config, clock, self.ring.process(), self.ring.chance())),
            witness: Arc::clone(&self.witness),
            mood: Arc::clone(mood),
            execution_ms: self.scenario.load.execution_ms,
            discard_ms: self.scenario.load.discard_ms,
            chunk_bytes: self.scenario.copying.map(|copying| copying.chunk_bytes),
        }
    }

    /// A process ended by itself, as it was asked to or not.
    async fn ended(self: Arc<Self>, process: ProcessId, result: Result<(), NodeError>) {
        let Some(member) = self.take(process) else { return };
        self.witness.note(Some(process), || What::Ended { how: format!("{result:?}") });
        if matches!(result, Err(NodeError::DrainIncomplete)) {
            self.fire(Kind::DrainCutShort);
        }
        if let (true, Err(NodeError::GaveUp(reason))) = (!member.draining, &result) {
            self.note(Some(process), || format!("gave up: {reason}"));
        }
        self.collect_mood(&member);
        self.told_ended(&member.name);
        self.ring.crash(&member.name).await;
        if !member.draining && !matches!(result, Err(NodeError::NameLive { .. })) || self.nodes() == 0 {
            self.later(RESTART_AFTER, End::Start { name: member.name, spec: member.spec });
        }
    }

    fn told_ended(&self, name: &str) {
        let node = NodeName::new(name).expect("a name");
        self.witness.judge(|judge, at| {
            judge.leases.ended(&node, at);
            Ok(())
        });
    }

    fn collect_mood(&self, member: &Member) {
        let mut fired = self.fired.lock().unwrap_or_else(PoisonError::into_inner);
        fired.add(Kind::HookFails, member.mood.failed.swap(0, Ordering::Relaxed));
        fired.add(Kind::HookHangs, member.mood.hung.swap(0, Ordering::Relaxed));
        fired.add(Kind::HookSlow, member.mood.slowed.swap(0, Ordering::Relaxed));
        fired.add(Kind::DiscardSlow, member.mood.slow_discards.swap(0, Ordering::Relaxed));
    }

    fn take(&self, process: ProcessId) -> Option<Member> {
        let mut state = self.state();
        let at = state.members.iter().position(|member| member.process == process)?;
        let member = state.members.remove(at);
        member.gone.cancel();
        self.witness.ask(|judge| {
            judge.grants.ended(process);
            judge.copies.iter_mut().for_each(|copies| copies.ended(&member.service.of));
        });
        Some(member)
    }

    fn with<T>(&self, process: ProcessId, act: impl FnOnce(&mut Member) -> T) -> Option<T> {
        self.state().members.iter_mut().find(|member| member.process == process).map(act)
    }

    /// The `who`-th of those that fit.
    fn pick(&self, who: usize, fits: impl Fn(&Member) -> bool) -> Option<ProcessId> {
        let state = self.state();
        let fitting: Vec<ProcessId> = state.members.iter().filter(|m| fits(m)).map(|m| m.process).collect();
        (!fitting.is_empty()).then(|| fitting[who % fitting.len()])
    }

    /// Each node: what it holds, and how many keys there are of the partitions that the store says it owns.
    pub(crate) async fn holdings(&self) -> Vec<(String, CacheStats, usize)> {
        let owners = self.ring.owners().await;
        let listed = self.witness.ask(|judge| judge.listed());
        let partitions: Vec<PartitionId> = self.keys.iter().map(|key| self.ring.partition_for(key)).collect();
        let state = self.state();
        let of = |member: &Member| {
            let owns = |p: &&PartitionId| {
                owners.get(*p).is_some_and(|(node, _)| node.as_str() == member.name)
                    || listed.get(*p).is_some_and(|set| set.iter().any(|id| id.node.as_str() == member.name))
            };
            let keys = partitions.iter().filter(owns).count();
            (member.name.clone(), member.service.cache.stats(), keys)
        };
        state.members.iter().map(of).collect()
    }

    pub(crate) fn collect(&self) {
        self.witness.ask(|judge| {
            let Some(copies) = &judge.copies else { return };
            let mut fired = self.fired.lock().unwrap_or_else(PoisonError::into_inner);
            fired.add(Kind::ExecutedSuspended, judge.gates.executed_suspended);
            fired.add(Kind::CopyMade, copies.chunks);
            fired.add(Kind::CopyFollowed, copies.changes);
            fired.add(Kind::TakeoverByMember, copies.takeovers.into());
            fired.add(Kind::TakeoverOfNothing, copies.lost.into());
        });
        let state = self.state();
        state.members.iter().for_each(|member| self.collect_mood(member));
        self.fired.lock().unwrap_or_else(PoisonError::into_inner).add_ring(&self.ring.fired());
    }
}
