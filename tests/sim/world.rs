//! The ring of a run and what happens to it: actions of the schedule in, faults on the twins and their ends out.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nats_ring::cache::{CacheConfig, CacheService};
use nats_ring::coord::mem::{Fault, Faults};
use nats_ring::coord::{Key, Record, Revision, RingConfig, Store};
use nats_ring::node::{NodeError, Ring};
use nats_ring::testing::{TestNode, TestRing};
use nats_ring::types::{Clock, NodeName, PartitionId, Time};
use rand::rngs::SmallRng;
use rand::SeedableRng;
use tokio_util::sync::CancellationToken;

use crate::fired::{Fired, Kind};
use crate::generator::{NodeSpec, Scenario};
use crate::history::{ProcessId, What, Witness};
use crate::load::{Figures, LIMITS};
use crate::schedule::{Action, Back, CasTrouble, Wish};
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
}

/// What ends something that began.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Resume(ProcessId),
    Heal(ProcessId),
    Hooks(ProcessId),
    Loss,
    Cas,
    Late,
    WatchStall,
    WatchTrouble,
    Start { name: String, spec: NodeSpec },
    Do(Action),
}

/// Everything of one run.
pub(crate) struct World {
    pub(crate) ring: TestRing,
    pub(crate) scenario: Scenario,
    pub(crate) witness: Arc<Witness>,
    pub(crate) figures: Figures,
    pub(crate) keys: Vec<Bytes>,
    pub(crate) fired: Mutex<Fired>,
    state: Mutex<State>,
}

struct State {
    members: Vec<Member>,
    faults: Faults,
    processes: u16,
    names: usize,
    starting: usize,
    ends: Vec<(Duration, End)>,
    healed: bool,
    pub(crate) rng: SmallRng,
}

/// A node's own clock, at its own rate.
struct Rated {
    inner: Arc<dyn Clock>,
    rate: f64,
}

impl Clock for Rated {
    fn now(&self) -> Time {
        Time::ZERO + self.inner.now().since(Time::ZERO).mul_f64(self.rate)
    }
}

impl World {
    pub(crate) fn new(ring: TestRing, scenario: Scenario, witness: Arc<Witness>, keys: Vec<Bytes>) -> Arc<Self> {
        let state = State {
            members: Vec::new(),
            faults: Faults::default(),
            processes: 0,
            names: 0,
            starting: 0,
            ends: Vec::new(),
            healed: false,
            rng: SmallRng::seed_from_u64(scenario.seed.wrapping_add(17)),
        };
        let (figures, fired) = (Figures::default(), Mutex::default());
        Arc::new(Self { ring, scenario, witness, figures, keys, fired, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fire(&self, kind: Kind) {
        self.fired.lock().unwrap_or_else(PoisonError::into_inner).add(kind, 1);
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
    pub(crate) fn some_node(&self, who: usize) -> Option<(Ring, CancellationToken)> {
        let state = self.state();
        let up: Vec<&Member> = state.members.iter().filter(|member| !member.paused).collect();
        let member = up.get(who % up.len().max(1))?;
        Some((member.ring.clone(), member.gone.clone()))
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
        let process = {
            let mut state = self.state();
            state.processes += 1;
            ProcessId(state.processes)
        };
        self.witness.note(Some(process), || What::Started { node: name.clone() });
        let mood = Arc::new(Mood::default());
        let node = NodeName::new(&name).expect("a name");
        let config = CacheConfig { memory_bytes: MEMORY_BYTES, max_value_bytes: LIMITS.max_value_bytes, node };
        let clock = Arc::new(Rated { inner: self.ring.clock(), rate: spec.clock_rate });
        let service = Recorded {
            process,
            cache: CacheService::new(config, clock),
            witness: Arc::clone(&self.witness),
            mood: Arc::clone(&mood),
            execution_ms: self.scenario.load.execution_ms,
        };
        let mut test_node = TestNode::new(&name).weight(spec.weight).clock_rate(spec.clock_rate);
        if let Some(zone) = spec.zone {
            test_node = test_node.zone(&format!("z{zone}"));
        }
        if spec.clock_rate != 1.0 {
            self.fire(Kind::ClockDrift);
        }
        let ring = self.ring.add_node(test_node, Arc::new(service)).await;
        let gone = CancellationToken::new();
        let member = Member {
            name,
            process,
            spec,
            ring: ring.clone(),
            mood,
            gone,
            draining: false,
            paused: false,
            cut: false,
        };
        let mut state = self.state();
        state.starting -= 1;
        state.members.push(member);
        drop(state);
        // A handle keeps its node alive; the world's own is the one that counts.
        tokio::spawn(async move {
            let ended = ring.wait().await;
            drop(ring);
            self.ended(process, ended).await;
        });
    }

    /// A process ended by itself, as it was asked to or not.
    async fn ended(self: Arc<Self>, process: ProcessId, result: Result<(), NodeError>) {
        let Some(member) = self.take(process) else { return };
        self.witness.note(Some(process), || What::Ended { how: format!("{result:?}") });
        if let (true, Err(NodeError::GaveUp(reason))) = (!member.draining, &result) {
            self.note(Some(process), || format!("gave up: {reason}"));
        }
        self.collect_mood(&member);
        self.ring.crash(&member.name).await;
        if !member.draining && !matches!(result, Err(NodeError::NameLive { .. })) || self.nodes() == 0 {
            self.later(RESTART_AFTER, End::Start { name: member.name, spec: member.spec });
        }
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
        self.note(None, || format!("{action:?}"));
        match action {
            Action::Join { count } => self.join_some(count),
            Action::Drain { who, count } => self.drain(who, count),
            Action::Crash { who, count, back, after } => self.crash(who, count, back, after).await,
            Action::Pause { who, lasts } => self.pause(who, lasts),
            Action::Cut { who, lasts } => self.cut(who, lasts),
            Action::Loss { percent, lasts } => {
                self.fire(Kind::BusDrop);
                self.ring.switch().set_loss(f64::from(percent) / 100.0);
                self.later(lasts, End::Loss);
            }
            Action::Cas { kind, percent, lasts } => self.cas(kind, percent, lasts),
            Action::WatchStall { lasts } => {
                self.fire(Kind::WatchSlow);
                self.ring.store().hold_watches(true);
                self.later(lasts, End::WatchStall);
            }
            Action::WatchTrouble { repeat, percent, lasts } => {
                self.fire(if repeat { Kind::WatchRepeat } else { Kind::WatchGap });
                let chance = f64::from(percent) / 100.0;
                self.set_faults(|faults| *(if repeat { &mut faults.watch_repeat } else { &mut faults.watch_gap }) = chance);
                self.later(lasts, End::WatchTrouble);
            }
            Action::Hooks { who, how, lasts } => {
                let Some(process) = self.pick(who, |_| true) else { return };
                let slow = self.scenario.timing.hook_limit / 3;
                self.with(process, |member| member.mood.set(Some(how), slow));
                self.later(lasts, End::Hooks(process));
            }
            Action::Wish { wish, who } => self.wish(wish, who).await,
            Action::Rollback { writes } => {
                self.fire(Kind::Rollback);
                self.ring.store().rollback(writes);
            }
            Action::Reset => {
                self.fire(Kind::BucketDeleted);
                self.ring.store().reset();
            }
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
            self.with(process, |member| {
                member.draining = true;
                member.ring.drain();
            });
            self.note(Some(process), || "is asked to leave".to_owned());
            self.fire(Kind::Drain);
            asked += 1;
        }
        if asked > 1 {
            self.fire(Kind::SeveralAtOnce);
        }
    }

    /// The node of this name is asked to leave.
    pub(crate) fn drain_named(&self, name: Option<&str>) {
        let mut state = self.state();
        if let Some(member) = state.members.iter_mut().find(|member| Some(member.name.as_str()) == name) {
            member.draining = true;
            member.ring.drain();
        }
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
            self.fire(Kind::Crash);
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
        let Some(name) = self.with(process, |member| {
            member.paused = true;
            member.name.clone()
        }) else {
            return;
        };
        self.note(Some(process), || format!("{name} is stopped for {lasts:?}"));
        self.fire(if lasts > self.scenario.timing.lease { Kind::PauseBeyondLease } else { Kind::PauseShort });
        self.ring.pause(&name);
        self.later(lasts, End::Resume(process));
    }

    fn cut(&self, who: usize, lasts: Duration) {
        let Some(process) = self.pick(who, |member| !member.cut) else { return };
        let Some(name) = self.with(process, |member| {
            member.cut = true;
            member.name.clone()
        }) else {
            return;
        };
        self.note(Some(process), || format!("{name} is cut off for {lasts:?}"));
        self.fire(Kind::CutBoth);
        self.ring.cut(&name);
        self.later(lasts, End::Heal(process));
    }

    fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        let mut state = self.state();
        change(&mut state.faults);
        self.ring.store().set_faults(state.faults.clone());
    }

    fn cas(&self, kind: CasTrouble, percent: u32, lasts: Duration) {
        let (fault, fired) = match kind {
            CasTrouble::Lost => (Fault::TimeoutLost, Kind::CasLost),
            CasTrouble::Applied => (Fault::TimeoutApplied, Kind::CasApplied),
            CasTrouble::Late => (Fault::TimeoutLate, Kind::CasLate),
            CasTrouble::Conflict => (Fault::Conflict, Kind::CasConflict),
            CasTrouble::NotSent => (Fault::NotSent, Kind::StoreAway),
        };
        self.fire(fired);
        self.set_faults(|faults| faults.cas.push((fault, f64::from(percent) / 100.0)));
        if kind == CasTrouble::Late {
            (1..5).for_each(|nth| self.later(lasts * nth / 3, End::Late));
        }
        self.later(lasts, End::Cas);
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
        match end {
            End::Resume(process) => self.resume(process),
            End::Heal(process) => self.heal_cut(process),
            End::Hooks(process) => drop(self.with(process, |member| member.mood.set(None, Duration::ZERO))),
            End::Loss => self.ring.switch().set_loss(0.0),
            End::Cas => self.set_faults(|faults| faults.cas.clear()),
            End::Late => drop(self.ring.store().apply_late()),
            End::WatchStall => self.ring.store().hold_watches(false),
            End::WatchTrouble => self.set_faults(|faults| (faults.watch_repeat, faults.watch_gap) = (0.0, 0.0)),
            End::Start { name, spec } => {
                if self.nodes() < NODES_MAX {
                    self.start(name, spec);
                }
            }
            End::Do(action) => Box::pin(self.act(action)).await,
        }
    }

    fn resume(&self, process: ProcessId) {
        let resumed = self.with(process, |member| {
            member.paused = false;
            member.name.clone()
        });
        if let Some(name) = resumed {
            self.note(Some(process), || format!("{name} goes on"));
            self.ring.resume(&name);
        }
    }

    fn heal_cut(&self, process: ProcessId) {
        let healed = self.with(process, |member| {
            member.cut = false;
            member.name.clone()
        });
        if let Some(name) = healed {
            self.note(Some(process), || format!("{name} is reachable again"));
            self.ring.heal(&name);
        }
    }

    /// Nothing goes wrong any more, and operators want nothing.
    pub(crate) async fn heal(self: &Arc<Self>) {
        self.note(None, || "everything heals".to_owned());
        self.state().healed = true;
        self.ring.switch().set_loss(0.0);
        self.set_faults(|faults| *faults = Faults::default());
        self.ring.store().hold_watches(false);
        self.ring.store().apply_late();
        let all: Vec<ProcessId> = self.state().members.iter().map(|member| member.process).collect();
        for process in all {
            self.with(process, |member| member.mood.set(None, Duration::ZERO));
            if self.with(process, |member| member.paused) == Some(true) {
                self.resume(process);
            }
            if self.with(process, |member| member.cut) == Some(true) {
                self.heal_cut(process);
            }
        }
        self.wish(Wish::Nothing, 0).await;
        if self.staying().is_empty() && self.starting() == 0 {
            self.join();
        }
    }

    pub(crate) fn collect(&self) {
        let state = self.state();
        state.members.iter().for_each(|member| self.collect_mood(member));
    }
}
