//! What the server answers for by itself, whatever the nodes around it know: that requests end, and go only forwards.
//!
//! The rest of the ring sees to it that neither is needed: a claimant holds requests back from before it sends its claim, so nobody is
//! named who is behind, and a partition changes hands too seldom to use up the hops. So no simulation of whole rings shows these two
//! rules; here they are switched off by themselves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use uuid::Uuid;

use super::*;
use crate::rpc::envelope::open;
use crate::rpc::mem::MemSwitch;
use crate::rpc::{Subscription, subject};
use crate::service::{BoxError, Form, Release, ServiceError, Validity};
use crate::types::guard::without;
use crate::types::{FencingToken, Generation, Incarnation, ManualClock, NodeName, Once, RingName};

const PARTITION: PartitionId = PartitionId::new(0);
const REPLY: &str = "reply";

/// Says who answered.
struct Named(&'static str);

#[async_trait]
impl Service for Named {
    async fn on_own(&self, _: &[Grant]) -> Result<(), BoxError> {
        Ok(())
    }

    async fn on_release(&self, _: &[Grant], _: Release) -> Result<(), BoxError> {
        Ok(())
    }

    async fn handle(&self, _: &Grant, _: Request) -> Result<Bytes, ServiceError> {
        Ok(Bytes::from_static(self.0.as_bytes()))
    }
}

/// A server with what it listens to.
struct Node {
    me: NodeId,
    server: Arc<Server>,
    table: RouteTable,
    gate: Arc<Gate>,
    messages: Subscription,
}

impl Node {
    async fn on(switch: &MemSwitch, name: &'static str) -> Self {
        let ring = RingName::new("r").unwrap();
        let me = NodeId {
            node: NodeName::new(name).unwrap(),
            incarnation: Incarnation { start: 1, id: Uuid::from_u128(name.len() as u128) },
        };
        let bus: Arc<dyn Bus> = Arc::new(switch.bus());
        let messages = bus.subscribe(&format!("{}.>", subject::node(&ring, &me)), None, 64).await.unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let gate = Gate::closed(Arc::clone(&clock));
        gate.open_until(Time::from_nanos(u64::MAX));
        let partitions = PartitionCount::new(1).unwrap();
        let table = RouteTable::new(ring, partitions);
        let server = Server::new(ServerParts {
            me: me.clone(),
            partitions,
            service: Arc::new(Named(name)),
            bus,
            gate: Arc::clone(&gate),
            clock,
            process: Process::real(),
            table: table.clone(),
            limits: ServerLimits::default(),
            notices: Arc::default(),
            observer: Arc::new(Unobserved),
        });
        Self { me, server, table, gate, messages }
    }

    /// What this node believes.
    fn learns(&self, owner: &NodeId, epoch: u64) {
        self.table.update([(PARTITION, Some((owner.clone(), Epoch::new(epoch))))]);
        self.server.routes_changed(&[PARTITION]);
    }

    fn serves(&self, epoch: u64) {
        let token = FencingToken {
            ring: Uuid::nil(),
            generation: Generation::new(1),
            epoch: Epoch::new(epoch),
            incarnation: self.me.incarnation,
        };
        self.server.serve_partition(Grant::new(PARTITION, token, Validity::new(Arc::clone(&self.gate))));
    }

    async fn takes(&self, epoch: u64, hops: u8) {
        self.takes_named(epoch, hops, None, REPLY).await;
    }

    async fn takes_named(&self, epoch: u64, hops: u8, once: Option<Once>, reply: &str) {
        let remaining = Duration::from_secs(5);
        let request = Request {
            operation: "get".into(),
            key: Bytes::new(),
            payload: Bytes::new(),
            form: Form::Plain,
            remaining,
            once,
        };
        self.server
            .dispatch(Job {
                partition: PARTITION,
                epoch: Epoch::new(epoch),
                hops,
                request,
                trace: None,
                deadline: Time::from_nanos(u64::MAX),
                answer: Answer::Plain(reply.to_owned()),
            })
            .await;
    }

    /// Takes one request that was passed on to it; whether there was one.
    async fn takes_next(&mut self) -> bool {
        let Some(Some(message)) = self.messages.next().now_or_never() else { return false };
        let (head, _) = open::<CallHead>(&message.payload).unwrap();
        self.takes(head.epoch.get(), head.hops).await;
        true
    }
}

/// How often a request is passed on between the two before nothing more happens, `at_most` that often.
async fn passed_on(one: &mut Node, other: &mut Node, at_most: usize) -> usize {
    let mut count = 0;
    while count < at_most && (one.takes_next().await || other.takes_next().await) {
        count += 1;
    }
    count
}

async fn pair() -> (Node, Node, Subscription) {
    let switch = MemSwitch::new(1);
    let answers = switch.bus().subscribe(REPLY, None, 8).await.unwrap();
    (Node::on(&switch, "a").await, Node::on(&switch, "bb").await, answers)
}

/// Each takes the other for the owner at the same epoch: nobody should, and a request ends all the same.
async fn between_two_who_disagree() -> usize {
    let (mut a, mut b, mut answers) = pair().await;
    a.learns(&b.me, 5);
    b.learns(&a.me, 5);
    a.takes(0, 0).await;
    let count = passed_on(&mut a, &mut b, 100).await;
    if count < 100 {
        let answer = answers.next().now_or_never().flatten().expect("it is answered");
        assert!(format!("{:?}", answer.headers).contains("passed on 8 times"), "{answer:?}");
    }
    count
}

#[tokio::test]
async fn a_request_between_nodes_that_disagree_is_refused_after_eight_hops() {
    assert_eq!(between_two_who_disagree().await, 8);
    let _off = without(&[Guard::HopLimit]);
    assert_eq!(between_two_who_disagree().await, 100, "without the rule it never ends");
}

/// `bb` owns the partition at epoch 6, and does not know it yet; how often a request is passed on until it does.
async fn to_an_owner_that_is_behind() -> usize {
    let (mut a, mut b, mut answers) = pair().await;
    a.learns(&b.me, 6);
    b.learns(&a.me, 5);
    a.takes(0, 0).await;
    let count = passed_on(&mut a, &mut b, 100).await;
    b.learns(&b.me.clone(), 6);
    b.serves(6);
    let answer = tokio::time::timeout(Duration::from_secs(10), answers.next()).await.unwrap().unwrap();
    assert!(count > 1 || answer.payload == "bb", "{answer:?}");
    count
}

#[tokio::test]
async fn a_request_that_comes_ahead_of_what_its_receiver_knows_waits_there_and_is_executed() {
    assert_eq!(to_an_owner_that_is_behind().await, 1);
    let _off = without(&[Guard::EpochOfRequest]);
    assert!(to_an_owner_that_is_behind().await > 1, "without the rule it goes to and fro");
}
