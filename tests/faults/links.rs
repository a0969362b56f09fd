//! Links between nodes and NATS: watches that end, connections cut, stalled and slowed down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use futures::future::join_all;
use nats_ring::coord::LeaseState;
use tokio::task::JoinHandle;

use crate::common::http::Http;
use crate::common::nats_server::NatsServer;
use crate::common::node::NodeProcess;
use crate::common::proxy::{Link, Proxy};
use crate::world::{
    Bucket, DEFAULT_LEASE, FAST, Read, SETTLE_LIMIT, STREAM, all, all_read, owned_by, read, read_all, set, settled,
    standing, start, start_number, taken_over, three,
};

/// "Within seconds".
const SOON: Duration = Duration::from_secs(10);

/// Deletes every consumer of the ring's bucket: all watches of all nodes at once.
async fn cut_watches(server: &NatsServer) -> usize {
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let stream = jetstream.get_stream(STREAM).await.unwrap();
    let names: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
    let deleted = join_all(names.iter().map(|name| stream.delete_consumer(name))).await;
    deleted.into_iter().filter(Result::is_ok).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_all_watches_were_cut_a_join_works_within_seconds_and_all_routes_are_right() {
    let (server, mut nodes) = three(&[]).await;
    set(&nodes[0], &all(), "kept").await.unwrap();
    let before = standing(&nodes, &server.url()).await;
    let cut = Instant::now();
    let deleted = cut_watches(&server).await;
    assert!(deleted >= 6, "{deleted} consumers deleted; each node has two watches");
    let joining = NodeProcess::spawn("node-4", &server.url(), &[]);
    joining.wait_ready(SOON).await;
    nodes.push(joining);
    let everybody: Vec<&NodeProcess> = nodes.iter().collect();
    let table = settled(&everybody, SOON.saturating_sub(cut.elapsed())).await;
    eprintln!("{deleted} watches cut: a fourth node has its share after {:?}", cut.elapsed());
    let claims = Bucket::open(&server.url()).await.claims().await;
    for (p, (owner, epoch)) in table.iter().enumerate() {
        assert_eq!((owner.as_deref(), *epoch), (Some(claims[&p].owner.node.as_str()), claims[&p].epoch.get()));
    }
    all_read(&everybody, &all(), "kept", SOON).await;
    nodes.pop().unwrap().sigterm();
    settled(&nodes.iter().collect::<Vec<_>>(), SETTLE_LIMIT).await;
    assert!(standing(&nodes, &server.url()).await != before, "epochs moved on");
}

/// What the cut-off node answered to one read, and when the read began.
type Seen = (Instant, usize, Read);

/// Asks the node at `base` for these partitions' keys until told to stop.
fn keep_reading(base: String, partitions: &[usize], stop: &Arc<AtomicBool>) -> Vec<JoinHandle<Vec<Seen>>> {
    let http = Http::new();
    let reader = |p: usize| {
        let (http, base, stop) = (http.clone(), base.clone(), Arc::clone(stop));
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let began = Instant::now();
                seen.push((began, p, read(&http, &base, p).await));
                // A little air for the others: it answers thousands a second.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            seen
        })
    };
    partitions.iter().map(|p| reader(*p)).collect()
}

/// The link of `node-2` fails for longer than its lease: the others evict it, it answers nothing stale, and once the
/// link is back it is a member again.
async fn a_lost_link_costs_the_lease_and_nothing_else(fault: Link) {
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    let mut nodes = start(&server.url(), &["node-1"], FAST).await;
    nodes.extend([NodeProcess::spawn("node-2", &proxy.url(), FAST), NodeProcess::spawn("node-3", &server.url(), FAST)]);
    let everybody: Vec<&NodeProcess> = nodes.iter().collect();
    let table = settled(&everybody, SETTLE_LIMIT).await;
    set(&nodes[0], &all(), "old").await.unwrap();
    let (others, cut_off) = ([&nodes[0], &nodes[2]], &nodes[1]);
    let former = owned_by(&table, "node-2");
    let start = start_number(cut_off).await;

    all_read(&[cut_off], &former, "old", SOON).await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers = keep_reading(cut_off.url("").await, &former, &stop);
    let failed = Instant::now();
    proxy.set(fault);
    taken_over(&others, SETTLE_LIMIT).await;
    let taken = failed.elapsed();
    set(others[0], &former, "new").await.unwrap();
    let written = Instant::now();
    assert_eq!(Bucket::open(&server.url()).await.leases().await["node-2"].state, LeaseState::Evicted);
    // Asked now, it must not answer, however long it is given.
    let asked = read_all(cut_off, &former).await;
    assert!(asked.iter().all(|read| matches!(read, Read::Refused(503, _))), "{asked:?}");
    let answer = Http::new().get(&cut_off.url("/ready").await).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    let back = Instant::now();
    proxy.set(Link::Open);
    settled(&everybody, SETTLE_LIMIT).await;
    eprintln!("{fault:?}: taken over after {taken:?}, a member again {:?} after the link was back", back.elapsed());
    stop.store(true, Ordering::SeqCst);
    let seen: Vec<Seen> = join_all(readers).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(start_number(cut_off).await, start + 1, "a new incarnation");
    all_read(&everybody, &former, "new", SOON).await;
    assert_nothing_stale(&seen, written);
}

fn assert_nothing_stale(seen: &[Seen], written: Instant) {
    let (old, new) = (Read::Value("old".into()), Read::Value("new".into()));
    let allowed = |read: &Read| *read == new || matches!(read, Read::Refused(503 | 504, _));
    // A read that began before the new value was acknowledged may still see the old one.
    let wrong = |(began, _, read): &&Seen| !allowed(read) && (*began >= written || *read != old);
    let wrong: Vec<_> = seen.iter().filter(wrong).collect();
    assert!(wrong.is_empty(), "{} of {} answers stale, as {:?}", wrong.len(), seen.len(), wrong[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_link_is_cut_for_longer_than_the_lease_is_evicted_answers_nothing_stale_and_heals() {
    a_lost_link_costs_the_lease_and_nothing_else(Link::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_link_stalls_half_open_is_evicted_answers_nothing_stale_and_heals() {
    a_lost_link_costs_the_lease_and_nothing_else(Link::Stalled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_costs_nobody_a_lease_and_no_request_its_answer() {
    let server = NatsServer::start();
    let proxy = Proxy::to(server.port()).await;
    // A round trip of 200 ms, where a heartbeat may take 500 ms.
    proxy.set(Link::Slow(Duration::from_millis(100)));
    let mut nodes = start(&server.url(), &["node-1"], &[]).await;
    nodes.push(NodeProcess::spawn("node-2", &proxy.url(), &[]));
    let everybody: Vec<&NodeProcess> = nodes.iter().collect();
    settled(&everybody, SETTLE_LIMIT).await;
    let before = standing(&nodes, &server.url()).await;
    let began = Instant::now();
    let mut round = 0;
    while began.elapsed() < DEFAULT_LEASE * 3 / 2 {
        round += 1;
        let value = format!("round {round}");
        set(&nodes[round % 2], &all(), &value).await.unwrap();
        all_read(&everybody, &all(), &value, SOON).await;
    }
    assert_eq!(standing(&nodes, &server.url()).await, before);
}
