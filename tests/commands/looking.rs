//! `status`, `nodes`, `ring`, `plan`, `safe-to-stop`: what they say is what the nodes say.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use super::ground::{Ground, finish};

/// Who owns each partition, as a node's HTTP says.
async fn owners(ring: &Ground) -> Vec<String> {
    ring.owners(0).await.into_iter().flatten().collect()
}

fn texts(list: &Value, field: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|one| one[field].as_str().unwrap().to_owned()).collect()
}

fn counts(owners: &[String]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for owner in owners {
        *counts.entry(owner.clone()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn what_the_commands_show_is_what_the_ring_is() {
    let ring = Ground::start().await;
    let owners = owners(&ring).await;
    the_status_is_that_of_a_ring_at_rest(&ring).await;
    the_nodes_are_those_that_were_started(&ring, &owners).await;
    the_picture_has_each_owners_letter(&ring, &owners).await;
    a_node_that_goes_moves_what_it_owns_and_no_more(&ring, &owners).await;
    a_node_that_comes_gets_its_share(&ring).await;
    each_node_can_be_stopped(&ring).await;
    a_reader_that_goes_is_no_failure(&ring).await;
    assert_eq!(self::owners(&ring).await, owners, "looking changed something");
}

async fn the_status_is_that_of_a_ring_at_rest(ring: &Ground) {
    let status = ring.json(&["status", "--check", "--observe", "1s"]).await;
    for (field, value) in [
        ("ring", json!("cache-platform")),
        ("healthy", json!(true)),
        ("at_rest", json!(true)),
        ("partitions", json!(64)),
        ("unowned", json!(0)),
        ("orphaned", json!(0)),
        ("moving", json!(0)),
        ("warnings", json!([])),
        (
            "config",
            json!({
                "paused": false, "cordoned": [], "pins": {}, "replicas": 3, "consistency": "eventual", "on_loss": "accept",
            }),
        ),
        ("copies_wanted", json!(3)),
        ("under_replicated", json!(0)),
        ("copying", json!(0)),
    ] {
        assert_eq!(status[field], value, "{field}: {status}");
    }
    assert_eq!(texts(&status["nodes"], "node"), ["a-1", "a-2", "b-1"]);
    let coordinator = status["coordinator"].as_str().unwrap();
    let text = ring.run(&["status"]).await;
    text.assert_says(&["cache-platform: healthy\n", "64 of 64 have an owner", "3 active in zones a, b", coordinator]);
}

async fn the_nodes_are_those_that_were_started(ring: &Ground, owners: &[String]) {
    let nodes = ring.json(&["nodes"]).await;
    let counts = counts(owners);
    let text = ring.run(&["nodes"]).await;
    for (node, process) in nodes["nodes"].as_array().unwrap().iter().zip(&ring.nodes) {
        let address = process.address().await.to_string();
        assert_eq!(node["node"], process.name.as_str());
        assert_eq!(node["zone"], process.name[..1]);
        assert_eq!(node["owned"], counts[&process.name]);
        assert_eq!((&node["state"], &node["weight"], &node["http"]), (&json!("active"), &json!(1), &json!(address)));
        let line = text.out.lines().find(|line| line.starts_with(&process.name)).unwrap();
        for part in ["active", &address, &counts[&process.name].to_string()] {
            assert!(line.contains(part), "{part}: {text:?}");
        }
    }
    assert_eq!(text.out.lines().count(), 4, "{}", text.out);
}

/// Letters stand for nodes in the order of the legend.
async fn the_picture_has_each_owners_letter(ring: &Ground, owners: &[String]) {
    let document = ring.json(&["ring"]).await;
    assert_eq!(texts(&document["partitions"], "owner"), owners);
    let letters: BTreeMap<&str, &str> = BTreeMap::from([("a-1", "A"), ("a-2", "B"), ("b-1", "C")]);
    let expected: Vec<&str> = owners.iter().map(|owner| letters[owner.as_str()]).collect();

    let plain = ring.run(&["ring"]).await;
    plain.assert_says(&["A  a-1  zone a", "C  b-1  zone b"]);
    let cells: Vec<&str> = plain
        .out
        .lines()
        .take_while(|line| !line.is_empty())
        .flat_map(|line| line.split_whitespace().skip(1))
        .collect();
    assert_eq!(cells, expected, "{}", plain.out);
    assert!(!plain.out.contains('\u{1b}'), "a pipe is no terminal: {}", plain.out);

    let coloured = ring.run(&["ring", "--color", "always"]).await;
    assert_eq!(coloured.out.matches("\u{1b}[30m").count(), 64 + 3, "{}", coloured.out);
    assert!(!ring.run(&["ring", "--color", "always", "--json"]).await.out.contains('\u{1b}'));
}

async fn a_node_that_goes_moves_what_it_owns_and_no_more(ring: &Ground, owners: &[String]) {
    let preview = ring.json(&["plan", "--without", "b-1"]).await;
    let moves = preview["moves"].as_array().unwrap();
    let moved: Vec<u64> = moves.iter().map(|one| one["partition"].as_u64().unwrap()).collect();
    let owned: Vec<u64> = (0..64).filter(|p| owners[usize::try_from(*p).unwrap()] == "b-1").collect();
    assert_eq!(moved, owned);
    assert!(moves.iter().all(|one| one["from"] == "b-1" && one["to"].as_str().unwrap().starts_with("a-")), "{preview}");
    let text = ring.run(&["plan", "--without", "b-1"]).await;
    text.assert_says(&[&format!("{} partitions would move", owned.len())]);
}

async fn a_node_that_comes_gets_its_share(ring: &Ground) {
    let preview = ring.json(&["plan", "--with", "c-1:c"]).await;
    assert_eq!(preview["moves"].as_array().unwrap().len(), 16, "{preview}");
    assert!(texts(&preview["moves"], "to").iter().all(|to| to == "c-1"), "{preview}");
    let twice = ring.json(&["plan", "--with", "c-1", "--weight", "2"]).await;
    // 2 of the 5 parts of 64: 25 or 26.
    assert!((25..=26).contains(&twice["moves"].as_array().unwrap().len()), "{twice}");
    ring.run(&["plan", "--with", "a-1:a"]).await.assert_failed(2, &["'a-1'", "already"]);
    ring.run(&["plan", "--without", "z-9"]).await.assert_failed(10, &["'z-9'", "a-1, a-2, b-1"]);
}

async fn each_node_can_be_stopped(ring: &Ground) {
    for node in ["a-1", "a-2", "b-1"] {
        let safety = ring.json(&["safe-to-stop", node]).await;
        assert_eq!(safety, json!({ "node": node, "safe": true, "reasons": [] }));
    }
    ring.run(&["safe-to-stop", "a-1"]).await.assert_says(&["a-1 can be stopped"]);
    ring.run(&["safe-to-stop", "z-9"]).await.assert_failed(10, &["'z-9'"]);
}

async fn a_reader_that_goes_is_no_failure(ring: &Ground) {
    for command in ["ring", "status --json", "nodes", "completion bash"] {
        // Gone long before the answer is there.
        let line = format!("\"$PROGRAM\" {command} | true; echo \"${{PIPESTATUS[0]}}\"");
        let mut shell = Command::new("bash");
        shell.args(["-c", &line]).env("PROGRAM", env!("CARGO_BIN_EXE_nats-ring"));
        shell.env("NATS_RING_NATS", ring.server.url()).env_remove("RUST_LOG");
        let run = finish(shell, "").await;
        assert_eq!((run.out.as_str(), run.err.as_str()), ("0\n", ""), "{command}");
    }
}
