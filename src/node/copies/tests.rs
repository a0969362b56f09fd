//! The copies of one partition at one node, as owners ask it and as the ring's machine orders it.

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use uuid::Uuid;

use super::led::{Came, Outcome, Turn};
use super::wire::seal_ask;
use super::*;
use crate::replica::{Change, Due, Report, Send};
use crate::rpc::mem::MemSwitch;
use crate::rpc::{Bus, Message};
use crate::service::{Gate, Release, Request, ServiceError, Validity};
use crate::types::{FencingToken, Generation, Incarnation, ManualClock, Process, RingName, Time};

/// The least that a server may take.
const MAX_PAYLOAD_BYTES: usize = 65_536;
const PARTITION: PartitionId = PartitionId::new(0);

fn id(name: &str) -> NodeId {
    NodeId { node: NodeName::new(name).unwrap(), incarnation: Incarnation { start: 1, id: Uuid::from_u128(1) } }
}

fn v(epoch: u64, sequence: u64) -> Version {
    Version { epoch: Epoch::new(epoch), sequence }
}

fn grant(epoch: u64) -> Grant {
    let token = FencingToken {
        ring: Uuid::from_u128(1),
        generation: Generation::new(1),
        epoch: Epoch::new(epoch),
        incarnation: id("me").incarnation,
    };
    Grant::new(PARTITION, token, Validity::new(Gate::closed(Arc::new(ManualClock::default()))))
}

/// A node that holds nothing, of which nobody hears anything.
fn node(service: Arc<dyn Service>) -> Copies {
    on_a_switch(service).0
}

/// And the network it is on.
fn on_a_switch(service: Arc<dyn Service>) -> (Copies, MemSwitch) {
    let switch = MemSwitch::new(1);
    let (inputs, _) = mpsc::channel(8);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
    let events = EventSender::new(NodeName::new("me").unwrap());
    let stop = tokio_util::sync::CancellationToken::new();
    let supervisor = Supervisor::new(Process::real(), stop, clock.clone(), inputs.clone(), events.clone());
    let bounds = bounds(&Timing::for_lease(Duration::from_secs(3)), Duration::ZERO, MAX_PAYLOAD_BYTES);
    let tools = Tools {
        ring: RingName::new("ring").unwrap(),
        bus: Arc::new(switch.bus()),
        service: service.clone(),
        clock: clock.clone(),
        inputs,
        events,
        answer_timeout: Duration::from_millis(10),
        part_timeout: Duration::from_millis(10),
        copying: Semaphore::new(1),
        pace: Pace::new(u64::MAX, clock.clone()),
        copied_bytes: AtomicU64::new(0),
        difference_bytes: AtomicU64::new(0),
        absent: Absent::new(0),
    };
    let node = Copies {
        me: id("me"),
        clock,
        service,
        supervisor,
        bounds,
        tools: Arc::new(tools),
        slots: vec![Mutex::new(Slot::follows(Follower::new(Epoch::ZERO, bounds)))],
        arriving: Mutex::default(),
        holds_on: AtomicBool::new(false),
        over: AtomicBool::new(false),
        sets: Mutex::default(),
    };
    (node, switch)
}

/// Holds nothing, and panics over one call.
#[derive(Default)]
struct Fragile(Mutex<Option<&'static str>>);

impl Fragile {
    fn panicking_over(call: &'static str) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(call))))
    }

    fn called(&self, call: &'static str) {
        let mut panics = self.0.lock().unwrap();
        let panics = panics.take_if(|over| *over == call).is_some();
        assert!(!panics, "on purpose, over {call}");
    }
}

#[async_trait::async_trait]
impl Service for Fragile {
    async fn on_own(&self, _: &[Grant]) -> Result<(), BoxError> {
        Ok(())
    }

    async fn on_release(&self, _: &[Grant], _: Release) -> Result<(), BoxError> {
        Ok(())
    }

    async fn handle(&self, _: &Grant, _: Request) -> Result<Bytes, ServiceError> {
        Ok(Bytes::new())
    }

    fn replicates(&self) -> bool {
        true
    }

    fn clear(&self, _: PartitionId) {
        self.called("clear");
    }

    fn follow(&self, _: PartitionId) {
        self.called("follow");
    }

    fn copy_changes(&self, _: PartitionId, _: &[Change]) -> Result<(), BoxError> {
        self.called("copy_changes");
        Ok(())
    }

    fn copy_chunk(&self, _: PartitionId, _: Bytes, _: Duration) -> Result<(), BoxError> {
        self.called("copy_chunk");
        Ok(())
    }
}

fn append(epoch: u64, number: u64, prev: Version, changes: Vec<Change>) -> Ask {
    Ask::Append { epoch: Epoch::new(epoch), number, prev, changes }
}

/// An owner makes an empty copy here.
fn copied(node: &Copies, epoch: u64, at: Version) {
    let (epoch, stream) = (Epoch::new(epoch), 1);
    assert_eq!(node.told(PARTITION, Ask::CopyBegin { epoch, stream, since: at }), Told::Accepted);
    assert_eq!(node.told(PARTITION, Ask::CopyEnd { epoch, stream, chunks: 0, until: at }), Told::At(at));
}

fn at(node: &Copies) -> Option<Version> {
    match &*node.slot(PARTITION).unwrap() {
        Slot::Follows(follower) => follower.at(),
        Slot::Leads(led) => led.tail(),
    }
}

#[tokio::test]
async fn a_copy_that_its_owner_counts_on_is_not_dropped_by_an_order_from_before() {
    let node = node(Arc::<Fragile>::default());
    copied(&node, 1, v(1, 3));
    // The order to let it go, by a plan from before, is carried out once the next owner has heard where it stands.
    assert_eq!(node.told(PARTITION, append(2, 1, v(1, 3), Vec::new())), Told::At(v(1, 3)));
    assert_eq!(node.drop_unwanted(PARTITION, Epoch::new(2)), Unwanted::Ask { heard: 1 });
    assert_eq!(at(&node), Some(v(1, 3)));
    // One that nobody follows is gone by the time this is answered, so that an owner who asks then hears that.
    assert_eq!(node.drop_unwanted(PARTITION, Epoch::new(3)), Unwanted::Drop);
    let asked = node.told(PARTITION, append(3, 1, v(1, 3), Vec::new()));
    assert_eq!(asked, Told::Elsewhere { at: None });
}

#[tokio::test]
async fn what_was_handed_over_is_committed_at_once_and_an_empty_copy_is_not_up_to_date() {
    for heritage in [Heritage::Handed, Heritage::None] {
        let node = node(Arc::<Fragile>::default());
        let led = node.lead(&grant(3), heritage).unwrap();
        led.set_survivors(std::iter::once(id("other")).collect());
        let Some(Turn { due, .. }) = led.turn(Time::ZERO) else { panic!("it leads") };
        let [Due { number, send: Send::Append(ask), .. }] = &due[..] else { panic!("{due:?}") };
        let epoch = Epoch::new(3);
        let mut kept = Follower::kept(Epoch::new(1), Version::default(), node.bounds);
        let (_, told) = kept.ask(Time::ZERO, ask.clone());
        assert_eq!(told, Told::Elsewhere { at: Some(Version::default()) }, "it has nothing of what was handed over");
        let came = |told| Outcome { to: id("other"), number: *number, came: Came::Answer(Ok(told)) };
        led.came(Time::ZERO, came(Told::At(Version { epoch, sequence: 0 })));
        let led_log: Arc<dyn crate::service::ChangeLog> = Arc::new(LedLog(Arc::clone(&led)));
        // What it was handed has the versions of those who wrote it.
        let committed = led_log.committed(v(2, 900)).now_or_never();
        assert!(committed.is_some_and(|copies| copies.is_ok()), "{heritage:?}");
        assert_eq!(led.tail().map(Version::next), Some(Version::first_of(epoch)));
        led.end();
    }
}

#[tokio::test]
async fn an_ownership_that_begins_under_a_later_promise_leaves_copy_and_promise_as_they_are() {
    let node = node(Arc::<Fragile>::default());
    copied(&node, 5, v(5, 7));
    for heritage in [Heritage::None, Heritage::Copy, Heritage::Handed] {
        assert!(node.lead(&grant(4), heritage).is_err());
        assert_eq!(node.told(PARTITION, append(4, 9, v(5, 7), Vec::new())), Told::Stale { promised: Epoch::new(5) });
        assert_eq!(at(&node), Some(v(5, 7)));
    }
}

#[tokio::test]
async fn what_the_service_panics_over_is_never_acknowledged() {
    let change = |sequence| Change { version: v(1, sequence), made: Time::ZERO, body: Bytes::new() };
    let node_of = node(Fragile::panicking_over("copy_changes"));
    copied(&node_of, 1, v(1, 0));
    let writes = append(1, 2, v(1, 0), vec![change(1)]);
    for _ in 0..2 {
        assert_eq!(
            node_of.told(PARTITION, writes.clone()),
            Told::Elsewhere { at: None },
            "sent again, it is not there"
        );
    }
    let node_of = node(Fragile::panicking_over("copy_chunk"));
    let (epoch, stream) = (Epoch::new(1), 1);
    assert_eq!(node_of.told(PARTITION, Ask::CopyBegin { epoch, stream, since: v(1, 0) }), Told::Accepted);
    let chunk = Ask::chunk(epoch, stream, 0, Duration::ZERO, Bytes::new());
    assert_eq!(node_of.told(PARTITION, chunk), Told::Elsewhere { at: None });
    assert!(matches!(
        node_of.told(PARTITION, Ask::CopyEnd { epoch, stream, chunks: 1, until: v(1, 0) }),
        Told::Refused(_)
    ));
    let node_of = node(Fragile::panicking_over("clear"));
    assert_eq!(node_of.told(PARTITION, Ask::CopyBegin { epoch, stream, since: v(1, 0) }), Told::Elsewhere { at: None });
}

#[tokio::test]
async fn a_service_that_panics_over_what_the_ring_orders_holds_no_copy_then() {
    let node_of = node(Fragile::panicking_over("follow"));
    node_of.lead(&grant(2), Heritage::None).unwrap();
    node_of.follow(PARTITION, Epoch::new(3));
    assert_eq!(at(&node_of), None);
    let node_of = node(Fragile::panicking_over("clear"));
    assert!(node_of.lead(&grant(2), Heritage::None).is_err_and(|why| why.contains("on purpose")));
    assert_eq!(at(&node_of), None);
    let service = Arc::<Fragile>::default();
    let node_of = node(service.clone());
    copied(&node_of, 1, v(1, 0));
    *service.0.lock().unwrap() = Some("clear");
    assert_eq!(node_of.drop_unwanted(PARTITION, Epoch::new(2)), Unwanted::Drop);
    assert_eq!(at(&node_of), None);
}

#[tokio::test]
async fn what_a_follower_missed_comes_in_messages_that_the_server_takes() {
    for body_bytes in [0, 1000] {
        let node = node(Arc::<Fragile>::default());
        let led = node.lead(&grant(1), Heritage::None).unwrap();
        led.set_survivors(std::iter::once(id("other")).collect());
        let log: Arc<dyn crate::service::ChangeLog> = Arc::new(LedLog(Arc::clone(&led)));
        for sequence in 1..=1000 {
            log.append(Change { version: v(1, sequence), made: Time::ZERO, body: vec![0; body_bytes].into() });
        }
        let mut told = v(1, 100);
        while told != v(1, 1000) {
            let Some(Turn { due, .. }) = led.turn(Time::ZERO) else { panic!("it leads") };
            let [Due { number, send: Send::Append(ask), .. }] = &due[..] else { panic!("{due:?}") };
            let message = seal_ask(PARTITION, ask, Time::ZERO).unwrap();
            assert!(message.len() < MAX_PAYLOAD_BYTES - 1024, "{} bytes with bodies of {body_bytes}", message.len());
            if let Ask::Append { changes, .. } = ask {
                told = changes.last().map_or(told, |last| last.version);
            }
            led.came(Time::ZERO, Outcome { to: id("other"), number: *number, came: Came::Answer(Ok(Told::At(told))) });
        }
        led.end();
    }
}

#[tokio::test]
async fn who_caught_up_did_so_as_a_learner_of_the_set_it_was_told_of_in() {
    let node = node(Arc::<Fragile>::default());
    let led = node.lead(&grant(1), Heritage::None).unwrap();
    let other = id("other");
    let set = |learners: &[NodeId]| CopySet {
        in_sync: vec![id("me")],
        pending: None,
        learners: learners.to_vec(),
        factor: 2,
        consistency: crate::types::Consistency::Eventual,
    };
    let (first, second, third) = (OpId(1), OpId(2), OpId(3));
    led.set(first, &set(std::slice::from_ref(&other)), &id("me"));
    let Some(Turn { due, .. }) = led.turn(Time::ZERO) else { panic!("it leads") };
    let came = Came::Answer(Ok(Told::At(v(1, 0))));
    led.came(Time::ZERO, Outcome { to: other.clone(), number: due[0].number, came });
    // It leaves and comes back before anybody was told: of its second stay that says nothing.
    led.set(second, &set(&[]), &id("me"));
    led.set(third, &set(std::slice::from_ref(&other)), &id("me"));
    let Some(Turn { reports, .. }) = led.turn(Time::ZERO) else { panic!("it leads") };
    assert_eq!(reports, [(Report::CaughtUp(other), Some(first))]);
    led.end();
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_refuses_for_long_is_asked_until_the_copy_may_go() {
    let (node, switch) = on_a_switch(Arc::<Fragile>::default());
    copied(&node, 1, v(1, 0));
    let owner = switch.bus();
    let subject = format!("{}.*", crate::rpc::subject::node(&node.tools.ring, &id("owner")));
    let mut asked = owner.subscribe(&subject, None, 8).await.unwrap();
    let answers = async {
        for count in 1.. {
            let message = asked.next().await.unwrap();
            let told = if count < 25 { Told::Refused("it is counted on".to_owned()) } else { Told::Accepted };
            let payload = seal_told(PARTITION, &Heard::from(told), Time::ZERO).unwrap();
            owner.publish(Message { subject: message.reply.unwrap(), payload, ..Message::default() }).await.unwrap();
        }
    };
    let leaves = node.leave(PARTITION, Epoch::new(1), || Some(id("owner")));
    tokio::select! {
        () = answers => panic!("it is asked for ever"),
        () = leaves => {}
    }
    assert_eq!(at(&node), None);
}
