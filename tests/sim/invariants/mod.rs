//! What must hold whatever happens, one function each, judged from outside: from what was executed and answered and what
//! was written to the store, never from what a node says of itself.

mod claims;
mod copies;
mod frozen;
mod gate;
mod grants;
mod hooks;
mod leases;
mod outage;
mod owners;
mod plans;
mod register;
mod sizes;

use std::fmt;
use std::time::Duration;

use nats_ring::coord::{Claim, Key, LeaseState, Record, Revision};
use nats_ring::rpc::Message;
use nats_ring::rpc::envelope::{OfferHead, open};
use nats_ring::testing::{NodeProcess, Observed, StoreChange, Write};
use nats_ring::types::{Epoch, FencingToken, NodeId, NodeName, PartitionId, RequestId, Time};

use crate::generator::{Climate, Scenario};
use crate::history::{ProcessId, Term};
use claims::Claims;
use copies::{Beginning, Came, Copies, Written};
use gate::Gates;
use grants::Grants;
use hooks::Hooks;
use leases::Leases;
pub(crate) use outage::Outage;
use owners::Owners;
use plans::Plans;
pub(crate) use plans::is_best;
use register::Register;
use sizes::SetSizes;

/// What was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) invariant: &'static str,
    pub(crate) how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.how)
    }
}

pub(crate) type Held = Result<(), Broken>;

/// `Ok` where it holds; else what it is called and how it was broken.
pub(crate) fn ensure(holds: bool, invariant: &'static str, how: impl FnOnce() -> String) -> Held {
    if holds { Ok(()) } else { Err(Broken { invariant, how: how() }) }
}

const BOUNDED: &str = "bounded queues stay bounded";

fn decoded(write: &Write) -> Option<(Key, Record)> {
    let key = Key::parse(&write.key)?;
    let record = Record::decode(&key, &write.value).ok()?;
    Some((key, record))
}

/// Of a subject `<ring>.p.<partition>.<operation>`.
fn partition_asked(subject: &str) -> Option<PartitionId> {
    let mut tokens = subject.split('.').skip(1);
    (tokens.next()? == "p").then(|| tokens.next()?.parse().ok().map(PartitionId::new))?
}

/// All that the invariants remember.
pub(crate) struct Judge {
    pub(crate) owners: Owners,
    pub(crate) hooks: Hooks,
    pub(crate) register: Register,
    pub(crate) leases: Leases,
    pub(crate) claims: Claims,
    pub(crate) gates: Gates,
    pub(crate) plans: Plans,
    pub(crate) grants: Grants,
    /// Where the service keeps copies.
    pub(crate) copies: Option<Copies>,
    pub(crate) sizes: SetSizes,
    /// Requests that a node holds back for a partition at the most.
    parked: usize,
    /// Nothing ever goes wrong in this run, and who plans sees renewals soon enough that nobody seems suspended.
    calm: bool,
}

/// An offer to a member of the set, as far as it is looked at.
#[derive(serde::Deserialize)]
struct SwitchHead {
    partition: PartitionId,
    epoch: Epoch,
    _revision: Revision,
    from: NodeId,
}

/// An execution as it begins.
pub(crate) struct Execution<'a> {
    pub(crate) process: ProcessId,
    pub(crate) of: &'a NodeProcess,
    pub(crate) partition: PartitionId,
    pub(crate) token: &'a FencingToken,
    /// Now, on the node's own clock.
    pub(crate) local: Time,
    pub(crate) request: Option<RequestId>,
}

impl Judge {
    /// `partition_of` each key.
    pub(crate) fn new(scenario: &Scenario, partition_of: Vec<PartitionId>) -> Self {
        let (partitions, act) = (scenario.partitions, scenario.timing.act());
        let seen_in_time = scenario.watch_lag + scenario.timing.beat() < scenario.timing.lease / 2;
        Self {
            // From 3/4 of a lease, by a slow clock, on.
            owners: Owners::new(partitions, act * 4 / 3),
            hooks: Hooks::default(),
            register: Register::new(partition_of, partitions),
            leases: Leases::default(),
            claims: Claims::new(partitions, scenario.copying.is_some()),
            gates: Gates::new(act, scenario.copying.is_some()),
            plans: Plans::new(scenario.watch_lag),
            grants: Grants::default(),
            copies: scenario.copying.map(|_| Copies::new(partitions)),
            sizes: SetSizes::new(partitions, scenario.sets_known_after()),
            parked: scenario.parked,
            calm: scenario.climate == Climate::Planned && seen_in_time,
        }
    }

    /// The recorded sets, where there are any.
    pub(crate) fn listed(&self) -> std::collections::BTreeMap<PartitionId, Vec<NodeId>> {
        let partitions = 0..self.copies.as_ref().map_or(0, Copies::partitions);
        let partitions = partitions.map(PartitionId::new);
        partitions.filter_map(|p| Some((p, self.claims.claim(p)?.replicas.clone()))).collect()
    }

    /// Whether a partition waits for a set of which nobody is left.
    pub(crate) fn is_a_set_lost(&self) -> bool {
        self.copies.is_some() && self.claims.is_a_set_lost(&self.leases)
    }

    /// A request begins to be executed.
    pub(crate) fn executed(&mut self, execution: &Execution<'_>, at: Duration) -> Held {
        let Execution { process, of, partition, token, local, request } = *execution;
        if self.gates.is_suspended(of, local) {
            // What counts of it is its answer.
            let replaced = self.owners.is_replaced(partition, token);
            self.gates.executes_suspended(of, request, replaced);
            return self.hooks.served(process, partition, Term::from(token));
        }
        self.owners.executed(partition, token, at)?;
        self.hooks.served(process, partition, Term::from(token))?;
        self.gates.executes(of, local)?;
        self.leases.executed(&NodeId { node: of.node.clone(), incarnation: token.incarnation })?;
        self.claims.executed(partition, &of.node, token)
    }

    /// Somebody begins to be the owner.
    pub(crate) fn owned(
        &mut self,
        (process, of): (ProcessId, &NodeProcess),
        partition: PartitionId,
        term: Term,
    ) -> Held {
        if let Some(copies) = &mut self.copies {
            self.register.begins((process, partition), term, copies.began(partition, term.epoch));
            if let Some(kept) = copies.owned(partition, term, of)? {
                self.register.kept(partition, term.epoch, kept);
            }
            return Ok(());
        }
        let began_empty = self.register.owned(process, partition, term);
        let forsaken = self.claims.was_forsaken(partition, term.epoch);
        ensure(!began_empty || forsaken, register::NO_LOSS, || {
            format!("partition {partition} begins empty at {term}, though whoever had it was there to hand it over")
        })
    }

    /// Something was seen on the ring's connections.
    pub(crate) fn saw(&mut self, at: Duration, what: &Observed<'_>) -> Held {
        match what {
            Observed::Decided { write, outcome: Ok(revision) } => self.wrote(at, write, *revision),
            Observed::Published { by, local, message } => {
                self.note_offer(message);
                self.gates.published(*by, *local, message)
            }
            Observed::Store(StoreChange::Removed { key }) => {
                if let Some(Key::Lease(node)) = Key::parse(key) {
                    self.leases.removed(&node);
                }
                Ok(())
            }
            Observed::Store(change) => {
                self.owners.store_went_back(*change == StoreChange::Recreated, at);
                self.register.store_went_back();
                self.grants.store_went_back();
                self.leases.forget(at);
                self.claims.forget();
                self.sizes.forget(at);
                self.copies.iter_mut().for_each(Copies::store_went_back);
                self.plans.latest = None;
                Ok(())
            }
            Observed::Connection { of, link, heartbeat } => {
                self.leases.link(of, (*link, *heartbeat), at);
                Ok(())
            }
            Observed::HeldBack { by, partition, held } => ensure(*held <= self.parked, BOUNDED, || {
                format!("{by} holds back {held} requests for partition {partition}, of {} at the most", self.parked)
            }),
            Observed::Unheard { by: None, message } => match partition_asked(&message.subject) {
                Some(partition) => self.claims.unheard(partition, &self.leases),
                None => Ok(()),
            },
            Observed::Sent(write) => {
                if let Some((Key::Own(partition), Record::Own(claim))) = self.decoded_own(write) {
                    self.sizes.seen(partition, &claim, (false, at));
                }
                // Of many heartbeats none says so.
                let leaves = write.key.starts_with("lease.") && write.value.windows(4).any(|part| part == b"left");
                if leaves && let Some((Key::Lease(_), Record::Lease(lease))) = decoded(write) {
                    self.leases.sent(&write.by, &lease);
                }
                Ok(())
            }
            Observed::Answered { write, outcome: Ok(_), local } if write.key.starts_with("own.") => {
                let stopped = self.leases.stopped_at(&write.by) >= write.sent_at;
                // Decoded last: most writes begin nothing.
                let begins = || match Key::parse(&write.key) {
                    Some(Key::Own(partition)) if self.claims.has_begun(partition, write.number) => {
                        let record = Record::decode(&Key::Own(partition), &write.value);
                        matches!(record, Ok(Record::Own(claim)) if claim.holder().is_some())
                    }
                    _ => false,
                };
                if stopped || !begins() { Ok(()) } else { self.gates.claimed(write, *local) }
            }
            Observed::Process { of, change } => {
                self.leases.process(of, *change, at);
                self.register.frozen.process(of, *change, at);
                Ok(())
            }
            Observed::Unheard { .. } | Observed::Decided { .. } | Observed::Answered { .. } => Ok(()),
        }
    }

    /// Where sets matter.
    fn decoded_own(&self, write: &Write) -> Option<(Key, Record)> {
        if self.copies.is_some() && write.key.starts_with("own.") { decoded(write) } else { None }
    }

    fn claimed(
        &mut self,
        partition: PartitionId,
        claim: Claim,
        (write, revision): (&Write, Revision),
        at: Duration,
    ) -> Held {
        if let Some(copies) = &mut self.copies {
            self.sizes.seen(partition, &claim, (true, at));
            let written = Written { claim: &claim, expected: write.expected, revision };
            let came = copies.wrote(partition, &written, (&self.leases, self.plans.latest.as_ref()))?;
            if came == Came::TakenOver {
                self.register.taken_over(partition);
            }
        }
        self.claims.wrote(partition, claim, &self.leases)
    }

    fn wrote(&mut self, at: Duration, write: &Write, revision: Revision) -> Held {
        let Some((key, record)) = decoded(write) else { return Ok(()) };
        match (key, record) {
            (Key::Lease(node), Record::Lease(lease)) => {
                if lease.state == LeaseState::Live && node == write.by.node {
                    self.gates.beat(&write.by, write.sent_local);
                    if let Some(copies) = &mut self.copies {
                        copies.is(NodeId { node: node.clone(), incarnation: lease.incarnation }, &write.by);
                    }
                }
                self.leases.wrote(&node, lease, write, at)
            }
            (Key::Own(partition), Record::Own(claim)) => {
                self.plans.input_changed(at);
                self.claims.note_begin(partition, &claim, write.number);
                self.claimed(partition, claim, (write, revision), at)
            }
            (Key::Plan, Record::Plan(plan)) => {
                self.plans.keeps_who_lives(&plan, |id| self.leases.is_live(id) == Some(true))?;
                self.sizes.planned(&plan, at);
                let holder = |p: usize| self.claims.holder(PartitionId::new(u16::try_from(p).unwrap_or(0)));
                self.plans.wrote(plan, holder, (self.calm, write.sent_at))
            }
            (Key::Meta, Record::Meta(meta)) => {
                self.claims.generation(meta.generation);
                self.leases.begins_anew(at);
                self.plans.input_changed(at);
                Ok(())
            }
            (key, record) => {
                if let (Key::Member(node), Record::Member(member)) = (key, record) {
                    self.plans.announced(&node, &member);
                }
                self.plans.input_changed(at);
                Ok(())
            }
        }
    }

    fn note_offer(&mut self, message: &Message) {
        let switch = message.subject.ends_with(".switch");
        if !switch && !message.subject.ends_with(".offer") {
            return;
        }
        let to = message.subject.split('.').nth(2).and_then(|token| NodeName::new(token).ok());
        if let (true, Some(to), Ok((offer, _))) = (switch, &to, open::<SwitchHead>(&message.payload)) {
            self.claims.offered(offer.partition, offer.epoch, offer.from, to.clone());
        }
        if let (false, Some(to), Ok((offer, _))) = (switch, to, open::<OfferHead>(&message.payload)) {
            self.claims.offered(offer.partition, offer.epoch, offer.from, to);
        }
    }
}
