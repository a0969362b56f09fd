//! The cache as a service of the ring: requests in either form are decoded, executed on the store and answered.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use super::client::EntryInfo;
use super::condition::Condition;
use super::content_type;
use super::item::Item;
use super::keyed;
use super::levels;
use super::limits::{Limits, bad_request, check_key, check_ttl};
use super::native::{self, Answer, Found, Operation, Seen, encode};
use super::once::Named;
use super::plain::{self, IncrementRequest, TouchRequest, check_json};
use super::refused::Refused;
use super::snapshot::{self, SnapshotError};
use super::stats::{CacheStats, add};
use super::store::{NewValue, Store, Stored};
use super::write::Write;
use crate::replica::Change;
use crate::service::{BoxError, Chunks, CopyChunks, Form, Grant, Memory, Release, Request, Service, ServiceError};
use crate::types::{Chance, Clock, Consistency, NodeName, Once, PartitionId, Process, Time, Version};

/// What can be asked of the owner of a key: in its native form, and by plain clients as `<ring>.<operation>`.
pub const OPERATIONS: [&str; 8] = ["get", "set", "delete", "touch", "persist", "inspect", "incr", "get-or-set"];

/// What a cache is made with.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// Bound on what all entries held by this node weigh.
    pub memory_bytes: u64,
    /// Longest accepted value: see [`Limits::within_payload`].
    pub max_value_bytes: usize,
    /// This node, as answers name it.
    pub node: NodeName,
}

/// The distributed cache: one bounded map per partition owned.
pub struct CacheService {
    store: Arc<Store>,
    process: Process,
    limits: Limits,
    node: NodeName,
}

impl fmt::Debug for CacheService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheService").field("node", &self.node).field("stats", &self.stats()).finish()
    }
}

impl CacheService {
    /// An empty cache that owns nothing.
    pub fn new(config: CacheConfig, clock: Arc<dyn Clock>) -> Self {
        Self::within(config, clock, Process::real(), Chance::real())
    }

    /// The same; what takes long is done by this process, and what is random comes from there. For simulation: see
    /// `nats_ring::testing`.
    pub fn within(config: CacheConfig, clock: Arc<dyn Clock>, process: Process, chance: Chance) -> Self {
        let limits = Limits { max_value_bytes: config.max_value_bytes };
        let store = Arc::new(Store::new(config.memory_bytes, clock, chance));
        Self { store, process, limits, node: config.node }
    }

    /// Now, on the cache's clock.
    pub(super) fn now(&self) -> Time {
        self.store.clock().now()
    }

    /// Takes out up to `max_entries` expired entries and says how many; `max_entries` again means there may be more. It
    /// also lets partitions give back memory that they no longer need. To be called at every tick of a timer.
    pub fn sweep(&self, now: Time, max_entries: usize) -> usize {
        self.store.sweep(now, max_entries)
    }

    /// The cache in figures.
    pub fn stats(&self) -> CacheStats {
        self.store.stats()
    }

    /// An entry as it is held here, owned or copied, of whatever is held of its partition: its version and its value. It is no read
    /// of it. For tests that compare copies.
    #[cfg(feature = "testing")]
    pub fn held(&self, partition: PartitionId, key: &[u8]) -> Option<(Version, Bytes)> {
        self.store.held(partition, key)
    }

    /// What is accepted here.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Executes a request in its native form; answers with the version that the answer goes back to.
    fn native(
        &self,
        write: &Write<'_>,
        request: &Request,
        operation: Operation<'_>,
    ) -> Result<(Bytes, Version), Refused> {
        if operation.name() != request.operation {
            let (asked, holds) = (&request.operation, operation.name());
            return Err(bad_request(format!("operation '{asked}' came with a message for '{holds}'")).into());
        }
        operation.condition().check_size()?;
        let Write { grant, key, .. } = *write;
        let (answer, version) = match operation {
            Operation::Get => self.store.get(grant, key, |item, now| {
                let size_hint = item.map_or(0, |item| item.value.len());
                encode(&Answer::Got(item.map(|item| answered(&item, now))), size_hint)
            })?,
            Operation::Set { value, content_type, ttl_ms, condition } => {
                let value = checked(NewValue { bytes: value, content_type, ttl: ttl_of(ttl_ms)? })?;
                let Stored { version, created } = self.set(write, value, &condition)?;
                (encode(&Answer::Stored { version, created }, 0), version)
            }
            Operation::Delete { condition } => {
                let (existed, version) = self.store.delete(write, &condition)?;
                (encode(&Answer::Deleted { existed, version }, 0), version)
            }
            Operation::Touch { ttl_ms, condition } => {
                let ttl = Duration::from_millis(ttl_ms);
                check_ttl(ttl)?;
                let (version, upto) = self.store.set_ttl(write, Some(ttl), &condition)?;
                (encode(&Answer::Changed(version), 0), upto)
            }
            Operation::Persist { condition } => {
                let (version, upto) = self.store.set_ttl(write, None, &condition)?;
                (encode(&Answer::Changed(version), 0), upto)
            }
            Operation::Inspect => self
                .store
                .inspect(grant, key, |item, now| encode(&Answer::Inspected(item.map(|item| seen(&item, now))), 0))?,
            Operation::Increment { by, ttl_ms } => {
                let (value, version) = self.store.increment(write, by, ttl_of(ttl_ms)?)?;
                (encode(&Answer::Incremented { value, version }, 0), version)
            }
            Operation::GetOrSet { value, content_type, ttl_ms } => {
                let value = checked(NewValue { bytes: value, content_type, ttl: ttl_of(ttl_ms)? })?;
                self.limits.check_value(value.bytes)?;
                let (got, version) = self.store.get_or_set(write, value, |item, now| {
                    encode(&Answer::Got(Some(answered(item, now))), item.value.len())
                })?;
                (got.map_or_else(|| encode(&Answer::Stored { version, created: true }, 0), Ok), version)
            }
        };
        Ok((answer?, version))
    }

    /// Executes a request of a plain client; answers with the version that the answer goes back to.
    fn plain(&self, write: &Write<'_>, request: &Request) -> Result<(Bytes, Version), Refused> {
        let (Write { grant, key, .. }, body) = (*write, &request.payload);
        Ok(match request.operation.as_str() {
            "get" => {
                let (answer, version) = self.store.get(grant, key, |item, _| match item {
                    Some(item) => plain::found_stored(item.value, item.content_type, &self.node, item.version),
                    None => plain::not_found(&self.node),
                })?;
                self.limits.check_answer(&answer).map_err(Refused::by(version))?;
                (answer, version)
            }
            "set" => {
                let parsed = plain::parse_set(body, &self.limits)?;
                let value = NewValue { bytes: &parsed.value, content_type: b"", ttl: parsed.ttl };
                let Stored { version, .. } = self.set(write, value, &parsed.condition)?;
                (plain::stored(&self.node, version), version)
            }
            "delete" => {
                let condition = plain::parse_condition("delete", body)?;
                let (existed, version) = self.store.delete(write, &condition)?;
                (plain::deleted(existed, &self.node), version)
            }
            "touch" => {
                let TouchRequest { ttl, condition } = plain::parse_touch(body)?;
                let (version, upto) = self.store.set_ttl(write, Some(ttl), &condition)?;
                (plain::touched(version, &self.node), upto)
            }
            "persist" => {
                let condition = plain::parse_condition("persist", body)?;
                let (version, upto) = self.store.set_ttl(write, None, &condition)?;
                (plain::persisted(version, &self.node), upto)
            }
            "inspect" => {
                let (answer, version) = self.store.inspect(grant, key, |item, now| {
                    let seen = item.map(|item| EntryInfo::of(&seen(&item, now))).transpose()?;
                    let copies = levels::copies(grant);
                    Ok::<_, ServiceError>(plain::inspected(seen.as_ref(), grant.partition, &self.node, &copies))
                })?;
                (answer?, version)
            }
            "incr" => {
                let IncrementRequest { by, ttl } = plain::parse_increment(body)?;
                let (value, version) = self.store.increment(write, by, ttl)?;
                (plain::incremented(value, &self.node, version), version)
            }
            "get-or-set" => {
                let parsed = plain::parse_get_or_set(body, &self.limits)?;
                let value = NewValue { bytes: &parsed.value, content_type: b"", ttl: parsed.ttl };
                let (got, version) = self.store.get_or_set(write, value, |item, _| {
                    let answer = plain::got_or_set_stored(item.value, item.content_type, &self.node, item.version);
                    self.limits.check_answer(&answer).map(|()| answer)
                })?;
                (got.unwrap_or_else(|| plain::set_instead(&parsed.value, &self.node, version)), version)
            }
            other => {
                let known = OPERATIONS.join(", ");
                return Err(bad_request(format!("operation '{other}' is not known; known: {known}")).into());
            }
        })
    }

    /// Executes what enough copies are there for, and answers once they have what the answer goes back to.
    async fn execute(&self, grant: &Grant, request: &Request) -> Result<Bytes, ServiceError> {
        check_key(&request.key)?;
        let (level, executed) = match request.form {
            Form::Native => {
                let (asked, operation) = native::decode_operation(&request.payload)?;
                let named = request.once.map(|once| Named::of(request, once, native::body(&request.payload)));
                let write = Write { grant, key: &request.key, named: named.as_ref() };
                (self.level(&write, asked)?, self.native(&write, request, operation))
            }
            Form::Plain => {
                let asked = plain::parse_consistency(&request.operation, &request.payload)?;
                let once = match request.once {
                    Some(once) => Some(once),
                    None => plain::parse_request_id(&request.operation, &request.key, &request.payload)?
                        .map(|id| Once { id, first_sent: self.now(), again: false }),
                };
                let named = once.map(|once| Named::of(request, once, &request.payload));
                let write = Write { grant, key: &request.key, named: named.as_ref() };
                (self.level(&write, asked)?, self.plain(&write, request))
            }
        };
        match executed {
            Ok((answer, version)) => levels::settle(grant, level, version).await.map(|()| answer),
            Err(Refused { error, by: Some(version) }) => {
                Err(levels::settle_refusal(grant, level, version, error).await)
            }
            Err(Refused { error, by: None }) => Err(error),
        }
    }

    /// The level in force. What was executed before is answered again, however many copies there are now.
    fn level(&self, write: &Write<'_>, asked: Option<Consistency>) -> Result<Consistency, ServiceError> {
        match levels::check(write.grant, asked) {
            Err(_) if self.store.was_executed(write) => Ok(asked.unwrap_or(levels::copies(write.grant).consistency)),
            checked => checked,
        }
    }

    fn set(&self, write: &Write<'_>, value: NewValue<'_>, condition: &Condition) -> Result<Stored, Refused> {
        self.limits.check_value(value.bytes)?;
        self.store.set(write, value, condition)
    }

    /// Entries by the million take a while to free: not on a thread that others wait for.
    async fn drop_partitions(&self, partitions: Vec<PartitionId>) {
        let store = self.store.clone();
        let discard = move || partitions.into_iter().for_each(|id| store.discard(id));
        let done = self.process.run_blocking(discard).await;
        if let Err(error) = done {
            tracing::error!(%error, "discarding partitions of the cache did not end");
        }
    }
}

/// A time to live as it came.
fn ttl_of(ttl_ms: Option<u64>) -> Result<Option<Duration>, ServiceError> {
    let ttl = ttl_ms.map(Duration::from_millis);
    ttl.map_or(Ok(()), check_ttl)?;
    Ok(ttl)
}

/// A value that is what its content type says.
fn checked(value: NewValue<'_>) -> Result<NewValue<'_>, ServiceError> {
    content_type::check_stored(value.content_type)?;
    if content_type::is_json(value.content_type) {
        check_json(value.bytes)?;
    }
    Ok(value)
}

fn answered<'a>(item: &Item<'a>, now: Time) -> Found<'a> {
    let Seen { content_type, version, age_ms, remaining_ttl_ms, .. } = seen(item, now);
    Found { value: item.value, content_type, version, age_ms, remaining_ttl_ms }
}

fn seen<'a>(item: &Item<'a>, now: Time) -> Seen<'a> {
    // Rounded up: an entry that was found has some time left.
    let remaining_ttl_ms = item.remaining(now).map(|left| left.as_nanos().div_ceil(1_000_000) as u64);
    let Item { value, content_type, version, written, .. } = *item;
    let age_ms = written.age(now).as_millis() as u64;
    Seen { bytes: value.len() as u64, content_type, version, age_ms, remaining_ttl_ms }
}

/// `waited` was the age of the chunks at `asked`.
fn restore(
    store: &Store,
    grant: &Grant,
    chunks: &[Bytes],
    (asked, waited): (Time, Duration),
) -> Result<(), SnapshotError> {
    let mut checked = snapshot::check(chunks)?;
    let partition = store.begin_restore(grant);
    if let Some(recalled) = checked.recalled(asked, waited) {
        recalled.into_memory(&mut partition.write().memory);
    }
    checked.for_each(asked, waited, |item| {
        // One that this node has no room for is lost to the memory bound, like any evicted entry.
        if !item.is_expired(asked) && store.put(&partition, &item).is_err() {
            add(&store.counters.evicted, 1);
        }
        Ok(())
    })
}

#[async_trait]
impl Service for CacheService {
    async fn on_own(&self, grants: &[Grant]) -> Result<(), BoxError> {
        for grant in grants {
            self.store.own(grant);
        }
        Ok(())
    }

    /// Handed over, the entries stay until they are discarded: the handoff may be called off. Lost, they go at once, unless there
    /// are copies: then what is here is one of them, until it is cleared or discarded.
    async fn on_release(&self, grants: &[Grant], why: Release) -> Result<(), BoxError> {
        if why == Release::Lost {
            let alone = grants.iter().filter(|grant| grant.log().is_none());
            self.drop_partitions(alone.map(|grant| grant.partition).collect()).await;
        }
        Ok(())
    }

    async fn handle(&self, grant: &Grant, request: Request) -> Result<Bytes, ServiceError> {
        let answer = self.execute(grant, &request).await;
        add(&self.store.counters.failures, u64::from(answer.is_err()));
        answer
    }

    fn operations(&self) -> Vec<&'static str> {
        OPERATIONS.to_vec()
    }

    fn only_reads(&self, operation: &str) -> bool {
        matches!(operation, "get" | "inspect")
    }

    fn plain_key(&self, operation: &str, payload: &[u8]) -> Result<Bytes, ServiceError> {
        plain::parse_key(operation, payload)
    }

    fn keyed_payload(
        &self,
        operation: &str,
        key: &str,
        payload: Bytes,
        headers: &[(String, String)],
    ) -> Result<Bytes, ServiceError> {
        check_key(key.as_bytes())?;
        keyed::body(operation, key, payload, headers, &self.limits)
    }

    async fn snapshot(&self, grant: &Grant, max_bytes: usize) -> Result<Chunks, BoxError> {
        let partition = self.store.owned(grant)?;
        let writer = snapshot::Writer::new(partition, max_bytes, self.store.clock().clone());
        Ok(futures::stream::iter(writer).map(|chunk| chunk.map_err(BoxError::from)).boxed())
    }

    async fn restore(&self, grant: &Grant, chunks: Vec<Bytes>, waited: Duration) -> Result<(), BoxError> {
        let (store, grant) = (self.store.clone(), grant.clone());
        // Read here: on a busy machine it takes a while until such a thread runs, and no entry may live longer for that.
        let asked = store.clock().now();
        Ok(self.process.run_blocking(move || restore(&store, &grant, &chunks, (asked, waited))).await??)
    }

    async fn discard(&self, partition: PartitionId) {
        self.drop_partitions(vec![partition]).await;
    }

    fn replicates(&self) -> bool {
        true
    }

    fn clear(&self, partition: PartitionId) {
        if let Some(former) = self.store.take(partition) {
            let (process, store) = (self.process.clone(), Arc::clone(&self.store));
            // Entries by the million take a while to free.
            self.process.spawn(async move { process.run_blocking(move || store.free(partition, Some(former))).await });
        }
    }

    fn follow(&self, partition: PartitionId) {
        self.store.follow(partition);
    }

    fn copy_changes(&self, partition: PartitionId, changes: &[Change]) -> Result<(), BoxError> {
        Ok(self.store.copy_changes(partition, changes)?)
    }

    fn copy_chunk(&self, partition: PartitionId, chunk: Bytes, age: Duration) -> Result<(), BoxError> {
        Ok(self.store.copy_chunk(partition, &chunk, age)?)
    }

    fn copy_chunks(&self, partition: PartitionId, chunk_bytes: usize) -> Option<CopyChunks> {
        let partition = self.store.partition(partition)?;
        // The largest entry fits: it came in a message.
        let max_bytes = chunk_bytes.max(2 * self.limits.max_value_bytes);
        let writer = snapshot::Writer::new(partition, max_bytes, self.store.clock().clone());
        Some(Box::new(writer.map(|chunk| chunk.map_err(BoxError::from))))
    }

    fn held_bytes(&self, partition: PartitionId) -> Option<u64> {
        self.store.held_bytes(partition)
    }

    fn memory(&self) -> Option<Memory> {
        Some(self.store.memory())
    }
}
