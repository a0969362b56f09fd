//! What goes wrong in the simulated world, when, and how everything heals.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::checker::Checked;
use super::copying::Held;
use super::process::{Part, Process};
use super::{Due, LEASE, MS, World};
use crate::ring::io::Input;
use crate::ring::machine::Machine;
use crate::ring::settings::Identity;
use crate::types::{Generation, NodeName, Time};

/// How likely a process that crashed is started again, in percent.
pub(super) const CRASHED: u32 = 70;

/// One in so many worlds with copies is parted for longer than a suspended owner goes on.
const PARTED: u64 = 10;
/// So long does such a world last: by then who is left has waited for those cut off, and begun without them.
const PARTED_FOR: u64 = 18 * LEASE;

/// How likely what is, in percent, and how long things take; drawn once per seed.
#[derive(Debug, Clone)]
pub(super) struct Odds {
    /// Writes whose outcome stays unknown.
    pub(super) unsure: u32,
    /// Longest way of a write to the store, and of its answer.
    pub(super) trip: u64,
    pub(super) hook_fails: u32,
    /// Hooks that outlast their limit.
    pub(super) hang: u32,
    /// Messages and transfers that are lost.
    pub(super) lost: u32,
    /// When everything heals.
    pub(super) trouble_for: u64,
}

pub(super) fn one_of<T: Copy>(rng: &mut StdRng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}

impl Odds {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self {
            unsure: one_of(rng, &[0, 0, 2, 8, 25]),
            trip: one_of(rng, &[2, 2, 20, 120]) * MS,
            hook_fails: one_of(rng, &[0, 0, 10, 30]),
            hang: one_of(rng, &[0, 0, 0, 2]),
            lost: one_of(rng, &[0, 5, 20]),
            trouble_for: rng.random_range(3..=8) * LEASE,
        }
    }
}

/// Something that happens to a process, or to NATS.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    Start(usize),
    Pause(usize),
    Resume(usize, u32),
    Crash(usize),
    Drain(usize),
    Cut(usize),
    /// Cut off until everything heals.
    Part(usize),
    Mend(usize),
    NatsAway,
    NatsBack,
    /// A second process with a live name.
    Twin(usize),
    /// Operators change the configuration.
    Wish,
}

impl World {
    pub(super) fn add_process(&mut self, name: NodeName) {
        // Apart by less than 5 % either way.
        let rate = self.rng.random_range(955_000..=1_045_000);
        let offset = self.rng.random_range(1..=1000) * LEASE;
        self.processes.push(Process {
            name,
            life: 1,
            session: 0,
            machine: None,
            rate,
            offset,
            paused: false,
            backlog: std::collections::VecDeque::new(),
            data_up: true,
            told_up: true,
            gate: Time::ZERO,
            parts: vec![Part::default(); usize::from(self.partitions.get())],
            held: vec![Held::default(); usize::from(self.partitions.get())],
            scope: None,
            lease_watch: 0,
            ring_live: false,
            lease_live: false,
            ring_floor: 0,
            lease_floor: 0,
            delivered: std::collections::BTreeMap::new(),
            lags: [5 * MS; 4],
            wake_at: 0,
            draining: false,
        });
    }

    pub(super) fn schedule_faults(&mut self, nodes: usize) {
        let end = self.odds.trouble_for;
        for process in 0..nodes {
            let latest = if self.chance(60) { LEASE / 4 } else { end };
            let at = self.rng.random_range(0..latest);
            self.due_at(at, Due::Fault(Fault::Start(process)));
        }
        for _ in 0..self.rng.random_range(0..=6) {
            let process = self.rng.random_range(0..nodes);
            let at = self.rng.random_range(LEASE / 2..end);
            let fault = match self.rng.random_range(0..14) {
                0..=3 => Fault::Pause(process),
                4..=6 => Fault::Crash(process),
                7..=8 => Fault::Drain(process),
                9..=10 => Fault::Cut(process),
                11..=12 => Fault::NatsAway,
                _ => Fault::Twin(process),
            };
            self.due_at(at, Due::Fault(fault));
        }
    }

    /// Some nodes, and whole sets with them, are cut off together, from the store but not from each other. Drawn apart: no
    /// other world is another one for it.
    pub(super) fn schedule_parting(&mut self, seed: u64, nodes: usize) {
        if !self.replicates || !seed.is_multiple_of(PARTED) || nodes < 2 {
            return;
        }
        let mut rng = StdRng::seed_from_u64(seed);
        self.odds.trouble_for = PARTED_FOR;
        let at = rng.random_range(LEASE..3 * LEASE);
        let (from, parted) = (rng.random_range(0..nodes), rng.random_range(1..nodes));
        for process in (from..from + parted).map(|process| process % nodes) {
            self.due_at(at + rng.random_range(0..MS), Due::Fault(Fault::Part(process)));
        }
    }

    pub(super) fn is_linked(&self, process: usize) -> bool {
        self.processes[process].data_up && !self.nats_away
    }

    pub(super) fn strike(&mut self, fault: Fault) -> Checked {
        self.note(|| format!("!! {fault:?}"));
        let far = self.rng.random_range(LEASE / 10..=5 * LEASE / 2);
        match fault {
            Fault::Start(process) => self.start(process),
            Fault::Pause(process) if self.faulty && !self.processes[process].paused => {
                self.processes[process].paused = true;
                let life = self.processes[process].life;
                self.due_in(far, Due::Fault(Fault::Resume(process, life)));
                Ok(())
            }
            Fault::Resume(process, life) if self.processes[process].life == life => self.resume(process),
            Fault::Crash(process) if self.faulty && self.processes[process].machine.is_some() => {
                self.end_session(process);
                self.end_life(process, CRASHED);
                Ok(())
            }
            Fault::Drain(process) if self.processes[process].machine.is_some() => {
                self.processes[process].draining = true;
                let session = self.processes[process].session;
                self.deliver(process, session, Input::Drain)
            }
            Fault::Cut(process) if self.faulty => {
                self.due_in(far, Due::Fault(Fault::Mend(process)));
                self.link(process, false)
            }
            Fault::Part(process) => self.link(process, false),
            Fault::Mend(process) => self.link(process, true),
            Fault::NatsAway if self.faulty => {
                self.due_in(far, Due::Fault(Fault::NatsBack));
                self.nats(false)
            }
            Fault::NatsBack => self.nats(true),
            Fault::Twin(process) if self.faulty => {
                self.add_process(self.processes[process].name.clone());
                self.start(self.processes.len() - 1)
            }
            Fault::Wish => self.wish(),
            _ => Ok(()),
        }
    }

    pub(super) fn start_later(&mut self, process: usize, delay: u64) {
        self.due_in(delay, Due::Fault(Fault::Start(process)));
    }

    /// A new incarnation.
    fn start(&mut self, process: usize) -> Checked {
        if self.processes[process].machine.is_some() {
            return Ok(());
        }
        let who = Identity {
            node: self.processes[process].name.clone(),
            incarnation_id: Uuid::from_u128(self.rng.random()),
            generation: Generation::new(1),
            partitions: self.partitions,
            zone: None,
            weight: 1,
            http: None,
            version: "0".to_owned(),
            replicates: self.replicates,
            former: None,
        };
        let lags = std::array::from_fn(|_| one_of(&mut self.rng, &[2, 2, 20, 200, 800]) * MS);
        let node = &mut self.processes[process];
        let machine = Machine::new(who, self.timing.clone(), node.local(self.now));
        let scope = machine.first_scope();
        (node.machine, node.lags) = (Some(machine), lags);
        (node.session, node.wake_at) = (node.session + 1, 0);
        let (session, up, drain) = (node.session, node.told_up, node.draining);
        self.due_in(MS, Due::RingWatch { process, session });
        self.watch_leases(process, Some(scope));
        self.deliver(process, session, Input::Connection(up))?;
        // A process that was asked to leave is asked again in its next session.
        if drain { self.deliver(process, session, Input::Drain) } else { Ok(()) }
    }

    /// The machine and all that was on its way to it are gone.
    pub(super) fn end_session(&mut self, process: usize) {
        let node = &mut self.processes[process];
        node.machine = None;
        node.session += 1;
        node.gate = Time::ZERO;
        node.parts.fill(Part::default());
        node.held.fill(Held::default());
        node.backlog.clear();
        (node.ring_live, node.lease_live) = (false, false);
        node.delivered.clear();
        (node.ring_floor, node.lease_floor) = (0, 0);
    }

    /// The process ends; with this likelihood it is started again, under its name or another.
    pub(super) fn end_life(&mut self, process: usize, percent: u32) {
        let node = &mut self.processes[process];
        node.life += 1;
        (node.paused, node.draining) = (false, false);
        // After everything has healed only those come back that did not mean to go.
        let returns = if self.faulty { self.chance(percent) } else { percent >= CRASHED };
        if !returns {
            return;
        }
        if self.faulty && self.chance(20) {
            let name = NodeName::new(format!("m{}", self.processes.len() + 1)).expect("a name");
            self.processes[process].name = name;
        }
        let delay = self.rng.random_range(MS..=2 * LEASE);
        self.start_later(process, delay);
    }

    fn resume(&mut self, process: usize) -> Checked {
        let node = &mut self.processes[process];
        node.paused = false;
        let session = node.session;
        let mut backlog = std::mem::take(&mut node.backlog);
        if self.chance(50) {
            backlog.push_front(Input::Wake);
        }
        backlog.push_back(Input::Wake);
        for input in backlog {
            if self.processes[process].machine.is_some() {
                self.deliver(process, session, input)?;
            }
        }
        Ok(())
    }

    /// A process's data connection goes, or comes back and its watches with it.
    fn link(&mut self, process: usize, up: bool) -> Checked {
        let node = &mut self.processes[process];
        if node.data_up == up {
            return Ok(());
        }
        node.data_up = up;
        self.link_changed(process)
    }

    fn link_changed(&mut self, process: usize) -> Checked {
        self.watches_changed(process);
        let node = &mut self.processes[process];
        let up = node.data_up && !(self.nats_away && self.connections_dropped);
        if std::mem::replace(&mut node.told_up, up) == up {
            return Ok(());
        }
        let session = node.session;
        self.deliver(process, session, Input::Connection(up))
    }

    /// Its watches fall silent, or begin anew.
    fn watches_changed(&mut self, process: usize) {
        let up = self.is_linked(process);
        let node = &mut self.processes[process];
        let session = node.session;
        (node.ring_live, node.lease_live) = (false, false);
        if up && node.machine.is_some() {
            let delay = self.rng.random_range(MS..=200 * MS);
            self.due_in(delay, Due::RingWatch { process, session });
            self.watch_leases(process, None);
        }
    }

    fn nats(&mut self, back: bool) -> Checked {
        if self.nats_away != back {
            return Ok(());
        }
        self.nats_away = !back;
        if !back {
            self.connections_dropped = self.chance(50);
            self.away_since = self.now;
        } else if self.now - self.away_since > LEASE / 2 {
            self.kv.outage = Some((self.away_since, self.now));
        }
        for process in 0..self.processes.len() {
            self.link_changed(process)?;
        }
        Ok(())
    }

    /// Nothing goes wrong any more; somebody is left to own everything.
    pub(super) fn heal(&mut self) -> Checked {
        self.note(|| "!! everything heals".to_owned());
        self.faulty = false;
        self.nats(true)?;
        self.wish_no_more()?;
        for process in 0..self.processes.len() {
            self.link(process, true)?;
            if self.processes[process].paused {
                self.resume(process)?;
            }
        }
        // One that only waits for its name may find it taken.
        let holds = |node: &Process| node.machine.as_ref().is_some_and(|machine| machine.id().is_some());
        let stays = |node: &Process| holds(node) && !node.draining;
        if !self.processes.iter().any(stays) {
            self.add_process(NodeName::new("last").expect("a name"));
            self.start(self.processes.len() - 1)?;
        }
        Ok(())
    }
}
