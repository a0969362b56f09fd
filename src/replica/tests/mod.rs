//! Copies of one partition in a simulated world; the room's rules one by one.

mod asking;
mod confirming;
mod copying;
mod following;
mod guards;
mod judge;
mod leading;
mod network;
mod owner;
mod service;
mod takeover;
mod world;

use std::collections::BTreeMap;

use world::World;

/// Seeds run unless told otherwise.
const SEEDS: u64 = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn play(seed: u64) -> Result<BTreeMap<&'static str, u64>, String> {
    let mut world = World::new(seed, false);
    world.run()?;
    let commits = world.judge.commits;
    world.counts.insert("commit", commits);
    Ok(world.counts)
}

/// `REPLICA_SEEDS=<n>` says how many.
#[test]
fn seeds_keep_what_is_committed_and_all_copies_come_to_be_equal() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 1..=number("REPLICA_SEEDS").unwrap_or(SEEDS) {
        match play(seed) {
            Ok(played) => played.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count),
            Err(why) => panic!("{why}\nREPLICA_SEED={seed} cargo test --lib replica::tests::one_seed -- --nocapture"),
        }
    }
    eprintln!("{counts:#?}");
}

/// `REPLICA_SEED=<n> cargo test --lib replica::tests::one_seed -- --nocapture` replays one seed with its history.
#[test]
fn one_seed() {
    let Some(seed) = number("REPLICA_SEED") else { return };
    let mut world = World::new(seed, true);
    let result = world.run();
    world.history.iter().flatten().for_each(|line| eprintln!("{line}"));
    assert_eq!(result, Ok(()));
}
