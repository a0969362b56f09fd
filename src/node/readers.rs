//! The subscriptions that plain clients reach this node by, and letting go of them without losing a message.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::entrance::{Entrance, Reader, send_nops};
use crate::connect::SUBSCRIPTION_CAPACITY;
use crate::rpc::{BusError, subject};
use crate::types::{PartitionId, Process, RingName};

/// How long letting go of everything may take altogether.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(5);
/// Counting messages sent at once for a subject, and the pause after them: a longer one each time, so that a link which takes
/// long is not flooded meanwhile.
const NOPS_A_ROUND: u64 = 128;
const NOP_PAUSE: Duration = Duration::from_millis(1);
const NOP_PAUSE_MAX: Duration = Duration::from_millis(32);
/// Rounds for one partition's subject, whose subscription may have many members.
const NOP_ROUNDS_MAX: usize = 64;
/// How long a partition's former owner reads its subject before it helps the count along.
const PARTITION_GRACE: Duration = Duration::from_secs(2);
/// Pause before a subject is subscribed to again after that failed.
const SUBSCRIBE_RETRY: Duration = Duration::from_millis(200);

/// Subscriptions in queue groups.
pub(super) struct Readers {
    entrance: Arc<Entrance>,
    plain: Mutex<Vec<Reader>>,
    partitions: Mutex<BTreeMap<PartitionId, Reader>>,
    /// How many subscriptions of each subject are still read, those let go of included.
    open: Mutex<BTreeMap<String, usize>>,
    tracker: TaskTracker,
    process: Process,
    stop: CancellationToken,
}

/// Counts a subscription until its reader ends.
struct Counted {
    readers: Arc<Readers>,
    subject: String,
}

impl Counted {
    fn new(readers: &Arc<Readers>, subject: &str) -> Self {
        *locked(&readers.open).entry(subject.to_owned()).or_default() += 1;
        Self { readers: Arc::clone(readers), subject: subject.to_owned() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = locked(&self.readers.open);
        if let Some(count) = open.get_mut(&self.subject) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.subject);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Readers {
    /// None yet.
    pub(super) fn new(entrance: Arc<Entrance>, process: Process) -> Arc<Self> {
        Arc::new(Self {
            entrance,
            plain: Mutex::default(),
            partitions: Mutex::default(),
            open: Mutex::default(),
            tracker: TaskTracker::new(),
            process,
            stop: CancellationToken::new(),
        })
    }

    /// Listens on the ring's plain subjects: one for each operation of the service, one for each query, and one for all
    /// requests that have their key in the subject.
    pub(super) fn open_plain(self: &Arc<Self>, ring: &RingName) {
        let entrance = &self.entrance;
        let operations = entrance.operations.iter().chain(&entrance.query_names);
        let entries = operations.map(|operation| subject::entry(ring, operation));
        for subject in entries.chain([subject::keyed(ring)]) {
            let reader = Reader::default();
            locked(&self.plain).push(reader.clone());
            let (readers, counted) = (Arc::clone(self), Counted::new(self, &subject));
            self.spawn(async move {
                while let Err(error) = readers.read(&subject, reader.clone()).await {
                    tracing::warn!(subject, %error, "cannot listen for plain clients; trying again");
                    tokio::time::sleep(SUBSCRIBE_RETRY).await;
                }
                drop(counted);
            });
        }
    }

    fn spawn(self: &Arc<Self>, reader: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.process.spawn_on(&self.tracker, async move {
            stop.run_until_cancelled(reader).await;
        });
    }

    async fn read(&self, subject: &str, reader: Reader) -> Result<(), BusError> {
        let messages = self.entrance.bus.subscribe(subject, Some(subject::QUEUE), SUBSCRIPTION_CAPACITY).await?;
        Arc::clone(&self.entrance).read_plain(messages, reader).await;
        Ok(())
    }

    /// Listens on a partition's subject, unless it does. On return the subscription was sent to the server: a later
    /// acknowledgement on the same connection proves it.
    pub(super) async fn open_partition(
        self: &Arc<Self>,
        ring: &RingName,
        partition: PartitionId,
    ) -> Result<(), BusError> {
        let reader = Reader::default();
        {
            let mut partitions = locked(&self.partitions);
            if partitions.contains_key(&partition) {
                return Ok(());
            }
            partitions.insert(partition, reader.clone());
        }
        let subject = subject::partition(ring, partition);
        match self.entrance.bus.subscribe(&subject, Some(subject::QUEUE), SUBSCRIPTION_CAPACITY).await {
            Ok(messages) => {
                let entrance = Arc::clone(&self.entrance);
                let counted = Counted::new(self, &subject);
                self.spawn(async move {
                    entrance.read_plain(messages, reader).await;
                    drop(counted);
                });
                Ok(())
            }
            Err(error) => {
                locked(&self.partitions).remove(&partition);
                Err(error)
            }
        }
    }

    /// Lets go of a partition's subject: it is read, and passed on, until enough more messages have come. After a while
    /// in which the new owner's subscription is known to all, counting messages help along, so that none stays for ever.
    pub(super) fn close_partition(self: &Arc<Self>, ring: &RingName, partition: PartitionId) {
        let Some(reader) = locked(&self.partitions).remove(&partition) else { return };
        reader.let_go();
        let (readers, subject) = (Arc::clone(self), subject::partition(ring, partition));
        self.spawn(async move {
            tokio::time::sleep(PARTITION_GRACE).await;
            let mut pause = NOP_PAUSE;
            // This node's newer subscription of the same subject, where there is one, gets its share.
            for _ in 0..NOP_ROUNDS_MAX {
                let mine = usize::from(locked(&readers.partitions).contains_key(&partition));
                if locked(&readers.open).get(&subject).is_none_or(|count| *count <= mine) {
                    return;
                }
                readers.count_along(std::slice::from_ref(&subject), &mut pause).await;
            }
        });
    }

    async fn count_along(&self, subjects: &[String], pause: &mut Duration) {
        for subject in subjects {
            // What they ask for does not matter: they are known by their header.
            send_nops(&*self.entrance.bus, &subject::any_of(subject), NOPS_A_ROUND).await;
        }
        // Also where nothing can be sent: others must get their turn.
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(NOP_PAUSE_MAX);
    }

    /// Lets go of everything, helping the count along with messages that only count.
    pub(super) async fn let_go(&self) {
        locked(&self.plain).drain(..).for_each(|reader| reader.let_go());
        std::mem::take(&mut *locked(&self.partitions)).into_values().for_each(|reader| reader.let_go());
        let counting = async {
            let mut pause = NOP_PAUSE;
            loop {
                let subjects: Vec<String> = locked(&self.open).keys().cloned().collect();
                if subjects.is_empty() || !self.entrance.bus.is_connected() {
                    return;
                }
                self.count_along(&subjects, &mut pause).await;
            }
        };
        if tokio::time::timeout(LET_GO_TIMEOUT, counting).await.is_err() {
            tracing::warn!("subscriptions not let go of in time: requests in flight may be lost");
        }
    }

    /// Ends whatever is still read.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(LET_GO_TIMEOUT, self.tracker.wait()).await;
    }
}
