//! The handle of a running node: what services and front ends hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use super::copies::{Copied, Copies, KeptCell, Shortage};
use super::created;
use super::entrance::QueryBoard;
use super::events::EventSender;
use super::leave::Leave;
use super::meta;
use super::parts::{CreatedWith, NodeParts, Queries, RingShape};
use super::run::{Life, NodeError};
use super::session::Command;
use super::shown::Shown;
use super::status::{
    LearnerStatus, MemberStatus, MoveStatus, PartitionState, PartitionStatus, Phase, PlacesKept, ShortOfMemory, Status,
    Suspended, Waits,
};
use crate::ring::{CopiesReport, Event, PlacesReport, Report, Standing, Wait, WaitReport};
use crate::rpc::subject::{self, Intent};
use crate::rpc::{CallError, Caller, How, Reply, Route, RouteTable, RoutedCall, Router, RouterParts};
use crate::service::Gate;
use crate::types::{Epoch, NodeId, NodeName, PartitionId, Time};

type Ended = Option<Result<(), NodeError>>;

/// A node of a ring, running in the background. Cheap to clone; when the last clone is dropped, the node drains.
#[derive(Clone)]
pub struct Ring {
    inner: Arc<Inner>,
}

/// A [`Ring`] that does not keep its node alive. Cheap to clone.
#[derive(Clone)]
pub struct WeakRing {
    inner: Weak<Inner>,
}

impl WeakRing {
    /// The handle, while somebody else holds one.
    pub fn upgrade(&self) -> Option<Ring> {
        self.inner.upgrade().map(|inner| Ring { inner })
    }
}

struct Inner {
    parts: Arc<NodeParts>,
    shape: RingShape,
    router: Arc<Router>,
    events: EventSender,
    shown: watch::Receiver<Shown>,
    gates: watch::Receiver<Arc<Gate>>,
    commands: watch::Sender<Command>,
    ended: watch::Receiver<Ended>,
    started: Time,
    queries: QueryBoard,
}

impl Ring {
    /// Agrees with the ring on its shape and starts the node. It serves once [`Ring::status`] says so.
    ///
    /// # Errors
    /// [`NodeError::Meta`] where the ring was created with other values, or its bucket cannot be used.
    pub async fn start(parts: NodeParts) -> Result<Self, NodeError> {
        let parts = Arc::new(parts);
        let (shape, identity) = meta::agree(&parts, None).await?;
        let table = RouteTable::new(parts.ring.clone(), shape.partitions);
        let clock = Arc::clone(&parts.clock);
        let router = Arc::new(Router::new(RouterParts {
            bus: Arc::clone(&parts.bus),
            table,
            clock: Arc::clone(&clock),
            chance: parts.chance.clone(),
            key_hash: shape.key_hash,
            partitions: shape.partitions,
        }));
        let events = EventSender::new(parts.node.clone());
        let (shown_sender, shown) = watch::channel(Shown::default());
        let (gate_sender, gates) = watch::channel(Gate::closed(Arc::clone(&clock)));
        let (commands, command_receiver) = watch::channel(Command::Run);
        let (ended_sender, ended) = watch::channel(None);
        let queries = QueryBoard::default();
        let life = Life {
            parts: Arc::clone(&parts),
            router: Arc::clone(&router),
            events: events.clone(),
            shown: shown_sender,
            gates: gate_sender,
            commands: command_receiver,
            queries: queries.clone(),
            leave: Leave::default(),
            kept: KeptCell::default(),
        };
        let started = clock.now();
        let (first_shape, first_identity) = (shape.clone(), identity);
        let loop_ended = parts.process.spawn_main(life.run(first_shape, first_identity));
        parts.process.spawn(async move {
            let result = match loop_ended.await {
                Ok(Some(result)) => result,
                Ok(None) => return,
                Err(panic) => Err(NodeError::GaveUp(format!("the node's loop ended: {panic}"))),
            };
            ended_sender.send_replace(Some(result));
        });
        if parts.created_with != CreatedWith::default() {
            parts.process.spawn(created::compare(Arc::clone(&parts), shown.clone()));
        }
        let inner = Inner { parts, shape, router, events, shown, gates, commands, ended, started, queries };
        let ring = Self { inner: Arc::new(inner) };
        let _ = ring.inner.queries.ring.set(ring.downgrade());
        Ok(ring)
    }

    /// Waits until the node takes part: it holds its lease, is in the plan, and knows who owns what. Calls need not wait for
    /// that: they wait for the key's owner by themselves.
    ///
    /// # Errors
    /// [`NodeError`] where the node ended instead: its name is taken, say.
    pub async fn ready(&self) -> Result<(), NodeError> {
        let mut turns = self.inner.shown.clone();
        loop {
            turns.mark_unchanged();
            if self.status().not_ready.is_none() {
                return Ok(());
            }
            tokio::select! {
                biased;
                ended = self.wait() => {
                    return ended.and_then(|()| Err(NodeError::GaveUp("the node has left".to_owned())));
                }
                // The loop turns several times a second, and ends with the node.
                _ = turns.changed() => {}
            }
        }
    }

    /// Asks the node to give everything away and leave; returns at once. See [`Ring::wait`].
    pub fn drain(&self) {
        self.inner.commands.send_replace(Command::Drain);
    }

    /// Waits until the node has ended.
    ///
    /// # Errors
    /// [`NodeError`]: why it ended other than by leaving.
    pub async fn wait(&self) -> Result<(), NodeError> {
        let mut ended = self.inner.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err(NodeError::GaveUp("the node's task is gone".to_owned())),
        }
    }

    /// Drains and waits until the node has left.
    ///
    /// # Errors
    /// As [`Ring::wait`].
    pub async fn shutdown(&self) -> Result<(), NodeError> {
        self.drain();
        self.wait().await
    }

    /// From now on plain questions are answered by this; only the first call counts.
    pub fn answer_queries(&self, queries: Arc<dyn Queries>) {
        let _ = self.inner.queries.answers.set(queries);
    }

    /// A handle that keeps nothing alive: for services, and for whatever else the node itself holds.
    pub fn downgrade(&self) -> WeakRing {
        WeakRing { inner: Arc::downgrade(&self.inner) }
    }

    /// Events from now on. A listener that is slow misses the oldest and is told how many.
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.inner.events.subscribe()
    }

    /// This node's name.
    pub fn name(&self) -> &NodeName {
        &self.inner.parts.node
    }

    /// The partition of a key.
    pub fn partition_for(&self, key: impl AsRef<[u8]>) -> PartitionId {
        self.inner.router.partition(key.as_ref())
    }

    /// The owner of a key's partition, as far as is known here.
    pub fn node_for(&self, key: impl AsRef<[u8]>) -> Option<NodeId> {
        self.inner.router.table().route(self.partition_for(key)).map(|route| route.owner)
    }

    /// Whether this node owns the key right now, as far as it can know by itself.
    pub fn owns_key(&self, key: impl AsRef<[u8]>) -> bool {
        self.inner.router.serves(self.partition_for(key))
    }

    /// The partitions this node owns.
    pub fn owned_partitions(&self) -> Vec<PartitionId> {
        let status = self.status();
        status.partitions.iter().filter(|p| p.owner.as_ref() == Some(&status.node)).map(|p| p.partition).collect()
    }

    /// Calls the key's owner, here or at another node, in the service's native form. See [`RoutedCall`] for how long it
    /// waits.
    ///
    /// ```no_run
    /// # async fn example(ring: nats_ring::node::Ring) -> Result<(), nats_ring::rpc::CallError> {
    /// let count = ring.call("user:1", "add", "1").await?;
    /// let seen = ring.call("user:1", "get", "").read().await?;
    /// # Ok(()) }
    /// ```
    pub fn call<'a>(&'a self, key: impl AsRef<[u8]>, operation: &'a str, payload: impl Into<Bytes>) -> RoutedCall<'a> {
        RoutedCall::new(self, key.as_ref(), operation, payload.into())
    }

    /// The partition's owner and epoch.
    pub fn route(&self, partition: PartitionId) -> Option<Route> {
        self.inner.router.table().route(partition)
    }

    /// Who has a copy of the partition in sync, as far as is known here: the owner first.
    pub fn replicas(&self, partition: PartitionId) -> Vec<NodeName> {
        if !self.inner.shape.partitions.contains(partition) {
            return Vec::new();
        }
        let driven = self.inner.shown.borrow().driven.clone();
        driven.map(|driven| driven.machine().copies_report(partition).in_sync).unwrap_or_default()
    }

    /// What the partition waits for, where every copy of it is lost.
    pub fn waits(&self, partition: PartitionId) -> Option<Waits> {
        if !self.inner.shape.partitions.contains(partition) {
            return None;
        }
        let driven = self.inner.shown.borrow().driven.clone();
        driven.and_then(|driven| driven.machine().waits(partition)).map(|report| waits_status(&report))
    }

    /// Messages dropped because a subscription's reader was too slow.
    pub fn dropped_messages(&self) -> u64 {
        self.inner.parts.bus.dropped()
    }

    /// How often this node has sent a request again because no answer came.
    pub fn resends(&self) -> u64 {
        self.inner.router.resends()
    }

    /// The ring's shape.
    pub fn shape(&self) -> &RingShape {
        &self.inner.shape
    }

    /// What this node does while its lease has run out for now; `None` where it has not.
    pub fn suspended(&self) -> Option<Suspended> {
        let margin = self.inner.gates.borrow().margin();
        let report = margin.is_zero().then(|| self.inner.shown.borrow().report())?;
        (phase(&report, margin) == Phase::Suspended).then(|| suspended(&report, self.suspension_margin()))
    }

    /// Whether what this node asks of itself over NATS comes back in time. Of a link that stands half open nothing else tells at
    /// once: no answer comes, and no error.
    pub async fn reaches_itself(&self, within: Duration) -> bool {
        let driven = self.inner.shown.borrow().driven.clone();
        let Some(me) = driven.and_then(|driven| driven.machine().id()) else { return false };
        let parts = &self.inner.parts;
        let subject = format!("{}.{}", subject::node(&parts.ring, &me), Intent::Status.token());
        parts.bus.request(&subject, Vec::new(), Bytes::new(), within).await.is_ok()
    }

    /// For how much longer copies may confirm what the lease does not; zero where they cannot be reached.
    fn suspension_margin(&self) -> Duration {
        let connected = self.inner.parts.bus.is_connected();
        if connected { self.inner.gates.borrow().suspension_margin() } else { Duration::ZERO }
    }

    /// What this node knows right now.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let shown = inner.shown.borrow().clone();
        let report = shown.report();
        let margin = inner.gates.borrow().margin();
        let phase = phase(&report, margin);
        let connected = inner.parts.bus.is_connected();
        let suspended = (phase == Phase::Suspended).then(|| suspended(&report, self.suspension_margin()));
        Status {
            ring: inner.parts.ring.clone(),
            node: inner.parts.node.clone(),
            start: report.start,
            zone: inner.parts.zone.clone(),
            phase,
            uptime: inner.parts.clock.now().since(inner.started),
            plan_version: report.plan_version,
            members: report.members.iter().map(member_status).collect(),
            partitions: partitions(&report, shown.copies.as_deref(), inner.shape.partitions.ids()),
            moves: moves(&report),
            rules: report.rules,
            places_kept: report.places_kept.iter().map(places_kept).collect(),
            copied_bytes: shown.copies.as_ref().map_or(0, |copies| copies.copied_bytes()),
            difference_bytes: shown.copies.as_ref().map_or(0, |copies| copies.difference_bytes()),
            lease_margin: margin,
            suspended,
            not_ready: not_ready(&report, phase, suspended, connected),
        }
    }
}

/// Where nobody has a copy of anything there is nothing to go on with, however long it might.
fn suspended(report: &Report, left: Duration) -> Suspended {
    let copied = report.copies.iter().any(|copies| copies.in_sync.len() > 1);
    let left = if copied && report.joined && !report.draining { left } else { Duration::ZERO };
    Suspended { serves_with_copies: !left.is_zero(), remaining_seconds: tenths(left) }
}

/// As seconds, to a tenth.
fn tenths(span: Duration) -> f64 {
    (span.as_secs_f64() * 10.0).round() / 10.0
}

fn phase(report: &Report, margin: Duration) -> Phase {
    match report {
        _ if report.over => Phase::Left,
        _ if report.start == 0 => Phase::Joining,
        _ if margin.is_zero() => Phase::Suspended,
        _ if report.draining => Phase::Draining,
        _ if report.joined => Phase::Active,
        _ => Phase::Joining,
    }
}

/// A suspended node that goes on with its copies is ready: whatever it has no copies for is refused, as not executed.
fn not_ready(report: &Report, phase: Phase, suspended: Option<Suspended>, connected: bool) -> Option<String> {
    let reason = match phase {
        Phase::Suspended if suspended.is_some_and(|suspended| suspended.serves_with_copies) => return None,
        Phase::Suspended if !connected => "suspended, and not connected to NATS",
        Phase::Suspended if report.draining => "suspended while it drains: no heartbeat got through for 3/4 of a lease",
        Phase::Joining if !report.table_seen => "the state of the ring was not read yet",
        Phase::Joining => "not in the plan yet",
        Phase::Suspended => {
            "suspended: no heartbeat got through, and there are no copies to confirm answers, or ten leases are over"
        }
        Phase::Draining => "draining",
        Phase::Left => "not in the ring any more",
        Phase::Active if !connected => "not connected to NATS",
        Phase::Active => return None,
    };
    Some(reason.to_owned())
}

fn member_status(member: &crate::ring::MemberReport) -> MemberStatus {
    MemberStatus {
        node: member.node.clone(),
        state: member.state,
        zone: member.member.zone.clone(),
        weight: member.member.weight,
        http: member.member.http.clone(),
        version: member.member.version.clone(),
        owned: member.owned,
        coordinator: member.coordinator,
    }
}

fn places_kept(report: &PlacesReport) -> PlacesKept {
    // To the millisecond.
    let remaining_seconds = (report.remaining.as_secs_f64() * 1000.0).round() / 1000.0;
    PlacesKept { node: report.node.clone(), places: report.places, remaining_seconds }
}

fn partitions(
    report: &Report,
    copies: Option<&Copies>,
    ids: impl Iterator<Item = PartitionId>,
) -> Vec<PartitionStatus> {
    let unknown = (None, Epoch::ZERO, Standing::Unowned);
    let none = CopiesReport::default();
    let known = report.partitions.iter().cloned().chain(std::iter::repeat(unknown));
    let waits: BTreeMap<PartitionId, &WaitReport> = report.waits.iter().map(|(p, report)| (*p, report)).collect();
    let status = |(partition, (owner, epoch, standing)): (PartitionId, (Option<NodeName>, Epoch, Standing))| {
        let state = match standing {
            Standing::Unowned => PartitionState::Unowned,
            Standing::Starting => PartitionState::Starting,
            Standing::Serving => PartitionState::Serving,
            Standing::Moving => PartitionState::Moving,
            Standing::Orphaned => PartitionState::Orphaned,
        };
        let copied = report.copies.get(partition.index()).unwrap_or(&none);
        PartitionStatus {
            partition,
            owner,
            epoch,
            state,
            replicas: copied.in_sync.clone(),
            learners: copied.learners.iter().map(|learner| learner_status(partition, learner, copies)).collect(),
            short_of_memory: short_of_memory(partition, copies),
            under_replicated: copied.live < report.copies_wanted,
            waits: waits.get(&partition).map(|report| waits_status(report)),
        }
    };
    ids.zip(known).map(status).collect()
}

fn waits_status(WaitReport { wait, lost }: &WaitReport) -> Waits {
    match wait {
        Wait::EmptyStart { left } => Waits::until_empty_start(lost.clone(), tenths(*left)),
        Wait::Acceptance => Waits::until_accepted(lost.clone()),
    }
}

fn learner_status(
    partition: PartitionId,
    (node, caught_up): &(NodeName, bool),
    copies: Option<&Copies>,
) -> LearnerStatus {
    let copied = copies.and_then(|copies| copies.copied_to(partition, node));
    LearnerStatus {
        node: node.clone(),
        caught_up: *caught_up,
        copied_bytes: copied.map_or(0, |copied| copied.bytes),
        total_bytes: copied.and_then(Copied::total_bytes),
        bytes_per_second: copied.and_then(Copied::bytes_per_second),
        remaining_seconds: copied.and_then(Copied::remaining).map(|left| left.as_secs_f64()),
    }
}

fn short_of_memory(partition: PartitionId, copies: Option<&Copies>) -> Vec<ShortOfMemory> {
    let short = copies.map(|copies| copies.short(partition)).unwrap_or_default();
    let status = |(node, copied): (NodeName, Copied)| {
        let Shortage { evicted, bound_bytes } = copied.short?;
        Some(ShortOfMemory { node, evicted, wanted_bytes: copied.estimate().unwrap_or(copied.bytes), bound_bytes })
    };
    short.into_iter().filter_map(status).collect()
}

fn moves(report: &Report) -> Vec<MoveStatus> {
    let status = |m: &crate::ring::MoveReport| {
        Some(MoveStatus { partition: m.partition, to: m.to.clone()?, step: m.step, elapsed: m.elapsed })
    };
    report.moves.iter().filter_map(status).collect()
}

#[async_trait]
impl Caller for Ring {
    async fn call(&self, key: Bytes, operation: &str, payload: Bytes, timeout: Duration) -> Result<Reply, CallError> {
        self.inner.router.call(key, operation, payload, timeout).await
    }

    async fn call_with(&self, key: Bytes, operation: &str, payload: Bytes, how: How) -> Result<Reply, CallError> {
        self.inner.router.call_with(key, operation, payload, how).await
    }
}
