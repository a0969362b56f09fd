//! What only a real server can do: freeze, restart with its files, lose its last writes, be one of three.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use nats_ring::connect::{ConnectOptions, Connection};
use nats_ring::coord::nats::{NatsStore, WatchTuning, bucket_name};
use nats_ring::coord::{CasError, Entry, Revision, Store, WatchItem, WatchScope, WatchStream};

use super::common::nats_server::{NatsCluster, NatsServer, ServerOptions};
use super::fixture::*;

/// Reads until a change or snapshot carries the key at the revision; gaps may come before.
async fn until_seen(watch: &mut WatchStream, key: &str, revision: Revision) {
    loop {
        let entries = match next(watch).await {
            WatchItem::Snapshot(entries) => entries,
            WatchItem::Change(entry) => vec![entry],
            WatchItem::Gap(_) => continue,
            WatchItem::Reset(reason) => panic!("taken for another store: {reason}"),
        };
        if entries.iter().any(|entry| entry.key == key && entry.revision == revision) {
            return;
        }
    }
}

/// Repeats a CAS whose outcome cannot be known until it is acknowledged or found done.
async fn put_in_the_end(store: &dyn Store, key: &str, expected: Revision) -> Revision {
    tokio::time::timeout(SOON, async {
        loop {
            match store.cas(key, expected, Bytes::from_static(b"after"), Duration::from_secs(1)).await {
                Ok(revision) => return revision,
                Err(CasError::Conflict) => return store.get(key).await.unwrap().unwrap().revision,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await
    .expect("the store did not come back")
}

#[tokio::test]
async fn a_young_watch_survives_a_server_restart_with_its_files_within_five_seconds() {
    let mut real = Real::open().await;
    let store = real.store();
    let before = create(&*store, "own.1").await;
    let mut watch = store.watch(WatchScope::Ring).await.unwrap();
    snapshot(&mut watch).await;
    real.server.kill9();
    real.server.start_again();
    let restarted = tokio::time::Instant::now();
    let after = put_in_the_end(&*store, "own.1", before).await;
    until_seen(&mut watch, "own.1", after).await;
    assert!(restarted.elapsed() < Duration::from_secs(5), "{:?}", restarted.elapsed());
    let later = put(&*store, "own.1", after, "later").await.unwrap();
    until_seen(&mut watch, "own.1", later).await;
}

#[tokio::test]
async fn a_server_that_lost_its_last_writes_ends_the_watch_with_a_reset() {
    let mut real = Real::open().await;
    let store = real.store();
    create(&*store, "own.1").await;
    real.server.stop();
    let backup = real.server.copy_files();
    real.server.start_again();
    let before = store.get_in_the_end("own.1").await;
    let mut watch = store.watch(WatchScope::Ring).await.unwrap();
    snapshot(&mut watch).await;
    let seen = put(&*store, "own.1", before.revision, "to be lost").await.unwrap();
    until_seen(&mut watch, "own.1", seen).await;
    real.server.kill9();
    real.server.restore_files(backup);
    real.server.start_again();
    // Written anew up to the revision that was seen, so that only the write itself tells the difference.
    assert_eq!(put_in_the_end(&*store, "own.1", before.revision).await, seen);
    let reset = async {
        loop {
            match watch.next().await {
                Some(WatchItem::Reset(reason)) => return reason,
                Some(_) => {}
                None => panic!("ended without a reason"),
            }
        }
    };
    tokio::time::timeout(SOON, reset).await.expect("no reset");
    assert_eq!(watch.next().await, None);
}

#[async_trait]
trait Patient {
    async fn get_in_the_end(&self, key: &str) -> Entry;
}

#[async_trait]
impl Patient for Arc<dyn Store> {
    async fn get_in_the_end(&self, key: &str) -> Entry {
        let got = async {
            loop {
                if let Ok(Some(entry)) = self.get(key).await {
                    return entry;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(SOON, got).await.expect("the store did not come back")
    }
}

#[tokio::test]
async fn a_cas_not_acknowledged_in_time_is_unknown_and_may_have_landed() {
    let real = Real::open().await;
    let store = real.store();
    let first = create(&*store, "own.1").await;
    real.server.pause();
    let timeout = Duration::from_millis(300);
    let started = tokio::time::Instant::now();
    let outcome = store.cas("own.1", first, Bytes::from_static(b"late"), timeout).await;
    let took = started.elapsed();
    real.server.resume();
    assert!(matches!(outcome, Err(CasError::Unknown(_))), "{outcome:?}");
    assert!(took < timeout * 3, "took {took:?}");
    // It lies in the server's socket: sent before, it is applied before what is sent now.
    assert_eq!(put(&*store, "own.1", first, "second").await, Err(CasError::Conflict));
    assert_eq!(store.get("own.1").await.unwrap().unwrap().value.unwrap(), "late");
}

#[tokio::test]
async fn a_frozen_server_is_reported_as_a_gap_and_the_watch_goes_on_after_it() {
    let real = Real::open().await;
    let store = real.store();
    let mut watch = store.watch(WatchScope::Ring).await.unwrap();
    snapshot(&mut watch).await;
    real.server.pause();
    let gap = tokio::time::timeout(SOON, watch.next()).await;
    real.server.resume();
    assert!(matches!(gap, Ok(Some(WatchItem::Gap(_)))), "{gap:?}");
    let revision = put_in_the_end(&*store, "own.1", Revision::NONE).await;
    until_seen(&mut watch, "own.1", revision).await;
}

#[tokio::test]
async fn a_relist_yields_the_state_again_and_leaves_no_consumer_behind() {
    let real = Real::open().await;
    let tuning = WatchTuning { relist_every: Duration::from_millis(100), ..WatchTuning::default() };
    let store = real.store.clone().with_watch_tuning(tuning);
    create(&store, "own.1").await;
    let mut watch = store.watch(WatchScope::Ring).await.unwrap();
    for _ in 0..10 {
        assert_eq!(keys(&snapshot(&mut watch).await), ["own.1"]);
    }
    assert_consumers_come_down_to(&real, 1).await;
    drop(watch);
    assert_consumers_come_down_to(&real, 0).await;
}

async fn assert_consumers_come_down_to(real: &Real, most: usize) {
    let stream = real.jetstream().await.get_stream(format!("KV_{}", bucket_name(&ring()))).await.unwrap();
    let down = async {
        while stream.get_info().await.unwrap().state.consumer_count > most {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Well below the time after which the server would do it.
    tokio::time::timeout(Duration::from_secs(5), down).await.expect("consumers were left behind");
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused_and_the_store_goes_on() {
    let real = Real::open().await;
    let store = real.store();
    let huge = Bytes::from(vec![0; real.connection.max_payload() + 1]);
    let outcome = store.cas("plan", Revision::NONE, huge, TIMEOUT).await;
    assert!(matches!(outcome, Err(CasError::Refused(_))), "{outcome:?}");
    create(&*store, "plan").await;
}

#[tokio::test]
async fn many_nodes_open_the_bucket_at_once_and_all_find_the_same() {
    let server = NatsServer::start();
    let opening = (0..12).map(|_| async {
        let connection = server.connect().await;
        let store = NatsStore::open(&connection, &ring(), None).await.unwrap();
        store.identity().await.unwrap()
    });
    let identities = futures::future::join_all(opening).await;
    assert!(identities.windows(2).all(|pair| pair[0] == pair[1]), "{identities:?}");
}

#[tokio::test]
async fn an_existing_bucket_with_other_settings_is_used_as_it_is() {
    let server = NatsServer::start();
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = async_nats::jetstream::kv::Config { bucket: bucket_name(&ring()), history: 5, ..Default::default() };
    jetstream.create_key_value(config).await.unwrap();
    let store = NatsStore::open(&server.connect().await, &ring(), Some(1)).await.unwrap();
    create(&store, "meta").await;
    let stream = jetstream.get_stream(format!("KV_{}", bucket_name(&ring()))).await.unwrap();
    assert_eq!(stream.cached_info().config.max_messages_per_subject, 5);
}

#[tokio::test]
async fn a_bucket_that_forgets_by_itself_is_refused_with_what_to_do() {
    let server = NatsServer::start();
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = kv::Config { bucket: bucket_name(&ring()), max_age: Duration::from_secs(3600), ..Default::default() };
    jetstream.create_key_value(config).await.unwrap();
    let connection = server.connect().await;
    let ring = ring();
    let open = || NatsStore::open(&connection, &ring, Some(1));
    let error = open().await.err().unwrap().to_string();
    assert!(error.contains("max_age = 3600s") && error.contains("--max-age=0"), "{error}");

    let stream = format!("KV_{}", bucket_name(&ring));
    let config = jetstream.get_stream(&stream).await.unwrap().cached_info().config.clone();
    let discarding = Config { max_age: Duration::ZERO, max_bytes: 1 << 20, discard: DiscardPolicy::Old, ..config };
    jetstream.update_stream(discarding.clone()).await.unwrap();
    let error = open().await.err().unwrap().to_string();
    assert!(error.contains("--max-bytes=-1"), "{error}");

    // Full, it refuses what is new: nothing is lost by that.
    jetstream.update_stream(Config { discard: DiscardPolicy::New, ..discarding }).await.unwrap();
    open().await.unwrap();
}

#[tokio::test]
async fn three_copies_on_a_single_server_are_refused_with_what_to_do() {
    let server = NatsServer::start();
    let options = ConnectOptions { wait: Duration::ZERO, ..server.connect_options() };
    let connection = Connection::open(&options).await.unwrap();
    let error = NatsStore::open(&connection, &ring(), Some(3)).await.err().unwrap().to_string();
    assert!(error.contains("--kv-replicas"), "{error}");
}

/// Passes JetStream's questions on from a server that has none to one that has, but denies once, the second time it is asked,
/// that there is such a stream: as a server of a cluster does that lags behind.
async fn deny_the_stream_once(asked: &async_nats::Client, real: &async_nats::Client) {
    const NOT_FOUND: &str = r#"{"type":"io.nats.jetstream.api.v1.stream_info_response","error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
    let mut questions = asked.subscribe("$JS.API.>").await.unwrap();
    asked.flush().await.unwrap();
    let (asked, real) = (asked.clone(), real.clone());
    tokio::spawn(async move {
        let mut infos = 0;
        while let Some(question) = questions.next().await {
            infos += usize::from(question.subject.starts_with("$JS.API.STREAM.INFO."));
            let denied = infos == 2 && question.subject.starts_with("$JS.API.STREAM.INFO.");
            let answer = if denied {
                Bytes::from_static(NOT_FOUND.as_bytes())
            } else {
                real.request(question.subject, question.payload).await.unwrap().payload
            };
            asked.publish(question.reply.unwrap(), answer).await.unwrap();
        }
    });
}

/// Seed 3 of the campaign of real faults: nodes that started together with a cluster ended over this.
#[tokio::test]
async fn a_bucket_that_a_lagging_server_denies_right_after_it_was_found_is_asked_for_again() {
    let real = NatsServer::start();
    let client = async_nats::connect(real.url()).await.unwrap();
    NatsStore::open(&real.connect().await, &ring(), Some(1)).await.unwrap();
    let relay = NatsServer::start_with(ServerOptions { jetstream: false, ..ServerOptions::default() });
    deny_the_stream_once(&async_nats::connect(relay.url()).await.unwrap(), &client).await;
    let connection = Connection::open(&relay.connect_options()).await.unwrap();
    NatsStore::open(&connection, &ring(), Some(1)).await.unwrap();
}

#[tokio::test]
async fn a_cluster_keeps_three_copies_and_survives_the_loss_and_return_of_a_server() {
    let mut cluster = NatsCluster::start();
    let connection = cluster.connect().await;
    let store = NatsStore::open(&connection, &ring(), None).await.unwrap();
    let jetstream = async_nats::jetstream::new(async_nats::connect(cluster.server(1).url()).await.unwrap());
    let stream = jetstream.get_stream(format!("KV_{}", bucket_name(&ring()))).await.unwrap();
    assert_eq!(stream.cached_info().config.num_replicas, 3);
    let first = create(&store, "own.1").await;
    let mut watch = store.watch(WatchScope::Ring).await.unwrap();
    // A snapshot may be taken from a server that lags behind: what it lacks follows.
    until_seen(&mut watch, "own.1", first).await;
    cluster.server(0).kill9();
    let second = put_in_the_end(&store, "own.1", first).await;
    until_seen(&mut watch, "own.1", second).await;
    cluster.server(0).start_again();
    let third = put_in_the_end(&store, "own.1", second).await;
    until_seen(&mut watch, "own.1", third).await;
}
