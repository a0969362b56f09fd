//! Preconditions: what must hold of an entry for a write to be executed. Judged at the owner, in one step with the write.

use serde::{Deserialize, Serialize};

use super::limits::bad_request;
use crate::service::ServiceError;
use crate::types::Version;

/// Code of a request whose precondition does not hold: nothing was executed.
pub const PRECONDITION_FAILED: &str = "precondition_failed";
/// Most versions a precondition may name.
pub const MAX_VERSIONS: usize = 64;

/// Which entries count as a match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Matching {
    /// Any: there is one at all.
    Any,
    /// One with one of these versions.
    OneOf(Vec<Version>),
}

/// What must hold for a request to be executed: HTTP's `If-Match` and `If-None-Match`. By default nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Condition {
    /// The entry must match.
    pub if_match: Option<Matching>,
    /// The entry must not match.
    pub if_none_match: Option<Matching>,
}

impl Condition {
    /// Nothing needs to hold.
    pub const NONE: Self = Self { if_match: None, if_none_match: None };

    /// The entry has this version: nobody wrote it since it was read.
    pub fn if_version(version: Version) -> Self {
        Self { if_match: Some(Matching::OneOf(vec![version])), if_none_match: None }
    }

    /// There is no entry yet.
    pub fn if_absent() -> Self {
        Self { if_match: None, if_none_match: Some(Matching::Any) }
    }

    /// Whether nothing needs to hold.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Whether it holds for an entry of this version; `None` stands for no entry.
    ///
    /// # Errors
    /// [`PRECONDITION_FAILED`], saying what is there instead.
    pub fn check(&self, current: Option<Version>) -> Result<(), ServiceError> {
        let matches = |matching: &Matching| match (matching, current) {
            (_, None) => false,
            (Matching::Any, Some(_)) => true,
            (Matching::OneOf(versions), Some(current)) => versions.contains(&current),
        };
        if self.if_match.as_ref().is_some_and(|matching| !matches(matching)) {
            return Err(failed(current, "it was asked for another version"));
        }
        if self.if_none_match.as_ref().is_some_and(matches) {
            return Err(failed(current, "it was asked that there is none such"));
        }
        Ok(())
    }

    /// Refuses lists that are too long.
    pub(super) fn check_size(&self) -> Result<(), ServiceError> {
        for matching in [&self.if_match, &self.if_none_match].into_iter().flatten() {
            if let Matching::OneOf(versions) = matching
                && versions.len() > MAX_VERSIONS
            {
                let count = versions.len();
                return Err(bad_request(format!(
                    "{count} versions in a precondition, at most {MAX_VERSIONS} are allowed"
                )));
            }
        }
        Ok(())
    }
}

fn failed(current: Option<Version>, asked: &str) -> ServiceError {
    let is = current
        .map_or("there is no entry with this key".to_owned(), |version| format!("the entry has version {version}"));
    ServiceError::new(PRECONDITION_FAILED, format!("{is}, {asked}; nothing was executed"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    #[test]
    fn a_condition_holds_as_http_has_it() {
        let (one, two) = [1, 2].map(|sequence| Version { epoch: Epoch::new(4), sequence }).into();
        let list = |versions: &[Version]| Some(Matching::OneOf(versions.to_vec()));
        let condition = |if_match, if_none_match| Condition { if_match, if_none_match };
        // For no entry, for one of version `one`, for one of version `two`.
        for (condition, expected) in [
            (Condition::NONE, [true, true, true]),
            (Condition::if_version(one), [false, true, false]),
            (Condition::if_absent(), [true, false, false]),
            (condition(Some(Matching::Any), None), [false, true, true]),
            (condition(list(&[]), None), [false, false, false]),
            (condition(list(&[one, two]), None), [false, true, true]),
            (condition(None, list(&[two])), [true, true, false]),
            (condition(None, list(&[])), [true, true, true]),
            (condition(Some(Matching::Any), list(&[one])), [false, false, true]),
        ] {
            let holds = [None, Some(one), Some(two)].map(|current| condition.check(current).is_ok());
            assert_eq!(holds, expected, "{condition:?}");
        }
        let refused = Condition::if_version(one).check(Some(two)).unwrap_err();
        assert_eq!(refused.code, "precondition_failed");
        assert!(refused.message.contains("version 4.2"), "{refused}");
    }
}
