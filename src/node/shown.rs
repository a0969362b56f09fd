//! What the handle of a node looks at: the machine itself, shared with the loop that drives it. A report is made when
//! somebody asks for one, not at each turn of the loop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::copies::Copies;
use crate::ring::{Machine, Report};

/// The machine of one incarnation; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Driven(Arc<Mutex<Machine>>);

impl Driven {
    pub(super) fn new(machine: Machine) -> Self {
        Self(Arc::new(Mutex::new(machine)))
    }

    /// Held for one step, or for one report: neither waits for anything.
    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The incarnation there is, or was last; none before the first.
#[derive(Clone, Default)]
pub(super) struct Shown {
    pub(super) driven: Option<Driven>,
    /// Once it has its lease.
    pub(super) copies: Option<Arc<Copies>>,
}

impl Shown {
    pub(super) fn report(&self) -> Report {
        self.driven.as_ref().map(|driven| driven.machine().report()).unwrap_or_default()
    }
}
