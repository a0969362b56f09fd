//! The caller's side: finds the key's owner, asks it, and asks again where that is safe.
//!
//! Only what surely did not execute is tried again, within the caller's time. A request that was sent and not answered
//! has an unknown outcome, and is said to.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::bus::{Bus, BusError, Message, RequestError};
use super::call::{CallError, Caller, Reply};
use super::envelope::{CallHead, EnvelopeError, ReplyHead, open, seal};
use super::server::{Answer, Job, Refusal, Server};
use super::subject::Intent;
use super::table::{Route, RouteTable};
use super::trace::current_trace;
use crate::service::{Form, Request};
use crate::types::guard::{self, Guard};
use crate::types::{Chance, Clock, Epoch, KeyHash, PartitionCount, PartitionId, Time};

/// First pause before another try; doubles, with jitter, up to [`LAST_PAUSE`]. A change of the route ends it early.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
const LAST_PAUSE: Duration = Duration::from_millis(200);

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
}

/// What came of one try.
enum Try {
    Done(Result<Reply, CallError>),
    Again(String),
}

/// One call, for all its tries.
struct Call<'a> {
    partition: PartitionId,
    key: Bytes,
    operation: &'a str,
    payload: Bytes,
    deadline: Time,
}

impl Router {
    /// A router made of these.
    pub fn new(parts: RouterParts) -> Self {
        Self { parts, server: RwLock::new(None) }
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

    fn server(&self) -> Option<Arc<Server>> {
        self.server.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn attempt(&self, call: &Call<'_>) -> Try {
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

    async fn ask_here(&self, server: &Arc<Server>, call: &Call<'_>) -> Try {
        let left = self.left(call);
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
            },
            trace: current_trace(),
            deadline: call.deadline,
            answer: Answer::Nobody,
        };
        let answer = server.submit(job).await;
        match tokio::time::timeout(left + LAST_PAUSE, answer).await {
            Ok(Ok(Ok(reply))) => Try::Done(Ok(reply)),
            Ok(Ok(Err(refusal))) => refused(call.partition, refusal),
            Ok(Err(_)) => Try::Done(Err(unknown(call.partition, "the execution was cut off".to_owned()))),
            Err(_) => Try::Done(Err(unknown(call.partition, "the service did not answer in time".to_owned()))),
        }
    }

    async fn ask_owner(&self, route: &Route, call: &Call<'_>) -> Try {
        let left = self.left(call);
        let head = CallHead {
            partition: call.partition,
            epoch: route.epoch,
            hops: 0,
            plain: false,
            remaining_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            operation: call.operation.to_owned(),
            key: call.key.to_vec(),
            trace: current_trace(),
        };
        let message = match seal(&head, &call.payload) {
            Ok(message) => message,
            Err(EnvelopeError::HeadTooLarge(size)) => {
                return Try::Done(Err(CallError::TooLarge { size, limit: usize::from(u16::MAX) }));
            }
            Err(error) => return Try::Done(Err(unknown(call.partition, error.to_string()))),
        };
        let subject = format!("{}.{}", route.subject, Intent::Call.token());
        match self.parts.bus.request(&subject, Vec::new(), message, left).await {
            Ok(message) => read_reply(call.partition, &message),
            Err(RequestError::NoResponders(_)) => Try::Again(format!("its owner {} is not reachable", route.owner)),
            Err(RequestError::NotSent(BusError::TooLarge { size, limit })) => {
                Try::Done(Err(CallError::TooLarge { size, limit }))
            }
            Err(RequestError::NotSent(error)) => Try::Again(error.to_string()),
            Err(RequestError::Timeout(_, waited)) if !guard::holds(Guard::RetryOnlyUnexecuted) => {
                Try::Again(format!("no answer within {waited:?}"))
            }
            Err(RequestError::Timeout(_, waited)) => {
                let reason = format!("its owner {} did not answer within {waited:?}", route.owner);
                Try::Done(Err(unknown(call.partition, reason)))
            }
        }
    }
}

fn unknown(partition: PartitionId, reason: String) -> CallError {
    CallError::Unknown { partition, reason }
}

fn refused(partition: PartitionId, refusal: Refusal) -> Try {
    match refusal {
        Refusal::Unknown(reason) if !guard::holds(Guard::RetryOnlyUnexecuted) => Try::Again(reason),
        Refusal::NotExecuted(reason) => Try::Again(reason),
        Refusal::Service(error) => Try::Done(Err(CallError::Service(error))),
        Refusal::Overloaded(reason) => Try::Done(Err(CallError::Overloaded { partition, reason })),
        Refusal::Unknown(reason) => Try::Done(Err(unknown(partition, reason))),
    }
}

fn read_reply(partition: PartitionId, message: &Message) -> Try {
    match open::<ReplyHead>(&message.payload) {
        Ok((ReplyHead::Ok { node, epoch }, payload)) => Try::Done(Ok(Reply { partition, node, epoch, payload })),
        Ok((ReplyHead::Service(error), _)) => refused(partition, Refusal::Service(error)),
        Ok((ReplyHead::NotExecuted(reason), _)) => Try::Again(reason),
        Ok((ReplyHead::Overloaded(reason), _)) => refused(partition, Refusal::Overloaded(reason)),
        Ok((ReplyHead::Unknown(reason), _)) => refused(partition, Refusal::Unknown(reason)),
        Err(error) => Try::Done(Err(unknown(partition, error.to_string()))),
    }
}

#[async_trait]
impl Caller for Router {
    async fn call(&self, key: Bytes, operation: &str, payload: Bytes, timeout: Duration) -> Result<Reply, CallError> {
        let began = self.parts.clock.now();
        let partition = self.partition(&key);
        let call = Call { partition, key, operation, payload, deadline: began + timeout };
        let mut pause = FIRST_PAUSE;
        let mut reason = match self.attempt(&call).await {
            Try::Done(result) => return result,
            Try::Again(reason) => reason,
        };
        let mut changes = self.parts.table.subscribe();
        loop {
            let left = self.left(&call);
            if left <= FIRST_PAUSE {
                return Err(CallError::Unavailable { partition, waited: timeout, reason });
            }
            let jittered = self.parts.chance.jittered(pause);
            // A change of routes is worth a look at once; the pause bounds how often.
            tokio::time::sleep(FIRST_PAUSE / 4).await;
            let _ = tokio::time::timeout(jittered.min(left), changes.changed()).await;
            pause = (pause * 2).min(LAST_PAUSE);
            changes.mark_unchanged();
            reason = match self.attempt(&call).await {
                Try::Done(result) => return result,
                Try::Again(reason) => reason,
            };
        }
    }
}
