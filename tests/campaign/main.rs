//! The campaign of real faults: processes, servers and links broken by a schedule from a seed, while clients keep a
//! history that is judged afterwards.
//!
//! `make faults MINUTES=10 SEED=7` runs [`campaign`], `make busy MINUTES=5` runs [`busy`]; a plain `cargo test` tests the
//! judge and the schedule only.
//!
//! - `schedule`: what is done, and when, from a seed. `ground`, `servers`: where it is done.
//! - `clients`, `history`: what clients ask and are told. `observer`: the rings' records, past all nodes.
//! - `checker`: the judge, which knows none of them. `report`: figures, and what is kept of a failed run.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;

mod busy;
mod checker;
mod checker_tests;
mod clients;
mod ground;
mod history;
mod observer;
mod report;
mod round;
mod schedule;
mod servers;

use std::time::Duration;

use report::{Kept, Summary};
use schedule::Topology;

/// A round is so long at most; then everything starts anew, on the other topology.
const ROUND_MAX: Duration = Duration::from_secs(150);
/// What has to be answered.
const SHARE_OK: f64 = 0.9;

/// `MINUTES` of the environment.
fn minutes(default: f64) -> Duration {
    let given = std::env::var("MINUTES").ok().filter(|text| !text.is_empty());
    Duration::from_secs_f64(60.0 * given.map_or(default, |text| text.parse().expect("MINUTES is a number")))
}

#[test]
#[ignore = "minutes of real faults: make faults"]
fn campaign() {
    let length = minutes(3.0);
    let given = std::env::var("SEED").ok().filter(|text| !text.is_empty());
    let seed = given.map_or_else(rand::random::<u32>, |text| text.parse().expect("SEED is a number of 32 bits"));
    eprintln!("real faults for {length:.0?}: make faults MINUTES={:.1} SEED={seed}", length.as_secs_f64() / 60.0);
    let rounds = (length.as_secs_f64() / ROUND_MAX.as_secs_f64()).ceil().max(2.0);
    let kept = Kept::under(u64::from(seed));
    let mut summary = Summary::default();
    for number in 0..rounds as u64 {
        let topology = if number.is_multiple_of(2) { Topology::Single } else { Topology::Cluster };
        let seed = u64::from(seed) << 16 | number;
        // A runtime of its own, so that nothing of a round outlives it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let round = round::Round { seed, topology, length: length.div_f64(rounds), kept: kept.round(number, topology) };
        summary.add(runtime.block_on(round.run()));
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
    summary.print();
    let wrong = summary.wrong(SHARE_OK);
    assert!(wrong.is_empty(), "{}\nhistory, records and all logs are in {}", wrong.join("\n"), kept.path().display());
    kept.remove();
}
