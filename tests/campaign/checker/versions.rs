//! Whether the versions that clients were told can be those of one owner after the other.
//!
//! An owner numbers the writes of a partition, epoch by epoch. So no two writes have one version, a write that was asked
//! after another was acknowledged has a higher one, and the writes of an epoch have one executor: the claim's owner. A write
//! that was sent again under its name is answered as the first time: by then perhaps by a later owner, who remembers it.

use std::collections::{BTreeMap, HashMap};

use super::ownership::Ownership;
use crate::history::{Action, Moment, Operation, Outcome, Version};

/// An acknowledged write.
struct Acknowledged<'a> {
    version: Version,
    asked: Moment,
    answered: Moment,
    by: &'a str,
}

/// What must not be.
pub fn check(operations: &[Operation], partitions: usize, owners: &Ownership) -> Vec<String> {
    let mut written: BTreeMap<usize, Vec<Acknowledged<'_>>> = BTreeMap::new();
    for operation in operations {
        let (Action::Set(_), Outcome::Ok { .. }) = (operation.action, &operation.outcome) else { continue };
        let (Some(version), Some(by)) = (operation.version, &operation.by) else { continue };
        let (asked, answered) = (operation.asked, operation.answered);
        written.entry(operation.key % partitions).or_default().push(Acknowledged { version, asked, answered, by });
    }
    let mut wrong = Vec::new();
    for (partition, mut written) in written {
        let said = |why: String| format!("partition {partition}: {why}");
        wrong.extend(executors(&written, partition, owners).into_iter().map(said));
        wrong.extend(in_order(&mut written).into_iter().map(said));
    }
    wrong
}

fn executors(written: &[Acknowledged<'_>], partition: usize, owners: &Ownership) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut executors: HashMap<u64, &str> = HashMap::new();
    for Acknowledged { version: (epoch, _), by, .. } in written {
        let by_its_owner = owners.owner(partition, *epoch).is_some_and(|owner| owner.node.as_str() == *by);
        if !by_its_owner && owners.owns_later(partition, *epoch, by) {
            continue;
        }
        let first = executors.entry(*epoch).or_insert(by);
        if first != by {
            wrong.push(format!("two executors at epoch {epoch}: {first}, {by}"));
        }
    }
    for (epoch, by) in executors {
        if let Some(owner) = owners.owner(partition, epoch).filter(|owner| owner.node.as_str() != by) {
            wrong.push(format!("{by} executed at epoch {epoch}, which {} had claimed", owner.node));
        }
    }
    wrong
}

/// Walks through questions and answers in the order of time.
fn in_order(written: &mut [Acknowledged<'_>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen = HashMap::new();
    for write in written.iter() {
        if seen.insert(write.version, ()).is_some() {
            wrong.push(format!("two writes have version {:?}", write.version));
        }
    }
    let mut answers: Vec<(Moment, Version)> = written.iter().map(|write| (write.answered, write.version)).collect();
    answers.sort_unstable();
    written.sort_by_key(|write| write.asked);
    let (mut answered, mut highest) = (answers.into_iter().peekable(), None);
    for write in written.iter() {
        while let Some((_, version)) = answered.next_if(|(at, _)| *at < write.asked) {
            highest = highest.max(Some(version));
        }
        if highest.is_some_and(|highest| highest > write.version) {
            wrong.push(format!("version {:?} was given after {:?} was acknowledged", write.version, highest));
        }
    }
    wrong
}
