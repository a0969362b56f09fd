//! The world without one rule: which of the machine's guards it needs to stay sound, and the seed that shows it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Checked, number, play, play_with_copies};
use crate::types::guard::{Guard, without};

type Play = fn(u64, bool) -> (Checked, Vec<String>);

/// The lowest seed that fails without these rules, and what it breaks.
fn caught(play: Play, guards: &[Guard], seeds: u64) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(1), AtomicU64::new(u64::MAX));
    let search = || {
        let _off = without(guards);
        let mut failed = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds || seed > found.load(Ordering::Relaxed) {
                return failed;
            }
            if let Err(reason) = play(seed, false).0 {
                found.fetch_min(seed, Ordering::Relaxed);
                failed = Some((seed, reason));
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(search)).collect();
        workers.into_iter().filter_map(|worker| worker.join().expect("a seed panicked: see above")).min()
    })
}

/// Guards that this world shows to be needed, with a seed that does. Those kept outside the machine, and those whose
/// absence costs what is not judged here, are the whole ring's simulation to show (`tests/sim/guards.rs`).
const CAUGHT: &[(Guard, u64)] = &[
    (Guard::SelfFence, 24),
    (Guard::ClaimRevision, 1),
    (Guard::LeaseRevision, 6),
    (Guard::FullLeaseSilence, 3),
    (Guard::ObserverGap, 16),
    (Guard::TakeoverByPlan, 177),
    (Guard::GoneByIncarnation, 1141),
    (Guard::AbandonByClaim, 1),
    (Guard::OwnIncarnation, 437),
    (Guard::NameObserved, 5),
    (Guard::LiveNameRefused, 1),
    (Guard::StartGrows, 5),
    (Guard::MoveDeadline, 18),
];

/// The same where nodes keep copies.
const CAUGHT_WITH_COPIES: &[(Guard, u64)] = &[
    (Guard::TakeoverByMember, 25),
    (Guard::MemberByIncarnation, 138),
    (Guard::PendingBeforeChange, 1),
    (Guard::JoinedBeforeChange, 1),
    (Guard::UnsettledSet, 18),
    (Guard::CaughtUpFirst, 14),
    (Guard::CaughtUpSince, 2834),
    (Guard::SuspendLimit, 220),
    (Guard::WaitBeforeEmptyStart, 220),
];

#[test]
fn without_a_guard_of_the_in_sync_set_a_seed_breaks_that_is_sound_with_it() {
    for (guard, seed) in CAUGHT_WITH_COPIES {
        let broken = {
            let _off = without(&[*guard]);
            play_with_copies(*seed, false).0
        };
        assert!(broken.is_err(), "seed {seed} without {} breaks nothing any more", guard.name());
        assert_eq!(play_with_copies(*seed, false).0, Ok(()), "seed {seed}");
    }
}

#[test]
fn without_a_guard_of_the_machine_a_seed_breaks_that_is_sound_with_it() {
    for (guard, seed) in CAUGHT {
        let broken = {
            let _off = without(&[*guard]);
            play(*seed, false).0
        };
        assert!(broken.is_err(), "seed {seed} without {} breaks nothing any more", guard.name());
        assert_eq!(play(*seed, false).0, Ok(()), "seed {seed}");
    }
}

/// `RING_GUARDS=<n> cargo test --lib search_for_seeds -- --nocapture` searches `n` seeds for each guard; with `RING_GUARD=<name>`
/// for that one.
#[test]
fn search_for_seeds_that_show_a_guard_to_be_needed() {
    let Some(seeds) = number("RING_GUARDS") else { return };
    let only = std::env::var("RING_GUARD").ok();
    for guard in Guard::ALL.iter().filter(|guard| only.as_deref().is_none_or(|only| only == guard.name())) {
        eprintln!("{:24} {:?}", guard.name(), caught(play, &[*guard], seeds));
    }
}

/// The same for the guards of the in-sync set.
#[test]
fn search_for_seeds_that_show_a_guard_of_the_in_sync_set_to_be_needed() {
    let Some(seeds) = number("RING_GUARDS") else { return };
    let only = std::env::var("RING_GUARD").ok();
    let asked = |guard: &Guard| only.as_deref().is_none_or(|only| only == guard.name());
    for (guard, _) in CAUGHT_WITH_COPIES.iter().filter(|(guard, _)| asked(guard)) {
        eprintln!("{:24} {:?} with copies", guard.name(), caught(play_with_copies, &[*guard], seeds));
    }
}
