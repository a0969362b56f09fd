//! The service of a simulated node: the real cache, each call of it seen, and hooks that misbehave when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nats_ring::cache::CacheService;
use nats_ring::replica::Change;
use nats_ring::service::{BoxError, Chunks, Grant, Release, Request, Service, ServiceError};
use nats_ring::testing::NodeProcess;
use nats_ring::types::{Clock, PartitionId};

use crate::history::{CopyDone, Hook, ProcessId, Term, What, Witness};
use crate::invariants::Execution;
use crate::schedule::HookTrouble;
use crate::told::Told;

/// How a process's hooks are at the moment.
#[derive(Default)]
pub(crate) struct Mood {
    how: AtomicU8,
    slow_ms: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) hung: AtomicU64,
    pub(crate) slowed: AtomicU64,
    pub(crate) slow_discards: AtomicU64,
}

impl Mood {
    pub(crate) fn set(&self, how: Option<HookTrouble>, slow: Duration) {
        let code = match how {
            None => 0,
            Some(HookTrouble::Fail) => 1,
            Some(HookTrouble::Hang) => 2,
            Some(HookTrouble::Slow) => 3,
        };
        self.slow_ms.store(u64::try_from(slow.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.how.store(code, Ordering::Relaxed);
    }

    async fn suffer(&self) -> Result<(), BoxError> {
        match self.how.load(Ordering::Relaxed) {
            1 => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                Err("fails as told".into())
            }
            2 => {
                self.hung.fetch_add(1, Ordering::Relaxed);
                std::future::pending().await
            }
            3 => {
                self.slowed.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(self.slow_ms.load(Ordering::Relaxed))).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The cache of one process.
pub(crate) struct Recorded {
    pub(crate) process: ProcessId,
    /// The same process, as the ring names it.
    pub(crate) of: NodeProcess,
    /// The node's own.
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cache: Arc<CacheService>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) mood: Arc<Mood>,
    /// Longest execution.
    pub(crate) execution_ms: u64,
    /// Longest time that dropping a partition takes.
    pub(crate) discard_ms: u64,
    /// Where it keeps copies: the most that a chunk of one has.
    pub(crate) chunk_bytes: Option<usize>,
}

/// A call of a hook that runs. Dropped before its end, it was cancelled.
struct Running<'a> {
    of: &'a Recorded,
    hook: Hook,
    places: Vec<(PartitionId, Term)>,
    ok: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let (process, hook, ok) = (self.of.process, self.hook, self.ok);
        for (partition, term) in self.places.iter().copied() {
            self.of.witness.note(Some(process), || What::HookEnded { hook, partition, term, ok });
            let at = self.of.witness.now();
            self.of.witness.ask(|judge| judge.hooks.ended(process, partition, (ok, at)));
        }
    }
}

impl Recorded {
    fn began<'a>(&'a self, hook: Hook, grants: &[Grant]) -> Running<'a> {
        let places: Vec<_> = grants.iter().map(|grant| (grant.partition, Term::from(&grant.token))).collect();
        let ring = grants.first().map(|grant| grant.token.ring);
        for (partition, term) in places.iter().copied() {
            self.witness.note(Some(self.process), || What::HookBegan { hook, partition, term });
            self.witness.judge(|judge, _| {
                match hook {
                    Hook::Own => judge.owned((self.process, &self.of), partition, term)?,
                    Hook::Restore => judge.register.restored(self.process, partition, term),
                    Hook::Release(Release::Lost) => judge.register.dropped(self.process, partition),
                    Hook::Release(Release::Handoff) | Hook::Snapshot | Hook::Discard => {}
                }
                judge.hooks.began((self.process, partition), hook, (ring, term))
            });
        }
        self.may_call(hook, &places);
        Running { of: self, hook, places, ok: false }
    }

    /// An owner's hooks are called only while its node may act.
    fn may_call(&self, hook: Hook, places: &[(PartitionId, Term)]) {
        let (of, local) = (&self.of, self.clock.now());
        let partitions: Vec<PartitionId> = places.iter().map(|(partition, _)| *partition).collect();
        self.witness.judge(|judge, at| {
            let waited = judge.hooks.have_waited(self.process, &partitions, at) || judge.leases.stopped_at(of) == at;
            let owners = !matches!(hook, Hook::Release(Release::Lost) | Hook::Snapshot | Hook::Discard);
            if owners && !waited { judge.gates.calls(of, local, hook) } else { Ok(()) }
        });
    }
}

impl Recorded {
    /// Something is done to a copy.
    fn copy(&self, partition: PartitionId, done: CopyDone) {
        self.witness.note(Some(self.process), || What::Copy { partition, done });
        self.witness.ask(|judge| judge.copies.iter_mut().for_each(|copies| copies.did(done)));
    }

    /// No grant comes with it: what is dropped is nobody's.
    fn began_discard(&self, partition: PartitionId) -> Running<'_> {
        let (hook, term) = (Hook::Discard, Term::default());
        self.witness.note(Some(self.process), || What::HookBegan { hook, partition, term });
        self.witness.judge(|judge, _| judge.hooks.began((self.process, partition), hook, (None, term)));
        Running { of: self, hook, places: vec![(partition, term)], ok: false }
    }
}

#[async_trait]
impl Service for Recorded {
    async fn on_own(&self, grants: &[Grant]) -> Result<(), BoxError> {
        let mut running = self.began(Hook::Own, grants);
        for grant in grants {
            self.witness.judge(|judge, _| judge.grants.given(self.process, grant));
        }
        self.mood.suffer().await?;
        self.cache.on_own(grants).await?;
        running.ok = true;
        Ok(())
    }

    async fn on_release(&self, grants: &[Grant], why: Release) -> Result<(), BoxError> {
        let mut running = self.began(Hook::Release(why), grants);
        let suffered = self.mood.suffer().await;
        self.cache.on_release(grants, why).await?;
        running.ok = true;
        suffered
    }

    async fn handle(&self, grant: &Grant, request: Request) -> Result<Bytes, ServiceError> {
        let (process, partition, term) = (self.process, grant.partition, Term::from(&grant.token));
        self.witness.note(Some(process), || What::Executed { partition, term });
        let local = self.clock.now();
        let named = request.once.map(|once| once.id);
        let execution = Execution { process, of: &self.of, partition, token: &grant.token, local, request: named };
        self.witness.judge(|judge, at| judge.executed(&execution, at));
        let (key, deletes) = (request.key.clone(), request.operation == "delete");
        let seen = Told { grant: grant.clone(), process, witness: Arc::clone(&self.witness), key, deletes }.seen();
        let takes = request.key.first().map_or(0, |byte| u64::from(*byte)) % (self.execution_ms + 1);
        let answer = self.cache.handle(&seen, request).await;
        if takes > 0 {
            tokio::time::sleep(Duration::from_millis(takes)).await;
        }
        answer
    }

    fn operations(&self) -> Vec<&'static str> {
        self.cache.operations()
    }

    fn plain_key(&self, operation: &str, payload: &[u8]) -> Result<Bytes, ServiceError> {
        self.cache.plain_key(operation, payload)
    }

    fn keyed_payload(
        &self,
        operation: &str,
        key: &str,
        payload: Bytes,
        headers: &[(String, String)],
    ) -> Result<Bytes, ServiceError> {
        self.cache.keyed_payload(operation, key, payload, headers)
    }

    async fn snapshot(&self, grant: &Grant, max_bytes: usize) -> Result<Chunks, BoxError> {
        if let Some(chunk_bytes) = self.chunk_bytes {
            return self.cache.snapshot(grant, max_bytes.min(chunk_bytes)).await;
        }
        let mut running = self.began(Hook::Snapshot, std::slice::from_ref(grant));
        let chunks = self.cache.snapshot(grant, max_bytes).await;
        running.ok = chunks.is_ok();
        chunks
    }

    async fn restore(&self, grant: &Grant, chunks: Vec<Bytes>, waited: Duration) -> Result<(), BoxError> {
        let mut running = self.began(Hook::Restore, std::slice::from_ref(grant));
        let restored = self.cache.restore(grant, chunks, waited).await;
        running.ok = restored.is_ok();
        restored
    }

    async fn discard(&self, partition: PartitionId) {
        self.witness.ask(|judge| judge.register.dropped(self.process, partition));
        let mut running = self.began_discard(partition);
        let takes = u64::from(partition.get()) * 7 % (self.discard_ms + 1);
        if takes > 0 {
            self.mood.slow_discards.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(takes)).await;
        }
        self.cache.discard(partition).await;
        running.ok = true;
    }

    fn replicates(&self) -> bool {
        self.chunk_bytes.is_some()
    }

    fn clear(&self, partition: PartitionId) {
        self.copy(partition, CopyDone::Cleared);
        self.cache.clear(partition);
    }

    fn follow(&self, partition: PartitionId) {
        self.copy(partition, CopyDone::Follows);
        self.cache.follow(partition);
    }

    fn copy_changes(&self, partition: PartitionId, changes: &[Change]) -> Result<(), BoxError> {
        if let Some(last) = changes.last() {
            self.copy(partition, CopyDone::Changes(last.version));
        }
        self.cache.copy_changes(partition, changes)
    }

    fn copy_chunk(&self, partition: PartitionId, chunk: Bytes, age: Duration) -> Result<(), BoxError> {
        self.copy(partition, CopyDone::Chunk(chunk.len()));
        self.cache.copy_chunk(partition, chunk, age)
    }
}
