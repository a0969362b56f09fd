//! A service that records what is asked of it, and misbehaves on demand; and nodes inside the test's own process.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // shared by tests: none uses all of it

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nats_ring::connect::ConnectOptions;
use nats_ring::node::{NodeBuilder, Ring};
use nats_ring::ring::Timing;
use nats_ring::service::{BoxError, Grant, Release, Request, Service, ServiceError};
use nats_ring::types::{BootClock, Clock, Epoch, NodeName, PartitionCount, PartitionId, RingName};

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Own(PartitionId, Epoch),
    Release(PartitionId, Epoch, Release),
}

/// Which hooks misbehave, for which partitions.
#[derive(Debug, Default)]
pub struct Faults {
    pub own_fails: BTreeSet<PartitionId>,
    pub own_hangs: BTreeSet<PartitionId>,
    pub release_hangs: bool,
}

/// The service.
#[derive(Debug, Default)]
pub struct Recorder {
    pub name: String,
    pub calls: Mutex<Vec<Call>>,
    pub faults: Mutex<Faults>,
}

impl Recorder {
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), ..Self::default() })
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// Calls for one partition alternate, in epoch order.
    pub fn assert_in_order(&self) {
        let calls = self.calls();
        for number in 0..PartitionCount::MAX {
            let partition = PartitionId::new(number);
            let mut owned: Option<Epoch> = None;
            let mut last = Epoch::ZERO;
            for call in &calls {
                match *call {
                    Call::Own(p, epoch) if p == partition => {
                        assert!(owned.is_none() && epoch > last, "{}: {call:?} after {owned:?}, {last}", self.name);
                        (owned, last) = (Some(epoch), epoch);
                    }
                    Call::Release(p, epoch, _) if p == partition => {
                        assert_eq!(owned, Some(epoch), "{}: {call:?}", self.name);
                        owned = None;
                    }
                    _ => {}
                }
            }
        }
    }
}

#[async_trait]
impl Service for Recorder {
    async fn on_own(&self, grants: &[Grant]) -> Result<(), BoxError> {
        let hangs = grants.iter().any(|grant| self.faults.lock().unwrap().own_hangs.contains(&grant.partition));
        if hangs {
            std::future::pending::<()>().await;
        }
        if grants.iter().any(|grant| self.faults.lock().unwrap().own_fails.contains(&grant.partition)) {
            return Err("fails on purpose".into());
        }
        let mut calls = self.calls.lock().unwrap();
        calls.extend(grants.iter().map(|grant| Call::Own(grant.partition, grant.epoch())));
        Ok(())
    }

    async fn on_release(&self, grants: &[Grant], why: Release) -> Result<(), BoxError> {
        if self.faults.lock().unwrap().release_hangs {
            std::future::pending::<()>().await;
        }
        let mut calls = self.calls.lock().unwrap();
        calls.extend(grants.iter().map(|grant| Call::Release(grant.partition, grant.epoch(), why)));
        Ok(())
    }

    async fn handle(&self, grant: &Grant, _: Request) -> Result<Bytes, ServiceError> {
        Ok(Bytes::from(format!("{}@{}", self.name, grant.epoch())))
    }

    fn operations(&self) -> Vec<&'static str> {
        vec!["who"]
    }
}

/// Settings of a node inside the test.
pub struct Embedded {
    pub connect: ConnectOptions,
    pub timing: Timing,
    pub clock: Arc<dyn Clock>,
    pub partitions: u16,
}

impl Embedded {
    /// A lease of one second, so that tests need not wait for long.
    pub fn fast(connect: ConnectOptions) -> Self {
        let timing = Timing { join_debounce: Duration::from_millis(200), ..Timing::for_lease(Duration::from_secs(1)) };
        Self { connect, timing, clock: Arc::new(BootClock), partitions: 16 }
    }

    pub async fn start(&self, name: &str, service: Arc<dyn Service>) -> Ring {
        let ring = RingName::new("embedded").unwrap();
        let builder = NodeBuilder::new(self.connect.clone(), ring, NodeName::new(name).unwrap())
            .partitions(PartitionCount::new(self.partitions).unwrap())
            .timing(self.timing.clone())
            .clock(Arc::clone(&self.clock));
        builder.start(service).await.unwrap()
    }
}

/// Waits until the node sees every partition served, by so many owners.
pub async fn settled(ring: &Ring, owners: usize, limit: Duration) {
    super::eventually::eventually(limit, &format!("all partitions are served by {owners}"), || async {
        let status = ring.status();
        let names: BTreeSet<_> = status.partitions.iter().filter_map(|p| p.owner.clone()).collect();
        let served = status.partitions.iter().all(|p| p.state == nats_ring::node::PartitionState::Serving);
        let balanced = status.partitions.len() / owners;
        let even = names
            .iter()
            .all(|name| status.partitions.iter().filter(|p| p.owner.as_ref() == Some(name)).count() >= balanced);
        if served && names.len() == owners && even && !status.partitions.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "{names:?}, served {served}, {:?}",
                status.members.iter().map(|m| (m.node.clone(), m.state, m.owned)).collect::<Vec<_>>()
            ))
        }
    })
    .await;
}
