//! Connections to real servers: what is waited for, what is refused, and how loss and return are told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::time::{Duration, Instant};

use common::nats_server::{NatsCluster, NatsServer, ServerOptions};
use nats_ring::connect::{ConnectError, ConnectOptions, Connection, Credentials};

const SOON: Duration = Duration::from_secs(15);

fn without_patience(server: &NatsServer) -> ConnectOptions {
    ConnectOptions { wait: Duration::ZERO, ..server.connect_options() }
}

#[tokio::test]
async fn an_absent_server_is_waited_for_and_then_named() {
    let mut server = NatsServer::start();
    server.stop();
    let options = ConnectOptions { wait: Duration::from_millis(700), ..server.connect_options() };
    let started = Instant::now();
    let error = Connection::open(&options).await.unwrap_err();
    assert!(started.elapsed() >= options.wait);
    let port = server.port().to_string();
    assert!(matches!(&error, ConnectError::Unreachable { servers, .. } if servers.contains(&port)), "{error}");
}

#[tokio::test]
async fn a_server_that_comes_up_within_the_wait_is_used() {
    let mut server = NatsServer::start();
    server.stop();
    let options = server.connect_options();
    let connecting = tokio::spawn(async move { Connection::open(&options).await });
    let server = tokio::task::spawn_blocking(move || {
        server.start_again();
        server
    });
    let server = server.await.unwrap();
    let connection = connecting.await.unwrap().unwrap();
    assert!(connection.is_connected(), "{}", server.url());
    assert!(connection.server_version().starts_with("2."));
}

#[tokio::test]
async fn one_reachable_server_of_several_is_enough() {
    let server = NatsServer::start();
    let mut gone = NatsServer::start();
    gone.stop();
    let options =
        ConnectOptions { servers: vec![format!("{}, {}", gone.url(), server.url())], ..server.connect_options() };
    assert!(Connection::open(&options).await.unwrap().is_connected());
}

#[tokio::test]
async fn wrong_credentials_are_refused_at_once_and_right_ones_accepted() {
    let extra = "authorization { user: ring, password: right }".to_owned();
    let server = NatsServer::start_with(ServerOptions { extra, ..ServerOptions::default() });
    let with = |password: &str| ConnectOptions {
        credentials: Credentials::UserPassword { user: "ring".to_owned(), password: password.to_owned() },
        ..server.connect_options()
    };
    let started = Instant::now();
    for options in [with("wrong"), server.connect_options()] {
        let error = Connection::open(&options).await.unwrap_err();
        assert!(matches!(error, ConnectError::Authorization { .. }), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "was retried");
    assert!(Connection::open(&with("right")).await.unwrap().is_connected());
}

#[tokio::test]
async fn a_server_without_jetstream_is_refused_and_the_message_says_what_to_do() {
    let server = NatsServer::start_with(ServerOptions { jetstream: false, ..ServerOptions::default() });
    let error = Connection::open(&server.connect_options()).await.unwrap_err();
    assert!(Connection::open_core(&server.connect_options()).await.unwrap().is_connected(), "requests need none");
    assert!(matches!(error, ConnectError::NoJetStream { .. }), "{error}");
    assert!(error.to_string().contains("nats-server -js"), "{error}");
}

#[tokio::test]
async fn max_payload_is_the_servers() {
    let extra = "max_payload: 65536".to_owned();
    let server = NatsServer::start_with(ServerOptions { extra, ..ServerOptions::default() });
    assert_eq!(Connection::open(&without_patience(&server)).await.unwrap().max_payload(), 65536);
}

#[tokio::test]
async fn loss_and_return_of_the_server_are_told() {
    let mut server = NatsServer::start();
    let connection = server.connect().await;
    let mut connected = connection.connected();
    assert!(*connected.borrow_and_update());
    server.kill9();
    tokio::time::timeout(SOON, connected.wait_for(|up| !up)).await.unwrap().unwrap();
    assert!(!connection.is_connected());
    server.start_again();
    tokio::time::timeout(SOON, connected.wait_for(|up| *up)).await.unwrap().unwrap();
    assert!(connection.is_connected());
}

#[tokio::test]
async fn a_frozen_server_is_given_up_within_the_pings() {
    let server = NatsServer::start();
    let options = ConnectOptions { ping_interval: Duration::from_millis(300), ..server.connect_options() };
    let connection = Connection::open(&options).await.unwrap();
    let mut connected = connection.connected();
    server.pause();
    let told = tokio::time::timeout(SOON, connected.wait_for(|up| !up)).await;
    server.resume();
    told.unwrap().unwrap();
    tokio::time::timeout(SOON, connected.wait_for(|up| *up)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cluster_is_ready_once_it_has_a_leader() {
    let cluster = NatsCluster::start();
    assert!(cluster.connect().await.is_connected());
}
