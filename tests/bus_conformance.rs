//! What every bus promises, asked of the real one and of its twin in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use common::nats_server::NatsServer;
use futures::StreamExt;
use nats_ring::connect::{ConnectOptions, Connection};
use nats_ring::rpc::mem::{MemBus, MemSwitch};
use nats_ring::rpc::nats::NatsBus;
use nats_ring::rpc::{Bus, BusError, Message, RequestError, Subscription};

const TIMEOUT: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(200);

/// A bus to be tested, and what its trait does not offer.
#[async_trait]
trait Fixture: Sized {
    async fn open() -> Self;
    /// The first connection.
    fn bus(&self) -> Arc<dyn Bus>;
    /// Another connection to the same network.
    async fn another(&self) -> Arc<dyn Bus>;
    /// Requests of the first connection that wait for an answer.
    fn pending(&self) -> usize;
    /// Cuts the first connection off.
    async fn cut(&mut self);
}

struct Real {
    server: NatsServer,
    connection: Connection,
    bus: NatsBus,
}

#[async_trait]
impl Fixture for Real {
    async fn open() -> Self {
        let server = NatsServer::start();
        let connection = server.connect().await;
        let bus = NatsBus::new(connection.clone());
        Self { server, connection, bus }
    }

    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.bus.clone())
    }

    async fn another(&self) -> Arc<dyn Bus> {
        Arc::new(NatsBus::new(self.server.connect().await))
    }

    fn pending(&self) -> usize {
        self.bus.pending()
    }

    async fn cut(&mut self) {
        let mut connected = self.connection.connected();
        self.server.stop();
        tokio::time::timeout(TIMEOUT, connected.wait_for(|up| !up)).await.unwrap().unwrap();
    }
}

struct Twin {
    switch: MemSwitch,
    bus: MemBus,
}

#[async_trait]
impl Fixture for Twin {
    async fn open() -> Self {
        let switch = MemSwitch::new(1);
        let bus = switch.bus();
        Self { switch, bus }
    }

    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.bus.clone())
    }

    async fn another(&self) -> Arc<dyn Bus> {
        Arc::new(self.switch.bus())
    }

    fn pending(&self) -> usize {
        self.bus.pending()
    }

    async fn cut(&mut self) {
        self.bus.set_connected(false);
    }
}

fn message(subject: &str, payload: &str) -> Message {
    Message { subject: subject.to_owned(), payload: Bytes::copy_from_slice(payload.as_bytes()), ..Message::default() }
}

async fn next(subscription: &mut Subscription) -> Message {
    tokio::time::timeout(TIMEOUT, subscription.next()).await.expect("nothing came").expect("ended")
}

/// Subscribes, and returns once the server knows.
async fn subscribe(bus: &Arc<dyn Bus>, subject: &str, queue: Option<&str>) -> Subscription {
    let subscription = bus.subscribe(subject, queue, 1024).await.unwrap();
    bus.flush().await.unwrap();
    subscription
}

/// Answers every request with its own payload, from a task.
fn echo(bus: Arc<dyn Bus>, mut requests: Subscription) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let Some(reply) = request.reply else { continue };
            let answer = Message { subject: reply, headers: request.headers, payload: request.payload, reply: None };
            bus.publish(answer).await.unwrap();
        }
    })
}

/// All that has arrived once a round trip is over.
async fn arrived(bus: &Arc<dyn Bus>, subscriptions: &mut [Subscription]) -> Vec<usize> {
    bus.flush().await.unwrap();
    let mut counts = Vec::new();
    for subscription in subscriptions {
        let mut count = 0;
        while tokio::time::timeout(SHORT, subscription.next()).await.is_ok() {
            count += 1;
        }
        counts.push(count);
    }
    counts
}

mod suite {
    use super::*;

    pub(super) async fn a_request_gets_its_own_answer_with_headers_and_bytes_unchanged(fixture: impl Fixture) {
        let (caller, owner) = (fixture.bus(), fixture.another().await);
        let serving = echo(Arc::clone(&owner), subscribe(&owner, "echo.*", None).await);
        let headers = vec![("X-Epoch".to_owned(), "7".to_owned())];
        let requests = (0..100).map(|n| {
            let (caller, headers) = (Arc::clone(&caller), headers.clone());
            async move { caller.request(&format!("echo.{n}"), headers, Bytes::from(n.to_string()), TIMEOUT).await }
        });
        for (n, answer) in futures::future::join_all(requests).await.into_iter().enumerate() {
            let answer = answer.unwrap();
            assert_eq!(answer.payload, n.to_string());
            assert_eq!(answer.headers, headers);
        }
        assert_eq!(fixture.pending(), 0);
        serving.abort();
    }

    pub(super) async fn a_request_nobody_listens_to_fails_at_once(fixture: impl Fixture) {
        let started = Instant::now();
        let outcome = fixture.bus().request("nobody", Vec::new(), Bytes::new(), TIMEOUT).await;
        assert_eq!(outcome, Err(RequestError::NoResponders("nobody".to_owned())));
        assert!(started.elapsed() < TIMEOUT / 2);
        assert_eq!(fixture.pending(), 0);
    }

    /// The server tells only the connection that published, and only where that one listens on the reply subject.
    pub(super) async fn of_a_request_forwarded_to_nobody_nobody_is_told(fixture: impl Fixture) {
        let (caller, router) = (fixture.bus(), fixture.another().await);
        let mut requests = subscribe(&router, "front", None).await;
        let asking = tokio::spawn(async move { caller.request("front", Vec::new(), Bytes::new(), SHORT * 3).await });
        let request = next(&mut requests).await;
        router.publish(Message { subject: "nobody".to_owned(), ..request }).await.unwrap();
        assert_eq!(asking.await.unwrap(), Err(RequestError::Timeout("front".to_owned(), SHORT * 3)));
    }

    pub(super) async fn a_request_that_times_out_or_is_dropped_leaves_nothing_behind(fixture: impl Fixture) {
        let (caller, deaf) = (fixture.bus(), fixture.another().await);
        let mut requests = subscribe(&deaf, "deaf", None).await;
        let outcome = caller.request("deaf", Vec::new(), Bytes::new(), SHORT).await;
        assert_eq!(outcome, Err(RequestError::Timeout("deaf".to_owned(), SHORT)));
        assert_eq!(fixture.pending(), 0);
        next(&mut requests).await;

        let asking = tokio::spawn(async move { caller.request("deaf", Vec::new(), Bytes::new(), TIMEOUT).await });
        let request = next(&mut requests).await;
        assert_eq!(fixture.pending(), 1);
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        assert_eq!(fixture.pending(), 0);
        // An answer that nobody waits for any more does no harm.
        deaf.publish(message(&request.reply.unwrap(), "late")).await.unwrap();
        deaf.flush().await.unwrap();
    }

    pub(super) async fn one_of_a_queue_group_gets_each_message_and_every_plain_subscriber_does(fixture: impl Fixture) {
        let (sender, one, two) = (fixture.bus(), fixture.another().await, fixture.another().await);
        let mut group = [subscribe(&one, "work", Some("q")).await, subscribe(&two, "work", Some("q")).await];
        let mut plain = [subscribe(&one, "work", None).await, subscribe(&two, "*", None).await];
        let mut other = [subscribe(&one, "work", Some("other")).await];
        for n in 0..100 {
            sender.publish(message("work", &n.to_string())).await.unwrap();
        }
        let shares = arrived(&sender, &mut group).await;
        assert_eq!(shares.iter().sum::<usize>(), 100, "{shares:?}");
        assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
        assert_eq!(arrived(&sender, &mut plain).await, [100, 100]);
        assert_eq!(arrived(&sender, &mut other).await, [100]);
    }

    pub(super) async fn messages_of_one_sender_arrive_in_order(fixture: impl Fixture) {
        let (sender, receiver) = (fixture.bus(), fixture.another().await);
        let mut subscription = subscribe(&receiver, "a.>", None).await;
        for n in 0..500 {
            sender.publish(message(&format!("a.{}", n % 3), &n.to_string())).await.unwrap();
        }
        for n in 0..500 {
            assert_eq!(next(&mut subscription).await.payload, n.to_string());
        }
    }

    pub(super) async fn a_dropped_subscription_is_unsubscribed(fixture: impl Fixture) {
        let bus = fixture.bus();
        let subscription = subscribe(&bus, "gone", None).await;
        drop(subscription);
        bus.flush().await.unwrap();
        let outcome = bus.request("gone", Vec::new(), Bytes::new(), TIMEOUT).await;
        assert_eq!(outcome, Err(RequestError::NoResponders("gone".to_owned())));
    }

    pub(super) async fn a_subscription_let_go_of_yields_exactly_so_many_more_and_ends(fixture: impl Fixture) {
        let (receiver, sender) = (fixture.another().await, fixture.another().await);
        let mut subscription = subscribe(&receiver, "leaving", Some("group")).await;
        sender.publish(message("leaving", "0")).await.unwrap();
        next(&mut subscription).await;
        subscription.let_go(3);
        receiver.flush().await.unwrap();
        let mut staying = subscribe(&receiver, "leaving", Some("group")).await;
        // Whatever member of the group each one goes to: none is lost.
        for number in 1..=100 {
            sender.publish(message("leaving", &number.to_string())).await.unwrap();
        }
        let mut left = 0;
        while tokio::time::timeout(TIMEOUT, subscription.next()).await.unwrap().is_some() {
            left += 1;
        }
        for _ in 0..97 {
            next(&mut staying).await;
        }
        assert_eq!(left, 3);
    }

    pub(super) async fn messages_beyond_the_capacity_are_dropped_and_counted(fixture: impl Fixture) {
        let (sender, receiver) = (fixture.another().await, fixture.bus());
        let mut slow = receiver.subscribe("slow", None, 10).await.unwrap();
        receiver.flush().await.unwrap();
        for n in 0..25 {
            sender.publish(message("slow", &n.to_string())).await.unwrap();
        }
        sender.flush().await.unwrap();
        // On its way back to the reader's own connection by then.
        receiver.flush().await.unwrap();
        for n in 0..10 {
            assert_eq!(next(&mut slow).await.payload, n.to_string());
        }
        assert!(tokio::time::timeout(SHORT, slow.next()).await.is_err(), "more than the capacity was kept");
        assert_eq!(receiver.dropped(), 15);
        sender.publish(message("slow", "again")).await.unwrap();
        assert_eq!(next(&mut slow).await.payload, "again");
    }

    pub(super) async fn a_message_over_the_limit_is_refused_and_one_at_the_limit_is_not(fixture: impl Fixture) {
        let bus = fixture.bus();
        let limit = bus.max_payload();
        let mut subscription = subscribe(&bus, "big", None).await;
        let of = |bytes: usize| Message { payload: Bytes::from(vec![0; bytes]), ..message("big", "") };
        let refused = BusError::TooLarge { size: limit + 1, limit };
        assert_eq!(bus.publish(of(limit + 1)).await, Err(refused.clone()));
        let request = bus.request("big", Vec::new(), of(limit + 1).payload, TIMEOUT).await;
        assert_eq!(request, Err(RequestError::NotSent(refused)));
        let with_header = Message { headers: vec![("A".to_owned(), "b".to_owned())], ..of(limit) };
        assert!(matches!(bus.publish(with_header).await, Err(BusError::TooLarge { .. })));
        bus.publish(of(limit)).await.unwrap();
        assert_eq!(next(&mut subscription).await.payload.len(), limit);
    }

    pub(super) async fn malformed_subjects_are_refused(fixture: impl Fixture) {
        let bus = fixture.bus();
        for bad in ["", "a b"] {
            assert!(matches!(bus.publish(message(bad, "")).await, Err(BusError::Client(_))), "{bad:?}");
            let request = bus.request(bad, Vec::new(), Bytes::new(), TIMEOUT).await;
            assert!(matches!(request, Err(RequestError::NotSent(BusError::Client(_)))), "{bad:?}: {request:?}");
            assert!(matches!(bus.subscribe(bad, None, 1).await, Err(BusError::Client(_))), "{bad:?}");
        }
    }

    pub(super) async fn nothing_is_sent_while_disconnected(mut fixture: impl Fixture) {
        let bus = fixture.bus();
        assert!(bus.is_connected());
        let _subscription = subscribe(&bus, "a", None).await;
        fixture.cut().await;
        assert!(!bus.is_connected());
        assert_eq!(bus.publish(message("a", "")).await, Err(BusError::Disconnected));
        let request = bus.request("a", Vec::new(), Bytes::new(), TIMEOUT).await;
        assert_eq!(request, Err(RequestError::NotSent(BusError::Disconnected)));
        assert_eq!(bus.flush().await, Err(BusError::Disconnected));
        assert_eq!(fixture.pending(), 0);
    }
}

macro_rules! conformance {
    ($($name:ident)*) => {
        mod real { $(#[tokio::test] async fn $name() { super::suite::$name(<super::Real as super::Fixture>::open().await).await })* }
        mod twin { $(#[tokio::test] async fn $name() { super::suite::$name(<super::Twin as super::Fixture>::open().await).await })* }
    };
}

conformance! {
    a_request_gets_its_own_answer_with_headers_and_bytes_unchanged
    a_request_nobody_listens_to_fails_at_once
    of_a_request_forwarded_to_nobody_nobody_is_told
    a_request_that_times_out_or_is_dropped_leaves_nothing_behind
    one_of_a_queue_group_gets_each_message_and_every_plain_subscriber_does
    messages_of_one_sender_arrive_in_order
    a_dropped_subscription_is_unsubscribed
    a_subscription_let_go_of_yields_exactly_so_many_more_and_ends
    messages_beyond_the_capacity_are_dropped_and_counted
    a_message_over_the_limit_is_refused_and_one_at_the_limit_is_not
    malformed_subjects_are_refused
    nothing_is_sent_while_disconnected
}

#[tokio::test]
async fn a_connection_lost_after_sending_is_a_time_out_and_subscriptions_come_back() {
    let mut real = Real::open().await;
    let bus = real.bus();
    let mut requests = subscribe(&bus, "deaf", None).await;
    let caller = Arc::clone(&bus);
    let asking = tokio::spawn(async move { caller.request("deaf", Vec::new(), Bytes::new(), SHORT * 5).await });
    next(&mut requests).await;
    real.cut().await;
    assert_eq!(asking.await.unwrap(), Err(RequestError::Timeout("deaf".to_owned(), SHORT * 5)));
    real.server.start_again();
    let mut connected = real.connection.connected();
    tokio::time::timeout(TIMEOUT, connected.wait_for(|up| *up)).await.unwrap().unwrap();
    bus.flush().await.unwrap();
    bus.publish(message("deaf", "after")).await.unwrap();
    assert_eq!(next(&mut requests).await.payload, "after");
}

#[tokio::test]
async fn what_the_clients_own_bound_drops_is_counted_too() {
    let server = NatsServer::start();
    let options = ConnectOptions { subscription_capacity: 4, ..server.connect_options() };
    let receiver: Arc<dyn Bus> = Arc::new(NatsBus::new(Connection::open(&options).await.unwrap()));
    let sender: Arc<dyn Bus> = Arc::new(NatsBus::new(server.connect().await));
    let mut slow = receiver.subscribe("slow", None, 1024).await.unwrap();
    receiver.flush().await.unwrap();
    for n in 0..12 {
        sender.publish(message("slow", &n.to_string())).await.unwrap();
    }
    sender.flush().await.unwrap();
    receiver.flush().await.unwrap();
    assert_eq!(arrived(&receiver, std::slice::from_mut(&mut slow)).await, [4]);
    assert_eq!(receiver.dropped(), 8);
}

/// After a reconnect the server counts a subscription's messages from zero, the client does not.
#[tokio::test]
async fn a_subscription_let_go_of_after_a_reconnect_loses_nothing_either() {
    let mut server = NatsServer::start();
    let (leaving, sender) = (server.connect().await, server.connect().await);
    let leaving: Arc<dyn Bus> = Arc::new(NatsBus::new(leaving));
    let sender: Arc<dyn Bus> = Arc::new(NatsBus::new(sender));
    let mut old = subscribe(&leaving, "moving", Some("group")).await;
    for number in 0..200 {
        sender.publish(message("moving", &number.to_string())).await.unwrap();
        next(&mut old).await;
    }
    server.restart();
    common::eventually::eventually(TIMEOUT * 3, "both are connected again", || async {
        if leaving.flush().await.is_ok() && sender.flush().await.is_ok() { Ok(()) } else { Err("not yet") }
    })
    .await;
    // Its reader is always there: it notices the reconnect by itself, without a message.
    assert!(tokio::time::timeout(SHORT, old.next()).await.is_err());
    leaving.flush().await.unwrap();
    let mut new = subscribe(&leaving, "moving", Some("group")).await;
    old.let_go(16);
    // Nothing is in flight: the server knows of it before the first message comes.
    leaving.flush().await.unwrap();
    for number in 0..500 {
        sender.publish(message("moving", &number.to_string())).await.unwrap();
    }
    sender.flush().await.unwrap();
    let mut count = 0;
    let mut both = futures::stream::select(&mut old, &mut new);
    while let Ok(Some(_)) = tokio::time::timeout(SHORT * 5, both.next()).await {
        count += 1;
    }
    assert_eq!(count, 500);
}

/// What the client is told while it is away goes to the server behind a count that began anew.
#[tokio::test]
async fn a_subscription_let_go_of_while_the_connection_is_away_loses_nothing_either() {
    let mut server = NatsServer::start();
    let leaving: Arc<dyn Bus> = Arc::new(NatsBus::new(server.connect().await));
    let sender: Arc<dyn Bus> = Arc::new(NatsBus::new(server.connect().await));
    let mut old = subscribe(&leaving, "moving", Some("group")).await;
    for number in 0..200 {
        sender.publish(message("moving", &number.to_string())).await.unwrap();
        next(&mut old).await;
    }
    server.stop();
    common::eventually::eventually(TIMEOUT, "the connection is away", || async {
        if leaving.is_connected() { Err("not yet") } else { Ok(()) }
    })
    .await;
    old.let_go(16);
    server.start_again();
    connected_again(&[&leaving, &sender]).await;
    assert!(tokio::time::timeout(SHORT, old.next()).await.is_err());
    leaving.flush().await.unwrap();
    let mut new = subscribe(&leaving, "moving", Some("group")).await;
    leaving.flush().await.unwrap();
    for number in 0..500 {
        sender.publish(message("moving", &number.to_string())).await.unwrap();
    }
    sender.flush().await.unwrap();
    assert_eq!(count(futures::stream::select(&mut old, &mut new)).await, 500);
    assert_eq!(tokio::time::timeout(TIMEOUT, old.next()).await.unwrap(), None);
}

/// A task may take in only so much at a time: the rest is there for its next turn.
#[tokio::test]
async fn what_had_arrived_before_a_reconnect_and_was_not_read_yet_is_read_after_it() {
    let mut server = NatsServer::start();
    let receiver: Arc<dyn Bus> = Arc::new(NatsBus::new(server.connect().await));
    let sender: Arc<dyn Bus> = Arc::new(NatsBus::new(server.connect().await));
    let mut subscription = subscribe(&receiver, "behind", Some("group")).await;
    for number in 0..1000 {
        sender.publish(message("behind", &number.to_string())).await.unwrap();
    }
    sender.flush().await.unwrap();
    receiver.flush().await.unwrap();
    server.restart();
    connected_again(&[&receiver, &sender]).await;
    assert_eq!(count(&mut subscription).await, 1000);
}

async fn connected_again(buses: &[&Arc<dyn Bus>]) {
    for bus in buses {
        common::eventually::eventually(TIMEOUT * 3, "it is connected again", || async {
            bus.flush().await.map_err(|error| error.to_string())
        })
        .await;
    }
}

/// How many messages come until none does.
async fn count(mut messages: impl futures::Stream<Item = Message> + Unpin) -> usize {
    let mut count = 0;
    while let Ok(Some(_)) = tokio::time::timeout(SHORT * 5, messages.next()).await {
        count += 1;
    }
    count
}
