//! The hooks of a process: they alternate, never overlap per partition, and come in the order of epochs.

use std::collections::HashMap;
use std::time::Duration;

use nats_ring::service::Release;
use nats_ring::types::PartitionId;
use uuid::Uuid;

use super::{Held, ensure};
use crate::history::{Hook, ProcessId, Term};

const ALTERNATE: &str = "hooks alternate, in epoch order";
const OVERLAP: &str = "hooks never overlap per partition";
const SERVED: &str = "only what was owned is served";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Calls {
    #[default]
    None,
    Owned {
        term: Term,
        ok: bool,
    },
    Released {
        term: Term,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    calls: Calls,
    /// The ring's number, by which terms are compared: a bucket made anew by who knew none before is another ring.
    ring: Option<Uuid>,
    running: Option<Hook>,
    /// When the last call ended.
    ended: Option<Duration>,
}

/// How the calls stand, for each process and partition.
#[derive(Default)]
pub(crate) struct Hooks {
    places: HashMap<(ProcessId, PartitionId), Place>,
}

impl Hooks {
    /// A hook is called.
    pub(crate) fn began(
        &mut self,
        (process, partition): (ProcessId, PartitionId),
        hook: Hook,
        (ring, term): (Option<Uuid>, Term),
    ) -> Held {
        let place = self.places.entry((process, partition)).or_default();
        // What was released in another ring counts no more, nor what failed to be owned there and was given back without a
        // call; what is owned there must still be released.
        if ring.is_some() && place.ring != ring && !matches!(place.calls, Calls::Owned { ok: true, .. }) {
            (place.ring, place.calls) = (ring, Calls::None);
        }
        let how = |place: &Place| format!("partition {partition}: {hook:?} at {term} after {place:?}");
        ensure(place.running.is_none(), OVERLAP, || how(place))?;
        ensure(alternates(place.calls, hook, term), ALTERNATE, || how(place))?;
        match hook {
            Hook::Own => place.calls = Calls::Owned { term, ok: false },
            Hook::Release(_) => place.calls = Calls::Released { term },
            Hook::Snapshot | Hook::Restore | Hook::Discard => {}
        }
        place.running = Some(hook);
        Ok(())
    }

    /// It answered, or was cancelled.
    pub(crate) fn ended(&mut self, process: ProcessId, partition: PartitionId, (success, at): (bool, Duration)) {
        let place = self.places.entry((process, partition)).or_default();
        if let (Some(Hook::Own), Calls::Owned { ok, .. }) = (place.running, &mut place.calls) {
            *ok = success;
        }
        (place.running, place.ended) = (None, Some(at));
    }

    /// Whether a call that begins now has waited for an earlier one, for any of these.
    pub(crate) fn have_waited(&self, process: ProcessId, partitions: &[PartitionId], at: Duration) -> bool {
        let ended = |partition: &PartitionId| self.places.get(&(process, *partition)).and_then(|place| place.ended);
        partitions.iter().any(|partition| ended(partition) == Some(at))
    }

    /// Executions begin only under the epoch that was owned, after `on_own` and before `on_release`.
    pub(crate) fn served(&self, process: ProcessId, partition: PartitionId, term: Term) -> Held {
        let place = self.places.get(&(process, partition)).copied().unwrap_or_default();
        let owned = place.calls == Calls::Owned { term, ok: true } && place.running.is_none();
        ensure(owned, SERVED, || format!("partition {partition}: executes at {term} after {place:?}"))
    }
}

fn alternates(calls: Calls, hook: Hook, term: Term) -> bool {
    match (hook, calls) {
        (Hook::Own | Hook::Restore, Calls::None) => true,
        (Hook::Own | Hook::Restore, Calls::Released { term: last }) => term > last,
        // What failed may be tried again.
        (Hook::Own | Hook::Restore, Calls::Owned { term: last, ok }) => !ok && term >= last,
        (Hook::Release(Release::Handoff), Calls::Owned { term: last, ok }) => ok && last == term,
        (Hook::Release(Release::Lost), Calls::Owned { term: last, .. }) => last == term,
        (Hook::Snapshot, Calls::Released { term: last }) => last == term,
        (Hook::Discard, _) => true,
        _ => false,
    }
}
