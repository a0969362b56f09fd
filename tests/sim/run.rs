//! One seed from beginning to end: the ring starts, things happen to it, everything heals, and it must come to rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use nats_ring::node::Returning;
use nats_ring::testing::{Observer, TestRing};
use nats_ring::types::{KeyHash, PartitionCount, PartitionId};

use crate::agree::{copies_agree, strongest};
use crate::fired::Fired;
use crate::generator::{Climate, Scenario};
use crate::history::{Answered, Line, Timeline, Witness};
use crate::invariants::{Broken, Judge, ensure, is_best};
use crate::load::{self, Wanted};
use crate::world::{End, World};

/// After everything has healed, the ring is at rest within so much simulated time. The longest chain there is: a reset is
/// noticed (a node's pause between looks at the store, 2 s), a lease held off (3 s), a silent lease of the longest (3 s) is
/// watched from the beginning twice (a conflict starts it anew), a partition excluded waits its back-off (5 s), a move
/// abandoned (3 s) is tried again after such a back-off, and a hung hook costs its node its lease (12 s) and a restart. Where
/// nobody is left of a set at its end, eleven leases come on top.
pub(crate) const AT_REST_WITHIN: Duration = Duration::from_secs(45);
/// What takes a second of true time takes so many by the slowest clock allowed.
const SLOWEST: f64 = 1.05;
const AT_REST: &str = "at rest after the faults";
/// Longer than the slowest discard.
const DROPPED_WITHIN: Duration = Duration::from_millis(1100);
/// Requests of a seed, at the least.
pub(crate) const REQUESTS_MIN: u64 = 1000;

/// How a seed went.
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) climate: Climate,
    pub(crate) broken: Option<String>,
    pub(crate) requests: u64,
    pub(crate) ok: u64,
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
    pub(crate) changes: u32,
    /// Times that a partition began with nothing of what it had held.
    pub(crate) losses: u32,
    pub(crate) evictions: u32,
    /// Plans that were compared with the optimum.
    pub(crate) plans_judged: u32,
    pub(crate) simulated: Duration,
    pub(crate) fired: Fired,
    /// Empty unless it was asked for.
    pub(crate) timeline: Vec<Line>,
}

impl Outcome {
    /// The run ended in a panic.
    pub(crate) fn panicked(seed: u64, said: String) -> Self {
        Self {
            seed,
            climate: Scenario::of(seed).climate,
            broken: Some(format!("panicked: {said}")),
            requests: 0,
            ok: 0,
            unknown: 0,
            refused: 0,
            changes: 0,
            losses: 0,
            evictions: 0,
            plans_judged: 0,
            simulated: Duration::ZERO,
            fired: Fired::default(),
            timeline: Vec::new(),
        }
    }
}

/// Runs a seed; every invariant is judged at every step.
pub(crate) fn run_seed(seed: u64) -> Outcome {
    run(Scenario::of(seed), Timeline::None)
}

/// The same, with its timeline.
pub(crate) fn replay(seed: u64, timeline: Timeline) -> Outcome {
    run(Scenario::of(seed), timeline)
}

fn run(scenario: Scenario, timeline: Timeline) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let seed = scenario.seed;
    let (world, broken, simulated) = runtime.block_on(async {
        let world = make(scenario, timeline);
        let broken = tokio::select! {
            biased;
            broken = world.witness.stood_still() => Some(broken),
            lived = live(&world) => lived.err(),
        };
        world.collect();
        let simulated = world.witness.now();
        (world, broken, simulated)
    });
    let figures = &world.figures;
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let (changes, losses) = world.witness.ask(|judge| (judge.owners.changes, judge.register.losses));
    let (evictions, plans_judged) = world.witness.ask(|judge| (judge.leases.evictions, judge.plans.judged));
    let fired = world.fired.lock().map(|fired| fired.clone()).unwrap_or_default();
    let outcome = Outcome {
        seed,
        climate: world.scenario.climate,
        broken: broken.map(|broken| broken.to_string()),
        requests: figures.requests(),
        ok: count(&figures.ok),
        unknown: count(&figures.unknown),
        refused: count(&figures.refused),
        changes,
        losses,
        evictions,
        plans_judged,
        simulated,
        fired,
        timeline: world.witness.take_lines(),
    };
    drop(world);
    runtime.shutdown_background();
    outcome
}

fn make(scenario: Scenario, timeline: Timeline) -> Arc<World> {
    let keys = keys(&scenario);
    let count = PartitionCount::new(scenario.partitions).expect("drawn in its range");
    let partition_of = keys.iter().map(|key| KeyHash::default().partition(key, count)).collect();
    let judge = Judge::new(&scenario, partition_of);
    let witness = Witness::new(judge, timeline);
    let ring = TestRing::builder()
        .partitions(scenario.partitions)
        .timing(scenario.timing.clone())
        .returning(Returning { evicted_delay: scenario.evicted_delay, ..Returning::default() })
        .seed(scenario.seed)
        .store_delay(scenario.store_delay)
        .observer(Arc::clone(&witness) as Arc<dyn Observer>)
        .build();
    witness.begin(ring.clock());
    World::new(ring, scenario, witness, keys)
}

/// The keys of the work load, then one for each partition that the last look at the ring reads and writes.
fn keys(scenario: &Scenario) -> Vec<Bytes> {
    let mut keys: Vec<Bytes> = (0..scenario.load.keys).map(|n| Bytes::from(format!("{n}"))).collect();
    let count = PartitionCount::new(scenario.partitions).expect("drawn in its range");
    let mut last: Vec<Option<Bytes>> = vec![None; usize::from(scenario.partitions)];
    for n in 0.. {
        let key = Bytes::from(format!("last-{n}"));
        let place = KeyHash::default().partition(&key, count);
        last[place.index()].get_or_insert(key);
        if n % 16 == 0 && count.ids().all(|p| last[p.index()].is_some()) {
            break;
        }
    }
    keys.extend(last.into_iter().flatten());
    keys
}

async fn live(world: &Arc<World>) -> Result<(), Broken> {
    let began = world.witness.now();
    world.ask_for_copies(None).await;
    for _ in 0..world.scenario.first_nodes {
        world.join();
    }
    settle(world, "at the beginning").await?;
    world.figures.must_succeed.store(world.scenario.climate == Climate::Planned, Ordering::Relaxed);
    let clients = start_clients(world);
    happen(world, began).await?;
    world.heal().await;
    // A node that was stopped a moment ago looks to itself as it did then, and a heartbeat that was swallowed before is sent
    // again only once its time-out is over. And that the store went back is noticed once a watch tells it.
    world.ring.advance(world.still_untold().max(world.scenario.timing.lease / 3)).await;
    settle(world, "after everything has healed").await?;
    is_balanced(world)?;
    change_an_owner(world).await?;
    world.figures.must_succeed.store(true, Ordering::Relaxed);
    while world.figures.requests() < REQUESTS_MIN {
        world.ring.advance(Duration::from_millis(50)).await;
        nothing_broken(world)?;
    }
    world.figures.stop.store(true, Ordering::Relaxed);
    for client in clients {
        let ended = client.await;
        ensure(ended.is_ok(), "no client panics", || format!("{ended:?}"))?;
    }
    every_partition_serves(world).await?;
    copies_agree(world).await?;
    world.witness.judge(|judge, _| judge.copies.as_ref().map_or(Ok(()), |copies| copies.all_hold(&judge.leases)));
    nothing_is_left_behind(world).await?;
    nothing_broken(world)
}

/// At rest a node holds entries of what it owns, and of nothing else.
async fn nothing_is_left_behind(world: &World) -> Result<(), Broken> {
    // What was let go of last is dropped within a second.
    world.ring.advance(DROPPED_WITHIN).await;
    let more = world.holdings().await.into_iter().find(|(_, held, keys)| held.entries > *keys as u64);
    ensure(more.is_none(), "nobody keeps what it does not own", || {
        let (name, held, keys) = more.unwrap_or_default();
        format!("{name} holds more than the {keys} keys of what it owns: {held:?}")
    })
}

fn start_clients(world: &Arc<World>) -> Vec<tokio::task::JoinHandle<()>> {
    let load = &world.scenario.load;
    // So that most of the requests are made while things happen.
    let think = world.scenario.heals_at * u32::try_from(load.clients).unwrap_or(1) / load.requests;
    (0..load.clients).map(|n| tokio::spawn(load::client(Arc::clone(world), n, think))).collect()
}

/// The schedule, and the ends of what began in it, each at its time.
async fn happen(world: &Arc<World>, began: Duration) -> Result<(), Broken> {
    let start = world.witness.now();
    let mut due: Vec<(Duration, End)> =
        world.scenario.schedule.iter().map(|(at, action)| (start + *at, End::Do(*action))).collect();
    let until = began.max(start) + world.scenario.heals_at;
    loop {
        due.extend(world.take_ends());
        due.sort_by_key(|(at, _)| *at);
        let next = due.first().map_or(until, |(at, _)| *at).min(until);
        let now = world.witness.now();
        if now >= until {
            return Ok(());
        }
        if next > now {
            // Something may be added meanwhile: a process that ended is started again.
            world.ring.advance((next - now).min(Duration::from_millis(200))).await;
            nothing_broken(world)?;
            continue;
        }
        let (_, end) = due.remove(0);
        world.end(end).await;
    }
}

async fn settle(world: &Arc<World>, when: &str) -> Result<(), Broken> {
    let (began, mut within) = (world.witness.now(), AT_REST_WITHIN);
    loop {
        for (_, end) in world.take_ends() {
            if let End::Start { .. } = end {
                world.end(end).await;
            }
        }
        let rest = world.ring.settles_within(Duration::from_millis(200)).await;
        nothing_broken(world)?;
        if rest.is_ok() && world.starting() == 0 && !world.is_anybody_leaving() {
            return Ok(());
        }
        // A partition of whose set nobody is left starts empty only so much later.
        let waited = world.witness.now() - began;
        if waited >= within && within == AT_REST_WITHIN && world.witness.ask(|judge| judge.is_a_set_lost()) {
            within += world.scenario.timing.set_ends_after().mul_f64(SLOWEST);
        }
        ensure(waited < within, AT_REST, || {
            let reason = rest.as_ref().err().map_or("a process starts or leaves for ever", |rest| rest.reason.as_str());
            format!("{when}: not within {within:?}: {reason}")
        })?;
        if rest.is_ok() {
            world.ring.advance(Duration::from_millis(10)).await;
        }
    }
}

/// At rest, the plan in force is the best there is for what is owned: nothing is left to be moved.
fn is_balanced(world: &World) -> Result<(), Broken> {
    world.witness.ask(|judge| {
        let Some(plan) = &judge.plans.latest else { return Ok(()) };
        let place = |p: usize| PartitionId::new(u16::try_from(p).unwrap_or(0));
        is_best(plan, |p| judge.claims.holder(place(p)))
    })
}

/// A run without a change of ownership shows nothing: where there was none, a node joins.
async fn change_an_owner(world: &Arc<World>) -> Result<(), Broken> {
    let changes = || world.witness.ask(|judge| judge.owners.changes);
    if changes() > 0 {
        return Ok(());
    }
    world.join();
    settle(world, "after a join at the end").await?;
    every_partition_serves(world).await?;
    if changes() == 0 {
        world.drain_all_but_the_newest();
        settle(world, "after a drain at the end").await?;
        every_partition_serves(world).await?;
    }
    ensure(changes() > 0, "every seed changes an owner", || "none changed".to_owned())
}

fn nothing_broken(world: &World) -> Result<(), Broken> {
    world.witness.broken().map_or(Ok(()), Err)?;
    let failure = world.figures.first_failure.lock().ok().and_then(|failure| failure.clone());
    failure.map_or(Ok(()), |how| Err(Broken { invariant: "nothing fails but by a fault", how }))
}

/// Each partition takes a write and gives it back, through different nodes.
async fn every_partition_serves(world: &Arc<World>) -> Result<(), Broken> {
    copies_agree(world).await?;
    let level = strongest(world);
    let first = world.scenario.load.keys;
    for key in first..world.keys.len() {
        let asked = world.figures.next_write(None);
        for asked in [asked, crate::history::Asked::Get] {
            let answered = load::request(world, usize::MAX, Wanted { key, asked, level }, Some(key)).await;
            let unserved = [Answered::Unknown, Answered::Refused, Answered::TooFew, Answered::Missing];
            let served = !unserved.contains(&answered);
            ensure(served, "every partition serves after the faults", || {
                format!("partition {}: {asked:?} at {level:?}: {answered:?}", key - first)
            })?;
        }
    }
    nothing_broken(world)
}
