//! Several rings, each with its own service, and clients in one process over one pair of connections; and what a handle
//! keeps alive.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::eventually::eventually;
use common::http::Http;
use common::nats_server::{NatsServer, ServerOptions, free_ports};
use common::recorder::settled;
use nats_ring::Timing;
use nats_ring::client::RingClient;
use nats_ring::connect::{ConnectOptions, Connections};
use nats_ring::node::{NodeBuilder, NodeError, Queries, Ring};
use nats_ring::rpc::{current_trace, traced};
use nats_ring::service::{BoxError, Grant, Release, Request, Service, ServiceError};
use nats_ring::types::{NodeName, PartitionCount, RingName};

const SOON: Duration = Duration::from_secs(30);
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Answers with its own name, or with the trace that a request came with.
struct Named(&'static str);

#[async_trait]
impl Service for Named {
    async fn on_own(&self, _: &[Grant]) -> Result<(), BoxError> {
        Ok(())
    }

    async fn on_release(&self, _: &[Grant], _: Release) -> Result<(), BoxError> {
        Ok(())
    }

    async fn handle(&self, _: &Grant, request: Request) -> Result<Bytes, ServiceError> {
        // Waited for, so that the answer comes from a task of its own.
        tokio::task::yield_now().await;
        Ok(match request.operation.as_str() {
            "trace" => current_trace().unwrap_or_default().into(),
            _ => Bytes::from(self.0),
        })
    }

    fn operations(&self) -> Vec<&'static str> {
        vec!["name", "trace"]
    }
}

async fn start(nats: &Connections, ring: &str, node: &str, service: &'static str) -> Ring {
    let (ring, node) = (RingName::new(ring).unwrap(), NodeName::new(node).unwrap());
    let timing = Timing { join_debounce: Duration::from_millis(200), ..Timing::for_lease(Duration::from_secs(1)) };
    NodeBuilder::new(nats, ring, node)
        .partitions(PartitionCount::new(8).unwrap())
        .timing(timing)
        .start(Arc::new(Named(service)))
        .await
        .unwrap()
}

async fn connections(server: &NatsServer) -> Connections {
    let reconnect_delay_max = Duration::from_millis(150);
    Connections::open(&ConnectOptions { reconnect_delay_max, ..server.connect_options() }).await.unwrap()
}

#[tokio::test]
async fn two_rings_and_their_clients_share_one_pair_of_connections_and_one_ring_can_go() {
    let monitor = free_ports(1)[0];
    let extra = format!("http: \"127.0.0.1:{monitor}\"");
    let server = NatsServer::start_with(ServerOptions { extra, ..ServerOptions::default() });
    let nats = connections(&server).await;
    let fruits = start(&nats, "fruits", "one", "apple").await;
    let colours = start(&nats, "colours", "one", "red").await;
    let more_colours = start(&nats, "colours", "two", "red").await;
    let to_fruits = RingClient::connect(&nats, RingName::new("fruits").unwrap()).await.unwrap();
    let to_colours = RingClient::connect(&nats, RingName::new("colours").unwrap()).await.unwrap();
    settled(&colours, 2, SOON).await;
    for number in 0..20 {
        let key = format!("key-{number}");
        assert_eq!(to_fruits.call(&key, "name", "").read().await.unwrap().payload, "apple");
        assert_eq!(fruits.call(&key, "name", "").read().await.unwrap().payload, "apple");
        assert_eq!(to_colours.call(&key, "name", "").read().await.unwrap().payload, "red");
    }

    let seen = Http::new().get(&format!("http://127.0.0.1:{monitor}/connz")).await.unwrap().json();
    let mut names: Vec<_> = seen["connections"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["nats-ring data", "nats-ring heartbeat"]);

    fruits.shutdown().await.unwrap();
    for number in 0..20 {
        let key = format!("key-{number}");
        assert_eq!(to_colours.call(&key, "name", "").read().await.unwrap().payload, "red");
        assert_eq!(more_colours.call(&key, "name", "").read().await.unwrap().payload, "red");
    }
    let nobody = to_fruits.call("key", "name", "").timeout(Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(nobody.code(), "unavailable", "{nobody}");
    colours.shutdown().await.unwrap();
    more_colours.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_traceparent_goes_with_a_call_to_its_owner_wherever_that_is() {
    let server = NatsServer::start();
    let nats = connections(&server).await;
    let one = start(&nats, "traced", "one", "one").await;
    let two = start(&nats, "traced", "two", "two").await;
    settled(&one, 2, SOON).await;
    let keys: Vec<String> = (0..30).map(|number| format!("key-{number}")).collect();
    let here = keys.iter().find(|key| one.owns_key(key)).unwrap();
    let there = keys.iter().find(|key| two.owns_key(key)).unwrap();
    for key in [here, there] {
        let reply = traced(Some(PARENT.to_owned()), one.call(key, "trace", "").into_future()).await.unwrap();
        assert_eq!(reply.payload, PARENT, "{}", reply.node);
        assert_eq!(one.call(key, "trace", "").await.unwrap().payload, "", "{}", reply.node);
    }
    let plain = async_nats::connect(server.url()).await.unwrap();
    for (key, _) in keys.iter().zip(0..10) {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("traceparent", PARENT);
        let body = format!("{{\"key\":\"{key}\"}}");
        let reply = plain.request_with_headers("traced.trace", headers, body.into()).await.unwrap();
        assert_eq!(reply.payload, PARENT);
    }
    one.shutdown().await.unwrap();
    two.shutdown().await.unwrap();
}

/// Counts how many partitions the node that is asked owns.
struct Owned;

impl Queries for Owned {
    fn answer(&self, ring: &Ring, _: &str, _: &[u8]) -> Result<Bytes, ServiceError> {
        Ok(ring.owned_partitions().len().to_string().into())
    }
}

#[tokio::test]
async fn a_node_that_answers_questions_leaves_when_its_last_handle_is_dropped() {
    let server = NatsServer::start();
    let nats = connections(&server).await;
    let other = start(&nats, "asked", "other", "other").await;
    let ring = NodeBuilder::new(&nats, RingName::new("asked").unwrap(), NodeName::new("one").unwrap())
        .partitions(PartitionCount::new(8).unwrap())
        .queries(vec!["owned"])
        .start(Arc::new(Named("one")))
        .await
        .unwrap();
    ring.answer_queries(Arc::new(Owned));
    let weak = ring.downgrade();
    settled(&other, 2, SOON).await;
    let plain = async_nats::connect(server.url()).await.unwrap();
    let owned = plain.request("asked.owned", "".into()).await.unwrap().payload;
    assert_eq!(owned, "4");

    drop(ring);
    assert!(weak.upgrade().is_none());
    settled(&other, 1, SOON).await;
    eventually(SOON, "the dropped node has left", || async {
        let members = other.status().members;
        let left = members.iter().any(|member| member.node.as_str() == "one" && member.state == "left");
        if left { Ok(()) } else { Err(members) }
    })
    .await;
    other.shutdown().await.unwrap();
}

#[tokio::test]
async fn ready_tells_that_a_node_takes_part_or_why_it_never_will() {
    let server = NatsServer::start();
    let nats = connections(&server).await;
    let one = start(&nats, "waited", "one", "one").await;
    one.ready().await.unwrap();
    assert_eq!(one.status().not_ready, None);
    let namesake = start(&nats, "waited", "one", "one").await;
    let refused = tokio::time::timeout(SOON, namesake.ready()).await.unwrap().unwrap_err();
    assert!(matches!(refused, NodeError::NameLive { .. }), "{refused}");
    one.shutdown().await.unwrap();
    let left = tokio::time::timeout(SOON, one.ready()).await.unwrap();
    assert!(left.is_err(), "a node that has left never takes part");
}
