//! The JSON of people and plain clients: what `get`, `set` and `delete` take and give, over NATS and over HTTP alike.
//!
//! In: request bodies, checked against the limits. Out: answer bodies. A value is any JSON and is kept as the text that
//! was given, so that numbers keep their precision. Unknown fields are ignored.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::item::Version;
use super::limits::{Limits, bad_request, check_key, ttl_from_seconds};
use crate::service::ServiceError;
use crate::types::NodeName;

/// The body of a `set`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRequest {
    /// Raw key.
    pub key: Bytes,
    /// The value's JSON text, as given.
    pub value: Bytes,
    /// How long it lives; `None` for ever.
    pub ttl: Option<Duration>,
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
    let fields = fields("set", body)?;
    let key = key_of("set", &fields)?;
    let value = fields.value.ok_or_else(|| bad_request("set: field \"value\" is missing; it may be any JSON"))?;
    limits.check_value(value.get().as_bytes())?;
    let ttl = fields.ttl.map(ttl_of).transpose()?.flatten();
    Ok(SetRequest { key, value: Bytes::copy_from_slice(value.get().as_bytes()), ttl })
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

/// `{"found":true,"value":…,"node":…,"version":…}`. The value is JSON text, as it was checked when it was stored.
pub fn found(value: &[u8], node: &NodeName, version: Version) -> Bytes {
    let mut body = Vec::with_capacity(value.len() + 160);
    body.extend_from_slice(br#"{"found":true,"value":"#);
    body.extend_from_slice(value);
    // Names are letters, digits, - and _: nothing to escape.
    body.extend_from_slice(format!(r#","node":"{node}","version":"{version}"}}"#).as_bytes());
    body.into()
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
    fn bad_bodies_are_refused_naming_the_field_and_what_is_wrong_with_it() {
        let cases = [
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
        assert_eq!(
            text(found(br#"{"a":1}"#, &node, version)),
            r#"{"found":true,"value":{"a":1},"node":"node-2","version":"3.9"}"#
        );
        assert_eq!(text(not_found(&node)), r#"{"found":false,"node":"node-2"}"#);
        assert_eq!(text(stored(&node, version)), r#"{"success":true,"node":"node-2","version":"3.9"}"#);
        assert_eq!(text(deleted(false, &node)), r#"{"deleted":false,"node":"node-2"}"#);
    }
}
