//! The work load: clients that read and write through nodes, and as plain ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nats_ring::cache::{CacheClient, Limits, NOT_ENOUGH_REPLICAS, Version};
use nats_ring::node::Ring;
use nats_ring::rpc::{CallError, Caller, Reply};
use nats_ring::service::ServiceError;
use nats_ring::types::Consistency;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::fired::Kind;
use crate::generator::{Load, one_of, percent};
use crate::history::{Answered, Asked, What, Witness};
use crate::told::expires;
use crate::world::{Through, World};

pub(crate) const LIMITS: Limits = Limits { max_value_bytes: 4096 };
/// How long plain clients wait for their answer: what is parked in a move must be answered within it.
const PLAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) key: usize,
    pub(crate) asked: Asked,
    /// Of consistency; `None`: the ring's.
    pub(crate) level: Option<Consistency>,
}

/// What became of requests.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) ok: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) stop: AtomicBool,
    next_value: AtomicU64,
    /// The first request that failed after [`Figures::must_succeed`] was set.
    pub(crate) must_succeed: AtomicBool,
    pub(crate) first_failure: std::sync::Mutex<Option<String>>,
}

impl Figures {
    pub(crate) fn requests(&self) -> u64 {
        [&self.ok, &self.unknown, &self.refused].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn count(&self, answered: Answered, must: bool, what: impl FnOnce() -> String) {
        let of = match answered {
            Answered::Unknown => &self.unknown,
            Answered::Refused | Answered::TooFew => &self.refused,
            _ => &self.ok,
        };
        of.fetch_add(1, Ordering::Relaxed);
        if must && matches!(answered, Answered::Unknown | Answered::Refused | Answered::TooFew) {
            self.first_failure.lock().expect("no panic under it").get_or_insert_with(what);
        }
    }
}

/// One client, until it is told to stop.
pub(crate) async fn client(world: Arc<World>, number: usize, think: Duration) {
    let mut rng = SmallRng::seed_from_u64(world.scenario.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9));
    let plain = percent(&mut rng, world.scenario.load.plain_percent);
    let most = u64::try_from(think.as_millis()).unwrap_or(0) * 2;
    while !world.figures.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..=most))).await;
        let key = pick_key(&mut rng, &world.scenario.load);
        let asked = pick_operation(&mut rng, &world, (key, plain));
        let level = pick_level(&mut rng, &world);
        let who: usize = rng.random_range(0..1000);
        request(&world, number, Wanted { key, asked, level }, if plain { None } else { Some(who) }).await;
    }
}

fn pick_key(rng: &mut SmallRng, load: &Load) -> usize {
    if percent(rng, load.hot_percent) { rng.random_range(0..load.keys.min(3)) } else { rng.random_range(0..load.keys) }
}

fn pick_operation(rng: &mut SmallRng, world: &World, (key, plain): (usize, bool)) -> Asked {
    if percent(rng, world.scenario.load.write_percent) {
        // A plain answer to a delete has no version to be judged by.
        if !plain && percent(rng, 8) {
            return Asked::Delete;
        }
        let ends = !plain && expires(key);
        world.figures.next_write(ends.then(|| Duration::from_millis(rng.random_range(200..6000))))
    } else {
        Asked::Get
    }
}

fn pick_level(rng: &mut SmallRng, world: &World) -> Option<Consistency> {
    let named = world.scenario.copying.is_some_and(|copying| percent(rng, copying.named_percent));
    named.then(|| one_of(rng, &Consistency::ALL))
}

impl Figures {
    /// A write whose value no other has.
    pub(crate) fn next_write(&self, ttl: Option<Duration>) -> Asked {
        Asked::Set(self.next_value.fetch_add(1, Ordering::Relaxed) + 1, ttl)
    }
}

/// One request through a node, or without one as a plain client; judged. Answers how it ended.
pub(crate) async fn request(world: &World, client: usize, wanted: Wanted, who: Option<usize>) -> Answered {
    let Wanted { key, asked, level } = wanted;
    let through = who.map(|who| world.some_node(who));
    let must = world.figures.must_succeed.load(Ordering::Relaxed);
    let witness: &Witness = &world.witness;
    let at = witness.now();
    witness.note(None, || What::Asked { client, key, asked, level });
    let in_force = level.unwrap_or_else(|| world.usual_level());
    let firm = in_force > Consistency::Eventual;
    let began = witness.ask(|judge| judge.register.began(key, asked, (firm, at)));
    let (answered, why) = match through {
        None => plain(world, wanted).await,
        Some(None) => {
            tokio::time::sleep(Duration::from_millis(100)).await;
            (Answered::Refused, "no node is there".to_owned())
        }
        Some(Some(through)) => native(world, wanted, through).await,
    };
    witness.judge(|judge, now| judge.register.ended(key, asked, began, (answered, now)));
    let place_of = world.partition_of_key(key);
    if answered == Answered::TooFew {
        world.fire(Kind::TooFewCopies);
        witness.judge(|judge, _| judge.sizes.refused(place_of, level.unwrap_or_else(|| world.asked_level()), at));
    }
    if world.scenario.copying.is_some() && matches!(answered, Answered::Stored(_) | Answered::Deleted(_)) {
        world.fire(match in_force {
            Consistency::Eventual => Kind::WriteEventual,
            Consistency::Quorum => Kind::WriteQuorum,
            Consistency::Strong => Kind::WriteStrong,
        });
    }
    // Nobody is promised quorum or strong while there are too few copies.
    let at_most = level.unwrap_or_else(|| world.asked_level());
    let must = must && !(at_most > Consistency::Eventual && witness.ask(|j| j.sizes.was_small(place_of, at_most, at)));
    let place = if who.is_some() { "through a node" } else { "as a plain client" };
    world.figures.count(answered, must, || format!("{asked:?} of key {key} {place} at {at:?}: {answered:?} {why}"));
    witness.note(None, || What::Answered { client, key, answered, why });
    answered
}

/// Calls as a service's callers do that remembers no names: what is not answered is not sent again, and ends as unknown.
struct Nameless(Ring);

#[async_trait]
impl Caller for Nameless {
    async fn call(&self, key: Bytes, operation: &str, payload: Bytes, timeout: Duration) -> Result<Reply, CallError> {
        Caller::call(&self.0, key, operation, payload, timeout).await
    }
}

/// Through a node: its end, or its standing still, is its caller's.
async fn native(world: &World, wanted: Wanted, through: Through) -> (Answered, String) {
    let Wanted { key, asked, level } = wanted;
    let caller: Arc<dyn Caller> = match world.scenario.load.nameless {
        true => Arc::new(Nameless(through.ring.clone())),
        false => Arc::new(through.ring.clone()),
    };
    let cache = CacheClient::new(caller, LIMITS);
    let cache = match level {
        Some(level) => cache.with_consistency(level),
        None => cache,
    };
    let key = world.keys[key].clone();
    let call = async {
        match asked {
            Asked::Set(value, ttl) => {
                let stored = cache.set(key, Bytes::from(value.to_string()), ttl).await?;
                Ok(Answered::Stored(stored.version))
            }
            Asked::Get => Ok(match cache.get(key).await?.found {
                Some(entry) => Answered::Found(number(&entry.value), entry.version),
                None => Answered::Missing,
            }),
            Asked::Delete => Ok(match cache.delete(key).await? {
                deleted if deleted.existed => Answered::Deleted(deleted.version),
                _ => Answered::Missing,
            }),
        }
    };
    match through.gone.run_until_cancelled(call).await {
        Some(Ok(answered)) => (answered, String::new()),
        Some(Err(error)) => (failed(&error), error.to_string()),
        None => (Answered::Unknown, "the node it went through stopped".to_owned()),
    }
}

fn failed(error: &CallError) -> Answered {
    match error {
        CallError::Service(ServiceError { code, .. }) => refusal(code),
        CallError::Unknown { .. } => Answered::Unknown,
        _ => Answered::Refused,
    }
}

/// Of an error's code.
fn refusal(code: &str) -> Answered {
    match code {
        NOT_ENOUGH_REPLICAS => Answered::TooFew,
        "unknown" => Answered::Unknown,
        _ => Answered::Refused,
    }
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

async fn plain(world: &World, wanted: Wanted) -> (Answered, String) {
    let Wanted { key, asked, level } = wanted;
    let level = level.map_or(String::new(), |level| format!(r#","consistency":"{level}""#));
    let key = String::from_utf8_lossy(&world.keys[key]).into_owned();
    let (operation, body) = match asked {
        Asked::Set(value, _) => ("set", format!(r#"{{"key":"{key}","value":{value}{level}}}"#)),
        Asked::Get | Asked::Delete => ("get", format!(r#"{{"key":"{key}"{level}}}"#)),
    };
    // Every other key at its partition's own subject, as a client that knows the hash asks for it.
    let operation = match world.partition_of(&key) {
        partition if partition.get() % 2 == 1 => format!("p.{partition}.{operation}"),
        _ => operation.to_owned(),
    };
    let asking = tokio::time::timeout(PLAIN_TIMEOUT, world.ring.plain(&operation, body));
    let text = match asking.await {
        Ok(Ok(text)) => text,
        Ok(Err(nats_ring::rpc::RequestError::NoResponders(reason))) => return (Answered::Refused, reason),
        Ok(Err(error)) => return (Answered::Unknown, error.to_string()),
        Err(_) => return (Answered::Unknown, "no answer".to_owned()),
    };
    read_plain(&text)
}

fn read_plain(text: &[u8]) -> (Answered, String) {
    let Ok(json) = serde_json::from_slice::<Value>(text) else {
        return (Answered::Unknown, format!("an answer that is no JSON: {}", String::from_utf8_lossy(text)));
    };
    let version = || json["version"].as_str().and_then(|version| version.parse::<Version>().ok());
    if let Some(code) = json["error"]["code"].as_str() {
        return (refusal(code), json["error"]["message"].to_string());
    }
    let answered = match (json["found"].as_bool(), json["success"].as_bool(), version()) {
        (Some(true), _, Some(version)) => Answered::Found(json["value"].as_u64().unwrap_or(0), version),
        (Some(false), _, _) => Answered::Missing,
        (_, Some(true), Some(version)) => Answered::Stored(version),
        _ => return (Answered::Unknown, format!("an answer that is not understood: {json}")),
    };
    (answered, String::new())
}
