//! Deterministic simulation of whole rings: real nodes on twins of the store and the bus, in simulated time, one seed
//! deciding everything.
//!
//! `cargo test --test sim` runs a few seeds. `make sim SEEDS=a..b` runs a campaign, `make sim` goes on with the last one,
//! and `make sim SEED=n` replays one and prints its timeline: `SIM_SEEDS=a..b`, `SIM_SEEDS=` and `SIM_SEED=n` in the
//! environment of this test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod agree;
mod campaign;
mod fired;
#[allow(dead_code)]
#[path = "../planner/flow.rs"]
mod flow;
mod generator;
mod guards;
mod history;
mod invariants;
mod load;
#[allow(dead_code)]
#[path = "../planner/optimum.rs"]
mod optimum;
mod regressions;
mod run;
mod schedule;
mod service;
mod told;
mod world;

use campaign::Campaign;
use history::Timeline;
use run::{REQUESTS_MIN, replay, run_seed};

/// Seeds of a plain `cargo test`.
const FEW: std::ops::Range<u64> = 1..9;

#[test]
fn no_invariant_breaks_in_a_few_seeds() {
    for seed in FEW {
        let outcome = run_seed(seed);
        assert_eq!(outcome.broken, None, "seed {seed} ({:?}); replay it: make sim SEED={seed}", outcome.climate);
        assert!(outcome.requests >= REQUESTS_MIN && outcome.changes > 0, "seed {seed}");
    }
}

#[test]
fn seeds_that_once_broke_something_break_nothing() {
    for (seed, broke) in regressions::SEEDS {
        assert_eq!(run_seed(*seed).broken, None, "seed {seed}, which once broke {broke}");
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [2, 3, 5] {
        let [first, second] = [replay(seed, Timeline::Kept), replay(seed, Timeline::Kept)];
        let text = |outcome: &run::Outcome| outcome.timeline.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (first, second) = (text(&first), text(&second));
        assert!(first.len() > 1000, "{}", first.len());
        let differs = first.iter().zip(&second).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

/// `SIM_SEEDS`: a campaign. Does nothing where it is not set.
#[test]
fn campaign() {
    let Ok(seeds) = std::env::var("SIM_SEEDS") else { return };
    let campaign = match seeds.split_once("..") {
        Some((from, to)) => Campaign::over(from.trim().parse().unwrap()..to.trim().parse().unwrap()),
        None if seeds.trim().is_empty() => Campaign::unfinished().expect("no campaign to go on with: give SEEDS=a..b"),
        None => panic!("SIM_SEEDS is {seeds:?}, expected a..b"),
    };
    let done = campaign.run();
    done.summary();
    assert!(done.failed.is_empty(), "{} seeds failed", done.failed.len());
    assert_eq!(done.never_fired(), Vec::<String>::new(), "these faults never fired");
}

/// `SIM_SEED`: one seed, its timeline on standard output. Does nothing where it is not set.
#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("SIM_SEED") else { return };
    let outcome = replay(seed.trim().parse().unwrap(), Timeline::Printed);
    println!(
        "seed {seed} ({:?}): {} requests, {} ok, {} unknown, {} refused, {} changes of ownership",
        outcome.climate, outcome.requests, outcome.ok, outcome.unknown, outcome.refused, outcome.changes
    );
    assert_eq!(outcome.broken, None);
}
