//! The bus's twin in memory: a switch, and a bus for each node plugged into it.
//!
//! Delivery is immediate and in order, unless faults are set. Whatever chance decides (who of a queue group gets a message,
//! which messages are lost, late or doubled) comes from one seed. `post` is what is on its way, `interest` who wants what.

mod interest;
mod post;
mod subject;

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use tokio::sync::{mpsc, oneshot};

use super::{Bus, BusError, Headers, Message, RequestError, Source, Subscription};
use crate::types::{Chance, Process};

use interest::Interest;
use post::Post;
pub use post::{BusFaults, BusFired};

/// The server's default.
const MAX_PAYLOAD: usize = 1024 * 1024;
/// How the subjects begin that answers are awaited on.
const INBOX: &str = "_INBOX.";

/// What all buses are plugged into. Clones are the same switch.
#[derive(Debug, Clone)]
pub struct MemSwitch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something is due earlier than what was.
    sooner: tokio::sync::Notify,
    process: Process,
}

#[derive(Debug)]
struct State {
    interest: Interest,
    /// Requests that wait for an answer, by their reply subject. No message: nobody subscribes to what was asked.
    waiting: HashMap<String, (oneshot::Sender<Option<Message>>, Arc<Port>)>,
    last_inbox: u64,
    post: Post,
    faults: BusFaults,
    fired: BusFired,
    chance: Chance,
}

/// Listens to what is published on a bus.
pub trait Tap: Send + Sync + 'static {
    /// A message was handed to the bus, and nothing was done with it yet.
    fn published(&self, message: &Message);

    /// A message of this bus is at the switch, and nobody subscribes to it.
    fn unheard(&self, _message: &Message) {}
}

/// Where a bus is plugged in.
struct Port {
    number: u64,
    connected: AtomicBool,
    /// Whether what it sends gets out, and what is sent to it gets in: it does not know where not.
    carries_out: AtomicBool,
    carries_in: AtomicBool,
    delay_ms: AtomicU64,
    dropped: AtomicU64,
    pending: AtomicU64,
    tap: Option<Arc<dyn Tap>>,
}

impl Port {
    fn is_connected(&self) -> bool {
        self.connected.load(Ordering::SeqCst)
    }

    fn hears(&self) -> bool {
        self.is_connected() && self.carries_in.load(Ordering::SeqCst)
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("number", &self.number).field("connected", &self.connected).finish_non_exhaustive()
    }
}

/// [`Bus`] of one node. Clones share one connection; [`MemSwitch::bus`] makes another.
#[derive(Debug, Clone)]
pub struct MemBus {
    switch: MemSwitch,
    port: Arc<Port>,
}

impl MemSwitch {
    /// A switch whose chance comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self::under(seed, Process::real())
    }

    /// The same; what is on its way is carried by a task of this process.
    pub fn under(seed: u64, process: Process) -> Self {
        let state = State {
            interest: Interest::default(),
            waiting: HashMap::new(),
            last_inbox: 0,
            post: Post::default(),
            faults: BusFaults::default(),
            fired: BusFired::default(),
            chance: Chance::seeded(seed),
        };
        let sooner = tokio::sync::Notify::new();
        Self { shared: Arc::new(Shared { state: Mutex::new(state), sooner, process }) }
    }

    /// A bus for one more node, connected.
    pub fn bus(&self) -> MemBus {
        self.plug(None)
    }

    /// The same, listened to.
    pub fn tapped_bus(&self, tap: Arc<dyn Tap>) -> MemBus {
        self.plug(Some(tap))
    }

    fn plug(&self, tap: Option<Arc<dyn Tap>>) -> MemBus {
        let port = Port {
            number: self.state().interest.next_id(),
            connected: AtomicBool::new(true),
            carries_out: AtomicBool::new(true),
            carries_in: AtomicBool::new(true),
            delay_ms: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            tap,
        };
        MemBus { switch: self.clone(), port: Arc::new(port) }
    }

    /// How many messages are lost from now on: a probability, 0 to 1, for each delivery to a subscription or requester.
    pub fn set_loss(&self, probability: f64) {
        self.state().faults.loss = probability.clamp(0.0, 1.0);
    }

    /// What happens to messages from now on; those on their way arrive as was decided.
    pub fn set_faults(&self, faults: BusFaults) {
        self.state().faults = faults;
    }

    /// How often each of them happened.
    pub fn fired(&self) -> BusFired {
        self.state().fired
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemBus {
    /// Cuts this bus off or plugs it in again. What is sent to it meanwhile is gone; its subscriptions stay.
    pub fn set_connected(&self, connected: bool) {
        self.port.connected.store(connected, Ordering::SeqCst);
    }

    /// Whether what it sends gets out, and what is sent to it gets in. Neither this bus nor the switch knows where not: it
    /// is still given its share of a queue group's messages.
    pub fn set_carries(&self, out: bool, into: bool) {
        self.port.carries_out.store(out, Ordering::SeqCst);
        self.port.carries_in.store(into, Ordering::SeqCst);
    }

    /// How long each message to and from this bus takes at most, each way; in whole milliseconds.
    pub fn set_delay(&self, up_to: Duration) {
        self.port.delay_ms.store(u64::try_from(up_to.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A round trip was made on the connection: what was subscribed before it is known at the switch.
    pub fn made_round_trip(&self) {
        self.switch.state().interest.all_known(self.port.number);
    }

    /// Requests of this bus that wait for an answer right now.
    pub fn pending(&self) -> usize {
        usize::try_from(self.port.pending.load(Ordering::SeqCst)).unwrap_or(usize::MAX)
    }

    fn check(&self, subject: &str, headers: &Headers, payload: &Bytes) -> Result<(), BusError> {
        if !self.is_connected() {
            return Err(BusError::Disconnected);
        }
        if !subject::is_publishable(subject) {
            return Err(BusError::Client(format!("invalid subject '{subject}'")));
        }
        let header_bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let (size, limit) = (payload.len() + header_bytes, MAX_PAYLOAD);
        if size > limit { Err(BusError::TooLarge { size, limit }) } else { Ok(()) }
    }

    fn hand_over(&self, message: Message) {
        if let Some(tap) = &self.port.tap {
            tap.published(&message);
        }
        self.switch.send(&self.port, message);
    }
}

#[async_trait]
impl Bus for MemBus {
    async fn publish(&self, message: Message) -> Result<(), BusError> {
        self.check(&message.subject, &message.headers, &message.payload)?;
        // That nobody listens is told to nobody, as by a server: it tells only who waits on the same connection.
        self.hand_over(message);
        Ok(())
    }

    async fn request(
        &self,
        subject: &str,
        headers: Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        self.check(subject, &headers, &payload)?;
        let (tx, rx) = oneshot::channel();
        let reply = {
            let mut state = self.switch.state();
            state.last_inbox += 1;
            let reply = format!("{INBOX}{}", state.last_inbox);
            state.waiting.insert(reply.clone(), (tx, Arc::clone(&self.port)));
            reply
        };
        let _entry = Entry::new(self.clone(), reply.clone());
        self.hand_over(Message { subject: subject.to_owned(), reply: Some(reply), headers, payload });
        match tokio::time::timeout(timeout, rx).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(RequestError::NoResponders(subject.to_owned())),
            _ => Err(RequestError::Timeout(subject.to_owned(), timeout)),
        }
    }

    async fn subscribe(&self, subject: &str, queue: Option<&str>, capacity: usize) -> Result<Subscription, BusError> {
        if !subject::is_pattern(subject) {
            return Err(BusError::Client(format!("invalid subject '{subject}'")));
        }
        let (to, messages) = mpsc::channel(capacity.max(1));
        let id = self.switch.state().interest.add(subject, queue, to, &self.port);
        self.switch.introduce(id);
        Ok(Box::new(Subscribed { messages, id, switch: self.switch.clone(), received: 0 }))
    }

    async fn flush(&self) -> Result<(), BusError> {
        if !self.is_connected() {
            return Err(BusError::Disconnected);
        }
        self.made_round_trip();
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.port.is_connected()
    }

    fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }

    fn dropped(&self) -> u64 {
        self.port.dropped.load(Ordering::SeqCst)
    }
}

/// A waiting request; takes its entry away when it ends, however it ends.
struct Entry {
    bus: MemBus,
    reply: String,
}

impl Entry {
    fn new(bus: MemBus, reply: String) -> Self {
        bus.port.pending.fetch_add(1, Ordering::SeqCst);
        Self { bus, reply }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.bus.switch.state().waiting.remove(&self.reply);
        self.bus.port.pending.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Unsubscribes when dropped.
struct Subscribed {
    messages: mpsc::Receiver<Message>,
    id: u64,
    switch: MemSwitch,
    received: u64,
}

impl Source for Subscribed {
    fn let_go(&mut self, more: u64) {
        self.switch.state().interest.end_after(self.id, self.received + more);
    }
}

impl Stream for Subscribed {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let polled = self.messages.poll_recv(cx);
        self.received += u64::from(matches!(polled, Poll::Ready(Some(_))));
        polled
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.switch.state().interest.remove(self.id);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
