//! While no heartbeat gets through: what was executed is answered once all copies have confirmed that this node owned the
//! partition then.
//!
//! In: an executed request whose grant's gate has closed. Out: that its answer may go, or what its caller is told instead. An
//! answer may go as well where the gate has opened again: nobody has taken anything over then.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Refusal, Server};
use crate::service::{Grant, NotCommitted};
use crate::types::Time;
use crate::types::guard::{self, Guard};

/// How often it is looked whether a heartbeat has got through.
const LOOK_EVERY: Duration = Duration::from_millis(20);

type Confirmation = BoxFuture<'static, Result<(), NotCommitted>>;

fn ask(grant: &Grant) -> Option<Confirmation> {
    let log = grant.log().filter(|_| grant.may_be_confirmed())?;
    Some(log.confirm())
}

/// A question that was asked before the execution: it proves nothing about it.
pub(super) fn asked_too_early(grant: &Grant) -> Option<Confirmation> {
    if guard::holds(Guard::ConfirmAfterExecution) || grant.is_current() {
        return None;
    }
    ask(grant)
}

impl Server {
    /// Waits until what was executed just now may be answered.
    pub(super) async fn confirmed(
        &self,
        grant: &Grant,
        operation: &str,
        early: Option<Confirmation>,
        deadline: Time,
    ) -> Result<(), Refusal> {
        let Some(mut question) = early.or_else(|| ask(grant)) else {
            return Err(self.unconfirmed(operation, "the owner lost its lease while it was executed"));
        };
        let limit = deadline.min(self.parts.clock.now() + self.parts.limits.execution);
        loop {
            let left = limit.since(self.parts.clock.now());
            let answer = tokio::time::timeout(LOOK_EVERY.min(left), &mut question).await;
            if grant.is_current() {
                return Ok(());
            }
            match answer {
                Ok(Ok(())) if grant.may_be_confirmed() => {
                    self.parts.observer.confirmed();
                    return Ok(());
                }
                Ok(_) => return Err(self.unconfirmed(operation, "its copies follow another owner, or are gone")),
                Err(_) if left.is_zero() || !grant.may_be_confirmed() => {
                    return Err(self.unconfirmed(operation, "not all copies have confirmed in time who owns"));
                }
                Err(_) => {}
            }
        }
    }

    /// What changed nothing may be asked for again; of anything else nobody knows what will be left.
    fn unconfirmed(&self, operation: &str, why: &str) -> Refusal {
        let reason = format!("the owner's lease is suspended: {why}");
        match self.parts.service.only_reads(operation) {
            true => Refusal::NotExecuted(reason),
            false => Refusal::Unknown(reason),
        }
    }
}
