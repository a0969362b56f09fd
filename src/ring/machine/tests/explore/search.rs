//! Every situation that can be reached, each once, nearest first.
//!
//! In: the first situation. Out: how many there are, how deep, what happened on the way; or the shortest way to a broken
//! invariant, or to a situation from which the ring does not come to rest although nothing goes wrong any more.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::moves::Move;
use super::state::{Budget, State};
use super::tally::{Seen, Tally};
use crate::types::guard::{Guard, without};

/// A fingerprint is as good a hash as any.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
}

type Ids = HashMap<u128, u32, BuildHasherDefault<AsItIs>>;
const SHARDS: usize = 64;

/// All that is known of the situations seen, by number.
struct Known {
    shards: Vec<Mutex<Ids>>,
    count: AtomicU32,
    /// From which, and by which move, each was first reached.
    parents: Vec<(u32, Move)>,
    /// Moves that need nothing to go wrong: from, to.
    ways: Vec<(u32, u32)>,
    at_rest: Vec<u32>,
}

/// What one worker found on one level.
#[derive(Default)]
struct Harvest {
    next: Vec<(u32, State)>,
    parents: Vec<(u32, u32, Move)>,
    ways: Vec<(u32, u32)>,
    at_rest: Vec<u32>,
    moves: u64,
    tally: Tally,
    broken: Option<(u32, Move, String)>,
}

/// What an exploration found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) states: u64,
    pub(super) moves: u64,
    pub(super) depth: u32,
    pub(super) tally: Tally,
    /// Stopped at the limit: there are more.
    pub(super) cut: bool,
    /// What was broken, and the way there.
    pub(super) broken: Option<(String, Vec<String>)>,
}

/// Whether the move is something that goes wrong, or an outside wish.
fn is_mishap(state: &State, step: Move) -> bool {
    match step {
        Move::Unanswered(_) | Move::Defer(_) | Move::TickDeferring(_) | Move::TickPausing(_) => true,
        Move::Join | Move::Crash(_) | Move::Pause(_) | Move::GiveUpOn(..) => true,
        Move::Arrive(number) => state.writes[usize::from(number)].stray,
        _ => false,
    }
}

impl Known {
    /// The number of a situation, and whether it is new.
    fn number(&self, fingerprint: u128) -> (u32, bool) {
        let shard = &self.shards[(fingerprint >> 64) as usize % SHARDS];
        let mut ids = shard.lock().expect("nobody panics with it");
        let mut new = false;
        let id = *ids.entry(fingerprint).or_insert_with(|| {
            new = true;
            self.count.fetch_add(1, Ordering::Relaxed)
        });
        (id, new)
    }

    fn expand(&self, id: u32, state: &State, harvest: &mut Harvest) {
        if state.unrest().is_none() {
            harvest.at_rest.push(id);
            harvest.tally.count(Seen::AtRest);
            if state.left == Budget::default() {
                harvest.tally.count(Seen::AllDone);
            }
        }
        for step in state.moves() {
            harvest.moves += 1;
            let next = match state.after(step, &mut harvest.tally) {
                Ok(next) => next,
                Err(reason) => {
                    harvest.broken.get_or_insert((id, step, reason));
                    continue;
                }
            };
            let (to, new) = self.number(next.fingerprint());
            if !is_mishap(state, step) && to != id {
                harvest.ways.push((id, to));
            }
            if new {
                harvest.parents.push((to, id, step));
                harvest.next.push((to, next));
            }
        }
    }

    fn level(&self, frontier: &[(u32, State)], off: &[Guard]) -> Vec<Harvest> {
        let position = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let work = || {
            let _off = without(off);
            let mut harvest = Harvest::default();
            loop {
                let from = position.fetch_add(64, Ordering::Relaxed);
                if from >= frontier.len() || harvest.broken.is_some() {
                    return harvest;
                }
                let until = (from + 64).min(frontier.len());
                frontier[from..until].iter().for_each(|(id, state)| self.expand(*id, state, &mut harvest));
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().expect("a move panicked: see above")).collect()
        })
    }

    /// Takes in what a level yielded; answers the next one.
    fn take(&mut self, harvests: Vec<Harvest>, found: &mut Found) -> Vec<(u32, State)> {
        self.parents.resize(self.count.load(Ordering::Relaxed) as usize, (0, Move::Tick));
        let mut next = Vec::new();
        for harvest in harvests {
            for (id, from, step) in harvest.parents {
                self.parents[id as usize] = (from, step);
            }
            self.ways.extend(harvest.ways);
            self.at_rest.extend(harvest.at_rest);
            next.extend(harvest.next);
            found.moves += harvest.moves;
            found.tally.add(&harvest.tally);
        }
        next
    }

    /// Situations from which no way without mishaps leads to rest, the nearest first.
    fn restless(&self) -> Option<u32> {
        let count = self.parents.len();
        let mut starts = vec![0_u32; count + 1];
        self.ways.iter().for_each(|(_, to)| starts[*to as usize + 1] += 1);
        (0..count).for_each(|id| starts[id + 1] += starts[id]);
        let mut filled = starts.clone();
        let mut sources = vec![0_u32; self.ways.len()];
        for (from, to) in &self.ways {
            sources[filled[*to as usize] as usize] = *from;
            filled[*to as usize] += 1;
        }
        let mut reaches = vec![false; count];
        let mut open = self.at_rest.clone();
        open.iter().for_each(|id| reaches[*id as usize] = true);
        while let Some(id) = open.pop() {
            for from in &sources[starts[id as usize] as usize..starts[id as usize + 1] as usize] {
                if !std::mem::replace(&mut reaches[*from as usize], true) {
                    open.push(*from);
                }
            }
        }
        reaches.iter().position(|reaches| !reaches).map(|id| u32::try_from(id).expect("numbered so"))
    }

    /// The moves that lead to a situation.
    fn way_to(&self, mut id: u32) -> Vec<Move> {
        let mut way = Vec::new();
        while id != 0 {
            let (from, step) = self.parents[id as usize];
            way.push(step);
            id = from;
        }
        way.reverse();
        way
    }
}

/// Tells the way, move by move.
fn told(first: &State, way: &[Move]) -> Vec<String> {
    let (mut state, mut lines) = (first.clone(), Vec::new());
    let start = state.now;
    for step in way {
        lines.push(format!("{:>6.1} {}", state.now.since(start).as_secs_f64() * 1000.0, state.tell(*step)));
        match state.after(*step, &mut Tally::default()) {
            Ok(next) => state = next,
            Err(_) => return lines,
        }
    }
    lines.push(format!("owners by the store: {:?}; at rest: {:?}", state.owners(), state.unrest()));
    lines
}

/// Explores until there is nothing new, something is broken, or there are `limit` situations.
pub(super) fn explore(first: State, limit: u64, off: &[Guard]) -> Found {
    let _off = without(off);
    let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
    let mut known =
        Known { shards, count: AtomicU32::new(0), parents: Vec::new(), ways: Vec::new(), at_rest: Vec::new() };
    let mut found = Found::default();
    let (id, _) = known.number(first.fingerprint());
    let mut frontier = vec![(id, first.clone())];
    while !frontier.is_empty() {
        let mut harvests = known.level(&frontier, off);
        let broken = harvests.iter_mut().find_map(|harvest| harvest.broken.take());
        frontier = known.take(harvests, &mut found);
        found.states = u64::from(known.count.load(Ordering::Relaxed));
        if let Some((id, step, reason)) = broken {
            let mut way = known.way_to(id);
            way.push(step);
            found.broken = Some((reason, told(&first, &way)));
            return found;
        }
        if std::env::var_os("EXPLORE_LEVELS").is_some() {
            eprintln!("depth {:>4}: {:>9} situations, {:>8} of them new", found.depth, found.states, frontier.len());
        }
        if frontier.is_empty() {
            break;
        }
        found.depth += 1;
        if found.states >= limit {
            found.cut = true;
            return found;
        }
    }
    if let Some(id) = known.restless() {
        let reason = "from here the ring does not come to rest although nothing goes wrong any more".to_owned();
        found.broken = Some((reason, told(&first, &known.way_to(id))));
    }
    found
}
