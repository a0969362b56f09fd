//! Processes that come back soon, on a real server: frozen past the lease, and restarted with what they kept. What their owners send is
//! counted, as their metrics have it.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // What was sent is told.

mod common;

use std::path::Path;
use std::time::Duration;

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use futures::{StreamExt, TryStreamExt};
use nats_ring::cache::{CacheClient, Limits};
use nats_ring::client::RingClient;
use nats_ring::types::{Consistency, RingName};

const LIMIT: Duration = Duration::from_secs(60);
const VALUE_BYTES: usize = 50_000;
const MEGABYTE: u64 = 1_000_000;
/// 50 MB in one partition, and 1 MB of it written anew.
const ENTRIES: usize = 1000;
const AGAIN: usize = 20;

struct Bed {
    server: NatsServer,
    nodes: [NodeProcess; 2],
    cache: CacheClient,
}

fn spawn(server: &NatsServer, name: &str, more: &[&str]) -> NodeProcess {
    // Generous: a loaded machine must not lose a node that is not meant.
    let settings = ["--partitions", "1", "--lease", "4s", "--return-delay", "3m"];
    NodeProcess::spawn(name, &server.url(), &[&settings[..], more].concat())
}

fn value(number: usize, round: usize) -> String {
    format!("\"{round}-{}\"", char::from(b'a' + (number % 26) as u8).to_string().repeat(VALUE_BYTES))
}

impl Bed {
    /// Two nodes, and the second has a copy of everything that the first owns.
    async fn start(more: &[&str]) -> Self {
        let server = NatsServer::start();
        let first = spawn(&server, "node-1", more);
        first.wait_ready(LIMIT).await;
        let second = spawn(&server, "node-2", more);
        second.wait_ready(LIMIT).await;
        let ring = RingName::new("cache-platform").unwrap();
        let client = RingClient::connect(server.connect_options(), ring).await.unwrap();
        let cache = CacheClient::new(std::sync::Arc::new(client), Limits { max_value_bytes: 1 << 19 });
        let bed = Self { server, nodes: [first, second], cache };
        bed.two_copies().await;
        bed.write(ENTRIES, 0, Consistency::Quorum).await;
        bed
    }

    async fn two_copies(&self) {
        let (http, url) = (Http::with_limit(Duration::from_secs(5)), self.nodes[0].url("/ring").await);
        eventually(LIMIT, "two copies in sync", || async {
            let ring = http.get(&url).await?.json();
            let copies = ring["partitions"][0]["replicas"].as_array().map_or(0, Vec::len);
            if copies == 2 { Ok(()) } else { Err(ring.to_string()) }
        })
        .await;
    }

    async fn write(&self, count: usize, round: usize, level: Consistency) {
        let cache = self.cache.clone().with_consistency(level);
        let writes = (0..count).map(|number| {
            let cache = cache.clone();
            async move { cache.set(format!("key-{number}").into(), value(number, round).into(), None).await.map(|_| ()) }
        });
        futures::stream::iter(writes).buffer_unordered(8).try_collect::<()>().await.unwrap();
    }

    /// All bytes that the first node has sent of whole copies and of what was missed.
    async fn sent(&self) -> (u64, u64) {
        let text = Http::new().get(&self.nodes[0].url("/metrics").await).await.unwrap().text();
        let of = |name: &str| {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {text}"));
            line.trim().parse::<f64>().unwrap() as u64
        };
        (of("nats_ring_copied_bytes_total "), of("nats_ring_difference_bytes_total "))
    }

    /// The first node goes, so that what the second holds is what is read.
    async fn assert_second_has_all(&mut self) {
        self.nodes[0].sigterm();
        assert_eq!(self.nodes[0].wait_exit(LIMIT).await, Some(0));
        for number in (0..ENTRIES).step_by(7).chain(0..AGAIN) {
            let found = self.cache.get(format!("key-{number}").into()).await.unwrap().found.map(|found| found.value);
            let expected = value(number, usize::from(number < AGAIN));
            assert!(found.as_deref() == Some(expected.as_bytes()), "key-{number}");
        }
    }
}

fn report(what: &str, (before, after): ((u64, u64), (u64, u64))) -> u64 {
    let (copied, missed) = (after.0 - before.0, after.1 - before.1);
    println!("{what}: {copied} bytes of copies and {missed} of what was missed, of {} in all", ENTRIES * VALUE_BYTES);
    copied + missed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_frozen_past_its_lease_is_sent_what_it_missed() {
    let mut bed = Bed::start(&[]).await;
    let before = bed.sent().await;
    bed.nodes[1].sigstop();
    bed.nodes[0].wait_log("evicted a silent node", LIMIT).await;
    bed.write(AGAIN, 1, Consistency::Eventual).await;
    bed.nodes[1].sigcont();
    bed.two_copies().await;
    let sent = report("frozen past its lease", (before, bed.sent().await));
    // What was sent while it still was in the set came to its socket, and is not counted.
    assert!((MEGABYTE / 2..=2 * MEGABYTE).contains(&sent), "{sent}");
    bed.assert_second_has_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_restarted_goes_on_from_what_it_kept_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let kept = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    let keep = ["--keep", folder.path().to_str().unwrap()];
    let mut bed = Bed::start(&keep).await;
    let before = bed.sent().await;
    bed.nodes[1].sigterm();
    assert_eq!(bed.nodes[1].wait_exit(LIMIT).await, Some(0));
    assert_eq!(kept(folder.path()), 1, "one partition: {}", bed.nodes[1].log());
    bed.write(AGAIN, 1, Consistency::Eventual).await;
    bed.nodes[1] = spawn(&bed.server, "node-2", &keep);
    bed.two_copies().await;
    let sent = report("restarted with what it kept", (before, bed.sent().await));
    assert!((MEGABYTE..=2 * MEGABYTE).contains(&sent), "{sent}");
    assert_eq!(kept(folder.path()), 0, "they are of no use any more");
    bed.assert_second_has_all().await;
}
