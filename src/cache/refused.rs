//! Why a request of the cache was not executed, and whether that tells its caller something of what is held.

use crate::service::ServiceError;
use crate::types::Version;

/// Refused: nothing was executed.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) error: ServiceError,
    /// The write that it was judged by, where it was: who is refused has read it.
    pub(super) by: Option<Version>,
}

impl Refused {
    /// Judged by what this write, or the last one of all where there is no entry, has left.
    pub(super) fn by(version: Version) -> impl FnOnce(ServiceError) -> Self {
        move |error| Self { error, by: Some(version) }
    }
}

impl From<ServiceError> for Refused {
    fn from(error: ServiceError) -> Self {
        Self { error, by: None }
    }
}
