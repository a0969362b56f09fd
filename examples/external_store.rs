//! A database that refuses a writer which lost its partition: the fencing token, compared in SQL.
//!
//! NATS first (`nats-server -js`), then:
//! ```sh
//! cargo run --example external_store
//! ```
//! The NATS server is the first argument, else `NATS_URL`, else `nats://localhost:4222`.
//!
//! Node-1 has begun a write, has just made sure that the key is its own, and freezes, as a process does in a paused virtual
//! machine. Its lease runs out, node-2 takes over and writes. Then node-1 wakes up and goes on where it was. No check of
//! its own could have helped; the table of tokens does.
#![allow(clippy::print_stdout)]

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nats_ring::{
    BoxError, Bytes, ConnectOptions, FencingToken, Grant, NodeBuilder, NodeName, PartitionId, Release, Request, Ring,
    RingClient, RingName, Service, ServiceError, Timing, async_trait,
};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot};

const RING: &str = "external-store";
/// So short that nobody waits for long; three seconds is the default.
const LEASE: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

const SCHEMA: &str = "
    CREATE TABLE tokens (
        partition INTEGER PRIMARY KEY, ring TEXT NOT NULL, generation INTEGER NOT NULL, epoch INTEGER NOT NULL,
        incarnation TEXT NOT NULL
    );
    CREATE TABLE accounts (key TEXT PRIMARY KEY, balance TEXT NOT NULL, epoch INTEGER NOT NULL);
";

/// Changes a row exactly where the token is admitted: a later generation or epoch, or the very owner seen last.
const ADMIT: &str = "
    INSERT INTO tokens (partition, ring, generation, epoch, incarnation) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (partition) DO UPDATE
    SET generation = excluded.generation, epoch = excluded.epoch, incarnation = excluded.incarnation
    WHERE tokens.ring = excluded.ring
      AND ((excluded.generation, excluded.epoch) > (tokens.generation, tokens.epoch)
        OR ((excluded.generation, excluded.epoch) = (tokens.generation, tokens.epoch)
            AND excluded.incarnation = tokens.incarnation))
";

const WRITE: &str = "
    INSERT INTO accounts (key, balance, epoch) VALUES (?1, ?2, ?3)
    ON CONFLICT (key) DO UPDATE SET balance = excluded.balance, epoch = excluded.epoch
";

/// The database that all nodes share. SQLite in this process stands for a server of its own.
struct Store(Mutex<Connection>);

impl Store {
    fn new() -> Result<Self, rusqlite::Error> {
        let database = Connection::open_in_memory()?;
        database.execute_batch(SCHEMA)?;
        Ok(Self(Mutex::new(database)))
    }

    /// Does `work` in one transaction if the token is admitted; whether it was.
    fn fenced(
        &self,
        partition: PartitionId,
        token: &FencingToken,
        work: impl FnOnce(&Connection) -> Result<(), rusqlite::Error>,
    ) -> Result<bool, BoxError> {
        let mut database = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = database.transaction()?;
        let generation = i64::try_from(token.generation.get())?;
        let epoch = i64::try_from(token.epoch.get())?;
        let (ring, incarnation) = (token.ring.to_string(), token.incarnation.to_string());
        let rows = transaction.execute(ADMIT, params![partition.get(), ring, generation, epoch, incarnation])?;
        if rows == 0 {
            return Ok(false);
        }
        work(&transaction)?;
        transaction.commit()?;
        Ok(true)
    }

    fn balance(&self, key: &str) -> Result<Option<String>, rusqlite::Error> {
        let database = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        database.query_row("SELECT balance FROM accounts WHERE key = ?1", [key], |row| row.get(0)).optional()
    }
}

/// Keeps balances in the store.
struct Accounts {
    store: Arc<Store>,
    /// Freezes the node in the middle of `set-slowly` until something comes.
    freeze: Option<Mutex<Receiver<()>>>,
    /// What became of each write.
    outcomes: mpsc::Sender<String>,
}

#[async_trait]
impl Service for Accounts {
    /// The first thing an owner does: from here on the store refuses whoever came before.
    async fn on_own(&self, grants: &[Grant]) -> Result<(), BoxError> {
        for Grant { partition, token, .. } in grants {
            if !self.store.fenced(*partition, token, |_| Ok(()))? {
                return Err(format!("the store has seen a later owner of partition {partition}").into());
            }
        }
        Ok(())
    }

    async fn on_release(&self, _: &[Grant], _: Release) -> Result<(), BoxError> {
        Ok(())
    }

    async fn handle(&self, grant: &Grant, request: Request) -> Result<Bytes, ServiceError> {
        let failed = |error: BoxError| ServiceError::new("store_failed", error.to_string());
        if !grant.is_current() {
            return Err(ServiceError::new("not_owner", "the partition is not owned here any more"));
        }
        if let (Some(freeze), "set-slowly") = (&self.freeze, request.operation.as_str()) {
            // Blocks the only thread of this node's runtime: nothing of it turns, no heartbeat is sent.
            let _ = freeze.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LIMIT);
        }
        let key = String::from_utf8_lossy(&request.key).into_owned();
        let balance = String::from_utf8_lossy(&request.payload).into_owned();
        let epoch = i64::try_from(grant.epoch().get()).map_err(|error| failed(error.into()))?;
        let write = |database: &Connection| database.execute(WRITE, params![key, balance, epoch]).map(drop);
        let admitted = self.store.fenced(grant.partition, &grant.token, write).map_err(failed)?;
        let verdict = if admitted { "written" } else { "REFUSED by the store" };
        let outcome = format!("balance {balance} at epoch {epoch}: {verdict}");
        let _ = self.outcomes.send(outcome.clone()).await;
        if admitted { Ok(outcome.into()) } else { Err(ServiceError::new("fenced", outcome)) }
    }
}

async fn start(nats: ConnectOptions, name: &str, accounts: Accounts) -> Result<Ring, BoxError> {
    let builder = NodeBuilder::new(nats, RingName::new(RING)?, NodeName::new(name)?).timing(Timing::for_lease(LEASE));
    let ring = builder.start(Arc::new(accounts)).await?;
    ring.ready().await?;
    Ok(ring)
}

/// A node with a thread, a runtime and connections of its own, so that it can freeze by itself.
async fn start_apart(nats: ConnectOptions, accounts: Accounts) -> Result<Ring, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (started, ring) = oneshot::channel();
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let node = start(nats, "node-1", accounts).await;
            let running = node.as_ref().ok().cloned();
            // Whoever asked has an answer or has gone.
            let _ = started.send(node);
            if let Some(ring) = running {
                // How it ends is asked by whoever shuts it down.
                let _ = ring.wait().await;
            }
        });
    });
    ring.await?
}

/// A key that the given node owns, once both own their share.
async fn key_of(node: &Ring, other: &Ring) -> Result<String, BoxError> {
    let half = usize::from(node.shape().partitions.get()) / 2;
    let shared = async {
        while node.owned_partitions().len() != half || other.owned_partitions().len() != half {
            tokio::time::sleep(PAUSE).await;
        }
        (1..).map(|number| format!("account:{number}")).find(|key| node.owns_key(key))
    };
    let key = tokio::time::timeout(LIMIT, shared).await.map_err(|_| "the nodes did not share the partitions")?;
    key.ok_or_else(|| "no key found".into())
}

async fn until_owned_by(client: &RingClient, key: &str, node: &Ring) -> Result<(), BoxError> {
    let owned = async {
        while client.node_for(key).is_none_or(|owner| owner.node != *node.name()) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    Ok(tokio::time::timeout(LIMIT, owned).await.map_err(|_| format!("{key} was not taken over within {LIMIT:?}"))?)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let nats = std::env::args().nth(1).or_else(|| std::env::var("NATS_URL").ok());
    let nats = ConnectOptions::new([nats.unwrap_or_else(|| "nats://localhost:4222".to_owned())]);
    let store = Arc::new(Store::new()?);
    let (wake_up, freeze) = sync_channel(1);
    let (outcomes, mut written) = mpsc::channel(16);
    let accounts = |freeze| Accounts { store: Arc::clone(&store), freeze, outcomes: outcomes.clone() };
    let one = start_apart(nats.clone(), accounts(Some(Mutex::new(freeze)))).await?;
    let two = start(nats.clone(), "node-2", accounts(None)).await?;
    let client = RingClient::connect(nats, RingName::new(RING)?).await?;
    let key = key_of(&one, &two).await?;

    client.call(&key, "set", "100").await?;
    println!("node-1: {}", written.recv().await.unwrap_or_default());
    let slow = client.call(&key, "set-slowly", "50").timeout(LEASE).await;
    let Err(unknown) = slow else { return Err("node-1 did not freeze".into()) };
    println!("node-1 froze in the middle of the next write: {unknown}");
    until_owned_by(&client, &key, &two).await?;
    client.call(&key, "set", "200").await?;
    println!("node-2 took over: {}", written.recv().await.unwrap_or_default());
    wake_up.send(())?;
    let stale = written.recv().await.unwrap_or_default();
    println!("node-1 woke up and went on: {stale}");
    let balance = store.balance(&key)?.unwrap_or_default();
    println!("the balance is {balance}");

    one.shutdown().await?;
    two.shutdown().await?;
    if balance == "200" && stale.contains("REFUSED") { Ok(()) } else { Err("a stale write got through".into()) }
}
