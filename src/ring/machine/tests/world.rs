//! A whole ring in a simulated world, decided by one seed.
//!
//! In: a seed. Out: nothing, or the first broken invariant with the seed that replays it. Real time is counted in
//! nanoseconds here; each process has a clock of its own rate. First things go wrong, then everything heals and the
//! ring must come to rest: every partition with a live owner, balanced within one unless operators want otherwise, no
//! move under way.
//!
//! `RING_SEED=<n> cargo test --lib one_seed` replays one seed with its history. `RING_SEEDS=<n>` sets how many run.

mod act;
mod checker;
mod copying;
mod faults;
mod guards;
mod kept;
mod operators;
mod process;
mod recovering;
mod store;
mod suspended;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::coord::Update;
use crate::ring::io::{Input, Offer, OpId};
use crate::ring::settings::Timing;
use crate::types::{NodeId, NodeName, PartitionCount, PartitionId};
use checker::{Checked, Checker};
use faults::{Fault, Odds, one_of};
use process::Process;
use store::{Kv, Writing};

pub(super) use store::brief;

/// One millisecond of real time.
const MS: u64 = 1_000_000;
/// The lease used here.
const LEASE: u64 = 1000 * MS;
/// By then after the last fault the ring is at rest.
const REST_WITHIN: u64 = 40 * LEASE;
/// How long it must stay at rest.
const REST_FOR: u64 = LEASE;
/// Seeds run unless told otherwise.
const SEEDS: u64 = 2000;

/// The same where nodes keep copies, which takes longer.
const SEEDS_WITH_COPIES: u64 = 1000;

/// And where nodes are waited for.
const SEEDS_RETURNING: u64 = 300;

/// What is due.
#[derive(Debug, Clone)]
enum Due {
    /// A machine asked to be woken.
    Wake { process: usize, session: u32 },
    /// An input reaches a machine.
    Deliver { process: usize, session: u32, input: Input },
    /// A record reaches a machine, unless a later one overtakes it.
    Change { process: usize, session: u32, update: Update },
    /// A write reaches the store.
    Arrive(Box<Writing>),
    /// A process (re)starts its ring watch.
    RingWatch { process: usize, session: u32 },
    /// A process (re)starts its lease watch.
    LeaseWatch { process: usize, session: u32, watch: u32 },
    /// Nothing runs any more for a parked partition.
    Drained { process: usize, session: u32, partition: PartitionId, parking: u64 },
    /// A hook returns.
    HookEnds { process: usize, life: u32, session: u32, op: OpId, result: Result<(), String> },
    /// An offer reaches its target.
    Offer { from: usize, session: u32, to: NodeId, offer: Offer },
    /// Something about copies.
    Copying(copying::Step),
    /// Something goes wrong.
    Fault(Fault),
}

#[derive(Debug)]
struct Entry {
    at: u64,
    order: u64,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Everything there is.
struct World {
    rng: StdRng,
    now: u64,
    order: u64,
    agenda: BinaryHeap<Reverse<Entry>>,
    kv: Kv,
    processes: Vec<Process>,
    checker: Checker,
    odds: Odds,
    timing: Timing,
    partitions: PartitionCount,
    nats_away: bool,
    /// Whether connections dropped as NATS went, or JetStream alone fell silent.
    connections_dropped: bool,
    away_since: u64,
    faulty: bool,
    offers: BTreeMap<OpId, (usize, u32, Offer)>,
    history: Option<Vec<String>>,
    /// Whether nodes keep copies of partitions they do not own.
    replicates: bool,
    /// What all of a partition's in-sync set has acknowledged.
    committed: Vec<Vec<copying::Version>>,
}

impl World {
    fn new(seed: u64, history: bool, replicates: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = rng.random_range(1..=5_usize);
        let partitions = PartitionCount::new(rng.random_range(1..=8)).expect("in range");
        let odds = Odds::draw(&mut rng);
        let mut world = Self {
            rng,
            now: 0,
            order: 0,
            agenda: BinaryHeap::new(),
            kv: Kv::default(),
            processes: Vec::new(),
            checker: Checker::default(),
            odds,
            timing: timing(),
            partitions,
            nats_away: false,
            connections_dropped: false,
            away_since: 0,
            faulty: true,
            offers: BTreeMap::new(),
            history: history.then(Vec::new),
            replicates,
            committed: vec![Vec::new(); usize::from(partitions.get())],
        };
        for number in 1..=nodes {
            world.add_process(NodeName::new(format!("n{number}")).expect("a name"));
        }
        world.schedule_faults(nodes);
        world.schedule_wishes();
        world.schedule_parting(seed, nodes);
        world
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(history) = &mut self.history {
            history.push(format!("{:>9.3} {}", self.now as f64 / MS as f64, text()));
        }
    }

    fn due_at(&mut self, at: u64, due: Due) {
        self.order += 1;
        self.agenda.push(Reverse(Entry { at: at.max(self.now), order: self.order, due }));
    }

    fn due_in(&mut self, delay: u64, due: Due) {
        self.due_at(self.now + delay, due);
    }

    /// Carries out what is due next.
    fn turn(&mut self) -> Checked {
        let Some(Reverse(entry)) = self.agenda.pop() else { return Err("nothing is due any more".to_owned()) };
        self.now = entry.at;
        match entry.due {
            Due::Wake { process, session } => self.wake(process, session)?,
            Due::Deliver { process, session, input } => self.deliver(process, session, input)?,
            Due::Change { process, session, update } => self.change(process, session, update)?,
            Due::Arrive(writing) => self.arrive(*writing)?,
            Due::RingWatch { process, session } => self.ring_watch(process, session),
            Due::LeaseWatch { process, session, watch } => self.lease_watch(process, session, watch),
            Due::Drained { process, session, partition, parking } => {
                self.parked_idle(process, session, partition, parking)?;
            }
            Due::HookEnds { process, life, session, op, result } => {
                self.hook_ends(process, life, session, op, result)?;
            }
            Due::Offer { from, session, to, offer } => self.offer_arrives(from, session, &to, offer)?,
            Due::Copying(step) => self.copying(step)?,
            Due::Fault(fault) => self.strike(fault)?,
        }
        self.judge()
    }

    fn run(&mut self, until: u64) -> Checked {
        while self.agenda.peek().is_some_and(|Reverse(next)| next.at <= until) {
            self.turn()?;
        }
        self.now = until;
        Ok(())
    }

    /// Runs until the ring has been at rest for a while.
    fn come_to_rest(&mut self) -> Checked {
        let limit = self.now + REST_WITHIN;
        let mut since = None;
        while self.now < limit {
            self.run(self.now + 100 * MS)?;
            match self.unrest() {
                None if since.is_some_and(|since| self.now - since >= REST_FOR) => return Ok(()),
                None => since = since.or(Some(self.now)),
                Some(_) => since = None,
            }
        }
        Err(format!(
            "not at rest {} leases after the last fault: {}",
            REST_WITHIN / LEASE,
            self.unrest().unwrap_or_default()
        ))
    }
}

fn timing() -> Timing {
    Timing {
        join_debounce: Duration::from_millis(150),
        move_timeout: Duration::from_millis(1500),
        hook_slow: Duration::from_millis(700),
        hook_limit: Duration::from_millis(4000),
        linger: Duration::from_millis(300),
        drain_timeout: Duration::from_millis(15_000),
        parallel_moves: 2,
        backoff: Duration::from_millis(100),
        backoff_max: Duration::from_millis(2000),
        ..Timing::for_lease(Duration::from_nanos(LEASE))
    }
}

/// For how long nodes are waited for that left or were evicted. Drawn apart, so that all else of a seed stays as it is.
fn returning(seed: u64) -> Timing {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed_4e77);
    let mut delay = || timing().lease * one_of(&mut rng, &[0, 1, 4, 12]);
    let (returns_after_leaving, returns_after_eviction) = (delay(), delay());
    Timing { returns_after_leaving, returns_after_eviction, ..timing() }
}

/// Runs one seed to its end; the history where it is asked for.
fn play(seed: u64, history: bool) -> (Checked, Vec<String>) {
    play_in(World::new(seed, history, false))
}

/// The same, with copies of each partition.
fn play_with_copies(seed: u64, history: bool) -> (Checked, Vec<String>) {
    play_in(World::new(seed, history, true))
}

/// The same, where nodes may be waited for.
fn play_returning(seed: u64, history: bool) -> (Checked, Vec<String>) {
    let world = World::new(seed, history, true);
    play_in(World { timing: returning(seed), ..world })
}

fn play_in(mut world: World) -> (Checked, Vec<String>) {
    let troubled = world.odds.trouble_for;
    let result = world.run(troubled).and_then(|()| world.heal()).and_then(|()| world.come_to_rest());
    (result, world.history.unwrap_or_default())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The first seed of each stripe that fails.
fn failures(play: fn(u64, bool) -> (Checked, Vec<String>), first: u64, count: u64) -> Vec<(u64, String)> {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    let stripe = move |offset: u64| {
        let mut seeds = (first + offset..first + count).step_by(usize::try_from(threads).unwrap());
        seeds.find_map(|seed| play(seed, false).0.err().map(|reason| (seed, reason)))
    };
    let workers: Vec<_> = (0..threads).map(|offset| std::thread::spawn(move || stripe(offset))).collect();
    workers.into_iter().filter_map(|worker| worker.join().expect("a seed panicked: see above")).collect()
}

#[test]
fn whatever_goes_wrong_one_owner_per_partition_and_rest_afterwards() {
    let first = number("RING_FIRST_SEED").unwrap_or(1);
    let found = failures(play, first, number("RING_SEEDS").unwrap_or(SEEDS));
    let (seed, reason) = found.first().cloned().unwrap_or_default();
    assert!(
        found.is_empty(),
        "RING_SEED={seed} cargo test --lib one_seed -- --nocapture replays this: {reason}\n{found:#?}"
    );
}

#[test]
fn whatever_goes_wrong_every_recorded_member_has_what_was_committed() {
    let first = number("RING_FIRST_SEED").unwrap_or(1);
    let found = failures(play_with_copies, first, number("RING_SEEDS").unwrap_or(SEEDS_WITH_COPIES));
    let (seed, reason) = found.first().cloned().unwrap_or_default();
    assert!(
        found.is_empty(),
        "RING_COPIES=1 RING_SEED={seed} cargo test --lib one_seed -- --nocapture replays this: {reason}\n{found:#?}"
    );
}

/// So that the world with copies is known to do what it judges.
#[test]
fn the_world_with_copies_adds_removes_recovers_moves_and_loses() {
    let histories: Vec<String> = (1..=40).flat_map(|seed| play_with_copies(seed, true).1).collect();
    let count = |text: &str| histories.iter().filter(|line| line.contains(text)).count();
    let told = ["ReplicaAdded", "why: Silent", "why: Unplanned", "Recovering {", "Lost {", "SendOffer"];
    let counts = told.map(|text| (text, count(text)));
    assert!(counts.iter().all(|(_, count)| *count >= 10) && count("why: Gone") > 0, "{counts:?}");
}

#[test]
fn whatever_goes_wrong_while_places_are_kept_every_recorded_member_has_what_was_committed() {
    let first = number("RING_FIRST_SEED").unwrap_or(1);
    let found = failures(play_returning, first, number("RING_SEEDS").unwrap_or(SEEDS_RETURNING));
    let (seed, reason) = found.first().cloned().unwrap_or_default();
    assert!(
        found.is_empty(),
        "RING_COPIES=returning RING_SEED={seed} cargo test --lib one_seed -- --nocapture replays this: {reason}\n{found:#?}"
    );
}

#[test]
fn the_world_where_places_are_kept_keeps_them_and_gives_them_up() {
    let histories: Vec<String> = (1..=40).flat_map(|seed| play_returning(seed, true).1).collect();
    let count = |text: &str| histories.iter().filter(|line| line.contains(text)).count();
    let counts = ["PlacesKept {", "end: GivenUp"].map(|text| (text, count(text)));
    assert!(counts.iter().all(|(_, count)| *count > 0), "{counts:?}");
}

/// Replays `RING_SEED` with its history; without it, the first seed. With `RING_COPIES`, nodes keep copies; where that is `returning`, their places.
#[test]
fn one_seed_can_be_replayed() {
    let asked = number("RING_SEED");
    let play = match std::env::var("RING_COPIES").as_deref() {
        Ok("returning") => play_returning,
        Ok(_) => play_with_copies,
        Err(_) => play,
    };
    let (result, history) = play(asked.unwrap_or(1), true);
    assert!(!history.is_empty());
    if asked.is_some() {
        history.iter().for_each(|line| eprintln!("{line}"));
    }
    let again = play(asked.unwrap_or(1), true).1;
    assert_eq!(history, again, "one seed, one history");
    assert_eq!(result, Ok(()));
}
