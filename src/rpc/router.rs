//! The caller's side: finds the key's owner, asks it, and asks again where that is safe.
//!
//! What surely did not execute is tried again, within the caller's time. A request that was sent and not answered has an
//! unknown outcome: it is sent again where its caller says that this does no harm, under the same name, and else said to be
//! unknown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use super::bus::{Bus, BusError, Message, RequestError};
use super::call::{CallError, Caller, How, Reply, Resend};
use super::envelope::{CallHead, EnvelopeError, OnceHead, ReplyHead, open, seal};
use super::resend::{Sendings, Way};
use super::server::{Answer, Job, Refusal, Server};
use super::subject::Intent;
use super::table::{Route, RouteTable};
use super::trace::current_trace;
use crate::service::{Form, NOT_ENOUGH_REPLICAS, Request, ServiceError, UNKNOWN};
use crate::types::guard::{self, Guard};
use crate::types::{Chance, Clock, Epoch, KeyHash, Once, PartitionCount, PartitionId, RequestId, Time};

/// First pause before another try; doubles, with jitter, up to [`LAST_PAUSE`]. A change of the route ends it early.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
const LAST_PAUSE: Duration = Duration::from_millis(200);
/// How often whoever waits for an answer looks whether it is still to be expected from there.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a router is made of.
pub struct RouterParts {
    /// Carries calls to owners elsewhere.
    pub bus: Arc<dyn Bus>,
    /// Who owns what.
    pub table: RouteTable,
    /// For deadlines.
    pub clock: Arc<dyn Clock>,
    /// For jitter.
    pub chance: Chance,
    /// Key to partition.
    pub key_hash: KeyHash,
    /// Key to partition.
    pub partitions: PartitionCount,
}

/// Routes calls to owners.
pub struct Router {
    parts: RouterParts,
    /// The server of this process, if it is a node: what it owns never touches the network.
    server: RwLock<Option<Arc<Server>>>,
    resends: AtomicU64,
}

/// What came of one try.
enum Try {
    Done(Result<Reply, CallError>),
    /// Surely not executed.
    Again(String),
    /// Surely not executed: for want of copies.
    TooFewCopies(ServiceError),
    /// Refused by the service.
    Refused(ServiceError),
    /// Surely not executed: a bound was reached.
    Overloaded(String),
    /// May have been executed, as who was asked says.
    Unsure(String),
    /// May have been executed: nobody says anything.
    Silent(String),
}

/// One call, for all its tries.
struct Call<'a> {
    partition: PartitionId,
    key: Bytes,
    operation: &'a str,
    payload: Bytes,
    timeout: Duration,
    deadline: Time,
    sendings: Sendings,
    /// Those sent before that may still be answered: a move that was under way answers late.
    earlier: FuturesUnordered<Asking>,
}

/// What was heard of the sendings of a call.
enum Heard {
    /// The answer to the last one.
    This(Result<Message, RequestError>),
    /// One before it was executed.
    Earlier(Reply),
    Nothing,
}

/// A request that was sent, until its answer.
type Asking = BoxFuture<'static, Result<Message, RequestError>>;

impl Router {
    /// A router made of these.
    pub fn new(parts: RouterParts) -> Self {
        Self { parts, server: RwLock::new(None), resends: AtomicU64::new(0) }
    }

    /// Requests for what this process owns go straight to this server.
    pub fn set_server(&self, server: Option<Arc<Server>>) {
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// The partition of a key.
    pub fn partition(&self, key: &[u8]) -> PartitionId {
        self.parts.key_hash.partition(key, self.parts.partitions)
    }

    /// The table it routes by.
    pub fn table(&self) -> &RouteTable {
        &self.parts.table
    }

    /// Whether this process serves the partition right now, as far as it can know by itself.
    pub fn serves(&self, partition: PartitionId) -> bool {
        self.server().is_some_and(|server| server.is_serving(partition))
    }

    /// How often a request was sent again because no answer came.
    pub fn resends(&self) -> u64 {
        self.resends.load(Ordering::Relaxed)
    }

    fn server(&self) -> Option<Arc<Server>> {
        self.server.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn attempt(&self, call: &mut Call<'_>) -> Try {
        while let Some(Some(answer)) = call.earlier.next().now_or_never() {
            if let Some(reply) = call.heard(answer) {
                return Try::Done(Ok(reply));
            }
        }
        let server = self.server();
        if let Some(server) = server.filter(|server| server.is_here(call.partition)) {
            return self.ask_here(&server, call).await;
        }
        match self.parts.table.route(call.partition) {
            Some(route) => self.ask_owner(&route, call).await,
            None => Try::Again("it has no owner".to_owned()),
        }
    }

    fn left(&self, call: &Call<'_>) -> Duration {
        call.deadline.since(self.parts.clock.now())
    }

    async fn ask_here(&self, server: &Arc<Server>, call: &mut Call<'_>) -> Try {
        let left = self.left(call);
        let once = self.send(call);
        let job = Job {
            partition: call.partition,
            epoch: Epoch::ZERO,
            hops: 0,
            request: Request {
                operation: call.operation.to_owned(),
                key: call.key.clone(),
                payload: call.payload.clone(),
                form: Form::Native,
                remaining: left,
                once,
            },
            trace: current_trace(),
            deadline: call.deadline,
            answer: Answer::Nobody,
        };
        let answer = server.submit(job).await;
        match tokio::time::timeout(left + LAST_PAUSE, answer).await {
            Ok(Ok(Ok(reply))) => Try::Done(Ok(reply)),
            Ok(Ok(Err(refusal))) => refused(refusal),
            Ok(Err(_)) => Try::Unsure("the execution was cut off".to_owned()),
            Err(_) => Try::Unsure("the service did not answer in time".to_owned()),
        }
    }

    /// It is sent now: by which name.
    fn send(&self, call: &mut Call<'_>) -> Option<Once> {
        self.resends.fetch_add(u64::from(call.sendings.is_again()), Ordering::Relaxed);
        call.sendings.send(self.parts.clock.now())
    }

    async fn ask_owner(&self, route: &Route, call: &mut Call<'_>) -> Try {
        let left = self.left(call);
        let once = self.send(call);
        let head = CallHead {
            partition: call.partition,
            epoch: route.epoch,
            hops: 0,
            plain: false,
            remaining_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            operation: call.operation.to_owned(),
            key: call.key.to_vec(),
            trace: current_trace(),
            once: once.map(|once| OnceHead::leaving(once, self.parts.clock.now())),
        };
        let message = match seal(&head, &call.payload) {
            Ok(message) => message,
            Err(EnvelopeError::HeadTooLarge(size)) => {
                return Try::Done(Err(CallError::TooLarge { size, limit: usize::from(u16::MAX) }));
            }
            Err(error) => return Try::Done(Err(unknown(call.partition, error.to_string()))),
        };
        let intent = if once.is_some_and(|once| once.again) { Intent::Again } else { Intent::Call };
        let subject = format!("{}.{}", route.subject, intent.token());
        let way = Way { epoch: route.epoch, connects: self.parts.bus.connects() };
        let wait = call.sendings.wait(way).map_or(left, |wait| self.parts.chance.jittered(wait * 4 / 3).min(left));
        let bus = Arc::clone(&self.parts.bus);
        let asking = async move { bus.request(&subject, Vec::new(), message, left).await }.boxed();
        let answer = match self.answer_of(asking, way, wait, call).await {
            Heard::This(answer) => answer,
            Heard::Earlier(reply) => return Try::Done(Ok(reply)),
            Heard::Nothing => return silent(format!("its owner {} did not answer", route.owner)),
        };
        match answer {
            Ok(message) => read_reply(call.partition, &message),
            Err(RequestError::NoResponders(_)) => Try::Again(format!("its owner {} is not reachable", route.owner)),
            Err(RequestError::NotSent(BusError::TooLarge { size, limit })) => {
                Try::Done(Err(CallError::TooLarge { size, limit }))
            }
            Err(RequestError::NotSent(error)) => Try::Again(error.to_string()),
            Err(RequestError::Timeout(_, waited)) => {
                silent(format!("its owner {} did not answer within {waited:?}", route.owner))
            }
        }
    }

    /// Waits for an answer; hears nothing once it is better to send again: `wait` is over, the partition has another owner, or what
    /// was under way was lost with the connection.
    async fn answer_of(&self, mut asking: Asking, way: Way, wait: Duration, call: &mut Call<'_>) -> Heard {
        if !call.sendings.resends() {
            return Heard::This(asking.await);
        }
        let until = self.parts.clock.now() + wait;
        loop {
            let left = until.since(self.parts.clock.now());
            let earlier = &mut call.earlier;
            let answer = async {
                tokio::select! {
                    biased;
                    answer = &mut asking => Ok(answer),
                    Some(answer) = earlier.next() => Err(answer),
                }
            };
            match tokio::time::timeout(left.min(LOOK_EVERY), answer).await {
                Ok(Ok(answer)) => return Heard::This(answer),
                Ok(Err(earlier)) => match call.heard(earlier) {
                    Some(reply) => return Heard::Earlier(reply),
                    // This one is still under way.
                    None => continue,
                },
                Err(_) => {}
            }
            let epoch = self.parts.table.route(call.partition).map(|route| route.epoch);
            let moved = epoch.is_some_and(|epoch| epoch != way.epoch);
            if left <= LOOK_EVERY || moved || self.parts.bus.connects() != way.connects {
                call.earlier.push(asking);
                return Heard::Nothing;
            }
        }
    }

    /// A refusal as the end. Where a sending before may still have been executed, its answer decides.
    async fn refuse(&self, call: &mut Call<'_>, error: ServiceError) -> Result<Reply, CallError> {
        while call.sendings.doubts(&error) {
            match tokio::time::timeout(self.left(call), call.earlier.next()).await {
                Ok(Some(answer)) => match call.heard(answer) {
                    Some(reply) => return Ok(reply),
                    None => continue,
                },
                Ok(None) | Err(_) => break,
            }
        }
        Err(call.sendings.refused(call.partition, error))
    }

    /// What comes after a try.
    fn after(&self, call: &mut Call<'_>, tried: Try, pause: Duration) -> Next {
        let (partition, again, resends) = (call.partition, call.sendings.is_again(), call.sendings.resends());
        match tried {
            // Its age has grown by a byte. The sending before was small enough.
            Try::Done(Err(error @ CallError::TooLarge { .. })) if again => {
                Next::End(Err(call.sendings.over(partition, call.timeout, error.to_string())))
            }
            Try::Done(result) => Next::End(result),
            Try::Again(reason) => Next::Try(reason, Some(pause)),
            Try::Overloaded(reason) if again => Next::Try(reason, Some(call.sendings.pause())),
            Try::Overloaded(reason) => Next::End(Err(CallError::Overloaded { partition, reason })),
            Try::TooFewCopies(error) if call.sendings.waits_for_copies(self.parts.clock.now(), call.timeout) => {
                Next::Try(error.message, Some(pause))
            }
            Try::Refused(ServiceError { code, message }) if code == UNKNOWN && resends => {
                call.sendings.unanswered(message.clone());
                Next::Try(message, Some(call.sendings.pause()))
            }
            Try::TooFewCopies(error) | Try::Refused(error) => Next::Refused(error),
            Try::Unsure(reason) | Try::Silent(reason) if !resends => Next::End(Err(unknown(partition, reason))),
            Try::Unsure(reason) => {
                call.sendings.unanswered(reason.clone());
                Next::Try(reason, Some(call.sendings.pause()))
            }
            Try::Silent(reason) => {
                call.sendings.unanswered(reason.clone());
                Next::Try(reason, None)
            }
        }
    }
}

/// What comes after a try.
enum Next {
    End(Result<Reply, CallError>),
    Refused(ServiceError),
    /// Another one, and why; after a pause, or at once.
    Try(String, Option<Duration>),
}

fn unknown(partition: PartitionId, reason: String) -> CallError {
    CallError::Unknown { partition, reason }
}

fn silent(reason: String) -> Try {
    if guard::holds(Guard::RetryOnlyUnexecuted) { Try::Silent(reason) } else { Try::Again(reason) }
}

fn refused(refusal: Refusal) -> Try {
    match refusal {
        Refusal::Unknown(reason) if !guard::holds(Guard::RetryOnlyUnexecuted) => Try::Again(reason),
        Refusal::NotExecuted(reason) => Try::Again(reason),
        Refusal::Service(error) if error.code == NOT_ENOUGH_REPLICAS => Try::TooFewCopies(error),
        Refusal::Service(error) => Try::Refused(error),
        Refusal::Overloaded(reason) => Try::Overloaded(reason),
        Refusal::Unknown(reason) => Try::Unsure(reason),
    }
}

impl Call<'_> {
    /// A sending before was answered: the reply, where it was executed. Where it was surely not, it does not count any more.
    fn heard(&mut self, answer: Result<Message, RequestError>) -> Option<Reply> {
        let tried = match answer {
            Ok(message) => read_reply(self.partition, &message),
            Err(RequestError::Timeout(..)) => return None,
            Err(RequestError::NoResponders(_) | RequestError::NotSent(_)) => Try::Again(String::new()),
        };
        match tried {
            Try::Done(Ok(reply)) => return Some(reply),
            Try::Refused(error) if error.code == UNKNOWN => {}
            Try::Done(Err(_)) | Try::Unsure(_) | Try::Silent(_) => {}
            Try::Again(_) | Try::TooFewCopies(_) | Try::Refused(_) | Try::Overloaded(_) => self.sendings.not_executed(),
        }
        None
    }
}

fn read_reply(partition: PartitionId, message: &Message) -> Try {
    match open::<ReplyHead>(&message.payload) {
        Ok((ReplyHead::Ok { node, epoch }, payload)) => Try::Done(Ok(Reply { partition, node, epoch, payload })),
        Ok((ReplyHead::Service(error), _)) => refused(Refusal::Service(error)),
        Ok((ReplyHead::NotExecuted(reason), _)) => Try::Again(reason),
        Ok((ReplyHead::Overloaded(reason), _)) => refused(Refusal::Overloaded(reason)),
        Ok((ReplyHead::Unknown(reason), _)) => refused(Refusal::Unknown(reason)),
        Err(error) => Try::Done(Err(unknown(partition, error.to_string()))),
    }
}

#[async_trait]
impl Caller for Router {
    async fn call(&self, key: Bytes, operation: &str, payload: Bytes, timeout: Duration) -> Result<Reply, CallError> {
        self.call_with(key, operation, payload, How { timeout, resend: Resend::Never }).await
    }

    async fn call_with(&self, key: Bytes, operation: &str, payload: Bytes, how: How) -> Result<Reply, CallError> {
        let How { timeout, resend } = how;
        let (partition, deadline) = (self.partition(&key), self.parts.clock.now() + timeout);
        let sendings = Sendings::new(resend, || RequestId::draw(&self.parts.chance));
        let mut call =
            Call { partition, key, operation, payload, timeout, deadline, sendings, earlier: FuturesUnordered::new() };
        let mut changes = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let tried = self.attempt(&mut call).await;
            let (reason, wait) = match self.after(&mut call, tried, pause) {
                Next::End(result) => return result,
                Next::Refused(error) => return self.refuse(&mut call, error).await,
                Next::Try(reason, wait) => (reason, wait),
            };
            let left = self.left(&call);
            if left <= FIRST_PAUSE {
                return Err(call.sendings.over(partition, timeout, reason));
            }
            let changes = changes.get_or_insert_with(|| self.parts.table.subscribe());
            if let Some(wait) = wait {
                let jittered = self.parts.chance.jittered(wait);
                // A change of routes is worth a look at once; the pause bounds how often.
                tokio::time::sleep(FIRST_PAUSE / 4).await;
                let _ = tokio::time::timeout(jittered.min(left), changes.changed()).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
            changes.mark_unchanged();
        }
    }
}
