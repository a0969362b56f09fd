//! The operators' control plane on real rings: what each command does to who owns what.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::NatsServer;
use common::node::NodeProcess;
use common::recorder::{Embedded, Recorder};
use futures::StreamExt;
use nats_ring::admin::{Admin, AdminError, DrainOptions, DrainStep, NodeState, Overview, PartitionMove, RingEvent};
use nats_ring::coord::Store;
use nats_ring::coord::nats::NatsStore;
use nats_ring::node::Ring;
use nats_ring::ring::Timing;
use nats_ring::rpc::nats::NatsBus;
use nats_ring::rpc::{Bus, RequestError};
use nats_ring::types::{NodeName, PartitionId, RingName};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(40);
const PARTITIONS: u16 = 16;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn ring_name(text: &str) -> RingName {
    RingName::new(text).unwrap()
}

/// A ring of nodes in this process, and an operator's handle on it.
struct World {
    server: NatsServer,
    embedded: Embedded,
    nodes: BTreeMap<String, Ring>,
    admin: Admin,
}

impl World {
    async fn of(names: &[&str]) -> Self {
        let server = NatsServer::start();
        let mut embedded = Embedded::fast(server.connect_options());
        // A lease that a busy machine keeps up with: this is not about suspension.
        embedded.timing =
            Timing { join_debounce: Duration::from_millis(200), ..Timing::for_lease(Duration::from_secs(6)) };
        let first = embedded.start(names[0], Recorder::new(names[0])).await;
        let admin = Admin::open(&server.connect().await, &ring_name("embedded")).await.unwrap();
        let nodes = BTreeMap::from([(names[0].to_owned(), first)]);
        let mut world = Self { server, embedded, nodes, admin };
        world.active(names[0]).await;
        for node in &names[1..] {
            world.join(node).await;
        }
        world.at_rest().await;
        world
    }

    /// Starts a node and waits until it is a member.
    async fn join(&mut self, node: &str) {
        let ring = self.embedded.start(node, Recorder::new(node)).await;
        self.nodes.insert(node.to_owned(), ring);
        self.active(node).await;
    }

    async fn active(&self, node: &str) {
        eventually(LIMIT, &format!("{node} is a member"), || async {
            let seen = self.overview().await;
            let state = seen.nodes.iter().find(|n| n.node == name(node)).map(|n| n.state);
            if state == Some(NodeState::Active) { Ok(()) } else { Err(state) }
        })
        .await;
    }

    async fn overview(&self) -> Overview {
        self.admin.overview(Duration::ZERO).await.unwrap()
    }

    async fn at_rest(&self) -> Overview {
        self.admin.wait_at_rest(LIMIT).await.unwrap()
    }

    /// What the nodes themselves say they own, once they agree with the bucket.
    async fn owned(&self, node: &str) -> Vec<PartitionId> {
        let seen = self.at_rest().await;
        let claimed = owned_by(&seen, node);
        let ring = &self.nodes[node];
        eventually(LIMIT, &format!("{node} knows what it owns"), || async {
            let own = ring.owned_partitions();
            if own == claimed { Ok(()) } else { Err(own) }
        })
        .await;
        claimed
    }

    async fn close(self) {
        for ring in self.nodes.into_values() {
            ring.shutdown().await.unwrap();
        }
    }
}

fn owned_by(seen: &Overview, node: &str) -> Vec<PartitionId> {
    let owned = seen.partitions.iter().filter(|p| p.owner.as_ref() == Some(&name(node)));
    owned.map(|p| p.partition).collect()
}

fn owners(seen: &Overview) -> Vec<NodeName> {
    seen.partitions.iter().map(|p| p.owner.clone().unwrap()).collect()
}

fn changed(before: &Overview, after: &Overview) -> Vec<PartitionId> {
    let both = before.partitions.iter().zip(&after.partitions);
    both.filter(|(b, a)| b.owner != a.owner).map(|(b, _)| b.partition).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_that_does_not_exist_is_said_so_and_nothing_is_created() {
    let server = NatsServer::start();
    let connection = server.connect().await;
    let ring = ring_name("nowhere");
    for _ in 0..2 {
        let error = Admin::open(&connection, &ring).await.err().unwrap();
        assert_eq!(error.code(), "no_ring", "{error}");
        assert!(error.to_string().contains("'nowhere'") && error.to_string().contains("'ring-nowhere'"), "{error}");
        assert!(NatsStore::find(&connection, &ring).await.unwrap().is_none());
    }
    NatsStore::open(&connection, &ring, None).await.unwrap();
    let error = Admin::open(&connection, &ring).await.err().unwrap();
    assert!(error.to_string().contains("is empty"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_a_paused_ring_gets_nothing_until_it_is_resumed() {
    let mut world = World::of(&["one", "two"]).await;
    let before = world.overview().await;
    let paused = world.admin.pause().await.unwrap();
    assert!(paused.changed && paused.config.paused);
    assert!(!world.admin.pause().await.unwrap().changed, "asked twice");
    world.join("three").await;
    let joined = world.at_rest().await;
    assert_eq!(owners(&joined), owners(&before));
    assert!(joined.plan_current && joined.config.paused && joined.moves.is_empty());
    // A node that leaves is still taken over from.
    world.nodes.remove("two").unwrap().shutdown().await.unwrap();
    let left = world.at_rest().await;
    assert_eq!(changed(&before, &left), owned_by(&before, "two"));
    assert!(world.admin.resume().await.unwrap().changed);
    let resumed = world.at_rest().await;
    assert_eq!((owned_by(&resumed, "one").len(), world.owned("three").await.len()), (8, 8));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cordoned_node_keeps_what_it_has_and_gets_nothing_until_it_is_uncordoned() {
    let mut world = World::of(&["one", "two"]).await;
    let before = world.overview().await;
    let unknown = world.admin.cordon(&name("seven")).await.unwrap_err();
    let known = vec![name("one"), name("two")];
    assert_eq!(unknown, AdminError::UnknownNode { node: name("seven"), known });
    assert!(world.admin.cordon(&name("two")).await.unwrap().changed);
    assert!(!world.admin.cordon(&name("two")).await.unwrap().changed);
    world.join("three").await;
    let joined = world.at_rest().await;
    assert_eq!(owned_by(&joined, "two"), owned_by(&before, "two"));
    assert_eq!(world.owned("three").await.len(), 4, "half of what the other one had");
    assert!(joined.nodes.iter().any(|node| node.node == name("two") && node.cordoned && node.owned == 8));
    world.admin.uncordon(&name("two")).await.unwrap();
    let after = world.at_rest().await;
    let shares: Vec<usize> = ["one", "two", "three"].map(|node| owned_by(&after, node).len()).to_vec();
    assert!(shares.iter().all(|share| (5..=6).contains(share)), "{shares:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_partition_moves_and_stays_over_pause_resume_and_a_join() {
    let mut world = World::of(&["one", "two"]).await;
    let before = world.overview().await;
    let pinned = owned_by(&before, "one")[3];
    let nowhere = world.admin.pin(PartitionId::new(PARTITIONS), &name("two")).await.unwrap_err();
    assert_eq!(nowhere.code(), "unknown_partition", "{nowhere}");
    world.admin.pause().await.unwrap();
    let change = world.admin.pin(pinned, &name("two")).await.unwrap();
    assert!(change.changed && change.notes.is_empty(), "{change:?}");
    let moved = world.at_rest().await;
    assert_eq!(changed(&before, &moved), [pinned], "exactly that one, although the ring is paused");
    assert!(world.owned("two").await.contains(&pinned));
    world.admin.resume().await.unwrap();
    let balanced = world.at_rest().await;
    assert_eq!(changed(&moved, &balanced).len(), 1, "another one goes back for it");
    world.join("three").await;
    let joined = world.at_rest().await;
    assert_eq!(joined.partitions[pinned.index()].owner, Some(name("two")));
    assert_eq!(joined.partitions[pinned.index()].pinned, Some(name("two")));
    // While its node is away the pin is not in force.
    world.nodes.remove("two").unwrap().shutdown().await.unwrap();
    let away = world.at_rest().await;
    assert_ne!(away.partitions[pinned.index()].owner, Some(name("two")));
    assert!(away.warnings.iter().any(|warning| warning.contains("not in force")), "{:?}", away.warnings);
    assert!(world.admin.unpin(pinned).await.unwrap().changed);
    assert!(world.overview().await.warnings.is_empty());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_move_is_what_moves() {
    let mut world = World::of(&["one", "two"]).await;
    let before = world.overview().await;
    let preview = world.admin.plan_with(&name("three"), Some("z"), 1).await.unwrap();
    assert_eq!(world.admin.plan_with(&name("two"), None, 1).await.unwrap_err().code(), "already_member");
    let share = |node: &str| preview.nodes.iter().find(|n| n.node == name(node)).map(|n| (n.before, n.after)).unwrap();
    assert_eq!((share("three"), preview.moves.len()), ((0, 5), 5));
    world.join("three").await;
    let joined = world.at_rest().await;
    let happened = |before: &Overview, after: &Overview| -> Vec<PartitionMove> {
        let both = before.partitions.iter().zip(&after.partitions).filter(|(b, a)| b.owner != a.owner);
        let moved = |(b, a): (&nats_ring::admin::PartitionOverview, &nats_ring::admin::PartitionOverview)| {
            PartitionMove { partition: b.partition, from: b.owner.clone(), to: a.owner.clone() }
        };
        both.map(moved).collect()
    };
    assert_eq!(happened(&before, &joined), preview.moves);
    let without = world.admin.plan_without(&name("one")).await.unwrap();
    assert_eq!(without.moves.len(), owned_by(&joined, "one").len());
    world.nodes.remove("one").unwrap().shutdown().await.unwrap();
    assert_eq!(happened(&joined, &world.at_rest().await), without.moves);
    let gone = world.admin.plan_without(&name("one")).await.unwrap_err();
    assert_eq!(gone, AdminError::NotLive { node: name("one"), state: "left" });
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_that_cannot_be_read_hurts_nobody_and_is_not_overwritten() {
    let mut world = World::of(&["one", "two"]).await;
    world.admin.pause().await.unwrap();
    let store = NatsStore::find(&world.server.connect().await, world.admin.ring()).await.unwrap().unwrap();
    let now = store.get("config").await.unwrap().unwrap().revision;
    let bad = store.cas("config", now, "{\"format\":1,\"paused\":".into(), LIMIT).await.unwrap();
    world.join("three").await;
    let seen = world.overview().await;
    assert!(seen.config.paused && owned_by(&seen, "three").is_empty(), "the last good one holds");
    assert!(seen.warnings.iter().any(|warning| warning.contains("'config'")), "{:?}", seen.warnings);
    let refused = world.admin.resume().await.unwrap_err();
    assert!(matches!(&refused, AdminError::Unreadable { key, .. } if key == "config"), "{refused}");
    let mended = r#"{"format":1,"paused":false,"of_another_release":{"x":1}}"#;
    store.cas("config", bad, mended.into(), LIMIT).await.unwrap();
    assert_eq!(owned_by(&world.at_rest().await, "three").len(), 5);
    world.admin.cordon(&name("one")).await.unwrap();
    let kept: Value = serde_json::from_slice(&store.get("config").await.unwrap().unwrap().value.unwrap()).unwrap();
    assert_eq!((&kept["of_another_release"], &kept["cordoned"]), (&json!({"x": 1}), &json!(["one"])));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_as_they_happen_each_with_its_type() {
    let mut world = World::of(&["one"]).await;
    let mut events = world.admin.watch().await.unwrap();
    world.join("two").await;
    world.at_rest().await;
    world.admin.cordon(&name("two")).await.unwrap();
    world.nodes.remove("two").unwrap().shutdown().await.unwrap();
    let two = name("two");
    let to = |told: &[RingEvent], node: &str| {
        let owned = told.iter().filter(|e| matches!(e, RingEvent::PartitionOwned { to, .. } if *to == name(node)));
        owned.count()
    };
    let left = |event: &RingEvent| matches!(event, RingEvent::MemberLeft { node, .. } if *node == two);
    let mut told: Vec<RingEvent> = Vec::new();
    while !told.iter().any(left) || to(&told, "one") < 8 {
        let event = tokio::time::timeout(LIMIT, events.next()).await;
        told.push(event.unwrap_or_else(|_| panic!("told so far: {told:?}")).unwrap());
    }
    let position = |wanted: &dyn Fn(&RingEvent) -> bool| told.iter().position(wanted);
    let joined = position(&|e| matches!(e, RingEvent::MemberJoined { node, start: 1 } if *node == two));
    let drains = position(&|e| matches!(e, RingEvent::MemberDraining { node, .. } if *node == two));
    assert!(position(&|e| matches!(e, RingEvent::Watching { .. })) == Some(0) && joined.is_some(), "{told:?}");
    assert!(drains > joined, "{told:?}");
    assert_eq!((to(&told, "two"), to(&told, "one")), (8, 8), "eight there, eight back");
    let types: Vec<Value> = told.iter().map(|event| serde_json::to_value(event).unwrap()["type"].clone()).collect();
    for wanted in ["watching", "member_started", "plan_written", "config_changed", "partition_owned", "member_left"] {
        assert!(types.contains(&json!(wanted)), "{wanted}: {types:?}");
    }
    world.close().await;
}

/// A ring of processes, and an operator's handle on it.
async fn processes(server: &NatsServer, names: &[&str]) -> (Vec<NodeProcess>, Admin) {
    let mut nodes = Vec::new();
    for node in names {
        let process = NodeProcess::spawn(node, &server.url(), &["--lease", "6s"]);
        process.wait_ready(LIMIT).await;
        nodes.push(process);
    }
    let admin = Admin::open(&server.connect().await, &ring_name("cache-platform")).await.unwrap();
    admin.wait_at_rest(LIMIT).await.unwrap();
    (nodes, admin)
}

async fn steps(admin: &Admin, node: &str, force: bool) -> Result<Vec<DrainStep>, AdminError> {
    let options = DrainOptions { force, ..DrainOptions::default() };
    let mut drain = admin.drain(&name(node), options).await?;
    let mut steps = Vec::new();
    while let Some(step) = drain.next().await {
        steps.push(step?);
    }
    Ok(steps)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_process_ends_with_code_0_and_nothing_is_lost() {
    let server = NatsServer::start();
    let (nodes, admin) = processes(&server, &["node-1", "node-2"]).await;
    let http = Http::new();
    for key in 0..200 {
        let set = json!({"key": format!("k{key}"), "value": key});
        let url = nodes[key % 2].url("/set").await;
        assert_eq!(http.post(&url, &set).await.unwrap().status, 200);
    }
    // Another incarnation of the name is nobody.
    let bus = NatsBus::new(server.connect().await);
    let other = format!("cache-platform.node.node-1.9-{}.drain", "0".repeat(32));
    let asked = bus.request(&other, Vec::new(), bytes::Bytes::new(), LIMIT).await;
    assert!(matches!(asked, Err(RequestError::NoResponders(_))), "{asked:?}");

    let told = steps(&admin, "node-1", false).await.unwrap();
    assert_eq!(told.first(), Some(&DrainStep::Acknowledged { node: name("node-1"), start: 1, partitions: 32 }));
    assert_eq!(told.last(), Some(&DrainStep::Left { node: name("node-1") }));
    let left: Vec<usize> = told
        .iter()
        .filter_map(|step| match step {
            DrainStep::Progress { left, of: 32 } => Some(*left),
            _ => None,
        })
        .collect();
    assert!(left.is_sorted_by(|a, b| a > b) && left.last() == Some(&0), "{left:?}");
    assert_eq!(nodes[0].wait_exit(LIMIT).await, Some(0), "{}", nodes[0].log());
    for key in 0..200 {
        let found = http.get(&nodes[1].url(&format!("/get?key=k{key}")).await).await.unwrap();
        assert_eq!((found.status, &found.json()["value"]), (200, &json!(key)));
    }
    let gone = steps(&admin, "node-1", false).await.unwrap_err();
    assert_eq!(gone, AdminError::NotLive { node: name("node-1"), state: "left" });
    let alone = steps(&admin, "node-2", false).await.unwrap_err();
    assert!(matches!(&alone, AdminError::NobodyElse { owned: 64, stranded, .. } if stranded.len() == 64), "{alone}");
    assert!(nodes[1].is_running());
    steps(&admin, "node-2", true).await.unwrap();
    assert_eq!(nodes[1].wait_exit(LIMIT).await, Some(0), "{}", nodes[1].log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_safe_to_stop_a_node_only_while_others_are_there_and_well() {
    let server = NatsServer::start();
    let (mut nodes, admin) = processes(&server, &["node-1"]).await;
    let codes = async |node: &str| -> Vec<&'static str> {
        let answer = admin.safe_to_stop(&name(node)).await.unwrap();
        assert_eq!(answer.safe, answer.reasons.is_empty());
        answer.reasons.iter().map(|reason| reason.code).collect()
    };
    assert_eq!(codes("node-1").await, ["nobody_else"]);
    assert_eq!(admin.safe_to_stop(&name("node-7")).await.unwrap_err().code(), "unknown_node");
    let second = NodeProcess::spawn("node-2", &server.url(), &["--lease", "6s"]);
    second.wait_ready(LIMIT).await;
    nodes.push(second);
    admin.wait_at_rest(LIMIT).await.unwrap();
    assert_eq!(codes("node-1").await, Vec::<&str>::new());
    admin.pause().await.unwrap();
    admin.wait_at_rest(LIMIT).await.unwrap();
    assert_eq!(codes("node-1").await, Vec::<&str>::new(), "a paused ring still takes over what a drain gives away");
    // Observed for the length of a lease: as long as that, or until it is evicted, a frozen node shows.
    nodes[1].sigstop();
    let frozen = codes("node-1").await;
    assert!(frozen.contains(&"suspect") || frozen.contains(&"orphaned"), "{frozen:?}");
    eventually(LIMIT, "node-1 has taken all over", || async {
        let seen = admin.overview(Duration::ZERO).await.unwrap();
        if owned_by(&seen, "node-1").len() == 64 { Ok(()) } else { Err(seen.orphaned.len()) }
    })
    .await;
    assert_eq!(codes("node-1").await, ["nobody_else"]);
    nodes[1].sigcont();
}
