//! The ring under test: nodes on twins, and everything that can happen to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::builder::{TestNode, TestRingBuilder, node_name};
use super::clock::SimulatedClock;
use super::faults::FaultKind;
use super::link::Link;
use super::member::{Member, tapped, twins};
use super::observer::{ProcessChange, Watched};
use super::settle;
use super::world::World;
use crate::coord::mem::MemStore;
use crate::coord::{Key, Record};
use crate::node::{NodeError, Ring};
use crate::rpc::mem::{MemBus, MemSwitch};
use crate::rpc::{Bus, CallError, Caller, How, Reply, RequestError, Resend, subject};
use crate::service::Service;
use crate::types::{Chance, Clock, Epoch, KeyHash, NodeName, PartitionId, Process};

/// How often, in simulated time, a ring is looked at that is to settle.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What [`TestRing::settled`] grants beside ten leases, and [`TestRing::leave`] beside the drain's limit.
const GRACE: Duration = Duration::from_secs(60);
/// How long a plain client waits for its answer.
const PLAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Turns of the runtime within which killed tasks have ended.
const TURNS_TO_DIE: usize = 1000;

/// A ring in memory, whose time passes only when a test waits. See the [module](super).
pub struct TestRing {
    settings: TestRingBuilder,
    pub(super) world: Arc<World>,
    pub(super) switch: MemSwitch,
    members: Members,
    /// How many processes there were of each name.
    processes: Mutex<BTreeMap<NodeName, u32>>,
    /// What is wrong with all connections.
    away: Mutex<Link>,
    chance: Chance,
    /// What was read at the last look whether it has settled.
    records: Mutex<settle::Records>,
}

/// Nodes by name that have neither crashed nor left.
type Members = Arc<Mutex<BTreeMap<NodeName, Member>>>;

/// A ring did not settle in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ring did not settle within {within:?} of simulated time: {reason}")]
pub struct Unsettled {
    /// How long it was given.
    pub within: Duration,
    /// The first thing that was not at rest when time was up.
    pub reason: String,
}

impl TestRing {
    /// A ring with the defaults, without nodes.
    ///
    /// # Panics
    /// As [`TestRingBuilder::build`].
    #[allow(clippy::new_without_default)] // It needs a runtime, and pauses its clock: nothing to happen by default.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A ring otherwise.
    pub fn builder() -> TestRingBuilder {
        TestRingBuilder::default()
    }

    pub(super) fn make(settings: TestRingBuilder, clock: SimulatedClock) -> Self {
        let chance = Chance::seeded(settings.seed);
        let watched = Watched(settings.observer.clone());
        let world = World::new(clock, MemStore::new(chance.number()), chance.fork(), watched);
        let switch = MemSwitch::under(chance.number(), world.process.clone());
        let (members, processes, away) = (Members::default(), Mutex::default(), Mutex::new(Link::Up));
        Self { settings, world, switch, members, processes, away, chance, records: Mutex::default() }
    }

    /// Starts a node with this service. It owns partitions once the ring has [settled](TestRing::settled). A name whose
    /// node crashed, left or ended by itself may be used again, as by a process that is restarted.
    ///
    /// # Panics
    /// Where a node of this name runs, or where it did not start: see [`TestRing::try_add_node`].
    pub async fn add_node(&self, node: impl Into<TestNode>, service: Arc<dyn Service>) -> Ring {
        let node = node.into();
        let name = node.name.clone();
        match self.try_add_node(node, service).await {
            Ok(ring) => ring,
            Err(error) => panic!("node {name} did not start: {error}"),
        }
    }

    /// As [`TestRing::add_node`], where the store may be away.
    ///
    /// # Errors
    /// [`NodeError`]: the node could not agree with the ring on its shape, as a program that ends at its start.
    ///
    /// # Panics
    /// Where a node of this name runs.
    pub async fn try_add_node(&self, node: impl Into<TestNode>, service: Arc<dyn Service>) -> Result<Ring, NodeError> {
        let node = node.into();
        let name = node.name.clone();
        let ended = self.members().get(&name).map(Member::has_ended);
        assert!(ended != Some(false), "node {name} runs already");
        if ended.is_some() {
            self.crash(name.as_str()).await;
        }
        let number = self.next_process(&name);
        let around = (&self.world, &self.switch);
        let (parts, mut ends) = twins(&self.settings, around, (node, number), service, self.chance.fork());
        ends.set_away(self.away());
        ends.tell(ProcessChange::Started);
        let ring = Ring::start(parts).await?;
        self.members().insert(name, Member::new(ring.clone(), ends));
        Ok(ring)
    }

    fn records(&self) -> MutexGuard<'_, settle::Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_process(&self, name: &NodeName) -> u32 {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        let number = processes.entry(name.clone()).or_default();
        *number += 1;
        *number
    }

    pub(super) fn members(&self) -> MutexGuard<'_, BTreeMap<NodeName, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with<T>(&self, name: &str, act: impl FnOnce(&mut Member) -> T) -> T {
        let mut members = self.members();
        match members.get_mut(&node_name(name)) {
            Some(member) => act(member),
            None => {
                let known: Vec<String> = members.keys().map(ToString::to_string).collect();
                drop(members);
                panic!("no node {name} runs; there are: {}", known.join(", "))
            }
        }
    }

    /// The handle of a node.
    ///
    /// # Panics
    /// Here and below: where no node of this name runs.
    pub fn node(&self, name: &str) -> Ring {
        self.with(name, |member| member.ring.clone())
    }

    /// The names of all nodes that have neither crashed nor left.
    pub fn nodes(&self) -> Vec<NodeName> {
        self.members().keys().cloned().collect()
    }

    /// The names of all nodes that run and are neither frozen, wedged nor cut off in any way.
    pub fn takes_part(&self) -> Vec<NodeName> {
        self.members().iter().filter(|(_, member)| member.takes_part()).map(|(name, _)| name.clone()).collect()
    }

    /// Lets simulated time pass, and everything happen that is due by then.
    pub async fn advance(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }

    /// Simulated time since the ring was made.
    pub fn elapsed(&self) -> Duration {
        self.world.clock.elapsed()
    }

    /// Simulated time, for services that take a clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.world.clock.clone())
    }

    /// Waits until every partition is owned as planned and served, nothing moves, and all nodes agree on it. Nodes that
    /// are frozen, cut off or ended by themselves count as gone: it waits until they are replaced.
    ///
    /// # Panics
    /// After ten leases and a minute of simulated time, saying what was not at rest. See [`TestRing::settles_within`].
    pub async fn settled(&self) {
        let within = self.settings.timing.lease * 10 + GRACE;
        if let Err(unsettled) = self.settles_within(within).await {
            panic!("{unsettled}");
        }
    }

    /// As [`TestRing::settled`], for as long as is said.
    ///
    /// # Errors
    /// [`Unsettled`]: what was not at rest.
    pub async fn settles_within(&self, within: Duration) -> Result<(), Unsettled> {
        let end = self.elapsed() + within;
        loop {
            let Err(reason) = self.look().await else { return Ok(()) };
            if self.elapsed() >= end {
                return Err(Unsettled { within, reason });
            }
            self.advance(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> Result<(), String> {
        let nodes: Vec<Ring> =
            self.members().values().filter(|m| m.takes_part()).map(|member| member.ring.clone()).collect();
        if nodes.is_empty() {
            return Err("it has no node that takes part".to_owned());
        }
        let records = std::mem::take(&mut *self.records());
        let mut look = settle::Look { store: self.store(), records };
        let rest = look.check(self.settings.partitions, &nodes).await;
        *self.records() = look.records;
        rest
    }

    /// Who owns what at which epoch, by the store. Partitions that nobody owns are left out.
    pub async fn owners(&self) -> BTreeMap<PartitionId, (NodeName, Epoch)> {
        let mut owners = BTreeMap::new();
        for partition in self.settings.partitions.ids() {
            if let Some(claim) = settle::claim(self.store(), partition).await
                && let Some(holder) = claim.holder()
            {
                owners.insert(partition, (holder.node.clone(), claim.epoch));
            }
        }
        owners
    }

    /// The partition of a key.
    pub fn partition_for(&self, key: &[u8]) -> PartitionId {
        let key_hash: KeyHash = self.settings.key_hash;
        key_hash.partition(key, self.settings.partitions)
    }

    /// Drains a node as on SIGTERM, and waits until it has left.
    ///
    /// # Errors
    /// [`NodeError`] where it ended otherwise.
    ///
    /// # Panics
    /// Where it has not ended long after the limit of a drain: frozen, or a defect.
    pub async fn leave(&self, name: &str) -> Result<(), NodeError> {
        let ring = self.with(name, |member| {
            member.tell(ProcessChange::Leaving);
            member.ring.clone()
        });
        let limit = self.settings.timing.drain_timeout + GRACE;
        let Ok(result) = tokio::time::timeout(limit, ring.shutdown()).await else {
            panic!("node {name} has not left within {limit:?} of simulated time; is it frozen?")
        };
        drop(ring);
        self.crash(name).await;
        result
    }

    /// Ends a node as SIGKILL does: no hook is called, its lease runs out. Handles of it that are held elsewhere are of
    /// no use any more.
    pub async fn crash(&self, name: &str) {
        let process = self.with(name, |member| {
            if !member.has_ended() {
                self.world.fire(FaultKind::Crash);
                member.tell(ProcessChange::Crashed);
            }
            member.kill();
            member.process.clone()
        });
        self.members().remove(&node_name(name));
        for _ in 0..TURNS_TO_DIE {
            if process.tasks() == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{} tasks of node {name} have not ended; does the service block its thread?", process.tasks());
    }

    /// Freezes a node as SIGSTOP does: nothing of it gets on, while its clock does.
    pub fn pause(&self, name: &str) {
        self.with(name, |member| member.set_frozen(true));
    }

    /// Ends [`TestRing::pause`].
    pub fn resume(&self, name: &str) {
        self.with(name, |member| member.set_frozen(false));
    }

    /// Stops a node's main loop, as a defect in it would, while everything else of it goes on: it serves, and renews its
    /// lease no more.
    pub fn wedge(&self, name: &str) {
        self.with(name, |member| member.set_wedged(true));
    }

    /// Ends [`TestRing::wedge`].
    pub fn unwedge(&self, name: &str) {
        self.with(name, |member| member.set_wedged(false));
    }

    /// Cuts a node off from the store and from all others, and both ends know. See [`TestRing::set_link`] for less.
    pub fn cut(&self, name: &str) {
        self.set_link(name, Link::Down);
    }

    /// Ends [`TestRing::cut`].
    pub fn heal(&self, name: &str) {
        self.set_link(name, Link::Up);
    }

    /// Calls keys from outside: through whichever node takes part.
    pub fn caller(&self) -> Arc<dyn Caller> {
        Arc::new(AnyNode { members: Arc::clone(&self.members) })
    }

    /// What a plain NATS client gets that sends this to `<ring>.<operation>`, and waits 5 s.
    ///
    /// # Errors
    /// [`RequestError`] where nobody answered.
    pub async fn plain(&self, operation: &str, payload: impl Into<Bytes> + Send) -> Result<Bytes, RequestError> {
        let subject = subject::entry(&self.settings.name, operation);
        let answer = self.bus().request(&subject, Vec::new(), payload.into(), PLAIN_TIMEOUT).await?;
        Ok(answer.payload)
    }

    /// One more connection to the ring's bus, as a NATS client has it.
    pub fn bus(&self) -> MemBus {
        tapped(&self.world, &self.switch, None, self.world.clock.clone())
    }

    /// What all of the ring's buses are plugged into: where messages can be made to be lost.
    pub fn switch(&self) -> &MemSwitch {
        &self.switch
    }

    /// The ring's store: where writes can be made to fail, watches to stand still, and all of it to go back or be lost.
    pub fn store(&self) -> &MemStore {
        &self.world.store
    }

    /// What a service of this ring does long work by, as the cache does: right away, in the same order each time.
    pub fn process(&self) -> Process {
        self.world.process.clone()
    }

    /// Chance by the ring's seed, for services and work loads: what is drawn from it changes nothing else.
    pub fn chance(&self) -> Chance {
        self.chance.fork()
    }

    /// What is wrong with all connections.
    pub(super) fn away(&self) -> Link {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put_away(&self, link: Link) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }

    /// Every name there ever was a node of.
    pub(super) fn names_ever(&self) -> Vec<NodeName> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Names that run, own something, or stand in the plan.
    pub(super) async fn names_in_use(&self) -> BTreeSet<NodeName> {
        let mut used: BTreeSet<NodeName> = self.nodes().into_iter().collect();
        for partition in self.settings.partitions.ids() {
            used.extend(settle::claim(self.store(), partition).await.map(|claim| claim.owner.node));
        }
        if let Some(Record::Plan(plan)) = settle::record(self.store(), Key::Plan).await {
            let planned = plan.members.into_iter().map(|member| member.id.node);
            used.extend(planned.chain(plan.gone.into_iter().map(|id| id.node)));
        }
        used
    }
}

impl fmt::Debug for TestRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestRing")
            .field("nodes", &self.nodes())
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

impl Drop for TestRing {
    /// Kills all nodes: their tasks end when the runtime next turns.
    fn drop(&mut self) {
        let mut members = std::mem::take(&mut *self.members());
        members.values_mut().for_each(Member::kill);
        self.world.process.kill();
    }
}

/// Calls through whichever node takes part.
struct AnyNode {
    members: Members,
}

#[async_trait]
impl Caller for AnyNode {
    async fn call(&self, key: Bytes, operation: &str, payload: Bytes, timeout: Duration) -> Result<Reply, CallError> {
        self.call_with(key, operation, payload, How { timeout, resend: Resend::Never }).await
    }

    async fn call_with(&self, key: Bytes, operation: &str, payload: Bytes, how: How) -> Result<Reply, CallError> {
        let through = {
            let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
            members.values().find(|member| member.takes_part()).map(|member| member.ring.clone())
        };
        match through {
            Some(node) => node.call_with(key, operation, payload, how).await,
            None => panic!("nobody to call: no node of the ring takes part"),
        }
    }
}
