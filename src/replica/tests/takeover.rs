//! What goes wrong, and what follows: an owner is gone, a member of its set takes over.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;

use super::owner::{Owner, Phase};
use super::service::Service;
use super::world::{Asker, BOUNDS, Claim, Event, Role, Tag, World, id};
use crate::replica::{Ask, Follower, Leader, Log, Told};
use crate::types::{Epoch, NodeId, Version};

const COLLECT_MS: u64 = 150;
const PUSH_MS: u64 = 300;

/// A member that takes over: it collects what the others have.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) follower: Follower,
    pub(super) epoch: Epoch,
    until_ms: u64,
    waits_for: BTreeSet<NodeId>,
    promised: BTreeMap<NodeId, Version>,
    fetches: u32,
}

impl World {
    /// Something goes wrong, and time goes on; in the end everything heals.
    pub(super) fn trouble(&mut self) -> Result<(), String> {
        let every = self.trouble_every_ms;
        self.at(every, Event::Trouble);
        self.take_over()?;
        if !self.troubled() {
            for node in (0..self.nodes.len()).filter(|node| !self.nodes[*node].alive).collect::<Vec<_>>() {
                self.restart(node)?;
            }
            return Ok(());
        }
        let node = self.rng.random_range(0..self.nodes.len());
        match self.rng.random_range(0..100) {
            0 => {
                self.count("crash");
                self.vanish(&self.nodes[node].id.clone())?;
            }
            1 => {
                self.count("owner crashed");
                self.vanish(&self.claim.owner.clone())?;
            }
            2..=3 => {
                self.count("owner out, and does not know");
                let owner = self.claim.owner.clone();
                self.owner_is_out(&owner);
                let lasts = self.rng.random_range(50..=500);
                self.at(lasts, Event::Vanish { id: owner });
            }
            4..=5 => {
                let mut all: Vec<usize> = (0..self.nodes.len()).collect();
                let factor = self.factor;
                self.row.clear();
                while self.row.len() < factor {
                    let at = self.rng.random_range(0..all.len());
                    self.row.insert(all.swap_remove(at));
                }
                self.count("other row");
            }
            6..=8 => self.discard(node),
            _ => {}
        }
        Ok(())
    }

    /// A copy that nobody wants is dropped: not before its owner has let go of it, for the record may name it later than
    /// its owner had meant to.
    fn discard(&mut self, node: usize) {
        let (epoch, id) = (self.claim.epoch, &self.nodes[node].id);
        let lists = self.nodes.iter().filter(|at| at.alive).any(|at| {
            let Role::Owner(owner) = &at.role else { return false };
            owner.unsettled || owner.members.in_sync.contains(id) || owner.members.learners.contains(id)
        });
        if lists {
            return;
        }
        let at = &mut self.nodes[node];
        if self.row.contains(&node) || self.claim.replicas.contains(&at.id) || !matches!(at.role, Role::Follower(_)) {
            return;
        }
        (at.role, at.service, at.failed) = (Role::Follower(Follower::new(epoch, BOUNDS)), Service::default(), false);
        self.count("discarded");
    }

    pub(super) fn owner_is_out(&mut self, id: &NodeId) {
        if self.claim.owner == *id {
            self.owner_gone = true;
        }
    }

    pub(super) fn vanish(&mut self, id: &NodeId) -> Result<(), String> {
        let Some(node) = self.index(id) else { return Ok(()) };
        self.note(|| format!("{id} is gone"));
        self.owner_is_out(id);
        self.nodes[node].alive = false;
        let back = self.rng.random_range(20..=400);
        self.at(back, Event::Restart { node });
        Ok(())
    }

    pub(super) fn restart(&mut self, node: usize) -> Result<(), String> {
        let epoch = self.claim.epoch;
        let at = &mut self.nodes[node];
        if !at.alive {
            at.id = id(node, at.id.incarnation.start + 1);
            (at.alive, at.failed, at.service) = (true, false, Service::default());
            at.role = Role::Follower(Follower::new(epoch, BOUNDS));
            at.copies.clear();
        }
        Ok(())
    }

    /// Whoever the record lists and has a copy, claims what nobody owns.
    fn take_over(&mut self) -> Result<(), String> {
        if !self.owner_gone || self.chance(0.7) {
            return Ok(());
        }
        let gone = self.claim.owner.clone();
        let alive = |id: &&NodeId| **id != gone && self.index(id).is_some();
        let survivors: BTreeSet<NodeId> = self.claim.replicas.iter().filter(alive).cloned().collect();
        let able = |id: &&NodeId| self.index(id).is_some_and(|node| self.nodes[node].at().is_some());
        let able: Vec<NodeId> = survivors.iter().filter(able).cloned().collect();
        let epoch = self.claim.epoch.next();
        let revision = self.claim.revision + 1;
        if able.is_empty() && self.index(&gone).is_some() {
            // An operator's word is that what is lost is lost, not that an owner acts no more.
            return Ok(());
        }
        self.owner_gone = false;
        if able.is_empty() {
            return self.start_empty(epoch, revision);
        }
        let me = able[self.rng.random_range(0..able.len())].clone();
        self.note(|| format!("{me} takes over at {epoch}, with {survivors:?}"));
        self.count("takeover");
        let Some(node) = self.index(&me) else { return Ok(()) };
        self.superseded(&me, self.claim.epoch)?;
        self.claim = Claim { owner: me.clone(), epoch, recovering: true, replicas: survivors.clone(), revision };
        let Role::Follower(mut follower) = std::mem::replace(&mut self.nodes[node].role, Role::Between) else {
            return Err("who takes over followed".to_owned());
        };
        follower.promise(epoch);
        let waits_for: BTreeSet<NodeId> = survivors.into_iter().filter(|id| *id != me).collect();
        let until_ms = self.now_ms + COLLECT_MS;
        let promised = BTreeMap::new();
        let recovery = Recovery { follower, epoch, until_ms, waits_for: waits_for.clone(), promised, fetches: 0 };
        self.nodes[node].role = Role::Recovering(recovery);
        let asker = Asker { id: me.clone(), epoch };
        for survivor in &waits_for {
            self.request(&asker, survivor, Tag::Promise, Ask::Promise { epoch });
        }
        if waits_for.is_empty() {
            return self.collected(node);
        }
        Ok(())
    }

    /// No copy is left: as an operator said it should, the partition starts empty.
    fn start_empty(&mut self, epoch: Epoch, revision: u64) -> Result<(), String> {
        let gone = self.claim.owner.clone();
        let Some(node) = (0..self.nodes.len()).find(|node| self.nodes[*node].alive && self.nodes[*node].id != gone)
        else {
            self.owner_gone = true;
            return Ok(());
        };
        self.count("all lost");
        self.judge.all_lost();
        let owner = self.nodes[node].id.clone();
        self.note(|| format!("{owner} starts empty at {epoch}"));
        self.claim =
            Claim { owner: owner.clone(), epoch, recovering: false, replicas: [owner.clone()].into(), revision };
        let leader = Leader::new(epoch, Log::starting_at(Version { epoch, sequence: 0 }, BOUNDS.log_bytes), BOUNDS);
        let at = &mut self.nodes[node];
        (at.service, at.failed, at.role) =
            (Service::default(), false, Role::Owner(Owner::new(leader, BTreeSet::new())));
        self.judge.began(epoch, self.now_ms);
        self.start_owner(&owner);
        Ok(())
    }

    pub(super) fn recovery_answered(
        &mut self,
        node: usize,
        from: &NodeId,
        tag: Tag,
        answer: Option<Told>,
    ) -> Result<(), String> {
        let now = self.now_ms;
        let asker = Asker { id: self.nodes[node].id.clone(), epoch: self.claim.epoch };
        let Role::Recovering(recovery) = &mut self.nodes[node].role else { return Ok(()) };
        let epoch = recovery.epoch;
        match (tag, answer) {
            (Tag::Promise, Some(Told::Promised { at })) => {
                if recovery.waits_for.remove(from) {
                    recovery.promised.extend(at.map(|at| (from.clone(), at)));
                }
            }
            (Tag::Promise, Some(_)) => {
                recovery.waits_for.remove(from);
            }
            (Tag::Promise, None) if recovery.waits_for.contains(from) => {
                if now < recovery.until_ms {
                    self.request(&asker, from, Tag::Promise, Ask::Promise { epoch });
                    return Ok(());
                }
                recovery.waits_for.remove(from);
            }
            (Tag::Fetch(after), answer) if recovery.follower.at() == Some(after) => {
                recovery.fetches += 1;
                match answer {
                    Some(Told::Fetched(changes)) if !changes.is_empty() => {
                        let apply = recovery.follower.fetched(after, changes);
                        recovery.fetches = 0;
                        let at = &mut self.nodes[node];
                        apply.iter().for_each(|apply| at.service.apply(apply));
                        self.count("fetched");
                        self.check(node)?;
                    }
                    Some(_) => recovery.fetches = u32::MAX,
                    None => {}
                }
            }
            _ => return Ok(()),
        }
        self.collected(node)
    }

    /// With what the others have: the newest is fetched first, then the partition is led.
    fn collected(&mut self, node: usize) -> Result<(), String> {
        let now = self.now_ms;
        let id = self.nodes[node].id.clone();
        let Role::Recovering(recovery) = &mut self.nodes[node].role else { return Ok(()) };
        let (epoch, at) = (recovery.epoch, recovery.follower.at());
        if !recovery.waits_for.is_empty() {
            return Ok(());
        }
        let ahead = recovery.promised.iter().max_by_key(|(_, at)| **at).filter(|(_, theirs)| Some(**theirs) > at);
        if let (Some((ahead, _)), Some(after), true) = (ahead, at, recovery.fetches < 4) {
            let ahead = ahead.clone();
            self.request(&Asker { id, epoch }, &ahead, Tag::Fetch(after), Ask::Fetch { epoch, after });
            return Ok(());
        }
        let Role::Recovering(recovery) = std::mem::replace(&mut self.nodes[node].role, Role::Between) else {
            return Ok(());
        };
        let Some(leader) = recovery.follower.into_leader(epoch) else {
            // Somebody else takes over from it already, and it has promised that one its epoch.
            let replaced = self.claim.owner != id || self.nodes[node].failed;
            return if replaced { self.vanish(&id) } else { Err("who takes over has a copy".to_owned()) };
        };
        let mut owner = Owner::new(leader, recovery.promised.keys().cloned().collect());
        owner.phase = Phase::Recovering { until_ms: now + PUSH_MS };
        owner.promised = recovery.promised.into_iter().collect();
        for (survivor, told) in &owner.promised {
            let Some(at) = self.index(survivor).and_then(|at| self.nodes[at].at()) else { continue };
            // Unless somebody else has taken over from this one meanwhile, and it follows that one.
            let replaced = self.claim.epoch > epoch;
            if !replaced && at != *told && !self.judge.has(owner.leader.tail(), at) {
                return Err(format!("who has promised follows nobody else: {survivor} was at {told} and is at {at}"));
            }
        }
        self.nodes[node].role = Role::Owner(owner);
        self.start_owner(&id);
        self.check(node)
    }

    /// The set is those who have everything, or who had time enough.
    pub(super) fn recovery_goes_on(&mut self, node: usize, until_ms: u64) -> Result<(), String> {
        let now = self.now_ms;
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        let tail = owner.leader.tail();
        if owner.unsettled || (owner.leader.committed() != tail && now < until_ms) {
            return Ok(());
        }
        let with_all = |progress: &crate::replica::Progress| progress.acknowledged == Some(tail);
        let in_sync: BTreeSet<NodeId> = owner.leader.progress().into_iter().filter(with_all).map(|p| p.node).collect();
        owner.members.in_sync = in_sync.clone();
        owner.leader.set_members(&owner.members);
        self.change_set(node, in_sync)
    }

    pub(super) fn recovered(&mut self, node: usize) -> Result<(), String> {
        let Role::Owner(owner) = &mut self.nodes[node].role else { return Ok(()) };
        owner.phase = Phase::Serving;
        let (tail, epoch) = (owner.leader.tail(), owner.leader.epoch());
        self.judge.began(epoch, self.now_ms);
        self.count("recovered");
        let has = self.judge.has_committed(tail);
        has.map_err(|why| format!("what is committed is with every later owner: {why}"))
    }
}
