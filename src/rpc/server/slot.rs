//! What the server does with requests for one partition.

use std::collections::VecDeque;

use super::Job;
use crate::service::Grant;
use crate::types::Epoch;

#[derive(Debug, Default)]
pub(super) enum Mode {
    /// Owned elsewhere, or by nobody known: passed on, or held back until an owner is known.
    #[default]
    Remote,
    /// Held back: on its way in or out, at this epoch.
    Parked(Epoch),
    /// Executed.
    Serving(Grant),
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) mode: Mode,
    pub(super) running: usize,
    pub(super) parked: VecDeque<Job>,
}
