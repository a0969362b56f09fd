//! One seed, one history, bit for bit: every write, every message with its bytes, every hook, each with its time.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod scene;
mod trace;

use std::process::Command;
use std::sync::LazyLock;

use trace::History;

const SEEDS: std::ops::Range<u64> = 0..20;
/// Played once for all tests.
static PLAYED: LazyLock<Vec<History>> = LazyLock::new(|| SEEDS.map(scene::play).collect());
/// Set for the other process of [`another_process_gives_the_same_history`], which is the same test and prints only.
const CHILD: &str = "NATS_RING_DETERMINISM_CHILD";

/// The first line that differs, with what came before it.
fn assert_same(seed: u64, one: &[String], two: &[String]) {
    let at = one.iter().zip(two).position(|(one, two)| one != two);
    let at = at.or((one.len() != two.len()).then_some(one.len().min(two.len())));
    if let Some(at) = at {
        let before = &one[at.saturating_sub(10)..at];
        panic!("seed {seed}, line {at}: {:?} against {:?}, after {before:#?}", one.get(at), two.get(at));
    }
}

#[test]
fn the_same_seed_twice_gives_the_same_history_to_the_byte() {
    for (seed, one) in SEEDS.zip(&*PLAYED) {
        assert_same(seed, &one.lines, &scene::play(seed).lines);
    }
    assert_ne!(PLAYED[1].digest(), PLAYED[2].digest());
}

#[test]
fn another_process_gives_the_same_history() {
    if std::env::var_os(CHILD).is_some() {
        SEEDS.zip(&*PLAYED).for_each(|(seed, played)| println!("{}", digest_line(seed, played)));
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_process_gives_the_same_history", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let printed = String::from_utf8(child.stdout).unwrap();
    assert!(child.status.success(), "{printed}");
    for (seed, played) in SEEDS.zip(&*PLAYED) {
        let expected = digest_line(seed, played);
        assert!(printed.contains(&expected), "{expected} is not among what the other process says: {printed}");
    }
}

fn digest_line(seed: u64, played: &History) -> String {
    format!("seed {seed}: {:016x}", played.digest())
}

/// What is compared above must be worth it.
#[test]
fn the_scene_has_every_fault_and_moves_partitions() {
    let mut fired = std::collections::BTreeMap::new();
    for (seed, history) in SEEDS.zip(&*PLAYED) {
        assert!(history.lines.len() > 1000, "seed {seed}: {} lines", history.lines.len());
        assert!(history.lines.iter().any(|line| line.contains("Handoff")), "seed {seed}: nothing was handed over");
        for (kind, count) in &history.fired {
            *fired.entry(kind).or_insert(0) += count;
        }
    }
    println!("{fired:?}");
    let never: Vec<_> = fired.iter().filter(|(_, count)| **count == 0).collect();
    assert!(never.is_empty(), "never fired: {never:?}");
}
