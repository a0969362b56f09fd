//! How many copies must have a write before it counts as done.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an answer promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// The owner has it; the copies follow in the background. Fails with the owner, if that fails within moments.
    #[default]
    Eventual,
    /// Every copy in sync has it, and these are more than half of the copies asked for: it survives as long as one of
    /// them does.
    Quorum,
    /// Every copy asked for has it.
    Strong,
}

impl Consistency {
    /// All levels, the weakest first.
    pub const ALL: [Self; 3] = [Self::Eventual, Self::Quorum, Self::Strong];

    /// How many copies in sync it takes, the owner's included, where `factor` are asked for.
    pub const fn copies_needed(self, factor: usize) -> usize {
        match self {
            Self::Eventual => 1,
            Self::Quorum => factor / 2 + 1,
            Self::Strong => factor,
        }
    }

    /// As requests name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eventual => "eventual",
            Self::Quorum => "quorum",
            Self::Strong => "strong",
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A level that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("consistency '{given}' is not known; known: eventual, quorum, strong")]
pub struct UnknownConsistency {
    /// The text that was refused, cut to a printable length.
    pub given: String,
}

impl FromStr for Consistency {
    type Err = UnknownConsistency;

    fn from_str(text: &str) -> Result<Self, UnknownConsistency> {
        let found = Self::ALL.into_iter().find(|level| level.name() == text);
        found.ok_or_else(|| UnknownConsistency { given: text.escape_debug().take(32).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_more_than_half_of_the_copies_asked_for_and_strong_is_all_of_them() {
        let needed = |level: Consistency| [1, 2, 3, 4, 5].map(|factor| level.copies_needed(factor));
        assert_eq!(needed(Consistency::Eventual), [1, 1, 1, 1, 1]);
        assert_eq!(needed(Consistency::Quorum), [1, 2, 2, 3, 3]);
        assert_eq!(needed(Consistency::Strong), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_level_is_read_as_it_is_written_and_others_are_refused_with_the_known_ones() {
        for level in Consistency::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        for bad in ["", "Quorum", "all", "quorum "] {
            assert!(bad.parse::<Consistency>().is_err_and(|error| error.to_string().contains("strong")), "{bad}");
        }
    }
}
