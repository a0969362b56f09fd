//! Where requests come in from NATS: the ring's plain subjects, a partition's own subject, this node's subject.
//!
//! Each subject has one reader; what it reads is handed to the server at once.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Notify, mpsc};

use super::copies::{Copies, SwitchHead, open_ask, seal_told};
use super::leave::Leave;
use super::offers::{Offers, Pending};
use super::parts::Queries;
use super::ring::{Ring, WeakRing};
use super::supervise::Supervisor;
use super::transfer::{Staging, seal_verdict};
use crate::ring::{Input, Offer, OpId};
use crate::rpc::drain::{DrainAnswer, DrainRequest};
use crate::rpc::envelope::{CallHead, ChunkHead, EnvelopeError, FarewellHead, OfferHead, ReplyHead, open, seal};
use crate::rpc::micro::MicroService;
use crate::rpc::server::{Answer, Job, Refusal, Server, plain_message};
use crate::rpc::subject::{self, Intent};
use crate::rpc::{Bus, Message, RouteTable, Subscription, TRACE_HEADER, sound_trace};
use crate::service::{Form, Request, Service, ServiceError};
use crate::types::guard::{self, Guard};
use crate::types::{Clock, Epoch, KeyHash, NodeId, Once, PartitionCount, RequestId, Throttle, Time};

/// Marks messages that only count: sent by a leaving member to reach the number at which its subscription ends.
pub(super) const NOP_HEADER: &str = "Nats-Ring-Nop";
/// How long a plain client is expected to wait where it does not say; header, in milliseconds.
pub(super) const TIMEOUT_HEADER: &str = "Nats-Ring-Timeout-Ms";
/// What a plain client calls its request: one that it sends again under the same name is executed once.
pub(super) const REQUEST_ID_HEADER: &str = "Nats-Ring-Request-Id";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a leaving node waits to be forgotten.
const FAREWELL_LIMIT: Duration = Duration::from_secs(3);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// How often messages that cannot be read are reported.
pub(super) const GARBLED_EVERY: Duration = Duration::from_secs(10);

/// What readers need.
pub(super) struct Entrance {
    /// Executes or passes on.
    pub(super) server: Arc<Server>,
    /// Knows the key of a plain request.
    pub(super) service: Arc<dyn Service>,
    /// For refusals.
    pub(super) bus: Arc<dyn Bus>,
    /// For deadlines.
    pub(super) clock: Arc<dyn Clock>,
    /// Key to partition.
    pub(super) key_hash: KeyHash,
    /// Key to partition.
    pub(super) partitions: PartitionCount,
    /// State on its way here.
    pub(super) staging: Arc<Staging>,
    /// Copies of partitions.
    pub(super) copies: Arc<Copies>,
    /// The machine's inputs.
    pub(super) inputs: mpsc::Sender<Input>,
    /// Offers not answered yet.
    pub(super) offers: Offers,
    /// Answers what any node can answer by itself.
    pub(super) queries: QueryBoard,
    /// Which questions those are.
    pub(super) query_names: Vec<&'static str>,
    /// What else plain clients may ask for.
    pub(super) operations: Vec<&'static str>,
    /// Who owns what.
    pub(super) table: RouteTable,
    /// Who this node is, for whoever asks it to leave.
    pub(super) me: NodeId,
    /// Said once an operator asks it to leave.
    pub(super) leave: Leave,
    /// For what must wait.
    pub(super) tasks: Supervisor,
    /// Tells the world which plain subjects there are, and how often they were asked.
    pub(super) micro: Arc<MicroService>,
    /// For log lines about messages that cannot be read.
    pub(super) garbled: Throttle,
}

/// The node that is asked, and whoever answers plain questions: each put here once.
pub(super) type QueryBoard = Arc<Board>;

#[derive(Default)]
pub(super) struct Board {
    pub(super) ring: OnceLock<WeakRing>,
    pub(super) answers: OnceLock<Arc<dyn Queries>>,
}

/// A subscription's reader, from outside: tells it to let go.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader {
    let_go: Arc<Notify>,
}

/// How many messages come, to tell how many can be in flight.
struct Pace {
    since: Time,
    counted: u64,
    before: u64,
}

impl Pace {
    /// Length of the window that is counted in.
    const WINDOW: Duration = Duration::from_millis(500);
    /// In flight for less than half a window; and some, however few there were.
    const AT_LEAST: u64 = 128;

    fn new(now: Time) -> Self {
        Self { since: now, counted: 0, before: 0 }
    }

    fn count(&mut self, now: Time) {
        if now.since(self.since) >= Self::WINDOW {
            (self.since, self.before, self.counted) = (now, self.counted, 0);
        }
        self.counted += 1;
    }

    fn in_flight_at_most(&self) -> u64 {
        Self::AT_LEAST + self.before.max(self.counted) / 2
    }
}

impl Reader {
    /// Ends the subscription once more messages have come than can be in flight, none of them lost.
    pub(super) fn let_go(&self) {
        self.let_go.notify_one();
    }
}

impl Entrance {
    /// Reads a plain subject until it ends.
    pub(super) async fn read_plain(self: Arc<Self>, mut messages: Subscription, reader: Reader) {
        let mut pace = Pace::new(self.clock.now());
        let mut let_go = pin!(reader.let_go.notified());
        loop {
            tokio::select! {
                biased;
                () = &mut let_go => {
                    if !guard::holds(Guard::LetGoWithoutLoss) {
                        return;
                    }
                    messages.let_go(pace.in_flight_at_most());
                    let_go.set(reader.let_go.notified());
                }
                message = messages.next() => match message {
                    Some(message) => {
                        pace.count(self.clock.now());
                        self.plain(message).await;
                    }
                    None => return,
                },
            }
        }
    }

    /// Reads this node's own subject until it ends.
    pub(super) async fn read_own(self: Arc<Self>, mut messages: Subscription) {
        while let Some(message) = messages.next().await {
            match Intent::parse(subject::last_token(&message.subject)) {
                Some(Intent::Call) => self.call(message, false).await,
                Some(Intent::Again) => self.call(message, true).await,
                Some(Intent::Chunk) => self.chunk(message).await,
                Some(Intent::Offer) => self.offer(message).await,
                Some(Intent::Copy) => self.copy(message).await,
                Some(Intent::Switch) => self.switch(message).await,
                Some(Intent::Farewell) => self.farewell(message),
                Some(Intent::Drain) => self.drain(message).await,
                Some(Intent::Status) => self.status(message).await,
                None => tracing::debug!(subject = message.subject, "not a subject of this release"),
            }
        }
    }

    async fn plain(&self, message: Message) {
        if header(&message, NOP_HEADER).is_some() {
            return;
        }
        let began = self.clock.now();
        let asked = subject::asked(&message.subject);
        let (operation, key) = (asked.operation.to_owned(), asked.key.map(str::to_owned));
        let refused = self.plain_request(&operation, key.as_deref(), message).await;
        // Requests passed on or still executing count with the time they took here.
        let elapsed = self.clock.now().since(began);
        self.micro.record(&operation, elapsed, refused.as_ref().map(|error| error.message.as_str()));
    }

    /// Answers why it was refused right here, if it was. `key` is what the subject has of it.
    async fn plain_request(&self, operation: &str, key: Option<&str>, message: Message) -> Option<ServiceError> {
        if self.query_names.contains(&operation) {
            self.answer_query(operation, key, message).await;
            return None;
        }
        let parts = guarded(|| {
            let (key, payload) = self.plain_parts(operation, key, &message)?;
            let id = request_id(operation, &key, &message)?;
            Ok((key, payload, id))
        });
        match parts {
            Ok(parts) => {
                self.server.dispatch(self.plain_job(operation.to_owned(), parts, message)).await;
                None
            }
            Err(error) => {
                self.refuse(message.reply, error.clone()).await;
                Some(error)
            }
        }
    }

    /// Key and payload, as the service handles them. Which partition the subject names does not matter: the key says
    /// where a request belongs, and a mapping or a client may have put another key's hash, or an older count, into it.
    fn plain_parts(
        &self,
        operation: &str,
        key: Option<&str>,
        message: &Message,
    ) -> Result<(Bytes, Bytes), ServiceError> {
        if !self.operations.contains(&operation) {
            let known: Vec<_> = self.operations.iter().chain(&self.query_names).copied().collect();
            let message = format!("operation '{operation}' is not known; known: {}", known.join(", "));
            return Err(ServiceError::new("bad_request", message));
        }
        let payload = message.payload.clone();
        match key {
            Some(key) => {
                let payload = self.service.keyed_payload(operation, key, payload, &message.headers)?;
                Ok((Bytes::copy_from_slice(key.as_bytes()), payload))
            }
            None if subject::wants_key(&message.subject) => {
                let message = format!("{operation}: there is no key behind '{}'", message.subject);
                Err(ServiceError::new("bad_request", message))
            }
            None => Ok((self.service.plain_key(operation, &payload)?, payload)),
        }
    }

    /// A question about a key of the subject is asked as one about a key of the payload.
    async fn answer_query(&self, query: &str, key: Option<&str>, message: Message) {
        let Some(reply) = message.reply else { return };
        let payload = match key {
            Some(key) => serde_json::json!({ "key": key }).to_string().into(),
            None => message.payload,
        };
        let asked = self.ring().and_then(|ring| Some((ring, self.queries.answers.get()?)));
        let result = match asked {
            Some((ring, queries)) => guarded(|| queries.answer(&ring, query, &payload)).map_err(Refusal::Service),
            None => Err(Refusal::NotExecuted("this node has just started, or is about to leave".to_owned())),
        };
        self.send(plain_message(reply, result)).await;
    }

    /// This node, unless it has just started, or is about to leave.
    fn ring(&self) -> Option<Ring> {
        self.queries.ring.get()?.upgrade()
    }

    /// How this very node is, for whoever asks it and no other.
    async fn status(&self, message: Message) {
        let (Some(subject), Some(status)) = (message.reply, self.ring().map(|ring| ring.status())) else { return };
        let payload = status.answer().encode();
        self.send(Message { subject, payload, ..Message::default() }).await;
    }

    fn plain_job(
        &self,
        operation: String,
        (key, payload, id): (Bytes, Bytes, Option<RequestId>),
        message: Message,
    ) -> Job {
        let now = self.clock.now();
        let asked = header(&message, TIMEOUT_HEADER).and_then(|text| text.parse().ok()).map(Duration::from_millis);
        let remaining = asked.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT);
        let once = id.map(|id| Once { id, first_sent: now, again: false });
        Job {
            partition: self.key_hash.partition(&key, self.partitions),
            epoch: Epoch::ZERO,
            hops: 0,
            trace: header(&message, TRACE_HEADER).and_then(sound_trace),
            request: Request { operation, key, payload, form: Form::Plain, remaining, once },
            deadline: now + remaining,
            answer: message.reply.map_or(Answer::Nobody, Answer::Plain),
        }
    }

    async fn refuse(&self, reply: Option<String>, error: ServiceError) {
        if let Some(reply) = reply {
            self.send(plain_message(reply, Err(Refusal::Service(error)))).await;
        }
    }

    async fn send(&self, message: Message) {
        if let Err(error) = self.bus.publish(message).await {
            tracing::debug!(%error, "answer not sent");
        }
    }

    /// A routed request; `again`: it may have been executed before.
    async fn call(&self, message: Message, again: bool) {
        let (head, payload) = match open::<CallHead>(&message.payload) {
            Ok(opened) => opened,
            Err(error) => return self.not_understood(message.reply, &error).await,
        };
        let (now, remaining) = (self.clock.now(), Duration::from_millis(u64::from(head.remaining_ms)));
        let (form, once) = (head.form(), head.once.map(|once| once.arrived(now, again)));
        if again && once.is_none() {
            return self.without_its_name(message.reply, form).await;
        }
        let job = Job {
            partition: head.partition,
            epoch: head.epoch,
            hops: head.hops,
            trace: head.trace,
            request: Request { operation: head.operation, key: head.key.into(), payload, form, remaining, once },
            deadline: now + remaining,
            answer: match (message.reply, form) {
                (Some(reply), Form::Plain) => Answer::Plain(reply),
                (Some(reply), Form::Native) => Answer::Native(reply),
                (None, _) => Answer::Nobody,
            },
        };
        self.server.dispatch(job).await;
    }

    /// It comes again, and the name that it came by is not to be read: whether it was executed nobody knows.
    async fn without_its_name(&self, reply: Option<String>, form: Form) {
        let Some(subject) = reply else { return };
        let reason = format!("node {}: it was sent again, under a name that cannot be read here", self.me.node);
        self.send(match form {
            Form::Plain => plain_message(subject, Err(Refusal::Unknown(reason))),
            Form::Native => {
                let payload = seal(&ReplyHead::Unknown(reason), &[]).unwrap_or_default();
                Message { subject, payload, ..Message::default() }
            }
        })
        .await;
    }

    /// Says so to whoever asks, in words of another release perhaps: it was surely not executed. A plain client whose
    /// request was passed on finds the reason in the headers.
    async fn not_understood(&self, reply: Option<String>, error: &EnvelopeError) {
        self.report_garbled(error);
        let Some(subject) = reply else { return };
        let reason = format!("node {}: {error}", self.me.node);
        let Message { headers, .. } = plain_message(String::new(), Err(Refusal::NotExecuted(reason.clone())));
        let payload = seal(&ReplyHead::NotExecuted(reason), &[]).unwrap_or_default();
        self.send(Message { subject, payload, headers, ..Message::default() }).await;
    }

    fn report_garbled(&self, error: &EnvelopeError) {
        // Whoever may publish here decides how often.
        if let Some(held_back) = self.garbled.pass(self.clock.now()) {
            tracing::warn!(%error, held_back, "message of another node not understood");
        }
    }

    async fn chunk(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        let verdict = match open::<ChunkHead>(&message.payload) {
            Ok((head, payload)) => self.staging.take(&head, payload),
            Err(error) => Err(error.to_string()),
        };
        self.send(Message { subject: reply, payload: seal_verdict(&verdict), ..Message::default() }).await;
    }

    /// Another copy of a partition, of its owner's mostly. What it asks is done when it is answered.
    async fn copy(&self, message: Message) {
        let Some(subject) = message.reply else { return };
        let now = self.clock.now();
        let (partition, ask) = match open_ask(&message.payload, now) {
            Ok(opened) => opened,
            // Unanswered, as from a silent one: it leaves the set, or is never taken in.
            Err(error) => return self.report_garbled(&error),
        };
        let heard = self.copies.asked(partition, ask);
        match seal_told(partition, &heard, now) {
            Ok(payload) => self.send(Message { subject, payload, ..Message::default() }).await,
            Err(error) => self.report_garbled(&error),
        }
    }

    /// Everything is here already, or else it is no offer to take.
    async fn switch(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        let checked = open::<SwitchHead>(&message.payload).map_err(|error| error.to_string());
        let checked = checked.and_then(|(head, _)| match self.copies.stands_at(head.partition, head.tail) {
            true => Ok(head),
            false => Err(format!("the copy here does not stand at {}", head.tail)),
        });
        match checked {
            Ok(SwitchHead { partition, epoch, revision, from, replicas, .. }) => {
                let op = self.offers.add(Pending { reply, partition, epoch, handed: None });
                let offer = Offer { partition, epoch, revision, from, replicas };
                let _ = self.inputs.send(Input::Offered { op, offer }).await;
            }
            Err(reason) => {
                let payload = seal_verdict(&Err(reason));
                self.send(Message { subject: reply, payload, ..Message::default() }).await;
            }
        }
    }

    /// Answered once the owners it names, or later ones, are known here; by then nothing is sent to the leaving node.
    fn farewell(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        let head = match open::<FarewellHead>(&message.payload) {
            Ok((head, _)) => head,
            // Unanswered: who leaves then waits its longest, and what is in flight arrives meanwhile.
            Err(error) => return self.report_garbled(&error),
        };
        let (table, bus) = (self.table.clone(), Arc::clone(&self.bus));
        self.tasks.once(async move {
            if tokio::time::timeout(FAREWELL_LIMIT, table.reached(&head.epochs)).await.is_ok() {
                let message = Message { subject: reply, payload: seal_verdict(&Ok(())), ..Message::default() };
                let _ = bus.publish(message).await;
            }
        });
    }

    /// Answered at once, also where it was asked before: the drain itself shows in the store.
    async fn drain(&self, message: Message) {
        let for_good = DrainRequest::decode(&message.payload).for_good;
        tracing::info!(node = %self.me.node, for_good, "asked to drain over NATS");
        self.leave.ask(for_good);
        let Some(reply) = message.reply else { return };
        let payload = DrainAnswer { node: self.me.node.clone(), start: self.me.incarnation.start }.encode();
        self.send(Message { subject: reply, payload, ..Message::default() }).await;
    }

    /// Checked here for completeness; whether this node may take the partition is for the machine to say.
    async fn offer(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        let checked = open::<OfferHead>(&message.payload).map_err(|error| error.to_string());
        let checked = checked.and_then(|(head, _)| self.staging.take_whole(&head).map(|handed| (head, handed)));
        match checked {
            Ok((head, handed)) => {
                let OfferHead { partition, epoch, revision, from, .. } = head;
                let op: OpId = self.offers.add(Pending { reply, partition, epoch, handed: Some(handed) });
                let offer = Offer { partition, epoch, revision, from, replicas: Vec::new() };
                let _ = self.inputs.send(Input::Offered { op, offer }).await;
            }
            Err(reason) => {
                let payload = seal_verdict(&Err(reason));
                self.send(Message { subject: reply, payload, ..Message::default() }).await;
            }
        }
    }
}

/// A message that makes the service panic must not take the reader of its subject with it.
fn guarded<T>(work: impl FnOnce() -> Result<T, ServiceError>) -> Result<T, ServiceError> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| Err(ServiceError::new("internal", "the service panicked over this request")))
}

/// The request's name, where its client gave it one.
fn request_id(operation: &str, key: &[u8], message: &Message) -> Result<Option<RequestId>, ServiceError> {
    let Some(name) = header(message, REQUEST_ID_HEADER) else { return Ok(None) };
    RequestId::named(name.trim().as_bytes(), operation, key)
        .map(Some)
        .map_err(|error| ServiceError::new("bad_request", format!("header \"{REQUEST_ID_HEADER}\": {error}")))
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Messages that only count, to one subject: what a leaving member sends until its subscription has ended.
pub(super) async fn send_nops(bus: &dyn Bus, subject: &str, count: u64) {
    for _ in 0..count {
        let headers = vec![(NOP_HEADER.to_owned(), "1".to_owned())];
        let message = Message { subject: subject.to_owned(), headers, ..Message::default() };
        if bus.publish(message).await.is_err() {
            return;
        }
    }
}

/// The subject of everything between nodes that is for this one.
pub(super) fn own_subject(ring: &crate::types::RingName, me: &NodeId) -> String {
    format!("{}.*", subject::node(ring, me))
}
