//! What the tasks of one node run under, so that a test can freeze or kill a node as the operating system would a process.
//!
//! In: tasks to be started. Out: started tasks. In the product it starts them and does nothing else; a
//! [`Process::simulated`] one also stands between each task and whoever polls it.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::task::{JoinError, JoinHandle};
use tokio_util::task::TaskTracker;

/// Starts a node's tasks. Clones are the same process.
#[derive(Debug, Clone, Default)]
pub struct Process {
    switch: Option<Arc<Switch>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Runs,
    Frozen,
    Dead,
}

#[derive(Debug, Default)]
struct Switch {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    /// The main loop alone stands still.
    wedged: bool,
    /// Every task not ended, in the order they were started, and whom to wake when the mode changes.
    tasks: BTreeMap<u64, Waker>,
    last: u64,
}

impl Process {
    /// The process this program runs in: tasks are started, nothing more.
    pub fn real() -> Self {
        Self::default()
    }

    /// One that can be frozen and killed.
    pub fn simulated() -> Self {
        Self { switch: Some(Arc::default()) }
    }

    /// Starts a task; answers `None` where it was killed before its end.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<Option<T>> {
        match &self.switch {
            None => tokio::spawn(async move { Some(work.await) }),
            // Boxed: a future is moved several times on its way into a task, and once more as it ends.
            Some(switch) => tokio::spawn(seated(Seat::new(switch), Box::pin(work))),
        }
    }

    /// Starts the task that all else depends on: the one that [`Process::set_wedged`] stops.
    pub fn spawn_main<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        match &self.switch {
            None => self.spawn(work),
            Some(switch) => tokio::spawn(seated(Seat::of_main(switch), Box::pin(work))),
        }
    }

    /// Runs work that takes a thread's time, beside whatever else runs; where the process is simulated, right here, so
    /// that it takes no simulated time and comes in the same order each time.
    ///
    /// # Errors
    /// Where it panicked, or the runtime ends.
    pub async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match &self.switch {
            None => tokio::task::spawn_blocking(work).await,
            Some(_) => Ok(work()),
        }
    }

    /// Starts a task that `tracker` keeps count of.
    pub fn spawn_on(&self, tracker: &TaskTracker, work: impl Future<Output = ()> + Send + 'static) {
        match &self.switch {
            None => drop(tracker.spawn(work)),
            Some(switch) => drop(tracker.spawn(seated(Seat::new(switch), Box::pin(work)))),
        }
    }

    /// From now on no task gets on, as under SIGSTOP. The real process takes no notice.
    pub fn freeze(&self) {
        self.set(Mode::Frozen);
    }

    /// Ends [`Process::freeze`].
    pub fn thaw(&self) {
        self.set(Mode::Runs);
    }

    /// Stops the main loop alone, or lets it go on. The real process takes no notice.
    pub fn set_wedged(&self, wedged: bool) {
        let Some(switch) = &self.switch else { return };
        switch.state().wedged = wedged;
        switch.wake_all();
    }

    /// Ends all tasks where they stand, and every later one before it begins, as SIGKILL does. The real process takes no
    /// notice.
    pub fn kill(&self) {
        self.set(Mode::Dead);
    }

    /// How many tasks have not ended; zero for the real process, which does not count them.
    pub fn tasks(&self) -> usize {
        self.switch.as_ref().map_or(0, |switch| switch.state().tasks.len())
    }

    fn set(&self, mode: Mode) {
        let Some(switch) = &self.switch else { return };
        let mut state = switch.state();
        if state.mode == Mode::Dead {
            return;
        }
        state.mode = mode;
        drop(state);
        switch.wake_all();
    }
}

impl Switch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        let wakers: Vec<Waker> = self.state().tasks.values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A task's place among those of its process, until it ends.
struct Seat {
    switch: Arc<Switch>,
    number: u64,
    main: bool,
    /// As it is known to the process.
    waker: Option<Waker>,
}

impl Seat {
    fn new(switch: &Arc<Switch>) -> Self {
        let mut state = switch.state();
        state.last += 1;
        let number = state.last;
        state.tasks.insert(number, Waker::noop().clone());
        Self { switch: Arc::clone(switch), number, main: false, waker: None }
    }

    fn of_main(switch: &Arc<Switch>) -> Self {
        let mut seat = Self::new(switch);
        seat.main = true;
        seat
    }

    fn look(&mut self, context: &Context<'_>) -> Mode {
        let mut state = self.switch.state();
        // A task is polled with one and the same waker as long as it lives.
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
            state.tasks.insert(self.number, context.waker().clone());
        }
        if self.main && state.wedged && state.mode == Mode::Runs { Mode::Frozen } else { state.mode }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.switch.state().tasks.remove(&self.number);
    }
}

/// The work is dropped before the seat: a process without tasks holds nothing any more.
async fn seated<T>(mut seat: Seat, mut work: Pin<Box<impl Future<Output = T>>>) -> Option<T> {
    poll_fn(|context| match seat.look(context) {
        Mode::Runs => work.as_mut().poll(context).map(Some),
        Mode::Frozen => Poll::Pending,
        Mode::Dead => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn counting(process: &Process) -> (Arc<AtomicU64>, JoinHandle<Option<()>>) {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let task = process.spawn(async move {
            loop {
                tokio::task::yield_now().await;
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        (count, task)
    }

    async fn turns(count: &AtomicU64) -> u64 {
        let before = count.load(Ordering::SeqCst);
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        count.load(Ordering::SeqCst) - before
    }

    #[tokio::test]
    async fn a_frozen_process_stands_still_and_goes_on_where_it_stood() {
        let process = Process::simulated();
        let (count, _task) = counting(&process);
        assert!(turns(&count).await > 0);
        process.freeze();
        turns(&count).await;
        assert_eq!(turns(&count).await, 0);
        process.thaw();
        assert!(turns(&count).await > 0);
    }

    #[tokio::test]
    async fn a_killed_process_ends_its_tasks_even_frozen_ones_and_starts_none() {
        let process = Process::simulated();
        let (count, task) = counting(&process);
        turns(&count).await;
        process.freeze();
        process.kill();
        process.thaw();
        assert_eq!(task.await.unwrap(), None);
        assert_eq!(process.spawn(async {}).await.unwrap(), None);
        assert_eq!(process.tasks(), 0);
    }

    #[tokio::test]
    async fn the_real_process_starts_tasks_and_takes_no_notice_of_the_rest() {
        let process = Process::real();
        process.kill();
        assert_eq!(process.spawn(async { 7 }).await.unwrap(), Some(7));
    }
}
