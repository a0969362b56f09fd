//! What the schedule says, done to the ring; and the ends of what began.

use std::sync::Arc;
use std::time::Duration;

use nats_ring::coord::{Key, OnLoss, Record, Revision, RingConfig, Store};
use nats_ring::testing::{Link, StoreFaults, TestRing};
use nats_ring::types::{Factor, NodeName, PartitionId};

use super::{End, Member, NODES_MAX, World, usual_bus, usual_store};
use crate::fired::Kind;
use crate::history::{Asked, ProcessId, What};
use crate::invariants::Outage;
use crate::load::{self, Wanted};
use crate::schedule::{Action, Back, BusTrouble, CasTrouble, WatchTrouble, Wires, Wish};

/// As which client the requests of a burst are told.
const BURST: usize = 1000;

fn set_wires(ring: &TestRing, name: &str, wires: Wires, link: Link) {
    match wires {
        Wires::Both => ring.set_link(name, link),
        Wires::Data => ring.set_data_link(name, link),
        Wires::Heartbeat => ring.set_heartbeat_link(name, link),
    }
}

impl World {
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
            Action::Cut { who, wires, link, lasts } => self.cut(who, (wires, link), lasts),
            Action::Burst { key, count } => self.burst(key, count),
            Action::SlowNode { who, up_to, lasts } => {
                let Some(process) = self.pick(who, |_| true) else { return };
                self.hit(process, |_| {}, |ring, name| ring.set_bus_delay(name, up_to));
                self.later(lasts, End::Fast(process));
            }
            Action::Away { link, lasts } => {
                self.state().unreadable = true;
                self.store_ill(true);
                self.outage(|outage, at| outage.nats(true, at));
                self.ring.set_away(link);
                self.later(lasts, End::Back);
            }
            Action::Bus { trouble, lasts } => self.bus(trouble, lasts),
            Action::Leaderless { lasts } => {
                self.state().unreadable = true;
                self.store_ill(true);
                self.outage(|outage, at| outage.jetstream(true, at));
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
            Action::Reset { unheard } => self.reset(unheard),
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
            // Whoever is last stays: nobody could take what it has. One that is not in the plan yet cannot.
            let Some(process) = self.pick(who, |member| !member.draining) else { break };
            if !self.is_another_ready(process) {
                break;
            }
            self.leave(process);
            self.note(Some(process), || "is asked to leave".to_owned());
            self.fire(Kind::Drain);
            asked += 1;
        }
        if asked > 1 {
            self.fire(Kind::SeveralAtOnce);
        }
    }

    /// Everything comes to the newest node.
    pub(crate) fn drain_all_but_the_newest(&self) {
        self.drain(0, NODES_MAX);
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

    fn cut(&self, who: usize, (wires, link): (Wires, Link), lasts: Duration) {
        let Some(process) = self.pick(who, |member| !member.cut) else { return };
        self.hit(process, |member| member.cut = true, |ring, name| set_wires(ring, name, wires, link));
        self.later(lasts, End::Heal(process, wires));
    }

    /// One node hears of it as late as the others are done with waiting.
    fn reset(&self, unheard: Option<(usize, Duration)>) {
        let Some((who, before)) = unheard else { return self.ring.recreate_store() };
        self.fire(Kind::ResetUnheard);
        self.cut(who, (Wires::Both, Link::Silent), self.scenario.timing.lease * 2);
        self.later(before, End::Do(Action::Reset { unheard: None }));
    }

    /// Many requests at once; they are judged as any other.
    fn burst(self: &Arc<Self>, key: usize, count: usize) {
        self.fire(Kind::Burst);
        let key = key % self.scenario.load.keys;
        for n in 0..count {
            let world = Arc::clone(self);
            tokio::spawn(async move {
                let asked = if n % 2 == 0 { Asked::Get } else { world.figures.next_write(None) };
                let who = (n % 3 != 0).then_some(n);
                load::request(&world, BURST, Wanted { key, asked, level: None }, who).await;
            });
        }
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

    fn outage(&self, note: impl FnOnce(&mut Outage, Duration)) {
        self.witness.judge(|judge, at| {
            note(&mut judge.leases.outage, at);
            Ok(())
        });
    }

    fn store_ill(&self, ill: bool) {
        self.witness.judge(|judge, at| {
            judge.leases.store(ill, at);
            judge.sizes.store(ill, at);
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

    /// What operators ask for where they want nothing else.
    fn usual_config(&self) -> RingConfig {
        let mut config = RingConfig::default();
        if let Some(rules) = self.scenario.copying.map(|copying| copying.rules) {
            config.replicas = Some(rules.replicas);
            (config.consistency, config.on_loss) = (rules.consistency, rules.on_loss);
        }
        config
    }

    /// Before there is a node; or so that what is lost is given up.
    pub(crate) async fn ask_for_copies(&self, on_loss: Option<OnLoss>) {
        if self.scenario.copying.is_some() {
            let mut config = self.usual_config();
            config.on_loss = on_loss.unwrap_or(config.on_loss);
            self.write_config(config).await;
        }
    }

    async fn write_config(&self, config: RingConfig) -> bool {
        let store = self.ring.store();
        let expected = match store.get(&Key::Config.text()).await {
            Ok(Some(entry)) if entry.value.is_some() => entry.revision,
            _ => Revision::NONE,
        };
        let record = Record::Config(Ok(config)).encode();
        store.cas(&Key::Config.text(), expected, record, Duration::ZERO).await.is_ok()
    }

    /// Operators write `config`, as their tool does.
    async fn wish(&self, wish: Wish, who: usize) {
        let mut config = self.usual_config();
        if let (Wish::Nothing, 1, true) = (wish, who % 2, self.scenario.copying.is_some()) {
            self.fire(Kind::OperatorFactor);
            config.replicas = u8::try_from(1 + who % 5).ok().and_then(|copies| Factor::new(copies).ok());
        }
        let names: Vec<NodeName> = self.staying().iter().filter_map(|name| NodeName::new(name).ok()).collect();
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
        if self.write_config(config).await {
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
            End::Heal(process, wires) => {
                self.hit(process, |member| member.cut = false, |ring, name| set_wires(ring, name, wires, Link::Up));
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
                let watch_lag = self.scenario.watch_lag;
                self.set_store_faults(StoreFaults { watch_lag, watch_repeat: 0.0, watch_gap: 0.0, ..kept });
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
        let now = self.witness.now();
        let mut state = self.state();
        if faults.watch_lag < state.store_faults.watch_lag {
            state.told_by = state.told_by.max(now + state.store_faults.watch_lag);
        }
        state.store_faults = faults.clone();
        drop(state);
        self.ring.set_store_faults(faults);
    }

    /// How long it may take yet until a slow watch has told what happened before everything healed.
    pub(crate) fn still_untold(&self) -> Duration {
        self.state().told_by.saturating_sub(self.witness.now())
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
            self.outage(|outage, at| outage.nats(false, at));
        } else {
            self.ring.set_jetstream_silent(false);
            self.outage(|outage, at| outage.jetstream(false, at));
        }
        self.state().unreadable = false;
        self.store_ill(false);
    }

    /// Nothing goes wrong any more, and operators want nothing.
    pub(crate) async fn heal(self: &Arc<Self>) {
        self.note(None, || "everything heals".to_owned());
        self.no_bus_faults();
        self.set_store_faults(usual_store(&self.scenario));
        self.store_back(true);
        self.store_back(false);
        let all: Vec<ProcessId> = self.state().members.iter().map(|member| member.process).collect();
        for process in all {
            for end in [End::Hooks(process), End::Resume(process), End::Unwedge(process)] {
                self.end(end).await;
            }
            for wires in [Wires::Both, Wires::Data, Wires::Heartbeat] {
                self.end(End::Heal(process, wires)).await;
            }
            self.end(End::Fast(process)).await;
        }
        self.wish(Wish::Nothing, 0).await;
        self.ask_for_copies(Some(OnLoss::Accept)).await;
        if self.staying().is_empty() && self.starting() == 0 {
            self.join();
        }
    }
}
