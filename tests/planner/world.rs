//! Random rings and what happens to them, all from one seed.

use std::collections::{BTreeMap, BTreeSet};

use nats_ring::ring::plan::{Absent, Assignment, Candidate, CurrentRow, PlanInput};
use nats_ring::types::{NodeName, PartitionCount, PartitionId};

const NODES_MAX: usize = 12;

/// Splitmix64: small, and the same everywhere.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Both bounds included.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + usize::try_from(self.next() % (high - low + 1) as u64).unwrap()
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.between(1, 100) <= chance
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.between(0, last));
        }
    }
}

/// What may happen in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// One copy; nodes of equal weight come, go, crash, drain; partitions lose their owner.
    Equal,
    /// And weights differ and change.
    Weighted,
    /// Weights or not; and partitions are excluded, nodes freeze.
    Constrained,
    /// And two to four copies, in zones.
    Replicated,
    /// And two to five copies, of nodes that go and may come back.
    Returning,
    /// One copy; weights or not; operators cordon, pause and pin, partitions are excluded, nodes freeze.
    Operated,
}

#[derive(Debug)]
pub(crate) struct World {
    profile: Profile,
    weighted: bool,
    zones: usize,
    replicas: usize,
    partitions: usize,
    candidates: Vec<Candidate>,
    current: Vec<CurrentRow>,
    paused: bool,
    pins: BTreeMap<PartitionId, NodeName>,
    absent: Vec<Absent>,
    names_used: usize,
}

/// The rows as they are once a plan has been carried out.
pub(crate) fn rows_of(plan: &Assignment) -> Vec<CurrentRow> {
    let row = |row: &Vec<NodeName>| CurrentRow {
        owner: row.first().cloned(),
        replicas: row.iter().skip(1).cloned().collect(),
    };
    plan.rows.iter().map(row).collect()
}

impl World {
    pub(crate) fn new(profile: Profile, random: &mut Random) -> Self {
        let partitions = match profile {
            Profile::Replicated | Profile::Returning if random.percent(70) => random.between(1, 16),
            _ if random.percent(60) => 64,
            _ => random.between(1, 128),
        };
        Self::of_size(profile, partitions, NODES_MAX, random)
    }

    /// Small enough to try every assignment.
    pub(crate) fn tiny(random: &mut Random) -> Self {
        let partitions = random.between(1, 5);
        let mut world = Self::of_size(Profile::Replicated, partitions, 3, random);
        for row in &mut world.current {
            let mut names: Vec<_> = world.candidates.iter().map(|c| c.node.clone()).collect();
            random.shuffle(&mut names);
            row.owner = names.pop().filter(|_| random.percent(80));
            row.replicas = names.into_iter().filter(|_| random.percent(40)).collect();
        }
        for _ in 0..random.between(0, 3) {
            world.change(random);
        }
        world
    }

    fn of_size(profile: Profile, partitions: usize, nodes_max: usize, random: &mut Random) -> Self {
        let returning = profile == Profile::Returning;
        let replicated = profile == Profile::Replicated || returning;
        let mut world = Self {
            profile,
            weighted: match profile {
                Profile::Equal => false,
                Profile::Weighted => true,
                Profile::Constrained | Profile::Replicated | Profile::Returning | Profile::Operated => {
                    random.percent(50)
                }
            },
            zones: if replicated { random.between(0, 4) } else { 0 },
            replicas: if replicated { random.between(2, if returning { 5 } else { 4 }) } else { 1 },
            partitions,
            candidates: Vec::new(),
            current: vec![CurrentRow::default(); partitions],
            paused: false,
            pins: BTreeMap::new(),
            absent: Vec::new(),
            names_used: 0,
        };
        for _ in 0..random.between(1, nodes_max) {
            world.join(random);
        }
        world
    }

    pub(crate) fn input(&self) -> PlanInput<'_> {
        PlanInput {
            partitions: PartitionCount::new(u16::try_from(self.partitions).unwrap()).unwrap(),
            replicas: self.replicas,
            candidates: &self.candidates,
            current: &self.current,
            paused: self.paused,
            pins: &self.pins,
            absent: &self.absent,
        }
    }

    /// The same in another order.
    pub(crate) fn shuffled(&self, random: &mut Random) -> (Vec<Candidate>, Vec<CurrentRow>, Vec<Absent>) {
        let (mut candidates, mut current) = (self.candidates.clone(), self.current.clone());
        random.shuffle(&mut candidates);
        let absent = self.absent.iter().rev().cloned().collect();
        current.iter_mut().for_each(|row| random.shuffle(&mut row.replicas));
        (candidates, current, absent)
    }

    /// One thing happens.
    pub(crate) fn change(&mut self, random: &mut Random) -> &'static str {
        let kinds = match self.profile {
            Profile::Equal | Profile::Weighted => 7,
            Profile::Constrained => 11,
            Profile::Replicated | Profile::Operated => 18,
            Profile::Returning => 28,
        };
        match random.between(1, kinds) {
            19..=22 => self.go_to_return(random),
            23..=26 => self.come_back(random),
            27 => self.give_up(),
            28 => self.drain_to_return(random),
            1 | 2 => self.join(random),
            3 => self.remove(random, "crash"),
            4 => self.remove_drained(random),
            5 => self.any_node(random, "drain or undrain", |node, _| node.draining = !node.draining),
            6 if self.weighted => self.any_node(random, "weight", |node, random| node.weight = weight(random)),
            6 => self.remove(random, "crash"),
            7 => self.release(random),
            8 => self.any_node(random, "freeze or unfreeze", |node, _| node.frozen = !node.frozen),
            9 => self.any_node(random, "readmit all", |node, _| node.excluded.clear()),
            10 | 11 => self.exclude(random),
            12 | 13 => self.any_node(random, "cordon or uncordon", |node, _| node.cordoned = !node.cordoned),
            14 => self.pause_or_resume(),
            15 => self.unpin(random),
            _ => self.pin(random),
        }
    }

    fn pause_or_resume(&mut self) -> &'static str {
        self.paused = !self.paused;
        if self.paused { "pause" } else { "resume" }
    }

    /// Some partitions to one node, which may be away by now, or one that never was.
    fn pin(&mut self, random: &mut Random) -> &'static str {
        let node = match self.candidates.len() {
            0 => NodeName::new("nobody").unwrap(),
            count => self.candidates[random.between(0, count - 1)].node.clone(),
        };
        let share = [2, 10, 60][random.between(0, 2)];
        for partition in (0..self.partitions).filter(|_| random.percent(share)).collect::<Vec<_>>() {
            self.pins.insert(PartitionId::new(u16::try_from(partition).unwrap()), node.clone());
        }
        "pin"
    }

    fn unpin(&mut self, random: &mut Random) -> &'static str {
        self.pins.retain(|_, _| random.percent(50));
        "unpin"
    }

    fn join(&mut self, random: &mut Random) -> &'static str {
        if self.candidates.len() == NODES_MAX {
            return self.remove(random, "crash");
        }
        // Names neither in the order of age nor all of one length.
        self.names_used += 1;
        let node = NodeName::new(format!("n{}-{}", random.between(0, 20), self.names_used)).unwrap();
        let zone = random.between(0, self.zones);
        self.candidates.push(Candidate {
            node,
            zone: (zone > 0).then(|| format!("zone-{zone}")),
            weight: if self.weighted { weight(random) } else { 1 },
            draining: false,
            frozen: false,
            cordoned: false,
            excluded: BTreeSet::new(),
        });
        "join"
    }

    fn remove(&mut self, random: &mut Random, what: &'static str) -> &'static str {
        if self.candidates.is_empty() {
            return self.join(random);
        }
        let gone = self.candidates.swap_remove(random.between(0, self.candidates.len() - 1)).node;
        self.forget(&gone);
        what
    }

    fn remove_drained(&mut self, random: &mut Random) -> &'static str {
        let Some(at) = self.candidates.iter().position(|candidate| candidate.draining) else {
            return self.remove(random, "crash");
        };
        let gone = self.candidates.swap_remove(at).node;
        self.forget(&gone);
        "leave"
    }

    /// Evicted, or left with what it had: its places may be kept.
    fn go_to_return(&mut self, random: &mut Random) -> &'static str {
        if self.candidates.is_empty() {
            return self.join(random);
        }
        let gone = self.candidates.swap_remove(random.between(0, self.candidates.len() - 1));
        self.is_absent(&gone);
        self.forget(&gone.node);
        "go to return"
    }

    /// It is there yet, and its copies are in sync.
    fn drain_to_return(&mut self, random: &mut Random) -> &'static str {
        if self.candidates.is_empty() {
            return self.join(random);
        }
        let at = random.between(0, self.candidates.len() - 1);
        self.candidates[at].draining = true;
        self.is_absent(&self.candidates[at].clone());
        "drain to return"
    }

    fn is_absent(&mut self, gone: &Candidate) {
        let has = |row: &CurrentRow| row.owner.as_ref() == Some(&gone.node) || row.replicas.contains(&gone.node);
        let ids = (0..).map(PartitionId::new);
        let places = ids.zip(&self.current).filter(|(_, row)| has(row)).map(|(partition, _)| partition).collect();
        self.absent.retain(|absent| absent.node != gone.node);
        self.absent.push(Absent { node: gone.node.clone(), zone: gone.zone.clone(), places });
    }

    /// With nothing in sync yet.
    fn come_back(&mut self, random: &mut Random) -> &'static str {
        let away = |absent: &&Absent| !self.candidates.iter().any(|candidate| candidate.node == absent.node);
        let Some(absent) = self.absent.iter().find(away).cloned() else { return self.go_to_return(random) };
        if self.candidates.len() == NODES_MAX {
            return self.go_to_return(random);
        }
        self.join(random);
        if let Some(candidate) = self.candidates.last_mut() {
            (candidate.node, candidate.zone) = (absent.node, absent.zone);
        }
        "come back"
    }

    fn give_up(&mut self) -> &'static str {
        self.absent.clear();
        "give up"
    }

    fn forget(&mut self, gone: &NodeName) {
        for row in &mut self.current {
            row.owner = row.owner.take().filter(|owner| owner != gone);
            row.replicas.retain(|replica| replica != gone);
        }
    }

    fn any_node(
        &mut self,
        random: &mut Random,
        what: &'static str,
        change: impl Fn(&mut Candidate, &mut Random),
    ) -> &'static str {
        if self.candidates.is_empty() {
            return self.join(random);
        }
        let at = random.between(0, self.candidates.len() - 1);
        change(&mut self.candidates[at], random);
        what
    }

    fn exclude(&mut self, random: &mut Random) -> &'static str {
        let (partitions, share) = (self.partitions, [2, 10, 60][random.between(0, 2)]);
        self.any_node(random, "exclude", |node, random| {
            let any = (0..partitions).filter(|_| random.percent(share));
            node.excluded = any.map(|p| PartitionId::new(u16::try_from(p).unwrap())).collect();
        })
    }

    /// Claims are given back, replicas fall out of sync.
    fn release(&mut self, random: &mut Random) -> &'static str {
        for row in &mut self.current {
            row.owner = row.owner.take().filter(|_| random.percent(90));
            row.replicas.retain(|_| random.percent(80));
        }
        "release"
    }

    /// Carries the plan out, sometimes only in part before the next thing happens.
    pub(crate) fn apply(&mut self, plan: &Assignment, random: &mut Random) {
        let done = if random.percent(75) { 100 } else { 50 };
        for (row, planned) in self.current.iter_mut().zip(rows_of(plan)) {
            if random.percent(done) {
                *row = planned;
            }
        }
    }
}

fn weight(random: &mut Random) -> u32 {
    u32::try_from(random.between(1, 4)).unwrap()
}
