//! The owner's side: executes requests for partitions served here, holds back those whose partition is on its way, and
//! passes on those that belong elsewhere.
//!
//! In: requests from the network or from this process. Out: exactly one answer each, by whoever executes it. Every
//! request passes the gate before it executes and every answer before it is handed on.

mod answer;
mod confirm;
mod slot;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::TaskTracker;

use super::bus::{Bus, Message};
use super::envelope::{CallHead, MAX_HOPS, OnceHead, seal};
use super::subject::Intent;
use super::table::{Route, RouteTable};
use super::trace::traced;
use crate::service::{Gate, Grant, Request, Service};
use crate::types::guard::{self, Guard};
use crate::types::{Clock, Epoch, NodeId, PartitionCount, PartitionId, Process, Time};

pub use answer::{Answer, Refusal, error_body, plain_message};
use slot::{Mode, Slot};

/// Listens to what becomes of requests, for figures.
pub trait RequestObserver: Send + Sync + 'static {
    /// A request was answered here: with `ok`, or an error's code. Called on the hot path.
    fn answered(&self, operation: &str, code: &str, elapsed: Duration);

    /// A request was answered while the node was suspended, with what all copies have confirmed.
    fn confirmed(&self) {}

    /// A request is held back here: so many are by now, for its partition.
    fn held_back(&self, _partition: PartitionId, _held: usize) {}
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl RequestObserver for Unobserved {
    fn answered(&self, _: &str, _: &str, _: Duration) {}
}

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Requests that execute at once; beyond, `overloaded`.
    pub running: usize,
    /// Requests held back per partition; beyond, `overloaded`.
    pub parked: usize,
    /// Longest execution of one request; beyond, its outcome is unknown.
    pub execution: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self { running: 16_384, parked: 2048, execution: Duration::from_secs(10) }
    }
}

/// What the server tells the node's loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// The partition is parked and nothing runs for it any more.
    Idle(PartitionId, Epoch),
    /// Three quarters of the parked bound are taken.
    Pressure(PartitionId),
}

/// Notices not read yet: a set, so that it is bounded by the number of partitions.
#[derive(Debug, Default)]
pub struct Notices {
    pending: Mutex<BTreeSet<Notice>>,
    wake: Notify,
}

impl Notices {
    fn add(&self, notice: Notice) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(notice);
        self.wake.notify_one();
    }

    /// Waits until there are some, and takes them all. Cancelling it loses none.
    pub async fn next(&self) -> Vec<Notice> {
        loop {
            let taken = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken.into_iter().collect();
            }
            self.wake.notified().await;
        }
    }
}

/// A request on its way to its execution.
#[derive(Debug)]
pub struct Job {
    /// Of the key.
    pub partition: PartitionId,
    /// The epoch its sender knows.
    pub epoch: Epoch,
    /// How often it was passed on.
    pub hops: u8,
    /// The request.
    pub request: Request,
    /// W3C `traceparent`, if its caller gave one.
    pub trace: Option<String>,
    /// When its caller gives up, on this node's clock.
    pub deadline: Time,
    /// Where the answer goes.
    pub answer: Answer,
}

/// What becomes of a request.
enum Decision {
    Run(Grant, Job),
    PassOn(Job, Route),
    Refuse(Job, Refusal),
    Held,
}

/// What a server is made of.
pub struct ServerParts {
    /// This node in its incarnation.
    pub me: NodeId,
    /// How many partitions.
    pub partitions: PartitionCount,
    /// Executes.
    pub service: Arc<dyn Service>,
    /// Carries answers and what is passed on.
    pub bus: Arc<dyn Bus>,
    /// Whether this node may act.
    pub gate: Arc<Gate>,
    /// For deadlines.
    pub clock: Arc<dyn Clock>,
    /// What executions that wait run under.
    pub process: Process,
    /// Who owns what.
    pub table: RouteTable,
    /// Bounds.
    pub limits: ServerLimits,
    /// The node's loop listens.
    pub notices: Arc<Notices>,
    /// Told of every request that was answered here.
    pub observer: Arc<dyn RequestObserver>,
}

/// The server of one incarnation.
pub struct Server {
    parts: ServerParts,
    slots: Vec<Mutex<Slot>>,
    running: AtomicUsize,
    closed: AtomicBool,
    /// Woken while requests are held back.
    parked: Notify,
    tasks: TaskTracker,
}

impl Server {
    /// A server that passes everything on.
    pub fn new(parts: ServerParts) -> Arc<Self> {
        let slots = parts.partitions.ids().map(|_| Mutex::default()).collect();
        Arc::new(Self {
            parts,
            slots,
            running: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            parked: Notify::new(),
            tasks: TaskTracker::new(),
        })
    }

    fn slot(&self, partition: PartitionId) -> Option<MutexGuard<'_, Slot>> {
        // A panic of a service is caught in its own task and never under this lock.
        self.slots.get(partition.index()).map(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes one request. Returns soon: executions that wait go on by themselves.
    pub async fn dispatch(self: &Arc<Self>, job: Job) {
        match self.decide(job) {
            Decision::Run(grant, job) => self.run(grant, job).await,
            Decision::PassOn(job, route) => self.pass_on(job, &route).await,
            Decision::Refuse(job, refusal) => self.refuse(job, refusal).await,
            Decision::Held => {}
        }
    }

    fn decide(&self, job: Job) -> Decision {
        let partition = job.partition;
        let Some(mut slot) = self.slot(partition) else {
            return Decision::Refuse(job, Refusal::NotExecuted(format!("there is no partition {partition}")));
        };
        match &slot.mode {
            Mode::Serving(grant) if job.epoch <= grant.epoch() || !guard::holds(Guard::EpochOfRequest) => {
                let grant = grant.clone();
                let may_act = grant.is_current() || grant.may_be_confirmed();
                if guard::holds(Guard::GateBefore) && !may_act {
                    return Decision::Refuse(job, Refusal::NotExecuted("the owner's lease is suspended".into()));
                }
                let limit = self.parts.limits.running;
                if self.running.fetch_add(1, Ordering::Relaxed) >= limit {
                    self.running.fetch_sub(1, Ordering::Relaxed);
                    let reason = format!("{limit} requests are being executed on this node already");
                    return Decision::Refuse(job, Refusal::Overloaded(reason));
                }
                slot.running += 1;
                Decision::Run(grant, job)
            }
            Mode::Serving(_) | Mode::Parked(_) => self.park(&mut slot, job),
            Mode::Remote => match self.destination(partition, job.epoch) {
                Some(route) => Decision::PassOn(job, route),
                None => self.park(&mut slot, job),
            },
        }
    }

    /// Where a request goes that is not served here: the owner, if one is known that is not behind what the sender
    /// knows. A request whose sender knows more waits until it is known here too.
    fn destination(&self, partition: PartitionId, known_to_sender: Epoch) -> Option<Route> {
        let route = self.parts.table.route(partition)?;
        let not_behind = route.epoch >= known_to_sender || !guard::holds(Guard::EpochOfRequest);
        (not_behind && route.owner != self.parts.me).then_some(route)
    }

    fn park(&self, slot: &mut Slot, job: Job) -> Decision {
        if self.closed.load(Ordering::SeqCst) {
            return Decision::Refuse(job, Refusal::NotExecuted("this node is not in the ring".to_owned()));
        }
        let limit = self.parts.limits.parked;
        if guard::holds(Guard::ParkedBound) && slot.parked.len() >= limit {
            let reason = format!("{limit} requests are waiting for partition {} already", job.partition);
            return Decision::Refuse(job, Refusal::Overloaded(reason));
        }
        let partition = job.partition;
        slot.parked.push_back(job);
        self.parts.observer.held_back(partition, slot.parked.len());
        self.parked.notify_one();
        if slot.parked.len() == limit * 3 / 4 {
            self.notice(Notice::Pressure(partition));
        }
        Decision::Held
    }

    fn notice(&self, notice: Notice) {
        self.parts.notices.add(notice);
    }

    /// Executes: what is done at once is done here, what waits becomes a task.
    async fn run(self: &Arc<Self>, grant: Grant, job: Job) {
        let mut execution = Box::pin(Arc::clone(self).execute(grant, job));
        if (&mut execution).now_or_never().is_none() {
            self.parts.process.spawn_on(&self.tasks, execution);
        }
    }

    async fn execute(self: Arc<Self>, grant: Grant, job: Job) {
        let partition = job.partition;
        let began = self.parts.clock.now();
        let left = job.deadline.since(began);
        let running = RunningGuard { server: &self, partition };
        if left.is_zero() {
            drop(running);
            return self.refuse(job, Refusal::NotExecuted("its deadline had passed".into())).await;
        }
        let Job { request, answer, trace, deadline, .. } = job;
        let operation = request.operation.clone();
        let early = confirm::asked_too_early(&grant);
        let work = traced(trace, self.parts.service.handle(&grant, request));
        let work = std::panic::AssertUnwindSafe(work).catch_unwind();
        let outcome = tokio::time::timeout(self.parts.limits.execution, work).await;
        let result = match outcome {
            // An answer through a closed gate would be one of a node that is not the owner any more.
            Ok(Ok(result)) if grant.is_current() || !guard::holds(Guard::GateAfter) => result.map_err(Refusal::Service),
            Ok(Ok(result)) => match self.confirmed(&grant, &operation, early, deadline).await {
                Ok(()) => result.map_err(Refusal::Service),
                Err(refusal) => Err(refusal),
            },
            Ok(Err(_)) => Err(Refusal::Unknown("the service panicked while it was executed".into())),
            Err(_) => {
                let limit = self.parts.limits.execution;
                Err(Refusal::Unknown(format!("the service did not answer within {limit:?}")))
            }
        };
        let code = result.as_ref().err().map_or("ok", Refusal::code);
        self.parts.observer.answered(&operation, code, self.parts.clock.now().since(began));
        answer.give(&*self.parts.bus, &self.parts.me, partition, grant.epoch(), result).await;
        drop(running);
    }

    fn ended(&self, partition: PartitionId) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        let Some(mut slot) = self.slot(partition) else { return };
        slot.running -= 1;
        if let Mode::Parked(epoch) = slot.mode
            && slot.running == 0
        {
            self.notice(Notice::Idle(partition, epoch));
        }
    }

    async fn refuse(&self, job: Job, refusal: Refusal) {
        self.parts.observer.answered(&job.request.operation, refusal.code(), Duration::ZERO);
        job.answer.give(&*self.parts.bus, &self.parts.me, job.partition, job.epoch, Err(refusal)).await;
    }

    /// Sends a request on to its owner, who answers its caller directly. One from this process is only told to go
    /// there: its router waits for the answer itself.
    async fn pass_on(&self, job: Job, route: &Route) {
        let reply = match &job.answer {
            Answer::Here(_) => return self.refuse(job, Refusal::NotExecuted("owned by another node".into())).await,
            Answer::Nobody => None,
            Answer::Native(reply) | Answer::Plain(reply) => Some(reply.clone()),
        };
        if guard::holds(Guard::HopLimit) && job.hops >= MAX_HOPS {
            let reason = format!("it was passed on {MAX_HOPS} times and no node took itself for the owner");
            return self.refuse(job, Refusal::NotExecuted(reason)).await;
        }
        let now = self.parts.clock.now();
        let left = job.deadline.since(now);
        let once = job.request.once.map(|once| OnceHead::leaving(once, now));
        let head = CallHead {
            partition: job.partition,
            epoch: route.epoch,
            hops: job.hops + 1,
            plain: job.request.form == crate::service::Form::Plain,
            remaining_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            operation: job.request.operation.clone(),
            key: job.request.key.to_vec(),
            trace: job.trace.clone(),
            once,
        };
        let sent = match seal(&head, &job.request.payload) {
            Ok(payload) => {
                let intent = if job.request.once.is_some_and(|once| once.again) { Intent::Again } else { Intent::Call };
                let subject = format!("{}.{}", route.subject, intent.token());
                self.parts.bus.publish(Message { subject, reply, headers: Vec::new(), payload }).await
            }
            Err(error) => return self.refuse(job, Refusal::NotExecuted(error.to_string())).await,
        };
        if let Err(error) = sent {
            self.refuse(job, Refusal::NotExecuted(error.to_string())).await;
        }
    }

    /// Holds back requests for the partition; [`Notice::Idle`] follows once none runs.
    pub fn park_partition(&self, partition: PartitionId, epoch: Epoch) {
        let Some(mut slot) = self.slot(partition) else { return };
        slot.mode = Mode::Parked(epoch);
        if slot.running == 0 {
            self.notice(Notice::Idle(partition, epoch));
        }
    }

    /// Executes requests for the partition from now on, those held back first.
    pub fn serve_partition(self: &Arc<Self>, grant: Grant) {
        self.set_mode(grant.partition, Mode::Serving(grant));
    }

    /// Passes requests for the partition on from now on, those held back first.
    pub fn forward_partition(self: &Arc<Self>, partition: PartitionId) {
        self.set_mode(partition, Mode::Remote);
    }

    fn set_mode(self: &Arc<Self>, partition: PartitionId, mode: Mode) {
        if let Some(mut slot) = self.slot(partition) {
            let dropped = matches!(mode, Mode::Remote) && !guard::holds(Guard::ForwardAfterSwitch);
            slot.mode = mode;
            let parked = std::mem::take(&mut slot.parked);
            drop(slot);
            self.dispatch_again(if dropped { VecDeque::new() } else { parked });
        }
    }

    /// The table has a new owner for these: what waited for it goes there.
    pub fn routes_changed(self: &Arc<Self>, partitions: &[PartitionId]) {
        for partition in partitions {
            if let Some(mut slot) = self.slot(*partition)
                && matches!(slot.mode, Mode::Remote)
            {
                let parked = std::mem::take(&mut slot.parked);
                drop(slot);
                self.dispatch_again(parked);
            }
        }
    }

    /// In a task of its own: the node's loop, which calls this, executes nothing.
    fn dispatch_again(self: &Arc<Self>, parked: VecDeque<Job>) {
        if parked.is_empty() {
            return;
        }
        let server = Arc::clone(self);
        self.parts.process.spawn_on(&self.tasks, async move {
            for job in parked {
                server.dispatch(job).await;
            }
        });
    }

    /// Waits until requests are held back that [`Server::expire_parked`] has not seen yet, or has left.
    pub async fn something_parked(&self) {
        self.parked.notified().await;
    }

    /// Answers what was held back beyond its deadline. To be called every so often while something is.
    pub async fn expire_parked(&self) {
        let now = self.parts.clock.now();
        for partition in self.parts.partitions.ids() {
            let late: VecDeque<Job> = match self.slot(partition) {
                Some(mut slot) if !slot.parked.is_empty() => {
                    let (late, kept) = slot.parked.drain(..).partition(|job: &Job| job.deadline <= now);
                    slot.parked = kept;
                    if !slot.parked.is_empty() {
                        self.parked.notify_one();
                    }
                    late
                }
                _ => continue,
            };
            for job in late {
                let reason = format!("partition {partition} had no serving owner until the deadline");
                self.refuse(job, Refusal::NotExecuted(reason)).await;
            }
        }
    }

    /// Takes a request of this process; the answer comes through the channel.
    pub async fn submit(self: &Arc<Self>, mut job: Job) -> oneshot::Receiver<Result<super::Reply, Refusal>> {
        let (answer, receiver) = oneshot::channel();
        job.answer = Answer::Here(answer);
        self.dispatch(job).await;
        receiver
    }

    /// Whether requests for the partition are executed here, right now.
    pub fn is_serving(&self, partition: PartitionId) -> bool {
        self.slot(partition).is_some_and(|slot| matches!(&slot.mode, Mode::Serving(grant) if grant.is_current()))
    }

    /// Whether requests for the partition are executed or held back here.
    pub fn is_here(&self, partition: PartitionId) -> bool {
        self.slot(partition).is_some_and(|slot| !matches!(slot.mode, Mode::Remote))
    }

    /// Ends: answers what is held back, waits for what runs, at most so long.
    pub async fn close(self: &Arc<Self>, at_most: Duration) {
        // From here on nothing is held back: whoever holds a slot's lock now is followed by the sweep below.
        self.closed.store(true, Ordering::SeqCst);
        for partition in self.parts.partitions.ids() {
            let parked = self.slot(partition).map(|mut slot| std::mem::take(&mut slot.parked)).unwrap_or_default();
            for job in parked {
                self.refuse(job, Refusal::NotExecuted("the node is leaving".into())).await;
            }
        }
        self.tasks.close();
        let _ = tokio::time::timeout(at_most, self.tasks.wait()).await;
    }
}

/// Counts an execution down even where its task is dropped.
struct RunningGuard<'a> {
    server: &'a Server,
    partition: PartitionId,
}

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.server.ended(self.partition);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
