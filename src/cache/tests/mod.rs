//! The cache through its service interface, on a clock that moves when told to.

mod client;
mod conditions;
mod copies;
mod eviction;
mod formats;
mod handoff;
mod model;
mod once;
mod operations;
mod update;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::native::{Answer, Operation, decode, encode};
use super::{CacheConfig, CacheService, Condition, Version};
use crate::service::{Form, Gate, Grant, Request, Service, ServiceError, Validity};
use crate::types::{Clock, Epoch, FencingToken, Generation, Incarnation, ManualClock, NodeName, PartitionId};

/// A cache on a clock of its own.
struct Node {
    cache: CacheService,
    clock: Arc<ManualClock>,
}

/// What `get` answered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    value: Vec<u8>,
    version: Version,
    age_ms: u64,
    remaining_ttl_ms: Option<u64>,
}

fn node_with(memory_bytes: u64) -> Node {
    let clock = Arc::new(ManualClock::default());
    let node = NodeName::new("node-1").unwrap();
    let config = CacheConfig { memory_bytes, max_value_bytes: 100_000, node };
    Node { cache: CacheService::new(config, clock.clone()), clock }
}

fn node() -> Node {
    node_with(16 << 20)
}

fn grant(partition: u16, epoch: u64) -> Grant {
    let token = FencingToken {
        ring: Uuid::from_u128(1),
        generation: Generation::new(1),
        epoch: Epoch::new(epoch),
        incarnation: Incarnation { start: 1, id: Uuid::from_u128(2) },
    };
    let gate = Gate::closed(Arc::new(ManualClock::default()));
    Grant::new(PartitionId::new(partition), token, Validity::new(gate))
}

fn version(epoch: u64, sequence: u64) -> Version {
    Version { epoch: Epoch::new(epoch), sequence }
}

fn request(operation: &str, key: &[u8], payload: Bytes, form: Form) -> Request {
    let key = Bytes::copy_from_slice(key);
    Request { operation: operation.to_owned(), key, payload, form, remaining: Duration::from_secs(1), once: None }
}

impl Node {
    async fn own(&self, grant: &Grant) {
        self.cache.on_own(std::slice::from_ref(grant)).await.unwrap();
    }

    fn sweep(&self, max_entries: usize) -> usize {
        self.cache.sweep(self.clock.now(), max_entries)
    }

    async fn native(&self, grant: &Grant, key: &[u8], operation: &Operation<'_>) -> Result<Bytes, ServiceError> {
        let payload = encode(operation, 0).unwrap();
        self.cache.handle(grant, request(operation.name(), key, payload, Form::Native)).await
    }

    async fn plain(&self, grant: &Grant, operation: &str, key: &str, body: &str) -> Result<String, ServiceError> {
        let payload = Bytes::copy_from_slice(body.as_bytes());
        let answer = self.cache.handle(grant, request(operation, key.as_bytes(), payload, Form::Plain)).await?;
        Ok(String::from_utf8(answer.to_vec()).unwrap())
    }

    async fn get(&self, grant: &Grant, key: &[u8]) -> Option<Got> {
        let answer = self.native(grant, key, &Operation::Get).await.unwrap();
        let Answer::Got(found) = decode(&answer).unwrap() else { panic!("not an answer to get") };
        found.map(|found| Got {
            value: found.value.to_vec(),
            version: found.version,
            age_ms: found.age_ms,
            remaining_ttl_ms: found.remaining_ttl_ms,
        })
    }

    async fn set(&self, grant: &Grant, key: &[u8], value: &[u8], ttl_ms: Option<u64>) -> Version {
        self.try_set(grant, key, value, ttl_ms).await.unwrap()
    }

    async fn try_set(
        &self,
        grant: &Grant,
        key: &[u8],
        value: &[u8],
        ttl_ms: Option<u64>,
    ) -> Result<Version, ServiceError> {
        let answer = self.native(grant, key, &set(value, ttl_ms)).await?;
        let Answer::Stored { version, .. } = decode(&answer).unwrap() else { panic!("not an answer to set") };
        Ok(version)
    }

    /// Touches, or persists without a time to live; the version afterwards.
    async fn set_ttl(&self, grant: &Grant, key: &[u8], ttl_ms: Option<u64>) -> Option<Version> {
        let condition = Condition::NONE;
        let operation = match ttl_ms {
            Some(ttl_ms) => Operation::Touch { ttl_ms, condition },
            None => Operation::Persist { condition },
        };
        let answer = self.native(grant, key, &operation).await.unwrap();
        let Answer::Changed(version) = decode(&answer).unwrap() else { panic!("not an answer to touch") };
        version
    }

    async fn delete(&self, grant: &Grant, key: &[u8]) -> (bool, Version) {
        let answer = self.native(grant, key, &DELETE).await.unwrap();
        let Answer::Deleted { existed, version } = decode(&answer).unwrap() else { panic!("not an answer to delete") };
        (existed, version)
    }
}

const DELETE: Operation<'static> = Operation::Delete { condition: Condition::NONE };

/// Sets JSON whatever was there.
fn set(value: &[u8], ttl_ms: Option<u64>) -> Operation<'_> {
    Operation::Set { value, content_type: b"", ttl_ms, condition: Condition::NONE }
}

/// JSON text of this length.
fn text(len: usize) -> Vec<u8> {
    format!("\"{}\"", "v".repeat(len - 2)).into_bytes()
}
