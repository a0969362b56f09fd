//! A node that owns: it writes, drives its leader, and changes the set as the ring's rules say.

use std::collections::BTreeSet;

use rand::RngExt;

use super::asking::Question;
use super::service::Op;
use super::world::{Asker, BOUNDS, Claim, Event, Role, Tag, World};
use crate::replica::{Ask, Change, Failure, Follower, Leader, Members, Report, Send, Told};
use crate::types::{NodeId, Time, Version};

const TICK_MS: u64 = 4;
const PARK_MS: u64 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Recovering {
        until_ms: u64,
    },
    Serving,
    /// No more writes until all are committed, to hand over.
    Parking {
        until_ms: u64,
    },
    Offered,
}

#[derive(Debug)]
pub(super) struct Owner {
    pub(super) leader: Leader,
    pub(super) phase: Phase,
    pub(super) members: Members,
    pub(super) caught_up: BTreeSet<NodeId>,
    pub(super) silent: BTreeSet<NodeId>,
    /// A change of the set that is not settled.
    pub(super) unsettled: bool,
    pub(super) committed: Version,
    /// Takeover: who promised, where they stood.
    pub(super) promised: Vec<(NodeId, Version)>,
    /// What was executed while suspended, and is not answered yet.
    pub(super) questions: Vec<Question>,
}

impl Owner {
    pub(super) fn new(mut leader: Leader, in_sync: BTreeSet<NodeId>) -> Self {
        let members = Members { in_sync, pending: None, learners: BTreeSet::new() };
        leader.set_members(&members);
        Self {
            leader,
            phase: Phase::Serving,
            members,
            caught_up: BTreeSet::new(),
            silent: BTreeSet::new(),
            unsettled: false,
            committed: Version::default(),
            promised: Vec::new(),
            questions: Vec::new(),
        }
    }
}

impl World {
    pub(super) fn start_owner(&mut self, id: &NodeId) {
        self.at(0, Event::Tick { id: id.clone() });
        self.at(1, Event::Write { id: id.clone() });
        self.at(7, Event::Arrives { id: id.clone() });
    }

    pub(super) fn write(&mut self, id: &NodeId) -> Result<(), String> {
        let Some(node) = self.index(id) else { return Ok(()) };
        let more = if self.chance(0.04) { self.rng.random_range(5..=30) } else { 1 };
        for _ in 0..more {
            let (key, value) = (self.rng.random_range(0..16), self.rng.random_range(0..1000));
            let op = match self.rng.random_range(0..10) {
                0..=3 => Op::Set { key, value, padding: Vec::new() },
                4 => Op::Set { key, value, padding: vec![0; 400 * usize::from(self.chance(0.1))] },
                5..=6 => Op::Delete { key },
                _ => Op::Add { key, amount: value },
            };
            let (goes_on, at) = (self.writes_go_on(), &mut self.nodes[node]);
            let Role::Owner(owner) = &mut at.role else { return Ok(()) };
            if owner.phase != Phase::Serving || !goes_on {
                break;
            }
            let (after, version) = (owner.leader.tail(), owner.leader.next_version());
            let change = Change { version, made: Time::ZERO, body: op.encode() };
            at.service.change(&change);
            owner.leader.append(change.clone()).map_err(|e| e.to_string())?;
            let too_many = owner.leader.log_bytes() > BOUNDS.pinned_max_bytes + change.weight();
            self.judge.wrote(after, &change)?;
            if too_many {
                return Err("a log is bounded".to_owned());
            }
        }
        let again = self.rng.random_range(1..=24);
        self.at(again, Event::Write { id: id.clone() });
        self.drive(node)
    }

    pub(super) fn tick(&mut self, id: &NodeId) -> Result<(), String> {
        let Some(node) = self.index(id) else { return Ok(()) };
        if !matches!(self.nodes[node].role, Role::Owner(_)) {
            return Ok(());
        }
        self.at(TICK_MS, Event::Tick { id: id.clone() });
        self.drive(node)?;
        self.steer(node)
    }

    /// What the leader has to send and to report.
    pub(super) fn drive(&mut self, node: usize) -> Result<(), String> {
        let (now, id) = (self.time(), self.nodes[node].id.clone());
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        let me = Asker { id, epoch: owner.leader.epoch() };
        let due = owner.leader.due(now);
        self.confirmed(node)?;
        for due in due {
            match due.send {
                Send::Copy => self.copy(node, &me, &due.to, due.number)?,
                Send::Append(ask) => {
                    let Ask::Append { changes, .. } = &ask else { return Err("writes are appended".to_owned()) };
                    if changes.len() > 1 && changes.iter().map(Change::weight).sum::<usize>() > BOUNDS.batch_max_bytes {
                        return Err("a batch is bounded".to_owned());
                    }
                    self.request(&me, &due.to, Tag::Append(due.number), ask);
                }
            }
        }
        self.reported(node)
    }

    fn reported(&mut self, node: usize) -> Result<(), String> {
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        let reports = owner.leader.reports();
        for report in reports {
            self.note(|| format!("reported: {report:?}"));
            match report {
                Report::CaughtUp(learner) => self.caught_up(node, learner)?,
                Report::Silent(silent) => {
                    self.count("silent");
                    let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
                    owner.caught_up.remove(&silent);
                    if owner.members.learners.remove(&silent) {
                        owner.leader.set_members(&owner.members);
                    }
                    owner.silent.insert(silent);
                }
                Report::Heard(member) => {
                    let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
                    owner.silent.remove(&member);
                }
                Report::Stale(_) => {
                    self.count("stale");
                    let id = self.nodes[node].id.clone();
                    self.owner_is_out(&id);
                    self.at(0, Event::Vanish { id });
                }
            }
        }
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        let committed = owner.leader.committed();
        if committed > owner.committed && !matches!(owner.phase, Phase::Recovering { .. }) {
            owner.committed = committed;
            self.judge.committed(committed)?;
            let claimed = self.index(&self.claim.owner).filter(|_| !self.claim.recovering);
            if let Some(Role::Owner(current)) = claimed.map(|claimed| &self.nodes[claimed].role) {
                let has = self.judge.has_committed(current.leader.tail());
                has.map_err(|why| format!("what is committed is with every later owner: {why}"))?;
            }
            self.check(node)?;
        }
        Ok(())
    }

    fn caught_up(&mut self, node: usize, learner: NodeId) -> Result<(), String> {
        self.count("caught up");
        // Of an owner that was replaced without knowing nothing comes: its change of the set is refused.
        let is_owner = self.nodes[node].id == self.claim.owner;
        if let Some(at) = self.index(&learner).filter(|at| is_owner && !self.nodes[*at].failed) {
            let copy = self.nodes[at].at().ok_or("caught up without a copy")?;
            let has = self.judge.has_committed(copy);
            has.map_err(|why| format!("caught up, it has all that is committed: {why}"))?;
        }
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        owner.caught_up.insert(learner);
        Ok(())
    }

    pub(super) fn answered(
        &mut self,
        to: &Asker,
        from: &NodeId,
        tag: Tag,
        answer: Option<Option<Told>>,
    ) -> Result<(), String> {
        let (now, Some(node)) = (self.time(), self.index(&to.id)) else { return Ok(()) };
        match &mut self.nodes[node].role {
            Role::Recovering(recovery) if recovery.epoch == to.epoch => {
                self.recovery_answered(node, from, tag, answer.flatten())
            }
            Role::Owner(owner) if owner.leader.epoch() == to.epoch => {
                if let Tag::Append(number) = tag {
                    let answer = match answer {
                        None => Err(Failure::Timeout),
                        Some(None) => Err(Failure::NoResponders),
                        Some(Some(told)) => Ok(told),
                    };
                    owner.leader.told(now, from, number, answer);
                } else {
                    self.copy_answered(node, to, from, tag, answer.flatten());
                }
                self.drive(node)
            }
            _ => Ok(()),
        }
    }

    /// Recovery comes to its end, the set is changed, ownership is handed over.
    fn steer(&mut self, node: usize) -> Result<(), String> {
        let id = self.nodes[node].id.clone();
        let wanted: BTreeSet<NodeId> =
            self.row.iter().map(|at| &self.nodes[*at]).filter(|at| at.alive).map(|at| at.id.clone()).collect();
        let now = self.now_ms;
        let (switches, again, goes_on) = (self.chance(0.01), self.chance(0.05), self.writes_go_on());
        let alive: BTreeSet<NodeId> = self.nodes.iter().filter(|at| at.alive).map(|at| at.id.clone()).collect();
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        match owner.phase {
            Phase::Offered => return Ok(()),
            Phase::Parking { until_ms } => return self.parking(node, until_ms),
            Phase::Recovering { until_ms } => return self.recovery_goes_on(node, until_ms),
            Phase::Serving if owner.unsettled => return Ok(()),
            Phase::Serving => {}
        }
        let mut target = owner.members.in_sync.clone();
        target.retain(|member| alive.contains(member) && !owner.silent.contains(member));
        target.extend(owner.caught_up.iter().filter(|node| wanted.contains(node)).cloned());
        if target == owner.members.in_sync && wanted.iter().all(|node| *node == id || target.contains(node)) {
            target.retain(|node| wanted.contains(node));
        }
        if target != owner.members.in_sync {
            owner.members.pending = Some(target.clone());
            owner.leader.set_members(&owner.members);
            return self.change_set(node, target);
        }
        if again {
            owner.silent.clear();
        }
        let learners: BTreeSet<NodeId> =
            wanted.into_iter().filter(|node| *node != id && !target.contains(node)).collect();
        let learners: BTreeSet<NodeId> = learners.into_iter().filter(|node| !owner.silent.contains(node)).collect();
        if learners != owner.members.learners {
            owner.caught_up.retain(|node| learners.contains(node));
            owner.members.learners = learners;
            owner.leader.set_members(&owner.members);
        }
        if switches && goes_on && !target.is_empty() {
            owner.phase = Phase::Parking { until_ms: now + PARK_MS };
        }
        Ok(())
    }

    fn parking(&mut self, node: usize, until_ms: u64) -> Result<(), String> {
        let now = self.now_ms;
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        let members = owner.members.in_sync.clone();
        if owner.leader.committed() == owner.leader.tail() {
            self.switch(node, &members);
        } else if now > until_ms {
            owner.phase = Phase::Serving;
        }
        Ok(())
    }

    pub(super) fn change_set(&mut self, node: usize, others: BTreeSet<NodeId>) -> Result<(), String> {
        self.count("set change");
        let id = self.nodes[node].id.clone();
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        owner.unsettled = true;
        let by = Asker { id, epoch: owner.leader.epoch() };
        let mut replicas = others;
        replicas.insert(by.id.clone());
        let (owner, epoch, revision) = (by.id.clone(), by.epoch, self.claim.revision);
        let write = Claim { owner, epoch, recovering: false, replicas, revision };
        if self.claim.owner != by.id || self.claim.epoch != by.epoch {
            return Ok(());
        }
        self.note(|| format!("set change: {write:?}"));
        let late = if self.troubled() && self.chance(0.3) { 300 } else { 5 };
        let (arrives, settles) = (self.rng.random_range(0..=late), self.rng.random_range(1..=late));
        if !self.troubled() || self.chance(0.8) {
            self.at(arrives, Event::CasArrives { by: by.clone(), write: write.clone() });
        }
        self.at(arrives + settles, Event::CasSettles { by, write });
        Ok(())
    }

    pub(super) fn cas_arrives(&mut self, by: &Asker, write: &Claim) -> Result<bool, String> {
        if self.claim.revision != write.revision || self.claim.owner != by.id {
            return Ok(false);
        }
        self.claim = Claim { revision: write.revision + 1, ..write.clone() };
        let node = self.index(&by.id);
        node.map_or(Ok(true), |node| self.check(node).map(|()| true))
    }

    /// The owner knows what became of its change: it is written, or never will be.
    pub(super) fn cas_settles(&mut self, by: &Asker, write: Claim) -> Result<(), String> {
        let Some(node) = self.index(&by.id) else { return Ok(()) };
        if !matches!(&self.nodes[node].role, Role::Owner(owner) if owner.leader.epoch() == by.epoch) {
            return Ok(());
        }
        if self.claim.revision == write.revision {
            if !write.recovering && !self.claim.recovering && self.chance(0.3) {
                self.claim.revision += 1;
            } else {
                self.cas_arrives(by, &write)?;
            }
        }
        if self.claim.owner != by.id || self.claim.epoch != by.epoch {
            return Ok(());
        }
        let mut in_sync = self.claim.replicas.clone();
        in_sync.remove(&by.id);
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        owner.unsettled = false;
        owner.caught_up.retain(|node| !in_sync.contains(node));
        owner.members.learners.retain(|node| !in_sync.contains(node));
        (owner.members.in_sync, owner.members.pending) = (in_sync, None);
        owner.leader.set_members(&owner.members);
        if matches!(owner.phase, Phase::Recovering { .. }) {
            return self.recovered(node);
        }
        self.drive(node)
    }

    fn switch(&mut self, node: usize, members: &BTreeSet<NodeId>) {
        let at = self.rng.random_range(0..members.len());
        let Some(target) = members.iter().nth(at).cloned() else { return };
        let (id, revision) = (self.nodes[node].id.clone(), self.claim.revision);
        let Role::Owner(owner) = &mut self.nodes[node].role else { return };
        if self.claim.owner != id || self.claim.epoch != owner.leader.epoch() {
            return;
        }
        owner.phase = Phase::Offered;
        let from = Asker { id, epoch: owner.leader.epoch() };
        let tail = owner.leader.tail();
        self.count("switch");
        let delay = self.rng.random_range(1..=30);
        self.at(delay, Event::SwitchArrives { from, target, revision, tail });
    }

    /// The target claims, or the owner does, under a new epoch.
    pub(super) fn switch_arrives(
        &mut self,
        from: &Asker,
        target: &NodeId,
        revision: u64,
        tail: Version,
    ) -> Result<(), String> {
        if self.claim.revision != revision || self.owner_gone {
            return Ok(());
        }
        let epoch = from.epoch.next();
        let taker = self.index(target).filter(|target| {
            matches!(&self.nodes[*target].role, Role::Follower(follower) if follower.at() == Some(tail) && follower.promised() < epoch)
        });
        let (claimant, node) = match (taker, self.index(&from.id)) {
            (Some(taker), _) => (target, taker),
            (None, Some(owner)) => (&from.id, owner),
            (None, None) => return Ok(()),
        };
        self.count(if taker.is_some() { "switched" } else { "switch abandoned" });
        self.claim = Claim { owner: claimant.clone(), epoch, revision: revision + 1, ..self.claim.clone() };
        let in_sync: BTreeSet<NodeId> = self.claim.replicas.iter().filter(|id| *id != claimant).cloned().collect();
        let leader = match std::mem::replace(&mut self.nodes[node].role, Role::Between) {
            Role::Owner(owner) => {
                let (log, bounds) = owner.leader.into_log();
                Leader::new(epoch, log, bounds)
            }
            Role::Follower(follower) => follower.into_leader(epoch).ok_or("a target has a copy")?,
            Role::Recovering(_) | Role::Between => return Err("a target follows".to_owned()),
        };
        self.nodes[node].copies.clear();
        self.nodes[node].role = Role::Owner(Owner::new(leader, in_sync));
        self.judge.began(epoch, self.now_ms);
        self.start_owner(&claimant.clone());
        if taker.is_some() {
            let delay = self.rng.random_range(1..=40);
            self.at(delay, Event::Superseded { id: from.id.clone(), epoch });
        }
        self.check(node)
    }

    /// A former owner sees that it was replaced as it had asked for: its copy stays.
    pub(super) fn superseded(&mut self, id: &NodeId, epoch: crate::types::Epoch) -> Result<(), String> {
        let Some(node) = self.index(id) else { return Ok(()) };
        match std::mem::replace(&mut self.nodes[node].role, Role::Between) {
            Role::Owner(owner) if owner.leader.epoch() < epoch => {
                self.nodes[node].copies.clear();
                self.nodes[node].role = Role::Follower(Follower::from_leader(epoch, owner.leader));
            }
            role => self.nodes[node].role = role,
        }
        self.check(node)
    }
}
