//! The router between a caller and owners that the test plays: what is sent again, how, to whom, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use nats_ring::rpc::envelope::{CallHead, OnceHead, ReplyHead, open, seal};
use nats_ring::rpc::mem::MemSwitch;
use nats_ring::rpc::{
    Bus, CallError, Caller, How, Message, Reply, Resend, RouteTable, Router, RouterParts, Subscription,
};
use nats_ring::service::NOT_ENOUGH_REPLICAS;
use nats_ring::types::{BootClock, Chance, Incarnation, KeyHash, RequestId, RingName};
use nats_ring::{Epoch, NodeId, NodeName, PartitionCount, PartitionId, ServiceError};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(20);
const ONE: PartitionId = PartitionId::new(0);

struct Stage {
    router: Arc<Router>,
    table: RouteTable,
    bus: Arc<dyn Bus>,
}

fn node(number: u64) -> NodeId {
    let incarnation = Incarnation { start: number, id: Uuid::from_u128(u128::from(number)) };
    NodeId { node: NodeName::new(format!("node-{number}")).unwrap(), incarnation }
}

impl Stage {
    fn new() -> Self {
        let switch = MemSwitch::new(7);
        let partitions = PartitionCount::new(1).unwrap();
        let table = RouteTable::new(RingName::new("played").unwrap(), partitions);
        let parts = RouterParts {
            bus: Arc::new(switch.bus()),
            table: table.clone(),
            clock: Arc::new(BootClock),
            chance: Chance::seeded(7),
            key_hash: KeyHash::Xxh3,
            partitions,
        };
        let stage = Self { router: Arc::new(Router::new(parts)), table, bus: Arc::new(switch.bus()) };
        stage.owned_by(1);
        stage
    }

    fn owned_by(&self, number: u64) {
        self.table.update([(ONE, Some((node(number), Epoch::new(number))))]);
    }

    async fn owner(&self, number: u64) -> Subscription {
        let subject = format!("played.node.{}.{}.>", node(number).node, node(number).incarnation);
        self.bus.subscribe(&subject, None, 64).await.unwrap()
    }

    fn call(&self, resend: Resend, timeout: Duration) -> tokio::task::JoinHandle<Result<Reply, CallError>> {
        let router = Arc::clone(&self.router);
        let how = How { timeout, resend };
        tokio::spawn(async move { router.call_with("k".into(), "incr", Bytes::new(), how).await })
    }

    async fn answer(&self, to: &Message, head: &ReplyHead) {
        let payload = seal(head, b"done").unwrap();
        let subject = to.reply.clone().unwrap();
        self.bus.publish(Message { subject, payload, ..Message::default() }).await.unwrap();
    }
}

fn ok() -> ReplyHead {
    ReplyHead::Ok { node: node(1).node, epoch: Epoch::new(1) }
}

async fn next(owner: &mut Subscription) -> (Message, CallHead) {
    let message = tokio::time::timeout(SOON, owner.next()).await.unwrap().unwrap();
    let (head, _) = open::<CallHead>(&message.payload).unwrap();
    (message, head)
}

#[tokio::test]
async fn a_write_that_is_not_answered_is_sent_again_under_its_name_as_one_that_may_have_been_executed() {
    let stage = Stage::new();
    let mut owner = stage.owner(1).await;
    let call = stage.call(Resend::Once(None), SOON);
    let (first, head) = next(&mut owner).await;
    let once = head.once.unwrap();
    assert!(first.subject.ends_with(".call"), "{first:?}");
    let (second, head) = next(&mut owner).await;
    let again = head.once.unwrap();
    assert!(second.subject.ends_with(".again") && again.id == once.id && again.age_ms > once.age_ms, "{again:?}");
    stage.answer(&second, &ok()).await;
    assert_eq!(call.await.unwrap().unwrap().payload, "done");
    assert_eq!(stage.router.resends(), 1);
}

#[tokio::test]
async fn the_answer_to_the_first_sending_counts_though_another_owner_was_asked_since() {
    let stage = Stage::new();
    let (mut first, mut second) = (stage.owner(1).await, stage.owner(2).await);
    let call = stage.call(Resend::Once(None), SOON);
    let (early, _) = next(&mut first).await;
    stage.owned_by(2);
    // Silent, as a release before is when it is asked again.
    next(&mut second).await;
    stage.answer(&early, &ok()).await;
    assert_eq!(call.await.unwrap().unwrap().payload, "done");
}

#[tokio::test]
async fn a_call_that_may_not_be_sent_twice_is_sent_once_and_ends_as_unknown() {
    let stage = Stage::new();
    let mut owner = stage.owner(1).await;
    let error = stage.call(Resend::Never, Duration::from_millis(900)).await.unwrap().unwrap_err();
    assert_eq!(error.code(), "unknown");
    let (_, head) = next(&mut owner).await;
    assert_eq!(head.once, None);
    assert!(futures::poll!(owner.next()).is_pending());
}

#[tokio::test]
async fn one_owner_gets_a_call_four_times_at_most_and_the_next_owner_at_once() {
    let stage = Stage::new();
    let (mut first, mut second) = (stage.owner(1).await, stage.owner(2).await);
    let call = stage.call(Resend::Once(None), SOON);
    let mut id = None;
    for _ in 0..4 {
        let (_, head) = next(&mut first).await;
        let this = head.once.unwrap().id;
        assert_eq!(*id.get_or_insert(this), this);
    }
    assert!(tokio::time::timeout(Duration::from_secs(3), first.next()).await.is_err(), "a fifth time");
    stage.owned_by(2);
    let (message, head) = next(&mut second).await;
    assert!(message.subject.ends_with(".again") && head.once.unwrap().id == id.unwrap());
    stage.answer(&message, &ok()).await;
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_read_is_sent_again_without_a_name() {
    let stage = Stage::new();
    let mut owner = stage.owner(1).await;
    let call = stage.call(Resend::Read, SOON);
    next(&mut owner).await;
    let (again, head) = next(&mut owner).await;
    assert!(again.subject.ends_with(".call") && head.once.is_none());
    stage.answer(&again, &ok()).await;
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_want_of_copies_is_tried_again_for_a_while_and_an_unknown_outcome_until_the_end() {
    let stage = Stage::new();
    let mut owner = stage.owner(1).await;
    let few = ReplyHead::Service(ServiceError::new(NOT_ENOUGH_REPLICAS, "one of three"));
    let call = stage.call(Resend::Once(None), SOON);
    let (first, _) = next(&mut owner).await;
    stage.answer(&first, &few).await;
    let (second, head) = next(&mut owner).await;
    assert!(second.subject.ends_with(".call") && head.once.is_some(), "it was not executed");
    stage.answer(&second, &ReplyHead::Unknown("its lease".to_owned())).await;
    let (third, _) = next(&mut owner).await;
    assert!(third.subject.ends_with(".again"));
    stage.answer(&third, &ok()).await;
    call.await.unwrap().unwrap();

    let call = stage.call(Resend::Once(None), Duration::from_millis(800));
    let answering = async {
        loop {
            let (message, _) = next(&mut owner).await;
            stage.answer(&message, &few).await;
        }
    };
    let ended = tokio::select! { ended = call => ended.unwrap(), () = answering => unreachable!() };
    assert_eq!(ended.unwrap_err().code(), NOT_ENOUGH_REPLICAS);
}

fn stale() -> ReplyHead {
    ReplyHead::Service(ServiceError::new("precondition_failed", "another version"))
}

#[tokio::test]
async fn a_refusal_of_every_sending_is_a_refusal_in_whatever_order_they_come() {
    for first_answered in [0, 1] {
        let stage = Stage::new();
        let mut owner = stage.owner(1).await;
        let call = stage.call(Resend::Once(None), SOON);
        let (first, _) = next(&mut owner).await;
        let (second, _) = next(&mut owner).await;
        let both = [first, second];
        stage.answer(&both[first_answered], &stale()).await;
        stage.answer(&both[1 - first_answered], &stale()).await;
        assert_eq!(call.await.unwrap().unwrap_err().code(), "precondition_failed");
    }
}

#[tokio::test]
async fn a_refusal_waits_for_the_sending_before_it_and_that_one_decides() {
    for (answer, code) in [
        (Some(ok()), None),
        (Some(ReplyHead::NotExecuted("passed on".to_owned())), Some("precondition_failed")),
        (Some(ReplyHead::Unknown("cut off".to_owned())), Some("unknown")),
        (None, Some("unknown")),
    ] {
        let stage = Stage::new();
        let (mut one, mut two) = (stage.owner(1).await, stage.owner(2).await);
        let call = stage.call(Resend::Once(None), Duration::from_secs(if answer.is_some() { 20 } else { 2 }));
        let (first, _) = next(&mut one).await;
        stage.owned_by(2);
        let (second, _) = next(&mut two).await;
        stage.answer(&second, &stale()).await;
        if let Some(answer) = &answer {
            stage.answer(&first, answer).await;
        }
        assert_eq!(call.await.unwrap().err().map(|error| error.code().to_owned()).as_deref(), code, "{answer:?}");
    }
}

#[tokio::test]
async fn a_second_sending_that_does_not_fit_any_more_ends_as_unknown() {
    let stage = Stage::new();
    let mut owner = stage.owner(1).await;
    let id = RequestId::named(b"n", "incr", b"k").unwrap();
    let head = |key_len: usize| CallHead {
        partition: ONE,
        epoch: Epoch::new(1),
        hops: 0,
        plain: false,
        remaining_ms: 20_000,
        operation: "incr".to_owned(),
        key: vec![b'k'; key_len],
        trace: None,
        once: Some(OnceHead { id, age_ms: 0 }),
    };
    // The longest that fits; from 128 ms on its age needs a byte more.
    let key_len = (65_000..).find(|len| seal(&head(len + 1), b"").is_err()).unwrap();
    let (router, how) = (Arc::clone(&stage.router), How { timeout: SOON, resend: Resend::Once(Some(id)) });
    let key = Bytes::from(vec![b'k'; key_len]);
    let call = tokio::spawn(async move { router.call_with(key, "incr", Bytes::new(), how).await });
    next(&mut owner).await;
    assert_eq!(call.await.unwrap().unwrap_err().code(), "unknown");
}
