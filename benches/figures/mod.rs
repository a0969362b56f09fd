//! Figures of benches: percentiles, and durations as nodes log them.

use std::time::Duration;

/// Percentiles, one line.
pub fn row(what: &str, mut all: Vec<Duration>) {
    all.sort();
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    println!("{what:40} p50 {p50:>9.1?}  p99 {p99:>9.1?}  max {max:>9.1?}  of {}", all.len());
}

/// How long each move paused its partition, from lines such as `… move finished node=node-1 partition=3 to=node-2 pause=1.2ms bytes=99`.
pub fn pauses_in(log: &str) -> Vec<Duration> {
    let finished = log.lines().filter(|line| line.contains("move finished"));
    let pauses = finished.map(|line| line.split_once("pause=").unwrap().1.split(' ').next().unwrap());
    pauses.map(duration).collect()
}

/// A duration as Rust writes it.
fn duration(text: &str) -> Duration {
    let units = [("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        text.strip_suffix(unit).and_then(|number| number.parse::<f64>().ok()).map(|number| number * seconds)
    });
    Duration::from_secs_f64(parsed.unwrap_or_else(|| panic!("not a duration: {text}")))
}
