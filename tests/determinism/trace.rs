//! Everything that can be seen of a ring, as lines of text.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nats_ring::service::{BoxError, Chunks, Grant, Release, Request, Service, ServiceError};
use nats_ring::testing::{FaultKind, Observed, Observer};
use nats_ring::types::{Clock, PartitionId, Time};

/// What came of a run.
pub(crate) struct History {
    pub(crate) lines: Vec<String>,
    pub(crate) fired: BTreeMap<FaultKind, u64>,
}

impl History {
    pub(crate) fn digest(&self) -> u64 {
        // With fixed keys: the same in every process.
        let mut hasher = DefaultHasher::new();
        self.lines.hash(&mut hasher);
        hasher.finish()
    }
}

/// Takes down what it is told.
#[derive(Default)]
pub(crate) struct Trace {
    lines: Mutex<Vec<String>>,
}

impl Trace {
    pub(crate) fn add(&self, at: Duration, line: &str) {
        self.lines.lock().unwrap().push(format!("{at:?} {line}"));
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

impl Observer for Trace {
    fn saw(&self, at: Duration, what: &Observed<'_>) {
        self.add(at, &format!("{what:?}"));
    }
}

/// A service whose hooks and executions are taken down.
pub(crate) struct Traced<S> {
    pub(crate) inner: S,
    pub(crate) node: String,
    pub(crate) trace: Arc<Trace>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl<S> Traced<S> {
    fn add(&self, what: &str) {
        self.trace.add(self.clock.now().since(Time::ZERO), &format!("{} {what}", self.node));
    }
}

fn list(grants: &[Grant]) -> String {
    grants.iter().map(|grant| format!("{}@{} ", grant.partition, grant.epoch())).collect()
}

#[async_trait]
impl<S: Service> Service for Traced<S> {
    async fn on_own(&self, grants: &[Grant]) -> Result<(), BoxError> {
        self.add(&format!("on_own {}", list(grants)));
        self.inner.on_own(grants).await
    }

    async fn on_release(&self, grants: &[Grant], why: Release) -> Result<(), BoxError> {
        self.add(&format!("on_release {why:?} {}", list(grants)));
        self.inner.on_release(grants, why).await
    }

    async fn handle(&self, grant: &Grant, request: Request) -> Result<Bytes, ServiceError> {
        self.add(&format!("handle {} {:?} {:?}", grant.epoch(), request.operation, request.key));
        self.inner.handle(grant, request).await
    }

    fn operations(&self) -> Vec<&'static str> {
        self.inner.operations()
    }

    fn plain_key(&self, operation: &str, payload: &[u8]) -> Result<Bytes, ServiceError> {
        self.inner.plain_key(operation, payload)
    }

    async fn snapshot(&self, grant: &Grant, max_bytes: usize) -> Result<Chunks, BoxError> {
        self.add(&format!("snapshot {}", grant.partition));
        self.inner.snapshot(grant, max_bytes).await
    }

    async fn restore(&self, grant: &Grant, chunks: Vec<Bytes>, waited: Duration) -> Result<(), BoxError> {
        self.add(&format!("restore {} {chunks:?} {waited:?}", grant.partition));
        self.inner.restore(grant, chunks, waited).await
    }

    async fn discard(&self, partition: PartitionId) {
        self.add(&format!("discard {partition}"));
        self.inner.discard(partition).await;
    }
}
