//! Every interleaving of a small ring, exhausted.
//!
//! Two nodes that own one partition each, a third that joins, and a budget of mishaps: a crash, a pause, a time-out of
//! the store. The machines are the real ones; `moves` says what may happen next, `search` follows every possibility, and
//! `canon` says when two situations are the same. In every one the invariants of `invariants` hold, and from every one
//! the ring comes to rest with every partition at a live owner if nothing further goes wrong. `docs/exploration.md` says
//! what is explored and what is not.
//!
//! `make explore` runs all scenarios to their ends, `EXPLORE=<name>` one of them; without it the beginnings of two.

mod act;
mod canon;
mod moves;
mod rest;
mod search;
mod state;
mod tally;
mod tell;

use std::time::Instant;

use search::{Found, explore};
use state::{Budget, Scenario, State};
use tally::{SEEN, Seen};

use crate::types::guard::Guard;

const NOTHING: Budget = Budget { joins: 0, crashes: 0, pauses: 0, timeouts: 0 };
const JOIN: Budget = Budget { joins: 1, ..NOTHING };
const CRASH: Budget = Budget { crashes: 1, ..NOTHING };
const PAUSE: Budget = Budget { pauses: 1, ..NOTHING };
const TIMEOUT: Budget = Budget { timeouts: 1, ..NOTHING };
const ALL: Budget = Budget { crashes: 1, pauses: 1, timeouts: 1, ..JOIN };

const fn scenario(name: &'static str, budget: Budget) -> Scenario {
    Scenario { name, budget, weight: 2, lag_ms: 0, returns: true }
}

static SCENARIOS: &[Scenario] = &[
    scenario("join", JOIN),
    scenario("pair-crash", CRASH),
    scenario("pair-pause", PAUSE),
    scenario("pair-timeout", TIMEOUT),
    scenario("pair-crash-pause", Budget { crashes: 1, ..PAUSE }),
    scenario("pair-crash-timeout", Budget { crashes: 1, ..TIMEOUT }),
    scenario("pair-pause-timeout", Budget { pauses: 1, ..TIMEOUT }),
    scenario("pair-all", Budget { joins: 0, ..ALL }),
    scenario("join-crash", Budget { crashes: 1, ..JOIN }),
    scenario("join-pause", Budget { pauses: 1, ..JOIN }),
    scenario("join-timeout", Budget { timeouts: 1, ..JOIN }),
    scenario("all", ALL),
];

fn named(name: &str) -> &'static Scenario {
    SCENARIOS.iter().find(|scenario| scenario.name == name).expect("a scenario")
}

fn report(scenario: &Scenario, found: &Found, seconds: f64) {
    let (states, moves, depth) = (found.states, found.moves, found.depth);
    let end = if found.cut { "cut" } else { "exhausted" };
    eprintln!("{:<16} {states:>10} states {moves:>11} moves depth {depth:>4} {seconds:>7.1} s {end}", scenario.name);
    let seen: Vec<String> = SEEN.iter().map(|seen| format!("{seen:?} {}", found.tally.of(*seen))).collect();
    eprintln!("    {}\n    given up: {:?}", seen.join(", "), found.tally.reasons());
    if let Some((reason, way)) = &found.broken {
        eprintln!("    {reason}");
        way.iter().for_each(|line| eprintln!("    {line}"));
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The time it takes is told, nothing goes by it.
#[allow(clippy::disallowed_methods)]
fn run(scenario: &'static Scenario, limit: u64, off: &[Guard]) -> Found {
    let start = Instant::now();
    let found = explore(State::settled(scenario), limit, off);
    report(scenario, &found, start.elapsed().as_secs_f64());
    found
}

/// Explored to its end, with nothing broken, and all of this seen on the way.
fn holds_to_the_end(name: &str, seen: &[Seen]) {
    let found = run(named(name), u64::MAX, &[]);
    assert_eq!(found.broken, None, "{name}");
    assert!(!found.cut);
    for seen in seen.iter().chain(&[Seen::AtRest, Seen::AllDone]) {
        assert!(found.tally.of(*seen) > 0, "{name}: {seen:?} never happened");
    }
}

#[test]
fn a_node_joins_and_takes_its_share_in_every_order_of_events() {
    holds_to_the_end("join", &[Seen::LeaseAcquired, Seen::Planned, Seen::Switched]);
}

#[test]
fn one_of_two_crashes_at_any_moment_and_the_other_takes_over() {
    holds_to_the_end("pair-crash", &[Seen::Crashed, Seen::Evicted, Seen::TakenOver]);
}

#[test]
fn a_heartbeat_of_two_is_lost_or_late_at_any_moment() {
    holds_to_the_end("pair-timeout", &[Seen::TimedOut, Seen::StrayLanded]);
}

/// What takes too long to exhaust here, as far as there is time.
const BEGINNINGS: (&[&str], u64) = (&["pair-pause", "all"], 10_000);

/// `EXPLORE=every` goes on to the ends of all scenarios, `EXPLORE=<name>` of one; `EXPLORE_LIMIT` says how far.
#[test]
fn nothing_breaks_whatever_goes_wrong_as_far_as_is_asked() {
    let (names, limit) = match std::env::var("EXPLORE").as_deref() {
        Err(_) | Ok("") => (BEGINNINGS.0.to_vec(), BEGINNINGS.1),
        Ok("every") => (SCENARIOS.iter().map(|scenario| scenario.name).collect(), u64::MAX),
        Ok(name) => (vec![named(name).name], u64::MAX),
    };
    for name in names {
        assert_eq!(run(named(name), number("EXPLORE_LIMIT").unwrap_or(limit), &[]).broken, None, "{name}");
    }
}

/// Rules of the machine whose absence is found, and where.
const FOUND: &[(Guard, &str)] = &[(Guard::SelfFence, "pair-pause"), (Guard::FullLeaseSilence, "pair-crash")];

/// `EXPLORE_RULES=<situations>` also prints, for every rule, where its absence is found: what `FOUND` is taken from.
#[test]
fn without_a_rule_the_exploration_finds_what_breaks() {
    for (guard, name) in FOUND {
        let found = run(named(name), 100_000, &[*guard]);
        assert!(found.broken.is_some(), "{name} without {} breaks nothing", guard.name());
    }
    if let Some(limit) = number("EXPLORE_RULES") {
        Guard::ALL.iter().for_each(|guard| print_where_found(*guard, limit));
    }
}

fn print_where_found(guard: Guard, limit: u64) {
    for name in ["join", "pair-crash", "pair-pause", "pair-timeout"] {
        let found = explore(State::settled(named(name)), limit, &[guard]);
        let broken =
            found.broken.map_or_else(|| "-".to_owned(), |(reason, way)| format!("{} moves: {reason}", way.len()));
        eprintln!("{:<24} {name:<14} {:>7} states {broken}", guard.name(), found.states);
    }
}
