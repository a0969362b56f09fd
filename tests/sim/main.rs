//! Deterministic simulation of whole rings: real nodes on twins of the store and the bus, in simulated time, one seed
//! deciding everything.
//!
//! `cargo test --test sim` runs a few seeds. `make sim SEEDS=a..b` runs a campaign (`SIM_SEEDS=a..b`), `make sim SEED=n`
//! replays one and prints its timeline (`SIM_SEED=n`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

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
mod run;
mod schedule;
mod service;
mod world;

/// Seeds of a plain `cargo test`.
const FEW: std::ops::Range<u64> = 1..9;

#[test]
fn no_invariant_breaks_in_a_few_seeds() {
    let started = std::time::Instant::now();
    let seeds = std::env::var("SIM_SEEDS").ok();
    let range = seeds.map_or(FEW, |s| {
        let (a, b) = s.split_once("..").unwrap();
        a.parse().unwrap()..b.parse().unwrap()
    });
    let mut failed = 0;
    for seed in range {
        let outcome = run::run_seed(seed);
        if let Some(broken) = outcome.broken {
            failed += 1;
            println!("seed {} ({:?}): {broken}", outcome.seed, outcome.climate);
        }
        println!(
            "seed {} {:?} requests {} ok {} unknown {} refused {} changes {} losses {} sim {:?} wall {:?}",
            outcome.seed,
            outcome.climate,
            outcome.requests,
            outcome.ok,
            outcome.unknown,
            outcome.refused,
            outcome.changes,
            outcome.losses,
            outcome.simulated,
            started.elapsed()
        );
    }
    assert_eq!(failed, 0);
}

#[test]
fn replays() {
    let Some(seed) = std::env::var("SIM_SEED").ok() else { return };
    let outcome = run::replay(seed.parse().unwrap(), history::Timeline::Printed);
    println!("{:?}", outcome.broken);
}
