//! Four processes with three copies of each partition, on a real server: one is restarted with what it kept, and meanwhile nobody is
//! made a copy of what it had; nor later, for it is sent what it missed. Where it does not come back, copies are made.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // What was sent is told.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use futures::{StreamExt, TryStreamExt};
use nats_ring::cache::{CacheClient, Limits};
use nats_ring::client::RingClient;
use nats_ring::types::{Consistency, RingName};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const PARTITIONS: usize = 12;
const VALUE_BYTES: usize = 20_000;
/// 12 MB in all, and a tenth of it written anew while one is away.
const ENTRIES: usize = 600;
const AGAIN: usize = 60;

struct Bed {
    server: NatsServer,
    nodes: Vec<NodeProcess>,
    cache: CacheClient,
    folder: tempfile::TempDir,
    delay: &'static str,
}

/// Who has copies of each partition.
type Sets = Vec<BTreeSet<String>>;

impl Bed {
    async fn start(delay: &'static str) -> Self {
        let server = NatsServer::start();
        let ring = RingName::new("cache-platform").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let first = spawn(&server, &folder, delay, 1);
        first.wait_ready(LIMIT).await;
        let client = RingClient::connect(server.connect_options(), ring).await.unwrap();
        let cache = CacheClient::new(std::sync::Arc::new(client), Limits { max_value_bytes: 1 << 19 });
        let mut bed = Self { server, nodes: vec![first], cache, folder, delay };
        for number in 2..=4 {
            let node = spawn(&bed.server, &bed.folder, delay, number);
            node.wait_ready(LIMIT).await;
            bed.nodes.push(node);
        }
        bed.at_rest(4).await;
        bed.write(ENTRIES, 0, Consistency::Quorum).await;
        bed
    }

    /// What the first node knows.
    async fn ring(&self) -> Value {
        Http::with_limit(Duration::from_secs(5)).get(&self.nodes[0].url("/ring").await).await.unwrap().json()
    }

    /// Waits until every partition has three copies in sync, and so many nodes have their share of them.
    async fn at_rest(&self, nodes: usize) -> Sets {
        eventually(LIMIT, "three copies of each", || async {
            let sets = sets(&self.ring().await);
            let holders: BTreeSet<&String> = sets.iter().flatten().collect();
            let held = |node: &String| sets.iter().filter(|set| set.contains(node)).count();
            let full = sets.iter().all(|set| set.len() == 3) && holders.len() == nodes;
            let even = holders.iter().all(|node| held(node) == PARTITIONS * 3 / nodes);
            if full && even { Ok(sets) } else { Err(format!("{sets:?}")) }
        })
        .await
    }

    async fn write(&self, count: usize, round: usize, level: Consistency) {
        let cache = self.cache.clone().with_consistency(level);
        let writes = (0..count).map(|number| {
            let cache = cache.clone();
            async move { cache.set(format!("key-{number}").into(), value(number, round).into(), None).await.map(|_| ()) }
        });
        futures::stream::iter(writes).buffer_unordered(8).try_collect::<()>().await.unwrap();
    }

    async fn assert_holds(&self) {
        for number in 0..ENTRIES {
            let found = self.cache.get(format!("key-{number}").into()).await.unwrap().found.map(|found| found.value);
            let expected = value(number, usize::from(number < AGAIN));
            assert!(found.as_deref() == Some(expected.as_bytes()), "key-{number}");
        }
    }

    /// All bytes that these nodes have sent of whole copies and of what was missed.
    async fn sent(&self, nodes: &[NodeProcess]) -> (u64, u64) {
        let mut sum = (0, 0);
        for node in nodes {
            let text = Http::new().get(&node.url("/metrics").await).await.unwrap().text();
            let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            sum.0 += of("nats_ring_copied_bytes_total ").parse::<f64>().unwrap() as u64;
            sum.1 += of("nats_ring_difference_bytes_total ").parse::<f64>().unwrap() as u64;
        }
        sum
    }

    /// The last node drains and ends.
    async fn stop_last(&mut self) {
        self.nodes[3].sigterm();
        assert_eq!(self.nodes[3].wait_exit(LIMIT).await, Some(0), "{}", self.nodes[3].log());
    }
}

fn spawn(server: &NatsServer, folder: &tempfile::TempDir, delay: &str, number: usize) -> NodeProcess {
    let name = format!("node-{number}");
    let keep = folder.path().join(&name);
    std::fs::create_dir_all(&keep).unwrap();
    let partitions = PARTITIONS.to_string();
    // Generous: a loaded machine must not lose a node that is not meant.
    let settings = ["--partitions", &partitions, "--lease", "6s", "--return-delay", delay, "--keep"];
    let settings: Vec<&str> = settings.into_iter().chain([keep.to_str().unwrap()]).collect();
    NodeProcess::spawn(&name, &server.url(), &settings)
}

fn value(number: usize, round: usize) -> String {
    format!("\"{round}-{}\"", char::from(b'a' + (number % 26) as u8).to_string().repeat(VALUE_BYTES))
}

fn sets(ring: &Value) -> Sets {
    let names = |partition: &Value| {
        let replicas = partition["replicas"].as_array().unwrap().iter();
        replicas.map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    ring["partitions"].as_array().unwrap().iter().map(names).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_restarted_in_time_has_its_places_again_and_nothing_was_copied() {
    let mut bed = Bed::start("5m").await;
    let (before, sent_before) = (bed.at_rest(4).await, bed.sent(&bed.nodes[..3]).await);
    bed.stop_last().await;
    let ring = bed.ring().await;
    let kept = &ring["places_kept"][0];
    assert_eq!((kept["node"].as_str(), kept["places"].as_u64()), (Some("node-4"), Some(9)), "{ring}");
    assert!(kept["remaining_seconds"].as_f64().unwrap() > 60.0, "{kept}");
    let without = |set: &BTreeSet<String>| set.iter().filter(|name| *name != "node-4").cloned().collect();
    assert_eq!(sets(&ring), before.iter().map(without).collect::<Sets>(), "nobody is made a copy");
    bed.write(AGAIN, 1, Consistency::Quorum).await;
    bed.nodes[3] = spawn(&bed.server, &bed.folder, bed.delay, 4);
    bed.nodes[3].wait_ready(LIMIT).await;
    assert_eq!(bed.at_rest(4).await, before, "as before");
    let sent = bed.sent(&bed.nodes[..3]).await;
    let (copied, missed) = (sent.0 - sent_before.0, sent.1 - sent_before.1);
    println!(
        "restarted: {copied} bytes of copies and {missed} of what was missed, of {} in all",
        ENTRIES * VALUE_BYTES
    );
    let anew = (AGAIN * VALUE_BYTES) as u64;
    assert_eq!(copied, 0);
    assert!((anew / 3..anew * 3 / 2).contains(&missed), "{missed} of {anew}");
    assert_eq!(bed.sent(&bed.nodes[3..]).await.0, 0, "nor by the one that is back");
    bed.assert_holds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_node_does_not_come_back_copies_are_made_once_the_delay_is_over() {
    let mut bed = Bed::start("8s").await;
    let before = bed.sent(&bed.nodes[..3]).await;
    bed.stop_last().await;
    assert_eq!(bed.ring().await["places_kept"][0]["node"], "node-4");
    assert_eq!(bed.sent(&bed.nodes[..3]).await.0, before.0);
    bed.nodes[0].wait_log("kept no longer", LIMIT).await;
    bed.at_rest(3).await;
    let copied = bed.sent(&bed.nodes[..3]).await.0 - before.0;
    println!("not back: {copied} bytes of copies, of {} in all", ENTRIES * VALUE_BYTES);
    assert!(copied > (ENTRIES * VALUE_BYTES / 2) as u64, "{copied}");
    assert_eq!(bed.ring().await["places_kept"], serde_json::json!([]));
    bed.write(AGAIN, 1, Consistency::Strong).await;
    bed.assert_holds().await;
}
