//! Many seeds: two threads, progress as it goes, kept on disk so that a campaign goes on where it stopped.
//!
//! In: a range of seeds. Out: what failed, how often each fault fired, and what it all took.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::fired::Fired;
use crate::run::{Outcome, run_seed};

const WORKERS: usize = 2;
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// From so many seeds on, each kind of fault must have fired.
const ALL_FIRE_FROM: u64 = 200;
/// What a campaign has done is written down so often, in seeds.
const KEEP_EVERY: u64 = 100;

/// What is known of a campaign so far.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Campaign {
    from: u64,
    to: u64,
    /// All seeds before this one are done.
    next: u64,
    done: u64,
    pub(crate) failed: BTreeMap<u64, String>,
    fired: BTreeMap<String, u64>,
    climates: BTreeMap<String, u64>,
    requests: u64,
    ok: u64,
    unknown: u64,
    refused: u64,
    changes: u64,
    losses: u64,
    evictions: u64,
    plans_judged: u64,
    fewest_requests: u64,
    simulated_seconds: f64,
    wall_seconds: f64,
}

impl Campaign {
    pub(crate) fn over(seeds: Range<u64>) -> Self {
        Self { from: seeds.start, to: seeds.end, next: seeds.start, fewest_requests: u64::MAX, ..Self::default() }
    }

    fn file() -> PathBuf {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        target.join("sim").join("campaign.json")
    }

    /// The one that was run last, if it is not done.
    pub(crate) fn unfinished() -> Option<Self> {
        let text = fs::read(Self::file()).ok()?;
        serde_json::from_slice(&text).ok().filter(|campaign: &Self| campaign.next < campaign.to)
    }

    fn keep(&self) {
        let file = Self::file();
        let made = file.parent().map_or(Ok(()), fs::create_dir_all);
        // By a rename: stopped in the middle of it, the former one stays.
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        let part = file.with_extension("part");
        if let Err(error) = made.and_then(|()| fs::write(&part, text)).and_then(|()| fs::rename(&part, &file)) {
            println!("the campaign's progress is not kept: {error}");
        }
    }

    fn add(&mut self, outcome: &Outcome) {
        self.done += 1;
        *self.climates.entry(format!("{:?}", outcome.climate)).or_default() += 1;
        if let Some(broken) = &outcome.broken {
            println!(
                "seed {} ({:?}): {broken}\n  replay it: make sim SEED={}",
                outcome.seed, outcome.climate, outcome.seed
            );
            self.failed.insert(outcome.seed, broken.clone());
        } else {
            self.fewest_requests = self.fewest_requests.min(outcome.requests);
        }
        let mut fired = Fired(std::mem::take(&mut self.fired));
        fired.merge(&outcome.fired);
        self.fired = fired.0;
        self.requests += outcome.requests;
        self.ok += outcome.ok;
        self.unknown += outcome.unknown;
        self.refused += outcome.refused;
        self.changes += u64::from(outcome.changes);
        self.losses += u64::from(outcome.losses);
        self.evictions += u64::from(outcome.evictions);
        self.plans_judged += u64::from(outcome.plans_judged);
        self.simulated_seconds += outcome.simulated.as_secs_f64();
    }

    /// Runs what is left of it.
    #[allow(clippy::disallowed_methods)] // How fast it is in true time is told, and decides nothing.
    pub(crate) fn run(mut self) -> Self {
        let (started, before) = (Instant::now(), self.wall_seconds);
        let (done_before, simulated_before) = (self.done, self.simulated_seconds);
        let next = AtomicU64::new(self.next);
        let to = self.to;
        let (outcomes, received) = mpsc::sync_channel(WORKERS);
        let received = Mutex::new(received);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                let (outcomes, next) = (outcomes.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= to || outcomes.send(caught(seed)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(outcomes);
            let received = received.lock().expect("locked once");
            let (mut reported, mut kept) = (Instant::now(), self.done);
            let mut ahead = std::collections::BTreeSet::new();
            while let Ok(outcome) = received.recv() {
                self.add(&outcome);
                ahead.insert(outcome.seed);
                while ahead.remove(&self.next) {
                    self.next += 1;
                }
                let wall = started.elapsed().as_secs_f64();
                self.wall_seconds = before + wall;
                // Only what is done without a gap: a seed counted twice would be worse than none.
                if ahead.is_empty() && self.done >= kept + KEEP_EVERY {
                    kept = self.done;
                    self.keep();
                }
                if reported.elapsed() >= REPORT_EVERY {
                    reported = Instant::now();
                    self.report(self.done - done_before, self.simulated_seconds - simulated_before, wall);
                }
            }
        });
        self.keep();
        self
    }

    fn report(&self, done: u64, simulated: f64, wall: f64) {
        println!(
            "{} of {} seeds, {:.1} seeds/s, {:.2} simulated hours per second, {} failed",
            self.done,
            self.to - self.from,
            done as f64 / wall,
            simulated / 3600.0 / wall,
            self.failed.len()
        );
    }

    /// What it all was.
    pub(crate) fn summary(&self) {
        println!("seeds {}..{}: {} done, {} failed", self.from, self.to, self.done, self.failed.len());
        self.report(self.done, self.simulated_seconds, self.wall_seconds.max(0.001));
        println!(
            "requests {} (at least {} a seed): ok {}, unknown {}, refused {}",
            self.requests, self.fewest_requests, self.ok, self.unknown, self.refused
        );
        println!(
            "changes of ownership {}, partitions that began empty {}, evictions {}, plans compared with the optimum {}",
            self.changes, self.losses, self.evictions, self.plans_judged
        );
        let list = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
        };
        println!("climates: {}", list(&self.climates));
        println!("faults: {}", list(&self.fired));
        for (seed, broken) in &self.failed {
            println!("failed: seed {seed}: {broken}");
        }
    }

    /// Kinds of faults that a campaign of this size must have seen and has not.
    pub(crate) fn never_fired(&self) -> Vec<String> {
        if self.done < ALL_FIRE_FROM { Vec::new() } else { Fired(self.fired.clone()).missing() }
    }
}

/// A panic is a failure of its seed.
fn caught(seed: u64) -> Outcome {
    std::panic::catch_unwind(|| run_seed(seed)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Outcome::panicked(seed, said.unwrap_or_default())
    })
}
