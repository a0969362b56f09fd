//! A client that routes without joining: right owners in one hop, through moves, lost servers and a ring started anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use common::eventually::eventually;
use common::nats_server::NatsServer;
use common::recorder::{Embedded, Recorder, settled};
use nats_ring::cache::{CacheClient, CacheConfig, CacheService, Limits};
use nats_ring::client::{ClientError, RingClient};
use nats_ring::connect::Connections;
use nats_ring::rpc::CallError;
use nats_ring::types::{BootClock, NodeName, RingName};

/// The stream of the bucket of the ring that [`Embedded`] starts.
const BUCKET: &str = "KV_ring-embedded";
const SOON: Duration = Duration::from_secs(30);

fn ring_name() -> RingName {
    RingName::new("embedded").unwrap()
}

/// Asks for many keys; who answered. Each answer is the key's owner's, as the client knew it.
async fn answerers(client: &RingClient) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for number in 0..100 {
        let key = format!("key-{number}");
        let reply = client.call(&key, "who", "").await.unwrap();
        assert_eq!(reply.partition, client.partition_for(&key));
        assert_eq!(reply.payload, Bytes::from(format!("{}@{}", reply.node, reply.epoch)));
        names.insert(reply.node.to_string());
    }
    names
}

#[tokio::test]
async fn a_client_reaches_every_owner_without_being_a_member() {
    let server = NatsServer::start();
    let embedded = Embedded::fast(server.connect_options());
    let one = embedded.start("one", Recorder::new("one")).await;
    let two = embedded.start("two", Recorder::new("two")).await;
    settled(&one, 2, SOON).await;
    let client = RingClient::connect(server.connect_options(), ring_name()).await.unwrap();
    assert_eq!(client.partitions(), one.shape().partitions);
    assert_eq!(answerers(&client).await, ["one", "two"].map(str::to_owned).into());
    for number in 0..100 {
        let key = format!("key-{number}");
        assert_eq!(client.node_for(&key), one.node_for(&key));
    }
    assert_eq!(one.status().members.len(), 2, "the client is no member");
    one.shutdown().await.unwrap();
    assert_eq!(answerers(&client).await, ["two".to_owned()].into(), "the client follows every move");
    two.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_ring_that_is_not_there_is_named_and_not_created() {
    let server = NatsServer::start();
    let error = RingClient::connect(server.connect_options(), RingName::new("nowhere").unwrap()).await.err().unwrap();
    assert!(matches!(&error, ClientError::NoSuchRing { .. }), "{error:?}");
    assert!(error.to_string().contains("'nowhere'") && error.to_string().contains("ring-nowhere"), "{error}");
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    assert!(jetstream.get_key_value("ring-nowhere").await.is_err(), "a client created the bucket");
}

#[tokio::test]
async fn the_cache_is_used_over_a_client_as_over_a_node() {
    let server = NatsServer::start();
    let nats = Connections::open(&server.connect_options()).await.unwrap();
    let limits = Limits::within_payload(nats.max_payload());
    let node = NodeName::new("one").unwrap();
    let config = CacheConfig { memory_bytes: 1 << 24, max_value_bytes: limits.max_value_bytes, node };
    let service = Arc::new(CacheService::new(config, Arc::new(BootClock)));
    let ring = Embedded::fast(server.connect_options()).start("one", service).await;
    let client = RingClient::connect(nats, ring_name()).await.unwrap();
    let cache = CacheClient::new(Arc::new(client), limits);
    let key = Bytes::from_static(b"user:1");
    cache.set(key.clone(), Bytes::from_static(b"\"Alice\""), None).await.unwrap();
    let found = cache.get(key).await.unwrap();
    assert_eq!(found.found.unwrap().value, Bytes::from_static(b"\"Alice\""));
    ring.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_closed_client_refuses_and_a_dropped_one_leaves_no_consumer_behind() {
    let server = NatsServer::start();
    let ring = Embedded::fast(server.connect_options()).start("one", Recorder::new("one")).await;
    settled(&ring, 1, SOON).await;
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let consumers = async || jetstream.get_stream(BUCKET).await.unwrap().cached_info().state.consumer_count;
    let before = consumers().await;
    let nats = Connections::open(&server.connect_options()).await.unwrap();
    let closed = RingClient::connect(&nats, ring_name()).await.unwrap();
    let dropped = RingClient::connect(&nats, ring_name()).await.unwrap();
    assert!(consumers().await >= before + 2);
    closed.close().await;
    let refused = closed.call("key", "who", "").await.unwrap_err();
    assert!(matches!(&refused, CallError::Unavailable { reason, .. } if reason.contains("closed")), "{refused}");
    drop(dropped);
    eventually(SOON, "its consumers are gone", || async {
        let count = consumers().await;
        if count <= before { Ok(()) } else { Err(count) }
    })
    .await;
    ring.shutdown().await.unwrap();
}
