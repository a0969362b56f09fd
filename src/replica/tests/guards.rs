//! The world without one rule: which of the rules of copies it needs to stay sound, and the seed that shows it.

use std::collections::BTreeMap;

use super::{number, play};
use crate::types::guard::{Guard, without};

/// The rules of this room and of what it asks of a service, each with the lowest seed that breaks without it.
const CAUGHT: &[(Guard, u64)] = &[
    (Guard::ReplicaPrev, 1),
    (Guard::ReplicaPromise, 65),
    (Guard::ReplicaEpoch, 9),
    (Guard::ReplicaLate, 73),
    (Guard::ReplicaWhole, 5),
    (Guard::BothSets, 1),
    (Guard::CaughtUpCounts, 5),
    (Guard::ClearBeforeCopy, 1),
    (Guard::NewestWins, 2),
    (Guard::ConfirmAfterExecution, 1),
    (Guard::ConfirmByAll, 1),
];

#[test]
fn without_a_rule_of_copies_a_seed_breaks_that_is_sound_with_it() {
    for (guard, seed) in CAUGHT {
        let broken = {
            let _off = without(&[*guard]);
            play(*seed)
        };
        assert!(broken.is_err(), "seed {seed} without {} breaks nothing any more", guard.name());
        assert!(play(*seed).is_ok(), "seed {seed}");
    }
}

/// `REPLICA_GUARDS=<n> cargo test --lib search_for_seeds -- --nocapture` searches `n` seeds for each guard: what breaks, in
/// how many of them, and the lowest.
#[test]
fn search_for_seeds_that_show_a_rule_of_copies_to_be_needed() {
    let Some(seeds) = number("REPLICA_GUARDS") else { return };
    for (guard, _) in CAUGHT {
        let _off = without(&[*guard]);
        let mut found: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for seed in 1..=seeds {
            let Err(why) = play(seed) else { continue };
            let what = why.split(": ").nth(1).unwrap_or(&why).to_owned();
            found.entry(what).or_insert((0, seed)).0 += 1;
        }
        eprintln!("{:24} {found:?}", guard.name());
    }
}
