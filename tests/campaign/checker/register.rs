//! Whether what clients saw of one register is linearizable.
//!
//! Each operation must seem to happen at one moment between its question and its answer. The search is that of Wing and Gong
//! ("Testing and verifying concurrent objects", 1993) with the memory of Lowe ("Testing for linearizability", 2017): an
//! operation may be next if it was asked before every other that is still open was answered; a set of done operations
//! and a value that were met before are not tried again.
//!
//! Values are unique, which keeps it quick: a read that fits may be taken at once, an unknown write counts only where
//! somebody read it, and has then happened by the end of the first such read. A **loss** may empty the register once within its time, or
//! not at all: that is what a crash of all who had copies does.

use std::collections::{HashMap, HashSet};

use crate::history::{Action, Moment, Operation, Outcome, Value};

/// States that may be looked at for one register, before the checker gives up.
const STATES_MAX: usize = 2_000_000;

/// What was lost within this time, if it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    pub from: Moment,
    pub to: Moment,
}

/// What one operation does to the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Write(Value),
    Read(Option<Value>),
    /// Empties it, or does nothing.
    Lose,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    asked: Moment,
    answered: Moment,
    effect: Effect,
}

/// How far a search came: everything before `done_below` is done, and of the others those in `beyond`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    done_below: usize,
    beyond: Vec<usize>,
    value: Option<Value>,
}

impl State {
    fn is_done(&self, step: usize) -> bool {
        step < self.done_below || self.beyond.binary_search(&step).is_ok()
    }

    /// With this step done and this value.
    fn with(&self, step: usize, value: Option<Value>) -> Self {
        let mut next = Self { value, ..self.clone() };
        let Err(at) = next.beyond.binary_search(&step) else { return next };
        next.beyond.insert(at, step);
        let run = next.beyond.iter().enumerate().take_while(|(n, step)| **step == next.done_below + n).count();
        next.beyond.drain(..run);
        next.done_below += run;
        next
    }
}

/// Why the operations of one key are not those of a register that starts empty, or `Ok`.
pub fn check(operations: &[&Operation], losses: &[Loss]) -> Result<(), String> {
    let mut steps = steps(operations)?;
    steps.extend(losses.iter().map(|loss| Step { asked: loss.from, answered: loss.to, effect: Effect::Lose }));
    steps.sort_by_key(|step| (step.asked, step.answered));
    search(&steps)
}

/// What surely happened, or must have by what was read.
fn steps(operations: &[&Operation]) -> Result<Vec<Step>, String> {
    let mut read_first: HashMap<Value, Moment> = HashMap::new();
    for operation in operations {
        if let (Action::Get, Outcome::Ok { found: Some(value) }) = (operation.action, &operation.outcome) {
            let first = read_first.entry(*value).or_insert(operation.answered);
            *first = operation.answered.min(*first);
        }
    }
    let mut steps = Vec::new();
    let mut written = HashSet::new();
    for Operation { action, outcome, asked, answered, .. } in operations.iter().copied() {
        let (effect, answered) = match (action, outcome) {
            (Action::Get, Outcome::Ok { found }) => (Effect::Read(*found), *answered),
            (Action::Set(value), Outcome::Ok { .. }) => (Effect::Write(*value), *answered),
            (Action::Set(value), Outcome::Unknown(_) | Outcome::Absurd(_)) => match read_first.get(value) {
                Some(first_read) => (Effect::Write(*value), *first_read),
                None => continue,
            },
            _ => continue,
        };
        if let Effect::Write(value) = effect {
            written.insert(value);
        }
        steps.push(Step { asked: *asked, answered, effect });
    }
    match read_first.keys().find(|value| !written.contains(value)) {
        Some(value) => Err(format!("value {value} was read, and surely never written")),
        None => Ok(steps),
    }
}

fn search(steps: &[Step]) -> Result<(), String> {
    let start = State { done_below: 0, beyond: Vec::new(), value: None };
    let (mut seen, mut open) = (HashSet::from([start.clone()]), vec![start]);
    let mut furthest: Option<State> = None;
    while let Some(state) = open.pop() {
        if state.done_below == steps.len() {
            return Ok(());
        }
        if seen.len() > STATES_MAX {
            return Err(format!("undecided: more than {STATES_MAX} states"));
        }
        for next in followers(steps, &state) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
        if furthest.as_ref().is_none_or(|known| known.done_below < state.done_below) {
            furthest = Some(state);
        }
    }
    Err(furthest.map_or_else(String::new, |state| stuck(steps, &state)))
}

/// Where one can get to by one more step.
fn followers(steps: &[Step], state: &State) -> Vec<State> {
    let pending = || (state.done_below..steps.len()).filter(|step| !state.is_done(*step));
    let mut first_answer = Moment::MAX;
    for step in pending() {
        if steps[step].asked > first_answer {
            break;
        }
        first_answer = first_answer.min(steps[step].answered);
    }
    let candidates: Vec<usize> = pending().take_while(|step| steps[*step].asked <= first_answer).collect();
    // A read changes nothing: one that fits never stands in another's way.
    if let Some(step) = candidates.iter().find(|step| steps[**step].effect == Effect::Read(state.value)) {
        return vec![state.with(*step, state.value)];
    }
    let mut next = Vec::new();
    for step in candidates {
        match steps[step].effect {
            Effect::Write(value) => next.push(state.with(step, Some(value))),
            Effect::Read(_) => {}
            Effect::Lose => {
                next.push(state.with(step, None));
                if steps[step].answered == first_answer {
                    next.push(state.with(step, state.value));
                }
            }
        }
    }
    next
}

/// What stood in the way at the furthest point.
fn stuck(steps: &[Step], state: &State) -> String {
    let around: Vec<String> = (state.done_below.saturating_sub(4)..steps.len())
        .take(10)
        .map(|at| {
            let Step { asked, answered, effect } = steps[at];
            let done = if state.is_done(at) { "done" } else { "open" };
            format!("  {done} {asked}..{answered} {effect:?}")
        })
        .collect();
    format!("not linearizable; no order gets beyond value {:?} here:\n{}", state.value, around.join("\n"))
}
