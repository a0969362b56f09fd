//! A move in words, for the way to a broken invariant.

use super::moves::Move;
use super::state::{State, Thing, Watched};
use crate::coord::Update;
use crate::ring::machine::tests::world::brief;

fn change(update: &Update) -> String {
    format!("{} {}", update.key.text(), brief(&update.record))
}

fn watched(watched: &Watched) -> String {
    match watched {
        Watched::Snapshot { updates, .. } => format!("all of {} keys", updates.len()),
        Watched::Change(update) => change(update),
    }
}

impl State {
    /// What a move is about.
    pub(super) fn tell(&self, step: Move) -> String {
        let node = |index: u8| &self.nodes[usize::from(index)];
        match step {
            Move::Ring(index) | Move::Leases(index) => {
                let node = node(index);
                let queue = if step == Move::Ring(index) { &node.ring } else { &node.leases };
                format!("{} sees {}", node.name, queue.front().map_or_else(String::new, |head| watched(&head.what)))
            }
            Move::Inbox(index, number) | Move::GiveUpOn(index, number) => {
                let (node, late) = (node(index), matches!(step, Move::GiveUpOn(..)));
                let what = match &node.inbox[usize::from(number)].what {
                    Thing::Answer { op, result, .. } => format!("op {}: {result:?}", op.0 & 0xffff),
                    Thing::HookEnds { op } => format!("hook {} ends", op.0 & 0xffff),
                    other => format!("{other:?}"),
                };
                format!("{} {}{what}", node.name, if late { "is too late for " } else { "<- " })
            }
            Move::Arrive(number) | Move::Unanswered(number) | Move::Defer(number) => {
                let writing = &self.writes[usize::from(number)];
                let how = match step {
                    Move::Arrive(_) if writing.stray => "lands late",
                    Move::Arrive(_) => "arrives",
                    Move::Unanswered(_) => "arrives, its answer is lost",
                    _ => "stays on its way",
                };
                let fits = self.kv.revision(&writing.key) == writing.expected;
                let (by, op) = (writing.process + 1, writing.op.0 & 0xffff);
                let (key, record) = (writing.key.text(), brief(&writing.record));
                format!("store: op {op} of n{by} {how}: {key} {record} ({})", if fits { "fits" } else { "conflict" })
            }
            other => format!("{other:?}"),
        }
    }
}
