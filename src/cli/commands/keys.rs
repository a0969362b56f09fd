//! `get`, `set`, `delete`, `incr`, `get-or-set`, `owner`, `inspect`: one request each, as any plain client sends it.

use std::fmt::Write as _;
use std::io::Read;
use std::time::Duration;

use anstyle::Style;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::super::exit::{Code, Failure};
use super::super::told;
use super::client::ClientArgs;
use super::output::{Done, Output, Table};
use crate::rpc::status::{Suspended, Waits};
use crate::types::Consistency;

/// More than any server's `max_payload` lets through, and no reason to fill the memory.
const STDIN_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// What an answer about an entry shows first; everything else follows.
const SHOWN_FIRST: [&str; 13] = [
    "key",
    "found",
    "partition",
    "node",
    "epoch",
    "version",
    "age",
    "ttl",
    "bytes",
    "content_type",
    "replicas",
    "in_sync",
    "consistency",
];

pub(super) const GET_EXAMPLES: &str = "\
Prints the value: text and JSON as they are; bytes that are neither raw, without a line end.

Examples:
  nats-ring get user:1
  nats-ring get logo > logo.png                   # as it was stored over REST
  nats-ring get user:1 --json | jq .version
  nats-ring get user:1 --consistency quorum       # no write is told that a crash could take back
  nats-ring get user:1 || echo 'not there, or no answer: exit codes 10 to 14 tell'";
pub(super) const SET_EXAMPLES: &str = "\
The value is taken for JSON where it is JSON, else for text.

Examples:
  nats-ring set user:1 Alice
  nats-ring set user:2 '{\"name\":\"Bob\",\"age\":42}' --ttl 90s
  nats-ring set text '\"42\"'                       # the text 42, not the number
  nats-ring set config - < config.json
  nats-ring set order:7 paid --consistency strong # answered once every copy has it
  nats-ring set below -- -5                       # what begins with a dash";
pub(super) const DELETE_EXAMPLES: &str = "\
Examples:
  nats-ring delete user:1
  nats-ring delete user:1 --json | jq .deleted    # false: it was not there
  nats-ring delete user:1 --consistency quorum";
pub(super) const INCR_EXAMPLES: &str = "\
Adds to the integer that the value is, exactly once whoever else does; what is not there counts as 0. Prints the sum.

Examples:
  nats-ring incr visits
  nats-ring incr stock:42 -3                      # by a number of your choice
  nats-ring incr window:12:05 --ttl 60s           # and it ends 60 s from now
  nats-ring incr visits 10 --json | jq .version";
pub(super) const GET_OR_SET_EXAMPLES: &str = "\
Prints the value that is there; where there is none, stores this one and prints it. Of many who ask at once, one stores.

Examples:
  nats-ring get-or-set config '{\"level\":\"info\"}'
  nats-ring get-or-set lock:42 \"$HOSTNAME\" --ttl 30s
  nats-ring get-or-set user:1 Alice --json | jq .stored";
pub(super) const OWNER_EXAMPLES: &str = "\
Examples:
  nats-ring owner user:1
  nats-ring owner user:1 --json | jq -r .owner";
pub(super) const INSPECT_EXAMPLES: &str = "\
Examples:
  nats-ring inspect user:1
  nats-ring inspect user:1 --json | jq .ttl";

#[derive(Args)]
pub(in crate::cli) struct KeyArgs {
    /// The key: 1 to 1024 bytes
    key: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// How many copies must have what is read or written.
#[derive(Args)]
struct LevelArgs {
    /// eventual, quorum or strong [default: the ring's]
    #[arg(long, value_name = "LEVEL")]
    consistency: Option<Consistency>,
}

#[derive(Args)]
pub(in crate::cli) struct LevelKeyArgs {
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    of: KeyArgs,
}

#[derive(Args)]
pub(in crate::cli) struct IncrArgs {
    /// The key: 1 to 1024 bytes
    key: String,
    /// What to add, below 0 too
    #[arg(allow_negative_numbers = true, default_value_t = 1)]
    by: i64,
    /// Forget it after this time, from now on [default: as it was]
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    ttl: Option<Duration>,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
pub(in crate::cli) struct SetArgs {
    /// The key: 1 to 1024 bytes
    key: String,
    /// JSON, or else text; - reads it from stdin, less one line end
    #[arg(allow_negative_numbers = true)]
    value: String,
    /// Forget it after this time: 90s, 5m, 1h 30m, or a number of seconds
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    ttl: Option<Duration>,
    #[command(flatten)]
    level: LevelArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Default, Serialize)]
struct Body<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    consistency: Option<Consistency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<f64>,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    // On the wire 0 means none: what is to be forgotten at once would stay for ever.
    seconds.or_else(|| humantime::parse_duration(text).ok()).filter(|ttl| !ttl.is_zero()).ok_or_else(|| {
        "give such as 90s, 5m, 1h 30m, or a number of seconds above 0; leave it out for no end".to_owned()
    })
}

fn body(body: &Body<'_>) -> Result<String, Failure> {
    serde_json::to_string(body).map_err(|error| Failure::internal("the request cannot be written", error))
}

impl KeyArgs {
    async fn ask(&self, operation: &str) -> Result<Box<RawValue>, Failure> {
        self.client.ask(operation, body(&Body { key: &self.key, ..Body::default() })?).await
    }

    /// A key that is not there: the answer for programs, and a failure.
    fn absent(&self, answer: &RawValue, output: &mut Output) -> Done {
        if output.json {
            output.line(answer.get())?;
        }
        Err(Failure::new(Code::NotFound, format!("key '{}' is not there", self.key)).into())
    }
}

impl LevelKeyArgs {
    async fn ask(&self, operation: &str) -> Result<Box<RawValue>, Failure> {
        let Self { of: KeyArgs { key, client }, level } = self;
        client.ask(operation, body(&Body { key, consistency: level.consistency, ..Body::default() })?).await
    }
}

impl SetArgs {
    async fn ask(&self, operation: &str) -> Result<Box<RawValue>, Failure> {
        let value = value(&self.value, std::io::stdin())?;
        let (ttl, consistency) = (self.ttl.map(|ttl| ttl.as_secs_f64()), self.level.consistency);
        let request = body(&Body { key: &self.key, value: Some(&value), ttl, consistency, by: None })?;
        self.client.ask(operation, request).await
    }
}

/// A field of an answer, as the JSON text it came as.
fn field<'a>(answer: &'a RawValue, name: &str) -> Result<Option<&'a RawValue>, Failure> {
    let fields: std::collections::HashMap<std::borrow::Cow<'a, str>, &'a RawValue> = serde_json::from_str(answer.get())
        .map_err(|error| Failure::internal("a node's answer is no JSON object", error))?;
    Ok(fields.get(name).copied())
}

fn is(answer: &RawValue, name: &str, text: &str) -> Result<bool, Failure> {
    Ok(field(answer, name)?.is_some_and(|value| value.get() == text))
}

/// A JSON value for people: texts without their quotes.
fn shown(value: &RawValue) -> String {
    serde_json::from_str::<String>(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

pub(super) async fn get(args: LevelKeyArgs) -> Done {
    let mut output = args.of.client.output();
    let answer = args.ask("get").await?;
    if is(&answer, "found", "false")? {
        return args.of.absent(&answer, &mut output);
    }
    match field(&answer, "value")? {
        Some(value) if !output.json && is(&answer, "encoding", "\"base64\"")? => output.bytes(&decoded(value)?),
        Some(value) if !output.json => output.line(&shown(value)),
        _ => output.line(answer.get()),
    }
}

/// The bytes of a value that came as base64, as values do that are neither JSON nor text.
fn decoded(value: &RawValue) -> Result<Vec<u8>, Failure> {
    STANDARD.decode(shown(value)).map_err(|error| Failure::internal("a node's answer is not the base64 it says", error))
}

pub(super) async fn set(args: SetArgs) -> Done {
    let mut output = args.client.output();
    let answer = args.ask("set").await?;
    if output.json {
        return output.line(answer.get());
    }
    let mut text = format!("stored '{}'", args.key);
    for (word, name) in [("at", "node"), ("version", "version")] {
        if let Some(value) = field(&answer, name)? {
            let _ = write!(text, " {word} {}", shown(value));
        }
    }
    output.line(&text)
}

/// The value's JSON text: what was given where that is JSON, else a JSON string of it.
fn value(given: &str, stdin: impl Read) -> Result<Box<RawValue>, Failure> {
    let unreadable = |why: String| Failure::new(Code::Usage, format!("the value on stdin is not usable: {why}"));
    let mut text = given.to_owned();
    if given == "-" {
        text.clear();
        let read = stdin.take(STDIN_MAX_BYTES).read_to_string(&mut text);
        let bytes = read.map_err(|error| unreadable(error.to_string()))?;
        if u64::try_from(bytes).is_ok_and(|bytes| bytes == STDIN_MAX_BYTES) {
            return Err(unreadable(format!("it has {STDIN_MAX_BYTES} bytes or more")));
        }
        let line_end = if text.ends_with("\r\n") { 2 } else { usize::from(text.ends_with('\n')) };
        text.truncate(text.len() - line_end);
    }
    match serde_json::from_str(&text) {
        Ok(value) => Ok(value),
        Err(_) => to_raw_value(&text).map_err(|error| Failure::internal("the value cannot be written", error)),
    }
}

pub(super) async fn delete(args: LevelKeyArgs) -> Done {
    let mut output = args.of.client.output();
    let answer = args.ask("delete").await?;
    if output.json {
        return output.line(answer.get());
    }
    let deleted = is(&answer, "deleted", "true")?;
    output.line(&if deleted {
        format!("deleted '{}'", args.of.key)
    } else {
        format!("'{}' was not there", args.of.key)
    })
}

pub(super) async fn incr(args: IncrArgs) -> Done {
    let mut output = args.client.output();
    let (ttl, consistency) = (args.ttl.map(|ttl| ttl.as_secs_f64()), args.level.consistency);
    let request = body(&Body { key: &args.key, by: Some(args.by), ttl, consistency, value: None })?;
    let answer = args.client.ask("incr", request).await?;
    match field(&answer, "value")? {
        Some(value) if !output.json => output.line(value.get()),
        _ => output.line(answer.get()),
    }
}

pub(super) async fn get_or_set(args: SetArgs) -> Done {
    let mut output = args.client.output();
    let answer = args.ask("get-or-set").await?;
    match field(&answer, "value")? {
        Some(value) if !output.json && is(&answer, "encoding", "\"base64\"")? => output.bytes(&decoded(value)?),
        Some(value) if !output.json => output.line(&shown(value)),
        _ => output.line(answer.get()),
    }
}

pub(super) async fn owner(args: KeyArgs) -> Done {
    let mut output = args.client.output();
    let answer = args.ask("owner").await?;
    if output.json {
        return output.line(answer.get());
    }
    let text = |name: &str| Ok::<_, Failure>(field(&answer, name)?.map_or_else(|| "?".to_owned(), shown));
    let (partition, epoch) = (text("partition")?, text("epoch")?);
    let waits = known::<Waits>(&answer, "waits")?;
    match text("owner")?.as_str() {
        owner if waits.is_some() && owner != "null" => {
            output.line(&format!("{owner} owned partition {partition} at epoch {epoch}, and is gone"))?;
        }
        "null" => output.line(&format!("nobody owns partition {partition} at the moment"))?,
        owner => {
            let owner = output.paint(Style::new().bold(), owner);
            output.line(&format!("{owner} owns partition {partition} at epoch {epoch}{}", followers(&answer)?))?;
        }
    }
    if let Some(waits) = waits {
        output.line(&told::waits(&waits))?;
    }
    match known::<Suspended>(&answer, "suspended")? {
        Some(suspended) => {
            let node = text("node")?;
            output.line(&format!("{node}, which answers, is suspended: it {}", told::while_suspended(suspended)))
        }
        None => Ok(()),
    }
}

/// A field that an older node does not have.
fn known<T: DeserializeOwned>(answer: &RawValue, name: &str) -> Result<Option<T>, Failure> {
    let value = field(answer, name)?.map_or("null", RawValue::get);
    serde_json::from_str(value).map_err(|error| Failure::internal("a node's answer is not as it should be", error))
}

/// Who else has a copy, as an older node does not say.
fn followers(answer: &RawValue) -> Result<String, Failure> {
    let in_sync = known::<Vec<String>>(answer, "in_sync")?;
    let replicas = in_sync.or(known(answer, "replicas")?).unwrap_or_default();
    let owner = field(answer, "owner")?.map(shown);
    let others: Vec<&str> =
        replicas.iter().map(String::as_str).filter(|name| owner.as_deref() != Some(*name)).collect();
    Ok(if others.is_empty() { String::new() } else { format!(", in sync with {}", others.join(", ")) })
}

pub(super) async fn inspect(args: KeyArgs) -> Done {
    let mut output = args.client.output();
    let answer = args.ask("inspect").await?;
    if is(&answer, "found", "false")? {
        return args.absent(&answer, &mut output);
    }
    if output.json {
        return output.line(answer.get());
    }
    let fields: Map<String, Value> = serde_json::from_str(answer.get())
        .map_err(|error| Failure::internal("a node's answer is no JSON object", error))?;
    output.table(&details(&fields))
}

/// One line per field, the best known first; also those that a newer node knows and this program does not.
fn details(fields: &Map<String, Value>) -> Table {
    let mut table = Table::default();
    let known = SHOWN_FIRST.iter().filter_map(|name| fields.get_key_value(*name));
    let others = fields.iter().filter(|(name, _)| !SHOWN_FIRST.contains(&name.as_str()));
    for (name, value) in known.chain(others) {
        let text = match (name.as_str(), value) {
            ("ttl", Value::Null) => "none".to_owned(),
            ("ttl" | "age", Value::Number(seconds)) => format!("{seconds} s"),
            (_, Value::String(text)) => text.clone(),
            (_, other) => other.to_string(),
        };
        table.row(vec![name.replace('_', " ").into(), text.into()]);
    }
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::output::tests::Written;
    use super::*;

    fn value_of(given: &str, stdin: &str) -> String {
        value(given, stdin.as_bytes()).unwrap().get().to_owned()
    }

    #[test]
    fn a_value_is_json_where_it_is_json_and_else_text() {
        for (given, json) in [
            ("42", "42"),
            ("12345678901234567890.10", "12345678901234567890.10"),
            ("{\"a\":1}", "{\"a\":1}"),
            ("\"42\"", "\"42\""),
            ("null", "null"),
            ("Alice", "\"Alice\""),
            ("{oops", "\"{oops\""),
            ("", "\"\""),
        ] {
            assert_eq!(value_of(given, ""), json);
        }
    }

    #[test]
    fn stdin_loses_one_line_end_and_no_more() {
        assert_eq!(value_of("-", "line\n"), "\"line\"");
        assert_eq!(value_of("-", "line\r\n"), "\"line\"");
        assert_eq!(value_of("-", "two\n\n"), "\"two\\n\"");
        assert_eq!(value_of("-", "[1,\n2]\n"), "[1,\n2]");
        assert_eq!(value("-", &b"\xff"[..]).unwrap_err().code, Code::Usage);
    }

    #[test]
    fn a_ttl_is_a_duration_or_a_number_of_seconds() {
        for (text, seconds) in [("90", 90.0), ("1.5", 1.5), ("90s", 90.0), ("5m", 300.0), ("1h 30m", 5400.0)] {
            assert_eq!(ttl(text).unwrap(), Duration::from_secs_f64(seconds), "{text}");
        }
        for text in ["-1", "soon", "", "inf", "0", "0s"] {
            assert!(ttl(text).is_err(), "{text}");
        }
    }

    #[test]
    fn inspecting_shows_what_is_known_first_and_leaves_nothing_out() {
        let fields = serde_json::json!({ "zeal": [1], "ttl": null, "age": 2.5, "node": "a", "found": true });
        let written = Written::default();
        written.output(false, false, false).table(&details(fields.as_object().unwrap())).unwrap();
        assert_eq!(written.text(), "found  true\nnode   a\nage    2.5 s\nttl    none\nzeal   [1]\n");
    }
}
