//! Follows the records of a ring past all its nodes and past all proxies, and keeps every change with the server's time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::kv::{Entry, Store};
use futures::StreamExt;
use nats_ring::coord::{Key, Record};
use tokio::task::JoinHandle;

use crate::checker::ownership::{Change, What};
use crate::common::eventually::eventually;
use crate::history::Moment;
use crate::round::PARTITIONS;

/// Leases are renewed more often: a watch that is silent for so long is opened again.
const SILENCE_MAX: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(200);
/// How long a ring may take until it has claimed everything.
const CLAIMED_LIMIT: Duration = Duration::from_secs(40);

/// A follower of one ring's bucket.
pub struct Observer {
    seen: Arc<Mutex<Seen>>,
    following: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    revision: u64,
    changes: Vec<Change>,
}

impl Observer {
    /// Follows this ring's bucket, which must be there; returns once it has seen a claim of each partition, and its
    /// owner's lease.
    ///
    /// Nothing may be broken before: an owner that was evicted before it was seen would have lost what it held, and the records
    /// would not say so.
    pub async fn start(urls: &str, ring: &str) -> Self {
        let jetstream = async_nats::jetstream::new(connect(urls).await);
        let (seen, bucket) = (Arc::<Mutex<Seen>>::default(), format!("ring-{ring}"));
        let following = tokio::spawn(follow(jetstream, bucket, Arc::clone(&seen)));
        let observer = Self { seen, following };
        eventually(CLAIMED_LIMIT, &format!("claims of all partitions of {ring}"), || async {
            match observer.claimed() {
                PARTITIONS => Ok(()),
                claimed => Err(format!("{claimed} of {PARTITIONS} were seen")),
            }
        })
        .await;
        observer
    }

    /// How many partitions were seen to be claimed, with their owners' leases.
    fn claimed(&self) -> usize {
        let (changes, mut live, mut claimed) = (self.changes(), HashSet::new(), HashSet::new());
        for change in &changes {
            if let What::Lease(_, lease) = &change.what {
                live.insert(lease.incarnation);
            }
        }
        for change in &changes {
            if let What::Claim(partition, claim) = &change.what
                && live.contains(&claim.owner.incarnation)
            {
                claimed.insert(*partition);
            }
        }
        claimed.len()
    }

    /// All changes so far, in the order of their revisions.
    pub fn changes(&self) -> Vec<Change> {
        self.seen.lock().unwrap().changes.clone()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// A client of the tests' own that notices a dead connection soon and never gives up.
pub async fn connect(urls: &str) -> async_nats::Client {
    let servers: Vec<_> = urls.split(',').map(|url| url.parse::<async_nats::ServerAddr>().unwrap()).collect();
    async_nats::ConnectOptions::new()
        .retry_on_initial_connect()
        .ping_interval(Duration::from_secs(1))
        .connection_timeout(Duration::from_secs(1))
        .reconnect_delay_callback(|_| RETRY)
        .request_timeout(None)
        .connect(servers)
        .await
        .unwrap()
}

async fn follow(jetstream: async_nats::jetstream::Context, bucket: String, seen: Arc<Mutex<Seen>>) {
    loop {
        let opened = tokio::time::timeout(SILENCE_MAX, jetstream.get_key_value(&bucket)).await;
        if let Ok(Ok(store)) = opened {
            read(&store, &seen).await;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Reads one watch, the state first, for as long as it says something.
async fn read(store: &Store, seen: &Mutex<Seen>) {
    let Ok(Ok(mut watch)) = tokio::time::timeout(SILENCE_MAX, store.watch_with_history(">")).await else { return };
    // After an error a watch may go on: its silence tells.
    while let Ok(Some(item)) = tokio::time::timeout(SILENCE_MAX, watch.next()).await {
        if let Ok(entry) = item {
            seen.lock().unwrap().add(&entry);
        }
    }
}

impl Seen {
    fn add(&mut self, entry: &Entry) {
        if entry.revision <= self.revision {
            return;
        }
        self.revision = entry.revision;
        let Some(key) = Key::parse(&entry.key) else { return };
        let what = match (&key, Record::decode(&key, &entry.value)) {
            (Key::Own(partition), Ok(Record::Own(claim))) => What::Claim(partition.index(), claim),
            (Key::Lease(node), Ok(Record::Lease(lease))) => What::Lease(node.to_string(), lease),
            _ => return,
        };
        let at = Moment::try_from(entry.created.unix_timestamp_nanos()).unwrap();
        self.changes.push(Change { at, what });
    }
}
