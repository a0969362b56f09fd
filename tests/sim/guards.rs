//! The checker is not blind: without any one guard of the protocol the ordinary seeds break an ordinary invariant.
//!
//! [`CAUGHT`] has, for each guard, the seed that shows it. The plain test replays those; where a seed shows nothing any more
//! (the generator changed), it searches on. `SIM_GUARDS=all` searches from the first seed for every guard, `SIM_GUARDS=a,b`
//! for these, `SIM_GUARD_SEEDS=n` up to another number.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nats_ring::types::guard::{Guard, without};

use crate::run::run_seed;

/// So many seeds may pass before a guard counts as not needed.
const SEEDS_MAX: u64 = 10_000;
const THREADS: usize = 2;

/// A seed that breaks something without a guard, and nothing with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Caught {
    seed: u64,
    broken: String,
}

fn broken_without(guards: &[Guard], seed: u64) -> Option<String> {
    let _off = without(guards);
    run_seed(seed).broken
}

/// Whether the seed shows what the guards prevent: broken without them, sound with them.
fn shows(guards: &[Guard], seed: u64) -> Option<Caught> {
    let broken = broken_without(guards, seed)?;
    run_seed(seed).broken.is_none().then_some(Caught { seed, broken })
}

/// The lowest seed that shows what these guards prevent.
fn search(guards: &[Guard], seeds: &Range<u64>) -> Option<Caught> {
    let (next, lowest) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end || seed > lowest.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(caught) = shows(guards, seed) {
            lowest.fetch_min(seed, Ordering::Relaxed);
            return Some(caught);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().expect("a seed panicked: see above")).min()
    })
}

fn asked() -> Vec<Guard> {
    let names = std::env::var("SIM_GUARDS").unwrap_or_default();
    let named = |guard: &Guard| names == "all" || names.split(',').any(|name| name == guard.name());
    Guard::ALL.iter().copied().filter(named).collect()
}

fn seeds_asked() -> Range<u64> {
    let Ok(text) = std::env::var("SIM_GUARD_SEEDS") else { return 1..SEEDS_MAX + 1 };
    let (first, end) = text.split_once("..").expect("a range of seeds");
    first.parse().expect("a seed")..end.parse().expect("a seed")
}

#[test]
fn search_asked() {
    let seeds = seeds_asked();
    for guard in asked() {
        let began = Instant::now();
        let caught = search(&[guard], &seeds);
        let took: Duration = began.elapsed();
        println!("{:24} {:7.1} s {:?}", guard.name(), took.as_secs_f64(), caught);
    }
}
