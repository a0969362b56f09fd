//! A value that grows, and those who wait for it to. They are woken in the order in which they began to wait: whoever replays a
//! simulated run sees the same one. (A `watch` of tokio wakes in an order drawn at random.)
//!
//! In: what a leader has committed, or was confirmed. Out: requests that waited for it go on.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub(super) struct Growing<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Copy + PartialEq> Growing<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Notify::new() }
    }

    fn value(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all who wait, where it is another one.
    pub(super) fn set(&self, value: T) {
        if std::mem::replace(&mut *self.value(), value) != value {
            self.changed.notify_waiters();
        }
    }

    /// The first value of which that is so, of those seen.
    pub(super) async fn wait_for(&self, is_so: impl Fn(&T) -> bool) -> T {
        loop {
            // Made before it is looked at: a change right after that is not missed.
            let changed = self.changed.notified();
            let value = *self.value();
            if is_so(&value) {
                return value;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waited_first_goes_on_first() {
        for _ in 0..10 {
            let (growing, order) = (Arc::new(Growing::new(0)), Arc::new(Mutex::new(Vec::new())));
            let waiting: Vec<_> = (0..20)
                .map(|n| {
                    let (growing, order) = (Arc::clone(&growing), Arc::clone(&order));
                    tokio::spawn(async move {
                        growing.wait_for(|value| *value >= 2).await;
                        order.lock().unwrap().push(n);
                    })
                })
                .collect();
            for value in [1, 2] {
                tokio::task::yield_now().await;
                growing.set(value);
            }
            futures::future::join_all(waiting).await;
            assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
        }
    }
}
