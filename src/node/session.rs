//! One incarnation of a node, driven: the only loop that feeds the machine and carries out what it answers.
//!
//! In: inputs from watches, compare-and-set tasks, hooks, peers and commands, all through one bounded channel; notices
//! of the server; time. Out: tasks, and the server told what to do with each partition. The loop itself waits for
//! nothing but its inputs: a node whose loop does not turn renews no lease.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::copies::{self, Copies, Kept, KeptCell};
use super::entrance::{Entrance, GARBLED_EVERY, QueryBoard, own_subject};
use super::events::EventSender;
use super::executor::Executor;
use super::hooks::Hooks;
use super::leave::Leave;
use super::offers::Offers;
use super::parts::{NodeParts, RingShape};
use super::readers::Readers;
use super::shown::{Driven, Shown};
use super::supervise::Supervisor;
use super::transfer::Staging;
use super::watches::{Place, Watching};
use crate::connect::SUBSCRIPTION_CAPACITY;
use crate::coord::{Position, StoreIdentity, WatchScope};
use crate::ring::{Action, Identity, Input, Machine, Outcome, Timing};
use crate::rpc::micro::{EndpointInfo, MicroService, ServiceInfo};
use crate::rpc::server::{Notice, Notices, Server, ServerParts};
use crate::rpc::{Router, subject};
use crate::service::Gate;
use crate::types::{NodeId, Throttle, Time};

/// Inputs waiting for the loop; whoever has one more waits.
const INPUTS: usize = 4096;
/// Inputs taken in one turn of the loop before others get their turn.
const BATCH: usize = 64;
/// How often requests held back, if any, are looked through for those past their deadline.
const EXPIRY_TICK: Duration = Duration::from_millis(50);
/// How long tasks may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What an incarnation is given.
pub(super) struct Session {
    pub(super) parts: Arc<NodeParts>,
    pub(super) shape: RingShape,
    pub(super) identity: StoreIdentity,
    /// What this incarnation has seen of the store.
    pub(super) position: Position,
    pub(super) who: Identity,
    pub(super) timing: Timing,
    pub(super) router: Arc<Router>,
    pub(super) events: EventSender,
    pub(super) shown: watch::Sender<Shown>,
    pub(super) gates: watch::Sender<Arc<Gate>>,
    pub(super) commands: watch::Receiver<Command>,
    pub(super) queries: QueryBoard,
    /// Said once an operator asks the node to leave, over its subject.
    pub(super) leave: Leave,
    /// The copies that it begins with, and those that it leaves.
    pub(super) kept: KeptCell,
}

/// What the node is asked to do from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Command {
    /// Go on.
    #[default]
    Run,
    /// Give everything away and leave.
    Drain,
}

impl Session {
    /// Runs the incarnation to its end.
    pub(super) async fn run(self) -> Outcome {
        let now = self.parts.clock.now();
        let machine = Driven::new(Machine::new(self.who.clone(), self.timing.clone(), now));
        self.shown.send_replace(Shown { driven: Some(machine.clone()), copies: None });
        let (inputs, receiver) = mpsc::channel(INPUTS);
        let stop = CancellationToken::new();
        let supervisor = Supervisor::new(
            self.parts.process.clone(),
            stop.clone(),
            Arc::clone(&self.parts.clock),
            inputs.clone(),
            self.events.clone(),
        );
        self.follow(&supervisor, WatchScope::Ring, Place::default(), &inputs);
        self.watch_connection(&supervisor, &inputs);
        let mut drive = Drive {
            executor: None,
            lease_watch: Place::default(),
            commands: self.commands.clone(),
            session: self,
            machine,
            receiver,
            inputs,
            supervisor,
            notices: Arc::new(Notices::default()),
            drained: false,
        };
        let outcome = drive.turn_until_over().await;
        drive.close(&outcome).await;
        outcome
    }

    fn follow(&self, supervisor: &Supervisor, scope: WatchScope, place: Place, inputs: &mpsc::Sender<Input>) {
        let ended = place.stop.clone();
        let watching = Arc::new(Watching {
            store: Arc::clone(&self.parts.store),
            scope,
            place,
            identity: self.identity.clone(),
            position: self.position.clone(),
            chance: self.parts.chance.clone(),
            inputs: inputs.clone(),
        });
        supervisor.keep_until(ended, "watch", move || {
            let watching = Arc::clone(&watching);
            async move {
                watching.run().await;
                // Its end is meant: the incarnation is over.
                std::future::pending().await
            }
        });
    }

    fn watch_connection(&self, supervisor: &Supervisor, inputs: &mpsc::Sender<Input>) {
        let (mut connected, inputs) = (self.parts.connected.clone(), inputs.clone());
        supervisor.once(async move {
            loop {
                let up = *connected.borrow_and_update();
                if inputs.send(Input::Connection(up)).await.is_err() || connected.changed().await.is_err() {
                    return;
                }
            }
        });
    }
}

impl Session {
    /// What is left of an incarnation's copies is for the next one, or for the next process.
    async fn keep(&self, copies: &Copies, outcome: &Outcome) {
        let returning = &self.parts.returning;
        let wanted = match outcome {
            Outcome::Evicted => !returning.delay.is_zero(),
            Outcome::Left => returning.keep.is_some() && !self.leave.is_for_good(),
            // Another life of the store: what is held has no place in it.
            _ => false,
        };
        let (followers, mut rest) = copies.close();
        let mut kept = Kept::default();
        if wanted {
            kept = Kept::new(&self.shape, followers);
        } else {
            rest.extend(followers.into_keys());
        }
        match outcome {
            Outcome::Evicted => copies::discard(&*self.parts.service, rest).await,
            // Freed while the next generation is agreed on.
            Outcome::StoreReset(_) => kept = Kept::nothing_of(rest),
            _ => {}
        }
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }
}

struct Drive {
    session: Session,
    machine: Driven,
    /// From the lease on; before it there is nothing to execute.
    executor: Option<Executor>,
    lease_watch: Place,
    receiver: mpsc::Receiver<Input>,
    inputs: mpsc::Sender<Input>,
    supervisor: Supervisor,
    notices: Arc<Notices>,
    commands: watch::Receiver<Command>,
    drained: bool,
}

impl Drive {
    async fn turn_until_over(&mut self) -> Outcome {
        let first_scope = self.machine.machine().first_scope();
        self.watch_leases(first_scope);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let sleep = self.sleep();
            tokio::select! {
                // In this order, not at random, so that a simulated run is the same each time. None starves another:
                // a command comes once, and notices end with the moves they are about.
                biased;
                changed = self.commands.changed(), if !self.drained => {
                    // The handle is gone: nobody can want this node any more.
                    self.drained = changed.is_err() || *self.commands.borrow() == Command::Drain;
                    if self.drained {
                        self.hold_on();
                        batch.push(Input::Drain);
                    }
                }
                () = self.session.leave.asked.cancelled(), if !self.drained => {
                    self.drained = true;
                    if self.session.leave.is_for_good() {
                        batch.push(Input::DrainForGood);
                    } else {
                        self.hold_on();
                        batch.push(Input::Drain);
                    }
                }
                notices = self.notices.next() => batch.extend(notices.into_iter().map(input_of)),
                _ = self.receiver.recv_many(&mut batch, BATCH) => {}
                () = tokio::time::sleep(sleep) => {}
            }
            // Every step looks at everything that is due: one is enough.
            if batch.is_empty() {
                batch.push(Input::Wake);
            }
            for input in batch.drain(..) {
                let actions = self.machine.machine().step(self.session.parts.clock.now(), input);
                if let Some(outcome) = self.carry_out(actions) {
                    return outcome;
                }
            }
            if let Some(executor) = &mut self.executor {
                executor.end_turn();
            }
            // Whoever waits for the node to be ready looks again.
            self.session.shown.send_modify(|_| {});
        }
    }

    /// Where copies are kept for the next process, none is let go from now on.
    fn hold_on(&self) {
        if let Some(executor) = self.executor.as_ref().filter(|_| self.session.parts.returning.keep.is_some()) {
            executor.copies.hold_on();
        }
    }

    fn sleep(&self) -> Duration {
        let now: Time = self.session.parts.clock.now();
        let longest = self.session.parts.clock.longest_sleep();
        self.machine.machine().next_wake().map_or(longest, |at| at.since(now)).min(longest)
    }

    fn carry_out(&mut self, actions: Vec<Action>) -> Option<Outcome> {
        for action in actions {
            match action {
                Action::Finish(outcome) => return Some(outcome),
                Action::Emit(event) => self.session.events.emit(event),
                Action::WatchLeases(scope) => self.watch_leases(scope),
                action => {
                    if self.executor.is_none() {
                        let me = self.machine.machine().id();
                        self.executor = me.map(|me| self.enter(me));
                    }
                    match &mut self.executor {
                        Some(executor) => executor.carry_out(action),
                        None => self.before_the_lease(action),
                    }
                }
            }
        }
        None
    }

    /// Before there is a lease, only the lease itself is written. The state of the ring is seen before it: routes known
    /// now are told once.
    fn before_the_lease(&self, action: Action) {
        match action {
            Action::Route { partition, owner } => self.session.router.table().update([(partition, owner)]),
            Action::Cas { op, key, expected, record, timeout, .. } => {
                let (store, inputs) = (Arc::clone(&self.session.parts.heartbeat_store), self.inputs.clone());
                let position = self.session.position.clone();
                self.supervisor.once(async move {
                    let result = store.cas(&key.text(), expected, record.encode(), timeout).await;
                    _ = result.as_ref().map(|revision| position.saw(*revision));
                    let _ = inputs.send(Input::Cas { op, result }).await;
                });
            }
            _ => {}
        }
    }

    fn watch_leases(&mut self, scope: WatchScope) {
        self.lease_watch = self.lease_watch.next();
        self.session.follow(&self.supervisor, scope, self.lease_watch.clone(), &self.inputs);
    }

    /// The lease is held: this node can be spoken to.
    fn enter(&mut self, me: NodeId) -> Executor {
        let session = &self.session;
        let parts = &session.parts;
        let suspended_for = session.timing.suspend_limit().saturating_sub(session.timing.act());
        let gate = Gate::with_suspension(Arc::clone(&parts.clock), suspended_for);
        session.gates.send_replace(Arc::clone(&gate));
        let server = Server::new(ServerParts {
            me: me.clone(),
            partitions: session.shape.partitions,
            service: Arc::clone(&parts.service),
            bus: Arc::clone(&parts.bus),
            gate: Arc::clone(&gate),
            clock: Arc::clone(&parts.clock),
            process: parts.process.clone(),
            table: session.router.table().clone(),
            limits: parts.limits.clone(),
            notices: Arc::clone(&self.notices),
            observer: Arc::clone(&parts.observer),
        });
        let staging = Arc::new(Staging::new(Arc::clone(&parts.clock), parts.staging_bytes));
        let told = (self.inputs.clone(), session.events.clone());
        let kept = Kept::take(&session.kept, &session.shape);
        let copies = Copies::new(parts, me.clone(), session.shape.partitions, self.supervisor.clone(), told, kept);
        session.shown.send_modify(|shown| shown.copies = Some(Arc::clone(&copies)));
        let entrance = Arc::new(Entrance {
            server: Arc::clone(&server),
            service: Arc::clone(&parts.service),
            bus: Arc::clone(&parts.bus),
            clock: Arc::clone(&parts.clock),
            key_hash: session.shape.key_hash,
            partitions: session.shape.partitions,
            staging: Arc::clone(&staging),
            copies: Arc::clone(&copies),
            inputs: self.inputs.clone(),
            offers: Offers::default(),
            queries: session.queries.clone(),
            query_names: parts.queries.clone(),
            operations: parts.service.operations(),
            table: session.router.table().clone(),
            me: me.clone(),
            leave: session.leave.clone(),
            tasks: self.supervisor.clone(),
            micro: self.micro(&me),
            garbled: Throttle::new(GARBLED_EVERY),
        });
        self.listen(&me, &entrance);
        session.router.set_server(Some(Arc::clone(&server)));
        let executor = Executor {
            parts: Arc::clone(parts),
            shape: session.shape.clone(),
            position: session.position.clone(),
            me,
            hooks: Hooks::new(Arc::clone(&parts.service), session.shape.partitions),
            readers: Readers::new(Arc::clone(&entrance), parts.process.clone()),
            entrance,
            gate,
            supervisor: self.supervisor.clone(),
            table: session.router.table().clone(),
            routes: Vec::new(),
            grants: HashMap::new(),
            handed: HashMap::new(),
            transfers: HashMap::new(),
            leaving: HashMap::new(),
            copies,
            partitions_changed: false,
        };
        executor.readers.open_plain(&parts.ring);
        executor
    }

    /// One micro service a node: what plain clients can ask for, found by `nats micro ls`.
    fn micro(&self, me: &NodeId) -> Arc<MicroService> {
        let parts = &self.session.parts;
        let operations = parts.service.operations();
        let endpoint = |name: &str| EndpointInfo {
            name: name.to_owned(),
            subject: subject::entry(&parts.ring, name),
            queue_group: subject::QUEUE.to_owned(),
            metadata: BTreeMap::from([("key_subject".to_owned(), subject::keyed_operation(&parts.ring, name))]),
        };
        let metadata = BTreeMap::from([
            ("node".to_owned(), me.node.to_string()),
            ("start".to_owned(), me.incarnation.start.to_string()),
        ]);
        MicroService::new(ServiceInfo {
            name: parts.ring.to_string(),
            id: format!("{}-{}", me.node, me.incarnation.start),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: format!("nats-ring '{}', node {}", parts.ring, me.node),
            metadata,
            endpoints: operations.iter().chain(&parts.queries).map(|name| endpoint(name)).collect(),
        })
    }

    fn listen(&self, me: &NodeId, entrance: &Arc<Entrance>) {
        let own = own_subject(&self.session.parts.ring, me);
        let (bus, readers) = (Arc::clone(&self.session.parts.bus), Arc::clone(entrance));
        self.supervisor.keep("node subject", move || {
            let (bus, entrance, own) = (Arc::clone(&bus), Arc::clone(&readers), own.clone());
            async move {
                let messages = bus.subscribe(&own, None, SUBSCRIPTION_CAPACITY).await.map_err(|e| e.to_string())?;
                entrance.read_own(messages).await;
                Ok(())
            }
        });
        let (bus, micro) = (Arc::clone(&self.session.parts.bus), Arc::clone(&entrance.micro));
        self.supervisor.keep("discovery", move || {
            let (bus, micro) = (Arc::clone(&bus), Arc::clone(&micro));
            // Ended with the others of this incarnation: it needs no sign of its own.
            async move { micro.run(bus, CancellationToken::new()).await.map_err(|error| error.to_string()) }
        });
        let server = Arc::clone(&entrance.server);
        self.supervisor.keep("deadlines", move || {
            let server = Arc::clone(&server);
            async move {
                loop {
                    server.something_parked().await;
                    tokio::time::sleep(EXPIRY_TICK).await;
                    server.expire_parked().await;
                }
            }
        });
    }

    /// Ends what the incarnation started.
    async fn close(self, outcome: &Outcome) {
        self.session.router.set_server(None);
        let copies = self.executor.as_ref().map(|executor| Arc::clone(&executor.copies));
        if let Some(executor) = self.executor {
            executor.close().await;
        }
        self.session.shown.send_modify(|_| {});
        self.supervisor.close(CLOSE_TIMEOUT).await;
        if let Some(copies) = copies {
            self.session.keep(&copies, outcome).await;
        }
    }
}

fn input_of(notice: Notice) -> Input {
    match notice {
        Notice::Idle(partition, epoch) => Input::Idle { partition, epoch },
        Notice::Pressure(partition) => Input::Pressure { partition },
    }
}
