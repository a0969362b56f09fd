//! Clients that write and read at a steady pace, each its own keys, over every partition and at every level.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nats_ring::types::{Consistency, KeyHash, PartitionCount};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::account::{Failure, KeyAccount, Tally};
use crate::doors::Door;

/// Of each way in.
const CLIENTS: usize = 12;
/// Three ways, twelve clients, a request each every 55 ms: 650 a second.
const PACE: Duration = Duration::from_millis(55);
const LEVELS: [Consistency; 3] = [Consistency::Eventual, Consistency::Quorum, Consistency::Strong];

/// Clients at work.
pub struct Load {
    pub tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<KeyAccount>>,
}

impl Load {
    /// `loses`: writes of the lowest level may be lost, for nodes are killed.
    pub fn start(doors: &[(&str, Arc<dyn Door>)], loses: bool) -> Self {
        let (tally, stop) = (Arc::<Tally>::default(), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for (name, door) in doors {
            let mut keys = keys(name).into_values().collect::<Vec<_>>();
            for number in 0..CLIENTS {
                let share = keys.len() / (CLIENTS - number);
                let level = LEVELS[number % LEVELS.len()];
                let keys = keys.split_off(keys.len() - share);
                let client = Client {
                    door: Arc::clone(door),
                    tally: Arc::clone(&tally),
                    stop: Arc::clone(&stop),
                    strict: !loses || level != Consistency::Eventual,
                };
                clients.spawn(client.work(keys.into_iter().map(|key| KeyAccount::new(key, level)).collect()));
            }
        }
        Self { tally, stop, clients }
    }

    /// Ends all clients after their requests; what their keys have been through.
    pub async fn stop(mut self) -> Vec<KeyAccount> {
        self.stop.store(true, Ordering::SeqCst);
        let mut keys = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            keys.extend(ended.unwrap());
        }
        keys
    }
}

/// A key of each partition.
pub fn keys(of: &str) -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    for key in (0..).map(|number| format!("{of}-{number}")) {
        let partition = KeyHash::Xxh3.partition(key.as_bytes(), PartitionCount::DEFAULT);
        found.entry(u32::try_from(partition.index()).unwrap()).or_insert(key);
        if found.len() == usize::from(PartitionCount::DEFAULT.get()) {
            break;
        }
    }
    found
}

struct Client {
    door: Arc<dyn Door>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    /// Whatever was acknowledged is there.
    strict: bool,
}

impl Client {
    async fn work(self, mut keys: Vec<KeyAccount>) -> Vec<KeyAccount> {
        let mut tick = tokio::time::interval(PACE);
        // What a slow answer costs is made up for: the pace is that of all together.
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for round in 1_u64.. {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            let at = usize::try_from(round).unwrap() % keys.len();
            let account = &mut keys[at];
            tick.tick().await;
            if account.open.is_none() {
                self.write(account, round).await;
            }
            tick.tick().await;
            self.read(account).await;
        }
        keys
    }

    async fn write(&self, account: &mut KeyAccount, value: u64) {
        let began = Instant::now();
        match self.door.set(&account.key, value, account.level).await {
            Ok(()) => {
                self.tally.answered(began.elapsed());
                account.acknowledged = Some(value);
            }
            Err(failure) => {
                if matches!(failure, Failure::Unknown(_)) {
                    account.open = Some(value);
                }
                self.tally.failed(format!("set {} at {}: {failure:?}", account.key, account.level));
            }
        }
    }

    async fn read(&self, account: &KeyAccount) {
        let began = Instant::now();
        match self.door.get(&account.key, account.level).await {
            Ok(read) => {
                self.tally.answered(began.elapsed());
                if self.strict && !account.explains(read) {
                    self.tally.lost(format!("read {read:?}: {account:?}"));
                }
            }
            Err(failure) => self.tally.failed(format!("get {} at {}: {failure:?}", account.key, account.level)),
        }
    }
}
