//! Plain NATS clients that write, read back and watch times to live for as long as they are let, and keep account.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::disallowed_methods)] // shared by tests

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// What a client waits for an answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
const WRITERS: usize = 8;
/// Keys of each writer.
const WRITER_KEYS: u64 = 16;
/// 8 writers that each begin a request every 20 ms: 400 a second.
const WRITER_PACE: Duration = Duration::from_millis(20);
/// A new entry with a time to live every so often.
const MORTAL_PACE: Duration = Duration::from_millis(40);
/// They live for 1 to 6 seconds.
const LIVES_MS: std::ops::Range<u64> = 1000..6000;
/// How long before its end an entry is looked at for the first time.
const BEFORE_THE_END: Duration = Duration::from_millis(300);
/// How long after its end it is looked at once more.
const AFTER_THE_END: Duration = Duration::from_secs(2);

/// What the clients saw.
#[derive(Default)]
pub struct Account {
    stop: AtomicBool,
    pub answered: AtomicU64,
    /// Entries that were seen to end and to stay away, and those seen shortly before their end.
    pub ended: AtomicU64,
    pub alive: AtomicU64,
    pub problems: Mutex<Vec<String>>,
    pub slowest: Mutex<Duration>,
    /// The longest that an entry was found after its time.
    pub longest_overtime: Mutex<Duration>,
    /// Every writer's key and the number it holds.
    pub last_written: Mutex<Vec<(String, u64)>>,
}

/// The clients, at work.
pub struct Traffic {
    pub client: async_nats::Client,
    pub account: Arc<Account>,
    tasks: JoinSet<()>,
}

impl Traffic {
    pub fn start(client: &async_nats::Client) -> Self {
        let (account, mut tasks) = (Arc::<Account>::default(), JoinSet::new());
        for number in 0..WRITERS {
            tasks.spawn(write(number, client.clone(), Arc::clone(&account)));
        }
        tasks.spawn(watch_mortals(client.clone(), Arc::clone(&account)));
        Self { client: client.clone(), account, tasks }
    }

    /// Lets what is under way come to its end.
    pub async fn stop(mut self) -> Arc<Account> {
        self.account.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.account
    }
}

impl Account {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    async fn problem(&self, what: String) {
        self.problems.lock().await.push(what);
    }

    /// The answer; a failure is noted.
    async fn ask(&self, client: &async_nats::Client, operation: &str, body: Value) -> Option<Value> {
        let began = Instant::now();
        let request = client.request(format!("cache-platform.{operation}"), body.to_string().into());
        let failure = match tokio::time::timeout(CLIENT_TIMEOUT, request).await {
            Ok(Ok(message)) => {
                let answer: Value = serde_json::from_slice(&message.payload).unwrap();
                if answer.get("error").is_none() {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    let mut slowest = self.slowest.lock().await;
                    *slowest = began.elapsed().max(*slowest);
                    return Some(answer);
                }
                answer.to_string()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {CLIENT_TIMEOUT:?}"),
        };
        self.problem(format!("{operation} {body}: {failure}")).await;
        None
    }
}

/// Writes growing numbers to keys of its own and reads each back.
async fn write(writer: usize, client: async_nats::Client, account: Arc<Account>) {
    let mut tick = tokio::time::interval(WRITER_PACE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut last: Vec<(String, u64)> = (0..WRITER_KEYS).map(|key| (format!("writer-{writer}-{key}"), 0)).collect();
    for round in 1.. {
        let (key, held) = &mut last[(round % WRITER_KEYS) as usize];
        tick.tick().await;
        if account.ask(&client, "set", json!({"key": key, "value": round})).await.is_some() {
            *held = round;
        }
        tick.tick().await;
        let found = account.ask(&client, "get", json!({"key": key})).await;
        if let Some(found) = found.filter(|found| found["value"] != json!(*held)) {
            account.problem(format!("{key}: {held} was acknowledged, read {found}")).await;
        }
        if account.stopped() && round >= WRITER_KEYS {
            account.last_written.lock().await.extend(last);
            return;
        }
    }
}

/// Keeps making entries with a time to live, each watched by itself.
async fn watch_mortals(client: async_nats::Client, account: Arc<Account>) {
    let mut tick = tokio::time::interval(MORTAL_PACE);
    let mut watched = JoinSet::new();
    for number in 0u64.. {
        tick.tick().await;
        if account.stopped() {
            break;
        }
        watched.spawn(watch_mortal(number, client.clone(), Arc::clone(&account)));
    }
    while let Some(ended) = watched.join_next().await {
        ended.unwrap();
    }
}

/// An entry is there until its time is over, and not a moment longer.
async fn watch_mortal(number: u64, client: async_nats::Client, account: Arc<Account>) {
    let ttl = Duration::from_millis(LIVES_MS.start + number * 37 % (LIVES_MS.end - LIVES_MS.start));
    let key = format!("mortal-{number}");
    let sent = Instant::now();
    let body = json!({"key": key, "value": number, "ttl": ttl.as_secs_f64()});
    if account.ask(&client, "set", body).await.is_none() {
        return;
    }
    let acknowledged = Instant::now();
    tokio::time::sleep_until((sent + ttl - BEFORE_THE_END).into()).await;
    let found = account.ask(&client, "get", json!({"key": key})).await;
    // An answer that came late says nothing.
    if let Some(found) = found.filter(|_| Instant::now() < sent + ttl) {
        account.alive.fetch_add(1, Ordering::Relaxed);
        if found["value"] != json!(number) {
            account.problem(format!("{key} with ttl {ttl:?}: {:?} after it was set: {found}", sent.elapsed())).await;
        }
    }
    let end = acknowledged + ttl;
    tokio::time::sleep_until(end.into()).await;
    loop {
        let asked = Instant::now();
        let found = account.ask(&client, "get", json!({"key": key})).await;
        if found.is_none_or(|found| found["found"] == json!(false)) {
            break;
        }
        let mut longest = account.longest_overtime.lock().await;
        *longest = asked.saturating_duration_since(end).max(*longest);
    }
    // Partitions move on meanwhile: it stays gone.
    tokio::time::sleep(AFTER_THE_END).await;
    if let Some(found) = account.ask(&client, "get", json!({"key": key})).await {
        account.ended.fetch_add(1, Ordering::Relaxed);
        if found["found"] != json!(false) {
            account.problem(format!("{key} was gone and is back: {found}")).await;
        }
    }
}
