//! A JetStream cluster of three servers that loses the leader of the ring's bucket.

use std::time::{Duration, Instant};

use crate::common::eventually::eventually;
use crate::common::nats_server::NatsCluster;
use crate::common::node::NodeProcess;
use crate::world::{Bucket, DEFAULT_LEASE, STREAM, all, all_read, set, settled, start};

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
