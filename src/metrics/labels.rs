//! The values that labels may have.

/// How a request ended. Its label is the error code of the answer, or `ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Ok,
    /// Wrong in itself.
    BadRequest,
    /// Over a limit of size.
    TooLarge,
    /// Refused because what it asked of the entry did not hold.
    PreconditionFailed,
    /// Refused because too few copies were in sync.
    NotEnoughReplicas,
    /// Refused because a bound was reached.
    Overloaded,
    /// No owner could be reached.
    Unavailable,
    /// Sent and not answered.
    Unknown,
    /// Any other error of the service.
    Failed,
}

impl Outcome {
    pub(super) const ALL: [Self; 9] = [
        Self::Ok,
        Self::BadRequest,
        Self::TooLarge,
        Self::PreconditionFailed,
        Self::NotEnoughReplicas,
        Self::Overloaded,
        Self::Unavailable,
        Self::Unknown,
        Self::Failed,
    ];

    /// The outcome of a request that ended with this error code.
    pub fn of_error(code: &str) -> Self {
        let known = Self::ALL.into_iter().find(|outcome| outcome.label() == code && *outcome != Self::Ok);
        known.unwrap_or(Self::Failed)
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BadRequest => "bad_request",
            Self::TooLarge => "too_large",
            Self::PreconditionFailed => "precondition_failed",
            Self::NotEnoughReplicas => "not_enough_replicas",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
        }
    }
}

/// A hook of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// `on_own`
    OnOwn,
    /// `on_release`
    OnRelease,
    /// `snapshot`
    Snapshot,
    /// `restore`
    Restore,
}

impl Hook {
    pub(super) const ALL: [Self; 4] = [Self::OnOwn, Self::OnRelease, Self::Snapshot, Self::Restore];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::OnOwn => "on_own",
            Self::OnRelease => "on_release",
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
        }
    }
}

/// How a planned move ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveEnd {
    /// The target owns the partition.
    Done,
    /// The partition stayed where it was.
    Abandoned,
}

impl MoveEnd {
    pub(super) const ALL: [Self; 2] = [Self::Done, Self::Abandoned];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Abandoned => "abandoned",
        }
    }
}
