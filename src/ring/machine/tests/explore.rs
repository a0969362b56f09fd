//! Every interleaving of a small ring, exhausted.
//!
//! Two nodes that own one partition each, a third that joins, and a budget of mishaps: a crash, a pause, a time-out of
//! the store. The machines are the real ones; `moves` says what may happen next, `search` follows every possibility, and
//! `canon` says when two situations are the same. In every one the invariants of `invariants` hold, and from every one
//! the ring comes to rest with every partition at a live owner if nothing further goes wrong. `docs/exploration.md` says
//! what is explored and what is not.
//!
//! `make explore` runs all scenarios to their ends; `EXPLORE=<name>` one of them.

mod act;
mod canon;
mod moves;
mod search;
mod state;
mod tally;
mod tell;

use std::time::Instant;

use search::{Found, explore};
use state::{Budget, Scenario, State};
use tally::SEEN;

const NOTHING: Budget = Budget { joins: 0, crashes: 0, pauses: 0, timeouts: 0 };
const JOIN: Budget = Budget { joins: 1, ..NOTHING };
const BASE: Scenario = Scenario { name: "join", budget: JOIN, weight: 2, lag_ms: 0, returns: true };

static SCENARIOS: &[Scenario] = &[
    BASE,
    Scenario { name: "join-two", weight: 8, ..BASE },
    Scenario { name: "crash", budget: Budget { crashes: 1, ..JOIN }, ..BASE },
    Scenario { name: "pause", budget: Budget { pauses: 1, ..JOIN }, ..BASE },
    Scenario { name: "timeout", budget: Budget { timeouts: 1, ..JOIN }, ..BASE },
    Scenario { name: "crash-pause", budget: Budget { crashes: 1, pauses: 1, ..JOIN }, ..BASE },
    Scenario { name: "crash-timeout", budget: Budget { crashes: 1, timeouts: 1, ..JOIN }, ..BASE },
    Scenario { name: "pause-timeout", budget: Budget { pauses: 1, timeouts: 1, ..JOIN }, ..BASE },
    Scenario { name: "all", budget: Budget { crashes: 1, pauses: 1, timeouts: 1, ..JOIN }, ..BASE },
];

fn report(scenario: &Scenario, found: &Found, seconds: f64) {
    let (states, moves, depth) = (found.states, found.moves, found.depth);
    let end = if found.cut { "cut" } else { "exhausted" };
    eprintln!("{:<16} {states:>10} states {moves:>11} moves depth {depth:>4} {seconds:>7.1} s {end}", scenario.name);
    let seen: Vec<String> = SEEN.iter().map(|seen| format!("{seen:?} {}", found.tally.of(*seen))).collect();
    eprintln!("    {}", seen.join(", "));
    if let Some((reason, way)) = &found.broken {
        eprintln!("    {reason}");
        way.iter().for_each(|line| eprintln!("    {line}"));
    }
}

fn limit() -> u64 {
    std::env::var("EXPLORE_LIMIT").ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

#[test]
#[ignore = "takes long: make explore"]
fn every_scenario_to_its_end() {
    let only = std::env::var("EXPLORE").ok();
    for scenario in SCENARIOS.iter().filter(|scenario| only.as_deref().is_none_or(|only| only == scenario.name)) {
        let start = Instant::now();
        let found = explore(State::settled(scenario), limit());
        report(scenario, &found, start.elapsed().as_secs_f64());
        assert!(found.broken.is_none());
    }
}
