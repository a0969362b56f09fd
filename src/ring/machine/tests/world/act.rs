//! What machines ask for, carried out in the simulated world: what the node's loop, server and hooks do in the real one.

use rand::RngExt;

use super::checker::Checked;
use super::process::Mode;
use super::store::Writing;
use super::{Due, LEASE, MS, World};
use crate::ring::io::{Action, Input, Offer, OpId, Outcome};
use crate::types::{Epoch, NodeId, PartitionId};

/// Offers count from here, the machine's own operations from zero.
const FIRST_OFFER: u64 = 1 << 62;

impl World {
    /// An input reaches a machine, or waits with the others while the process stands still.
    pub(super) fn deliver(&mut self, process: usize, session: u32, input: Input) -> Checked {
        let node = &mut self.processes[process];
        if node.session != session {
            return Ok(());
        }
        if node.paused {
            node.backlog.push_back(input);
            return Ok(());
        }
        self.step(process, input)
    }

    pub(super) fn wake(&mut self, process: usize, session: u32) -> Checked {
        let node = &self.processes[process];
        if node.session != session || node.paused || self.now < node.wake_at {
            return Ok(());
        }
        self.step(process, Input::Wake)
    }

    pub(super) fn step(&mut self, process: usize, input: Input) -> Checked {
        self.note_input(process, &input);
        let local = self.processes[process].local(self.now);
        let Some(machine) = &mut self.processes[process].machine else { return Ok(()) };
        let actions = machine.step(local, input);
        for action in actions {
            self.note_action(process, &action);
            if let Action::Finish(outcome) = action {
                return self.finished(process, outcome);
            }
            self.carry_out(process, action)?;
        }
        self.plan_wake(process);
        Ok(())
    }

    fn plan_wake(&mut self, process: usize) {
        let node = &mut self.processes[process];
        let Some(at) = node.machine.as_ref().and_then(|machine| machine.next_wake()) else { return };
        let at = node.real(at);
        if node.wake_at == at {
            return;
        }
        node.wake_at = at;
        let session = node.session;
        self.due_at(at, Due::Wake { process, session });
    }

    fn note_input(&mut self, process: usize, input: &Input) {
        if !matches!(input, Input::Wake | Input::Cas { .. } | Input::LeaseChange(_)) {
            self.note(|| match input {
                Input::RingChange(update) => {
                    format!("p{} sees {} {}", process + 1, update.key.text(), super::store::brief(&update.record))
                }
                Input::RingSnapshot(updates) => format!("p{} sees the ring, {} keys", process + 1, updates.len()),
                Input::LeaseSnapshot { leases, .. } => format!("p{} sees {} leases", process + 1, leases.len()),
                other => format!("p{} {other:?}", process + 1),
            });
        }
    }

    fn note_action(&mut self, process: usize, action: &Action) {
        if !matches!(action, Action::Cas { .. } | Action::OpenGate(_) | Action::Route { .. }) {
            self.note(|| format!("   p{} -> {action:?}", process + 1));
        }
    }

    fn carry_out(&mut self, process: usize, action: Action) -> Checked {
        let session = self.processes[process].session;
        match action {
            Action::Cas { op, key, expected, record, heartbeat, timeout, .. } => {
                let writing = Writing { process, session, op, key, expected, record, answer_by: None };
                let timeout = u64::try_from(timeout.as_nanos()).expect("fits");
                self.send_write(writing, heartbeat, timeout);
            }
            Action::WatchLeases(scope) => self.watch_leases(process, Some(scope)),
            Action::OpenGate(until) => self.processes[process].gate = until,
            Action::CloseGate => self.processes[process].gate = crate::types::Time::ZERO,
            Action::Park { partition, epoch } => self.park(process, partition, epoch),
            Action::Serve { partition, epoch } => self.serve(process, partition, epoch)?,
            Action::Forward { partition } => self.set_mode(process, partition, Mode::Forward),
            Action::Revoke { partition } => self.processes[process].parts[partition.index()].grant = None,
            Action::Discard { partition } => {
                self.processes[process].parts[partition.index()].grant = None;
                self.processes[process].held[partition.index()].log = None;
            }
            Action::OnOwn { op, grants, .. } => self.own(process, op, &grants)?,
            Action::OnRelease { op, grants, .. } => self.release(process, op, &grants)?,
            Action::Transfer { partition, in_sync: true, .. } => self.transfer_in_sync(process, partition),
            Action::Transfer { partition, epoch, .. } => self.transfer(process, partition, epoch),
            Action::SendOffer { to, offer } => self.send_offer(process, to, offer),
            Action::AnswerOffer { op, result } => self.answer_offer(op, result),
            Action::LetGo { .. } => {
                let session = self.processes[process].session;
                let delay = self.rng.random_range(MS..=100 * MS);
                self.due_in(delay, Due::Deliver { process, session, input: Input::LetGone });
            }
            Action::Replicate { op, partition, epoch, copies } => {
                self.replicate(process, (op, partition, epoch), copies);
            }
            Action::Recover { partition, epoch, survivors } => self.recover(process, partition, epoch, &survivors),
            Action::Copy { partition, epoch, wanted } => self.copy(process, partition, epoch, wanted)?,
            Action::Route { .. } | Action::Unsubscribe { .. } | Action::Emit(_) | Action::Finish(_) => {}
        }
        Ok(())
    }

    pub(super) fn watch_leases(&mut self, process: usize, scope: Option<crate::coord::WatchScope>) {
        let node = &mut self.processes[process];
        if scope.is_some() {
            node.scope = scope;
        }
        node.lease_watch += 1;
        node.lease_live = false;
        let (session, watch) = (node.session, node.lease_watch);
        let delay = self.rng.random_range(MS..=20 * MS);
        self.due_in(delay, Due::LeaseWatch { process, session, watch });
    }

    fn set_mode(&mut self, process: usize, partition: PartitionId, mode: Mode) {
        let part = &mut self.processes[process].parts[partition.index()];
        part.parking += 1;
        part.mode = mode;
    }

    fn park(&mut self, process: usize, partition: PartitionId, epoch: Epoch) {
        let before = self.processes[process].parts[partition.index()].mode;
        let running = matches!(before, Mode::Serve | Mode::Park { running: true });
        self.set_mode(process, partition, Mode::Park { running });
        let node = &mut self.processes[process];
        let part = &mut node.parts[partition.index()];
        part.parked_at = epoch;
        let (session, parking) = (node.session, part.parking);
        let longest = if !running {
            MS
        } else if self.faulty && self.chance(3) {
            3 * LEASE
        } else {
            30 * MS
        };
        let delay = self.rng.random_range(MS / 10..=longest);
        self.due_in(delay, Due::Drained { process, session, partition, parking });
        if self.faulty && self.chance(5) {
            let delay = self.rng.random_range(MS..=LEASE / 2);
            self.due_in(delay, Due::Deliver { process, session, input: Input::Pressure { partition } });
        }
    }

    pub(super) fn parked_idle(
        &mut self,
        process: usize,
        session: u32,
        partition: PartitionId,
        parking: u64,
    ) -> Checked {
        let node = &mut self.processes[process];
        let part = &mut node.parts[partition.index()];
        if node.session != session || part.parking != parking {
            return Ok(());
        }
        part.mode = Mode::Park { running: false };
        let epoch = part.parked_at;
        self.deliver(process, session, Input::Idle { partition, epoch })
    }

    fn serve(&mut self, process: usize, partition: PartitionId, epoch: Epoch) -> Checked {
        let node = &self.processes[process];
        let id = node.machine.as_ref().and_then(|machine| machine.id()).ok_or("served without a lease")?;
        self.checker.served((process, node.life, partition), epoch, &id)?;
        if node.parts[partition.index()].grant != Some(epoch) {
            return Err(format!("{id}: partition {partition} is to be served at e{epoch} without a grant"));
        }
        self.set_mode(process, partition, Mode::Serve);
        self.begin_writes(process, partition, epoch);
        Ok(())
    }

    fn own(&mut self, process: usize, op: OpId, grants: &[(PartitionId, Epoch)]) -> Checked {
        let life = self.processes[process].life;
        for (partition, epoch) in grants {
            self.checker.on_own((process, life, *partition), *epoch, op)?;
            let part = &mut self.processes[process].parts[partition.index()];
            part.grant = Some(*epoch);
            if let Mode::Park { running } = &mut part.mode {
                *running = false;
            }
        }
        self.run_hook(process, op);
        Ok(())
    }

    fn release(&mut self, process: usize, op: OpId, grants: &[(PartitionId, Epoch)]) -> Checked {
        let life = self.processes[process].life;
        for (partition, epoch) in grants {
            self.checker.on_release((process, life, *partition), *epoch, op)?;
        }
        self.run_hook(process, op);
        Ok(())
    }

    fn run_hook(&mut self, process: usize, op: OpId) {
        let (life, session) = (self.processes[process].life, self.processes[process].session);
        let longest = match self.rng.random_range(0..100) {
            _ if !self.faulty => 20 * MS,
            roll if roll < self.odds.hang => 6 * LEASE,
            roll if roll < self.odds.hang + 6 => 2 * LEASE,
            _ => 60 * MS,
        };
        let failed = self.faulty && self.chance(self.odds.hook_fails);
        let result = if failed { Err("no luck".to_owned()) } else { Ok(()) };
        let delay = self.rng.random_range(MS / 10..=longest);
        self.due_in(delay, Due::HookEnds { process, life, session, op, result });
    }

    pub(super) fn hook_ends(
        &mut self,
        process: usize,
        life: u32,
        session: u32,
        op: OpId,
        result: Result<(), String>,
    ) -> Checked {
        if self.processes[process].life != life {
            return Ok(());
        }
        self.checker.hook_ended(process, life, op, result.is_ok());
        self.deliver(process, session, Input::Hook { op, result })
    }

    fn transfer(&mut self, process: usize, partition: PartitionId, epoch: Epoch) {
        let session = self.processes[process].session;
        let failed = self.faulty && self.chance(self.odds.lost);
        let result = if failed { Err("chunk lost".to_owned()) } else { Ok(100) };
        let longest = if self.faulty && self.chance(5) { 2 * LEASE } else { 40 * MS };
        let delay = self.rng.random_range(MS..=longest);
        self.due_in(delay, Due::Deliver { process, session, input: Input::Transferred { partition, epoch, result } });
    }

    fn send_offer(&mut self, from: usize, to: NodeId, offer: Offer) {
        self.checker.offered(offer.partition, offer.epoch, offer.from.clone(), to.clone());
        let session = self.processes[from].session;
        let copies = match self.rng.random_range(0..100) {
            roll if self.faulty && roll < self.odds.lost => 0,
            roll if self.faulty && roll > 95 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let longest = if self.faulty && self.chance(5) { 3 * LEASE } else { 10 * MS };
            let delay = self.rng.random_range(MS / 10..=longest);
            self.due_in(delay, Due::Offer { from, session, to: to.clone(), offer: offer.clone() });
        }
    }

    pub(super) fn offer_arrives(&mut self, from: usize, session: u32, to: &NodeId, offer: Offer) -> Checked {
        let is_target =
            |node: &super::Process| node.machine.as_ref().and_then(|machine| machine.id()).as_ref() == Some(to);
        let Some(target) = self.processes.iter().position(is_target) else {
            let (partition, epoch, reason) = (offer.partition, offer.epoch, "no responders".to_owned());
            let input = Input::OfferRefused { partition, epoch, reason };
            self.due_in(MS, Due::Deliver { process: from, session, input });
            return Ok(());
        };
        self.order += 1;
        let op = OpId(FIRST_OFFER + self.order);
        self.offers.insert(op, (from, session, offer.clone()));
        let target_session = self.processes[target].session;
        self.deliver(target, target_session, Input::Offered { op, offer })
    }

    fn answer_offer(&mut self, op: OpId, result: Result<(), String>) {
        let Some((process, session, offer)) = self.offers.remove(&op) else { return };
        let lost = self.faulty && self.chance(self.odds.lost);
        if let Err(reason) = result
            && !lost
        {
            let input = Input::OfferRefused { partition: offer.partition, epoch: offer.epoch, reason };
            let delay = self.rng.random_range(MS / 10..=20 * MS);
            self.due_in(delay, Due::Deliver { process, session, input });
        }
    }

    /// The incarnation is over; what becomes of its process depends on how.
    fn finished(&mut self, process: usize, outcome: Outcome) -> Checked {
        let life = self.processes[process].life;
        self.end_session(process);
        match outcome {
            Outcome::Evicted | Outcome::StoreReset(_) => {
                self.checker.all_told(process, life)?;
                let delay = self.rng.random_range(MS..=100 * MS);
                self.start_later(process, delay);
            }
            Outcome::Left => {
                self.checker.all_told(process, life)?;
                self.end_life(process, 30);
            }
            Outcome::NameLive { .. } => self.end_life(process, 50),
            Outcome::HookHung | Outcome::DrainIncomplete | Outcome::GaveUp(_) => {
                self.end_life(process, super::faults::CRASHED)
            }
        }
        Ok(())
    }
}
