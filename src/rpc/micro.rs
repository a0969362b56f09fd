//! The NATS micro-service protocol: what `nats micro ls`, `info` and `stats` ask, answered over the bus.
//!
//! In: what the service is, and one [`MicroService::record`] per request served. Out: answers to discovery. It serves no
//! requests itself: requests here are often forwarded, and the node that answers is not the one that was asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::select_all;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use super::{Bus, BusError, Message};

/// Discovery requests that may wait unanswered, per subject.
const DISCOVERY_CAPACITY: usize = 256;

/// One endpoint, as discovery shows it.
#[derive(Debug, Clone, Serialize)]
pub struct EndpointInfo {
    /// Its name, unique in the service.
    pub name: String,
    /// Where requests go.
    pub subject: String,
    /// The queue group that shares them.
    pub queue_group: String,
    /// Anything else to be shown.
    pub metadata: BTreeMap<String, String>,
}

/// One instance of a service, as discovery shows it.
#[derive(Debug, Clone)]
pub struct ServiceInfo {
    /// The service's name: the same for all its instances; letters, digits, `-` and `_`.
    pub name: String,
    /// This instance: one subject token that no other instance has.
    pub id: String,
    /// A semantic version.
    pub version: String,
    /// For people.
    pub description: String,
    /// Anything else to be shown.
    pub metadata: BTreeMap<String, String>,
    /// What it serves.
    pub endpoints: Vec<EndpointInfo>,
}

/// One instance of a service, and its figures.
#[derive(Debug)]
pub struct MicroService {
    info: ServiceInfo,
    started: String,
    figures: Vec<Figures>,
}

#[derive(Debug, Default)]
struct Figures {
    requests: AtomicU64,
    errors: AtomicU64,
    processing_nanos: AtomicU64,
    last_error: Mutex<String>,
    data: Mutex<Option<Value>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Ping,
    Info,
    Stats,
}

/// What every answer begins with.
#[derive(Serialize)]
struct Identity<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    id: &'a str,
    version: &'a str,
    metadata: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct InfoAnswer<'a> {
    #[serde(flatten)]
    identity: Identity<'a>,
    description: &'a str,
    endpoints: &'a [EndpointInfo],
}

#[derive(Serialize)]
struct StatsAnswer<'a> {
    #[serde(flatten)]
    identity: Identity<'a>,
    started: &'a str,
    endpoints: Vec<EndpointStats<'a>>,
}

/// Times in nanoseconds, as the protocol has them.
#[derive(Serialize)]
struct EndpointStats<'a> {
    name: &'a str,
    subject: &'a str,
    queue_group: &'a str,
    num_requests: u64,
    num_errors: u64,
    last_error: String,
    processing_time: u64,
    average_processing_time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl MicroService {
    /// A service started now, all its figures zero. Whatever in name or id cannot be part of a discovery subject becomes
    /// `-`.
    pub fn new(mut info: ServiceInfo) -> Arc<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        for text in [&mut info.name, &mut info.id] {
            *text = text.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
        }
        let figures = info.endpoints.iter().map(|_| Figures::default()).collect();
        // Shown to people only; a date before the year 0 or after 9999 cannot be written.
        let started = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        Arc::new(Self { info, started, figures })
    }

    /// Counts one request to `endpoint`, and its error if it ended in one.
    pub fn record(&self, endpoint: &str, elapsed: Duration, error: Option<&str>) {
        let Some(figures) = self.figures_of(endpoint) else { return };
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        figures.requests.fetch_add(1, Ordering::Relaxed);
        figures.processing_nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(error) = error {
            figures.errors.fetch_add(1, Ordering::Relaxed);
            error.clone_into(&mut lock(&figures.last_error));
        }
    }

    /// Sets what the endpoint's statistics carry beside their figures.
    pub fn set_data(&self, endpoint: &str, data: Value) {
        if let Some(figures) = self.figures_of(endpoint) {
            *lock(&figures.data) = Some(data);
        }
    }

    /// Answers discovery until `shutdown`, or until the connection is closed for good.
    ///
    /// # Errors
    /// [`BusError`] where the discovery subjects cannot be subscribed to.
    pub async fn run(self: Arc<Self>, bus: Arc<dyn Bus>, shutdown: CancellationToken) -> Result<(), BusError> {
        let mut subscriptions = Vec::new();
        for (verb, word) in [(Verb::Ping, "PING"), (Verb::Info, "INFO"), (Verb::Stats, "STATS")] {
            let (name, id) = (&self.info.name, &self.info.id);
            for subject in [format!("$SRV.{word}"), format!("$SRV.{word}.{name}"), format!("$SRV.{word}.{name}.{id}")] {
                let requests = bus.subscribe(&subject, None, DISCOVERY_CAPACITY).await?;
                subscriptions.push(requests.map(move |request| (verb, request)));
            }
        }
        let mut requests = select_all(subscriptions);
        loop {
            let next = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                next = requests.next() => next,
            };
            let Some((verb, request)) = next else { return Ok(()) };
            let Some(reply) = request.reply else { continue };
            let answer = Message { subject: reply, payload: self.answer(verb), ..Message::default() };
            if let Err(error) = bus.publish(answer).await {
                tracing::debug!(%error, "discovery request not answered");
            }
        }
    }

    fn answer(&self, verb: Verb) -> Bytes {
        let info = &self.info;
        let kind = match verb {
            Verb::Ping => "io.nats.micro.v1.ping_response",
            Verb::Info => "io.nats.micro.v1.info_response",
            Verb::Stats => "io.nats.micro.v1.stats_response",
        };
        let identity =
            Identity { kind, name: &info.name, id: &info.id, version: &info.version, metadata: &info.metadata };
        let json = match verb {
            Verb::Ping => serde_json::to_vec(&identity),
            Verb::Info => {
                let (description, endpoints) = (&info.description, &info.endpoints);
                serde_json::to_vec(&InfoAnswer { identity, description, endpoints })
            }
            Verb::Stats => {
                let stats = info.endpoints.iter().zip(&self.figures).map(|(endpoint, figures)| figures.stats(endpoint));
                serde_json::to_vec(&StatsAnswer { identity, started: &self.started, endpoints: stats.collect() })
            }
        };
        // Plain data with string keys: serialising it cannot fail.
        json.unwrap_or_default().into()
    }

    fn figures_of(&self, endpoint: &str) -> Option<&Figures> {
        let position = self.info.endpoints.iter().position(|known| known.name == endpoint)?;
        self.figures.get(position)
    }
}

impl Figures {
    fn stats<'a>(&self, endpoint: &'a EndpointInfo) -> EndpointStats<'a> {
        let requests = self.requests.load(Ordering::Relaxed);
        let processing = self.processing_nanos.load(Ordering::Relaxed);
        EndpointStats {
            name: &endpoint.name,
            subject: &endpoint.subject,
            queue_group: &endpoint.queue_group,
            num_requests: requests,
            num_errors: self.errors.load(Ordering::Relaxed),
            last_error: lock(&self.last_error).clone(),
            processing_time: processing,
            average_processing_time: processing.checked_div(requests).unwrap_or(0),
            data: lock(&self.data).clone(),
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rpc::RequestError;
    use crate::rpc::mem::MemSwitch;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn info(name: &str, id: &str) -> ServiceInfo {
        let endpoint = |name: &str| EndpointInfo {
            name: name.to_owned(),
            subject: format!("ring.{name}"),
            queue_group: "ring".to_owned(),
            metadata: BTreeMap::new(),
        };
        ServiceInfo {
            name: name.to_owned(),
            id: id.to_owned(),
            version: "1.2.3".to_owned(),
            description: "a ring".to_owned(),
            metadata: BTreeMap::from([("node".to_owned(), "node-1".to_owned())]),
            endpoints: vec![endpoint("get"), endpoint("set")],
        }
    }

    async fn ask(bus: &dyn Bus, subject: &str) -> Value {
        let answer = bus.request(subject, Vec::new(), Bytes::new(), TIMEOUT).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    #[tokio::test]
    async fn all_nine_discovery_subjects_are_answered_until_shutdown() {
        let switch = MemSwitch::new(1);
        let service = MicroService::new(info("ring", "i1"));
        let shutdown = CancellationToken::new();
        let running = service.run(Arc::new(switch.bus()), shutdown.clone());
        let bus = switch.bus();
        let asking = async {
            for verb in ["PING", "INFO", "STATS"] {
                for suffix in ["", ".ring", ".ring.i1"] {
                    let answer = ask(&bus, &format!("$SRV.{verb}{suffix}")).await;
                    let kind = format!("io.nats.micro.v1.{}_response", verb.to_lowercase());
                    assert_eq!((&answer["type"], &answer["id"]), (&json!(kind), &json!("i1")));
                }
            }
            shutdown.cancel();
        };
        let (ended, ()) = tokio::join!(running, asking);
        assert_eq!(ended, Ok(()));
        let after = bus.request("$SRV.PING", Vec::new(), Bytes::new(), TIMEOUT).await;
        assert!(matches!(after, Err(RequestError::NoResponders(_))));
    }

    #[test]
    fn answers_have_the_protocols_shape() {
        let service = MicroService::new(info("ring", "i1"));
        let read = |verb| serde_json::from_slice::<Value>(&service.answer(verb)).unwrap();
        let identity = json!({"name": "ring", "id": "i1", "version": "1.2.3", "metadata": {"node": "node-1"},
            "type": "io.nats.micro.v1.ping_response"});
        assert_eq!(read(Verb::Ping), identity);
        let endpoint = json!({"name": "set", "subject": "ring.set", "queue_group": "ring", "metadata": {}});
        assert_eq!(
            (&read(Verb::Info)["description"], &read(Verb::Info)["endpoints"][1]),
            (&json!("a ring"), &endpoint)
        );
        let started = read(Verb::Stats)["started"].as_str().unwrap().to_owned();
        assert!(OffsetDateTime::now_utc().format(&Rfc3339).unwrap() >= started && started.ends_with('Z'), "{started}");
    }

    #[test]
    fn requests_errors_and_times_are_counted_per_endpoint() {
        let service = MicroService::new(info("ring", "i1"));
        service.record("set", Duration::from_nanos(300), None);
        service.record("set", Duration::from_nanos(100), Some("too large"));
        service.record("no such endpoint", Duration::from_nanos(1), None);
        service.set_data("set", json!({"partitions": [1, 2]}));
        let stats: Value = serde_json::from_slice(&service.answer(Verb::Stats)).unwrap();
        let expected = json!({"name": "set", "subject": "ring.set", "queue_group": "ring", "num_requests": 2,
            "num_errors": 1, "last_error": "too large", "processing_time": 400, "average_processing_time": 200,
            "data": {"partitions": [1, 2]}});
        assert_eq!(stats["endpoints"][1], expected);
        assert_eq!(stats["endpoints"][0]["num_requests"], 0);
    }

    #[test]
    fn names_become_one_subject_token() {
        let service = MicroService::new(info("a.b *", "c>"));
        assert_eq!((service.info.name.as_str(), service.info.id.as_str()), ("a-b--", "c-"));
    }
}
