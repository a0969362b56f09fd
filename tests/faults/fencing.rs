//! A stale owner's write reaches an external store after the new owner's, and is refused there by its token.
//!
//! Two processes of `examples/fenced_writer.rs`, and a sink in this one that keeps the highest token per partition.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nats_ring::coord::{ClaimState, Key, Record};
use nats_ring::types::FencingToken;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::common::eventually::eventually;
use crate::common::nats_server::NatsServer;
use crate::common::node::NodeProcess;
use crate::world::{SETTLE_LIMIT, keys};

const BUCKET: &str = "ring-fenced-writer";
/// The value whose writer is held up before its write.
const HELD_UP: &str = "from the first owner";

/// A write that arrived, and what was said to it.
#[derive(Debug, Clone)]
struct Write {
    partition: u64,
    token: FencingToken,
    value: Value,
    accepted: bool,
}

/// The external store.
struct Sink {
    highest: Mutex<HashMap<u64, FencingToken>>,
    writes: Mutex<Vec<Write>>,
    /// Values whose writers asked whether they may go.
    asked: Mutex<Vec<Value>>,
    /// Whether the writer of [`HELD_UP`] may go.
    go: watch::Sender<bool>,
}

impl Sink {
    async fn listen() -> (Arc<Self>, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (highest, writes, asked) = (Mutex::default(), Mutex::default(), Mutex::default());
        let sink = Arc::new(Self { highest, writes, asked, go: watch::channel(false).0 });
        let accepting = Arc::clone(&sink);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&accepting).serve(connection));
            }
        });
        (sink, address)
    }

    async fn serve(self: Arc<Self>, connection: TcpStream) {
        let mut lines = BufReader::new(connection).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let said: Value = serde_json::from_str(&line).unwrap();
            let answer = match said.get("ask") {
                Some(value) => self.may_go(value.clone()).await,
                None => json!({ "accepted": self.judge(&said) }).to_string(),
            };
            if lines.get_mut().write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn may_go(&self, value: Value) -> String {
        let held_up = value == HELD_UP;
        self.asked.lock().unwrap().push(value);
        if held_up {
            self.go.subscribe().wait_for(|go| *go).await.unwrap();
        }
        "go".to_owned()
    }

    fn judge(&self, said: &Value) -> bool {
        let partition = said["partition"].as_u64().unwrap();
        let token: FencingToken = serde_json::from_value(said["token"].clone()).unwrap();
        let mut highest = self.highest.lock().unwrap();
        let accepted = highest.get(&partition).is_none_or(|highest| highest.admits(&token));
        if accepted {
            highest.insert(partition, token.clone());
        }
        self.writes.lock().unwrap().push(Write { partition, token, value: said["value"].clone(), accepted });
        accepted
    }

    fn write_of(&self, value: &str) -> Result<Write, String> {
        let writes = self.writes.lock().unwrap();
        writes.iter().find(|write| write.value == value).cloned().ok_or_else(|| format!("{} writes", writes.len()))
    }
}

/// The example's program: beside the folder of the tests' own.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().and_then(|deps| deps.parent()).unwrap().join("examples/fenced_writer");
    assert!(program.is_file(), "{} is missing: cargo build --example fenced_writer", program.display());
    program
}

fn spawn(name: &str, server: &NatsServer, sink: &str) -> NodeProcess {
    let mut command = Command::new(program());
    command.args(["--node", name, "--nats", &server.url(), "--sink", sink, "--lease", "1s"]);
    NodeProcess::spawn_command(name, command)
}

/// The owner of each partition by the bucket, once so many nodes own some and every claim is held.
async fn owners(client: &async_nats::Client, count: usize) -> Vec<String> {
    let jetstream = async_nats::jetstream::new(client.clone());
    eventually(SETTLE_LIMIT, &format!("{count} nodes own all partitions"), || async {
        let bucket = jetstream.get_key_value(BUCKET).await.map_err(|error| error.to_string())?;
        let mut owners = Vec::new();
        for p in 0..64 {
            let text = format!("own.{p}");
            let value = bucket.get(&text).await.map_err(|error| error.to_string())?.ok_or("not claimed")?;
            match Record::decode(&Key::parse(&text).unwrap(), &value) {
                Ok(Record::Own(claim)) if claim.state == ClaimState::Held => owners.push(claim.owner.node.to_string()),
                other => return Err(format!("{other:?}")),
            }
        }
        let mut names = owners.clone();
        names.sort();
        names.dedup();
        let share = 64 / count;
        let even = names.iter().all(|name| owners.iter().filter(|owner| *owner == name).count() >= share);
        if names.len() == count && even { Ok(owners) } else { Err(format!("{names:?}")) }
    })
    .await
}

/// A plain client's write, given so long.
async fn write(client: async_nats::Client, key: String, value: &'static str, limit: Duration) -> Result<Value, String> {
    let body = json!({ "key": key, "value": value }).to_string();
    let answer = tokio::time::timeout(limit, client.request("fenced-writer.write", body.into())).await;
    let message = answer.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_slice(&message.payload).map_err(|error| error.to_string())?;
    if answer["written"] == true { Ok(answer) } else { Err(answer.to_string()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_owners_write_arrives_after_the_new_owners_and_the_sink_refuses_its_token() {
    let server = NatsServer::start();
    let (sink, address) = Sink::listen().await;
    let options = async_nats::ConnectOptions::new().request_timeout(None);
    let client = options.connect(server.url()).await.unwrap();
    let nodes = [spawn("writer-1", &server, &address), spawn("writer-2", &server, &address)];
    let partition = owners(&client, 2).await.iter().position(|owner| *owner == nodes[0].name).unwrap();
    let key = keys()[partition].clone();

    let caller = tokio::spawn(write(client.clone(), key.clone(), HELD_UP, Duration::from_secs(20)));
    eventually(SETTLE_LIMIT, "the first owner is about to write", || async {
        if sink.asked.lock().unwrap().iter().any(|value| value == HELD_UP) { Ok(()) } else { Err("not asked") }
    })
    .await;
    nodes[0].sigstop();
    // The frozen one swallows its share of requests: its callers try again.
    eventually(SETTLE_LIMIT, "the second owner writes", || {
        write(client.clone(), key.clone(), "from the second owner", Duration::from_millis(500))
    })
    .await;
    let second = sink.write_of("from the second owner").unwrap();
    assert!(second.accepted, "{second:?}");
    nodes[0].sigcont();
    sink.go.send_replace(true);

    let stale = eventually(SETTLE_LIMIT, "the stale write arrives", || async { sink.write_of(HELD_UP) }).await;
    assert_eq!(stale.partition, second.partition);
    assert!(stale.token.epoch < second.token.epoch, "{stale:?} {second:?}");
    assert!(!stale.accepted, "the sink took a stale owner's write: {stale:?}");
    let told = caller.await.unwrap();
    assert!(told.is_err(), "the stale owner told its caller that it had written: {told:?}");
    eprintln!("the stale owner's caller was told: {}", told.unwrap_err());
}
