//! What nodes say of themselves, in words: copies under way, what suspended nodes do, what partitions wait for. Pure.

use bytesize::ByteSize;

use crate::admin::{SuspendedNode, Told};
use crate::rpc::status::{CopiesUnderWay, CopyStatus, LearnerStatus, Suspended, Waiting, Waits, WaitsFor};
use crate::types::NodeName;

/// So many partitions are named in one line.
const PARTITIONS_NAMED: usize = 8;

/// What partitions have in common that share a line: what they wait for, and whom they lost.
type Same<'a> = (WaitsFor, Vec<&'a NodeName>);

/// `1.2 MB of 4.5 MB, 900.0 kB/s, 4 s left`, as far as it is known.
pub(super) fn progress(learner: &LearnerStatus) -> String {
    let LearnerStatus { copied_bytes, total_bytes, bytes_per_second, remaining_seconds, .. } = *learner;
    match total_bytes {
        None if copied_bytes == 0 => "not begun yet".to_owned(),
        total_bytes => far(copied_bytes, total_bytes, bytes_per_second, remaining_seconds),
    }
}

fn far(copied: u64, total: Option<u64>, per_second: Option<u64>, remaining_seconds: Option<f64>) -> String {
    let mut text = bytes(copied);
    for part in [
        total.map(|total| format!(" of {}", bytes(total))),
        per_second.map(|rate| format!(", {}/s", bytes(rate))),
        remaining_seconds.map(|seconds| format!(", {} left", span(seconds))),
    ] {
        text.push_str(&part.unwrap_or_default());
    }
    text
}

/// `14 under way: 34.1 MB of 80.0 MB, 12.0 MB/s, 4 s left`; nothing where there are none.
pub(super) fn copies_together(copies: &CopiesUnderWay) -> Option<String> {
    let CopiesUnderWay { learners, copied_bytes, total_bytes, bytes_per_second, remaining_seconds, .. } = *copies;
    let rate = Some(bytes_per_second).filter(|rate| *rate > 0);
    let far = || format!(": {}", far(copied_bytes, Some(total_bytes), rate, remaining_seconds));
    (learners > 0).then(|| format!("{learners} under way{}", if total_bytes > 0 { far() } else { String::new() }))
}

/// `17: node-1 -> node-3  1.2 MB of 4.5 MB, …`.
pub(super) fn copy_line(CopyStatus { partition, from, learner }: &CopyStatus) -> String {
    format!("{partition}: {from} -> {}  {}", learner.node, progress(learner))
}

/// The first of these copies, one line each, and how many more there are.
pub(super) fn copy_lines(copies: &CopiesUnderWay, listed_max: usize) -> Vec<String> {
    let listed = copies.listed.iter().take(listed_max).map(copy_line);
    let more = copies.learners.saturating_sub(copies.listed.len().min(listed_max));
    listed.chain((more > 0 && listed_max > 0).then(|| format!("and {more} more"))).collect()
}

/// `serves with its copies, for 21 s more`.
pub(super) fn while_suspended(suspended: Suspended) -> String {
    match suspended.serves_with_copies {
        true => format!("serves what all copies confirm, for {} more", span(suspended.remaining_seconds)),
        false => "serves nothing".to_owned(),
    }
}

/// Who is suspended, and what they do.
pub(super) fn suspended_nodes(nodes: &[SuspendedNode]) -> Option<String> {
    let of = |one: &SuspendedNode| format!("{} ({})", one.node, while_suspended(one.suspended));
    (!nodes.is_empty()).then(|| nodes.iter().map(of).collect::<Vec<_>>().join(", "))
}

/// `every copy is lost (node-1, node-2): it waits 21 s more; it starts empty by itself then; …`.
pub(super) fn waits(waits: &Waits) -> String {
    let lost = names(&waits.lost);
    let until = match (waits.what, waits.remaining_seconds) {
        (WaitsFor::EmptyStart, Some(seconds)) => format!("waits {} more", span(seconds)),
        _ => "waits until the loss is accepted".to_owned(),
    };
    format!("every copy is lost, with {lost}: it {until}; {}", waits.hint)
}

/// The first of the partitions that wait, those that wait for the same together, and how many more there are.
pub(super) fn waiting_lines(told: &Told) -> Vec<String> {
    let mut groups: Vec<(Same<'_>, Vec<&Waiting>)> = Vec::new();
    for one in &told.waiting {
        let mut lost: Vec<&NodeName> = one.waits.lost.iter().collect();
        lost.sort_unstable();
        let same = (one.waits.what, lost);
        match groups.iter_mut().find(|(of, _)| *of == same) {
            Some((_, members)) => members.push(one),
            None => groups.push((same, vec![one])),
        }
    }
    let line = |(_, members): &(_, Vec<&Waiting>)| {
        // Those of one owner begin to wait at one time, those of the same set within moments: the longest is told.
        let remaining = |one: &Waiting| one.waits.remaining_seconds.unwrap_or_default();
        let longest = members.iter().max_by(|a, b| remaining(a).total_cmp(&remaining(b)));
        let text = longest.map(|one| self::waits(&one.waits)).unwrap_or_default();
        let numbers: Vec<String> = members.iter().take(PARTITIONS_NAMED).map(|one| one.partition.to_string()).collect();
        let more = members.len().saturating_sub(PARTITIONS_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let word = if members.len() == 1 { "partition" } else { "partitions" };
        format!("{word} {}{more}: {text}", numbers.join(" "))
    };
    let more = told.waiting_partitions.saturating_sub(told.waiting.len());
    groups.iter().map(line).chain((more > 0).then(|| format!("and {more} partitions more"))).collect()
}

/// Names, between commas.
pub(super) fn names(names: &[NodeName]) -> String {
    names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

fn bytes(count: u64) -> String {
    ByteSize::b(count).display().si().to_string()
}

/// Tenths where they matter.
pub(super) fn span(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::PartitionId;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn copy(partition: u16, copied_bytes: u64, total_bytes: Option<u64>) -> CopyStatus {
        let learner = LearnerStatus {
            node: name("node-3"),
            caught_up: false,
            copied_bytes,
            total_bytes,
            bytes_per_second: total_bytes.map(|_| 900_000),
            remaining_seconds: total_bytes.map(|_| 3.62),
        };
        CopyStatus { partition: PartitionId::new(partition), from: name("node-1"), learner }
    }

    #[test]
    fn copies_are_a_total_and_a_line_each_up_to_so_many() {
        let copies =
            CopiesUnderWay::of([copy(17, 1_200_000, Some(4_500_000)), copy(18, 0, None), copy(19, 0, None)], 64);
        assert_eq!(copies_together(&copies).unwrap(), "3 under way: 1.2 MB of 4.5 MB, 900.0 kB/s, 3.7 s left");
        let first = "17: node-1 -> node-3  1.2 MB of 4.5 MB, 900.0 kB/s, 3.6 s left";
        assert_eq!(copy_lines(&copies, 2), [first, "18: node-1 -> node-3  not begun yet", "and 1 more"]);
        assert_eq!((copies_together(&CopiesUnderWay::default()), copy_lines(&copies, 0)), (None, Vec::new()));
    }

    #[test]
    fn partitions_that_wait_for_the_same_share_a_line_that_says_what_to_do() {
        let waiting = |partition, waits| Waiting { partition: PartitionId::new(partition), waits };
        let lost = || vec![name("a"), name("b")];
        let told = Told {
            waiting_partitions: 6,
            waiting: vec![
                waiting(1, Waits::until_empty_start(lost(), 21.4)),
                waiting(4, Waits::until_empty_start(vec![name("b"), name("a")], 19.0)),
                waiting(2, Waits::until_accepted(lost())),
                waiting(3, Waits::until_accepted(lost())),
            ],
            ..Told::default()
        };
        let lines = waiting_lines(&told);
        assert!(
            lines[0].starts_with("partitions 1 4: every copy is lost, with a, b: it waits 21 s more; it starts empty")
        );
        assert!(
            lines[1].starts_with("partitions 2 3: every copy is lost, with a, b: it waits until the loss is accepted")
        );
        assert!(lines[1].contains("nats-ring on-loss accept"), "{lines:?}");
        assert_eq!(lines[2], "and 2 partitions more");
    }

    #[test]
    fn a_suspended_node_is_told_with_what_it_does() {
        let nodes = [(true, 20.96), (false, 0.0)].map(|(serves_with_copies, remaining_seconds)| SuspendedNode {
            node: name("a"),
            suspended: Suspended { serves_with_copies, remaining_seconds },
        });
        let text = suspended_nodes(&nodes).unwrap();
        assert_eq!(text, "a (serves what all copies confirm, for 21 s more), a (serves nothing)");
        assert_eq!(suspended_nodes(&[]), None);
    }
}
