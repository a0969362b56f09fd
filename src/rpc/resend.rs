//! When a call that was not answered is sent again, and what it comes to in the end: the part of the router that decides.
//!
//! In: what each try came to. Out: how long to wait for the next answer, and the error at the end.

use std::time::Duration;

use super::call::{CallError, Resend};
use crate::service::{REQUEST_ID_REUSED, ServiceError};
use crate::types::{Epoch, Once, PartitionId, RequestId, Time};

/// How long the first sending waits for its answer before there is a second; each waits twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// So many sendings to one owner over one connection: whoever is slow for want of room is not helped by more.
const SENDINGS_MAX: u32 = 4;
/// A refusal for want of copies is tried again for so long: a set that is being mended soon has them.
const REFUSED_FOR: Duration = Duration::from_secs(2);

/// The way an answer would come: another owner, or another connection, is another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) epoch: Epoch,
    /// How often the connection had been made.
    pub(super) connects: u64,
}

/// All sendings of one call.
#[derive(Debug)]
pub(super) struct Sendings {
    id: Option<RequestId>,
    resends: bool,
    reads: bool,
    way: Option<Way>,
    on_way: u32,
    first_sent: Option<Time>,
    /// How many may have been executed, for all that is known.
    open: u32,
    /// Why the last of them has no answer.
    unanswered: Option<String>,
    refused_since: Option<Time>,
}

impl Sendings {
    /// None so far. `draw` makes a name where one is needed.
    pub(super) fn new(resend: Resend, draw: impl FnOnce() -> RequestId) -> Self {
        let id = match resend {
            Resend::Once(id) => Some(id.unwrap_or_else(draw)),
            Resend::Never | Resend::Read => None,
        };
        Self {
            id,
            resends: resend != Resend::Never,
            reads: resend == Resend::Read,
            way: None,
            on_way: 0,
            first_sent: None,
            open: 0,
            unanswered: None,
            refused_since: None,
        }
    }

    /// Whether what is not answered may be sent again.
    pub(super) fn resends(&self) -> bool {
        self.resends
    }

    /// Whether a sending before may have been executed.
    pub(super) fn is_again(&self) -> bool {
        self.unanswered.is_some()
    }

    /// It is sent now: by which name.
    pub(super) fn send(&mut self, now: Time) -> Option<Once> {
        let again = self.is_again();
        let first_sent = match self.first_sent {
            Some(first) if again => first,
            _ => *self.first_sent.insert(now),
        };
        self.id.map(|id| Once { id, first_sent, again })
    }

    /// How long this sending waits for its answer before there is another one; `None`: to the end.
    pub(super) fn wait(&mut self, way: Way) -> Option<Duration> {
        if self.way.replace(way) != Some(way) {
            self.on_way = 0;
        }
        self.on_way += 1;
        (self.resends && self.on_way < SENDINGS_MAX).then(|| FIRST_WAIT * 2u32.pow(self.on_way - 1))
    }

    /// Pause after an answer that it may have been executed.
    pub(super) fn pause(&self) -> Duration {
        FIRST_WAIT * 2u32.pow(self.on_way.clamp(1, SENDINGS_MAX - 1) - 1)
    }

    /// The last sending may have been executed, and nobody says so.
    pub(super) fn unanswered(&mut self, reason: String) {
        self.open += 1;
        self.unanswered = Some(reason);
    }

    /// One of those that may have been executed was surely not.
    pub(super) fn not_executed(&mut self) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.unanswered = None;
        }
    }

    /// Whether this refusal leaves open what the call comes to: an earlier sending may have been executed.
    pub(super) fn doubts(&self, error: &ServiceError) -> bool {
        self.is_again() && !self.reads && error.code != REQUEST_ID_REUSED
    }

    /// Refused for want of copies: whether that is still tried again, at this moment of a call of so much time.
    pub(super) fn waits_for_copies(&mut self, now: Time, timeout: Duration) -> bool {
        let since = *self.refused_since.get_or_insert(now);
        now.since(since) < REFUSED_FOR.min(timeout / 2)
    }

    /// The service's refusal as the end: where an earlier sending may still be on its way, what it comes to is not known.
    pub(super) fn refused(&self, partition: PartitionId, error: ServiceError) -> CallError {
        match &self.unanswered {
            Some(before) if self.doubts(&error) => {
                let reason = format!("{before}; sent again, it was refused ({}): {}", error.code, error.message);
                CallError::Unknown { partition, reason }
            }
            _ => CallError::Service(error),
        }
    }

    /// The end of its time.
    pub(super) fn over(&self, partition: PartitionId, waited: Duration, last: String) -> CallError {
        match &self.unanswered {
            Some(before) if *before == last => CallError::Unknown { partition, reason: last },
            Some(before) => CallError::Unknown { partition, reason: format!("{before}; sent again: {last}") },
            None => CallError::Unavailable { partition, waited, reason: last },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Chance;

    const PARTITION: PartitionId = PartitionId::new(0);

    fn sendings(resend: Resend) -> Sendings {
        Sendings::new(resend, || RequestId::draw(&Chance::seeded(1)))
    }

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn one_owner_is_sent_a_call_four_times_at_most_each_after_twice_the_wait() {
        let way = Way { epoch: Epoch::new(1), connects: 1 };
        let mut writes = sendings(Resend::Once(None));
        let waits: Vec<_> = (0..5).map(|_| writes.wait(way).map(|wait| wait.as_millis())).collect();
        assert_eq!(waits, [Some(250), Some(500), Some(1000), None, None]);
        let next = Way { epoch: Epoch::new(2), ..way };
        assert_eq!(writes.wait(next), Some(FIRST_WAIT), "another owner");
        assert_eq!(writes.wait(Way { connects: 2, ..next }), Some(FIRST_WAIT), "another connection");
        assert_eq!(sendings(Resend::Never).wait(way), None);
        assert_eq!(sendings(Resend::Read).wait(way), Some(FIRST_WAIT));
    }

    #[test]
    fn the_name_stays_and_its_age_counts_from_the_first_sending_that_may_have_been_executed() {
        let mut writes = sendings(Resend::Once(None));
        let refused = writes.send(at(10)).unwrap();
        assert!(!writes.is_again());
        let first = writes.send(at(20)).unwrap();
        assert_eq!((first.id, first.first_sent), (refused.id, at(20)));
        writes.unanswered("silence".to_owned());
        assert!(writes.is_again() && !first.again);
        assert_eq!(writes.send(at(300)), Some(Once { again: true, ..first }));
        assert_eq!(sendings(Resend::Read).send(at(1)), None);
    }

    #[test]
    fn what_may_have_been_executed_ends_as_unknown_whatever_came_last() {
        let refusal = || ServiceError::new("precondition_failed", "another version");
        let mut writes = sendings(Resend::Once(None));
        assert_eq!(writes.refused(PARTITION, refusal()).code(), "precondition_failed");
        assert_eq!(writes.over(PARTITION, FIRST_WAIT, "no owner".to_owned()).code(), "unavailable");
        writes.unanswered("silence".to_owned());
        assert_eq!(writes.refused(PARTITION, refusal()).code(), "unknown");
        assert_eq!(writes.over(PARTITION, FIRST_WAIT, "no owner".to_owned()).code(), "unknown");
        let reused = ServiceError::new(REQUEST_ID_REUSED, "another request");
        assert_eq!(writes.refused(PARTITION, reused).code(), REQUEST_ID_REUSED);
        let mut reads = sendings(Resend::Read);
        reads.unanswered("silence".to_owned());
        assert_eq!(reads.refused(PARTITION, refusal()).code(), "precondition_failed");
    }

    #[test]
    fn a_refusal_stands_once_all_sendings_before_it_were_surely_not_executed() {
        let refusal = || ServiceError::new("precondition_failed", "another version");
        let mut writes = sendings(Resend::Once(None));
        let first = writes.send(at(10)).unwrap();
        for _ in 0..2 {
            writes.unanswered("silence".to_owned());
        }
        writes.not_executed();
        assert!(writes.is_again() && writes.doubts(&refusal()));
        writes.not_executed();
        assert!(!writes.is_again() && !writes.doubts(&refusal()));
        assert_eq!(writes.refused(PARTITION, refusal()).code(), "precondition_failed");
        assert_eq!(writes.over(PARTITION, FIRST_WAIT, "no owner".to_owned()).code(), "unavailable");
        assert_eq!(writes.send(at(900)), Some(Once { first_sent: at(900), ..first }));
    }

    #[test]
    fn a_want_of_copies_is_waited_for_within_half_the_time_and_two_seconds() {
        let mut writes = sendings(Resend::Once(None));
        assert!(writes.waits_for_copies(at(100), Duration::from_secs(3)));
        assert!(writes.waits_for_copies(at(1599), Duration::from_secs(3)));
        assert!(!writes.waits_for_copies(at(1600), Duration::from_secs(3)));
        assert!(!writes.waits_for_copies(at(2100), Duration::from_secs(30)));
    }
}
