//! What the judge must find, put into what a real run recorded: so it is known of each run that its judge was not blind.
//!
//! In: what was recorded. Out: the same with one thing made wrong, and what the judge has to say of it.

use std::str::FromStr;

use nats_ring::types::Incarnation;
use uuid::Uuid;

use crate::checker::ownership::{Change, Ownership, What};
use crate::checker::{Evidence, judge};
use crate::common::sink::Write;
use crate::history::{Action, Operation, Outcome, Value};

/// Everything that was recorded of a round, to be judged.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    pub operations: Vec<Operation>,
    /// Records of the ring that keeps the registers.
    pub cache: Vec<Change>,
    /// Records of the ring that writes to the sink.
    pub writers: Vec<Change>,
    pub writes: Vec<Write>,
}

impl Recorded {
    /// What the judge says of it.
    pub fn judged(&self, partitions: usize) -> Vec<String> {
        let (cache, writers) = (Ownership::of(&self.cache), Ownership::of(&self.writers));
        let (operations, writes) = (&self.operations, &self.writes);
        judge(&Evidence { operations, partitions, cache: &cache, writers: &writers, writes })
    }
}

/// Plants everything, each by itself, into what the judge accepts: what it found, and what must not be: that it is blind.
pub fn planted(recorded: &Recorded, partitions: usize) -> (Vec<Plant>, Vec<String>) {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for plant in Plant::ALL {
        // A short round may have no place for it, for instance no writer that lost its partitions.
        let Some(with) = plant.put_into(recorded, partitions) else { continue };
        let said = with.judged(partitions);
        if said.iter().any(|why| why.contains(plant.found_as())) {
            found.push(*plant);
        } else {
            wrong.push(format!("the judge is blind: it did not find {plant:?}, and said {said:?}"));
        }
    }
    (found, wrong)
}

/// Something that must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A read that answers what was overwritten before it was asked.
    StaleRead,
    /// A read that finds nothing of an acknowledged write, where no owner was gone.
    LostWrite,
    /// An acknowledged append that the sink does not have.
    LostAppend,
    /// A claim of another at an epoch that has an owner.
    SecondOwner,
    /// A write acknowledged by another than the owner.
    SecondExecutor,
    /// An attempt at the sink by another at an epoch that has an owner.
    SecondWriter,
    /// A write that the sink took although it had seen a later token.
    TokenBack,
}

impl Plant {
    pub const ALL: &[Self] = &[
        Self::StaleRead,
        Self::LostWrite,
        Self::LostAppend,
        Self::SecondOwner,
        Self::SecondExecutor,
        Self::SecondWriter,
        Self::TokenBack,
    ];

    /// What the judge says of it.
    pub fn found_as(self) -> &'static str {
        match self {
            Self::StaleRead | Self::LostWrite => "not linearizable",
            Self::LostAppend => "was acknowledged and is not there",
            Self::SecondOwner => "two owners at epoch",
            Self::SecondExecutor => "executed at epoch",
            Self::SecondWriter => "two writers at epoch",
            Self::TokenBack => "the sink took epoch",
        }
    }

    /// Puts it into what was recorded; `None` where there is no place for it.
    pub fn put_into(self, recorded: &Recorded, partitions: usize) -> Option<Recorded> {
        let mut planted = recorded.clone();
        match self {
            Self::StaleRead => {
                let (read, value) = stale_read(&recorded.operations)?;
                planted.operations[read].outcome = Outcome::Ok { found: Some(value) };
            }
            Self::LostWrite => {
                let read = lost_write(recorded, partitions)?;
                planted.operations[read].outcome = Outcome::Ok { found: None };
            }
            Self::LostAppend => {
                let appended = |write: &Write| {
                    let value = write.value.as_u64().map(Action::Append);
                    write.accepted && recorded.operations.iter().any(|o| is_ok(o) && Some(o.action) == value)
                };
                planted.writes.remove(recorded.writes.iter().position(appended)?);
            }
            Self::SecondOwner => {
                let at = recorded.cache.iter().position(|change| matches!(change.what, What::Claim(..)))?;
                let mut second = recorded.cache[at].clone();
                let What::Claim(_, claim) = &mut second.what else { return None };
                claim.owner.incarnation = stranger();
                planted.cache.insert(at + 1, second);
            }
            Self::SecondExecutor => second_executor(&mut planted, partitions)?,
            Self::SecondWriter => {
                let mut second = recorded.writes.iter().find(|write| write.accepted)?.clone();
                (second.token.incarnation, second.accepted) = (stranger(), false);
                planted.writes.push(second);
            }
            Self::TokenBack => {
                let earlier = |one: &Write, other: &Write| {
                    one.accepted
                        && other.accepted
                        && one.partition == other.partition
                        && one.token.epoch < other.token.epoch
                };
                let refused = recorded.writes.iter().enumerate().find_map(|(number, late)| {
                    let late_to = recorded.writes[..number].iter().find(|first| earlier(first, late))?;
                    Some(Write { value: u64::MAX.into(), ..late_to.clone() })
                });
                planted.writes.push(refused?);
            }
        }
        Some(planted)
    }
}

impl FromStr for Plant {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|plant| format!("{plant:?}") == text).ok_or(())
    }
}

fn is_ok(operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Ok { .. })
}

fn is_set(operation: &Operation) -> bool {
    is_ok(operation) && matches!(operation.action, Action::Set(_))
}

/// An incarnation that no node has.
fn stranger() -> Incarnation {
    Incarnation { start: u64::MAX, id: Uuid::from_u128(0xbad) }
}

/// The number of a read that can be made stale, and the value that then nobody can explain: one that was overwritten, by a
/// write that was answered before the read was asked.
pub fn stale_read(operations: &[Operation]) -> Option<(usize, Value)> {
    let sets_of = |key| operations.iter().filter(move |o| is_set(o) && o.key == key);
    operations.iter().enumerate().filter(|(_, read)| is_ok(read) && read.action == Action::Get).find_map(
        |(number, read)| {
            let answered = sets_of(read.key).filter(|second| second.answered < read.asked);
            let second = answered.max_by_key(|second| second.asked)?;
            let first = sets_of(read.key).find(|first| first.answered < second.asked)?;
            let Action::Set(value) = first.action else { return None };
            Some((number, value))
        },
    )
}

/// The number of a read that must find something: a write was acknowledged before it, and nothing was lost since.
fn lost_write(recorded: &Recorded, partitions: usize) -> Option<usize> {
    let owners = Ownership::of(&recorded.cache);
    recorded.operations.iter().position(|read| {
        let Operation { action: Action::Get, outcome: Outcome::Ok { found: Some(_) }, key, .. } = read else {
            return false;
        };
        let losses = owners.losses(key % partitions);
        let kept = |set: &Operation| losses.iter().all(|loss| loss.to < set.asked || loss.from > read.answered);
        let before = |set: &&Operation| is_set(set) && set.key == *key && set.answered < read.asked;
        recorded.operations.iter().filter(before).any(kept)
    })
}

/// Has a write whose owner is known acknowledged by somebody else.
fn second_executor(planted: &mut Recorded, partitions: usize) -> Option<()> {
    let owners = Ownership::of(&planted.cache);
    let owned = |o: &&mut Operation| {
        is_set(o) && o.version.is_some_and(|(epoch, _)| owners.owner(o.key % partitions, epoch).is_some())
    };
    let write = planted.operations.iter_mut().find(owned)?;
    write.by = Some("stranger".to_owned());
    Some(())
}
