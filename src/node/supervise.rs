//! Keeps background tasks running: a task that ends or panics is started again with exponential backoff; past a limit
//! of restarts within a window the node leaves cleanly.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ring::{Event, Input};
use crate::types::{Clock, Process, Time};

/// More restarts than this within [`WINDOW`] and the node leaves.
pub(super) const MAX_RESTARTS: usize = 3;
/// See [`MAX_RESTARTS`].
pub(super) const WINDOW: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// Starts tasks and keeps them.
#[derive(Clone)]
pub(super) struct Supervisor {
    tracker: TaskTracker,
    process: Process,
    stop: CancellationToken,
    clock: Arc<dyn Clock>,
    inputs: mpsc::Sender<Input>,
    events: super::events::EventSender,
}

impl Supervisor {
    /// A supervisor whose tasks end when `stop` is cancelled.
    pub(super) fn new(
        process: Process,
        stop: CancellationToken,
        clock: Arc<dyn Clock>,
        inputs: mpsc::Sender<Input>,
        events: super::events::EventSender,
    ) -> Self {
        Self { tracker: TaskTracker::new(), process, stop, clock, inputs, events }
    }

    /// Keeps the task that `start` makes running. It is meant to run until the end; its `Err` or return says why not.
    pub(super) fn keep<F, Fut>(&self, name: &'static str, start: F)
    where
        F: Fn() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.keep_until(CancellationToken::new(), name, start);
    }

    /// As [`Supervisor::keep`], for what is over before the others: once `ended` is cancelled, nothing of it is left.
    pub(super) fn keep_until<F, Fut>(&self, ended: CancellationToken, name: &'static str, start: F)
    where
        F: Fn() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let supervisor = self.clone();
        self.process.spawn_on(&self.tracker, async move {
            let stop = supervisor.stop.clone();
            stop.run_until_cancelled(ended.run_until_cancelled(supervisor.run(name, start))).await;
        });
    }

    /// A task that ends by itself; ended with the others where it does not.
    pub(super) fn once(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.process.spawn_on(&self.tracker, async move {
            stop.run_until_cancelled(task).await;
        });
    }

    async fn run<F, Fut>(self, name: &'static str, start: F)
    where
        F: Fn() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let mut restarts: VecDeque<Time> = VecDeque::new();
        loop {
            let reason = match AssertUnwindSafe(start()).catch_unwind().await {
                Ok(Ok(())) => "it ended".to_owned(),
                Ok(Err(reason)) => reason,
                Err(_) => "it panicked".to_owned(),
            };
            let now = self.clock.now();
            restarts.push_back(now);
            restarts.retain(|at| now.since(*at) < WINDOW);
            if restarts.len() > MAX_RESTARTS {
                let reason = format!("task '{name}' failed {} times within {WINDOW:?}, last: {reason}", restarts.len());
                let _ = self.inputs.send(Input::GiveUp(reason)).await;
                return;
            }
            let count = u32::try_from(restarts.len()).unwrap_or(u32::MAX);
            self.events.emit(Event::TaskRestarted { task: name, reason, restarts: count });
            tokio::time::sleep(FIRST_BACKOFF * 2u32.pow(count)).await;
        }
    }

    /// Ends all tasks and waits for them, at most so long.
    pub(super) async fn close(self, at_most: Duration) {
        self.stop.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(at_most, self.tracker.wait()).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{ManualClock, NodeName};

    fn supervisor() -> (Supervisor, mpsc::Receiver<Input>, Arc<ManualClock>) {
        let (inputs, receiver) = mpsc::channel(8);
        let clock = Arc::new(ManualClock::default());
        let events = super::super::events::EventSender::new(NodeName::new("n").unwrap());
        (Supervisor::new(Process::real(), CancellationToken::new(), clock.clone(), inputs, events), receiver, clock)
    }

    #[tokio::test]
    async fn a_task_is_started_again_three_times_and_its_fourth_failure_makes_the_node_leave() {
        let (supervisor, mut inputs, _) = supervisor();
        let mut events = supervisor.events.subscribe();
        supervisor.keep("broken", || async { panic!("on purpose") });
        let input = tokio::time::timeout(Duration::from_secs(10), inputs.recv()).await.unwrap().unwrap();
        assert!(matches!(&input, Input::GiveUp(reason) if reason.contains("'broken'")), "{input:?}");
        let mut restarts = Vec::new();
        while let Ok(event) = events.try_recv() {
            let Event::TaskRestarted { task: "broken", restarts: count, .. } = *event else { panic!("{event:?}") };
            restarts.push(count);
        }
        assert_eq!(restarts, [1, 2, 3]);
        supervisor.close(Duration::from_secs(1)).await;
    }

    #[tokio::test]
    async fn of_a_task_whose_work_is_over_nothing_is_left_while_the_others_go_on() {
        let (supervisor, mut inputs, _) = supervisor();
        let ended = CancellationToken::new();
        supervisor.keep_until(ended.clone(), "superseded", std::future::pending);
        supervisor.keep("other", std::future::pending);
        assert_eq!(supervisor.tracker.len(), 2);
        ended.cancel();
        let one_left = async {
            while supervisor.tracker.len() > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), one_left).await.unwrap();
        assert!(inputs.try_recv().is_err());
        supervisor.close(Duration::from_secs(1)).await;
    }

    #[tokio::test]
    async fn failures_that_are_a_minute_apart_never_make_the_node_leave() {
        let (supervisor, mut inputs, clock) = supervisor();
        let (ran, mut runs) = mpsc::channel(1);
        supervisor.keep("rare", move || {
            let (ran, clock) = (ran.clone(), clock.clone());
            async move {
                clock.advance(WINDOW);
                ran.send(()).await.map_err(|error| error.to_string())
            }
        });
        for _ in 0..6 {
            tokio::time::timeout(Duration::from_secs(5), runs.recv()).await.unwrap().unwrap();
        }
        assert!(inputs.try_recv().is_err());
        supervisor.close(Duration::from_secs(1)).await;
    }
}
