//! Nothing is executed, and nothing handed to the bus as a reply, through a closed gate: the gate as it must be, computed
//! from the heartbeats that were applied, on each node's own clock. Where copies are kept an owner goes on for ten leases
//! after its last heartbeat, but what it executed after a later owner did is never answered.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use nats_ring::rpc::Message;
use nats_ring::rpc::envelope::{CallHead, MAX_HOPS, ReplyHead, open};
use nats_ring::testing::{NodeProcess, Write};
use nats_ring::types::{Epoch, RequestId, Time};

use super::{Held, ensure};
use crate::history::Hook;

const EXECUTES: &str = "nothing is executed through a closed gate";
const CALLS: &str = "no hook of an owner is called through a closed gate";
const ABLE: &str = "who is told that it owns has time left to start";
const HOPS: &str = "a request is passed on eight times at most";
const ONWARDS: &str = "a request is passed on to a later owner, never back";
const ANSWERS: &str = "nothing is handed to the bus as a reply through a closed gate";
const REPLACED: &str = "what a suspended owner executed after a later one did is not answered";
const ONCE: &str = "a request is answered by one execution at most";

/// Gates of all processes, and the requests whose replies they must pass.
pub(crate) struct Gates {
    act: Duration,
    /// How long after its last heartbeat a node with copies goes on; nothing where none are kept.
    suspended: Duration,
    /// When the last heartbeat was sent that the store took, by its sender's clock.
    beats: HashMap<NodeProcess, Time>,
    /// Reply subjects of calls on their way.
    asked: HashSet<String>,
    answered: HashSet<String>,
    /// The names of requests, by the reply subject of each call of them.
    named: HashMap<String, RequestId>,
    /// Executed by who had been replaced.
    replaced: HashSet<(NodeProcess, RequestId)>,
    /// Requests that were executed by suspended nodes.
    pub(crate) executed_suspended: u64,
    /// By reply subject and hops, the epoch that a call was sent for.
    passed_on: HashMap<(String, u8), Epoch>,
    /// Messages may come twice, and so may executions.
    pub(crate) duplicates: bool,
}

impl Gates {
    pub(crate) fn new(act: Duration, with_copies: bool) -> Self {
        Self {
            act,
            // Ten leases, of which it may act for 3/4 of one.
            suspended: if with_copies { act * 40 / 3 } else { Duration::ZERO },
            beats: HashMap::new(),
            asked: HashSet::new(),
            answered: HashSet::new(),
            named: HashMap::new(),
            replaced: HashSet::new(),
            executed_suspended: 0,
            passed_on: HashMap::new(),
            duplicates: false,
        }
    }

    /// A heartbeat of this process was taken by the store.
    pub(crate) fn beat(&mut self, by: &NodeProcess, sent: Time) {
        let last = self.beats.entry(by.clone()).or_default();
        *last = (*last).max(sent);
    }

    fn is_open(&self, of: &NodeProcess, local: Time) -> bool {
        self.beats.get(of).is_some_and(|sent| local < *sent + self.act)
    }

    /// Whether it goes on with its copies alone.
    pub(crate) fn is_suspended(&self, of: &NodeProcess, local: Time) -> bool {
        !self.is_open(of, local) && self.may_go_on(of, local)
    }

    fn may_go_on(&self, of: &NodeProcess, local: Time) -> bool {
        self.is_open(of, local) || self.beats.get(of).is_some_and(|sent| local < *sent + self.suspended)
    }

    /// A suspended node executes; `replaced`: after a later owner did.
    pub(crate) fn executes_suspended(&mut self, by: &NodeProcess, request: Option<RequestId>, replaced: bool) {
        self.executed_suspended += 1;
        if let Some(id) = request.filter(|_| replaced) {
            self.replaced.insert((by.clone(), id));
        }
    }

    /// Every request passes the gate before it executes.
    pub(crate) fn executes(&self, by: &NodeProcess, local: Time) -> Held {
        ensure(self.is_open(by, local), EXECUTES, || {
            format!("{by} at {local:?} of its clock, its last heartbeat was sent at {:?}", self.beats.get(by))
        })
    }

    /// A hook is called that only an owner's service is called by.
    pub(crate) fn calls(&self, by: &NodeProcess, local: Time, hook: Hook) -> Held {
        ensure(self.is_open(by, local), CALLS, || {
            format!("{hook:?} at {by}, {local:?} of its clock, its last heartbeat was sent at {:?}", self.beats.get(by))
        })
    }

    /// It hears that its claim is in the store. Of the half lease that it was sent with, a third of one is left where the
    /// answer took less than a tenth.
    pub(crate) fn claimed(&self, write: &Write, local: Time) -> Held {
        let lease = self.act * 4 / 3;
        let soon = local.since(write.sent_local) < lease / 10;
        ensure(!soon || self.is_open(&write.by, local + lease / 3), ABLE, || {
            let (by, sent) = (&write.by, self.beats.get(&write.by));
            format!(
                "{by} hears at {local:?} of its clock that it has {}, its last heartbeat was sent at {sent:?}",
                write.key
            )
        })
    }

    /// Each time that a request is passed on, it is for an epoch that is not before the one known already.
    fn goes_onwards(&mut self, message: &Message) -> Held {
        let Some(reply) = message.reply.as_ref().filter(|_| message.subject.ends_with(".call")) else { return Ok(()) };
        let Ok((head, _)) = open::<CallHead>(&message.payload) else { return Ok(()) };
        self.passed_on.insert((reply.clone(), head.hops), head.epoch);
        if let Some(once) = &head.once {
            self.named.insert(reply.clone(), once.id);
        }
        ensure(head.hops <= MAX_HOPS, HOPS, || {
            format!("{} is passed on for the {}th time", message.subject, head.hops)
        })?;
        let before = head.hops.checked_sub(1).and_then(|hops| self.passed_on.get(&(reply.clone(), hops)));
        ensure(before.is_none_or(|before| *before <= head.epoch), ONWARDS, || {
            format!("{} for epoch {}, after epoch {before:?} was known", message.subject, head.epoch)
        })
    }

    /// Every result passes the gate before it is handed on; and it is given once.
    pub(crate) fn published(&mut self, by: Option<&NodeProcess>, local: Time, message: &Message) -> Held {
        if let Some(reply) = message.reply.as_ref().filter(|_| is_call(&message.subject)) {
            self.asked.insert(reply.clone());
        }
        self.goes_onwards(message)?;
        let Some(by) = by.filter(|_| self.asked.contains(&message.subject) && is_result(message)) else {
            return Ok(());
        };
        ensure(self.may_go_on(by, local), ANSWERS, || {
            format!("{by} at {local:?} of its clock, its last heartbeat was sent at {:?}", self.beats.get(by))
        })?;
        let replaced = self.named.get(&message.subject).filter(|id| self.replaced.contains(&(by.clone(), **id)));
        ensure(replaced.is_none(), REPLACED, || format!("{by} at {local:?} of its clock: {replaced:?}"))?;
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
