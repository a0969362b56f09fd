//! A ring of node processes on a real NATS server, and what its nodes say.
//!
//! In: how many nodes, further arguments. Out: tables of owners and epochs, leases as the bucket has them, values read
//! and written over HTTP with one key per partition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use nats_ring::coord::{Claim, Key, Lease, Meta, Record};
use nats_ring::types::{KeyHash, PartitionCount};
use serde_json::{Value, json};

use crate::common::eventually::eventually;
use crate::common::http::Http;
use crate::common::nats_server::NatsServer;
use crate::common::node::NodeProcess;

/// What a node may take until it is ready, and a ring until it is balanced.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// What a drain may take here.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// The program's own default.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(3);
/// The lease of `FAST`.
pub const FAST_LEASE: Duration = Duration::from_secs(1);
/// Arguments for a lease of a second.
pub const FAST: &[&str] = &["--lease", "1s"];
/// The ring's bucket, and the stream that holds it.
pub const BUCKET: &str = "ring-cache-platform";
pub const STREAM: &str = "KV_ring-cache-platform";

/// One key per partition, in their order.
pub fn keys() -> &'static [String] {
    static KEYS: OnceLock<Vec<String>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut found = BTreeMap::new();
        for key in (0..).map(|n| format!("key-{n}")) {
            found.entry(KeyHash::Xxh3.partition(key.as_bytes(), PartitionCount::DEFAULT)).or_insert(key);
            if found.len() == 64 {
                break;
            }
        }
        found.into_values().collect()
    })
}

/// A partition as a node's `/ring` shows it: owner, epoch.
pub type Row = (Option<String>, u64);

/// What became of reading a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    Value(String),
    Missing,
    /// Status and error code.
    Refused(u16, String),
    /// No answer.
    Failed(String),
}

/// Starts these nodes one after the other, so that the first is the oldest, and waits until they share the ring.
pub async fn start(nats: &str, names: &[&str], more: &[&str]) -> Vec<NodeProcess> {
    let mut nodes = Vec::new();
    for name in names {
        let node = NodeProcess::spawn(name, nats, more);
        node.wait_ready(SETTLE_LIMIT).await;
        nodes.push(node);
    }
    settled(&nodes.iter().collect::<Vec<_>>(), SETTLE_LIMIT).await;
    nodes
}

/// A server and three nodes, `node-1` the oldest.
pub async fn three(more: &[&str]) -> (NatsServer, Vec<NodeProcess>) {
    let server = NatsServer::start();
    let nodes = start(&server.url(), &["node-1", "node-2", "node-3"], more).await;
    (server, nodes)
}

async fn json_of(node: &NodeProcess, path: &str) -> Result<Value, String> {
    let answer = Http::with_limit(Duration::from_secs(3)).get(&node.url(path).await).await?;
    if answer.status == 200 { Ok(answer.json()) } else { Err(format!("{path}: {} {}", answer.status, answer.text())) }
}

/// Owners and epochs as this node sees them, if all partitions are served.
pub async fn served_table(node: &NodeProcess) -> Result<Vec<Row>, String> {
    let ring = json_of(node, "/ring").await.map_err(|error| format!("{}: {error}", node.name))?;
    let partitions = ring["partitions"].as_array().cloned().unwrap_or_default();
    let not_served: Vec<_> = partitions.iter().filter(|row| row["state"] != "serving").collect();
    if partitions.len() != 64 || !not_served.is_empty() {
        let shown = not_served.iter().take(3).map(|row| row.to_string()).collect::<Vec<_>>().join(" ");
        return Err(format!("{}: {} rows, {} not served: {shown}", node.name, partitions.len(), not_served.len()));
    }
    let row = |row: &Value| (row["owner"].as_str().map(str::to_owned), row["epoch"].as_u64().unwrap());
    Ok(partitions.iter().map(row).collect())
}

/// The partitions of this node in a table.
pub fn owned_by(table: &[Row], name: &str) -> Vec<usize> {
    (0..table.len()).filter(|p| table[*p].0.as_deref() == Some(name)).collect()
}

/// Waits until these nodes, and no other, share all partitions evenly, and all of them say the same and are ready.
pub async fn settled(nodes: &[&NodeProcess], limit: Duration) -> Vec<Row> {
    let what = format!("{} nodes share all partitions evenly", nodes.len());
    eventually(limit, &what, || async {
        let tables = join_all(nodes.iter().map(|node| served_table(node))).await;
        let tables: Vec<_> = tables.into_iter().collect::<Result<_, _>>()?;
        let counts: Vec<_> = nodes.iter().map(|node| owned_by(&tables[0], &node.name).len()).collect();
        let least = 64 / nodes.len();
        let even = counts.iter().sum::<usize>() == 64 && counts.iter().all(|n| (least..=least + 1).contains(n));
        if !even {
            return Err(format!("{counts:?}"));
        }
        if tables.iter().any(|table| *table != tables[0]) {
            return Err("their tables differ".to_owned());
        }
        for node in nodes {
            json_of(node, "/ready").await.map_err(|error| format!("{}: {error}", node.name))?;
            json_of(node, "/health?scope=ring").await.map_err(|error| format!("{}: {error}", node.name))?;
        }
        Ok(tables[0].clone())
    })
    .await
}

/// The node's start number.
pub async fn start_number(node: &NodeProcess) -> u64 {
    json_of(node, "/stats").await.unwrap()["node"]["start"].as_u64().unwrap()
}

/// The name of whoever writes the plan, as this node sees it.
pub async fn coordinator(node: &NodeProcess) -> String {
    let stats = json_of(node, "/stats").await.unwrap();
    let members = stats["ring"]["members"].as_array().unwrap();
    let writes = members.iter().find(|member| member["coordinator"] == json!(true)).expect("nobody coordinates");
    writes["node"].as_str().unwrap().to_owned()
}

/// Sets the keys of these partitions through this node.
pub async fn set(node: &NodeProcess, partitions: &[usize], value: &str) -> Result<(), String> {
    let (http, url) = (Http::new(), node.url("/set").await);
    let one = |p: usize| {
        let (http, url) = (http.clone(), url.clone());
        async move {
            let answer = http.post(&url, &json!({"key": keys()[p], "value": value})).await?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
        }
    };
    join_all(partitions.iter().map(|p| one(*p))).await.into_iter().collect()
}

/// Reads one partition's key through a node.
pub async fn read(http: &Http, base: &str, partition: usize) -> Read {
    match http.get(&format!("{base}/get?key={}", keys()[partition])).await {
        Ok(answer) if answer.status == 200 => Read::Value(answer.json()["value"].as_str().unwrap().to_owned()),
        Ok(answer) if answer.status == 404 && answer.json()["found"] == json!(false) => Read::Missing,
        Ok(answer) => Read::Refused(answer.status, answer.json()["error"]["code"].to_string()),
        Err(error) => Read::Failed(error),
    }
}

/// Reads the keys of these partitions through a node.
pub async fn read_all(node: &NodeProcess, partitions: &[usize]) -> Vec<Read> {
    let (http, base) = (Http::new(), node.url("").await);
    join_all(partitions.iter().map(|p| read(&http, &base, *p))).await
}

/// All partitions.
pub fn all() -> Vec<usize> {
    (0..64).collect()
}

/// Waits until every one of these nodes reads this value under the keys of these partitions.
pub async fn all_read(nodes: &[&NodeProcess], partitions: &[usize], value: &str, limit: Duration) {
    eventually(limit, &format!("every key reads '{value}' everywhere"), || async {
        for node in nodes {
            let wrong: Vec<_> = read_all(node, partitions).await;
            let wrong: Vec<_> =
                wrong.iter().zip(partitions).filter(|(r, _)| **r != Read::Value(value.into())).collect();
            if !wrong.is_empty() {
                return Err(format!("{}: {} wrong, as {:?}", node.name, wrong.len(), wrong[0]));
            }
        }
        Ok(())
    })
    .await;
}

/// Waits until these nodes own all partitions and answer for every one, each asked by itself.
pub async fn taken_over(survivors: &[&NodeProcess], limit: Duration) {
    let names: BTreeSet<&str> = survivors.iter().map(|node| node.name.as_str()).collect();
    eventually(limit, "the survivors own and answer everything", || async {
        for node in survivors {
            let table = served_table(node).await?;
            if let Some(other) = table.iter().find(|(owner, _)| !names.contains(owner.as_deref().unwrap_or(""))) {
                return Err(format!("{}: owned by {:?}", node.name, other.0));
            }
            json_of(node, "/health?scope=ring").await?;
            let answers = read_all(node, &all()).await;
            if let Some(bad) = answers.iter().find(|r| !matches!(r, Read::Value(_) | Read::Missing)) {
                return Err(format!("{}: {bad:?}", node.name));
            }
        }
        Ok(())
    })
    .await;
}

/// The ring's bucket, read past all nodes.
pub struct Bucket(async_nats::jetstream::kv::Store);

impl Bucket {
    pub async fn open(nats: &str) -> Self {
        let servers: Vec<_> = nats.split(',').map(|url| url.parse::<async_nats::ServerAddr>().unwrap()).collect();
        let client = async_nats::connect(servers).await.unwrap();
        Self(async_nats::jetstream::new(client).get_key_value(BUCKET).await.unwrap())
    }

    async fn records(&self, prefix: &str) -> Vec<(Key, Record)> {
        // A key that is written while keys are listed may be left out: it moves behind what the listing counts to.
        let mut keys = BTreeSet::new();
        for _ in 0..3 {
            keys.extend(self.0.keys().await.unwrap().try_collect::<Vec<String>>().await.unwrap());
        }
        let wanted = keys.into_iter().filter(|key| key.starts_with(prefix));
        let records = futures::stream::iter(wanted).then(|text| async move {
            let key = Key::parse(&text).unwrap();
            let value = self.0.get(text).await.unwrap().unwrap();
            (key.clone(), Record::decode(&key, &value).unwrap())
        });
        records.collect().await
    }

    /// All leases by node.
    pub async fn leases(&self) -> BTreeMap<String, Lease> {
        let entry = |(key, record)| match (key, record) {
            (Key::Lease(node), Record::Lease(lease)) => (node.to_string(), lease),
            other => panic!("{other:?}"),
        };
        self.records("lease.").await.into_iter().map(entry).collect()
    }

    /// All claims by partition.
    pub async fn claims(&self) -> BTreeMap<usize, Claim> {
        let entry = |(key, record)| match (key, record) {
            (Key::Own(partition), Record::Own(claim)) => (partition.index(), claim),
            other => panic!("{other:?}"),
        };
        self.records("own.").await.into_iter().map(entry).collect()
    }

    pub async fn meta(&self) -> Meta {
        match self.records("meta").await.pop() {
            Some((_, Record::Meta(meta))) => meta,
            other => panic!("{other:?}"),
        }
    }
}

/// What must be the same before and after something that must not cost anybody anything.
#[derive(Debug, PartialEq)]
pub struct Standing {
    tables: Vec<Vec<Row>>,
    leases: BTreeMap<String, String>,
}

/// Every node's table, and every lease's incarnation and state.
pub async fn standing(nodes: &[NodeProcess], nats: &str) -> Standing {
    let tables = join_all(nodes.iter().map(served_table)).await.into_iter().collect::<Result<_, _>>().unwrap();
    let leases = Bucket::open(nats).await.leases().await;
    let shown = |lease: Lease| format!("{} {:?}", lease.incarnation, lease.state);
    Standing { tables, leases: leases.into_iter().map(|(node, lease)| (node, shown(lease))).collect() }
}
