//! What a node says of itself where the ring's records do not: copies it makes, what it does while suspended, what partitions
//! wait for.
//!
//! In: what the node sees at that moment. Out: JSON, the same words in every answer: of HTTP, of `<ring>.stats` and
//! `<ring>.ring`, and of `<ring>.node.<node>.<incarnation>.status`, which operators ask of each node. Times are spans from now.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{NodeName, PartitionId};

/// So many copies, and so many partitions that wait, are listed one by one.
pub const LISTED_MAX: usize = 64;

/// A node that is brought up to date.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearnerStatus {
    /// Which.
    pub node: NodeName,
    /// Whether it has everything, and waits to be counted in.
    pub caught_up: bool,
    /// Bytes of the copy made for it so far; zero where it needs none.
    pub copied_bytes: u64,
    /// Of about how many; `None` where no copy was begun, or its service does not say.
    pub total_bytes: Option<u64>,
    /// How fast that went; `None` where it cannot be told.
    pub bytes_per_second: Option<u64>,
    /// What is left, at that rate; `None` where it cannot be told.
    pub remaining_seconds: Option<f64>,
}

/// What a node does whose lease ran out without anybody having evicted it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Suspended {
    /// Whether it answers for partitions that have copies, with what all of these confirm.
    pub serves_with_copies: bool,
    /// For how much longer, without a further heartbeat; 0 where it does not.
    pub remaining_seconds: f64,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// That a set which may merely be cut off can go on no more: then the partition starts empty, by itself.
    EmptyStart,
    /// That operators accept the loss; for ever.
    Acceptance,
}

/// Why a partition of which every copy is lost has no owner yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waits {
    /// For what.
    #[serde(rename = "for")]
    pub what: WaitsFor,
    /// Who had the copies.
    pub lost: Vec<NodeName>,
    /// For how much longer; `None`: until it is told otherwise.
    pub remaining_seconds: Option<f64>,
    /// What an operator can do.
    pub hint: String,
}

impl Waits {
    /// Until it starts empty, in so many seconds.
    pub fn until_empty_start(lost: Vec<NodeName>, remaining_seconds: f64) -> Self {
        let hint = "it starts empty by itself then; 'nats-ring on-loss wait' keeps it from that".to_owned();
        Self { what: WaitsFor::EmptyStart, lost, remaining_seconds: Some(remaining_seconds), hint }
    }

    /// Until operators accept the loss.
    pub fn until_accepted(lost: Vec<NodeName>) -> Self {
        let hint = "'nats-ring on-loss accept' lets it start empty; what it held is lost".to_owned();
        Self { what: WaitsFor::Acceptance, lost, remaining_seconds: None, hint }
    }
}

/// A partition that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which.
    pub partition: PartitionId,
    /// For what.
    #[serde(flatten)]
    pub waits: Waits,
}

/// A copy that an owner makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// Of which partition.
    pub partition: PartitionId,
    /// Its owner.
    pub from: NodeName,
    /// Whom it is made for, and how far it is.
    #[serde(flatten)]
    pub learner: LearnerStatus,
}

/// Copies under way, counted together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CopiesUnderWay {
    /// How many: nodes that are brought up to date on a partition, and have not caught up.
    pub learners: usize,
    /// Bytes of them so far.
    pub copied_bytes: u64,
    /// Of about how many, of those that were begun.
    pub total_bytes: u64,
    /// How fast, all together.
    pub bytes_per_second: u64,
    /// What is left of those that were begun, at that rate; `None` where it cannot be told.
    pub remaining_seconds: Option<f64>,
    /// The first of them, those that were begun before those that wait their turn.
    pub listed: Vec<CopyStatus>,
}

impl CopiesUnderWay {
    /// All of these that have not caught up; so many are listed.
    pub fn of(copies: impl IntoIterator<Item = CopyStatus>, listed_max: usize) -> Self {
        let mut listed: Vec<CopyStatus> = copies.into_iter().filter(|copy| !copy.learner.caught_up).collect();
        let mut all = Self { learners: listed.len(), ..Self::default() };
        for CopyStatus { learner, .. } in &listed {
            all.copied_bytes += learner.copied_bytes;
            all.total_bytes += learner.total_bytes.unwrap_or(learner.copied_bytes);
            all.bytes_per_second += learner.bytes_per_second.unwrap_or(0);
        }
        listed.sort_by_key(|copy| (copy.learner.bytes_per_second.is_none(), copy.partition));
        listed.truncate(listed_max);
        all.listed = listed;
        all.estimated()
    }

    /// Those of several nodes together.
    pub fn together(several: impl IntoIterator<Item = Self>, listed_max: usize) -> Self {
        let mut all = Self::default();
        for one in several {
            all.learners += one.learners;
            all.copied_bytes += one.copied_bytes;
            all.total_bytes += one.total_bytes;
            all.bytes_per_second += one.bytes_per_second;
            all.listed.extend(one.listed);
        }
        all.listed.sort_by_key(|copy| (copy.learner.bytes_per_second.is_none(), copy.partition));
        all.listed.truncate(listed_max);
        all.estimated()
    }

    fn estimated(mut self) -> Self {
        let left = self.total_bytes.saturating_sub(self.copied_bytes);
        self.remaining_seconds =
            (self.bytes_per_second > 0).then(|| tenths(left as f64 / self.bytes_per_second as f64));
        self
    }
}

/// Seconds, to a tenth.
fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

/// What a node answers an operator who asks how it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// Who answers.
    pub node: NodeName,
    /// Its start.
    pub start: u64,
    /// `joining`, `active`, `suspended`, `draining`, `left`.
    pub phase: String,
    /// Why it is not ready; `None` when it is.
    pub not_ready: Option<String>,
    /// What it does while it is suspended; `None` where it is not.
    pub suspended: Option<Suspended>,
    /// Copies that it makes for others.
    pub copies_under_way: CopiesUnderWay,
    /// How many partitions wait, as it sees the ring.
    pub waiting_partitions: usize,
    /// The first of them.
    pub waiting: Vec<Waiting>,
}

impl StatusAnswer {
    /// As an answer's payload.
    pub fn encode(&self) -> Bytes {
        // Plain data: serialising it cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// From an answer's payload.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(payload: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(payload).map_err(|error| format!("its answer cannot be read: {error}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn copy(partition: u16, copied_bytes: u64, total_bytes: Option<u64>, rate: Option<u64>) -> CopyStatus {
        let node = NodeName::new("b").unwrap();
        let learner = LearnerStatus {
            node,
            caught_up: copied_bytes == 7,
            copied_bytes,
            total_bytes,
            bytes_per_second: rate,
            remaining_seconds: None,
        };
        CopyStatus { partition: PartitionId::new(partition), from: NodeName::new("a").unwrap(), learner }
    }

    #[test]
    fn copies_count_together_until_they_have_caught_up_and_the_running_ones_are_listed_first() {
        let copies = [copy(1, 0, None, None), copy(2, 7, Some(7), Some(9)), copy(3, 50, Some(250), Some(40))];
        let all = CopiesUnderWay::of(copies, 1);
        assert_eq!((all.learners, all.copied_bytes, all.total_bytes, all.bytes_per_second), (2, 50, 250, 40));
        assert_eq!(all.remaining_seconds, Some(5.0));
        assert_eq!(all.listed.iter().map(|copy| copy.partition.get()).collect::<Vec<_>>(), [3]);
        let twice = CopiesUnderWay::together([all.clone(), all], 8);
        assert_eq!((twice.learners, twice.copied_bytes, twice.remaining_seconds), (4, 100, Some(5.0)));
        assert_eq!(CopiesUnderWay::of([copy(1, 0, None, None)], 8).remaining_seconds, None);
    }

    #[test]
    fn an_answer_reads_back_also_with_what_a_later_release_adds() {
        let answer = StatusAnswer {
            node: NodeName::new("a").unwrap(),
            start: 2,
            phase: "suspended".to_owned(),
            not_ready: None,
            suspended: Some(Suspended { serves_with_copies: true, remaining_seconds: 20.5 }),
            copies_under_way: CopiesUnderWay::of([copy(3, 50, Some(250), Some(40))], 8),
            waiting_partitions: 1,
            waiting: vec![Waiting {
                partition: PartitionId::new(4),
                waits: Waits::until_accepted(vec![NodeName::new("c").unwrap()]),
            }],
        };
        let mut json: serde_json::Value = serde_json::from_slice(&answer.encode()).unwrap();
        assert_eq!(json["waiting"][0]["for"], "acceptance", "{json}");
        assert_eq!(json["copies_under_way"]["listed"][0]["node"], "b", "{json}");
        json["colour"] = "red".into();
        assert_eq!(StatusAnswer::decode(json.to_string().as_bytes()), Ok(answer));
        assert!(StatusAnswer::decode(b"hello").unwrap_err().contains("cannot be read"));
    }
}
