//! A value that many wait for. Those who wait are woken in the order they came, for a simulated run to be the same each time: a
//! `tokio::sync::watch` wakes its receivers in random order.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// The newest of a row of values.
#[derive(Debug, Default)]
pub(super) struct Latest<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Copy + PartialEq> Latest<T> {
    /// Wakes those who wait, where it is another one.
    pub(super) fn set(&self, newest: T) {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *value, newest) != newest {
            drop(value);
            self.changed.notify_waiters();
        }
    }

    fn get(&self) -> T {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first value that is right.
    pub(super) async fn wait_for(&self, is_right: impl Fn(&T) -> bool) -> T {
        loop {
            // Created before the look: no change between the two is missed.
            let changed = self.changed.notified();
            let value = self.get();
            if is_right(&value) {
                return value;
            }
            changed.await;
        }
    }
}
