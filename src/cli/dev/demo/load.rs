//! Requests that go on while the ring changes: plain NATS clients and HTTP clients, each writing a key and reading back what
//! it wrote.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::cast::RING;
use super::entries;
use crate::cli::dev::http::Http;
use crate::rpc::Bus;
use crate::rpc::nats::NatsBus;
use crate::types::{BootClock, Clock};

/// Of each kind.
const CLIENTS: usize = 4;
/// Different keys of each client.
const KEYS: usize = 50;
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// What became of the requests.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) failures: Vec<String>,
    pub(super) slowest: Duration,
}

/// Clients at work.
pub(super) struct Load {
    stop: CancellationToken,
    clients: JoinSet<Tally>,
}

/// How a client reaches the ring.
#[derive(Clone)]
enum Way {
    Nats(NatsBus),
    Http(Http, SocketAddr),
}

impl Load {
    /// Starts them: over NATS, where any node may be the one that answers, and over HTTP at these nodes.
    pub(super) fn start(bus: &NatsBus, http: &Http, nodes: &[SocketAddr]) -> Self {
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        let over_http = nodes.iter().cycle().map(|node| Way::Http(http.clone(), *node));
        let ways = std::iter::repeat_n(Way::Nats(bus.clone()), CLIENTS).chain(over_http.take(CLIENTS));
        for (number, way) in ways.enumerate() {
            clients.spawn(client(number, way, stop.clone()));
        }
        Self { stop, clients }
    }

    /// Lets each finish its request and adds up.
    pub(super) async fn stop(self) -> Tally {
        self.stop.cancel();
        let mut sum = Tally::default();
        for tally in self.clients.join_all().await {
            sum.requests += tally.requests;
            sum.failures.extend(tally.failures);
            sum.slowest = sum.slowest.max(tally.slowest);
        }
        sum
    }
}

async fn client(number: usize, way: Way, stop: CancellationToken) -> Tally {
    let mut tally = Tally::default();
    for round in 0_u64.. {
        if stop.is_cancelled() {
            break;
        }
        let key = format!("load:{number}:{}", round % KEYS as u64);
        let begin = BootClock.now();
        let outcome = way.set_and_get(&key, &json!(round)).await;
        tally.slowest = tally.slowest.max(BootClock.now().since(begin));
        tally.requests += 2;
        tally.failures.extend(outcome.err().map(|reason| format!("{key}: {reason}")));
        // One thread runs them all, and whoever waits for the ring.
        tokio::task::yield_now().await;
    }
    tally
}

impl Way {
    async fn set_and_get(&self, key: &str, value: &Value) -> Result<(), String> {
        let set = json!({ "key": key, "value": value }).to_string();
        let found = match self {
            Self::Nats(bus) => {
                ask(bus, "set", set).await?;
                ask(bus, "get", json!({ "key": key }).to_string()).await?["value"].clone()
            }
            Self::Http(http, node) => {
                let answer = http.post(*node, "/set", set).await?;
                if answer.status != 200 {
                    return Err(format!("HTTP {} {}", answer.status, String::from_utf8_lossy(&answer.body)));
                }
                entries::get_one(http, *node, key).await?.unwrap_or_default()
            }
        };
        if found == *value { Ok(()) } else { Err(format!("wrote {value}, read {found}")) }
    }
}

async fn ask(bus: &NatsBus, operation: &str, body: String) -> Result<Value, String> {
    let answer = bus.request(&format!("{RING}.{operation}"), Vec::new(), Bytes::from(body), REQUEST_LIMIT).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())?;
    if answer.get("error").is_some() { Err(answer.to_string()) } else { Ok(answer) }
}
