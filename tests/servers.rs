//! The same ring on the oldest accepted NATS server and on the newest, and the line before the oldest refused.
//!
//! One scenario, all of it on each: set, get and delete through each of three nodes, a time to live, a planned leave, a
//! crash, a restart of NATS.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::{NatsServer, ServerOptions, old_server};
use common::node::NodeProcess;
use hyper::Method;
use serde_json::{Value, json};

/// Newest of the oldest accepted line, and of the line before it: what `nats/install.sh --old-servers` brings.
const OLDEST_ACCEPTED: &str = "2.11.11";
const TOO_OLD: &str = "2.10.26";
const LIMIT: Duration = Duration::from_secs(60);
const KEYS: usize = 48;

struct World {
    server: NatsServer,
    nodes: Vec<NodeProcess>,
    http: Http,
}

impl World {
    async fn start(options: ServerOptions) -> Self {
        let server = NatsServer::start_with(options);
        let names = ["node-1", "node-2", "node-3"];
        let nodes = names.map(|name| NodeProcess::spawn(name, &server.url(), &["--lease", "1s"])).into();
        let world = Self { server, nodes, http: Http::new() };
        world.whole().await;
        world
    }

    /// Waits until every node is ready, and says of every partition that it has a serving owner among these nodes.
    async fn whole(&self) {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        for node in &self.nodes {
            node.wait_ready(LIMIT).await;
            let (health, ring) = (node.url("/health?scope=ring").await, node.url("/ring").await);
            eventually(LIMIT, &format!("{} sees a whole ring of {names:?}", node.name), || async {
                let health = self.http.get(&health).await?;
                let ring = self.http.get(&ring).await?.json();
                let owners: Vec<&str> = owners(&ring);
                let all = names.iter().all(|name| owners.contains(name));
                let only = owners.iter().all(|owner| names.contains(owner));
                if health.status == 200 && all && only { Ok(()) } else { Err(format!("{} {ring}", health.text())) }
            })
            .await;
        }
    }

    async fn set(&self, node: usize, body: Value) {
        let url = self.nodes[node].url("/set").await;
        let answer = self.http.post(&url, &body).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// The value at this node, `None` where there is none.
    async fn get(&self, node: usize, key: &str) -> Option<Value> {
        let url = self.nodes[node].url(&format!("/get?key={key}")).await;
        let answer = self.http.get(&url).await.unwrap();
        match answer.status {
            200 => Some(answer.json()["value"].clone()),
            404 => None,
            _ => panic!("{} {}", answer.status, answer.text()),
        }
    }

    async fn delete(&self, node: usize, key: &str) -> Value {
        let url = self.nodes[node].url(&format!("/delete?key={key}")).await;
        self.http.request(Method::DELETE, &url, None).await.unwrap().json()["deleted"].clone()
    }

    /// Sets every key through the nodes in turn, then reads each through the next node.
    async fn set_and_get_all(&self, round: &str) {
        for number in 0..KEYS {
            self.set(number % self.nodes.len(), json!({"key": format!("k{number}"), "value": round})).await;
        }
        self.get_all(round).await;
    }

    async fn get_all(&self, round: &str) {
        for number in 0..KEYS {
            let found = self.get((number + 1) % self.nodes.len(), &format!("k{number}")).await;
            assert_eq!(found, Some(json!(round)), "k{number}");
        }
    }

    async fn epochs(&self) -> Vec<Value> {
        let ring = self.http.get(&self.nodes[0].url("/ring").await).await.unwrap().json();
        ring["partitions"].as_array().unwrap().iter().map(|partition| partition["epoch"].clone()).collect()
    }
}

fn owners(ring: &Value) -> Vec<&str> {
    let partitions = ring["partitions"].as_array().unwrap();
    partitions.iter().map(|partition| partition["owner"].as_str().unwrap_or("nobody")).collect()
}

async fn scenario(options: ServerOptions) {
    let mut world = World::start(options).await;
    world.set_and_get_all("first").await;
    for node in 0..3 {
        let key = format!("gone-{node}");
        world.set(node, json!({"key": key, "value": 1})).await;
        assert_eq!(world.delete((node + 1) % 3, &key).await, true);
        assert_eq!(world.get((node + 2) % 3, &key).await, None);
        assert_eq!(world.delete(node, &key).await, false);
    }
    world.set(0, json!({"key": "short", "value": 1, "ttl": 1.0})).await;
    eventually(LIMIT, "an entry with a ttl of a second goes", || async {
        world.get(1, "short").await.map_or(Ok(()), |_| Err("still there"))
    })
    .await;

    let leaving = world.nodes.pop().unwrap();
    leaving.sigterm();
    assert_eq!(leaving.wait_exit(LIMIT).await, Some(0), "{}", leaving.log());
    world.whole().await;
    world.get_all("first").await;

    let killed = world.nodes.pop().unwrap();
    killed.kill9();
    world.whole().await;
    world.set_and_get_all("second").await;

    let epochs = world.epochs().await;
    world.server.restart();
    world.whole().await;
    assert_eq!(world.epochs().await, epochs, "nobody lost anything while NATS was away for a moment");
    world.get_all("second").await;
    world.set_and_get_all("third").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_works_on_the_oldest_accepted_server() {
    let Some(program) = old_server(OLDEST_ACCEPTED, "the ring on the oldest accepted server") else { return };
    scenario(ServerOptions { program: Some(program), ..ServerOptions::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_works_on_the_newest_server() {
    scenario(ServerOptions::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_the_line_before_is_refused_by_its_version() {
    let Some(program) = old_server(TOO_OLD, "a server that is too old") else { return };
    let server = NatsServer::start_with(ServerOptions { program: Some(program), ..ServerOptions::default() });
    let node = NodeProcess::spawn("node-1", &server.url(), &[]);
    assert_eq!(node.wait_exit(LIMIT).await, Some(3), "{}", node.log());
    let line = node.wait_log("nats-ring: ", LIMIT).await;
    assert!(line.contains(TOO_OLD) && line.contains("at least 2.11.0 is needed"), "{line}");
}

#[test]
fn the_versions_named_here_are_those_that_the_installer_brings() {
    let script = include_str!("../nats/install.sh");
    assert!(script.contains(&format!("OLD_VERSIONS=\"{OLDEST_ACCEPTED} {TOO_OLD}\"")), "nats/install.sh");
}
