//! What is shown of a ring that was made up: of one where everything is the matter, and of its parts.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use super::super::output::tests::Written;
use super::*;
use crate::admin::{PartitionOverview, PartitionStanding};
use crate::types::{Consistency, Epoch, Generation, PartitionCount, PartitionId, RingName};

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn node(text: &str, state: NodeState, owned: usize, planned: usize) -> NodeOverview {
    NodeOverview {
        node: name(text),
        state,
        draining: false,
        cordoned: text == "b",
        coordinator: text == "a",
        owned,
        planned,
        copies: owned,
        zone: Some(format!("zone-{text}")),
        weight: Some(1),
        version: Some("0.1.0".to_owned()),
        http: None,
        start: 1,
        incarnation: "1-x".to_owned(),
        excluded: Vec::new(),
    }
}

/// Four partitions: `a` has 0 and 2, `b` has 1, which goes to `a`, and nobody has 3. `gone` has left.
fn overview() -> Overview {
    let owners = [Some("a"), Some("b"), Some("a"), None];
    let partition = |(number, owner): (usize, &Option<&str>)| PartitionOverview {
        partition: PartitionId::new(u16::try_from(number).unwrap()),
        owner: owner.map(name),
        epoch: Epoch::new(1),
        state: PartitionStanding::Owned,
        planned: Some(name("a")),
        pinned: None,
        replicas: owner.map(name).into_iter().chain([name("b")]).collect(),
        learners: if number == 2 { vec![name("c")] } else { Vec::new() },
        under_replicated: number > 1,
    };
    Overview {
        ring: RingName::new("r").unwrap(),
        partition_count: PartitionCount::new(4).unwrap(),
        key_hash: "xxh3".to_owned(),
        generation: Generation::new(1),
        plan_version: 7,
        plan_current: true,
        coordinator: Some(name("a")),
        config: ConfigView {
            paused: true,
            cordoned: BTreeSet::from([name("b")]),
            pins: BTreeMap::from([(PartitionId::new(1), name("a"))]),
            consistency: Consistency::Quorum,
            ..ConfigView::default()
        },
        nodes: vec![
            node("a", NodeState::Active, 2, 4),
            node("b", NodeState::Active, 1, 0),
            node("gone", NodeState::Left, 0, 0),
        ],
        partitions: owners.iter().enumerate().map(partition).collect(),
        moves: vec![PartitionMove { partition: PartitionId::new(1), from: Some(name("b")), to: Some(name("a")) }],
        unowned: vec![PartitionId::new(3)],
        orphaned: Vec::new(),
        copies_wanted: 2,
        under_replicated: vec![PartitionId::new(2), PartitionId::new(3)],
        copying: vec![PartitionId::new(2)],
        places_kept: vec![PlacesKeptFor { node: name("d"), places: 2, for_ms: 90_000 }],
        observed: false,
        warnings: vec!["a pin is not in force".to_owned()],
    }
}

#[test]
fn the_status_says_what_is_wrong_and_what_operators_asked_for() {
    let written = Written::default();
    write_status(&Summary::of(&overview(), &Told::default()), &mut written.output(false, false, false)).unwrap();
    let expected = "r: not healthy\n\
                    partitions  3 of 4 have an owner that lives, 1 without an owner, 1 on their way to another\n\
                    copies      2 of each (3 with more nodes), 2 partitions under-replicated, 1 partitions being copied; \
                    consistency quorum, on loss accept\n\
                    kept        the places of d in 2 partitions, for 1m 30s since it was gone: it may come back\n\
                    nodes       2 active in zones zone-a, zone-b\n\
                    plan        version 7, coordinator a\n\
                    paused      nothing moves between healthy nodes until resume\n\
                    cordoned    b\n\
                    pinned      1 to a\n\
                    warning: a pin is not in force\n";
    assert_eq!(written.text(), expected);
}

#[test]
fn a_suspect_or_a_move_shows_in_the_summary() {
    let (mut overview, told) = (overview(), Told::default());
    overview.unowned.clear();
    let summary = Summary::of(&overview, &told);
    assert_eq!((summary.healthy, summary.at_rest), (true, false));
    overview.nodes[1].state = NodeState::Suspect;
    let summary = Summary::of(&overview, &told);
    assert_eq!((summary.healthy, summary.suspect), (false, 1));
    assert!(partitions(&summary).starts_with("3 of 4 have an owner that lives, 1 with one that does not renew"));
    overview.moves.clear();
    assert!(!Summary::of(&overview, &told).at_rest, "a copy is still being made");
    overview.copying.clear();
    assert!(Summary::of(&overview, &told).at_rest);
    overview.plan_current = false;
    assert!(!Summary::of(&overview, &told).at_rest);
}

#[test]
fn each_partition_has_a_line_with_its_copies() {
    let written = Written::default();
    written.output(false, false, false).table(&partitions_table(&overview().partitions)).unwrap();
    let text = written.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "partition  owner  epoch  in sync  learning");
    assert_eq!(lines[1], "        0  a          1  a b      -");
    assert_eq!(lines[3], "        2  a          1  a b      c         under-replicated");
    assert_eq!(lines[4], "        3  -          1  b        -         under-replicated");
}

#[test]
fn nodes_say_what_they_own_and_what_they_will() {
    let written = Written::default();
    written.output(false, false, false).table(&nodes_table(overview().nodes.iter())).unwrap();
    let text = written.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "node  state   zone       weight  partitions  http  version");
    assert_eq!(lines[1], "a     active  zone-a          1      2 -> 4  -     0.1.0    coordinator");
    assert_eq!(lines[2], "b     active  zone-b          1      1 -> 0  -     0.1.0    cordoned");
}

#[test]
fn the_picture_shows_owners_moves_and_what_nobody_owns_but_no_node_that_left() {
    let written = Written::default();
    write_ring(&overview(), &mut written.output(false, false, false)).unwrap();
    let expected = "     0  A B A .\n\
                    \n        A  a  zone zone-a  2  ##\
                    \n        B  b  zone zone-b  1  #\
                    \n        .  1 without an owner\
                    \n        2 under-replicated: see --partitions\n\
                    \n     1  b -> a\n";
    assert_eq!(written.text(), expected);
}
