//! How many copies of a partition are asked for, and what has to have a write before it is answered.
//!
//! In: what operators and callers say. Out: checked values. Both are per ring; the second also per request.

use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The replication factor: copies of each partition, the owner's included. Never more are kept than there are nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Factor(NonZeroU8);

/// Not a number of copies that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given} copies cannot be asked for: give a number from 1 to {}", Factor::MAX)]
pub struct InvalidFactor {
    given: String,
}

impl Factor {
    /// What is asked for where nothing is said.
    pub const DEFAULT: Self = Self(NonZeroU8::new(3).unwrap());
    /// Most that can be asked for: every write goes to each of them.
    pub const MAX: u8 = 7;

    /// This many copies.
    ///
    /// # Errors
    /// [`InvalidFactor`] outside 1 to [`Factor::MAX`].
    pub fn new(copies: u8) -> Result<Self, InvalidFactor> {
        let within = NonZeroU8::new(copies).filter(|copies| copies.get() <= Self::MAX);
        within.map(Self).ok_or_else(|| InvalidFactor { given: copies.to_string() })
    }

    /// As a count.
    pub fn get(self) -> usize {
        usize::from(self.0.get())
    }
}

impl Default for Factor {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u8> for Factor {
    type Error = InvalidFactor;

    fn try_from(copies: u8) -> Result<Self, Self::Error> {
        Self::new(copies)
    }
}

impl From<Factor> for u8 {
    fn from(factor: Factor) -> Self {
        factor.0.get()
    }
}

impl FromStr for Factor {
    type Err = InvalidFactor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |_| InvalidFactor { given: format!("'{text}'") };
        text.parse::<u8>().map_err(refused).and_then(Self::new)
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What has to have a write before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// The owner; its replicas get it in the background.
    #[default]
    Eventual,
    /// Every in-sync member, and these are a majority of the replication factor.
    Quorum,
    /// Every in-sync member, and these are the whole replication factor.
    Strong,
}

/// Not a level of consistency.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no consistency '{given}': give eventual, quorum or strong")]
pub struct UnknownConsistency {
    given: String,
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

    /// As it is spelled.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eventual => "eventual",
            Self::Quorum => "quorum",
            Self::Strong => "strong",
        }
    }

    /// How many in-sync members it needs at the least, the owner included.
    pub fn members_needed(self, factor: Factor) -> usize {
        match self {
            Self::Eventual => 1,
            Self::Quorum => factor.get() / 2 + 1,
            Self::Strong => factor.get(),
        }
    }
}

impl FromStr for Consistency {
    type Err = UnknownConsistency;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let levels = [Self::Eventual, Self::Quorum, Self::Strong];
        let found = levels.into_iter().find(|level| level.as_str() == text);
        found.ok_or_else(|| UnknownConsistency { given: text.to_owned() })
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What becomes of a partition when every node that held a copy is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLoss {
    /// It starts empty.
    #[default]
    Accept,
    /// It waits for operators to accept the loss.
    Wait,
}

/// Not a way to meet a loss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no '{given}' on loss: give accept or wait")]
pub struct UnknownOnLoss {
    given: String,
}

impl OnLoss {
    /// As it is spelled.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Wait => "wait",
        }
    }
}

impl FromStr for OnLoss {
    type Err = UnknownOnLoss;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = [Self::Accept, Self::Wait].into_iter().find(|choice| choice.as_str() == text);
        found.ok_or_else(|| UnknownOnLoss { given: text.to_owned() })
    }
}

impl fmt::Display for OnLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a ring keeps to with its copies: the ring's, not a node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CopyRules {
    /// Copies of each partition, the owner's included.
    pub replicas: Factor,
    /// What has to have a write before it is answered, where the request does not say.
    pub consistency: Consistency,
    /// What becomes of a partition whose copies are all gone.
    pub on_loss: OnLoss,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_one_to_seven_and_says_so() {
        assert_eq!((1..=7).map(|copies| Factor::new(copies).unwrap().get()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
        for bad in ["0", "8", "255", "256", "-1", "x", ""] {
            let refused = bad.parse::<Factor>().unwrap_err().to_string();
            assert!(refused.contains(bad) && refused.contains("from 1 to 7"), "{refused}");
        }
        assert!(serde_json::from_str::<Factor>("0").unwrap_err().to_string().contains("from 1 to 7"));
        assert_eq!(serde_json::to_string(&Factor::DEFAULT).unwrap(), "3");
    }

    #[test]
    fn a_level_reads_back_as_it_is_spelled_and_counts_against_the_factor() {
        for level in [Consistency::Eventual, Consistency::Quorum, Consistency::Strong] {
            assert_eq!(level.as_str().parse(), Ok(level));
            assert_eq!(serde_json::to_string(&level).unwrap(), format!("\"{level}\""));
        }
        assert!("Strong".parse::<Consistency>().unwrap_err().to_string().contains("'Strong'"));
        let needed = |level: Consistency| [1, 2, 3, 4, 5].map(|f| level.members_needed(Factor::new(f).unwrap()));
        assert_eq!(needed(Consistency::Eventual), [1, 1, 1, 1, 1]);
        assert_eq!(needed(Consistency::Quorum), [1, 2, 2, 3, 3]);
        assert_eq!(needed(Consistency::Strong), [1, 2, 3, 4, 5]);
    }
    #[test]
    fn a_choice_on_loss_reads_back_as_it_is_spelled() {
        for choice in [OnLoss::Accept, OnLoss::Wait] {
            assert_eq!(choice.as_str().parse(), Ok(choice));
            assert_eq!(serde_json::to_string(&choice).unwrap(), format!("\"{choice}\""));
        }
        let refused = "no".parse::<OnLoss>().unwrap_err().to_string();
        assert!(refused.contains("'no'") && refused.contains("accept or wait"), "{refused}");
    }
}
