//! What front ends see of a node that runs the cache: its view for HTTP, plain questions over NATS, figures from its
//! requests and events.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::broadcast::error::RecvError;

use super::{NodeView, OwnerView, bodies, cache_figures, gauges};
use crate::cache::CacheService;
use crate::cache::plain::parse_key;
use crate::metrics::{Hook, Metrics, Outcome};
use crate::node::{Event, Queries, Ring, Status};
use crate::rpc::server::RequestObserver;
use crate::service::ServiceError;
use crate::types::{Epoch, NodeName};

/// A node, its cache and its figures.
pub struct Front {
    /// The node.
    pub ring: Ring,
    /// What runs on it.
    pub cache: Arc<CacheService>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl NodeView for Front {
    fn node(&self) -> NodeName {
        self.ring.name().clone()
    }

    fn status(&self) -> Status {
        self.ring.status()
    }

    fn owner(&self, key: &[u8]) -> OwnerView {
        let partition = self.ring.partition_for(key);
        let route = self.ring.route(partition);
        let epoch = route.as_ref().map_or(Epoch::ZERO, |route| route.epoch);
        let replicas = self.ring.replicas(partition);
        let owner = route.map(|route| route.owner.node);
        let (waits, suspended) = (self.ring.waits(partition), self.ring.suspended());
        OwnerView { partition, owner, epoch, replicas, waits, suspended }
    }

    fn cache_stats(&self) -> serde_json::Value {
        // Figures only: always serialisable.
        serde_json::to_value(self.cache.stats()).unwrap_or_default()
    }

    fn reaches_itself(&self, within: Duration) -> BoxFuture<'_, bool> {
        self.ring.reaches_itself(within).boxed()
    }

    fn metrics_text(&self) -> String {
        let cache = cache_figures(&self.cache.stats());
        self.metrics.encode(&gauges(&self.ring.status(), (self.ring.dropped_messages(), self.ring.resends()), cache))
    }
}

/// Answers [`QUERIES`].
pub struct Answers {
    /// What runs on the node that is asked.
    pub cache: Arc<CacheService>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Queries for Answers {
    fn answer(&self, ring: &Ring, query: &str, payload: &[u8]) -> Result<bytes::Bytes, ServiceError> {
        let (ring, cache, metrics) = (ring.clone(), Arc::clone(&self.cache), Arc::clone(&self.metrics));
        let front = Front { ring, cache, metrics };
        let text = match query {
            "owner" => {
                let key = parse_key(query, payload)?;
                // It came as JSON: it is text.
                bodies::owner(&front, &String::from_utf8_lossy(&key))
            }
            "stats" => bodies::stats(&front),
            "ring" => bodies::ring(&front.ring.status()),
            other => return Err(ServiceError::new("bad_request", format!("there is no query '{other}'"))),
        };
        Ok(text.into())
    }
}

/// Plain questions that any node answers by itself.
pub const QUERIES: [&str; 3] = ["owner", "stats", "ring"];

/// Counts requests.
pub struct Counting(pub Arc<Metrics>);

impl RequestObserver for Counting {
    fn answered(&self, operation: &str, code: &str, elapsed: Duration) {
        let outcome = if code == "ok" { Outcome::Ok } else { Outcome::of_error(code) };
        self.0.record_request(operation, outcome, elapsed);
    }

    fn confirmed(&self) {
        self.0.record_confirmed_request();
    }
}

/// Counts events from this call on, until the node's handle is gone.
pub fn count_events(ring: &Ring, metrics: Arc<Metrics>) -> impl Future<Output = ()> + Send + use<> {
    let mut events = ring.events();
    async move {
        loop {
            match events.recv().await {
                Ok(event) => count(&metrics, &event),
                // Figures are for people: a burst that was missed is missed.
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "events not counted"),
                Err(RecvError::Closed) => return,
            }
        }
    }
}

fn count(metrics: &Metrics, event: &Event) {
    match event {
        Event::Owned { .. } => metrics.record_epoch_change(),
        // The state moves while requests are parked: the whole move is a pause so far.
        Event::MoveFinished { pause, .. } => metrics.record_move(*pause, *pause),
        Event::MoveAbandoned { pause, .. } => metrics.record_move_abandoned(*pause),
        Event::HookFailed { hook, .. } | Event::HookHung { hook, .. } => metrics.record_hook_failure(match *hook {
            "on_own" => Hook::OnOwn,
            _ => Hook::OnRelease,
        }),
        Event::Evicted { .. } => metrics.record_eviction_seen(),
        Event::TaskRestarted { .. } => metrics.record_task_restart(),
        _ => {}
    }
}
