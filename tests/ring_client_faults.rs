//! A client that routes without joining, while what it follows fails: gaps, repeats, lost connections, servers that
//! restart, a bucket that is deleted, a ring that comes back with another shape.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use common::eventually::eventually;
use common::nats_server::NatsServer;
use common::recorder::{Embedded, Recorder, settled};
use nats_ring::client::{ClientParts, RingClient};
use nats_ring::coord::mem::{Faults, MemStore};
use nats_ring::coord::{Claim, ClaimState, Key, Meta, Record, Revision, Store};
use nats_ring::rpc::mem::MemSwitch;
use nats_ring::types::{
    BootClock, Chance, Epoch, Generation, Incarnation, KeyHash, NodeId, NodeName, PartitionCount, PartitionId, RingName,
};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(30);
const BUCKET: &str = "KV_ring-embedded";

/// The ring's writers, played by the test.
struct Played {
    store: MemStore,
    /// The client's own connection to it.
    seen: MemStore,
}

impl Played {
    async fn new(partitions: u16) -> (Self, RingClient) {
        let store = MemStore::new(7);
        let played = Self { seen: store.connect(), store };
        played.meta(1, partitions).await;
        let parts = ClientParts {
            ring: RingName::new("played").unwrap(),
            store: Arc::new(played.seen.clone()),
            bus: Arc::new(MemSwitch::new(7).bus()),
            clock: Arc::new(BootClock),
            chance: Chance::seeded(7),
        };
        let client = RingClient::start(parts).await.unwrap();
        (played, client)
    }

    async fn write(&self, key: &Key, record: Record) {
        let current = self.store.get(&key.text()).await.unwrap().map_or(Revision::NONE, |entry| entry.revision);
        self.store.cas(&key.text(), current, record.encode(), SOON).await.unwrap();
    }

    async fn meta(&self, generation: u64, partitions: u16) {
        let meta = Meta {
            nonce: Uuid::from_u128(1),
            generation: Generation::new(generation),
            partitions: PartitionCount::new(partitions).unwrap(),
            key_hash: KeyHash::Xxh3,
        };
        self.write(&Key::Meta, Record::Meta(meta)).await;
    }

    async fn claim(&self, partition: u16, epoch: u64, owner: &str, state: ClaimState) {
        let incarnation = Incarnation { start: 1, id: Uuid::from_u128(2) };
        let owner = NodeId { node: NodeName::new(owner).unwrap(), incarnation };
        let (generation, epoch) = (Generation::new(1), Epoch::new(epoch));
        let claim = Claim { generation, epoch, owner: owner.clone(), replicas: vec![owner], state };
        self.write(&Key::Own(PartitionId::new(partition)), Record::Own(claim)).await;
    }
}

async fn until_owned(client: &RingClient, partition: u16, owner: Option<(&str, u64)>) {
    eventually(SOON, &format!("partition {partition} is {owner:?}'s"), || async {
        let route = client.route(PartitionId::new(partition)).map(|r| (r.owner.node.to_string(), r.epoch.get()));
        let wanted = owner.map(|(node, epoch)| (node.to_owned(), epoch));
        if route == wanted { Ok(()) } else { Err(route) }
    })
    .await;
}

#[tokio::test]
async fn routes_stay_true_over_gaps_repeats_and_a_lost_connection() {
    let (played, client) = Played::new(4).await;
    played.store.set_faults(Faults { watch_repeat: 0.3, watch_gap: 0.3, ..Faults::default() });
    for epoch in 1..40 {
        let owner = if epoch % 2 == 0 { "even" } else { "odd" };
        played.claim(u16::try_from(epoch % 4).unwrap(), epoch, owner, ClaimState::Held).await;
        tokio::task::yield_now().await;
    }
    until_owned(&client, 3, Some(("odd", 39))).await;
    until_owned(&client, 0, Some(("even", 36))).await;
    played.seen.set_connected(false);
    played.claim(0, 50, "later", ClaimState::Held).await;
    played.claim(1, 51, "later", ClaimState::Released).await;
    played.seen.set_connected(true);
    until_owned(&client, 0, Some(("later", 50))).await;
    until_owned(&client, 1, None).await;
    client.close().await;
}

#[tokio::test]
async fn a_ring_that_comes_back_with_another_shape_is_followed_and_what_was_known_is_forgotten() {
    let (played, client) = Played::new(4).await;
    played.claim(2, 9, "before", ClaimState::Held).await;
    until_owned(&client, 2, Some(("before", 9))).await;

    played.store.reset();
    played.meta(2, 4).await;
    played.claim(1, 1, "after", ClaimState::Held).await;
    until_owned(&client, 1, Some(("after", 1))).await;
    until_owned(&client, 2, None).await;

    played.store.reset();
    played.meta(1, 16).await;
    played.claim(15, 1, "wider", ClaimState::Held).await;
    until_owned(&client, 15, Some(("wider", 1))).await;
    assert_eq!(client.partitions().get(), 16);
    assert_eq!(client.partition_for("key"), KeyHash::Xxh3.partition(b"key", PartitionCount::new(16).unwrap()));
    client.close().await;
}

#[tokio::test]
async fn a_later_generation_is_followed_where_its_meta_is_all_that_is_seen_of_it() {
    let (played, client) = Played::new(4).await;
    played.claim(2, 9, "before", ClaimState::Held).await;
    until_owned(&client, 2, Some(("before", 9))).await;
    played.meta(2, 8).await;
    eventually(SOON, "the client has read meta again", || async {
        let partitions = client.partitions().get();
        if partitions == 8 { Ok(()) } else { Err(partitions) }
    })
    .await;
    until_owned(&client, 2, Some(("before", 9))).await;
    client.close().await;
}

#[tokio::test]
async fn claims_that_went_back_are_believed_again() {
    let (played, client) = Played::new(4).await;
    played.claim(0, 1, "first", ClaimState::Held).await;
    played.claim(0, 2, "lost", ClaimState::Held).await;
    until_owned(&client, 0, Some(("lost", 2))).await;
    played.store.rollback(1);
    until_owned(&client, 0, Some(("first", 1))).await;
    played.meta(2, 4).await;
    played.claim(0, 3, "next", ClaimState::Held).await;
    until_owned(&client, 0, Some(("next", 3))).await;
    client.close().await;
}

/// Asks until it is answered; fails where the owner is not `owner`.
async fn until_answered(client: &RingClient, owner: &str) {
    eventually(SOON, "the owner answers", || async {
        match client.call("key", "who", "").timeout(Duration::from_secs(1)).await {
            Ok(reply) if reply.node.as_str() == owner => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn calls_go_on_after_the_server_was_restarted_and_after_the_bucket_was_deleted() {
    let mut server = NatsServer::start();
    let embedded = Embedded::fast(server.connect_options());
    let one = embedded.start("one", Recorder::new("one")).await;
    settled(&one, 1, SOON).await;
    let ring = RingName::new("embedded").unwrap();
    let client = RingClient::connect(server.connect_options(), ring).await.unwrap();
    until_answered(&client, "one").await;

    server.restart();
    until_answered(&client, "one").await;
    let two = embedded.start("two", Recorder::new("two")).await;
    settled(&two, 2, SOON).await;
    one.shutdown().await.unwrap();
    until_answered(&client, "two").await;

    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    jetstream.delete_stream(BUCKET).await.unwrap();
    eventually(SOON, "the ring goes on under the next generation", || async {
        let epochs: Vec<_> = two.status().partitions.iter().map(|partition| partition.epoch.get()).collect();
        if epochs.iter().all(|epoch| *epoch == 1) { Ok(()) } else { Err(epochs) }
    })
    .await;
    until_answered(&client, "two").await;
    two.shutdown().await.unwrap();
}
