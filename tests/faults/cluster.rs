//! A JetStream cluster of three servers that loses the leader of the ring's bucket.

use std::path::Path;
use std::time::{Duration, Instant};

use nats_ring::coord::{Key, Lease, LeaseState, Record};
use nats_ring::types::NodeName;

use crate::common::eventually::eventually;
use crate::common::nats_server::{NatsCluster, free_ports};
use crate::common::node::NodeProcess;
use crate::common::proxy::{Link, Proxy};
use crate::world::{BUCKET, Bucket, DEFAULT_LEASE, SETTLE_LIMIT, STREAM, all, all_read, set, settled, start};

/// An election was measured to take 6 to 8 s; after it the bucket has two of three copies.
const ELECTION_LIMIT: Duration = Duration::from_secs(25);

/// The number of the server that leads the bucket's stream, once it is another one than `not`.
async fn leader(url: &str, not: Option<usize>) -> usize {
    let servers: Vec<_> = url.split(',').map(|url| url.parse::<async_nats::ServerAddr>().unwrap()).collect();
    let jetstream = async_nats::jetstream::new(async_nats::connect(servers).await.unwrap());
    eventually(ELECTION_LIMIT, "the bucket has a leader", || async {
        let stream = jetstream.get_stream(STREAM).await.map_err(|error| error.to_string())?;
        let info = stream.cached_info();
        assert_eq!(info.config.num_replicas, 3);
        let name = info.cluster.as_ref().and_then(|cluster| cluster.leader.clone()).ok_or("none")?;
        let number = name.rsplit('-').next().unwrap().parse().unwrap();
        if Some(number) == not { Err(name) } else { Ok(number) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_of_three_servers_killed_evicts_nobody_and_all_resume_with_the_same_epochs() {
    let mut cluster = NatsCluster::start();
    let nodes = start(&cluster.url(), &["node-1", "node-2", "node-3"], &[]).await;
    let everybody: Vec<&NodeProcess> = nodes.iter().collect();
    set(&nodes[0], &all(), "before").await.unwrap();
    let table = settled(&everybody, ELECTION_LIMIT).await;
    let before = Bucket::open(&cluster.url()).await.leases().await;
    let led = leader(&cluster.url(), None).await;
    let killed = Instant::now();
    cluster.server(led).kill9();
    let up: Vec<String> = (0..3).filter(|n| *n != led).map(|n| cluster.server(n).url()).collect();
    leader(&up.join(","), Some(led)).await;
    let elected = killed.elapsed();
    for node in &nodes {
        node.wait_ready(ELECTION_LIMIT).await;
    }
    all_read(&everybody, &all(), "before", ELECTION_LIMIT).await;
    let suspended = nodes.iter().filter(|node| node.log().contains("suspended: no heartbeat")).count();
    let served = killed.elapsed();
    eprintln!("leader killed: another after {elected:?}, {suspended} of 3 were suspended, all served after {served:?}");
    // A lease and a bit: whoever would evict has had the time to.
    tokio::time::sleep(DEFAULT_LEASE + DEFAULT_LEASE / 3).await;
    assert_eq!(settled(&everybody, ELECTION_LIMIT).await, table, "same owners, same epochs");
    let after = Bucket::open(&up.join(",")).await.leases().await;
    for (node, lease) in &after {
        assert_eq!((lease.incarnation, lease.state), (before[node].incarnation, before[node].state), "{node}");
    }
    set(&nodes[1], &all(), "after").await.unwrap();
    all_read(&everybody, &all(), "after", ELECTION_LIMIT).await;
}

/// Three servers that tell nobody of each other's addresses: who is given one of them knows one of them.
fn unadvertised(logs: &Path) -> NatsCluster {
    let ports = free_ports(3);
    let others = |n: usize| (0..3).filter(move |other| *other != n);
    let routes = (0..3).map(|n| others(n).map(|other| format!("nats://127.0.0.1:{}", ports[other])).collect());
    NatsCluster::start_routed(&ports, &routes.collect::<Vec<_>>(), logs)
}

/// The number of the server that creates streams and consumers, by what the servers last said of it.
fn metadata_leader(logs: &Path) -> Option<usize> {
    const SAID: &str = "new metadata leader: server-";
    let text = |n| std::fs::read_to_string(logs.join(format!("server-{n}.log"))).unwrap_or_default();
    let mut said: Vec<String> = (0..3).flat_map(|n| text(n).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    said.retain(|line| line.contains(SAID));
    // What differs before the time of day is the process and the date.
    let last = said.iter().max_by_key(|line| line.split(' ').nth(2).map(str::to_owned))?;
    last.split(SAID).nth(1)?.split('/').next()?.parse().ok()
}

/// A node's lease as the stream's leader has it.
async fn lease_of(jetstream: &async_nats::jetstream::Context, node: &str) -> Result<Lease, String> {
    let stream = jetstream.get_stream_no_info(STREAM).await.map_err(|error| error.to_string())?;
    let subject = format!("$KV.{BUCKET}.lease.{node}");
    let last = stream.get_last_raw_message_by_subject(&subject).await.map_err(|error| error.to_string())?;
    match Record::decode(&Key::Lease(NodeName::new(node).unwrap()), &last.payload) {
        Ok(Record::Lease(lease)) => Ok(lease),
        other => Err(format!("{other:?}")),
    }
}

/// As after an outage of all servers, where writes are answered seconds before consumers can be created.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_last_beat_landed_unheard_keeps_its_lease_while_no_watch_can_be_opened() {
    const LEASE: Duration = Duration::from_secs(2);
    let with_lease = ["--lease", "2s"];
    let logs = tempfile::tempdir().unwrap();
    let mut cluster = tokio::task::block_in_place(|| unadvertised(logs.path()));
    let meta = eventually(ELECTION_LIMIT, "consumers can be created", || async {
        metadata_leader(logs.path()).ok_or("nobody leads")
    });
    let meta = meta.await;
    let up: Vec<usize> = (0..3).filter(|n| *n != meta).collect();
    let urls = up.iter().map(|n| cluster.server(*n).url()).collect::<Vec<_>>().join(",");
    let proxy = Proxy::to(cluster.server(up[0]).port()).await;
    let mut nodes = start(&urls, &["node-1"], &with_lease).await;
    nodes.push(NodeProcess::spawn("node-2", &proxy.url(), &with_lease));
    settled(&nodes.iter().collect::<Vec<_>>(), SETTLE_LIMIT).await;

    // The stream is led by another server than the one that creates consumers, and goes on without that one.
    let client = async_nats::connect(cluster.server(up[1]).url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client.clone());
    while leader(&urls, None).await == meta {
        client.request(format!("$JS.API.STREAM.LEADER.STEPDOWN.{STREAM}"), "".into()).await.unwrap();
    }
    assert_eq!(metadata_leader(logs.path()), Some(meta));
    cluster.server(meta).pause();

    proxy.set_each(Link::Open, Link::Swallowing);
    // Two beats: one landed and was not heard of, the next was refused for it.
    tokio::time::sleep(LEASE / 3).await;
    let landed = lease_of(&jetstream, "node-2").await.unwrap();
    proxy.set(Link::Open);
    let back = Instant::now();
    let renewed = eventually(ELECTION_LIMIT, "the lease is renewed, or lost", || async {
        let lease = lease_of(&jetstream, "node-2").await?;
        if lease.beat > landed.beat || lease.state != LeaseState::Live { Ok(lease) } else { Err(format!("{lease:?}")) }
    })
    .await;
    let took = back.elapsed();
    eprintln!("a beat landed unheard: {:?} {took:?} after the link was back", renewed.state);
    cluster.server(meta).resume();
    assert_eq!((renewed.incarnation, renewed.state), (landed.incarnation, LeaseState::Live));
    assert!(took < LEASE, "renewed only {took:?} after the link was back, when a watch could be opened");
    settled(&nodes.iter().collect::<Vec<_>>(), ELECTION_LIMIT).await;
    let after = Bucket::open(&urls).await.leases().await;
    assert_eq!((after["node-2"].incarnation, after["node-2"].state), (landed.incarnation, LeaseState::Live));
}
