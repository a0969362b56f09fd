//! The bus's twin in memory: a switch, and a bus for each node plugged into it.
//!
//! Delivery is immediate and in order. Whatever chance decides (who of a queue group gets a message, which messages
//! are lost) comes from one seed.

mod subject;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, oneshot};

use super::{Bus, BusError, Headers, Message, RequestError, Source, Subscription};

/// The server's default.
const MAX_PAYLOAD: usize = 1024 * 1024;

/// What all buses are plugged into. Clones are the same switch.
#[derive(Debug, Clone)]
pub struct MemSwitch {
    state: Arc<Mutex<State>>,
    max_payload: usize,
}

#[derive(Debug)]
struct State {
    subscriptions: Vec<Subscriber>,
    /// Requests that wait for an answer, by their reply subject.
    waiting: HashMap<String, (oneshot::Sender<Message>, Arc<Port>)>,
    next: u64,
    loss: f64,
    rng: SmallRng,
}

#[derive(Debug)]
struct Subscriber {
    id: u64,
    pattern: String,
    queue: Option<String>,
    to: mpsc::Sender<Message>,
    port: Arc<Port>,
    delivered: u64,
    /// Ends after so many.
    max: Option<u64>,
}

impl Subscriber {
    fn is_done(&self) -> bool {
        self.max.is_some_and(|max| self.delivered >= max)
    }
}

/// Where a bus is plugged in.
#[derive(Debug)]
struct Port {
    connected: AtomicBool,
    dropped: AtomicU64,
    pending: AtomicU64,
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
        let rng = SmallRng::seed_from_u64(seed);
        let state = State { subscriptions: Vec::new(), waiting: HashMap::new(), next: 0, loss: 0.0, rng };
        Self { state: Arc::new(Mutex::new(state)), max_payload: MAX_PAYLOAD }
    }

    /// A bus for one more node, connected.
    pub fn bus(&self) -> MemBus {
        let port = Port { connected: AtomicBool::new(true), dropped: AtomicU64::new(0), pending: AtomicU64::new(0) };
        MemBus { switch: self.clone(), port: Arc::new(port) }
    }

    /// How many messages are lost from now on: a probability, 0 to 1, for each delivery to a subscription or requester.
    pub fn set_loss(&self, probability: f64) {
        self.state().loss = probability.clamp(0.0, 1.0);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemBus {
    /// Cuts this bus off or plugs it in again. What is sent to it meanwhile is gone; its subscriptions stay.
    pub fn set_connected(&self, connected: bool) {
        self.port.connected.store(connected, Ordering::SeqCst);
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
        let (size, limit) = (payload.len() + header_bytes, self.switch.max_payload);
        if size > limit { Err(BusError::TooLarge { size, limit }) } else { Ok(()) }
    }
}

impl State {
    fn token(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn lost(&mut self) -> bool {
        self.loss > 0.0 && self.rng.random_bool(self.loss)
    }

    /// Delivers to whoever is interested, and tells whether anybody was.
    fn deliver(&mut self, message: &Message) -> bool {
        if let Some((_, port)) = self.waiting.get(&message.subject) {
            let lost = !port.connected.load(Ordering::SeqCst) || self.lost();
            let waiter = if lost { None } else { self.waiting.remove(&message.subject) };
            if let Some((waiter, _)) = waiter {
                // The requester may have given up in this very moment.
                let _ = waiter.send(message.clone());
            }
            return true;
        }
        let chosen = self.choose(&message.subject);
        for &n in &chosen {
            if self.lost() {
                continue;
            }
            let subscriber = &mut self.subscriptions[n];
            subscriber.delivered += 1;
            if subscriber.to.try_send(message.clone()).is_err() {
                subscriber.port.dropped.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.subscriptions.retain(|subscriber| !subscriber.is_done());
        !chosen.is_empty()
    }

    /// Every plain subscription that matches, and one of each queue group.
    fn choose(&mut self, subject: &str) -> Vec<usize> {
        let (mut chosen, mut groups) = (Vec::new(), Vec::<(&str, Vec<usize>)>::new());
        for (n, subscriber) in self.subscriptions.iter().enumerate() {
            let reachable = subscriber.port.connected.load(Ordering::SeqCst) && !subscriber.to.is_closed();
            if !reachable || !subject::matches(&subscriber.pattern, subject) {
                continue;
            }
            match &subscriber.queue {
                None => chosen.push(n),
                Some(queue) => match groups.iter_mut().find(|(name, _)| name == queue) {
                    Some((_, members)) => members.push(n),
                    None => groups.push((queue, vec![n])),
                },
            }
        }
        chosen.extend(groups.iter().map(|(_, members)| members[self.rng.random_range(0..members.len())]));
        chosen
    }
}

#[async_trait]
impl Bus for MemBus {
    async fn publish(&self, message: Message) -> Result<(), BusError> {
        self.check(&message.subject, &message.headers, &message.payload)?;
        // That nobody listens is told to nobody, as by a server: it tells only who waits on the same connection.
        self.switch.state().deliver(&message);
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
        let (_entry, heard) = {
            let mut state = self.switch.state();
            let reply = format!("_INBOX.{}", state.token());
            state.waiting.insert(reply.clone(), (tx, Arc::clone(&self.port)));
            let message = Message { subject: subject.to_owned(), reply: Some(reply.clone()), headers, payload };
            let heard = state.deliver(&message);
            (Entry::new(self.clone(), reply), heard)
        };
        if !heard {
            return Err(RequestError::NoResponders(subject.to_owned()));
        }
        let answer = tokio::time::timeout(timeout, rx).await;
        answer.ok().and_then(Result::ok).ok_or_else(|| RequestError::Timeout(subject.to_owned(), timeout))
    }

    async fn subscribe(&self, subject: &str, queue: Option<&str>, capacity: usize) -> Result<Subscription, BusError> {
        if !subject::is_pattern(subject) {
            return Err(BusError::Client(format!("invalid subject '{subject}'")));
        }
        let (to, messages) = mpsc::channel(capacity.max(1));
        let mut state = self.switch.state();
        let id = state.token();
        let (pattern, queue, port) = (subject.to_owned(), queue.map(str::to_owned), Arc::clone(&self.port));
        state.subscriptions.push(Subscriber { id, pattern, queue, to, port, delivered: 0, max: None });
        Ok(Box::new(Subscribed { messages, id, switch: self.switch.clone(), received: 0 }))
    }

    async fn flush(&self) -> Result<(), BusError> {
        if self.is_connected() { Ok(()) } else { Err(BusError::Disconnected) }
    }

    fn is_connected(&self) -> bool {
        self.port.connected.load(Ordering::SeqCst)
    }

    fn max_payload(&self) -> usize {
        self.switch.max_payload
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
        let (id, max) = (self.id, self.received + more);
        let mut state = self.switch.state();
        if let Some(subscriber) = state.subscriptions.iter_mut().find(|subscriber| subscriber.id == id) {
            subscriber.max = Some(max);
        }
        state.subscriptions.retain(|subscriber| !subscriber.is_done());
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
        let id = self.id;
        self.switch.state().subscriptions.retain(|subscriber| subscriber.id != id);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn message(subject: &str) -> Message {
        Message { subject: subject.to_owned(), ..Message::default() }
    }

    #[tokio::test]
    async fn the_same_seed_chooses_the_same_members_of_a_queue_group() {
        let run = |seed| async move {
            let switch = MemSwitch::new(seed);
            let bus = switch.bus();
            let mut first = bus.subscribe("a", Some("q"), 64).await.unwrap();
            let _second = bus.subscribe("a", Some("q"), 64).await.unwrap();
            let mut got = Vec::new();
            for _ in 0..64 {
                bus.publish(message("a")).await.unwrap();
                got.push(futures::FutureExt::now_or_never(first.next()).is_some());
            }
            got
        };
        assert_eq!(run(7).await, run(7).await);
        assert_ne!(run(7).await, run(8).await);
    }

    #[tokio::test]
    async fn a_bus_cut_off_gets_nothing_and_its_group_serves_on() {
        let switch = MemSwitch::new(1);
        let (one, two, sender) = (switch.bus(), switch.bus(), switch.bus());
        let mut cut = one.subscribe("a", Some("q"), 64).await.unwrap();
        let mut serving = two.subscribe("a", Some("q"), 64).await.unwrap();
        one.set_connected(false);
        for _ in 0..16 {
            sender.publish(message("a")).await.unwrap();
        }
        assert_eq!(serving.by_ref().take(16).count().await, 16);
        assert!(futures::FutureExt::now_or_never(cut.next()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_message_is_a_time_out_for_who_waits_for_its_answer() {
        let switch = MemSwitch::new(1);
        let bus = switch.bus();
        let _deaf = bus.subscribe("a", None, 1).await.unwrap();
        switch.set_loss(1.0);
        let timeout = Duration::from_secs(60);
        let outcome = bus.request("a", Vec::new(), Bytes::new(), timeout).await;
        assert_eq!(outcome, Err(RequestError::Timeout("a".to_owned(), timeout)));
        assert_eq!(bus.pending(), 0);
    }
}
