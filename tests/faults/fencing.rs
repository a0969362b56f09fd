//! A stale owner's write reaches an external store after the new owner's, and is refused there by its token.
//!
//! Two processes of `examples/fenced_writer.rs`, and a sink in this one that keeps the highest token per partition.

use std::process::Command;
use std::time::Duration;

use nats_ring::coord::{ClaimState, Key, Record};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::common::eventually::eventually;
use crate::common::nats_server::NatsServer;
use crate::common::node::NodeProcess;
use crate::common::sink::{HoldUp, Sink, program};
use crate::world::{SETTLE_LIMIT, keys};

const BUCKET: &str = "ring-fenced-writer";
/// The value whose writer is held up before its write.
const HELD_UP: &str = "from the first owner";

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

/// The writer of [`HELD_UP`] waits until this is true, nobody else waits.
fn held_up_until(go: &watch::Sender<bool>) -> Box<HoldUp> {
    let go = go.subscribe();
    Box::new(move |value| {
        let (mut go, held_up) = (go.clone(), value == HELD_UP);
        Box::pin(async move {
            if held_up {
                go.wait_for(|go| *go).await.unwrap();
            }
        })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_owners_write_arrives_after_the_new_owners_and_the_sink_refuses_its_token() {
    let server = NatsServer::start();
    let go = watch::channel(false).0;
    let (sink, address) = Sink::listen(held_up_until(&go)).await;
    let options = async_nats::ConnectOptions::new().request_timeout(None);
    let client = options.connect(server.url()).await.unwrap();
    let nodes = [spawn("writer-1", &server, &address), spawn("writer-2", &server, &address)];
    let partition = owners(&client, 2).await.iter().position(|owner| *owner == nodes[0].name).unwrap();
    let key = keys()[partition].clone();

    let caller = tokio::spawn(write(client.clone(), key.clone(), HELD_UP, Duration::from_secs(20)));
    eventually(SETTLE_LIMIT, "the first owner is about to write", || async {
        if sink.was_asked(HELD_UP) { Ok(()) } else { Err("not asked") }
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
    go.send_replace(true);

    let stale = eventually(SETTLE_LIMIT, "the stale write arrives", || async { sink.write_of(HELD_UP) }).await;
    assert_eq!(stale.partition, second.partition);
    assert!(stale.token.epoch < second.token.epoch, "{stale:?} {second:?}");
    assert!(!stale.accepted, "the sink took a stale owner's write: {stale:?}");
    let told = caller.await.unwrap();
    assert!(told.is_err(), "the stale owner told its caller that it had written: {told:?}");
    eprintln!("the stale owner's caller was told: {}", told.unwrap_err());
}
