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

impl Slot {
    /// Where the call waits already, under an earlier sending: one place is enough. Only of a drawn name is that the same caller.
    pub(super) fn sent_before(&mut self, job: &Job) -> Option<&mut Job> {
        let again = job.request.once.filter(|once| once.again && once.id.is_drawn())?;
        self.parked.iter_mut().find(|parked| parked.request.once.is_some_and(|once| once.id == again.id))
    }
}
