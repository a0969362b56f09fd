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

use crate::generator::Scenario;
use crate::run::run_seed;

/// So many seeds may pass before a guard counts as not needed.
const SEEDS_MAX: u64 = 10_000;
const THREADS: usize = 2;

/// What shows that a guard is needed.
#[derive(Debug, Clone, Copy)]
enum Shown {
    /// This seed breaks without it.
    By(u64),
    /// This seed breaks without it and those others, and not without those alone: they cover it, mostly.
    With(&'static [Guard], u64),
    /// A seed of the machine's own world does: see `CAUGHT` there.
    ByMachine,
    /// A seed of the world of copies does: see `CAUGHT` there.
    ByCopies,
    /// A test of the server alone does, for whole rings never come to it: see there why.
    ByServer,
    /// A test of its own does: it takes a store that went back while a whole set is cut off from it and lives, which no seed came to.
    ByTest,
}

use Shown::{By, ByCopies, ByMachine, ByServer, ByTest, With};

/// What the machine's own world shows.
const MACHINES: &str = include_str!("../../src/ring/machine/tests/world/guards.rs");
/// What the world of copies shows.
const COPIES: &str = include_str!("../../src/replica/tests/guards.rs");
/// What the server's own tests show.
const SERVERS: &str = include_str!("../../src/rpc/server/tests.rs");

const SHOWN: &[(Guard, Shown)] = &[
    (Guard::GateBefore, By(22)),
    (Guard::GateAfter, By(18)),
    (Guard::SelfFence, By(10)),
    (Guard::HalfLeaseToClaim, By(789)),
    (Guard::ClaimRevision, By(18)),
    (Guard::LeaseRevision, By(1)),
    (Guard::PlanRevision, By(18)),
    (Guard::EpochOfRequest, ByServer),
    (Guard::HopLimit, ByServer),
    (Guard::SnapshotAsUnit, With(&[Guard::PlanRevision], 116)),
    (Guard::FullLeaseSilence, By(1)),
    (Guard::ObserverGap, By(19)),
    (Guard::ObserverReconnect, With(&[Guard::ObserverGap], 6)),
    (Guard::ObserverConflict, By(180)),
    (Guard::JudgeWhileHeard, By(34)),
    (Guard::UnsettledClaim, By(120)),
    (Guard::ConflictOfAbandoned, By(439)),
    (Guard::SubscribeFirst, By(190)),
    (Guard::ForwardAfterSwitch, By(13)),
    (Guard::LetGoWithoutLoss, By(82)),
    (Guard::Farewell, By(4566)),
    (Guard::BeatsNeedData, By(17)),
    (Guard::TakeoverByPlan, By(9)),
    (Guard::GoneByIncarnation, By(20)),
    (Guard::AbsentLease, By(4239)),
    (Guard::AllLeasesSeen, By(1)),
    (Guard::AbandonByClaim, By(1)),
    (Guard::RevokeAtOffer, By(13)),
    (Guard::FinishRunning, By(102)),
    (Guard::OwnIncarnation, ByMachine),
    (Guard::NameObserved, By(1)),
    (Guard::LiveNameRefused, ByMachine),
    (Guard::StartGrows, By(1)),
    (Guard::NextGeneration, By(101)),
    (Guard::HoldOff, By(75)),
    (Guard::HookOrder, By(40)),
    (Guard::DiscardAfterLoss, By(10)),
    (Guard::ParkedBound, By(2)),
    (Guard::RetryOnlyUnexecuted, By(1280)),
    (Guard::TransferAge, By(6639)),
    (Guard::NoHookWhileSuspended, By(334)),
    (Guard::GateShutBeforeLeft, By(2682)),
    (Guard::MoveDeadline, By(30)),
    (Guard::HookLimit, By(22)),
    (Guard::ReplicaPrev, ByCopies),
    (Guard::ReplicaPromise, ByCopies),
    (Guard::ReplicaEpoch, ByCopies),
    (Guard::ReplicaLate, ByCopies),
    (Guard::ReplicaWhole, ByCopies),
    (Guard::BothSets, ByCopies),
    (Guard::CaughtUpCounts, ByCopies),
    (Guard::ClearBeforeCopy, ByCopies),
    (Guard::NewestWins, ByCopies),
    (Guard::TakeoverByMember, ByMachine),
    (Guard::MemberByIncarnation, ByMachine),
    (Guard::PendingBeforeChange, ByMachine),
    (Guard::JoinedBeforeChange, ByMachine),
    (Guard::UnsettledSet, ByMachine),
    (Guard::CaughtUpFirst, ByMachine),
    (Guard::CaughtUpSince, ByMachine),
    (Guard::ConfirmAfterExecution, ByCopies),
    (Guard::ConfirmByAll, ByCopies),
    (Guard::SuspendLimit, ByMachine),
    (Guard::WaitBeforeEmptyStart, ByMachine),
    (Guard::FormerSetsEnd, ByTest),
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

/// The same, of a guard that others cover: broken without all of them, sound without those others, and without it alone.
fn shows_with(guard: Guard, others: &[Guard], seed: u64) -> Option<Caught> {
    let sound_without = |guards: &[Guard]| {
        let _off = without(guards);
        run_seed(seed).broken.is_none()
    };
    let all: Vec<Guard> = std::iter::once(guard).chain(others.iter().copied()).collect();
    let caught = shows(&all, seed)?;
    (others.is_empty() || (sound_without(others) && sound_without(&[guard]))).then_some(caught)
}

/// Runs `work` on two threads and answers what they found.
fn on_threads<T: Send>(work: impl Fn() -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(&work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a seed panicked: see above")).collect()
    })
}

/// The lowest seed that shows what these guards prevent.
fn search((guard, others): (Guard, &[Guard]), seeds: &Range<u64>) -> Option<Caught> {
    let (next, lowest) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let found = on_threads(|| {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || seed > lowest.load(Ordering::Relaxed) {
                return None;
            }
            if !is_likely(seed) {
                continue;
            }
            if let Some(caught) = shows_with(guard, others, seed) {
                lowest.fetch_min(seed, Ordering::Relaxed);
                return Some(caught);
            }
        }
    });
    found.into_iter().flatten().min()
}

/// `SIM_GUARD_ONLY=a,b+c`: only seeds whose scenario, written out, has the one word, or both of the others, so that a search
/// takes less time.
fn is_likely(seed: u64) -> bool {
    let Ok(words) = std::env::var("SIM_GUARD_ONLY") else { return true };
    let scenario = format!("{:?}", Scenario::of(seed));
    words.split(',').any(|all| all.split('+').all(|word| scenario.contains(word)))
}

fn names(guards: &[Guard]) -> String {
    guards.iter().map(|guard| guard.name()).collect::<Vec<_>>().join("+")
}

#[test]
fn without_any_one_guard_a_seed_breaks() {
    let (next, stale) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    on_threads(|| {
        while let Some((guard, shown)) = SHOWN.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (others, seed): (&[Guard], u64) = match *shown {
                By(seed) => (&[], seed),
                With(others, seed) => (others, seed),
                ByMachine | ByCopies | ByServer | ByTest => continue,
            };
            match shows_with(*guard, others, seed) {
                Some(caught) => println!("{:24} seed {seed:5} {}", guard.name(), caught.broken),
                None => stale.lock().unwrap().push((*guard, others)),
            }
        }
    });
    let stale = stale.into_inner().unwrap();
    let found: Vec<String> = stale
        .iter()
        .map(|(guard, others)| {
            let found = search((*guard, others), &(1..SEEDS_MAX + 1));
            format!("{} with {}: {found:?}", guard.name(), names(others))
        })
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
            With(others, seed) => format!("| {seed}, with `{}`: ", names(others)),
            ByMachine => in_world(*guard, MACHINES, "the machine's own world"),
            ByCopies => in_world(*guard, COPIES, "the world of copies"),
            ByServer => {
                assert!(SERVERS.contains(&format!("without(&[Guard::{guard:?}])")), "{}", guard.name());
                "| the server alone: ".to_owned()
            }
            ByTest => "| its own test | `".to_owned(),
        };
        assert!(row.contains(&seed), "docs/guards.md should say {seed:?} of {}: {row}", guard.name());
    }
}

fn in_world(guard: Guard, source: &str, world: &str) -> String {
    assert!(source.contains(&format!("(Guard::{guard:?}, ")), "{}: {world} does not show it", guard.name());
    format!("| {world}, seed ")
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
        let Some((guard, others)) = guards.split_first() else { continue };
        let caught = search((*guard, others), &seeds);
        println!("{:24} {:7.1} s {:?}", names(&guards), began.elapsed().as_secs_f64(), caught);
    }
}
