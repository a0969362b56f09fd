//! Whether the external sink, and those who wrote to it, saw one owner at a time.
//!
//! In: attempts in the order in which the sink judged them, and what the writers' clients were told. Out: tokens that went
//! backwards, two incarnations with one epoch, writes acknowledged and not there, refused and there, or there twice.

use std::collections::HashMap;

use nats_ring::types::{Epoch, Generation, Incarnation};

use crate::common::sink::Write;
use crate::history::{Action, Operation, Outcome, Value};

/// What must not be.
pub fn check(writes: &[Write], operations: &[Operation]) -> Vec<String> {
    let mut wrong = tokens(writes);
    let mut accepted: HashMap<Value, usize> = HashMap::new();
    for write in writes.iter().filter(|write| write.accepted) {
        match write.value.as_u64() {
            Some(value) => *accepted.entry(value).or_default() += 1,
            None => wrong.push(format!("the sink holds a value that nobody wrote: {}", write.value)),
        }
    }
    for Operation { action, outcome, .. } in operations {
        let Action::Append(value) = action else { continue };
        match (outcome, accepted.get(value).copied().unwrap_or(0)) {
            (_, 2..) => wrong.push(format!("append {value} was executed more than once")),
            (Outcome::Ok { .. }, 0) => wrong.push(format!("append {value} was acknowledged and is not there")),
            (Outcome::Fail(why), 1) => wrong.push(format!("append {value} was refused ({why}) and is there")),
            _ => {}
        }
    }
    wrong
}

/// Tokens never go backwards among the accepted, and one epoch has one incarnation among all attempts.
fn tokens(writes: &[Write]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut owners: HashMap<(u64, Generation, Epoch), Incarnation> = HashMap::new();
    let mut highest: HashMap<u64, (Generation, Epoch)> = HashMap::new();
    for Write { partition, token, accepted, .. } in writes {
        let order = (token.generation, token.epoch);
        let owner = owners.entry((*partition, order.0, order.1)).or_insert(token.incarnation);
        if *owner != token.incarnation {
            wrong.push(format!(
                "partition {partition}: two writers at epoch {}: {owner}, {}",
                order.1, token.incarnation
            ));
        }
        let highest = highest.entry(*partition).or_insert(order);
        if *accepted && order < *highest {
            wrong.push(format!("partition {partition}: the sink took epoch {} after {}", order.1, highest.1));
        }
        if *accepted {
            *highest = order.max(*highest);
        }
    }
    wrong
}
