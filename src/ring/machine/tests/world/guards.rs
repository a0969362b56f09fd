//! The world without one rule: which of the machine's guards it needs to stay sound, and the seed that shows it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{number, play};
use crate::types::guard::{Guard, without};

/// The lowest seed that fails without these rules, and what it breaks.
fn caught(guards: &[Guard], seeds: u64) -> Option<(u64, String)> {
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

#[test]
#[ignore = "learns"]
fn learn() {
    let seeds = number("RING_SEEDS").unwrap_or(300);
    for guard in Guard::ALL {
        let began = std::time::Instant::now();
        let found = caught(&[*guard], seeds);
        eprintln!("{:24} {:?} {:?}", guard.name(), began.elapsed(), found);
    }
}
