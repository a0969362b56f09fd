//! A write on its way into a partition: whose it is, whether it was executed before, and what becomes of it once it is.

use bytes::Bytes;

use super::change::Effect;
use super::once::{Executed, Named, Outcome, Remembered};
use super::partition::Held;
use crate::replica::Change;
use crate::service::{Grant, ServiceError};
use crate::types::{Time, Version};

/// Who writes, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write<'a> {
    pub(super) grant: &'a Grant,
    pub(super) key: &'a [u8],
    /// Where it may come more than once.
    pub(super) named: Option<&'a Named>,
}

/// See [`Write::change`].
pub(super) struct Changed {
    executed: Option<Executed>,
    body: Option<Bytes>,
}

impl Write<'_> {
    /// What it came to, where it was executed before.
    pub(super) fn executed_before(&self, held: &Held) -> Result<Option<(Version, Outcome)>, ServiceError> {
        self.named.map_or(Ok(None), |named| held.memory.recall(named))
    }

    /// Whether it is remembered though it changes nothing: an earlier sending may be on its way still. Of a user's name nobody says whether
    /// there is one.
    pub(super) fn is_remembered_anyway(&self) -> bool {
        self.named.is_some_and(|named| named.once.again || !named.once.id.is_drawn())
    }

    /// It was executed and changed nothing of the entry, of this version if there is one. Where that is remembered, it has a number,
    /// which its answer goes back to.
    pub(super) fn changed_nothing(&self, held: &mut Held, at: Time, entry: Option<Version>) -> Option<Version> {
        if !self.is_remembered_anyway() {
            return None;
        }
        let version = held.next_version(self.grant.epoch());
        self.done(held, version, at, Outcome::Nothing { entry }, &Effect::NOTHING);
        Some(version)
    }

    /// A write that was done: see [`Write::changed`].
    pub(super) fn done(&self, held: &mut Held, version: Version, at: Time, outcome: Outcome, effect: &Effect<'_>) {
        self.changed(held, version, at, self.change(outcome, effect));
    }

    /// What is remembered of a write, and sent to the copies, where there are any.
    pub(super) fn change(&self, outcome: Outcome, effect: &Effect<'_>) -> Changed {
        let executed = self.named.map(|named| Executed { id: named.once.id, asks: named.asks, outcome });
        Changed { executed, body: self.grant.log().map(|_| effect.encode(executed)) }
    }

    /// Numbers a write that was done, remembers it by its name, and sends it on its way to the copies, in the order of the
    /// writes: under their lock.
    pub(super) fn changed(&self, held: &mut Held, version: Version, at: Time, Changed { executed, body }: Changed) {
        held.wrote(version);
        if let Some(executed) = executed {
            held.memory.expire(at);
            held.memory.remember(Remembered { version, at, executed });
        }
        if let (Some(log), Some(body)) = (self.grant.log(), body) {
            log.append(Change { version, made: at, body });
        }
    }
}
