//! Nothing is executed, and nothing handed to the bus as a reply, through a closed gate: the gate as it must be, computed
//! from the heartbeats that were applied, on each node's own clock.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use nats_ring::rpc::Message;
use nats_ring::rpc::envelope::{ReplyHead, open};
use nats_ring::testing::NodeProcess;
use nats_ring::types::Time;

use super::{Held, ensure};

const EXECUTES: &str = "nothing is executed through a closed gate";
const ANSWERS: &str = "nothing is handed to the bus as a reply through a closed gate";
const ONCE: &str = "a request is answered by one execution at most";

/// Gates of all processes, and the requests whose replies they must pass.
pub(crate) struct Gates {
    act: Duration,
    /// When the last heartbeat was sent that the store took, by its sender's clock.
    beats: HashMap<NodeProcess, Time>,
    /// Reply subjects of calls on their way.
    asked: HashSet<String>,
    answered: HashSet<String>,
    /// Messages may come twice, and so may executions.
    pub(crate) duplicates: bool,
}

impl Gates {
    pub(crate) fn new(act: Duration) -> Self {
        let (beats, asked, answered) = (HashMap::new(), HashSet::new(), HashSet::new());
        Self { act, beats, asked, answered, duplicates: false }
    }

    /// A heartbeat of this process was taken by the store.
    pub(crate) fn beat(&mut self, by: &NodeProcess, sent: Time) {
        let last = self.beats.entry(by.clone()).or_default();
        *last = (*last).max(sent);
    }

    fn is_open(&self, of: &NodeProcess, local: Time) -> bool {
        self.beats.get(of).is_some_and(|sent| local < *sent + self.act)
    }

    /// Every request passes the gate before it executes.
    pub(crate) fn executes(&self, by: &NodeProcess, local: Time) -> Held {
        ensure(self.is_open(by, local), EXECUTES, || {
            format!("{by} at {local:?} of its clock, its last heartbeat was sent at {:?}", self.beats.get(by))
        })
    }

    /// Every result passes the gate before it is handed on; and it is given once.
    pub(crate) fn published(&mut self, by: Option<&NodeProcess>, local: Time, message: &Message) -> Held {
        if let Some(reply) = message.reply.as_ref().filter(|_| is_call(&message.subject)) {
            self.asked.insert(reply.clone());
        }
        let Some(by) = by.filter(|_| self.asked.contains(&message.subject) && is_result(message)) else {
            return Ok(());
        };
        ensure(self.is_open(by, local), ANSWERS, || {
            format!("{by} at {local:?} of its clock, its last heartbeat was sent at {:?}", self.beats.get(by))
        })?;
        let first = self.answered.insert(message.subject.clone());
        ensure(first || self.duplicates, ONCE, || format!("{by} answers {} again", message.subject))
    }
}

/// To a node, from another or a client; or from a plain client.
fn is_call(subject: &str) -> bool {
    let mut tokens = subject.split('.').skip(1);
    match tokens.next() {
        Some("node") => subject.ends_with(".call"),
        _ => true,
    }
}

/// A result, not a refusal.
fn is_result(message: &Message) -> bool {
    match message.payload.first() {
        Some(b'{') => message.headers.is_empty(),
        _ => matches!(open::<ReplyHead>(&message.payload), Ok((ReplyHead::Ok { .. }, _))),
    }
}
