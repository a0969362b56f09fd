//! The JSON of people and plain clients: what the operations take and give, over NATS and over HTTP alike.
//!
//! In: request bodies, checked against the limits. Out: answer bodies. A value is any JSON and is kept as the text that
//! was given, so that numbers keep their precision; values of other content types are shown as strings. Unknown fields
//! are ignored.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use memchr::{memchr, memmem};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

mod update;

pub use update::{IncrementRequest, incremented, parse_get_or_set, parse_increment};
pub(super) use update::{got_or_set_stored, set_instead};

use super::client::{CacheEntry, EntryInfo};
use super::condition::{Condition, Matching};
use super::content_type::{self, is_json, is_text};
use super::levels;
use super::limits::{Limits, bad_request, check_key, ttl_from_seconds};
use crate::service::{Copies, ServiceError};
use crate::types::{Consistency, NodeName, PartitionId, RequestId, Version};

/// The body of a `set`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRequest {
    /// Raw key.
    pub key: Bytes,
    /// The value's JSON text, as given.
    pub value: Bytes,
    /// How long it lives; `None` for ever.
    pub ttl: Option<Duration>,
    /// What must hold of the entry so far.
    pub condition: Condition,
}

/// The body of a `touch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TouchRequest {
    /// How long it lives from now on.
    pub ttl: Duration,
    /// What must hold of the entry so far.
    pub condition: Condition,
}

/// The fields that any of the operations knows, not yet looked at, so that a refusal can name the field.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    key: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    ttl: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    if_version: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    if_absent: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    consistency: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    by: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    request_id: Option<&'a RawValue>,
}

/// A field with the value `null` is there; an `Option` alone would take it for missing.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// The key in the body of any operation.
///
/// # Errors
/// `bad_request` or `too_large`, naming the field.
pub fn parse_key(operation: &str, body: &[u8]) -> Result<Bytes, ServiceError> {
    key_of(operation, &fields(operation, body)?)
}

/// The body of a `set`.
///
/// # Errors
/// `bad_request` or `too_large`, naming field, value and limit.
pub fn parse_set(body: &[u8], limits: &Limits) -> Result<SetRequest, ServiceError> {
    parse_value("set", body, limits)
}

fn parse_value(operation: &str, body: &[u8], limits: &Limits) -> Result<SetRequest, ServiceError> {
    let fields = fields(operation, body)?;
    let key = key_of(operation, &fields)?;
    let missing = || bad_request(format!("{operation}: field \"value\" is missing; it may be any JSON"));
    let value = fields.value.ok_or_else(missing)?;
    limits.check_value(value.get().as_bytes())?;
    let ttl = fields.ttl.map(ttl_of).transpose()?.flatten();
    let if_none_match = fields.if_absent.map(if_absent_of).transpose()?.flatten();
    let condition = Condition { if_none_match, ..if_version_of(&fields)? };
    Ok(SetRequest { key, value: Bytes::copy_from_slice(value.get().as_bytes()), ttl, condition })
}

/// What a `delete` or `persist` asks of the entry; without a body, nothing.
///
/// # Errors
/// `bad_request`, naming the field.
pub fn parse_condition(operation: &str, body: &[u8]) -> Result<Condition, ServiceError> {
    if body.trim_ascii().is_empty() {
        return Ok(Condition::NONE);
    }
    if_version_of(&fields(operation, body)?)
}

/// The body of a `touch`.
///
/// # Errors
/// `bad_request`, naming the field.
pub fn parse_touch(body: &[u8]) -> Result<TouchRequest, ServiceError> {
    let fields = fields("touch", body)?;
    let ttl = fields.ttl.map(ttl_of).transpose()?.flatten();
    let ttl = ttl.ok_or_else(|| {
        bad_request(
            "touch: field \"ttl\" is missing or 0; it must be a number of seconds above 0, persist removes a ttl",
        )
    })?;
    Ok(TouchRequest { ttl, condition: if_version_of(&fields)? })
}

/// The consistency that the body of any operation asks for, if it does.
///
/// # Errors
/// `bad_request` where it is none.
pub fn parse_consistency(operation: &str, body: &[u8]) -> Result<Option<Consistency>, ServiceError> {
    if !may_have(body, "\"consistency\"") {
        return Ok(None);
    }
    let Some(raw) = fields(operation, body)?.consistency.filter(|raw| raw.get() != "null") else { return Ok(None) };
    let text: String = serde_json::from_str(raw.get()).map_err(|_| {
        let got = described(raw);
        bad_request(format!("field \"consistency\": expected \"eventual\", \"quorum\" or \"strong\", got {got}"))
    })?;
    levels::parse("field \"consistency\"", &text).map(Some)
}

/// The name that the body of any operation gives its request, if it does: one that comes again under it is executed once.
///
/// # Errors
/// `bad_request` where it is none.
pub fn parse_request_id(operation: &str, key: &[u8], body: &[u8]) -> Result<Option<RequestId>, ServiceError> {
    let Some(name) = parse_request_name(operation, body)? else { return Ok(None) };
    let id = RequestId::named(&name, operation, key);
    id.map(Some).map_err(|error| bad_request(format!("field \"request_id\": {error}")))
}

/// The same as it is given.
///
/// # Errors
/// `bad_request` where it is no text.
pub fn parse_request_name(operation: &str, body: &[u8]) -> Result<Option<Bytes>, ServiceError> {
    if !may_have(body, "\"request_id\"") {
        return Ok(None);
    }
    let Some(raw) = fields(operation, body)?.request_id.filter(|raw| raw.get() != "null") else { return Ok(None) };
    let name: String = serde_json::from_str(raw.get())
        .map_err(|_| bad_request(format!("field \"request_id\": expected a string, got {}", described(raw))))?;
    Ok(Some(Bytes::from(name)))
}

/// Whether a body may have a field: most do not, and need not be read twice. (With an escape in it, who knows.)
fn may_have(body: &[u8], quoted: &str) -> bool {
    memmem::find(body, quoted.as_bytes()).is_some() || memchr(b'\\', body).is_some()
}

/// The versions in `if_version`, as they are given in a query or a list: `4.17`.
///
/// # Errors
/// `bad_request` where it is no version.
pub fn parse_version(text: &str) -> Result<Version, ServiceError> {
    text.parse().map_err(|e| bad_request(format!("field \"if_version\": '{}' is {e}", text.escape_debug())))
}

/// Whether these bytes are one JSON value.
///
/// # Errors
/// `bad_request`, saying where it is wrong.
pub fn check_json(value: &[u8]) -> Result<(), ServiceError> {
    let parsed: Result<&RawValue, _> = serde_json::from_slice(value);
    parsed.map(|_| ()).map_err(|e| bad_request(format!("field \"value\": it is not JSON: {e}")))
}

fn fields<'a>(operation: &str, body: &'a [u8]) -> Result<Fields<'a>, ServiceError> {
    // A struct may also be read from an array, by position: that is not meant here.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte != b'{') {
        return Err(bad_request(format!("{operation}: expected a JSON object with a field \"key\"")));
    }
    serde_json::from_slice(body)
        .map_err(|e| bad_request(format!("{operation}: expected a JSON object with a field \"key\": {e}")))
}

fn key_of(operation: &str, fields: &Fields<'_>) -> Result<Bytes, ServiceError> {
    let raw =
        fields.key.ok_or_else(|| bad_request(format!("{operation}: field \"key\" is missing; it must be a string")))?;
    let key: String = serde_json::from_str(raw.get())
        .map_err(|_| bad_request(format!("field \"key\": expected a string, got {}", described(raw))))?;
    check_key(key.as_bytes())?;
    Ok(Bytes::from(key))
}

fn ttl_of(raw: &RawValue) -> Result<Option<Duration>, ServiceError> {
    let text = raw.get();
    if text == "null" {
        return Ok(None);
    }
    // JSON's numbers are all read by Rust; those beyond the range of an f64 as infinite.
    match text.parse::<f64>() {
        Ok(seconds) => ttl_from_seconds(seconds),
        Err(_) => Err(bad_request(format!("field \"ttl\": expected a number of seconds, got {}", described(raw)))),
    }
}

/// One version or a list of them.
fn if_version_of(fields: &Fields<'_>) -> Result<Condition, ServiceError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        None(()),
        One(String),
        Several(Vec<String>),
    }
    let Some(raw) = fields.if_version else { return Ok(Condition::NONE) };
    let given = serde_json::from_str(raw.get()).map_err(|_| {
        let got = described(raw);
        bad_request(format!("field \"if_version\": expected a version such as \"4.17\", or a list of them, got {got}"))
    })?;
    let texts = match given {
        Given::None(()) => return Ok(Condition::NONE),
        Given::One(text) => vec![text],
        Given::Several(texts) => texts,
    };
    let versions: Result<_, _> = texts.iter().map(|text| parse_version(text)).collect();
    let condition = Condition { if_match: Some(Matching::OneOf(versions?)), if_none_match: None };
    condition.check_size()?;
    Ok(condition)
}

fn if_absent_of(raw: &RawValue) -> Result<Option<Matching>, ServiceError> {
    match raw.get() {
        "true" => Ok(Some(Matching::Any)),
        "false" | "null" => Ok(None),
        _ => Err(bad_request(format!("field \"if_absent\": expected true or false, got {}", described(raw)))),
    }
}

/// The JSON type of a value, and its text where that is short.
fn described(raw: &RawValue) -> String {
    let text = raw.get();
    let name = match text.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    if text.len() <= 40 && name != "null" { format!("{name} ({text})") } else { name.to_owned() }
}

/// `{"found":true,"value":…,"node":…,"version":…}`. A value that is not JSON is a string, with its `content_type` beside
/// it, and `"encoding":"base64"` where it is not text.
pub fn found(entry: &CacheEntry, node: &NodeName) -> Bytes {
    found_stored(&entry.value, entry.content_type.stored(), node, entry.version)
}

pub(super) fn found_stored(value: &[u8], content_type: &[u8], node: &NodeName, version: Version) -> Bytes {
    with_value(br#"{"found":true,"value":"#, value, content_type, node, version)
}

/// An answer with a value, after what it begins with.
fn with_value(begin: &[u8], value: &[u8], content_type: &[u8], node: &NodeName, version: Version) -> Bytes {
    let mut body = Vec::with_capacity(value.len() + 160);
    body.extend_from_slice(begin);
    if is_json(content_type) {
        // As it was checked when it was stored.
        body.extend_from_slice(value);
    } else {
        let text = std::str::from_utf8(value).ok().filter(|_| is_text(content_type));
        let encoding = if text.is_some() { "" } else { r#","encoding":"base64""# };
        let shown = text.map_or_else(|| json_string(&STANDARD.encode(value)), json_string);
        body.extend_from_slice(shown.as_bytes());
        let content_type = json_string(content_type::as_str(content_type));
        body.extend_from_slice(format!(r#","content_type":{content_type}{encoding}"#).as_bytes());
    }
    // Names are letters, digits, - and _: nothing to escape.
    body.extend_from_slice(format!(r#","node":"{node}","version":"{version}"}}"#).as_bytes());
    body.into()
}

/// Text as a JSON string; writing one to memory cannot fail.
fn json_string(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// `{"found":false,"node":…}`.
pub fn not_found(node: &NodeName) -> Bytes {
    format!(r#"{{"found":false,"node":"{node}"}}"#).into()
}

/// `{"success":true,"node":…,"version":…}`.
pub fn stored(node: &NodeName, version: Version) -> Bytes {
    format!(r#"{{"success":true,"node":"{node}","version":"{version}"}}"#).into()
}

/// `{"deleted":…,"node":…}`.
pub fn deleted(existed: bool, node: &NodeName) -> Bytes {
    format!(r#"{{"deleted":{existed},"node":"{node}"}}"#).into()
}

/// `{"touched":true,"node":…,"version":…}`; without a version where there was no entry.
pub fn touched(version: Option<Version>, node: &NodeName) -> Bytes {
    changed("touched", version, node)
}

/// `{"persisted":true,"node":…,"version":…}`; without a version where there was no entry.
pub fn persisted(version: Option<Version>, node: &NodeName) -> Bytes {
    changed("persisted", version, node)
}

fn changed(what: &str, version: Option<Version>, node: &NodeName) -> Bytes {
    let version_field = version.map_or(String::new(), |version| format!(r#","version":"{version}""#));
    format!(r#"{{"{what}":{},"node":"{node}"{version_field}}}"#, version.is_some()).into()
}

/// `{"found":true,"partition":…,"node":…,"version":…,"age":…,"ttl":…,"bytes":…,"content_type":…}`, times in seconds, `ttl`
/// null where there is none; `{"found":false,"partition":…,"node":…}` where there is no entry. In both cases `"replicas"` are
/// the copies asked for, `"in_sync"` those there are, and `"consistency"` is the level in force.
pub fn inspected(entry: Option<&EntryInfo>, partition: PartitionId, node: &NodeName, copies: &Copies) -> Bytes {
    let Copies { in_sync, factor, consistency } = copies;
    let copies = format!(r#""replicas":{factor},"in_sync":{in_sync},"consistency":"{consistency}""#);
    let Some(entry) = entry else {
        return format!(r#"{{"found":false,"partition":{partition},"node":"{node}",{copies}}}"#).into();
    };
    let ttl = entry.remaining_ttl.map_or("null".to_owned(), seconds);
    let content_type = json_string(entry.content_type.as_str());
    let (version, age, bytes) = (entry.version, seconds(entry.age), entry.bytes);
    format!(
        r#"{{"found":true,"partition":{partition},"node":"{node}","version":"{version}","age":{age},"ttl":{ttl},"bytes":{bytes},"content_type":{content_type},{copies}}}"#
    )
    .into()
}

/// To the millisecond.
fn seconds(span: Duration) -> String {
    format!("{}.{:03}", span.as_secs(), span.subsec_millis())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    fn set(body: &str) -> Result<SetRequest, ServiceError> {
        parse_set(body.as_bytes(), &Limits { max_value_bytes: 40 })
    }

    #[test]
    fn a_value_is_kept_as_the_text_that_was_given() {
        for value in ["12345678901234567890.000", r#"{ "b":1, "a" : [1e3] }"#, "null", "\"\\u00e9\"", "-0"] {
            let request = set(&format!(r#"{{"key":"k","value": {value} }}"#)).unwrap();
            assert_eq!(request.value, value);
        }
    }

    #[test]
    fn absent_null_and_zero_ttl_mean_none_and_unknown_fields_are_ignored() {
        for ttl in ["", r#","ttl":null"#, r#","ttl":0"#, r#","ttl":0.0,"colour":"red""#] {
            assert_eq!(set(&format!(r#"{{"key":"k","value":1{ttl}}}"#)).unwrap().ttl, None);
        }
        let request = set(r#"{"ttl":1.25,"value":1,"key":"k\n"}"#).unwrap();
        assert_eq!((request.key.as_ref(), request.ttl), (&b"k\n"[..], Some(Duration::from_millis(1250))));
    }

    #[test]
    fn conditions_are_one_version_several_or_absence_and_no_body_asks_nothing() {
        let version = |sequence| Version { epoch: Epoch::new(4), sequence };
        let of = |fields: &str| set(&format!(r#"{{"key":"k","value":1{fields}}}"#)).unwrap().condition;
        assert_eq!(of(""), Condition::NONE);
        assert_eq!(of(r#","if_version":null,"if_absent":false"#), Condition::NONE);
        assert_eq!(of(r#","if_absent":true"#), Condition::if_absent());
        assert_eq!(of(r#","if_version":"4.1""#), Condition::if_version(version(1)));
        let both = Some(Matching::OneOf(vec![version(1), version(2)]));
        assert_eq!(of(r#","if_version":["4.1","4.2"]"#).if_match, both);
        assert_eq!(parse_condition("delete", b" ").unwrap(), Condition::NONE);
        let touch = parse_touch(br#"{"key":"k","ttl":1.5,"if_version":"4.1"}"#).unwrap();
        assert_eq!((touch.ttl.as_millis(), touch.condition), (1500, Condition::if_version(version(1))));
        for bad in ["{}", r#"{"ttl":0}"#, r#"{"ttl":null}"#, r#"{"ttl":-1}"#] {
            assert!(parse_touch(bad.as_bytes()).unwrap_err().message.contains("\"ttl\""), "{bad}");
        }
        let many = format!(r#"{{"if_version":[{}]}}"#, vec!["\"4.1\""; 65].join(","));
        assert!(parse_condition("delete", many.as_bytes()).unwrap_err().message.contains("65 versions"));
    }

    #[test]
    fn bad_bodies_are_refused_naming_the_field_and_what_is_wrong_with_it() {
        let cases = [
            (r#"{"key":"k","value":1,"if_version":7}"#, "bad_request", "\"if_version\": expected a version"),
            (r#"{"key":"k","value":1,"if_version":"7"}"#, "bad_request", "\"if_version\": '7' is not a version"),
            (r#"{"key":"k","value":1,"if_version":["4.1","x"]}"#, "bad_request", "\"if_version\": 'x'"),
            (r#"{"key":"k","value":1,"if_absent":1}"#, "bad_request", "\"if_absent\": expected true or false"),
            ("", "bad_request", "JSON object"),
            ("[\"k\",1,2]", "bad_request", "JSON object"),
            ("{\"key\":\"k\"", "bad_request", "EOF"),
            (r#"{"value":1}"#, "bad_request", "\"key\" is missing"),
            (r#"{"key":"k"}"#, "bad_request", "\"value\" is missing"),
            (r#"{"key":"","value":1}"#, "bad_request", "\"key\": it is empty"),
            (r#"{"key":7,"value":1}"#, "bad_request", "\"key\": expected a string, got a number (7)"),
            (r#"{"key":null,"value":1}"#, "bad_request", "\"key\": expected a string, got null"),
            (r#"{"key":"k","key":"l","value":1}"#, "bad_request", "duplicate field `key`"),
            (
                r#"{"key":"k","value":1,"ttl":"60"}"#,
                "bad_request",
                "\"ttl\": expected a number of seconds, got a string",
            ),
            (r#"{"key":"k","value":1,"ttl":true}"#, "bad_request", "got a boolean (true)"),
            (r#"{"key":"k","value":1,"ttl":-1}"#, "bad_request", "\"ttl\": -1.0 s is outside"),
            (r#"{"key":"k","value":1,"ttl":1e300}"#, "bad_request", "\"ttl\": 1e300 s"),
            (r#"{"key":"k","value":1,"ttl":1e999}"#, "bad_request", "\"ttl\": inf s"),
            (r#"{"key":"k","value":1,"ttl":315360001}"#, "bad_request", "315360000 s (10 years)"),
            (r#"{"key":"k","value":"0123456789012345678901234567890123456789"}"#, "too_large", "42 bytes"),
        ];
        for (body, code, names) in cases {
            let refused = set(body).unwrap_err();
            assert_eq!(refused.code, code, "{body}: {refused}");
            assert!(refused.message.contains(names), "{body}: {refused}");
        }
        let long = format!(r#"{{"key":"{}","value":1}}"#, "k".repeat(1025));
        assert_eq!(parse_key("get", long.as_bytes()).unwrap_err().code, "too_large");
        assert!(parse_key("get", b"{}").unwrap_err().message.starts_with("get: "));
        assert!(parse_key("get", b"\xff").is_err());
    }

    #[test]
    fn answers_are_json_with_the_fields_promised() {
        let node = NodeName::new("node-2").unwrap();
        let version = Version { epoch: Epoch::new(3), sequence: 9 };
        let text = |body: Bytes| String::from_utf8(body.to_vec()).unwrap();
        let got = |value: &[u8], content_type: &[u8]| text(found_stored(value, content_type, &node, version));
        let around = |middle: &str| format!(r#"{{"found":true,{middle},"node":"node-2","version":"3.9"}}"#);
        assert_eq!(got(br#"{"a":1}"#, b""), around(r#""value":{"a":1}"#));
        assert_eq!(got(b"[1]", b"x/y+json"), around(r#""value":[1]"#));
        let plain = r#""value":"a\"b","content_type":"text/plain""#;
        assert_eq!(got(b"a\"b", b"text/plain"), around(plain));
        for (value, content_type) in [(&b"\xff\0"[..], "text/plain"), (b"\xff\0", "image/png")] {
            let base64 = format!(r#""value":"/wA=","content_type":"{content_type}","encoding":"base64""#);
            assert_eq!(got(value, content_type.as_bytes()), around(&base64));
        }
        assert_eq!(text(touched(Some(version), &node)), r#"{"touched":true,"node":"node-2","version":"3.9"}"#);
        assert_eq!(text(persisted(None, &node)), r#"{"persisted":false,"node":"node-2"}"#);
        assert_eq!(text(not_found(&node)), r#"{"found":false,"node":"node-2"}"#);
        assert_eq!(text(stored(&node, version)), r#"{"success":true,"node":"node-2","version":"3.9"}"#);
        assert_eq!(text(deleted(false, &node)), r#"{"deleted":false,"node":"node-2"}"#);
    }
}
