//! What is shown of the ring, pure: many nodes' views merged into one picture, and what changed between two of them.
//!
//! In: the latest reading of each node that runs. Out: one [`Cell`] per partition, counts, lines about owners that changed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::member::seconds;
use super::reading::{PartitionSeen, Reading};
use crate::admin::Told;
use crate::rpc::status::{CopiesUnderWay, CopyStatus, LISTED_MAX, LearnerStatus, Suspended, Waiting};
use crate::types::{NodeName, PartitionId, Time};

/// Lines that are kept to be shown.
const EVENTS_MAX: usize = 200;

/// What each running node said last, if it has said anything yet. One that has ended or stands still is not in it.
pub(super) type Readings<'a> = BTreeMap<&'a str, Option<&'a Reading>>;

/// One partition, as far as all nodes together know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) owner: Option<String>,
    pub(super) epoch: u64,
    pub(super) moving: bool,
    /// It has an owner that runs and serves it.
    pub(super) served: bool,
}

/// Something that happened, and when: since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) after: Duration,
    pub(super) text: String,
}

/// The ring as it was seen last.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) cells: Vec<Cell>,
    pub(super) moves: Vec<String>,
    pub(super) copies: CopiesUnderWay,
    /// Partitions that wait, every copy of them lost.
    pub(super) waiting: Told,
    pub(super) events: VecDeque<Happened>,
    /// Since when some partition is not served; the first time around, since the start.
    gap_since: Option<Time>,
    complete_before: bool,
}

impl Board {
    /// Keeps a line to be shown.
    pub(super) fn note(&mut self, after: Duration, text: String) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Happened { after, text });
    }

    /// How many partitions this node holds.
    pub(super) fn held(&self, node: &str) -> usize {
        self.cells.iter().filter(|cell| cell.owner.as_deref() == Some(node)).count()
    }

    pub(super) fn served(&self) -> usize {
        self.cells.iter().filter(|cell| cell.served).count()
    }

    /// Whether there is a ring and every partition of it is served.
    pub(super) fn is_complete(&self) -> bool {
        !self.cells.is_empty() && self.served() == self.cells.len()
    }

    /// Takes in what the running nodes say, by name; the lines that say what changed.
    pub(super) fn look(&mut self, readings: &Readings<'_>, now: Time) -> Vec<String> {
        let next = merge(readings);
        self.moves = under_way(readings);
        self.copies = copies(readings);
        self.waiting = waiting(readings);
        if next.is_empty() {
            return self.all_gone(now);
        }
        let mut lines = changes(&self.cells, &next);
        self.cells = next;
        lines.extend(self.gap(now));
        lines
    }

    /// Nobody is left to say anything: nothing is served.
    fn all_gone(&mut self, now: Time) -> Vec<String> {
        self.cells.iter_mut().for_each(|cell| (cell.served, cell.moving) = (false, false));
        self.gap(now).into_iter().collect()
    }

    fn gap(&mut self, now: Time) -> Option<String> {
        let (total, missing) = (self.cells.len(), self.cells.len() - self.served());
        match (self.gap_since, missing) {
            (None, 1..) if self.complete_before => {
                self.gap_since = Some(now);
                Some(format!("{missing} of {total} partitions have no serving owner"))
            }
            (Some(since), 0) => {
                self.gap_since = None;
                Some(format!("all {total} partitions are served again after {}", seconds(now.since(since))))
            }
            (None, 0) if total > 0 && !self.complete_before => {
                self.complete_before = true;
                Some(format!("all {total} partitions are served"))
            }
            _ => None,
        }
    }
}

/// Per partition the view with the highest epoch; of equal ones the owner's own, which knows its state.
fn merge(readings: &Readings<'_>) -> Vec<Cell> {
    let count = said(readings).map(|(_, reading)| reading.partitions.len()).max().unwrap_or(0);
    let best = |at: usize| {
        let views = said(readings).filter_map(|(node, reading)| Some((node, reading.partitions.get(at)?)));
        views.max_by_key(|(node, seen)| (seen.epoch, seen.owner.as_deref() == Some(*node)))
    };
    (0..count).map(|at| best(at).map_or_else(Cell::default, |(_, seen)| cell(seen, readings))).collect()
}

fn said<'a>(readings: &Readings<'a>) -> impl Iterator<Item = (&'a str, &'a Reading)> {
    readings.iter().filter_map(|(node, reading)| Some((*node, (*reading)?)))
}

fn cell(seen: &PartitionSeen, readings: &Readings<'_>) -> Cell {
    // A process that has ended serves nothing, whatever the others still believe; a suspended one says what it does.
    let owner = seen.owner.as_deref().and_then(|owner| readings.get(owner));
    let serves = |reading: &Reading| reading.phase != "suspended" || does_serve(reading.suspended);
    let runs = owner.is_some_and(|said| said.is_none_or(serves));
    let moving = seen.state == "moving";
    Cell { owner: seen.owner.clone(), epoch: seen.epoch, moving, served: runs && (moving || seen.state == "serving") }
}

fn does_serve(suspended: Option<Suspended>) -> bool {
    suspended.is_some_and(|suspended| suspended.serves_with_copies)
}

/// What owners say of the copies they make.
fn copies(readings: &Readings<'_>) -> CopiesUnderWay {
    let of = |node: &str, reading: &Reading| {
        let from = NodeName::new(node).ok();
        let numbered = reading.partitions.iter().zip(0_u16..);
        let copies = numbered.flat_map(|(seen, number)| {
            let (from, partition) = (from.clone(), PartitionId::new(number));
            let copy = move |learner: &LearnerStatus| {
                Some(CopyStatus { partition, from: from.clone()?, learner: learner.clone() })
            };
            seen.learners.iter().filter_map(copy)
        });
        CopiesUnderWay::of(copies, LISTED_MAX)
    };
    CopiesUnderWay::together(said(readings).map(|(node, reading)| of(node, reading)), LISTED_MAX)
}

/// As whichever node sees them.
fn waiting(readings: &Readings<'_>) -> Told {
    let of = |reading: &Reading| {
        let numbered = reading.partitions.iter().zip(0_u16..);
        numbered
            .filter_map(|(seen, number)| {
                Some(Waiting { partition: PartitionId::new(number), waits: seen.waits.clone()? })
            })
            .collect::<Vec<_>>()
    };
    let waiting = said(readings).map(|(_, reading)| of(reading)).max_by_key(Vec::len).unwrap_or_default();
    Told { waiting_partitions: waiting.len(), waiting, ..Told::default() }
}

/// `17: node-1 → node-3`.
fn under_way(readings: &Readings<'_>) -> Vec<String> {
    let moves = said(readings).flat_map(|(node, reading)| reading.moves.iter().map(move |one| (node, one)));
    moves.map(|(node, one)| format!("{}: {node} → {}", one.partition, one.to)).collect()
}

/// Who gave how many to whom.
fn changes(before: &[Cell], now: &[Cell]) -> Vec<String> {
    let nobody = Cell::default();
    let mut moved: BTreeMap<(Option<&str>, &str), usize> = BTreeMap::new();
    for (at, cell) in now.iter().enumerate() {
        let old = before.get(at).unwrap_or(&nobody);
        if let Some(owner) = cell.owner.as_deref().filter(|owner| old.owner.as_deref() != Some(*owner)) {
            *moved.entry((old.owner.as_deref(), owner)).or_default() += 1;
        }
    }
    let line = |((from, to), count): ((Option<&str>, &str), usize)| {
        let partitions = if count == 1 { "1 partition".to_owned() } else { format!("{count} partitions") };
        from.map_or_else(|| format!("{to} owns {partitions}"), |from| format!("{partitions}: {from} → {to}"))
    };
    moved.into_iter().map(line).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rpc::status::Waits;

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    /// Partitions as `owner:epoch:state`.
    fn reading(partitions: &[&str]) -> Reading {
        let parse = |text: &&str| {
            let parts: Vec<&str> = text.split(':').collect();
            let owner = (!parts[0].is_empty()).then(|| parts[0].to_owned());
            let (epoch, state) = (parts[1].parse().unwrap(), parts[2].to_owned());
            PartitionSeen { owner, epoch, state, ..PartitionSeen::default() }
        };
        let partitions = partitions.iter().map(parse).collect();
        Reading { phase: "active".to_owned(), partitions, ..Reading::default() }
    }

    fn look(board: &mut Board, nodes: &[(&'static str, Reading)], now: Time) -> Vec<String> {
        board.look(&nodes.iter().map(|(node, reading)| (*node, Some(reading))).collect(), now)
    }

    #[test]
    fn the_highest_epoch_wins_and_of_equal_ones_the_owners_own_view() {
        let mut board = Board::default();
        let a = reading(&["a:1:moving", "b:2:serving"]);
        let b = reading(&["a:1:serving", "a:1:orphaned"]);
        look(&mut board, &[("a", a), ("b", b)], at(0));
        let owners: Vec<_> = board.cells.iter().map(|cell| cell.owner.clone().unwrap()).collect();
        assert_eq!(owners, ["a", "b"]);
        assert!(board.cells[0].moving && board.cells[0].served && board.is_complete());
    }

    #[test]
    fn a_crash_is_a_gap_until_the_others_serve_what_it_had() {
        let mut board = Board::default();
        let whole = || reading(&["a:1:serving", "b:1:serving", "b:1:serving"]);
        let lines = look(&mut board, &[("a", whole()), ("b", whole())], at(1));
        assert_eq!(lines, ["a owns 1 partition", "b owns 2 partitions", "all 3 partitions are served"]);
        let lines = look(&mut board, &[("a", whole())], at(2));
        assert_eq!(lines, ["2 of 3 partitions have no serving owner"]);
        assert_eq!((board.served(), board.held("b")), (1, 2));
        let lines = look(&mut board, &[("a", reading(&["a:1:serving", "a:2:serving", "a:2:serving"]))], at(5));
        assert_eq!(lines, ["2 partitions: b → a", "all 3 partitions are served again after 3.0 s"]);
    }

    #[test]
    fn copies_are_those_that_owners_make_and_a_suspended_node_serves_what_it_says() {
        let learner = LearnerStatus {
            node: NodeName::new("b").unwrap(),
            caught_up: false,
            copied_bytes: 5,
            total_bytes: Some(9),
            bytes_per_second: None,
            remaining_seconds: None,
        };
        let mut a = reading(&["b:1:serving", "a:1:serving"]);
        a.partitions[1].learners = vec![learner];
        a.partitions[0].waits = Some(Waits::until_accepted(Vec::new()));
        a.phase = "suspended".to_owned();
        let mut board = Board::default();
        look(&mut board, &[("a", a.clone()), ("b", reading(&["b:1:serving", "a:1:serving"]))], at(0));
        let copies = &board.copies;
        let listed: Vec<_> = copies.listed.iter().map(|copy| (copy.partition.get(), copy.from.as_str())).collect();
        assert_eq!((copies.learners, copies.copied_bytes, listed), (1, 5, vec![(1, "a")]));
        assert_eq!((board.waiting.waiting.len(), board.served()), (1, 1));
        a.suspended = Some(Suspended { serves_with_copies: true, remaining_seconds: 3.0 });
        look(&mut board, &[("a", a), ("b", reading(&["b:1:serving", "a:1:serving"]))], at(1));
        assert_eq!(board.served(), 2);
    }

    #[test]
    fn when_all_are_gone_nothing_is_served() {
        let mut board = Board::default();
        look(&mut board, &[("a", reading(&["a:1:serving"]))], at(1));
        assert_eq!(look(&mut board, &[], at(2)), ["1 of 1 partitions have no serving owner"]);
        assert_eq!(look(&mut board, &[], at(3)), Vec::<String>::new());
    }

    #[test]
    fn only_so_many_lines_are_kept() {
        let mut board = Board::default();
        (0..EVENTS_MAX + 5).for_each(|n| board.note(Duration::ZERO, n.to_string()));
        assert_eq!((board.events.len(), board.events[0].text.as_str()), (EVENTS_MAX, "5"));
    }
}
