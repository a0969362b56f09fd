//! What of a node's connections works.

/// State of a node's connections to NATS, or of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Link {
    /// All of it.
    #[default]
    Up,
    /// Nothing the node sends gets out, and neither end knows; what is sent to it arrives.
    Mute,
    /// Nothing gets in, and neither end knows; what it sends gets out.
    Deaf,
    /// Nothing gets through either way, and neither end knows.
    Silent,
    /// The connections are closed, and both ends know.
    Down,
}

impl Link {
    pub(super) fn carries_out(self) -> bool {
        matches!(self, Self::Up | Self::Deaf)
    }

    pub(super) fn carries_in(self) -> bool {
        matches!(self, Self::Up | Self::Mute)
    }

    /// Where both are wrong, as a node's own link and what is wrong with all of NATS.
    pub(super) fn and(self, other: Self) -> Self {
        if self == Self::Down || other == Self::Down {
            return Self::Down;
        }
        match (self.carries_out() && other.carries_out(), self.carries_in() && other.carries_in()) {
            (true, true) => Self::Up,
            (false, true) => Self::Mute,
            (true, false) => Self::Deaf,
            (false, false) => Self::Silent,
        }
    }
}
