//! A seed's run, drawn before it begins: the ring, its timing, the work load, and what goes wrong when.
//!
//! In: a seed. Out: a [`Scenario`]. Nothing here looks at what happens in the run: who is hit is a number, taken modulo
//! those who are there by then.

use std::time::Duration;

use nats_ring::ring::Timing;
use nats_ring::types::{Consistency, CopyRules, Factor, OnLoss};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::schedule;

/// What kind of trouble a seed has. All at once in every seed would hide what one alone breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Climate {
    /// Joins, drains, operators: nothing may fail, nothing may be lost.
    Planned,
    /// Crashes, pauses, hooks that misbehave.
    Process,
    /// Cuts, lost and delayed messages.
    Network,
    /// Writes that fail or land late, watches that lag, a store that is away.
    Store,
    /// The store loses what it had acknowledged, or all of it.
    Amnesia,
    /// All of these.
    Everything,
}

const CLIMATES: [Climate; 6] =
    [Climate::Planned, Climate::Process, Climate::Network, Climate::Store, Climate::Amnesia, Climate::Everything];

/// As the program has it.
const PARKED_USUAL: usize = 2048;
/// Of a hundred seeds, so many have what most do not: see [`Rare`].
const RARE_PERCENT: u32 = 20;

/// A process to be.
#[derive(Debug, Clone)]
pub(crate) struct NodeSpec {
    pub(crate) zone: Option<u8>,
    pub(crate) weight: u32,
    pub(crate) clock_rate: f64,
}

/// What clients do.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) keys: usize,
    /// Of a hundred requests, how many go to the first three keys.
    pub(crate) hot_percent: u32,
    /// Of a hundred requests, how many write.
    pub(crate) write_percent: u32,
    /// Of a hundred clients, how many are plain ones.
    pub(crate) plain_percent: u32,
    /// About how many requests until everything heals.
    pub(crate) requests: u32,
    /// How long an execution takes at the most; mostly nothing.
    pub(crate) execution_ms: u64,
    /// How long it takes to drop what is not owned any more, at the most.
    pub(crate) discard_ms: u64,
    /// Nodes are called as those of a service are that remembers no names of requests: what is not answered is not sent again.
    pub(crate) nameless: bool,
}

/// Copies of partitions, in a run whose service keeps any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copying {
    /// What operators ask for.
    pub(crate) rules: CopyRules,
    /// Of a hundred requests, how many name a level of consistency.
    pub(crate) named_percent: u32,
    /// The most that a chunk of a copy has.
    pub(crate) chunk_bytes: usize,
}

/// What most runs do without. It is drawn apart, so that their other choices do not depend on it.
#[derive(Debug, Clone, Copy)]
struct Rare {
    nameless: bool,
    /// Where faults happen too, changes are on their way to a watch for a while.
    watch_lag: Duration,
}

impl Rare {
    fn of(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x005e_ed0f_7a4e);
        if !percent(&mut rng, RARE_PERCENT) {
            return Self { nameless: false, watch_lag: Duration::ZERO };
        }
        let (nameless, lag_ms) = (percent(&mut rng, 50), one_of(&mut rng, &[0, 20, 100]));
        Self { nameless, watch_lag: Duration::from_millis(lag_ms) }
    }
}

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) climate: Climate,
    pub(crate) partitions: u16,
    pub(crate) timing: Timing,
    pub(crate) store_delay: Duration,
    /// Longest way of a message where nothing is wrong.
    pub(crate) bus_delay: Duration,
    /// Longest way of a subscription to the switch.
    pub(crate) subscribe_delay: Duration,
    /// Longest way of a change to a watch where nothing is wrong.
    pub(crate) watch_lag: Duration,
    /// Requests that a node holds back for a partition at the most.
    pub(crate) parked: usize,
    /// Those there from the beginning, and those that may come later.
    pub(crate) nodes: Vec<NodeSpec>,
    pub(crate) first_nodes: usize,
    pub(crate) load: Load,
    /// When, and what.
    pub(crate) schedule: Vec<(Duration, schedule::Action)>,
    /// When everything heals.
    pub(crate) heals_at: Duration,
    /// `None`: state is handed over by chunks.
    pub(crate) copying: Option<Copying>,
    /// For how long the places of a node that was evicted are kept for it.
    pub(crate) evicted_delay: Duration,
}

pub(crate) fn one_of<T: Copy>(rng: &mut SmallRng, of: &[T]) -> T {
    of[rng.random_range(0..of.len())]
}

pub(crate) fn percent(rng: &mut SmallRng, chance: u32) -> bool {
    rng.random_range(0..100) < chance
}

impl Scenario {
    /// How late an owner may know how large its recorded set is.
    pub(crate) fn sets_known_after(&self) -> Duration {
        let calm = Duration::from_millis(500) + 4 * (self.watch_lag + self.store_delay);
        if self.climate == Climate::Planned { calm } else { calm + self.timing.lease * 4 }
    }

    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let climate = one_of(&mut rng, &CLIMATES);
        let timing = timing(&mut rng, climate);
        let first_nodes = one_of(&mut rng, &[1, 2, 2, 3, 3, 3, 4, 5, 7, 9]);
        let nodes = (0..9).map(|_| node(&mut rng)).collect();
        let heals_at = Duration::from_millis(rng.random_range(12_000..30_000));
        let schedule = schedule::draw(&mut rng, climate, &timing, heals_at);
        // What a planned move could lose is on its way meanwhile; the other climates have delays of their own.
        let calm = climate == Climate::Planned;
        let in_calm = |rng: &mut SmallRng, ms: &[u64]| Duration::from_millis(if calm { one_of(rng, ms) } else { 0 });
        let bus_delay = in_calm(&mut rng, &[0, 0, 0, 3, 10]);
        let rare = Rare::of(seed);
        let watch_lag = in_calm(&mut rng, &[0, 0, 20, 600]).max(rare.watch_lag);
        // Where nothing may fail, nobody may be told that it is too much.
        let parked = if calm { PARKED_USUAL } else { one_of(&mut rng, &[PARKED_USUAL, 4, 12]) };
        Self {
            seed,
            climate,
            partitions: one_of(&mut rng, &[1, 2, 3, 5, 8, 8, 16, 16, 32, 64]),
            timing,
            store_delay: Duration::from_millis(one_of(&mut rng, &[0, 1, 1, 3, 20, 60])),
            nodes,
            first_nodes,
            load: load(&mut rng, rare),
            schedule,
            heals_at,
            bus_delay,
            subscribe_delay: Duration::from_millis(one_of(&mut rng, &[0, 1, 5, 40])),
            watch_lag,
            parked,
            copying: copying(&mut rng),
            evicted_delay: evicted_delay(seed),
        }
    }
}

fn timing(rng: &mut SmallRng, climate: Climate) -> Timing {
    let lease = Duration::from_millis(one_of(rng, &[1000, 1500, 2000, 3000]));
    Timing {
        hook_limit: one_of(rng, &[lease * 2, lease * 4]),
        hook_slow: lease / 2,
        join_debounce: Duration::from_millis(one_of(rng, &[0, 100, 500])),
        parallel_moves: one_of(rng, &[1, 4, 4, 16]),
        backoff_max: Duration::from_secs(5),
        // Where nothing goes wrong a drain must end by itself.
        drain_timeout: Duration::from_secs(if climate == Climate::Planned { 60 } else { one_of(rng, &[4, 60]) }),
        ..Timing::for_lease(lease)
    }
}

/// In two of three runs.
fn copying(rng: &mut SmallRng) -> Option<Copying> {
    let factor = one_of(rng, &[1, 2, 3, 3, 4, 5]);
    let copying = Copying {
        rules: CopyRules {
            replicas: Factor::new(factor).unwrap_or_default(),
            consistency: one_of(rng, &[Consistency::Eventual, Consistency::Eventual, Consistency::Quorum]),
            // Where all of a set are gone: waits until everything heals.
            on_loss: one_of(rng, &[OnLoss::Accept, OnLoss::Accept, OnLoss::Wait]),
        },
        named_percent: one_of(rng, &[20, 60]),
        chunk_bytes: one_of(rng, &[128, 512, usize::MAX]),
    };
    percent(rng, 67).then_some(copying)
}

/// Drawn apart, so that all else of a seed stays as it was before there was one.
fn evicted_delay(seed: u64) -> Duration {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x00e7_1c7e_dde1_a45e);
    Duration::from_secs(one_of(&mut rng, &[0, 0, 0, 0, 0, 4, 12]))
}

fn node(rng: &mut SmallRng) -> NodeSpec {
    NodeSpec {
        zone: percent(rng, 60).then(|| rng.random_range(0..3)),
        weight: one_of(rng, &[1, 1, 1, 2, 3]),
        clock_rate: if percent(rng, 50) { 1.0 } else { rng.random_range(0.951..1.049) },
    }
}

fn load(rng: &mut SmallRng, rare: Rare) -> Load {
    Load {
        clients: rng.random_range(3..=8),
        keys: one_of(rng, &[4, 16, 40, 120]),
        hot_percent: one_of(rng, &[0, 20, 80]),
        write_percent: one_of(rng, &[20, 50, 80]),
        plain_percent: one_of(rng, &[0, 25, 50]),
        requests: rng.random_range(900..1400),
        execution_ms: one_of(rng, &[0, 0, 5, 300]),
        discard_ms: one_of(rng, &[0, 0, 50, 1000]),
        nameless: rare.nameless,
    }
}
