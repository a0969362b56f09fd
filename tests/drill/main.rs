//! Drills on real processes: every node restarted in turn under load, a zone killed, owners killed right on an acknowledgement.
//!
//! Five nodes in three zones on one NATS server; the library's client, HTTP and plain NATS clients write and read over all partitions at
//! all levels. A planned change fails no request and loses nothing; a crash loses no acknowledged quorum or strong write.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods)]

mod account;
#[path = "../common/mod.rs"]
mod common;
mod doors;
mod ground;
mod load;

use std::time::{Duration, Instant};

use account::{Failure, Figures, KeyAccount};
use common::eventually::eventually;
use common::node::NodeProcess;
use doors::{Door, PATIENCE, Plain};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use ground::{Ground, lines};
use load::Load;
use nats_ring::types::Consistency;
use serde_json::json;
use tokio::sync::Mutex;

/// One at a time: each is about how long things take.
static TURN: Mutex<()> = Mutex::const_new(());

const FIVE: [(&str, &str); 5] = [("node-1", "a"), ("node-2", "a"), ("node-3", "b"), ("node-4", "b"), ("node-5", "c")];
/// What the drill is compared with.
const AT_REST: Duration = Duration::from_secs(4);
/// How long a drain may take.
const LEFT: Duration = Duration::from_secs(60);
/// All clients together, at the least.
const REQUESTS_A_SECOND: f64 = 500.0;

/// Each key through each node: what was acknowledged last, or what nobody knows of.
async fn check_all(ground: &Ground, keys: &[KeyAccount]) -> Vec<String> {
    let mut lost = Vec::new();
    for node in &ground.nodes {
        let front = ground.front_of(node).await;
        let (front, name) = (&front, &node.name);
        let reads = keys.iter().map(|account| async move {
            let read = front.get(&account.key, account.level).await;
            let right = matches!(&read, Ok(read) if account.explains(*read));
            (!right).then(|| format!("through {name}: read {read:?}: {account:?}"))
        });
        lost.extend(futures::future::join_all(reads).await.into_iter().flatten());
    }
    lost
}

fn few(of: &[String]) -> &[String] {
    &of[..of.len().min(8)]
}

/// What was notable in a node's life.
fn tell(node: &NodeProcess) {
    for line in lines(node, "move abandoned").iter().chain(&lines(node, "WARN")) {
        eprintln!("    {}: {line}", node.name);
    }
}

async fn restart_each(ground: &mut Ground) {
    for (name, _) in FIVE {
        let began = Instant::now();
        let node = ground.take(name);
        node.sigterm();
        assert_eq!(node.wait_exit(LEFT).await, Some(0), "{name}:\n{}", node.log());
        let left = began.elapsed();
        tell(&node);
        ground.spawn(name);
        ground.whole().await;
        eprintln!("  {name}: drained in {left:.1?}, whole again {:.1?} later", began.elapsed() - left);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_restarted_in_turn_under_load_fails_no_request_and_loses_no_write() {
    let _turn = TURN.lock().await;
    let mut ground = Ground::start(&FIVE, "3s").await;
    let load = Load::start(&ground.doors().await, false);
    // The first requests open connections.
    tokio::time::sleep(Duration::from_millis(500)).await;
    load.tally.take();
    tokio::time::sleep(AT_REST).await;
    let rest = load.tally.take();
    let began = Instant::now();
    restart_each(&mut ground).await;
    let (lasted, drill) = (began.elapsed(), load.tally.take());
    let keys = load.stop().await;
    let lost = check_all(&ground, &keys).await;
    ground.nodes.iter().for_each(tell);
    eprintln!("{}\n{}", rest.line("at rest", AT_REST), drill.line("drill", lasted));
    for Figures { failed, lost, .. } in [&rest, &drill] {
        assert!(failed.is_empty(), "{} failed: {:#?}", failed.len(), few(failed));
        assert!(lost.is_empty(), "{} lost: {:#?}", lost.len(), few(lost));
    }
    assert!(lost.is_empty(), "{} lost in the end: {:#?}", lost.len(), few(&lost));
    let rate = drill.answered() as f64 / lasted.as_secs_f64();
    assert!(rate >= REQUESTS_A_SECOND, "{rate} requests a second are too few to show anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_killed_at_once_under_load_loses_no_acknowledged_quorum_or_strong_write() {
    let _turn = TURN.lock().await;
    let mut ground = Ground::start(&FIVE, "2s").await;
    let load = Load::start(&ground.doors().await, true);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = load.tally.take();
    let killed = [ground.take("node-1"), ground.take("node-2")];
    let began = Instant::now();
    let burst = burst_and_kill(&Plain(ground.nats.clone()), &killed).await;
    ground.whole().await;
    let whole_after = began.elapsed();
    // And at work again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (lasted, after) = (began.elapsed(), load.tally.take());
    let mut keys = load.stop().await;
    keys.retain(|account| account.level != Consistency::Eventual);
    let acknowledged = keys.iter().filter(|account| account.acknowledged.is_some()).count();
    assert!(
        acknowledged > keys.len() / 2,
        "{acknowledged} of {} keys were written: too few to show anything",
        keys.len()
    );
    keys.extend(burst);
    let lost = check_all(&ground, &keys).await;
    let open = keys.iter().filter(|account| account.open.is_some()).count();
    eprintln!("zone a killed, whole after {whole_after:.1?}; {open} writes with unknown outcome");
    eprintln!("{}\n{}", before.line("before", Duration::from_secs(2)), after.line("after", lasted));
    assert!(before.lost.is_empty(), "{} lost before: {:#?}", before.lost.len(), few(&before.lost));
    assert!(after.lost.is_empty(), "{} lost: {:#?}", after.lost.len(), few(&after.lost));
    assert!(lost.is_empty(), "{} lost in the end: {:#?}", lost.len(), few(&lost));
}

/// So many acknowledgements of the burst come before the kill.
const ACKNOWLEDGED: usize = 16;

/// A quorum write to each partition, all at once, and the kill amid their acknowledgements.
async fn burst_and_kill(plain: &Plain, victims: &[NodeProcess]) -> Vec<KeyAccount> {
    let mut writes: FuturesUnordered<_> = load::keys("burst")
        .into_values()
        .map(|key| async move {
            let mut account = KeyAccount::new(key, Consistency::Quorum);
            match plain.set(&account.key, 1, account.level).await {
                Ok(()) => account.acknowledged = Some(1),
                Err(Failure::Unknown(_)) => account.open = Some(1),
                Err(Failure::Refused(_)) => {}
            }
            account
        })
        .collect();
    let mut accounts = Vec::new();
    while let Some(account) = writes.next().await {
        accounts.push(account);
        if accounts.len() == ACKNOWLEDGED {
            victims.iter().for_each(NodeProcess::kill9);
        }
    }
    accounts
}

/// How long a key may be without an owner: its lease of a second, and the takeover.
const READ_AGAIN: Duration = Duration::from_secs(20);
/// One of two rings, each with so many rounds: most of a round is waiting for a lease to end.
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_killed_right_on_the_acknowledgement_of_a_quorum_write_loses_nothing() {
    let _turn = TURN.lock().await;
    tokio::join!(kill_on_acknowledgement(0), kill_on_acknowledgement(32));
}

async fn kill_on_acknowledgement(first_partition: usize) {
    let mut ground = Ground::start(&[("node-1", "a"), ("node-2", "b"), ("node-3", "c"), ("node-4", "a")], "1s").await;
    let keys: Vec<String> = load::keys("round").into_values().skip(first_partition).take(ROUNDS).collect();
    let (mut written, mut took) = (Vec::new(), Vec::new());
    for (round, key) in keys.iter().enumerate() {
        let owner = write_and_kill(&mut ground, key, round).await;
        let began = Instant::now();
        written
            .push(KeyAccount { acknowledged: Some(round as u64), ..KeyAccount::new(key.clone(), Consistency::Quorum) });
        let front = ground.front_of(&ground.nodes[round % ground.nodes.len()]).await;
        let what = format!("{key} is read: its owner {owner} was killed");
        // A question that went to the killed one is never answered.
        let read = eventually(READ_AGAIN, &what, || front.get(key, Consistency::Eventual)).await;
        assert_eq!(read, Some(round as u64), "{what}");
        took.push(began.elapsed());
        ground.spawn(&owner);
        ground.whole().await;
    }
    let lost = check_all(&ground, &written).await;
    assert!(lost.is_empty(), "{lost:#?}");
    took.sort_unstable();
    eprintln!(
        "{ROUNDS} owners killed; until its key was read again: p50 {:.1?}, max {:.1?}",
        took[ROUNDS / 2],
        took[ROUNDS - 1]
    );
}

/// Writes at quorum until that is acknowledged, and kills who did it at that moment.
async fn write_and_kill(ground: &mut Ground, key: &str, value: usize) -> String {
    let plain = Plain(ground.nats.clone());
    let end = Instant::now() + PATIENCE;
    loop {
        match plain.ask("set", json!({"key": key, "value": value, "consistency": "quorum"})).await {
            Ok(answer) => {
                let name = answer["node"].as_str().unwrap().to_owned();
                ground.take(&name).kill9();
                return name;
            }
            Err(Failure::Refused(_) | Failure::Unknown(_)) if Instant::now() < end => {}
            Err(failure) => panic!("{key}: {failure:?}"),
        }
    }
}
