//! Calls the service's hooks: per partition one after the other, in the order they were asked for, whatever the timing
//! of tasks. Outcomes go back to the machine, which watches over their time.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{Shared, join_all};
use tokio::sync::oneshot;

use super::offers::Handed;
use crate::service::{BoxError, Grant, Release, Service};
use crate::types::guard::{self, Guard};
use crate::types::{Clock, PartitionCount, PartitionId};

type Tail = Shared<oneshot::Receiver<()>>;

/// The chain of hook calls of each partition.
pub(super) struct Hooks {
    service: Arc<dyn Service>,
    tails: Mutex<Vec<Option<Tail>>>,
}

impl Hooks {
    /// Nothing was called yet.
    pub(super) fn new(service: Arc<dyn Service>, partitions: PartitionCount) -> Arc<Self> {
        Arc::new(Self { service, tails: Mutex::new(vec![None; usize::from(partitions.get())]) })
    }

    /// The service.
    pub(super) fn service(&self) -> &Arc<dyn Service> {
        &self.service
    }

    /// A place in the chains of these partitions: the answered future runs `work` once all earlier calls for any of
    /// them are done. Dropping it gives the place up.
    pub(super) fn enqueue<T: Send, F: Future<Output = T> + Send>(
        &self,
        partitions: &[PartitionId],
        work: F,
    ) -> impl Future<Output = T> + Send + use<T, F> {
        let (done, tail) = oneshot::channel::<()>();
        let tail = tail.shared();
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier: Vec<Tail> =
            partitions.iter().filter_map(|partition| tails.get_mut(partition.index())?.replace(tail.clone())).collect();
        drop(tails);
        async move {
            // Dropped unfinished counts as done.
            if guard::holds(Guard::HookOrder) {
                join_all(earlier).await;
            }
            let result = work.await;
            let _ = done.send(());
            result
        }
    }

    /// Restores what was handed over, if anything, then calls `on_own`.
    pub(super) async fn own(
        &self,
        grants: Vec<Grant>,
        handed: Vec<(PartitionId, Handed)>,
        clock: &dyn Clock,
    ) -> Result<(), String> {
        for (partition, Handed { chunks, made }) in handed {
            if let Some(grant) = grants.iter().find(|grant| grant.partition == partition) {
                let made = if guard::holds(Guard::TransferAge) { made } else { clock.now() };
                guarded(self.service.restore(grant, chunks, clock.now().since(made))).await?;
            }
        }
        guarded(self.service.on_own(&grants)).await
    }

    /// Calls `on_release`.
    pub(super) async fn release(&self, grants: Vec<Grant>, why: Release) -> Result<(), String> {
        guarded(self.service.on_release(&grants, why)).await
    }
}

/// A panicking hook is one that failed.
async fn guarded(hook: impl Future<Output = Result<(), BoxError>> + Send) -> Result<(), String> {
    caught(hook).await?.map_err(|error| error.to_string())
}

/// What came of it; a panic is an error that says so.
pub(super) async fn caught<T>(work: impl Future<Output = T> + Send) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| panicked(&*panic))
}

/// As [`caught`], for what the service does at once.
pub(super) fn caught_now<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panicked(&*panic))
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    format!("it panicked: {}", panic_text(panic))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use bytes::Bytes;

    struct Nothing;

    #[async_trait]
    impl Service for Nothing {
        async fn on_own(&self, _: &[Grant]) -> Result<(), BoxError> {
            Ok(())
        }
        async fn on_release(&self, _: &[Grant], _: Release) -> Result<(), BoxError> {
            panic!("on purpose")
        }
        async fn handle(&self, _: &Grant, _: crate::service::Request) -> Result<Bytes, crate::service::ServiceError> {
            Ok(Bytes::new())
        }
    }

    #[tokio::test]
    async fn calls_for_one_partition_run_in_the_order_they_were_asked_for() {
        let hooks = Hooks::new(Arc::new(Nothing), PartitionCount::DEFAULT);
        let order = Mutex::new(Vec::new());
        let (one, two) = (PartitionId::new(1), PartitionId::new(2));
        let first = hooks.enqueue(&[one, two], async { order.lock().unwrap().push(1) });
        let second = hooks.enqueue(&[two], async { order.lock().unwrap().push(2) });
        tokio::join!(second, first);
        assert_eq!(*order.lock().unwrap(), [1, 2]);
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_does_not_hold_up_the_next() {
        let hooks = Hooks::new(Arc::new(Nothing), PartitionCount::DEFAULT);
        drop(hooks.enqueue(&[PartitionId::new(1)], std::future::pending::<()>()));
        hooks.enqueue(&[PartitionId::new(1)], async {}).await;
    }

    #[tokio::test]
    async fn a_panicking_hook_is_a_failed_one() {
        let hooks = Hooks::new(Arc::new(Nothing), PartitionCount::DEFAULT);
        let error = hooks.release(Vec::new(), Release::Lost).await.unwrap_err();
        assert!(error.contains("on purpose"), "{error}");
    }
}
