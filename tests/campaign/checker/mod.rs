//! The judge: histories and records in, what must not be out. Knows nothing of how they came about.
//!
//! - [`register`]: the operations of each key are those of one register. Where the ring's records show that a partition's
//!   owner was gone, the register may have become empty at that moment, once; nowhere else.
//! - [`versions`]: nobody is told of one version twice, versions grow with time, an epoch's writes have one executor, the owner
//!   by the ring's records.
//! - [`ownership`]: one owner per epoch, epochs that only grow.
//! - [`appends`]: tokens at the external sink, and what clients were told of their writes there.

pub mod appends;
pub mod ownership;
pub mod register;
pub mod versions;

use std::collections::BTreeMap;

use crate::common::sink::Write;
use crate::history::{Action, Operation, Outcome};
use ownership::Ownership;

/// Everything that is judged.
pub struct Evidence<'a> {
    pub operations: &'a [Operation],
    pub partitions: usize,
    /// Of the ring that keeps the registers.
    pub cache: &'a Ownership,
    /// Of the ring that writes to the sink.
    pub writers: &'a Ownership,
    pub writes: &'a [Write],
}

/// What must not be, in words; nothing where all is well.
pub fn judge(evidence: &Evidence<'_>) -> Vec<String> {
    let mut wrong: Vec<String> = evidence.operations.iter().filter_map(absurd).collect();
    wrong.extend(evidence.cache.wrong.iter().map(|why| format!("cache ring: {why}")));
    wrong.extend(evidence.writers.wrong.iter().map(|why| format!("writers' ring: {why}")));
    wrong.extend(appends::check(evidence.writes, evidence.operations));
    wrong.extend(versions::check(evidence.operations, evidence.partitions, evidence.cache));
    let mut keys: BTreeMap<usize, Vec<&Operation>> = BTreeMap::new();
    for operation in evidence.operations.iter().filter(|o| !matches!(o.action, Action::Append(_))) {
        keys.entry(operation.key).or_default().push(operation);
    }
    for (key, operations) in keys {
        let losses = evidence.cache.losses(key % evidence.partitions);
        if let Err(why) = register::check(&operations, &losses) {
            wrong.push(format!("key {key}: {why}"));
        }
    }
    wrong
}

fn absurd(operation: &Operation) -> Option<String> {
    match &operation.outcome {
        Outcome::Absurd(answer) => Some(format!("{:?} through {}: {answer}", operation.action, operation.through)),
        _ => None,
    }
}
