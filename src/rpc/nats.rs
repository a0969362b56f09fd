//! The bus over a real NATS connection.
//!
//! In and out: [`Message`]s. What the client would queue while disconnected is refused here, requests go through the
//! connection's own inbox, and a subscription keeps no more unread messages than its capacity.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, HeaderMap, Subject, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use tokio::sync::watch;
use tokio::task::unconstrained;

use super::{Bus, BusError, Headers, Message, RequestError, Source, Subscription};
use crate::connect::{Connection, InboxError};

/// How long a message may wait for room in the client's send queue, which only a stuck server keeps full.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a round trip to the server may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// [`Bus`] over a [`Connection`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsBus {
    connection: Connection,
    dropped: Arc<AtomicU64>,
}

impl NatsBus {
    /// The bus of this connection.
    pub fn new(connection: Connection) -> Self {
        Self { connection, dropped: Arc::default() }
    }

    /// Requests that wait for an answer right now.
    pub fn pending(&self) -> usize {
        self.connection.inbox().pending()
    }

    fn check(&self, headers: &Headers, payload: &Bytes) -> Result<(), BusError> {
        if !self.connection.is_connected() {
            return Err(BusError::Disconnected);
        }
        let (size, limit) = (wire_bytes(headers, payload), self.connection.max_payload());
        if size > limit { Err(BusError::TooLarge { size, limit }) } else { Ok(()) }
    }

    fn refused(&self, error: InboxError) -> BusError {
        match error {
            InboxError::Disconnected => BusError::Disconnected,
            InboxError::NotSent(reason) => BusError::Client(reason),
            InboxError::NoResponders => BusError::Client("no responders".to_owned()),
            InboxError::Timeout if !self.connection.is_connected() => BusError::Disconnected,
            InboxError::Timeout => BusError::Client("the server did not answer in time".to_owned()),
        }
    }
}

/// What the server counts against `max_payload`: the header block and the payload.
fn wire_bytes(headers: &Headers, payload: &Bytes) -> usize {
    if headers.is_empty() {
        return payload.len();
    }
    let lines: usize = headers.iter().map(|(name, value)| name.len() + value.len() + ": \r\n".len()).sum();
    "NATS/1.0\r\n\r\n".len() + lines + payload.len()
}

/// `None` where there are none, so that the usual message allocates no map.
fn header_map(headers: &Headers) -> Result<Option<HeaderMap>, BusError> {
    if headers.is_empty() {
        return Ok(None);
    }
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let bad = |what: &str| BusError::Client(format!("header '{name}' has {what} that cannot be sent"));
        let header = name.parse::<async_nats::HeaderName>().map_err(|_| bad("a name"))?;
        let value = value.parse::<async_nats::HeaderValue>().map_err(|_| bad("a value"))?;
        map.append(header, value);
    }
    Ok(Some(map))
}

fn received(message: async_nats::Message) -> Message {
    let headers = message.headers.map_or_else(Vec::new, |map| {
        let pairs = map.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
    });
    Message {
        subject: message.subject.into_string(),
        reply: message.reply.map(Subject::into_string),
        headers,
        payload: message.payload,
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(&self, message: Message) -> Result<(), BusError> {
        self.check(&message.headers, &message.payload)?;
        let Message { subject, reply, headers, payload } = message;
        let client = self.connection.client();
        let send = async {
            match (reply, header_map(&headers)?) {
                (None, None) => client.publish(subject, payload).await,
                (None, Some(headers)) => client.publish_with_headers(subject, headers, payload).await,
                (Some(reply), None) => client.publish_with_reply(subject, reply, payload).await,
                (Some(reply), Some(map)) => client.publish_with_reply_and_headers(subject, reply, map, payload).await,
            }
            .map_err(|error| BusError::Client(error.to_string()))
        };
        tokio::time::timeout(SEND_TIMEOUT, send)
            .await
            .unwrap_or_else(|_| Err(BusError::Client(format!("the send queue stayed full for {SEND_TIMEOUT:?}"))))
    }

    async fn request(
        &self,
        subject: &str,
        headers: Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        self.check(&headers, &payload)?;
        let map = header_map(&headers)?;
        match self.connection.inbox().request(Subject::from(subject), map, payload, timeout).await {
            Ok(message) => Ok(received(message)),
            Err(InboxError::NoResponders) => Err(RequestError::NoResponders(subject.to_owned())),
            Err(InboxError::Timeout) => Err(RequestError::Timeout(subject.to_owned(), timeout)),
            Err(error) => Err(RequestError::NotSent(self.refused(error))),
        }
    }

    async fn subscribe(&self, subject: &str, queue: Option<&str>, capacity: usize) -> Result<Subscription, BusError> {
        let how =
            How { client: self.connection.client().clone(), subject: subject.into(), queue: queue.map(str::to_owned) };
        let (from, connects) = how.subscribe().await?;
        let unread = VecDeque::new();
        let dropped = Arc::clone(&self.dropped);
        let reconnected = changed(self.connection.connected());
        let (renewing, leaving) = (None, Leaving::No);
        let subscription =
            Bounded { from, how, connects, reconnected, renewing, unread, capacity, dropped, received: 0, leaving };
        Ok(Box::new(subscription))
    }

    async fn flush(&self) -> Result<(), BusError> {
        self.connection.inbox().round_trip(FLUSH_TIMEOUT).await.map_err(|error| self.refused(error))
    }

    fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }

    fn connects(&self) -> u64 {
        self.connection.client().statistics().connects.load(Ordering::Relaxed)
    }

    fn max_payload(&self) -> usize {
        self.connection.max_payload()
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed) + self.connection.slow_consumers()
    }
}

/// How a subscription is had, and had again.
#[derive(Clone)]
struct How {
    client: Client,
    subject: Subject,
    queue: Option<String>,
}

impl How {
    /// The subscription, and how often the client had connected by then.
    async fn subscribe(&self) -> Result<(Subscriber, u64), BusError> {
        let connects = self.connects();
        let (client, subject) = (&self.client, self.subject.clone());
        let subscribe = async {
            match &self.queue {
                Some(queue) => client.queue_subscribe(subject, queue.clone()).await,
                None => client.subscribe(subject).await,
            }
            .map_err(|error| BusError::Client(error.to_string()))
        };
        let from = tokio::time::timeout(SEND_TIMEOUT, subscribe).await.unwrap_or(Err(BusError::Disconnected))?;
        Ok((from, connects))
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }
}

/// Ends when the connection has gone up or down.
fn changed(mut connected: watch::Receiver<bool>) -> BoxFuture<'static, watch::Receiver<bool>> {
    Box::pin(async move {
        // A closed channel says that the connection itself is gone: nothing will ever change again.
        if connected.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        connected
    })
}

/// A subscription that drops what arrives beyond its capacity.
///
/// The client bounds all subscriptions alike; this one bound is applied when the reader comes to read, by taking in
/// all that has arrived. A task in between would cost every message a wake-up.
struct Bounded {
    from: Subscriber,
    how: How,
    connects: u64,
    reconnected: BoxFuture<'static, watch::Receiver<bool>>,
    renewing: Option<BoxFuture<'static, Result<(Subscriber, u64), BusError>>>,
    unread: VecDeque<Message>,
    capacity: usize,
    dropped: Arc<AtomicU64>,
    received: u64,
    leaving: Leaving,
}

/// How far a subscription is on its way out.
enum Leaving {
    No,
    /// This many more messages are wanted; not yet told to the client.
    After(u64),
    Told,
}

impl Bounded {
    /// After a reconnect the server counts a subscription's messages from zero and the client does not, and then it could
    /// not be let go of without a loss. So it is had anew at once, while the clients are still coming back themselves.
    fn renew(&mut self, cx: &mut Context<'_>) {
        if matches!(self.leaving, Leaving::Told) {
            return;
        }
        if self.renewing.is_none() && self.is_outdated() {
            let how = self.how.clone();
            self.renewing = Some(Box::pin(async move { how.subscribe().await }));
        }
        let Some(Poll::Ready(renewed)) = self.renewing.as_mut().map(|renewing| renewing.as_mut().poll(cx)) else {
            return;
        };
        self.renewing = None;
        // Where it failed the connection is away again: the next reconnect is the next occasion.
        if let Ok((fresh, connects)) = renewed {
            let mut old = std::mem::replace(&mut self.from, fresh);
            (self.connects, self.received) = (connects, 0);
            // Sent right behind the new one; where there is no room for it, dropping the old one asks for the same.
            let _ = unconstrained(old.unsubscribe()).now_or_never();
            take_in_all(&mut old, cx, |message| keep(&mut self.unread, self.capacity, &self.dropped, message));
        }
    }

    /// Whether it is from before the last reconnect, and matters.
    fn is_outdated(&self) -> bool {
        self.how.queue.is_some() && self.how.connects() != self.connects
    }

    /// The server ends a subscription after a number of messages exactly, and the client counts along: an unsubscribe
    /// (and the client's own drain) drops what is in flight.
    fn leave(&mut self, cx: &mut Context<'_>) {
        self.renew(cx);
        let Leaving::After(more) = self.leaving else { return };
        // What the client is told while it is away reaches the server after the reconnect: behind a count from zero.
        if !self.how.is_connected() || self.renewing.is_some() || self.is_outdated() {
            return;
        }
        let (unread, received) = (&mut self.unread, &mut self.received);
        take_in_all(&mut self.from, cx, |message| {
            *received += 1;
            keep(unread, self.capacity, &self.dropped, message);
        });
        if unconstrained(self.from.unsubscribe_after(self.received + more)).now_or_never().is_some() {
            self.leaving = Leaving::Told;
        }
    }

    /// Takes in what has arrived; whether the subscription has ended.
    fn take_in(&mut self, cx: &mut Context<'_>) -> bool {
        let (unread, received) = (&mut self.unread, &mut self.received);
        take_in(&mut self.from, cx, |message| {
            *received += 1;
            keep(unread, self.capacity, &self.dropped, message);
        })
    }
}

/// What has arrived at a subscription, as far as the task's budget goes; whether it has ended.
fn take_in(from: &mut Subscriber, cx: &mut Context<'_>, mut each: impl FnMut(async_nats::Message)) -> bool {
    loop {
        match Pin::new(&mut *from).poll_next(cx) {
            Poll::Ready(Some(message)) => each(message),
            Poll::Ready(None) => return true,
            Poll::Pending => return false,
        }
    }
}

/// All that has arrived, whatever is left of the task's budget: what stayed behind would be lost, or not counted.
fn take_in_all(from: &mut Subscriber, cx: &mut Context<'_>, mut each: impl FnMut(async_nats::Message)) {
    let all = std::future::poll_fn(|cx| Poll::Ready(take_in(from, cx, &mut each)));
    let _ = pin!(unconstrained(all)).poll(cx);
}

fn keep(unread: &mut VecDeque<Message>, capacity: usize, dropped: &AtomicU64, message: async_nats::Message) {
    if unread.len() < capacity {
        unread.push_back(received(message));
    } else {
        dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Source for Bounded {
    fn let_go(&mut self, more: u64) {
        self.leaving = Leaving::After(more);
        // What cannot be done at once is done by the reader's next look.
        self.leave(&mut Context::from_waker(Waker::noop()));
    }
}

impl Stream for Bounded {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let this = &mut *self;
        loop {
            this.leave(cx);
            let ended = this.take_in(cx);
            if let Some(message) = this.unread.pop_front() {
                return Poll::Ready(Some(message));
            }
            if ended {
                return Poll::Ready(None);
            }
            // Whoever is idle when the connection comes back is woken to renew; what is renewed has to be looked at.
            match this.reconnected.as_mut().poll(cx) {
                Poll::Ready(connected) => this.reconnected = changed(connected),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_count_against_the_limit_and_their_absence_costs_nothing() {
        let payload = Bytes::from_static(b"12345");
        assert_eq!(wire_bytes(&Vec::new(), &payload), 5);
        let headers = vec![("A".to_owned(), "b".to_owned())];
        assert_eq!(wire_bytes(&headers, &payload), "NATS/1.0\r\nA: b\r\n\r\n12345".len());
        assert_eq!(header_map(&Vec::new()), Ok(None));
    }

    #[test]
    fn a_header_that_would_break_the_protocol_is_refused() {
        let headers = vec![("A".to_owned(), "b\r\nC: d".to_owned())];
        assert!(matches!(header_map(&headers), Err(BusError::Client(_))));
    }
}
