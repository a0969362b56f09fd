//! Background work by partition: the jobs of a partition run where it is owned, one after the other, each of them once,
//! while nodes come and go.
//!
//! NATS first (`nats-server -js`), then:
//! ```sh
//! cargo run --example sharded_worker
//! ```
//! The NATS server is the first argument, else `NATS_URL`, else `nats://localhost:4222`.
//!
//! A partition that is handed over takes its waiting jobs along: `on_release` lets the running job end, `snapshot` and
//! `restore` carry the rest, `on_own` goes on. After a crash, what waited at that node would be gone: keep jobs that must
//! survive that in a store, and let it compare the token (`examples/external_store.rs`).
#![allow(clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use nats_ring::{
    BoxError, Bytes, Chunks, ConnectOptions, Connections, Epoch, Grant, NodeBuilder, NodeName, PartitionCount,
    PartitionId, Release, Request, Ring, RingName, Service, ServiceError, async_trait,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a job takes.
const JOB: Duration = Duration::from_millis(25);
const JOBS: usize = 600;
const QUEUE_MAX: usize = 1000;
const LIMIT: Duration = Duration::from_secs(60);

/// Who ran a job.
#[derive(Clone, PartialEq, Eq)]
struct Run {
    node: NodeName,
    partition: PartitionId,
    epoch: Epoch,
}

/// What the jobs do to the world: here, an entry each.
#[derive(Default)]
struct Ledger {
    runs: Mutex<BTreeMap<String, Vec<Run>>>,
    changed: Notify,
}

/// The waiting jobs of a partition.
#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<String>>,
    more: Notify,
}

struct Worker {
    node: NodeName,
    ledger: Arc<Ledger>,
    queues: Mutex<HashMap<PartitionId, Arc<Queue>>>,
    running: Mutex<HashMap<PartitionId, (CancellationToken, JoinHandle<()>)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    fn enter(&self, job: String, run: Run) {
        locked(&self.runs).entry(job).or_default().push(run);
        self.changed.notify_one();
    }

    async fn until_done(&self, jobs: usize) {
        while locked(&self.runs).len() < jobs {
            self.changed.notified().await;
        }
    }
}

impl Worker {
    fn queue(&self, partition: PartitionId) -> Arc<Queue> {
        Arc::clone(locked(&self.queues).entry(partition).or_default())
    }

    /// Runs the partition's jobs until it is stopped, which it is between two of them.
    async fn work(node: NodeName, ledger: Arc<Ledger>, queue: Arc<Queue>, grant: Grant, stop: CancellationToken) {
        loop {
            let more = queue.more.notified();
            let job = if stop.is_cancelled() { None } else { locked(&queue.jobs).pop_front() };
            match job {
                Some(job) => {
                    tokio::time::sleep(JOB).await;
                    if !grant.is_current() {
                        return; // Lost: another node may own it by now.
                    }
                    ledger.enter(job, Run { node: node.clone(), partition: grant.partition, epoch: grant.epoch() });
                }
                None => tokio::select! {
                    () = more => {}
                    () = stop.cancelled() => return,
                },
            }
        }
    }
}

#[async_trait]
impl Service for Worker {
    async fn on_own(&self, grants: &[Grant]) -> Result<(), BoxError> {
        for grant in grants {
            let (stop, queue) = (CancellationToken::new(), self.queue(grant.partition));
            let work = Self::work(self.node.clone(), Arc::clone(&self.ledger), queue, grant.clone(), stop.clone());
            locked(&self.running).insert(grant.partition, (stop, tokio::spawn(work)));
        }
        Ok(())
    }

    /// On return nothing runs for these partitions any more.
    async fn on_release(&self, grants: &[Grant], _: Release) -> Result<(), BoxError> {
        let ending: Vec<_> = grants.iter().filter_map(|grant| locked(&self.running).remove(&grant.partition)).collect();
        ending.iter().for_each(|(stop, _)| stop.cancel());
        for (_, task) in ending {
            task.await?;
        }
        Ok(())
    }

    async fn handle(&self, grant: &Grant, request: Request) -> Result<Bytes, ServiceError> {
        let queue = self.queue(grant.partition);
        let mut jobs = locked(&queue.jobs);
        if jobs.len() >= QUEUE_MAX {
            return Err(ServiceError::new("overloaded", format!("{QUEUE_MAX} jobs are waiting already")));
        }
        jobs.push_back(String::from_utf8_lossy(&request.payload).into_owned());
        queue.more.notify_one();
        Ok(Bytes::from_static(b"queued"))
    }

    async fn snapshot(&self, grant: &Grant, _: usize) -> Result<Chunks, BoxError> {
        let waiting = serde_json::to_vec(&*locked(&self.queue(grant.partition).jobs))?;
        Ok(futures::stream::iter([Ok(Bytes::from(waiting))]).boxed())
    }

    async fn restore(&self, grant: &Grant, chunks: Vec<Bytes>, _: Duration) -> Result<(), BoxError> {
        let waiting = chunks.first().map_or(Ok(VecDeque::new()), |chunk| serde_json::from_slice(chunk))?;
        *locked(&self.queue(grant.partition).jobs) = waiting;
        Ok(())
    }

    async fn discard(&self, partition: PartitionId) {
        locked(&self.queues).remove(&partition);
    }
}

async fn start(nats: &Connections, name: &str, ledger: &Arc<Ledger>) -> Result<Ring, BoxError> {
    let node = NodeName::new(name)?;
    let (queues, running) = (Mutex::default(), Mutex::default());
    let worker = Worker { node: node.clone(), ledger: Arc::clone(ledger), queues, running };
    let builder = NodeBuilder::new(nats, RingName::new("sharded-worker")?, node);
    let builder = builder.partitions(PartitionCount::new(16).ok_or("16 partitions are allowed")?);
    let ring = builder.start(Arc::new(worker)).await?;
    ring.ready().await?;
    println!("{name} takes part");
    Ok(ring)
}

async fn submit(ring: &Ring, jobs: std::ops::Range<usize>) -> Result<(), BoxError> {
    for number in jobs {
        ring.call(format!("order-{number}"), "submit", format!("job-{number}")).await?;
    }
    Ok(())
}

/// Each job once, and all that ran of a partition in one epoch at one node.
fn check(ledger: &Ledger) -> Result<String, BoxError> {
    let runs = locked(&ledger.runs);
    let mut owners: HashMap<(PartitionId, Epoch), NodeName> = HashMap::new();
    let mut shares: BTreeMap<NodeName, usize> = BTreeMap::new();
    for (job, runs) in runs.iter() {
        let [run] = runs.as_slice() else { return Err(format!("{job} ran {} times", runs.len()).into()) };
        *shares.entry(run.node.clone()).or_default() += 1;
        let owner = owners.entry((run.partition, run.epoch)).or_insert_with(|| run.node.clone());
        if *owner != run.node {
            return Err(format!("partition {} ran at {owner} and {} in one epoch", run.partition, run.node).into());
        }
    }
    Ok(shares.iter().map(|(node, share)| format!("{node} ran {share}")).collect::<Vec<_>>().join(", "))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let nats = std::env::args().nth(1).or_else(|| std::env::var("NATS_URL").ok());
    let nats = ConnectOptions::new([nats.unwrap_or_else(|| "nats://localhost:4222".to_owned())]);
    let nats = Connections::open(&nats).await?;
    let ledger = Arc::new(Ledger::default());
    let one = start(&nats, "node-1", &ledger).await?;
    submit(&one, 0..JOBS / 2).await?;

    // Both come and go while jobs wait and run.
    let two = start(&nats, "node-2", &ledger).await?;
    submit(&two, JOBS / 2..JOBS).await?;
    one.shutdown().await?;
    println!("node-1 has left");

    let done = tokio::time::timeout(LIMIT, ledger.until_done(JOBS)).await;
    done.map_err(|_| format!("only {} of {JOBS} jobs ran", locked(&ledger.runs).len()))?;
    two.shutdown().await?;
    println!("{JOBS} jobs, each once: {}", check(&ledger)?);
    Ok(())
}
