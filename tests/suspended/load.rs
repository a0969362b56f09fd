//! Clients at a steady pace, each its own keys, over all partitions and at every level; when each request began, and what
//! came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nats_ring::types::Consistency;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::account::{Failure, KeyAccount};
use crate::doors::Door;

/// Of each way in.
const CLIENTS: usize = 6;
const PACE: Duration = Duration::from_millis(40);
const LEVELS: [Consistency; 3] = [Consistency::Eventual, Consistency::Quorum, Consistency::Strong];
/// Keys of a client: so many that all together are in all partitions.
const KEYS: usize = 24;

/// One request.
struct Asked {
    door: &'static str,
    begun: Instant,
    took: Duration,
    failed: Option<String>,
    lost: Option<String>,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<Asked>>,
}

/// All that was asked.
pub struct Outcome(Vec<Asked>);

/// What is to be judged.
pub struct Told {
    pub failed: Vec<String>,
    pub lost: Vec<String>,
    pub slowest: Duration,
}

impl Load {
    pub fn start(doors: &[(&'static str, Arc<dyn Door>)]) -> Self {
        let (stop, mut clients) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for (name, door) in doors {
            for number in 0..CLIENTS {
                let client =
                    Client { name, number, door: Arc::clone(door), stop: Arc::clone(&stop), asked: Vec::new() };
                clients.spawn(client.work());
            }
        }
        Self { stop, clients }
    }

    pub async fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            all.extend(ended.unwrap());
        }
        Outcome(all)
    }
}

impl Outcome {
    /// `killed` to `told`: what was under way then may have been in flight through the killed server.
    pub fn judge(self, killed: Instant, told: Instant) -> Told {
        let in_flight = |asked: &Asked| asked.begun < told && asked.begun + asked.took >= killed;
        for door in ["library", "http", "plain"] {
            let of = || self.0.iter().filter(|asked| asked.door == door);
            line(&format!("{door}, before"), of().filter(|asked| asked.begun + asked.took < killed).collect());
            line(&format!("{door}, in flight"), of().filter(|asked| in_flight(asked)).collect());
            line(&format!("{door}, after"), of().filter(|asked| asked.begun >= told).collect());
        }
        let judged = || self.0.iter().filter(|asked| !in_flight(asked));
        for asked in self.0.iter().filter(|asked| in_flight(asked) && asked.failed.is_some()) {
            eprintln!(
                "  in flight: {:?} after the kill {:?}",
                asked.begun.saturating_duration_since(killed),
                asked.failed
            );
        }
        let at = |asked: &Asked| asked.begun.saturating_duration_since(killed);
        Told {
            failed: judged().filter_map(|asked| Some(format!("{:?}: {}", at(asked), asked.failed.as_ref()?))).collect(),
            lost: self.0.iter().filter_map(|asked| asked.lost.clone()).collect(),
            slowest: judged().filter(|asked| asked.failed.is_none()).map(|asked| asked.took).max().unwrap_or_default(),
        }
    }
}

fn line(what: &str, mut of: Vec<&Asked>) {
    of.sort_by_key(|asked| asked.took);
    let failed = of.iter().filter(|asked| asked.failed.is_some()).count();
    let at = |share: f64| of.get(((of.len().max(1) - 1) as f64 * share) as usize).map_or(Duration::ZERO, |of| of.took);
    eprintln!(
        "{what:20} {:6} asked, {failed} failed; p50 {:7.1?}  p99 {:7.1?}  max {:7.1?}",
        of.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

struct Client {
    name: &'static str,
    number: usize,
    door: Arc<dyn Door>,
    stop: Arc<AtomicBool>,
    asked: Vec<Asked>,
}

impl Client {
    async fn work(mut self) -> Vec<Asked> {
        let level = LEVELS[self.number % LEVELS.len()];
        let key = |number: usize| KeyAccount::new(format!("{}-{}-{number}", self.name, self.number), level);
        let mut keys: Vec<KeyAccount> = (0..KEYS).map(key).collect();
        let mut tick = tokio::time::interval(PACE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 1_u64.. {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            let account = &mut keys[usize::try_from(round).unwrap() % KEYS];
            tick.tick().await;
            if account.open.is_none() {
                self.write(account, round).await;
            }
            tick.tick().await;
            self.read(account).await;
        }
        self.asked
    }

    async fn write(&mut self, account: &mut KeyAccount, value: u64) {
        let begun = Instant::now();
        let written = self.door.set(&account.key, value, account.level).await;
        match &written {
            Ok(()) => account.acknowledged = Some(value),
            Err(Failure::Unknown(_)) => account.open = Some(value),
            Err(Failure::Refused(_)) => {}
        }
        let failed = written.err().map(|failure| format!("write of {} at {}: {failure:?}", account.key, account.level));
        self.asked.push(Asked { door: self.name, begun, took: begun.elapsed(), failed, lost: None });
    }

    async fn read(&mut self, account: &KeyAccount) {
        let begun = Instant::now();
        let read = self.door.get(&account.key, account.level).await;
        let lost = match &read {
            Ok(value) if !account.explains(*value) => Some(format!("read {value:?}: {account:?}")),
            _ => None,
        };
        let failed = read.err().map(|failure| format!("read of {} at {}: {failure:?}", account.key, account.level));
        self.asked.push(Asked { door: self.name, begun, took: begun.elapsed(), failed, lost });
    }
}
