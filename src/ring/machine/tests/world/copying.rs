//! The copies of the simulated world: what an owner and its followers do, with a partition's content being the list of
//! the writes it took, and judged from outside.
//!
//! Owners write while they serve and feed their followers; followers take it from the latest epoch they know of. A write
//! counts as committed once all of the set, and of the set that is being recorded, have it: from then on every recorded
//! member that lives must have it. `recovering` is how content is gathered after a takeover.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;

use super::checker::Checked;
use super::process::Mode;
use super::recovering::Gathering;
use super::{Due, LEASE, MS, World};
use crate::ring::io::{CopySet, Input, OpId};
use crate::types::{Epoch, NodeId, PartitionId};

/// One write: at which epoch, and its number there.
pub(super) type Version = (u64, u64);
/// A member that lags for this long is reported.
const SILENT_AFTER: u64 = LEASE / 4;
/// A learner that has got nothing for this long is reported.
const LEARNER_SILENT_AFTER: u64 = 3 * LEASE / 2;
/// A learner may be this many writes behind.
const BATCH: usize = 2;

/// A partition's content at a process, and what it does about it.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    /// All writes, in order; `None`: no whole copy.
    pub(super) log: Option<Vec<Version>>,
    pub(super) promised: Epoch,
    /// At which epoch it was last fed: shorter logs of that epoch are old news.
    fed_at: Epoch,
    /// Counts what came from owners.
    pub(super) fed: u64,
    pub(super) unwanted: Option<Epoch>,
    pub(super) asking: bool,
    pub(super) lead: Option<Lead>,
}

/// What an owner knows of its followers.
#[derive(Debug, Clone)]
pub(super) struct Lead {
    pub(super) epoch: Epoch,
    op: OpId,
    pub(super) set: CopySet,
    pub(super) followers: BTreeMap<NodeId, Following>,
    written: u64,
    ticking: bool,
    transfer: bool,
    pub(super) gathering: Option<Gathering>,
}

/// One follower, since it was last named.
#[derive(Debug, Clone)]
pub(super) struct Following {
    /// Tells answers to what was sent in an earlier term from those to this one's.
    term: u64,
    pub(super) acked: Option<usize>,
    behind_since: Option<u64>,
    told_silent: bool,
    told_caught_up: bool,
    /// In the pending set: what it is to have before that is recorded.
    goal: Option<usize>,
}

/// Which content, led from which session of which process.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) process: usize,
    pub(super) session: u32,
    pub(super) partition: PartitionId,
    pub(super) epoch: Epoch,
}

/// What is due.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// An owner looks at its followers.
    Tick(At),
    /// Content reaches a follower.
    Feed { at: At, to: NodeId, term: u64, log: Vec<Version> },
    /// Its answer reaches the owner.
    Ack { at: At, from: NodeId, term: u64, length: usize },
    /// Requests write, as long as nothing changes about how they are served.
    Write { at: At, parking: u64 },
    /// A node whose copy is not wanted asks the owner whether it may go.
    AskDrop { at: At },
    /// It may, unless it was fed since.
    MayDrop { at: At, fed: u64 },
    /// A survivor is asked for its content.
    Promise { at: At, to: NodeId },
    /// Its answer.
    Promised { at: At, from: NodeId, log: Option<Vec<Version>> },
    /// Who has not answered by now does not count.
    Gather { at: At, last: bool },
}

impl Lead {
    pub(super) fn new(epoch: Epoch, set: CopySet) -> Self {
        let followers = BTreeMap::new();
        let (ticking, transfer, gathering) = (false, false, None);
        Self { epoch, op: OpId(0), set, followers, written: 0, ticking, transfer, gathering }
    }

    /// These follow from now on; who did already is known.
    pub(super) fn follow(&mut self, ids: BTreeSet<NodeId>, term: u64) {
        self.followers.retain(|id, _| ids.contains(id));
        let fresh =
            Following { term, acked: None, behind_since: None, told_silent: false, told_caught_up: false, goal: None };
        for id in ids {
            self.followers.entry(id).or_insert_with(|| fresh.clone());
        }
    }

    /// How much of it all of both sets have.
    fn committed(&self, me: &NodeId, length: usize) -> usize {
        let both = self.set.in_sync.iter().chain(self.set.pending.iter().flatten()).filter(|id| *id != me);
        both.map(|id| self.followers.get(id).and_then(|f| f.acked).unwrap_or(0)).min().unwrap_or(length)
    }
}

impl World {
    pub(super) fn held(&mut self, process: usize, partition: PartitionId) -> &mut Held {
        &mut self.processes[process].held[partition.index()]
    }

    pub(super) fn at(&self, process: usize, partition: PartitionId, epoch: Epoch) -> At {
        At { process, session: self.processes[process].session, partition, epoch }
    }

    pub(super) fn later(&mut self, from: u64, to: u64, step: Step) {
        let delay = self.rng.random_range(from..=to);
        self.due_in(delay, Due::Copying(step));
    }

    pub(super) fn process_of(&self, id: &NodeId) -> Option<usize> {
        self.processes.iter().position(|p| p.machine.as_ref().and_then(|m| m.id()).as_ref() == Some(id))
    }

    pub(super) fn own_id(&self, process: usize) -> Option<NodeId> {
        self.processes[process].machine.as_ref()?.id()
    }

    /// Carries out what is due, or puts it off while its process stands still.
    pub(super) fn copying(&mut self, step: Step) -> Checked {
        let here = match &step {
            Step::Feed { to, .. } | Step::Promise { to, .. } => self.process_of(to),
            Step::Tick(at)
            | Step::Ack { at, .. }
            | Step::Write { at, .. }
            | Step::AskDrop { at }
            | Step::MayDrop { at, .. }
            | Step::Promised { at, .. }
            | Step::Gather { at, .. } => {
                Some(at.process).filter(|process| self.processes[*process].session == at.session)
            }
        };
        let Some(process) = here else { return Ok(()) };
        if self.processes[process].paused {
            self.later(40 * MS, 60 * MS, step);
            return Ok(());
        }
        match step {
            Step::Tick(at) => self.tick(at),
            Step::Feed { at, to, term, log } => self.fed(process, at, (to, term), log),
            Step::Ack { at, from, term, length } => self.acked(at, &from, term, length),
            Step::Write { at, parking } => self.written(at, parking),
            Step::AskDrop { at } => self.ask_drop(at),
            Step::MayDrop { at, fed } => self.may_drop(at, fed),
            Step::Promise { at, to } => self.promise(process, at, to),
            Step::Promised { at, from, log } => self.promised(at, from, log),
            Step::Gather { at, last } => self.gather(at, last),
        }
    }

    /// The machine names the set.
    pub(super) fn replicate(
        &mut self,
        process: usize,
        (op, partition, epoch): (OpId, PartitionId, Epoch),
        set: CopySet,
    ) {
        let Some(me) = self.own_id(process) else { return };
        let held = self.held(process, partition);
        if held.promised > epoch {
            held.lead = None;
            return;
        }
        held.promised = epoch;
        held.log.get_or_insert_default();
        let all = set.in_sync.iter().chain(set.pending.iter().flatten()).chain(&set.learners);
        let all: BTreeSet<NodeId> = all.filter(|id| **id != me).cloned().collect();
        let before = held.lead.take().filter(|lead| lead.epoch == epoch);
        let mut lead = before.unwrap_or_else(|| Lead::new(epoch, set.clone()));
        lead.follow(all, op.0);
        let length = held.log.as_ref().map_or(0, Vec::len);
        let added = |id: &NodeId, set: &CopySet| {
            set.pending.as_ref().is_some_and(|pending| pending.contains(id)) && !set.in_sync.contains(id)
        };
        for (id, follower) in &mut lead.followers {
            follower.goal = added(id, &set).then_some(length);
        }
        let ids: Vec<NodeId> = lead.followers.keys().cloned().collect();
        (lead.op, lead.set, lead.gathering) = (op, set, None);
        held.lead = Some(lead);
        let at = self.at(process, partition, epoch);
        ids.iter().for_each(|id| self.tell_progress(at, id));
        self.start_ticking(process, partition);
    }

    pub(super) fn start_ticking(&mut self, process: usize, partition: PartitionId) {
        let Some(lead) = &mut self.held(process, partition).lead else { return };
        if !std::mem::replace(&mut lead.ticking, true) {
            let at = At { epoch: lead.epoch, ..self.at(process, partition, Epoch::ZERO) };
            self.later(MS, 5 * MS, Step::Tick(at));
        }
    }

    /// Served: requests write from now on.
    pub(super) fn begin_writes(&mut self, process: usize, partition: PartitionId, epoch: Epoch) {
        if self.replicates {
            let parking = self.processes[process].parts[partition.index()].parking;
            let at = self.at(process, partition, epoch);
            self.later(MS, 50 * MS, Step::Write { at, parking });
        }
    }

    fn written(&mut self, at: At, parking: u64) -> Checked {
        let part = &self.processes[at.process].parts[at.partition.index()];
        if part.parking != parking || part.mode != Mode::Serve {
            return Ok(());
        }
        let executes = self.processes[at.process].executes(at.partition, self.now).is_some();
        let held = self.held(at.process, at.partition);
        if let (Some(log), Some(lead), true) = (&mut held.log, &mut held.lead, executes)
            && lead.epoch == at.epoch
        {
            lead.written += 1;
            log.push((at.epoch.get(), lead.written));
            self.start_ticking(at.process, at.partition);
            self.commit(at.process, at.partition)?;
        }
        let longest = if self.faulty { 250 * MS } else { 900 * MS };
        self.later(20 * MS, longest, Step::Write { at, parking });
        Ok(())
    }

    fn tick(&mut self, at: At) -> Checked {
        let now = self.now;
        let held = self.held(at.process, at.partition);
        let Some(log) = held.log.clone() else { return Ok(()) };
        let Some(lead) = held.lead.as_mut().filter(|lead| lead.epoch == at.epoch) else { return Ok(()) };
        let (mut sends, mut silent, mut behind) = (Vec::new(), Vec::new(), false);
        let set = lead.set.clone();
        for (id, follower) in &mut lead.followers {
            if follower.acked == Some(log.len()) {
                follower.behind_since = None;
                continue;
            }
            behind = true;
            let since = *follower.behind_since.get_or_insert(now);
            let member = set.in_sync.contains(id) || set.pending.iter().flatten().any(|other| other == id);
            let patience = if member { SILENT_AFTER } else { LEARNER_SILENT_AFTER };
            if now - since > patience && lead.gathering.is_none() && !std::mem::replace(&mut follower.told_silent, true)
            {
                silent.push(id.clone());
            }
            sends.push((id.clone(), follower.term, follower.acked.is_none() && !member));
        }
        lead.ticking = behind || lead.transfer;
        let again = lead.ticking;
        for (to, term, copy) in sends {
            let lost = self.faulty && self.chance(self.odds.lost);
            if !lost {
                let longest = if copy { 400 * MS } else { 15 * MS };
                self.later(MS / 10, longest, Step::Feed { at, to, term, log: log.clone() });
            }
        }
        for node in silent {
            let (partition, epoch) = (at.partition, at.epoch);
            self.due_in(
                MS,
                Due::Deliver {
                    process: at.process,
                    session: at.session,
                    input: Input::Silent { partition, epoch, node },
                },
            );
        }
        if again {
            self.later(40 * MS, 70 * MS, Step::Tick(at));
        }
        self.transfer_done(at);
        Ok(())
    }

    /// Content reaches a follower.
    fn fed(&mut self, process: usize, at: At, (to, term): (NodeId, u64), log: Vec<Version>) -> Checked {
        if process == at.process {
            return Ok(());
        }
        let held = self.held(process, at.partition);
        if held.promised > at.epoch {
            return Ok(());
        }
        held.lead = held.lead.take().filter(|lead| lead.epoch >= at.epoch);
        held.fed += 1;
        let known = held.log.as_ref().filter(|_| held.fed_at == at.epoch).map(Vec::len);
        if known.is_none_or(|known| known < log.len()) {
            held.log = Some(log);
        }
        (held.promised, held.fed_at) = (at.epoch, at.epoch);
        let length = held.log.as_ref().map_or(0, Vec::len);
        let unwanted = held.unwanted == Some(at.epoch);
        self.check_copies(at.partition)?;
        if unwanted {
            self.start_asking(process, at.partition, at.epoch);
        }
        let lost = self.faulty && self.chance(self.odds.lost);
        if !lost {
            let longest = if self.faulty && self.chance(5) { LEASE } else { 15 * MS };
            self.later(MS / 10, longest, Step::Ack { at, from: to, term, length });
        }
        Ok(())
    }

    fn acked(&mut self, at: At, from: &NodeId, term: u64, length: usize) -> Checked {
        let held = self.held(at.process, at.partition);
        let Some(lead) = held.lead.as_mut().filter(|lead| lead.epoch == at.epoch) else { return Ok(()) };
        let Some(follower) = lead.followers.get_mut(from).filter(|follower| follower.term == term) else {
            return Ok(());
        };
        if follower.acked.is_none_or(|acked| acked < length) {
            (follower.acked, follower.behind_since, follower.told_silent) = (Some(length), None, false);
        }
        self.tell_progress(at, from);
        self.transfer_done(at);
        self.commit(at.process, at.partition)
    }

    /// Reports a learner that has nearly everything, and an added member that has all there was when it was named.
    fn tell_progress(&mut self, at: At, from: &NodeId) {
        let held = self.held(at.process, at.partition);
        let Some(log) = held.log.as_ref().map(Vec::len) else { return };
        let Some(lead) = held.lead.as_mut().filter(|lead| lead.gathering.is_none()) else { return };
        let (op, learns) = (lead.op, lead.set.learners.contains(from));
        let Some(follower) = lead.followers.get_mut(from) else { return };
        let Some(length) = follower.acked else { return };
        let joined = follower.goal.take_if(|goal| *goal <= length).is_some();
        let learned = learns && length + BATCH >= log && !std::mem::replace(&mut follower.told_caught_up, true);
        if !joined && !learned {
            return;
        }
        let (partition, epoch, node) = (at.partition, at.epoch, from.clone());
        let longest = if self.faulty && self.chance(20) { LEASE } else { 10 * MS };
        let delay = self.rng.random_range(MS / 10..=longest);
        let input = Input::CaughtUp { partition, epoch, node, op };
        self.due_in(delay, Due::Deliver { process: at.process, session: at.session, input });
    }

    /// What all of both sets have is committed, if the owner may still say so.
    pub(super) fn commit(&mut self, process: usize, partition: PartitionId) -> Checked {
        let node = &self.processes[process];
        if node.local(self.now) >= node.gate || node.parts[partition.index()].mode == Mode::Forward {
            return Ok(());
        }
        let Some(me) = self.own_id(process) else { return Ok(()) };
        let held = &self.processes[process].held[partition.index()];
        let (Some(lead), Some(log)) = (&held.lead, &held.log) else { return Ok(()) };
        let committed = lead.committed(&me, log.len());
        let before = &self.committed[partition.index()];
        if lead.gathering.is_some() || committed <= before.len() {
            return Ok(());
        }
        if !log.starts_with(before) {
            return Err(format!(
                "partition {partition}: {me} commits without {:?}, which was committed",
                before.last()
            ));
        }
        self.committed[partition.index()] = log[..committed].to_vec();
        self.check_copies(partition)
    }

    /// A move to a member: done once every member has everything.
    pub(super) fn transfer_in_sync(&mut self, process: usize, partition: PartitionId) {
        if let Some(lead) = &mut self.held(process, partition).lead {
            lead.transfer = true;
        }
        self.start_ticking(process, partition);
    }

    fn transfer_done(&mut self, at: At) {
        let held = self.held(at.process, at.partition);
        let Some(log) = held.log.as_ref().map(Vec::len) else { return };
        let Some(lead) = held.lead.as_mut().filter(|lead| lead.transfer) else { return };
        let done = |id: &NodeId| lead.followers.get(id).is_none_or(|follower| follower.acked == Some(log));
        if lead.set.in_sync.iter().all(done) {
            lead.transfer = false;
            let (partition, epoch, result) = (at.partition, at.epoch, Ok(0));
            let input = Input::Transferred { partition, epoch, result };
            self.due_in(MS / 10, Due::Deliver { process: at.process, session: at.session, input });
        }
    }
}
