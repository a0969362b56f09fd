//! The version of a write: which of all writes of a partition it is, and so where a copy of the partition stands.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Epoch;

/// Orders all writes of one partition: owners one after the other, each numbering its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version {
    /// The epoch of the owner that executed the write.
    pub epoch: Epoch,
    /// The write's number within the epoch, from 1.
    pub sequence: u64,
}

impl Version {
    /// The version of an owner's first write.
    #[must_use]
    pub const fn first_of(epoch: Epoch) -> Self {
        Self { epoch, sequence: 1 }
    }

    /// The version of the same owner's next write.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { epoch: self.epoch, sequence: self.sequence + 1 }
    }
}

impl fmt::Display for Version {
    /// `<epoch>.<sequence>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

/// A `<epoch>.<sequence>` that is none, as nodes write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version: expected <epoch>.<number>, such as \"4.17\"")]
pub struct VersionError;

impl FromStr for Version {
    type Err = VersionError;

    /// Only as it is displayed: `04.17` and `+4.17` name no version.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let (epoch, sequence) = text.split_once('.').ok_or(VersionError)?;
        let number = |digits: &str| {
            let canonical =
                digits.bytes().all(|b| b.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
            digits.parse().ok().filter(|_| canonical).ok_or(VersionError)
        };
        Ok(Self { epoch: Epoch::new(number(epoch)?), sequence: number(sequence)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_only_as_it_is_written() {
        let version = Version { epoch: Epoch::new(4), sequence: 170 };
        assert_eq!(version.to_string().parse(), Ok(version));
        for bad in ["", "4", "4.", ".1", "04.1", "4.01", "+4.1", "4.-1", "4.1.2", " 4.1", "4.99999999999999999999"] {
            assert_eq!(bad.parse::<Version>(), Err(VersionError), "{bad:?}");
        }
    }
}
