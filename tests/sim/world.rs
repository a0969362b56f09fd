//! The ring of a run and what happens to it: actions of the schedule in, faults on the twins and their ends out.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nats_ring::cache::{CacheConfig, CacheService};
use nats_ring::coord::{Key, Record, Revision, RingConfig, Store};
use nats_ring::node::{NodeError, Ring};
use nats_ring::testing::{BusFaults, Link, NodeProcess, StoreFaults, TestNode, TestRing};
use nats_ring::types::{Clock, KeyHash, NodeName, PartitionCount, PartitionId, Time};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::fired::{Fired, Kind};
use crate::generator::{NodeSpec, Scenario};
use crate::history::{ProcessId, What, Witness};
use crate::load::{Figures, LIMITS};
use crate::schedule::{Action, Back, BusTrouble, CasTrouble, WatchTrouble, Wish};
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
    pub(crate) wedged: bool,
    /// Calls that go through it.
    calls: TaskTracker,
}

/// What ends something that began.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Resume(ProcessId),
    Heal(ProcessId),
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
        self.began + self.inner.now().since(self.began).mul_f64(self.rate)
    }
}

/// The bus while nothing is wrong with it.
fn usual_bus(scenario: &Scenario) -> BusFaults {
    BusFaults { delay: scenario.bus_delay, ..BusFaults::default() }
}

impl World {
    pub(crate) fn new(ring: TestRing, scenario: Scenario, witness: Arc<Witness>, keys: Vec<Bytes>) -> Arc<Self> {
        let usual = usual_bus(&scenario);
        ring.set_bus_faults(usual);
        let state = State {
            members: Vec::new(),
            store_faults: StoreFaults::default(),
            bus_faults: usual,
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
        self.witness.note(Some(process), || What::Started { node: of.to_string() });
        let mood = Arc::new(Mood::default());
        let service = Arc::new(self.service(process, &of, &spec, &mood));
        let mut node = TestNode::new(&name).weight(spec.weight).clock_rate(spec.clock_rate);
        if let Some(zone) = spec.zone {
            node = node.zone(&format!("z{zone}"));
        }
        if spec.clock_rate != 1.0 {
            self.fire(Kind::ClockDrift);
        }
        let world = Arc::clone(&self);
        // It panics where the ring's shape cannot be read: as a process that ends at once.
        let ring = tokio::spawn(async move { world.ring.add_node(node, service).await }).await;
        self.state().starting -= 1;
        let Ok(ring) = ring else {
            self.witness.note(Some(process), || What::Ended { how: "did not start".to_owned() });
            return self.later(RESTART_AFTER, End::Start { name, spec });
        };
        let (gone, calls) = (CancellationToken::new(), TaskTracker::new());
        let (draining, paused, cut, wedged) = (false, false, false, false);
        let member =
            Member { name, process, spec, ring: ring.clone(), mood, gone, draining, paused, cut, wedged, calls };
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
            cache: CacheService::new(config, clock),
            witness: Arc::clone(&self.witness),
            mood: Arc::clone(mood),
            execution_ms: self.scenario.load.execution_ms,
        }
    }

    /// A process ended by itself, as it was asked to or not.
    async fn ended(self: Arc<Self>, process: ProcessId, result: Result<(), NodeError>) {
        let Some(member) = self.take(process) else { return };
        self.witness.note(Some(process), || What::Ended { how: format!("{result:?}") });
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
    }

    fn take(&self, process: ProcessId) -> Option<Member> {
        let mut state = self.state();
        let at = state.members.iter().position(|member| member.process == process)?;
        let member = state.members.remove(at);
        member.gone.cancel();
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

    /// Does what the schedule says.
    pub(crate) async fn act(self: &Arc<Self>, action: Action) {
        match action {
            Action::Join { count } => self.join_some(count),
            Action::Drain { who, count } => self.drain(who, count),
            Action::Crash { who, count, back, after } => self.crash(who, count, back, after).await,
            Action::Pause { who, lasts } => self.pause(who, lasts),
            Action::Wedge { who, lasts } => {
                let Some(process) = self.pick(who, |member| !member.wedged) else { return };
                self.hit(process, |member| member.wedged = true, |ring, name| ring.wedge(name));
                self.later(lasts, End::Unwedge(process));
            }
            Action::Cut { who, link, lasts } => {
                let Some(process) = self.pick(who, |member| !member.cut) else { return };
                self.hit(process, |member| member.cut = true, |ring, name| ring.set_link(name, link));
                self.later(lasts, End::Heal(process));
            }
            Action::SlowNode { who, up_to, lasts } => {
                let Some(process) = self.pick(who, |_| true) else { return };
                self.hit(process, |_| {}, |ring, name| ring.set_bus_delay(name, up_to));
                self.later(lasts, End::Fast(process));
            }
            Action::Away { link, lasts } => {
                self.state().unreadable = true;
                self.store_ill(true);
                self.ring.set_away(link);
                self.later(lasts, End::Back);
            }
            Action::Bus { trouble, lasts } => self.bus(trouble, lasts),
            Action::Leaderless { lasts } => {
                self.state().unreadable = true;
                self.store_ill(true);
                self.ring.set_jetstream_silent(true);
                self.later(lasts, End::Leader);
            }
            Action::Cas { kind, percent, lasts } => self.cas(kind, percent, lasts),
            Action::Watch { trouble, lasts } => self.watch(trouble, lasts),
            Action::CleanUp => {
                for key in self.ring.stale_keys().await {
                    self.ring.clean_up(&key).await;
                }
            }
            Action::Hooks { who, how, lasts } => {
                let Some(process) = self.pick(who, |_| true) else { return };
                let slow = self.scenario.timing.hook_limit / 3;
                self.with(process, |member| member.mood.set(Some(how), slow));
                self.later(lasts, End::Hooks(process));
            }
            Action::Wish { wish, who } => self.wish(wish, who).await,
            Action::Rollback { writes } => self.ring.roll_back(writes),
            Action::Reset => self.ring.recreate_store(),
        }
    }

    fn join_some(self: &Arc<Self>, count: usize) {
        let room = NODES_MAX.saturating_sub(self.nodes()).min(count);
        if room > 1 {
            self.fire(Kind::SeveralAtOnce);
        }
        for _ in 0..room {
            self.fire(Kind::Join);
            self.join();
        }
    }

    fn drain(&self, who: usize, count: usize) {
        let mut asked = 0;
        for _ in 0..count {
            // Whoever is last stays: nobody could take what it has.
            if self.staying().len() < 2 {
                break;
            }
            let Some(process) = self.pick(who, |member| !member.draining) else { break };
            self.leave(process);
            self.note(Some(process), || "is asked to leave".to_owned());
            self.fire(Kind::Drain);
            asked += 1;
        }
        if asked > 1 {
            self.fire(Kind::SeveralAtOnce);
        }
    }

    /// Some node is asked to leave.
    pub(crate) fn drain_one(&self) {
        self.drain(0, 1);
    }

    /// As a program that embeds a node ends: no new calls through it, those under way are waited for, then it drains.
    fn leave(&self, process: ProcessId) {
        let found = self.with(process, |member| {
            member.draining = true;
            member.calls.close();
            (member.calls.clone(), member.ring.clone())
        });
        let Some((calls, ring)) = found else { return };
        tokio::spawn(async move {
            calls.wait().await;
            ring.drain();
        });
    }

    async fn crash(&self, who: usize, count: usize, back: Back, after: Duration) {
        if count > 1 {
            self.fire(Kind::SeveralAtOnce);
        }
        for _ in 0..count {
            let Some(process) = self.pick(who, |_| true) else { return };
            let Some(member) = self.take(process) else { return };
            self.collect_mood(&member);
            self.witness.note(Some(process), || What::Ended { how: "killed".to_owned() });
            drop(member.ring);
            self.ring.crash(&member.name).await;
            match back {
                Back::SameName if !member.draining => {
                    self.fire(Kind::RestartSameName);
                    self.later(after, End::Start { name: member.name, spec: member.spec });
                }
                Back::NewName => {
                    self.fire(Kind::RestartNewName);
                    self.later(after, End::Do(Action::Join { count: 1 }));
                }
                _ => {}
            }
        }
    }

    fn pause(&self, who: usize, lasts: Duration) {
        let Some(process) = self.pick(who, |member| !member.paused) else { return };
        if lasts > self.scenario.timing.lease {
            self.fire(Kind::PauseBeyondLease);
        }
        self.hit(process, |member| member.paused = true, TestRing::pause);
        self.later(lasts, End::Resume(process));
    }

    /// Something happens to a process, if it is still there.
    fn hit(&self, process: ProcessId, mark: impl FnOnce(&mut Member), act: impl FnOnce(&TestRing, &str)) {
        let name = self.with(process, |member| {
            mark(member);
            member.name.clone()
        });
        if let Some(name) = name {
            act(&self.ring, &name);
        }
    }

    fn store_ill(&self, ill: bool) {
        self.witness.judge(|judge, at| {
            judge.leases.store(ill, at);
            Ok(())
        });
    }

    fn bus(&self, trouble: BusTrouble, lasts: Duration) {
        let mut state = self.state();
        let faults = &mut state.bus_faults;
        match trouble {
            BusTrouble::Delay(ms) => faults.delay = Duration::from_millis(ms),
            BusTrouble::Loss(percent) => faults.loss = f64::from(percent) / 100.0,
            BusTrouble::Duplicate(percent) => {
                faults.duplicate = f64::from(percent) / 100.0;
                self.witness.ask(|judge| (judge.gates.duplicates, judge.register.duplicates) = (true, true));
            }
        }
        self.ring.set_bus_faults(*faults);
        drop(state);
        self.later(lasts, End::Bus);
    }

    fn cas(&self, kind: CasTrouble, percent: u32, lasts: Duration) {
        let (mut state, chance) = (self.state(), f64::from(percent) / 100.0);
        let faults = &mut state.store_faults;
        match kind {
            CasTrouble::Lost => faults.write_lost = chance,
            CasTrouble::Unanswered => faults.write_unanswered = chance,
            CasTrouble::Late => (faults.write_late, faults.late_by) = (chance, self.scenario.timing.lease * 2),
            CasTrouble::Conflict => faults.write_conflict = chance,
        }
        self.ring.set_store_faults(faults.clone());
        drop(state);
        self.store_ill(true);
        self.later(lasts, End::Cas);
    }

    fn watch(&self, trouble: WatchTrouble, lasts: Duration) {
        let mut state = self.state();
        let faults = &mut state.store_faults;
        match trouble {
            WatchTrouble::Lag(ms) => faults.watch_lag = Duration::from_millis(ms),
            WatchTrouble::Repeat(percent) => faults.watch_repeat = f64::from(percent) / 100.0,
            WatchTrouble::Gap(percent) => faults.watch_gap = f64::from(percent) / 100.0,
        }
        self.ring.set_store_faults(faults.clone());
        drop(state);
        self.later(lasts, End::Watch);
    }

    /// Operators write `config`, as their tool does.
    async fn wish(&self, wish: Wish, who: usize) {
        let mut config = RingConfig::default();
        let names: Vec<NodeName> =
            self.staying().iter().filter_map(|name| NodeName::new(name).ok()).collect();
        let node = names.get(who % names.len().max(1)).cloned();
        match (wish, node) {
            (Wish::Pause, _) => config.paused = true,
            (Wish::Cordon, Some(node)) => drop(config.cordoned.insert(node)),
            (Wish::Pin, Some(node)) => {
                let partition = u16::try_from(who).unwrap_or(0) % self.scenario.partitions;
                config.pins.insert(PartitionId::new(partition), node);
            }
            _ => {}
        }
        let store = self.ring.store();
        let expected = match store.get(&Key::Config.text()).await {
            Ok(Some(entry)) if entry.value.is_some() => entry.revision,
            _ => Revision::NONE,
        };
        let record = Record::Config(Ok(config)).encode();
        if store.cas(&Key::Config.text(), expected, record, Duration::ZERO).await.is_ok() {
            self.fire(match wish {
                Wish::Pause => Kind::OperatorPause,
                Wish::Cordon => Kind::OperatorCordon,
                Wish::Pin => Kind::OperatorPin,
                Wish::Nothing => return,
            });
        }
    }

    /// Ends what began.
    pub(crate) async fn end(self: &Arc<Self>, end: End) {
        self.note(None, || format!("{end:?}"));
        match end {
            End::Resume(process) => self.hit(process, |member| member.paused = false, TestRing::resume),
            End::Heal(process) => {
                self.hit(process, |member| member.cut = false, |ring, name| ring.set_link(name, Link::Up));
            }
            End::Unwedge(process) => self.hit(process, |member| member.wedged = false, TestRing::unwedge),
            End::Fast(process) => self.hit(process, |_| {}, |ring, name| ring.set_bus_delay(name, Duration::ZERO)),
            End::Hooks(process) => drop(self.with(process, |member| member.mood.set(None, Duration::ZERO))),
            End::Back => self.store_back(true),
            End::Leader => self.store_back(false),
            End::Bus => self.no_bus_faults(),
            End::Cas => {
                let watches = self.state().store_faults.clone();
                let (watch_lag, watch_repeat) = (watches.watch_lag, watches.watch_repeat);
                let kept = StoreFaults { watch_lag, watch_repeat, watch_gap: watches.watch_gap, ..Default::default() };
                self.set_store_faults(kept);
                self.store_ill(false);
            }
            End::Watch => {
                let kept = self.state().store_faults.clone();
                let none = Duration::ZERO;
                self.set_store_faults(StoreFaults { watch_lag: none, watch_repeat: 0.0, watch_gap: 0.0, ..kept });
            }
            End::Start { name, spec } => {
                if self.nodes() < NODES_MAX {
                    self.start(name, spec);
                }
            }
            End::Do(action) => Box::pin(self.act(action)).await,
        }
    }

    fn set_store_faults(&self, faults: StoreFaults) {
        self.state().store_faults = faults.clone();
        self.ring.set_store_faults(faults);
    }

    fn no_bus_faults(&self) {
        let usual = usual_bus(&self.scenario);
        self.state().bus_faults = usual;
        self.ring.set_bus_faults(usual);
    }

    /// NATS as a whole, or JetStream alone.
    fn store_back(&self, all: bool) {
        if all {
            self.ring.set_away(Link::Up);
        } else {
            self.ring.set_jetstream_silent(false);
        }
        self.state().unreadable = false;
        self.store_ill(false);
    }

    /// Nothing goes wrong any more, and operators want nothing.
    pub(crate) async fn heal(self: &Arc<Self>) {
        self.note(None, || "everything heals".to_owned());
        self.no_bus_faults();
        self.set_store_faults(StoreFaults::default());
        self.store_back(true);
        self.store_back(false);
        let all: Vec<ProcessId> = self.state().members.iter().map(|member| member.process).collect();
        for process in all {
            for end in [End::Hooks(process), End::Resume(process), End::Heal(process), End::Unwedge(process)] {
                self.end(end).await;
            }
            self.end(End::Fast(process)).await;
        }
        self.wish(Wish::Nothing, 0).await;
        if self.staying().is_empty() && self.starting() == 0 {
            self.join();
        }
    }

    pub(crate) fn collect(&self) {
        let state = self.state();
        state.members.iter().for_each(|member| self.collect_mood(member));
        self.fired.lock().unwrap_or_else(PoisonError::into_inner).add_ring(&self.ring.fired());
    }
}
