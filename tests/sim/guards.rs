//! The checker is not blind: without any one guard of the protocol the ordinary seeds break an ordinary invariant.
//!
//! [`SHOWN`] has, for each guard, the seed that shows it. The plain test replays those; where one shows nothing any more,
//! because the generator changed, it searches on and tells what to write down. `make sim-guards` searches from the first
//! seed on: `SIM_GUARDS=all`, or `SIM_GUARDS=a,b+c` for a guard and for a pair; `SIM_GUARD_SEEDS=a..b` among these seeds.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use nats_ring::types::guard::{Guard, without};

use crate::run::run_seed;

/// So many seeds may pass before a guard counts as not needed.
const SEEDS_MAX: u64 = 10_000;
const THREADS: usize = 2;

/// What shows that a guard is needed.
#[derive(Debug, Clone, Copy)]
enum Shown {
    /// This seed breaks without it.
    By(u64),
    /// Nothing in the simulation yet; why, or what shows it elsewhere, says `docs/guards.md`.
    NotHere,
}

use Shown::{By, NotHere};

const SHOWN: &[(Guard, Shown)] = &[
    (Guard::GateBefore, By(1)),
    (Guard::GateAfter, By(88)),
    (Guard::SelfFence, By(1)),
    (Guard::HalfLeaseToClaim, NotHere),
    (Guard::ClaimRevision, By(6)),
    (Guard::LeaseRevision, By(1)),
    (Guard::PlanRevision, By(5)),
    (Guard::EpochOfRequest, NotHere),
    (Guard::HopLimit, NotHere),
    (Guard::SnapshotAsUnit, NotHere),
    (Guard::FullLeaseSilence, By(1)),
    (Guard::ObserverGap, NotHere),
    (Guard::ObserverReconnect, NotHere),
    (Guard::ObserverConflict, NotHere),
    (Guard::JudgeWhileHeard, NotHere),
    (Guard::UnsettledClaim, By(33)),
    (Guard::ConflictOfAbandoned, NotHere),
    (Guard::SubscribeFirst, NotHere),
    (Guard::ForwardAfterSwitch, By(3)),
    (Guard::LetGoWithoutLoss, NotHere),
    (Guard::Farewell, NotHere),
    (Guard::BeatsNeedData, NotHere),
    (Guard::TakeoverByPlan, By(16)),
    (Guard::GoneByIncarnation, By(57)),
    (Guard::AbsentLease, NotHere),
    (Guard::AllLeasesSeen, NotHere),
    (Guard::AbsentClaim, NotHere),
    (Guard::AbandonByClaim, By(3)),
    (Guard::RevokeAtOffer, By(3)),
    (Guard::FinishRunning, By(3)),
    (Guard::SupersededClaim, NotHere),
    (Guard::OwnIncarnation, NotHere),
    (Guard::NameObserved, By(21)),
    (Guard::LiveNameRefused, NotHere),
    (Guard::StartGrows, By(4)),
    (Guard::NextGeneration, By(4)),
    (Guard::HoldOff, NotHere),
    (Guard::HookOrder, NotHere),
    (Guard::DiscardAfterLoss, NotHere),
    (Guard::StateForSwitch, NotHere),
    (Guard::ParkedBound, NotHere),
    (Guard::RetryOnlyUnexecuted, By(30)),
    (Guard::TransferAge, NotHere),
    (Guard::NoHookWhileSuspended, NotHere),
    (Guard::GateShutBeforeLeft, NotHere),
    (Guard::MoveDeadline, NotHere),
    (Guard::HookLimit, By(112)),
    (Guard::AcceptWhenFree, NotHere),
    (Guard::ReplicaPrev, NotHere),
    (Guard::ReplicaPromise, NotHere),
    (Guard::ReplicaEpoch, NotHere),
    (Guard::ReplicaLate, NotHere),
    (Guard::ReplicaWhole, NotHere),
    (Guard::BothSets, NotHere),
    (Guard::CaughtUpCounts, NotHere),
    (Guard::ClearBeforeCopy, NotHere),
    (Guard::NewestWins, NotHere),
    (Guard::TakeoverByMember, NotHere),
    (Guard::MemberByIncarnation, NotHere),
    (Guard::PendingBeforeChange, NotHere),
    (Guard::JoinedBeforeChange, NotHere),
    (Guard::UnsettledSet, NotHere),
    (Guard::CaughtUpFirst, NotHere),
    (Guard::CaughtUpSince, NotHere),
];

/// A seed that breaks something without guards, and nothing with them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Caught {
    seed: u64,
    broken: String,
}

/// Whether the seed shows what the guards prevent: broken without them, sound with them. That nothing happened in a run is
/// no promise broken.
fn shows(guards: &[Guard], seed: u64) -> Option<Caught> {
    let broken = {
        let _off = without(guards);
        run_seed(seed).broken.filter(|broken| !broken.starts_with("every seed changes an owner"))?
    };
    run_seed(seed).broken.is_none().then_some(Caught { seed, broken })
}

/// Runs `work` on two threads and answers what they found.
fn on_threads<T: Send>(work: impl Fn() -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(&work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a seed panicked: see above")).collect()
    })
}

/// The lowest seed that shows what these guards prevent.
fn search(guards: &[Guard], seeds: &Range<u64>) -> Option<Caught> {
    let (next, lowest) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let found = on_threads(|| {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || seed > lowest.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(caught) = shows(guards, seed) {
                lowest.fetch_min(seed, Ordering::Relaxed);
                return Some(caught);
            }
        }
    });
    found.into_iter().flatten().min()
}

fn names(guards: &[Guard]) -> String {
    guards.iter().map(|guard| guard.name()).collect::<Vec<_>>().join("+")
}

#[test]
fn without_any_one_guard_a_seed_breaks() {
    let (next, stale) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    on_threads(|| {
        while let Some((guard, shown)) = SHOWN.get(next.fetch_add(1, Ordering::Relaxed)) {
            let By(seed) = *shown else { continue };
            match shows(&[*guard], seed) {
                Some(caught) => println!("{:24} seed {seed:5} {}", guard.name(), caught.broken),
                None => stale.lock().unwrap().push(*guard),
            }
        }
    });
    let stale = stale.into_inner().unwrap();
    let found: Vec<String> = stale
        .iter()
        .map(|guard| format!("{}: {:?}", guard.name(), search(&[*guard], &(1..SEEDS_MAX + 1))))
        .inspect(|line| println!("{line}"))
        .collect();
    let missed: Vec<_> = found.iter().filter(|line| line.ends_with("None")).collect();
    assert!(missed.is_empty(), "no seed up to {SEEDS_MAX} breaks without: {missed:#?}");
}

#[test]
fn every_guard_is_in_the_table_and_in_the_document_with_its_seed() {
    let document = include_str!("../../docs/guards.md");
    for guard in Guard::ALL {
        let entries: Vec<_> = SHOWN.iter().filter(|(listed, _)| listed == guard).collect();
        assert_eq!(entries.len(), 1, "{}", guard.name());
        let row = document.lines().find(|line| line.starts_with(&format!("| `{}` |", guard.name())));
        let row = row.unwrap_or_else(|| panic!("docs/guards.md has no row for {}", guard.name()));
        let seed = match entries[0].1 {
            By(seed) => format!("| {seed}: "),
            NotHere => "| — ".to_owned(),
        };
        assert!(row.contains(&seed), "docs/guards.md should say {seed:?} of {}: {row}", guard.name());
    }
}

fn asked() -> Vec<Vec<Guard>> {
    let asked = std::env::var("SIM_GUARDS").unwrap_or_default();
    if asked == "all" {
        return Guard::ALL.iter().map(|guard| vec![*guard]).collect();
    }
    let named = |name: &str| {
        let found = Guard::ALL.iter().copied().find(|guard| guard.name() == name);
        found.unwrap_or_else(|| panic!("there is no guard {name:?}"))
    };
    let groups = asked.split(',').filter(|names| !names.is_empty());
    groups.map(|names| names.split('+').map(named).collect()).collect()
}

fn seeds_asked() -> Range<u64> {
    let Ok(text) = std::env::var("SIM_GUARD_SEEDS") else { return 1..SEEDS_MAX + 1 };
    let (first, end) = text.split_once("..").expect("SIM_GUARD_SEEDS is a..b");
    first.parse().expect("a seed")..end.parse().expect("a seed")
}

/// Does nothing where `SIM_GUARDS` is not set.
#[test]
#[allow(clippy::disallowed_methods)] // How long people wait for it, not what a ring sees.
fn search_asked() {
    let seeds = seeds_asked();
    for guards in asked() {
        let began = Instant::now();
        let caught = search(&guards, &seeds);
        println!("{:24} {:7.1} s {:?}", names(&guards), began.elapsed().as_secs_f64(), caught);
    }
}
