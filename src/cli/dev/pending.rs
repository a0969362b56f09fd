//! Commands whose answers wait for what was asked to come about. Pure.

use serde_json::Value;

use super::command;
use super::control::COMMAND_LIMIT;
use super::member::{Member, State};
use crate::types::Time;

/// One of them.
pub(super) struct Pending {
    pub(super) reply: Option<String>,
    pub(super) node: String,
    /// The process it is about, or the first that may be.
    pub(super) life: u64,
    pub(super) until: Until,
    pub(super) since: Time,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    Now,
    Ready,
    Ended,
}

impl Pending {
    /// The answer, once there is one: it came about, it will not any more, or it took too long.
    pub(super) fn outcome(&self, members: &[Member], now: Time) -> Option<Value> {
        let name = &self.node;
        let member = members.iter().find(|member| member.name == *name)?;
        let waited = now.since(self.since);
        let done = |text: String| Some(command::done(name, &text, waited.as_secs_f64()));
        let how = member.state.detail().unwrap_or_default();
        match (self.until, &member.state) {
            // Thawed a moment ago; what it is now it says itself.
            (Until::Now, State::Silent) => done(format!("{name} goes on")),
            (Until::Now, state) => done(format!("{name} is {}", state.word())),
            (Until::Ready, State::Ready) if member.life >= self.life => {
                let address = member.address.map(|address| format!(" on http://{address}")).unwrap_or_default();
                done(format!("{name} is ready{address}"))
            }
            (Until::Ready, State::Ended(_)) if member.life >= self.life && !member.again => {
                Some(command::failed("internal", &format!("{name} ended: {how}")))
            }
            (Until::Ended, State::Ended(_)) => done(format!("{name} ended ({how})")),
            (Until::Ended, _) if member.life > self.life => done(format!("{name} ended and runs again")),
            _ if waited > COMMAND_LIMIT => {
                let text =
                    format!("{name} is {} after {waited:.0?}: see {}", member.state.word(), member.log.display());
                Some(command::failed("timeout", &text))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pending(until: Until, life: u64) -> Pending {
        Pending { reply: None, node: "node-1".to_owned(), life, until, since: Time::ZERO }
    }

    fn member(life: u64, state: State) -> [Member; 1] {
        let mut member = Member::new("node-1".to_owned(), "a".to_owned(), 0, "node-1.log".into());
        (member.life, member.state) = (life, state);
        [member]
    }

    fn message(answer: &Value) -> &str {
        answer["message"].as_str().unwrap()
    }

    #[test]
    fn a_restart_is_done_by_the_next_process_not_by_the_one_that_still_serves() {
        let restart = pending(Until::Ready, 2);
        assert_eq!(restart.outcome(&member(1, State::Ready), Time::ZERO), None);
        assert_eq!(restart.outcome(&member(1, State::Ended("exit code 0".into())), Time::ZERO), None);
        let answer = restart.outcome(&member(2, State::Ready), Time::ZERO).unwrap();
        assert_eq!(message(&answer), "node-1 is ready");
        let answer = restart.outcome(&member(2, State::Ended("exit code 5: taken".into())), Time::ZERO).unwrap();
        assert_eq!(command::error_of(&answer), Some(("internal", "node-1 ended: exit code 5: taken")));
    }

    #[test]
    fn what_takes_too_long_is_answered_with_how_things_stand() {
        let stop = pending(Until::Ended, 1);
        let limit = Time::ZERO + COMMAND_LIMIT;
        assert_eq!(stop.outcome(&member(1, State::Draining), limit), None);
        let late = Time::from_nanos(limit.as_nanos() + 1);
        let answer = stop.outcome(&member(1, State::Draining), late).unwrap();
        let (code, text) = command::error_of(&answer).unwrap();
        assert!(code == "timeout" && text.contains("draining") && text.contains("node-1.log"), "{text}");
        let ended = stop.outcome(&member(1, State::Ended("exit code 0".into())), late).unwrap();
        assert_eq!(message(&ended), "node-1 ended (exit code 0)");
    }
}
