//! Clients that set and get registers over HTTP and plain NATS, and append to the external sink, each at its own pace, and
//! write down what they asked and were told.
//!
//! Whoever was not served over HTTP goes on to the next node, as behind a balancer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_nats::{HeaderMap, RequestErrorKind};
use hyper::Method;
use nats_ring::types::{KeyHash, PartitionCount};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::common::http::Http;
use crate::history::{Action, Clock, History, Operation, Outcome, Version};
use crate::observer::connect;

/// What registers are written and read at: what is acknowledged survives as long as one member of the set does.
const LEVEL: &str = "quorum";
pub const CACHE_RING: &str = "cache-platform";
pub const WRITERS_RING: &str = "fenced-writer";
/// Keys per partition.
const KEYS_EACH: usize = 2;
/// Half of all operations are on so many keys, so that clients meet.
const HOT_KEYS: usize = 16;
/// How many clients of which kind.
#[derive(Debug, Clone, Copy)]
struct Crew {
    over_http: usize,
    over_nats: usize,
    appending: usize,
}

const CREW: Crew = Crew { over_http: 10, over_nats: 6, appending: 4 };
const LIGHT_CREW: Crew = Crew { over_http: 2, over_nats: 1, appending: 0 };
/// 20 clients that each begin an operation every 60 ms at most: 333 a second.
const PACE: Duration = Duration::from_millis(60);
/// What a client waits that was not served.
const PAUSE: Duration = Duration::from_millis(500);
const HTTP_LIMIT: Duration = Duration::from_secs(4);
const NATS_LIMIT: Duration = Duration::from_secs(3);
/// What a plain client says that it waits.
const NATS_LIMIT_SAID_MS: &str = "2500";

/// Where the nodes' HTTP is, by name.
pub type Doors = Arc<RwLock<Vec<(String, String)>>>;

/// The clients, at work.
pub struct Clients {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

/// What a client needs.
#[derive(Clone)]
struct Client {
    number: u64,
    keys: Arc<Vec<String>>,
    clock: Clock,
    history: History,
    stop: Arc<AtomicBool>,
}

/// Names of all keys; a key's partition is its number modulo the count.
pub fn keys() -> Vec<String> {
    let count = PartitionCount::DEFAULT;
    let partitions = usize::from(count.get());
    let mut found = vec![Vec::new(); partitions];
    for key in (0..).map(|n| format!("register-{n}")) {
        let of = &mut found[KeyHash::Xxh3.partition(key.as_bytes(), count).index()];
        if of.len() < KEYS_EACH {
            of.push(key);
        } else if found.iter().all(|of| of.len() == KEYS_EACH) {
            break;
        }
    }
    (0..KEYS_EACH * partitions).map(|n| found[n % partitions][n / partitions].clone()).collect()
}

impl Clients {
    /// Starts them; `nats` are the addresses for each of the plain clients' connections.
    pub async fn start(seed: u64, nats: &[String], doors: &Doors, clock: Clock, history: &History) -> Self {
        Self::of(CREW, seed, nats, doors, (clock, history)).await
    }

    /// A few of them, none of which appends.
    pub async fn start_light(nats: &[String], doors: &Doors, clock: Clock, history: &History) -> Self {
        Self::of(LIGHT_CREW, 0, nats, doors, (clock, history)).await
    }

    async fn of(crew: Crew, seed: u64, nats: &[String], doors: &Doors, (clock, history): (Clock, &History)) -> Self {
        let (stop, keys, mut tasks) = (Arc::<AtomicBool>::default(), Arc::new(keys()), JoinSet::new());
        let mut connections = Vec::new();
        for urls in nats {
            connections.push(connect(urls).await);
        }
        for number in 0..crew.over_http + crew.over_nats + crew.appending {
            let client = Client {
                number: number as u64,
                keys: Arc::clone(&keys),
                clock,
                history: history.clone(),
                stop: Arc::clone(&stop),
            };
            let rng = StdRng::seed_from_u64(seed ^ (number as u64) << 40);
            let connection = connections[number % connections.len()].clone();
            if number < crew.over_http {
                tasks.spawn(client.over_http(rng, Arc::clone(doors)));
            } else {
                tasks.spawn(client.over_nats(rng, connection, number >= crew.over_http + crew.over_nats));
            }
        }
        Self { stop, tasks }
    }

    /// Lets what is under way come to its end.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// What came back: outcome, who answered, version.
type Told = (Outcome, Option<String>, Option<Version>);

impl Client {
    async fn over_http(self, mut rng: StdRng, doors: Doors) {
        let http = Http::with_limit(HTTP_LIMIT);
        let (mut at, mut tick) = (self.number as usize, tokio::time::interval(PACE));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 0.. {
            tick.tick().await;
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let (key, action) = self.choose(&mut rng, round, false);
            let (node, base) = {
                let doors = doors.read().unwrap();
                doors[at % doors.len()].clone()
            };
            let asked = self.clock.now();
            let told = over_http(&http, &base, &self.keys[key], action).await;
            if !matches!(told.0, Outcome::Ok { .. }) {
                at += 1;
            }
            self.note(key, action, asked, node, told).await;
        }
    }

    async fn over_nats(self, mut rng: StdRng, connection: async_nats::Client, appends: bool) {
        let mut tick = tokio::time::interval(PACE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 0.. {
            tick.tick().await;
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let (key, action) = self.choose(&mut rng, round, appends);
            let asked = self.clock.now();
            let told = over_nats(&connection, &self.keys[key], action).await;
            self.note(key, action, asked, "nats".to_owned(), told).await;
        }
    }

    fn choose(&self, rng: &mut StdRng, round: u64, appends: bool) -> (usize, Action) {
        let keys = if rng.random_bool(0.5) { HOT_KEYS } else { self.keys.len() };
        let value = self.number << 32 | round;
        let action = match (appends, rng.random_bool(0.5)) {
            (true, _) => Action::Append(value),
            (false, true) => Action::Set(value),
            (false, false) => Action::Get,
        };
        (rng.random_range(0..keys), action)
    }

    async fn note(&self, key: usize, action: Action, asked: u64, through: String, (outcome, by, version): Told) {
        let (answered, ok) = (self.clock.now(), matches!(outcome, Outcome::Ok { .. }));
        self.history.add(Operation { key, action, asked, answered, outcome, through, by, version });
        if !ok {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Reads every key once through this node, as part of the history; how many reads had no answer.
pub async fn read_all(name: &str, base: &str, clock: Clock, history: &History) -> usize {
    let http = Http::with_limit(HTTP_LIMIT);
    let mut unanswered = 0;
    for (key, text) in keys().iter().enumerate() {
        let asked = clock.now();
        let (outcome, by, version) = over_http(&http, base, text, Action::Get).await;
        unanswered += usize::from(!matches!(outcome, Outcome::Ok { .. }));
        let (action, answered, through) = (Action::Get, clock.now(), name.to_owned());
        history.add(Operation { key, action, asked, answered, outcome, through, by, version });
    }
    unanswered
}

async fn over_http(http: &Http, base: &str, key: &str, action: Action) -> Told {
    let answer = match action {
        Action::Get => http.request(Method::GET, &format!("{base}/get?key={key}&consistency={LEVEL}"), None).await,
        Action::Set(value) | Action::Append(value) => {
            http.post(&format!("{base}/set"), &json!({"key": key, "value": value, "consistency": LEVEL})).await
        }
    };
    match answer {
        Ok(answer) => match serde_json::from_slice(&answer.body) {
            Ok(body) => told(action, &body),
            Err(_) => (Outcome::Absurd(format!("{} {}", answer.status, answer.text())), None, None),
        },
        // There was no connection to send it on.
        Err(error) if error.contains("Error(Connect") => (Outcome::Fail("no connection".to_owned()), None, None),
        Err(error) => (Outcome::Unknown(error), None, None),
    }
}

async fn over_nats(client: &async_nats::Client, key: &str, action: Action) -> Told {
    let (subject, body) = match action {
        Action::Get => (format!("{CACHE_RING}.get"), json!({ "key": key, "consistency": LEVEL })),
        Action::Set(value) => (format!("{CACHE_RING}.set"), json!({"key": key, "value": value, "consistency": LEVEL})),
        Action::Append(value) => (format!("{WRITERS_RING}.write"), json!({"key": key, "value": value})),
    };
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Ring-Timeout-Ms", NATS_LIMIT_SAID_MS);
    let asking = client.request_with_headers(subject, headers, body.to_string().into());
    match tokio::time::timeout(NATS_LIMIT, asking).await {
        Ok(Ok(message)) => match serde_json::from_slice(&message.payload) {
            Ok(body) => told(action, &body),
            Err(_) => (Outcome::Absurd(String::from_utf8_lossy(&message.payload).into_owned()), None, None),
        },
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            (Outcome::Fail("no responders".to_owned()), None, None)
        }
        Ok(Err(error)) => (Outcome::Unknown(error.to_string()), None, None),
        Err(_) => (Outcome::Unknown("no answer".to_owned()), None, None),
    }
}

/// What an answer's JSON says; the same over HTTP and NATS.
fn told(action: Action, body: &Json) -> Told {
    if let Some(code) = body["error"]["code"].as_str() {
        let said = format!("{code}: {}", body["error"]["message"].as_str().unwrap_or(""));
        let outcome = match code {
            // Of the example: the sink refused, or the grant was over before it asked the sink.
            "unavailable" | "overloaded" | "not_enough_replicas" | "fenced" | "not_owner" => Outcome::Fail(said),
            "unknown" | "sink_failed" => Outcome::Unknown(said),
            _ => Outcome::Absurd(said),
        };
        return (outcome, None, None);
    }
    let version = body["version"].as_str().and_then(|text| text.split_once('.'));
    let version = version.and_then(|(epoch, number)| Some((epoch.parse().ok()?, number.parse().ok()?)));
    let by = body["node"].as_str().map(str::to_owned);
    let outcome = match action {
        Action::Set(_) if body["success"] == true && version.is_some() => Outcome::Ok { found: None },
        Action::Append(_) if body["written"] == true => Outcome::Ok { found: None },
        Action::Get if body["found"] == false => Outcome::Ok { found: None },
        Action::Get if body["value"].is_u64() => Outcome::Ok { found: body["value"].as_u64() },
        _ => Outcome::Absurd(body.to_string()),
    };
    (outcome, by, version)
}
