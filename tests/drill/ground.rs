//! A ring of node processes in zones on one NATS server: started, drained, killed, and looked at until it is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use nats_ring::cache::{CacheClient, Limits};
use nats_ring::client::RingClient;
use nats_ring::coord::{Claim, ClaimState, Key, PlanRecord, Record};
use nats_ring::types::{NodeId, PartitionCount, PartitionId, RingName};

use crate::common::eventually::eventually;
use crate::common::nats_server::NatsServer;
use crate::common::node::NodeProcess;
use crate::doors::{Door, Front, Library, Plain};

const BUCKET: &str = "ring-cache-platform";
/// The program's own default.
const FACTOR: usize = 3;
const READY: Duration = Duration::from_secs(30);
/// How long a ring may take to get over what was done to it.
pub const WHOLE: Duration = Duration::from_secs(60);
/// Between two looks at the bucket.
const LOOK: Duration = Duration::from_millis(80);

/// A ring whose nodes come and go.
pub struct Ground {
    pub server: NatsServer,
    pub nats: async_nats::Client,
    store: async_nats::jetstream::kv::Store,
    /// Name and zone, whether they run or not.
    zones: BTreeMap<String, String>,
    pub nodes: Vec<NodeProcess>,
    lease: String,
    /// Where the HTTP of each node is, or was.
    bases: Arc<Mutex<BTreeMap<String, String>>>,
    fronts: Arc<Mutex<Vec<String>>>,
}

impl Ground {
    /// Nodes `(name, zone)`, the first the oldest; returns once the ring is whole.
    pub async fn start(nodes: &[(&str, &str)], lease: &str) -> Self {
        let server = NatsServer::start();
        let nats = async_nats::connect(server.url()).await.unwrap();
        let first = spawn(&server, nodes[0].0, nodes[0].1, lease);
        first.wait_ready(READY).await;
        let store = async_nats::jetstream::new(nats.clone()).get_key_value(BUCKET).await.unwrap();
        let zones = nodes.iter().map(|(name, zone)| ((*name).to_owned(), (*zone).to_owned())).collect();
        let (bases, fronts, lease) = (Arc::default(), Arc::default(), lease.to_owned());
        let mut ground = Self { server, nats, store, zones, nodes: vec![first], lease, bases, fronts };
        for (name, _) in &nodes[1..] {
            ground.spawn(name);
        }
        ground.whole().await;
        ground
    }

    /// Starts the node of that name; waits for nothing.
    pub fn spawn(&mut self, name: &str) {
        self.nodes.push(spawn(&self.server, name, &self.zones[name], &self.lease));
    }

    /// Takes the process of that name out.
    pub fn take(&mut self, name: &str) -> NodeProcess {
        let at = self.nodes.iter().position(|node| node.name == name).unwrap();
        self.nodes.remove(at)
    }

    /// The three ways in.
    pub async fn doors(&self) -> [(&'static str, Arc<dyn Door>); 3] {
        let ring = RingName::new("cache-platform").unwrap();
        let client = RingClient::connect(self.server.connect_options(), ring).await.unwrap();
        let limits = Limits::within_payload(self.nats.server_info().max_payload);
        let library = Library(CacheClient::new(Arc::new(client), limits));
        // Plain clients are others than this test's.
        let plain = Plain(async_nats::connect(self.server.url()).await.unwrap());
        [
            ("library", Arc::new(library)),
            ("http", Arc::new(Front::new(Arc::clone(&self.fronts)))),
            ("plain", Arc::new(plain)),
        ]
    }

    /// A way in through this node alone.
    pub async fn front_of(&self, node: &NodeProcess) -> Front {
        Front::new(Arc::new(Mutex::new(vec![node.url("").await])))
    }

    /// Waits until the nodes that run are the ring's members, and all that is planned is so: every partition owned and copied where
    /// the plan says, by as many as can be. All nodes are ready then.
    pub async fn whole(&self) {
        for node in &self.nodes {
            node.wait_ready(READY).await;
            let base = node.url("").await;
            self.bases.lock().unwrap().insert(node.name.clone(), base);
        }
        *self.fronts.lock().unwrap() = self.bases.lock().unwrap().values().cloned().collect();
        eventually(WHOLE, &format!("{} nodes are a whole ring", self.nodes.len()), || async {
            let looked = self.look().await;
            if looked.is_err() {
                tokio::time::sleep(LOOK).await;
            }
            looked
        })
        .await;
    }

    async fn look(&self) -> Result<(), String> {
        let Record::Plan(plan) = self.read(Key::Plan).await? else { return Err("no plan".to_owned()) };
        self.members(&plan)?;
        let claims = join_all(PartitionCount::DEFAULT.ids().map(|partition| async move {
            match self.read(Key::Own(partition)).await? {
                Record::Own(claim) => Ok((partition, claim)),
                other => Err(format!("{other:?}")),
            }
        }))
        .await;
        let mut wrong = Vec::new();
        for claim in claims {
            let (partition, claim) = claim?;
            wrong.extend(self.difference(&plan, partition, &claim));
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("{} are not whole: {}", wrong.len(), wrong[0])) }
    }

    fn members(&self, plan: &PlanRecord) -> Result<(), String> {
        let members: BTreeSet<&str> = plan.members.iter().map(|member| member.id.node.as_str()).collect();
        let running: BTreeSet<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        let draining = plan.members.iter().any(|member| member.draining);
        if members == running && !draining { Ok(()) } else { Err(format!("planned for {members:?}")) }
    }

    fn difference(&self, plan: &PlanRecord, partition: PartitionId, claim: &Claim) -> Option<String> {
        let row = &plan.rows[partition.index()];
        let id = |name| plan.members.iter().find(|member| member.id.node == name).map(|member| &member.id);
        let planned: BTreeSet<&NodeId> = row.iter().cloned().filter_map(id).collect();
        let there: BTreeSet<&NodeId> = claim.replicas.iter().collect();
        let right = claim.state == ClaimState::Held
            && row.len() == FACTOR.min(self.nodes.len())
            && there == planned
            && row.first().cloned().and_then(id) == Some(&claim.owner);
        (!right).then(|| format!("partition {partition} is {claim:?}, planned {row:?}"))
    }

    async fn read(&self, key: Key) -> Result<Record, String> {
        let value = self.store.get(key.text()).await.map_err(|error| error.to_string())?;
        let value = value.ok_or_else(|| format!("no {}", key.text()))?;
        Record::decode(&key, &value).map_err(|error| error.to_string())
    }
}

/// The lines of a node's log with this in them.
pub fn lines(node: &NodeProcess, what: &str) -> Vec<String> {
    node.log().lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
}

fn spawn(server: &NatsServer, name: &str, zone: &str, lease: &str) -> NodeProcess {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
    command.args(["--node", name, "--nats", &server.url(), "--http", ":0", "--zone", zone, "--lease", lease]);
    command.env("RUST_LOG", "info,nats_ring::node::events=debug");
    NodeProcess::spawn_command(name, command)
}
