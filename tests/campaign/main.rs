//! The campaign of real faults: processes, servers and links broken by a schedule from a seed, while clients keep a
//! history that is judged afterwards.
//!
//! A program: `make faults MINUTES=10 SEED=7` runs [`faults`], `make busy MINUTES=5` runs [`busy`]. `tests/judge` tests the
//! judge and the schedule.
//!
//! - `schedule`: what is done, and when, from a seed. `ground`, `servers`: where it is done.
//! - `clients`, `history`: what clients ask and are told. `observer`: the rings' records, past all nodes.
//! - `checker`: the judge, which knows none of them. `plant`: what it must find. `report`: figures, and what is kept of a
//!   failed run.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod busy;
mod checker;
mod clients;
mod ground;
mod history;
mod observer;
mod plant;
mod report;
mod round;
mod schedule;
mod servers;

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use plant::Plant;
use report::{Kept, Summary};
use schedule::Topology;

/// A round is so long at most; then everything starts anew, on the other topology.
const ROUND_MAX: Duration = Duration::from_secs(150);
/// What has to be answered.
const SHARE_OK: f64 = 0.9;

/// What the environment says, if it says anything.
fn given<T: FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} cannot be {text:?}")))
}

/// `MINUTES` of the environment.
fn minutes(default: f64) -> Duration {
    Duration::from_secs_f64(60.0 * given("MINUTES").unwrap_or(default))
}

fn main() -> ExitCode {
    let wrong = match std::env::args().nth(1).as_deref() {
        Some("faults") => faults(),
        Some("busy") => busy::busy(),
        Some(busy::BURN) => busy::burn(),
        other => vec![format!("faults or busy, not {other:?}")],
    };
    wrong.iter().for_each(|why| eprintln!("WRONG: {why}"));
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Rounds by turns on one server and on three; what must not be.
fn faults() -> Vec<String> {
    let (length, plant) = (minutes(3.0), given::<Plant>("PLANT"));
    let seed = given("SEED").unwrap_or_else(rand::random::<u32>);
    eprintln!("real faults for {length:.0?}: make faults MINUTES={:.1} SEED={seed}", length.as_secs_f64() / 60.0);
    let rounds = (length.as_secs_f64() / ROUND_MAX.as_secs_f64()).ceil().max(2.0);
    let kept = Kept::under(u64::from(seed));
    let mut summary = Summary::default();
    for number in 0..rounds as u64 {
        let topology = if number.is_multiple_of(2) { Topology::Single } else { Topology::Cluster };
        let seed = u64::from(seed) << 16 | number;
        // A runtime of its own, so that nothing of a round outlives it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (length, kept) = (length.div_f64(rounds), kept.round(number, topology));
        summary.add(runtime.block_on(round::Round { seed, topology, length, kept, plant }.run()));
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
    summary.print();
    let mut wrong = summary.wrong(SHARE_OK);
    if wrong.is_empty() {
        kept.remove();
    } else {
        wrong.push(format!("history, records and all logs are in {}", kept.path().display()));
    }
    wrong
}
