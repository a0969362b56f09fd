//! One machine driven by hand: short text for each action, a store that only counts revisions, a clock in milliseconds.
//!
//! Whole action lists are compared; routes and events are kept apart ([`Rig::events`]).

use std::time::Duration;

use uuid::Uuid;

use super::world::brief;
use crate::coord::Update;
use crate::coord::{
    CasError, Claim, ClaimState, Key, Lease, LeaseState, Member, MemberState, PlanMember, PlanRecord, Record, Revision,
    RingConfig, WatchScope,
};
use crate::ring::event::Event;
use crate::ring::io::{Action, CopySet, Input, Offer, OpId};
use crate::ring::machine::Machine;
use crate::ring::settings::{Former, Identity, Timing};
use crate::types::{Epoch, Generation, Incarnation, NodeId, NodeName, PartitionCount, PartitionId, Time};

/// The lease used here, in milliseconds.
pub(super) const LEASE_MS: u64 = 1200;
/// Time between heartbeats.
pub(super) const BEAT_MS: u64 = LEASE_MS / 6;

/// A write that has no outcome yet.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) op: OpId,
    pub(super) key: Key,
    pub(super) record: Record,
}

/// The machine of node `n1` and what it asked for.
pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) ms: u64,
    pub(super) last: u64,
    pub(super) pending: Vec<Pending>,
    pub(super) hooks: Vec<OpId>,
    pub(super) events: Vec<Event>,
    pub(super) let_go_asked: bool,
    /// The last set that was told.
    pub(super) replicated: OpId,
}

pub(super) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(super) fn own_uuid() -> Uuid {
    Uuid::from_u128(1)
}

/// `n1` at its first start has the incarnation the rig's machine takes; others differ by name alone.
pub(super) fn id(node: &str, start: u64) -> NodeId {
    NodeId { node: name(node), incarnation: Incarnation { start, id: own_uuid() } }
}

pub(super) fn timing() -> Timing {
    Timing {
        hook_limit: Duration::from_secs(5),
        backoff: Duration::from_millis(100),
        linger: Duration::from_secs(1),
        ..Timing::for_lease(Duration::from_millis(LEASE_MS))
    }
}

pub(super) fn lease(node: &str, start: u64, beat: u64, state: LeaseState) -> (Key, Record) {
    let lease = Lease { incarnation: id(node, start).incarnation, state, beat, lease_ms: LEASE_MS, resumed: None };
    (Key::Lease(name(node)), Record::Lease(lease))
}

pub(super) fn member(node: &str, start: u64, since: u64) -> (Key, Record) {
    let member = Member {
        incarnation: id(node, start).incarnation,
        since: Revision(since),
        state: MemberState::Active,
        zone: None,
        weight: 1,
        http: None,
        version: "0".to_owned(),
        excluded: Vec::new(),
        replicates: false,
        return_ms: 0,
    };
    (Key::Member(name(node)), Record::Member(member))
}

pub(super) fn claim(partition: u16, owner: NodeId, epoch: u64, state: ClaimState) -> (Key, Record) {
    let replicas = if state == ClaimState::Released { Vec::new() } else { vec![owner.clone()] };
    let claim = Claim { generation: Generation::new(1), epoch: Epoch::new(epoch), owner, replicas, state };
    (Key::Own(PartitionId::new(partition)), Record::Own(claim))
}

/// A plan of these members (with their age) and first owners; `-` for none.
pub(super) fn plan(version: u64, members: &[(NodeId, u64)], gone: &[NodeId], rows: &str) -> (Key, Record) {
    let member = |(id, since): &(NodeId, u64)| PlanMember {
        id: id.clone(),
        since: Revision(*since),
        draining: false,
        zone: None,
        weight: 1,
        excluded: Vec::new(),
        replicates: false,
        return_ms: 0,
    };
    let row = |text: &str| if text == "-" { Vec::new() } else { vec![name(text)] };
    let plan = PlanRecord {
        version,
        author: members.first().map_or(id("n1", 1), |(id, _)| id.clone()),
        generation: Generation::new(1),
        members: members.iter().map(member).collect(),
        gone: gone.to_vec(),
        rows: rows.split(' ').map(row).collect(),
        config: RingConfig::default(),
        kept: Vec::new(),
    };
    (Key::Plan, Record::Plan(plan))
}

impl Rig {
    pub(super) fn new(partitions: u16) -> Self {
        Self::with(partitions, timing())
    }

    pub(super) fn with(partitions: u16, timing: Timing) -> Self {
        Self::made(partitions, timing, (false, Generation::new(1)))
    }

    /// A node `n1` that keeps copies, and holds its lease in a ring with these records.
    pub(super) fn with_copies(partitions: u16, records: Vec<(Key, Record)>) -> Self {
        let mut rig = Self::made(partitions, timing(), (true, Generation::new(1)));
        rig.join(records);
        rig
    }

    /// In a ring whose store was another one before.
    pub(super) fn after_a_reset(partitions: u16) -> Self {
        Self::made(partitions, timing(), (false, Generation::new(2)))
    }

    /// The same, where nodes keep copies; what this one knew before.
    pub(super) fn after_a_reset_with_copies(former: Option<Former>) -> Self {
        let mut rig = Self::made(1, timing(), (true, Generation::new(2)));
        rig.machine.who.former = former;
        rig
    }

    /// As it was acknowledged last.
    pub(super) fn own_lease(&self) -> Update {
        let seen = &self.machine.view.leases[&name("n1")];
        Update { key: Key::Lease(name("n1")), revision: seen.revision, record: Record::Lease(seen.record.clone()) }
    }

    fn made(partitions: u16, timing: Timing, (replicates, generation): (bool, Generation)) -> Self {
        let who = Identity {
            node: name("n1"),
            incarnation_id: own_uuid(),
            generation,
            partitions: PartitionCount::new(partitions).unwrap(),
            zone: None,
            weight: 1,
            http: None,
            version: "0".to_owned(),
            replicates,
            former: None,
        };
        let machine = Machine::new(who, timing, Time::ZERO);
        Self {
            machine,
            ms: 0,
            last: 0,
            pending: Vec::new(),
            hooks: Vec::new(),
            events: Vec::new(),
            let_go_asked: false,
            replicated: OpId(0),
        }
    }

    /// A node `n1` that holds its lease (at revision `since`) in a ring with these records.
    pub(super) fn joined(partitions: u16, records: Vec<(Key, Record)>) -> Self {
        let mut rig = Self::new(partitions);
        rig.join(records);
        rig
    }

    pub(super) fn join(&mut self, records: Vec<(Key, Record)>) {
        let (leases, ring): (Vec<_>, Vec<_>) = records.into_iter().partition(|(key, _)| matches!(key, Key::Lease(_)));
        let leases: Vec<Update> = leases.into_iter().map(|record| self.put(record)).collect();
        let ring: Vec<Update> = ring.into_iter().map(|record| self.put(record)).collect();
        let own = leases.iter().filter(|update| update.key == Key::Lease(name("n1"))).cloned().collect();
        self.feed(Input::LeaseSnapshot { all: false, leases: own });
        self.feed(Input::RingSnapshot(ring));
        self.ack_after_watch("lease.n1");
        self.feed(Input::LeaseSnapshot { all: true, leases });
        self.ack_after_watch("member.n1");
    }

    /// Gives a record the next revision.
    pub(super) fn put(&mut self, (key, record): (Key, Record)) -> Update {
        self.last += 1;
        Update { key, revision: Revision(self.last), record }
    }

    pub(super) fn feed(&mut self, input: Input) -> Vec<String> {
        let actions = self.machine.step(Time::from_nanos(self.ms * 1_000_000), input);
        actions.into_iter().filter_map(|action| self.take(action)).collect()
    }

    pub(super) fn wake_at(&mut self, ms: u64) -> Vec<String> {
        self.ms = ms;
        self.feed(Input::Wake)
    }

    /// A record changes as the watch tells it.
    pub(super) fn see(&mut self, record: (Key, Record)) -> Vec<String> {
        let update = self.put(record);
        self.see_at(update)
    }

    pub(super) fn see_at(&mut self, update: Update) -> Vec<String> {
        let lease = matches!(update.key, Key::Lease(_));
        self.feed(if lease { Input::LeaseChange(update) } else { Input::RingChange(update) })
    }

    fn taken(&mut self, key: &str) -> Pending {
        let at = self.pending.iter().position(|pending| pending.key.text() == key);
        self.pending.remove(at.unwrap_or_else(|| panic!("no write of {key} is on its way: {:?}", self.pending)))
    }

    /// The oldest write of `key` on its way is acknowledged.
    pub(super) fn ack(&mut self, key: &str) -> Vec<String> {
        let Pending { op, key, record } = self.taken(key);
        let revision = self.put((key, record)).revision;
        self.feed(Input::Cas { op, result: Ok(revision) })
    }

    /// It is applied, which the watch shows first.
    pub(super) fn ack_after_watch(&mut self, key: &str) -> Vec<String> {
        let Pending { op, key, record } = self.taken(key);
        let update = self.put((key, record));
        let revision = update.revision;
        let mut actions = self.see_at(update);
        actions.extend(self.feed(Input::Cas { op, result: Ok(revision) }));
        actions
    }

    /// It is applied, and followed by `later`, which the watch shows before the acknowledgement comes.
    pub(super) fn ack_after(&mut self, key: &str, later: (Key, Record)) -> Vec<String> {
        let Pending { op, key, record } = self.taken(key);
        let revision = self.put((key, record)).revision;
        self.see(later);
        self.feed(Input::Cas { op, result: Ok(revision) })
    }

    pub(super) fn fail(&mut self, key: &str, error: CasError) -> Vec<String> {
        let op = self.taken(key).op;
        self.feed(Input::Cas { op, result: Err(error) })
    }

    /// The oldest hook that runs returns.
    pub(super) fn hook(&mut self, result: Result<(), &str>) -> Vec<String> {
        let op = self.hooks.remove(0);
        self.feed(Input::Hook { op, result: result.map_err(str::to_owned) })
    }

    pub(super) fn offer(&mut self, partition: u16, epoch: u64, revision: u64, from: NodeId) -> Vec<String> {
        let (partition, epoch, revision) = (PartitionId::new(partition), Epoch::new(epoch), Revision(revision));
        self.feed(Input::Offered {
            op: OpId(1 << 62),
            offer: Offer { partition, epoch, revision, from, replicas: Vec::new() },
        })
    }

    /// The node gives its lease up at once.
    pub(super) fn give_up(&mut self, reason: &str) -> Vec<String> {
        self.machine.give_up(crate::ring::io::Outcome::GaveUp(reason.to_owned()));
        self.feed(Input::Wake)
    }

    /// Heartbeats go out and are acknowledged until `ms`, with nothing else happening. Answers what else was asked for.
    pub(super) fn beat_until(&mut self, ms: u64) -> Vec<String> {
        let mut others = Vec::new();
        while let Some(at) = self.machine.next_wake() {
            let at = at.as_nanos().div_ceil(1_000_000);
            if at > ms {
                break;
            }
            others.extend(self.wake_at(at));
            if self.pending.iter().any(|pending| pending.key.text() == "lease.n1") {
                others.extend(self.ack("lease.n1"));
            }
        }
        self.ms = ms;
        others.extend(self.feed(Input::Wake));
        others.retain(|action| !action.starts_with("gate until") && !action.starts_with("cas lease.n1"));
        others
    }

    fn take(&mut self, action: Action) -> Option<String> {
        Some(match action {
            Action::Cas { op, key, expected, record, subscribe, .. } => {
                let subscribe = if subscribe.is_some() { " +subscribe" } else { "" };
                let text = format!("cas {}@{} {}{subscribe}", key.text(), expected.0, brief(&record));
                self.pending.push(Pending { op, key, record });
                text
            }
            Action::Emit(event) => {
                self.events.push(event);
                return None;
            }
            Action::Route { .. } => return None,
            Action::WatchLeases(WatchScope::AllLeases) => "watch all leases".to_owned(),
            Action::WatchLeases(WatchScope::Leases(names)) => format!("watch leases {names:?}"),
            Action::WatchLeases(WatchScope::Ring | WatchScope::Routes) => "watch ring".to_owned(),
            Action::OpenGate(until) => format!("gate until {}", until.as_nanos() / 1_000_000),
            Action::CloseGate => "gate closed".to_owned(),
            Action::Park { partition, epoch } => format!("park {partition} e{epoch}"),
            Action::Serve { partition, epoch } => format!("serve {partition} e{epoch}"),
            Action::Forward { partition } => format!("forward {partition}"),
            Action::Revoke { partition } => format!("revoke {partition}"),
            Action::Unsubscribe { partition } => format!("unsubscribe {partition}"),
            Action::Discard { partition } => format!("discard {partition}"),
            Action::Transfer { partition, epoch, to, .. } => format!("transfer {partition} e{epoch} to {to}"),
            Action::SendOffer { to, offer } => {
                let set = if offer.replicas.is_empty() {
                    String::new()
                } else {
                    format!(" of {}", ids_text(&offer.replicas))
                };
                format!("offer {} e{} @{} to {to}{set}", offer.partition, offer.epoch, offer.revision.0)
            }
            Action::AnswerOffer { result, .. } => format!("answer {result:?}"),
            Action::OnOwn { op, grants, origin } => {
                self.hooks.push(op);
                format!("on_own {} {origin:?}", grants_text(&grants))
            }
            Action::OnRelease { op, grants, why } => {
                self.hooks.push(op);
                format!("on_release {} {why:?}", grants_text(&grants))
            }
            Action::LetGo { .. } => {
                self.let_go_asked = true;
                return None;
            }
            Action::Replicate { op, partition, epoch, copies } => {
                self.replicated = op;
                format!("replicate {partition} e{epoch} {}", copies_text(&copies))
            }
            Action::Recover { partition, epoch, survivors } => {
                format!("recover {partition} e{epoch} from {}", ids_text(&survivors))
            }
            Action::Copy { partition, epoch, wanted } => {
                format!("{} copy {partition} e{epoch}", if wanted { "keep" } else { "drop" })
            }
            Action::Finish(outcome) => format!("finish {outcome:?}"),
        })
    }
}

fn ids_text(ids: &[NodeId]) -> String {
    let text: Vec<String> = ids.iter().map(ToString::to_string).collect();
    text.join(" ")
}

fn copies_text(copies: &CopySet) -> String {
    let CopySet { in_sync, pending, learners, factor, .. } = copies;
    let pending = pending.as_ref().map(|pending| format!(" -> {}", ids_text(pending))).unwrap_or_default();
    let learners = if learners.is_empty() { String::new() } else { format!(" + {}", ids_text(learners)) };
    format!("{}{pending}{learners} of {factor}", ids_text(in_sync))
}

fn grants_text(grants: &[(PartitionId, Epoch)]) -> String {
    let text: Vec<String> = grants.iter().map(|(partition, epoch)| format!("{partition}:e{epoch}")).collect();
    text.join(" ")
}

/// A write without an answer.
pub(super) fn no_answer() -> CasError {
    CasError::Unknown("no answer in time".to_owned())
}
