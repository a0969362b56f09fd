//! The copies of one partition in a simulated world, decided by one seed: nodes, the record of who owns it, a network that
//! drops, delays, repeats and reorders.
//!
//! In: a seed. Out: nothing, or what was broken. First things go wrong, then everything heals, and all copies must come
//! to be equal.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::copying::Outgoing;
use super::judge::Judge;
use super::service::Service;
use crate::replica::{Ask, Bounds, Follower, Leader, Log, Ticket, Told};
use crate::types::{Epoch, Incarnation, NodeId, NodeName, Time, Version};

pub(super) const BOUNDS: Bounds = Bounds {
    batch_max_bytes: 300,
    log_bytes: 500,
    pinned_max_bytes: 2500,
    held_max_bytes: 120,
    silent_after: Duration::from_millis(120),
    resend_after: Duration::from_millis(8),
    copy_pause: Duration::from_millis(10),
    copy_pause_max: Duration::from_millis(100),
    return_delay: Duration::from_millis(200),
};
/// How long an answer is waited for.
pub(super) const TIMEOUT_MS: u64 = 30;
const TROUBLE_MS: u64 = 2500;
const WRITES_UNTIL_MS: u64 = 3200;
const END_MS: u64 = 6000;

/// Which request an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tag {
    Append(u64),
    Begin(u64),
    Chunk(u64, u32),
    End(u64),
    Promise,
    Fetch(Version),
}

/// One side of a conversation: an incarnation, in what it does at an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) id: NodeId,
    pub(super) epoch: Epoch,
}

/// The record in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) owner: NodeId,
    pub(super) epoch: Epoch,
    pub(super) recovering: bool,
    pub(super) replicas: BTreeSet<NodeId>,
    pub(super) revision: u64,
}

/// What happens next.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Ask {
        from: Asker,
        to: NodeId,
        tag: Tag,
        ask: Ask,
    },
    /// `None`: none came in time. `Some(None)`: nobody listens there.
    Answer {
        to: Asker,
        from: NodeId,
        tag: Tag,
        answer: Option<Option<Told>>,
    },
    Tick {
        id: NodeId,
    },
    Write {
        id: NodeId,
    },
    /// A request comes to an owner whose lease nobody renews for the moment.
    Arrives {
        id: NodeId,
    },
    /// It is executed. With the ticket that was drawn before, where that rule is off.
    Executes {
        by: Asker,
        early: Option<Ticket>,
    },
    CasArrives {
        by: Asker,
        write: Claim,
    },
    CasSettles {
        by: Asker,
        write: Claim,
    },
    SwitchArrives {
        from: Asker,
        target: NodeId,
        revision: u64,
        tail: Version,
    },
    Superseded {
        id: NodeId,
        epoch: Epoch,
    },
    Vanish {
        id: NodeId,
    },
    Restart {
        node: usize,
    },
    Trouble,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // A handful of them, in tests.
pub(super) enum Role {
    Follower(Follower),
    Recovering(super::takeover::Recovery),
    Owner(super::owner::Owner),
    /// Only while it changes.
    Between,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) alive: bool,
    pub(super) role: Role,
    pub(super) service: Service,
    /// Its service failed, and it got no copy since.
    pub(super) failed: bool,
    /// What it streams, as an owner.
    pub(super) copies: BTreeMap<NodeId, Outgoing>,
}

impl Node {
    pub(super) fn at(&self) -> Option<Version> {
        match &self.role {
            Role::Follower(follower) => follower.at(),
            Role::Recovering(recovery) => recovery.follower.at(),
            Role::Owner(owner) => Some(owner.leader.tail()),
            Role::Between => None,
        }
    }

    /// Where it stands, if its service holds exactly that.
    fn sharp_at(&self) -> Option<Version> {
        match &self.role {
            Role::Follower(follower) if !follower.is_sharp() => None,
            _ => self.at(),
        }
    }
}

pub(super) struct World {
    pub(super) rng: SmallRng,
    pub(super) now_ms: u64,
    order: u64,
    agenda: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: BTreeMap<usize, Event>,
    pub(super) nodes: Vec<Node>,
    pub(super) claim: Claim,
    /// The owner's incarnation is out: others may take over, whether or not it knows.
    pub(super) owner_gone: bool,
    /// Who is to hold copies.
    pub(super) row: BTreeSet<usize>,
    pub(super) factor: usize,
    pub(super) judge: Judge,
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) loss: f64,
    pub(super) trouble_every_ms: u64,
    pub(super) history: Option<Vec<String>>,
}

pub(super) fn id(node: usize, life: u64) -> NodeId {
    let incarnation = Incarnation { start: life, id: Uuid::from_u128(u128::from(life) << 8 | node as u128) };
    NodeId { node: NodeName::new(format!("n{node}")).unwrap(), incarnation }
}

impl World {
    pub(super) fn new(seed: u64, history: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let count = rng.random_range(2..=5_usize);
        let factor = rng.random_range(2..=4_usize).min(count);
        let epoch = Epoch::new(1);
        let fresh = |node| Node {
            id: id(node, 1),
            alive: true,
            role: Role::Follower(Follower::new(Epoch::ZERO, BOUNDS)),
            service: Service::default(),
            failed: false,
            copies: BTreeMap::new(),
        };
        let owner = id(0, 1);
        let claim = Claim {
            owner: owner.clone(),
            epoch,
            recovering: false,
            replicas: BTreeSet::from([owner.clone()]),
            revision: 1,
        };
        let loss = [0.0, 0.03, 0.15][rng.random_range(0..3_usize)];
        let trouble_every_ms = [15, 40, 100][rng.random_range(0..3_usize)];
        let mut world = Self {
            rng,
            now_ms: 0,
            order: 0,
            agenda: BinaryHeap::new(),
            events: BTreeMap::new(),
            nodes: (0..count).map(fresh).collect(),
            claim,
            owner_gone: false,
            row: (0..factor).collect(),
            factor,
            judge: Judge::default(),
            counts: BTreeMap::new(),
            loss,
            trouble_every_ms,
            history: history.then(Vec::new),
        };
        let leader = Leader::new(epoch, Log::starting_at(Version { epoch, sequence: 0 }, BOUNDS.log_bytes), BOUNDS);
        world.nodes[0].role = Role::Owner(super::owner::Owner::new(leader, BTreeSet::new()));
        world.start_owner(&owner);
        world.at(40, Event::Trouble);
        world
    }

    pub(super) fn time(&self) -> Time {
        Time::ZERO + Duration::from_millis(self.now_ms)
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub(super) fn troubled(&self) -> bool {
        self.now_ms < TROUBLE_MS
    }

    pub(super) fn writes_go_on(&self) -> bool {
        self.now_ms < WRITES_UNTIL_MS
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now_ms;
        if let Some(history) = &mut self.history {
            history.push(format!("{now:5} {}", what()));
        }
    }

    /// Something happens so many milliseconds from now.
    pub(super) fn at(&mut self, in_ms: u64, event: Event) {
        self.order += 1;
        let key = self.order as usize;
        self.events.insert(key, event);
        self.agenda.push(Reverse((self.now_ms + in_ms, self.order, key)));
    }

    /// The node of this incarnation, if it lives.
    pub(super) fn index(&self, id: &NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == *id && node.alive)
    }

    /// Where a node stands, its service holds exactly that; the set has all that is committed.
    pub(super) fn check(&self, node: usize) -> Result<(), String> {
        let at = &self.nodes[node];
        if let Some(version) = at.sharp_at() {
            self.judge
                .is_exact(version, &at.service)
                .map_err(|why| format!("a copy is what was written: {} {why}", at.id))?;
        }
        let alive = |id: &&NodeId| self.index(id).is_some();
        for id in self.claim.replicas.iter().filter(alive) {
            let Some(member) = self.index(id) else { continue };
            let member = &self.nodes[member];
            if member.failed {
                continue;
            }
            let at = member.sharp_at().ok_or_else(|| format!("a member holds a copy: {id} does not"))?;
            self.judge.has_committed(at).map_err(|why| format!("a member has all that is committed: {id}: {why}"))?;
        }
        Ok(())
    }

    /// Until the end, or the first thing that is broken.
    pub(super) fn run(&mut self) -> Result<(), String> {
        while let Some(Reverse((at, _, key))) = self.agenda.pop() {
            self.now_ms = at;
            if at > END_MS {
                return self.is_at_rest();
            }
            let Some(event) = self.events.remove(&key) else { continue };
            self.happens(event).map_err(|why| format!("at {at} ms: {why}"))?;
        }
        self.is_at_rest()
    }

    fn happens(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Ask { from, to, tag, ask } => self.asked(&from, &to, tag, ask),
            Event::Answer { to, from, tag, answer } => self.answered(&to, &from, tag, answer),
            Event::Tick { id } => self.tick(&id),
            Event::Write { id } => self.write(&id),
            Event::Arrives { id } => self.arrives(&id),
            Event::Executes { by, early } => self.executes(&by, early),
            Event::CasArrives { by, write } => self.cas_arrives(&by, &write).map(drop),
            Event::CasSettles { by, write } => self.cas_settles(&by, write),
            Event::SwitchArrives { from, target, revision, tail } => {
                self.switch_arrives(&from, &target, revision, tail)
            }
            Event::Superseded { id, epoch } => self.superseded(&id, epoch),
            Event::Vanish { id } => self.vanish(&id),
            Event::Restart { node } => self.restart(node),
            Event::Trouble => self.trouble(),
        }
    }

    fn is_at_rest(&self) -> Result<(), String> {
        let wanted: BTreeSet<NodeId> = self.row.iter().map(|node| self.nodes[*node].id.clone()).collect();
        let Some(owner) = self.index(&self.claim.owner) else { return Err("at rest it has an owner".to_owned()) };
        let Role::Owner(owner) = &self.nodes[owner].role else { return Err("the owner owns".to_owned()) };
        let tail = owner.leader.tail();
        let also_owner: BTreeSet<NodeId> = wanted.iter().chain([&self.claim.owner]).cloned().collect();
        if self.claim.recovering || (self.claim.replicas != wanted && self.claim.replicas != also_owner) {
            return Err(format!("at rest those wanted are the set: {:?}, wanted {wanted:?}", self.claim));
        }
        if owner.leader.committed() != tail {
            return Err(format!("at rest all is committed: {} of {tail}", owner.leader.committed()));
        }
        let behind =
            self.claim.replicas.iter().find(|id| self.index(id).and_then(|at| self.nodes[at].sharp_at()) != Some(tail));
        match behind {
            Some(id) => Err(format!("at rest all copies are equal: {id} is not at {tail}")),
            None => (0..self.nodes.len()).try_for_each(|node| self.check(node)),
        }
    }
}
