//! A service with state, whose hooks are recorded: it counts per key, fails and hangs as told.
#![allow(unreachable_pub)] // a module of a test

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nats_ring::service::{BoxError, Chunks, Grant, Release, Request, Service, ServiceError};
use nats_ring::types::{Clock, Epoch, PartitionId, Time};

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Own(PartitionId, Epoch),
    Release(PartitionId, Epoch, Release),
}

/// Calls of all nodes, in the order they came.
pub struct History {
    clock: Option<Arc<dyn Clock>>,
    calls: Mutex<Vec<(Duration, String, Call)>>,
}

impl History {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { clock: None, calls: Mutex::default() })
    }

    pub fn timed(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock: Some(clock), calls: Mutex::default() })
    }

    fn add(&self, node: &str, call: Call) {
        let at = self.clock.as_ref().map_or(Duration::ZERO, |clock| clock.now().since(Time::ZERO));
        self.calls.lock().unwrap().push((at, node.to_owned(), call));
    }

    pub fn timed_calls(&self) -> Vec<(Duration, String, Call)> {
        self.calls.lock().unwrap().clone()
    }

    pub fn all(&self) -> Vec<(String, Call)> {
        self.timed_calls().into_iter().map(|(_, node, call)| (node, call)).collect()
    }

    pub fn of(&self, node: &str) -> Vec<Call> {
        self.all().into_iter().filter(|(name, _)| name == node).map(|(_, call)| call).collect()
    }

    /// At each node a partition is released before it is owned again, and over all nodes epochs of a partition grow.
    pub fn assert_alternate_with_growing_epochs(&self) {
        let (mut held, mut last) = (BTreeMap::new(), BTreeMap::new());
        for (node, call) in self.all() {
            match call {
                Call::Own(partition, epoch) => {
                    assert_eq!(held.insert((node.clone(), partition), epoch), None, "{node}: {call:?} twice");
                    let before = last.insert(partition, epoch).unwrap_or(Epoch::ZERO);
                    assert!(epoch > before, "{node}: {call:?} after epoch {before}");
                }
                Call::Release(partition, epoch, _) => {
                    assert_eq!(held.remove(&(node.clone(), partition)), Some(epoch), "{node}: {call:?}");
                }
            }
        }
    }
}

type Counts = BTreeMap<PartitionId, BTreeMap<String, u64>>;

/// Counts per key.
pub struct Counter {
    node: String,
    history: Arc<History>,
    counts: Mutex<Counts>,
    failing: Mutex<BTreeSet<PartitionId>>,
    hanging: AtomicBool,
}

impl Counter {
    pub fn new(node: &str, history: &Arc<History>) -> Arc<Self> {
        Arc::new(Self {
            node: node.to_owned(),
            history: Arc::clone(history),
            counts: Mutex::default(),
            failing: Mutex::default(),
            hanging: AtomicBool::new(false),
        })
    }

    /// `on_own` fails for these from now on, and for no others.
    pub fn fails_for(&self, partitions: impl IntoIterator<Item = PartitionId>) {
        *self.failing.lock().unwrap() = partitions.into_iter().collect();
    }

    /// `on_own` hangs from now on.
    pub fn hangs(&self) {
        self.hanging.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Service for Counter {
    async fn on_own(&self, grants: &[Grant]) -> Result<(), BoxError> {
        if self.hanging.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if grants.iter().any(|grant| self.failing.lock().unwrap().contains(&grant.partition)) {
            return Err("fails as told".into());
        }
        for grant in grants {
            assert!(grant.is_current());
            self.history.add(&self.node, Call::Own(grant.partition, grant.epoch()));
        }
        Ok(())
    }

    async fn on_release(&self, grants: &[Grant], why: Release) -> Result<(), BoxError> {
        grants
            .iter()
            .for_each(|grant| self.history.add(&self.node, Call::Release(grant.partition, grant.epoch(), why)));
        Ok(())
    }

    async fn handle(&self, grant: &Grant, request: Request) -> Result<Bytes, ServiceError> {
        let key = String::from_utf8_lossy(&request.key).into_owned();
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry(grant.partition).or_default().entry(key).or_default();
        *count += 1;
        Ok(count.to_string().into())
    }

    async fn snapshot(&self, grant: &Grant, _: usize) -> Result<Chunks, BoxError> {
        let held = self.counts.lock().unwrap().get(&grant.partition).cloned().unwrap_or_default();
        Ok(Box::pin(futures::stream::iter([Ok(serde_json::to_vec(&held)?.into())])))
    }

    async fn restore(&self, grant: &Grant, chunks: Vec<Bytes>, _: Duration) -> Result<(), BoxError> {
        let held = serde_json::from_slice(&chunks.concat())?;
        self.counts.lock().unwrap().insert(grant.partition, held);
        Ok(())
    }

    async fn discard(&self, partition: PartitionId) {
        self.counts.lock().unwrap().remove(&partition);
    }
}
