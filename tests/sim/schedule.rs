//! What happens to the ring and when: drawn from the seed, by climate.

use std::time::Duration;

use nats_ring::ring::Timing;
use nats_ring::testing::Link;
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::generator::{Climate, one_of, percent};

/// One thing that happens. `who` is any number: those it can happen to are counted off by it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Action {
    /// New nodes, at once.
    Join { count: usize },
    /// Nodes are asked to leave, at once; their processes do not come back.
    Drain { who: usize, count: usize },
    /// As SIGKILL. What is to become of it, and how long after.
    Crash { who: usize, count: usize, back: Back, after: Duration },
    /// As SIGSTOP, for so long.
    Pause { who: usize, lasts: Duration },
    /// Its main loop stands still for so long; the rest of it goes on.
    Wedge { who: usize, lasts: Duration },
    /// Its connections, or one of them, are like that for so long.
    Cut { who: usize, wires: Wires, link: Link, lasts: Duration },
    /// So many requests for one key, as good as at once.
    Burst { key: usize, count: usize },
    /// All connections are.
    Away { link: Link, lasts: Duration },
    /// What happens to messages for so long.
    Bus { trouble: BusTrouble, lasts: Duration },
    /// Messages from and to it take up to so long.
    SlowNode { who: usize, up_to: Duration, lasts: Duration },
    /// JetStream answers nothing, as while it has no leader.
    Leaderless { lasts: Duration },
    /// Of a hundred compare-and-sets, so many go wrong in this way.
    Cas { kind: CasTrouble, percent: u32, lasts: Duration },
    /// What happens to changes on their way to those who watch.
    Watch { trouble: WatchTrouble, lasts: Duration },
    /// Records that nobody has any use for are removed.
    CleanUp,
    /// Its hooks misbehave for so long.
    Hooks { who: usize, how: HookTrouble, lasts: Duration },
    /// Operators change their mind.
    Wish { wish: Wish, who: usize },
    /// The store loses the last writes it acknowledged.
    Rollback { writes: usize },
    /// The bucket is deleted and made again; one node has been cut off for so long by then, and hears of it as much later.
    Reset { unheard: Option<(usize, Duration)> },
}

/// Which of a node's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wires {
    Both,
    /// That for all but heartbeats.
    Data,
    Heartbeat,
}

/// What becomes of a process that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Back {
    Never,
    SameName,
    NewName,
}

/// Amounts are milliseconds, or of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BusTrouble {
    Delay(u64),
    Duplicate(u32),
    Loss(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchTrouble {
    Lag(u64),
    Repeat(u32),
    Gap(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CasTrouble {
    Lost,
    Unanswered,
    Late,
    Conflict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookTrouble {
    Fail,
    Hang,
    Slow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Pause,
    Cordon,
    Pin,
    Nothing,
}

/// Sorted by time.
pub(crate) fn draw(rng: &mut SmallRng, climate: Climate, timing: &Timing, until: Duration) -> Vec<(Duration, Action)> {
    let mut drawn = Vec::new();
    let mut at = Duration::from_millis(rng.random_range(1500..4000));
    while at < until {
        let planned = climate == Climate::Planned || percent(rng, 25);
        let action = if planned { draw_planned(rng) } else { draw_trouble(rng, climate, timing) };
        drawn.push((at, action));
        // While things move is when much of it waits.
        if matches!(action, Action::Join { .. } | Action::Drain { .. }) && percent(rng, 25) {
            let (key, count) = (rng.random_range(0..1000), one_of(rng, &[8, 24]));
            drawn.push((at + Duration::from_millis(rng.random_range(0..400)), Action::Burst { key, count }));
        }
        // Some come close together: what happens during what else is where defects are.
        let pause = if percent(rng, 35) { rng.random_range(0..300) } else { rng.random_range(300..5000) };
        at += Duration::from_millis(pause);
    }
    drawn.sort_by_key(|(at, _)| *at);
    drawn
}

fn draw_planned(rng: &mut SmallRng) -> Action {
    let who = rng.random_range(0..1000);
    let count = one_of(rng, &[1, 1, 1, 2, 3]);
    match rng.random_range(0..10) {
        0..4 => Action::Join { count },
        4..7 => Action::Drain { who, count },
        _ => Action::Wish { wish: one_of(rng, &[Wish::Pause, Wish::Cordon, Wish::Pin, Wish::Nothing]), who },
    }
}

fn draw_trouble(rng: &mut SmallRng, climate: Climate, timing: &Timing) -> Action {
    let kinds = [Climate::Process, Climate::Network, Climate::Store, Climate::Amnesia];
    match climate {
        Climate::Planned => draw_planned(rng),
        Climate::Process => process(rng, timing),
        Climate::Network => network(rng, timing),
        Climate::Store => store(rng, timing),
        Climate::Amnesia if percent(rng, 20) => amnesia(rng, timing),
        Climate::Amnesia => one_of(rng, &[process as Draw, network, store])(rng, timing),
        Climate::Everything => {
            // Amnesia lets go of everything: with it often, nothing else would be seen.
            let last = if percent(rng, 5) { 4 } else { 3 };
            let kind = kinds[rng.random_range(0..last)];
            if kind == Climate::Amnesia { amnesia(rng, timing) } else { draw_trouble(rng, kind, timing) }
        }
    }
}

type Draw = fn(&mut SmallRng, &Timing) -> Action;

/// From well below a lease to well above.
fn span(rng: &mut SmallRng, timing: &Timing) -> Duration {
    let factor = one_of(rng, &[0.1, 0.3, 0.6, 0.8, 1.0, 1.2, 1.5, 2.5]);
    timing.lease.mul_f64(factor * rng.random_range(0.8..1.2))
}

fn process(rng: &mut SmallRng, timing: &Timing) -> Action {
    let who = rng.random_range(0..1000);
    match rng.random_range(0..10) {
        0..3 => Action::Crash {
            who,
            count: one_of(rng, &[1, 1, 1, 2, 9]),
            back: one_of(rng, &[Back::Never, Back::SameName, Back::SameName, Back::NewName]),
            after: Duration::from_millis(rng.random_range(0..6000)),
        },
        3..6 => Action::Pause { who, lasts: span(rng, timing) },
        6 => Action::Wedge { who, lasts: span(rng, timing) },
        _ => {
            let how = one_of(rng, &[HookTrouble::Fail, HookTrouble::Slow, HookTrouble::Slow, HookTrouble::Hang]);
            Action::Hooks { who, how, lasts: Duration::from_millis(rng.random_range(500..6000)) }
        }
    }
}

fn network(rng: &mut SmallRng, timing: &Timing) -> Action {
    let (who, lasts) = (rng.random_range(0..1000), span(rng, timing));
    let links = [Link::Mute, Link::Deaf, Link::Silent, Link::Down, Link::Down];
    match rng.random_range(0..10) {
        0..4 => {
            let wires = one_of(rng, &[Wires::Both, Wires::Both, Wires::Data, Wires::Heartbeat]);
            Action::Cut { who, wires, link: one_of(rng, &links), lasts }
        }
        4..6 => Action::Bus { trouble: BusTrouble::Delay(one_of(rng, &[2, 10, 40])), lasts: lasts * 2 },
        6 => Action::Bus { trouble: BusTrouble::Duplicate(one_of(rng, &[5, 30])), lasts },
        7 => Action::Bus { trouble: BusTrouble::Loss(one_of(rng, &[1, 5, 30])), lasts },
        8 => Action::SlowNode { who, up_to: Duration::from_millis(one_of(rng, &[5, 50])), lasts: lasts * 2 },
        _ => Action::Away { link: one_of(rng, &[Link::Silent, Link::Down]), lasts },
    }
}

fn store(rng: &mut SmallRng, timing: &Timing) -> Action {
    let lasts = span(rng, timing);
    match rng.random_range(0..10) {
        0..4 => {
            let kinds =
                [CasTrouble::Lost, CasTrouble::Unanswered, CasTrouble::Late, CasTrouble::Late, CasTrouble::Conflict];
            Action::Cas { kind: one_of(rng, &kinds), percent: one_of(rng, &[5, 20, 60]), lasts: lasts * 2 }
        }
        4..6 => {
            let trouble = match rng.random_range(0..4) {
                0..2 => WatchTrouble::Lag(one_of(rng, &[5, 50, 400, 1500])),
                2 => WatchTrouble::Repeat(one_of(rng, &[5, 30])),
                _ => WatchTrouble::Gap(one_of(rng, &[2, 10])),
            };
            Action::Watch { trouble, lasts: lasts * 2 }
        }
        6..8 => Action::Leaderless { lasts },
        8 => Action::CleanUp,
        _ => Action::Away { link: Link::Down, lasts },
    }
}

fn amnesia(rng: &mut SmallRng, timing: &Timing) -> Action {
    if percent(rng, 60) {
        return Action::Rollback { writes: one_of(rng, &[1, 3, 10, 50]) };
    }
    let who = rng.random_range(0..1000);
    Action::Reset { unheard: percent(rng, 50).then(|| (who, timing.lease.mul_f64(rng.random_range(0.0..0.6)))) }
}
