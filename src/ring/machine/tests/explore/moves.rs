//! What can happen next in a situation, and the situation after it.
//!
//! In: a situation. Out: each of its moves, and where a move leads, or the invariant that it breaks. Whatever is on its
//! way to different places arrives in any order; time goes on only when nothing is overdue. Where two orders surely lead
//! to the same situation, one is explored; each such place says why.

use std::sync::Arc;

use super::state::{BEAT, Mode, Node, Pending, State, Thing, Watched, Writing};
use super::tally::{Seen, Tally};
use crate::coord::{CasError, Key, LeaseState, Record, Update};
use crate::ring::io::{Action, Input, OpId};
use crate::types::Time;

/// Operations of the explorer's own.
const OFFERED: OpId = OpId(1);

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// A node sees what its watch of the ring has next.
    Ring(u8),
    /// The same of leases.
    Leases(u8),
    /// Something else that was on its way to a node arrives.
    Inbox(u8, u8),
    /// A node that stood still past a write's deadline gives up on it, though its answer is there.
    GiveUpOn(u8, u8),
    /// A node does what is due by its clock.
    Wake(u8),
    /// A write reaches the store.
    Arrive(u8),
    /// A write reaches the store, its answer does not come back. (Time-out.)
    Unanswered(u8),
    /// A write stays on its way past its time-out, for as long as it likes. (Time-out.)
    Defer(u8),
    /// Time goes on to when something is due next.
    Tick,
    /// The same, and the heartbeat that is due then is deferred. (Time-out.)
    TickDeferring(u8),
    /// The same, and the node stops between its heartbeat and the answer. (Pause.)
    TickPausing(u8),
    /// The third node starts.
    Join,
    /// A process dies.
    Crash(u8),
    /// A process stands still.
    Pause(u8),
    /// It goes on.
    Resume(u8),
}

/// What becomes of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beat {
    /// Acknowledged at once.
    Acked,
    Deferred,
    Pausing,
}

fn byte(index: usize) -> u8 {
    u8::try_from(index).expect("few")
}

impl State {
    /// Everything that can happen next.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        let mut idle = true;
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.runs()) {
            idle &= !self.deliveries(byte(index), node, &mut moves);
        }
        let (writes_idle, overdue) = self.arrivals(&mut moves);
        // What else is overdue would come before time goes on, and does not see whether the write is late by then.
        if idle && overdue.len() == 1 && self.left.timeouts > 0 {
            moves.push(Move::Defer(overdue[0]));
        }
        let idle = idle && writes_idle;
        if idle && self.next_instant().is_some() {
            moves.push(Move::Tick);
            let beating = |node: &&usize| self.nodes[**node].runs();
            for index in [0, 1, 2].iter().filter(beating).map(|index| byte(*index)) {
                moves.extend((self.left.timeouts > 0).then_some(Move::TickDeferring(index)));
                moves.extend((self.left.pauses > 0).then_some(Move::TickPausing(index)));
            }
        }
        self.mishaps(idle, &mut moves);
        moves
    }

    /// What can reach this node now; tells whether any of it is overdue.
    fn deliveries(&self, index: u8, node: &Node, moves: &mut Vec<Move>) -> bool {
        let mut overdue = false;
        for (queue, step) in [(&node.ring, Move::Ring(index)), (&node.leases, Move::Leases(index))] {
            if let Some(head) = queue.front() {
                overdue |= head.by <= self.now;
                moves.push(step);
            }
        }
        for (number, pending) in node.inbox.iter().enumerate().filter(|(_, pending)| self.can_arrive(pending)) {
            overdue |= pending.by <= self.now;
            moves.push(Move::Inbox(index, byte(number)));
            if matches!(pending.what, Thing::Answer { deadline, .. } if deadline <= self.now && deadline > pending.from)
            {
                moves.push(Move::GiveUpOn(index, byte(number)));
            }
        }
        if node.is_due(self.now) {
            overdue = true;
            moves.push(Move::Wake(index));
        }
        overdue
    }

    /// Writes that can reach the store; tells whether none is overdue, and which are.
    fn arrivals(&self, moves: &mut Vec<Move>) -> (bool, Vec<u8>) {
        let mut overdue = Vec::new();
        for (number, writing) in self.writes.iter().enumerate() {
            let number = byte(number);
            moves.push(Move::Arrive(number));
            if !writing.stray {
                moves.extend((self.left.timeouts > 0).then_some(Move::Unanswered(number)));
                overdue.extend((writing.by <= self.now).then_some(number));
            }
        }
        (overdue.is_empty(), overdue)
    }

    /// A process that stops, or starts, a little earlier or later makes no difference to the others' moves as long as
    /// nothing could have reached it in between: it stops only where something could, or where time would go on.
    fn mishaps(&self, idle: bool, moves: &mut Vec<Move>) {
        if self.left.joins > 0 {
            moves.push(Move::Join);
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if node.machine.is_some() && node.paused {
                moves.push(Move::Resume(byte(index)));
            }
            let awaited = |other: &Arc<Node>| {
                other.inbox.iter().any(|pending| match &pending.what {
                    Thing::Transferred { to, .. } => node.id().as_ref() == Some(to),
                    _ => false,
                })
            };
            let writes = self.writes.iter().any(|writing| writing.process == index && !writing.stray);
            let reached = !node.ring.is_empty()
                || !node.leases.is_empty()
                || node.inbox.iter().any(|pending| self.can_arrive(pending))
                || node.is_due(self.now);
            if node.runs() && (idle || reached || writes || self.nodes.iter().any(awaited)) {
                moves.extend((self.left.crashes > 0).then_some(Move::Crash(byte(index))));
                moves.extend((self.left.pauses > 0).then_some(Move::Pause(byte(index))));
            }
        }
    }

    fn can_arrive(&self, pending: &Pending<Thing>) -> bool {
        let there = match &pending.what {
            // The target acknowledges chunks: not while it stands still.
            Thing::Transferred { to, .. } => {
                !self.nodes.iter().any(|node| node.paused && node.id().as_ref() == Some(to))
            }
            _ => true,
        };
        pending.from <= self.now && there
    }

    /// When anything is due next.
    fn next_instant(&self) -> Option<Time> {
        let mut instants: Vec<Time> = self.writes.iter().filter(|w| !w.stray).map(|writing| writing.by).collect();
        for node in self.nodes.iter().filter(|node| node.runs()) {
            instants.extend(node.machine.as_ref().and_then(|machine| machine.next_wake()));
            instants.extend(node.ring.iter().chain(&node.leases).map(|pending| pending.by));
            instants.extend(node.inbox.iter().flat_map(|pending| [pending.from, pending.by]));
        }
        instants.into_iter().filter(|at| *at > self.now).min()
    }

    /// Where a move leads.
    pub(super) fn after(&self, step: Move, tally: &mut Tally) -> Result<Self, String> {
        let mut next = self.clone();
        next.carry(step, tally)?;
        next.judge()?;
        Ok(next)
    }

    fn carry(&mut self, step: Move, tally: &mut Tally) -> Result<(), String> {
        match step {
            Move::Ring(index) => {
                let node = Arc::make_mut(&mut self.nodes[usize::from(index)]);
                let Some(watched) = node.ring.pop_front() else { return Ok(()) };
                let input = match watched.what {
                    Watched::Snapshot { updates, .. } => Input::RingSnapshot(updates),
                    Watched::Change(update) => Input::RingChange(update),
                };
                self.step(usize::from(index), input, tally)
            }
            Move::Leases(index) => {
                let node = Arc::make_mut(&mut self.nodes[usize::from(index)]);
                let Some(watched) = node.leases.pop_front() else { return Ok(()) };
                let input = match watched.what {
                    Watched::Snapshot { all, updates } => Input::LeaseSnapshot { all, leases: updates },
                    Watched::Change(update) => Input::LeaseChange(update),
                };
                self.step(usize::from(index), input, tally)
            }
            Move::Inbox(index, number) => self.receive(usize::from(index), usize::from(number), false, tally),
            Move::GiveUpOn(index, number) => self.receive(usize::from(index), usize::from(number), true, tally),
            Move::Wake(index) => self.step(usize::from(index), Input::Wake, tally),
            Move::Arrive(number) => {
                let writing = self.writes.remove(usize::from(number));
                self.arrive(&writing, tally)
            }
            Move::Unanswered(number) => {
                let writing = self.writes.remove(usize::from(number));
                let writing = self.time_out(writing, tally);
                self.arrive(&writing, tally)
            }
            Move::Defer(number) => {
                let writing = self.writes.remove(usize::from(number));
                let writing = self.time_out(writing, tally);
                self.writes.push(writing);
                Ok(())
            }
            Move::Tick => self.tick(None, tally),
            Move::TickDeferring(index) => self.tick(Some((usize::from(index), Beat::Deferred)), tally),
            Move::TickPausing(index) => self.tick(Some((usize::from(index), Beat::Pausing)), tally),
            Move::Join => {
                self.left.joins -= 1;
                self.start(self.nodes.len() - 1, tally)
            }
            Move::Crash(index) => {
                self.left.crashes -= 1;
                tally.count(Seen::Crashed);
                self.end(usize::from(index));
                Ok(())
            }
            Move::Pause(index) => {
                self.pause(usize::from(index), tally);
                Ok(())
            }
            Move::Resume(index) => {
                Arc::make_mut(&mut self.nodes[usize::from(index)]).paused = false;
                Ok(())
            }
        }
    }

    fn pause(&mut self, index: usize, tally: &mut Tally) {
        self.left.pauses -= 1;
        tally.count(Seen::Paused);
        Arc::make_mut(&mut self.nodes[index]).paused = true;
    }

    /// The answer will not come: the machine is told so when its time is over.
    fn time_out(&mut self, mut writing: Writing, tally: &mut Tally) -> Writing {
        self.left.timeouts -= 1;
        tally.count(Seen::TimedOut);
        writing.stray = true;
        let (op, deadline) = (writing.op, writing.deadline);
        if self.nodes[writing.process].session == writing.session {
            let result = Err(CasError::Unknown(String::new()));
            self.post(writing.process, deadline, Thing::Answer { op, result, deadline });
        }
        writing
    }

    fn receive(&mut self, index: usize, number: usize, too_late: bool, tally: &mut Tally) -> Result<(), String> {
        let node = Arc::make_mut(&mut self.nodes[index]);
        let life = node.session;
        let input = match node.inbox.remove(number).what {
            Thing::Answer { op, .. } if too_late => Input::Cas { op, result: Err(CasError::Unknown(String::new())) },
            Thing::Answer { op, result, .. } => Input::Cas { op, result },
            Thing::HookEnds { op } => {
                Arc::make_mut(&mut self.checker).hook_ended(index, life, op, true);
                Input::Hook { op, result: Ok(()) }
            }
            Thing::Idle { partition, epoch } => {
                node.parts[partition.index()].mode = Mode::Park { running: false };
                Input::Idle { partition, epoch }
            }
            Thing::Transferred { to, partition, epoch } => {
                let there = self.nodes.iter().any(|node| node.id().as_ref() == Some(&to));
                let result = if there { Ok(1) } else { Err("no responders".to_owned()) };
                Input::Transferred { partition, epoch, result }
            }
            Thing::Offered(offer) => {
                let back = self.nodes.iter().position(|node| node.id().as_ref() == Some(&offer.from));
                let (partition, epoch) = (offer.partition, offer.epoch);
                let refused = self.step_answering(index, Input::Offered { op: OFFERED, offer }, tally)?;
                if let Some((from, reason)) = back.zip(refused) {
                    self.post(from, self.now, Thing::Refused { partition, epoch, reason });
                }
                return Ok(());
            }
            Thing::Refused { partition, epoch, reason } => Input::OfferRefused { partition, epoch, reason },
        };
        self.step(index, input, tally)
    }

    /// Time goes on. Heartbeats of nodes that renewed their lease a beat ago, and do nothing else now, are sent,
    /// acknowledged and seen in this same move. They change no decision: whether such a node may act, claim or judge,
    /// and whether others find it silent, is the same by this renewal and by the one before, for the whole beat; so their
    /// order among each other and with all else at this moment makes no difference.
    fn tick(&mut self, special: Option<(usize, Beat)>, tally: &mut Tally) -> Result<(), String> {
        let Some(next) = self.next_instant() else { return Ok(()) };
        self.now = next;
        let mut seen = Vec::new();
        for index in 0..self.nodes.len() {
            let fate = special.filter(|(node, _)| *node == index).map_or(Beat::Acked, |(_, fate)| fate);
            if self.nodes[index].runs() && self.nodes[index].is_due(self.now) {
                seen.extend(self.beat_quietly(index, fate, tally)?);
            }
        }
        for update in seen {
            self.publish_lease(&update, true, tally)?;
        }
        Ok(())
    }

    /// Sends what is due at a node if that is a mere renewal.
    fn beat_quietly(&mut self, index: usize, fate: Beat, tally: &mut Tally) -> Result<Option<Update>, String> {
        let mut node = self.nodes[index].as_ref().clone();
        let Some(machine) = &mut node.machine else { return Ok(None) };
        let actions = machine.step(self.now, Input::Wake);
        let [Action::Cas { op, key, expected, record, heartbeat: true, timeout, .. }] = &actions[..] else {
            return Ok(None);
        };
        if !self.is_mere_renewal(index, key, *expected, record) {
            return Ok(None);
        }
        if fate != Beat::Acked {
            let (by, deadline, session) = (self.by(), self.now + *timeout, node.session);
            let (op, key, record) = (*op, key.clone(), super::act::without_count(record.clone()));
            let writing =
                Writing { process: index, session, op, key, expected: *expected, record, by, deadline, stray: false };
            self.nodes[index] = Arc::new(node);
            self.forget_counts(index);
            if fate == Beat::Pausing {
                self.pause(index, tally);
                self.writes.push(writing);
            } else {
                let writing = self.time_out(writing, tally);
                self.writes.push(writing);
            }
            return Ok(None);
        }
        let record = super::act::without_count(record.clone());
        let (op, key) = (*op, key.clone());
        self.nodes[index] = Arc::new(node);
        let revision = Arc::make_mut(&mut self.kv).put(&key, &record, self.now);
        self.step(index, Input::Cas { op, result: Ok(revision) }, tally)?;
        Ok(Some(Update { key, revision, record }))
    }

    /// Whether this write renews a lease that its holder renewed one beat ago, with nothing else on its way to it.
    pub(super) fn is_mere_renewal(
        &self,
        index: usize,
        key: &Key,
        expected: crate::coord::Revision,
        record: &Record,
    ) -> bool {
        let (Key::Lease(name), Record::Lease(lease)) = (key, record) else { return false };
        let fresh = self.kv.leases_written.get(name).is_some_and(|at| self.now.since(*at) <= BEAT);
        let alone = !self.writes.iter().any(|writing| writing.key == *key);
        let own = *name == self.nodes[index].name && lease.state == LeaseState::Live;
        own && fresh && alone && self.kv.revision(key) == expected
    }
}
