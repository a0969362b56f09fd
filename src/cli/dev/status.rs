//! The answer to `status`: as JSON, and as the table that people read. Pure.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::told;
use super::board::Board;
use super::member::Member;

/// Lines of the past that come along.
const EVENTS_SHOWN: usize = 10;
/// Copies under way that are listed one by one.
const COPIES_SHOWN: usize = 8;

/// What runs where.
pub(super) struct Whole<'a> {
    pub(super) ring: &'a str,
    pub(super) nats: &'a str,
    pub(super) up: Duration,
    pub(super) members: &'a [Member],
    pub(super) board: &'a Board,
}

/// `{"ring","nats","pid","uptime_seconds","nodes":[…],"partitions":{…},"moves":[…],"copies_under_way":{…},"waiting":[…],"lines":[…],"events":[…]}`.
pub(super) fn json(whole: &Whole<'_>) -> Value {
    let board = whole.board;
    let nodes: Vec<Value> = whole.members.iter().map(|member| node(member, board)).collect();
    let skipped = board.events.len().saturating_sub(EVENTS_SHOWN);
    let event = |e: &super::board::Happened| json!({ "seconds": rounded(e.after.as_secs_f64()), "text": e.text });
    json!({
        "ring": whole.ring,
        "nats": whole.nats,
        "pid": std::process::id(),
        "uptime_seconds": rounded(whole.up.as_secs_f64()),
        "nodes": nodes,
        "partitions": { "total": board.cells.len(), "served": board.served() },
        "moves": board.moves,
        "copies_under_way": board.copies,
        "waiting": board.waiting.waiting,
        "lines": lines(board),
        "events": board.events.iter().skip(skipped).map(event).collect::<Vec<_>>(),
    })
}

/// Copies under way and partitions that wait, for people.
fn lines(board: &Board) -> Vec<String> {
    let together = told::copies_together(&board.copies).map(|text| format!("copies {text}"));
    let copies = told::copy_lines(&board.copies, COPIES_SHOWN).into_iter().map(|line| format!("  {line}"));
    together.into_iter().chain(copies).chain(told::waiting_lines(&board.waiting)).collect()
}

fn node(member: &Member, board: &Board) -> Value {
    let (state, detail) = member.shown();
    json!({
        "node": member.name,
        "zone": member.zone,
        "state": state,
        "detail": detail,
        "http": member.address.map(|address| format!("http://{address}")),
        "pid": member.process.as_ref().map(|process| process.pid),
        "partitions": board.held(&member.name),
        "requests_per_second": rounded(member.rate),
        "log": member.log.display().to_string(),
    })
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Any answer as text: the table of a status, else what was done.
pub(super) fn text(answer: &Value) -> String {
    match answer["nodes"].as_array() {
        Some(nodes) => table(answer, nodes),
        None => format!("{} ({:.1} s)\n", said(&answer["message"]), answer["seconds"].as_f64().unwrap_or(0.0)),
    }
}

fn table(answer: &Value, nodes: &[Value]) -> String {
    let mut out = format!("ring {} on {}\n", said(&answer["ring"]), said(&answer["nats"]));
    let _ = writeln!(
        out,
        "{:<12} {:<5} {:<10} {:<23} {:>8} {:>10} {:>7}",
        "node", "zone", "state", "http", "pid", "partitions", "req/s"
    );
    for node in nodes {
        let of = |field: &str| said(&node[field]);
        let _ = write!(out, "{:<12} {:<5} {:<10} {:<23} ", of("node"), of("zone"), of("state"), of("http"));
        let _ = write!(out, "{:>8} {:>10} {:>7}", of("pid"), of("partitions"), of("requests_per_second"));
        let detail = of("detail");
        let _ = if detail == "-" { writeln!(out) } else { writeln!(out, "  {detail}") };
    }
    let partitions = &answer["partitions"];
    let _ = writeln!(out, "{} of {} partitions served", said(&partitions["served"]), said(&partitions["total"]));
    for line in answer["lines"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "{}", said(line));
    }
    for event in answer["events"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "{:>8.1} s  {}", event["seconds"].as_f64().unwrap_or(0.0), said(&event["text"]));
    }
    out
}

fn said(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_table_and_anything_else_one_line() {
        let board = Board::default();
        let mut member = Member::new("node-1".to_owned(), "a".to_owned(), 8081, "node-1.log".into());
        member.state = super::super::member::State::Ended("exit code 5: taken".to_owned());
        let whole = Whole { ring: "r", nats: "nats://x:1", up: Duration::ZERO, members: &[member], board: &board };
        let text = text(&json(&whole));
        assert!(text.starts_with("ring r on nats://x:1\nnode "), "{text}");
        assert!(text.contains("ended") && text.contains("exit code 5: taken"), "{text}");
        assert!(text.contains("0 of 0 partitions served"), "{text}");
        assert_eq!(
            super::text(&json!({"ok": true, "message": "node-2 ended", "seconds": 1.26})),
            "node-2 ended (1.3 s)\n"
        );
    }
}
