//! The JSON of what reads and writes in one: `incr` and `get-or-set`.

use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Limits, NodeName, ServiceError, SetRequest, Version};
use super::{bad_request, described, fields, parse_value, ttl_of, with_value};
use crate::cache::condition::Condition;

/// The body of an `incr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncrementRequest {
    /// What is added: 1 where nothing is said.
    pub by: i64,
    /// How long it lives from now on; `None` for as long as it would have.
    pub ttl: Option<Duration>,
}

/// The body of an `incr`.
///
/// # Errors
/// `bad_request`, naming the field.
pub fn parse_increment(body: &[u8]) -> Result<IncrementRequest, ServiceError> {
    let fields = fields("incr", body)?;
    let by = fields.by.map_or(Ok(1), by_of)?;
    Ok(IncrementRequest { by, ttl: fields.ttl.map(ttl_of).transpose()?.flatten() })
}

fn by_of(raw: &RawValue) -> Result<i64, ServiceError> {
    if raw.get() == "null" {
        return Ok(1);
    }
    raw.get().parse().map_err(|_| {
        let (least, most, got) = (i64::MIN, i64::MAX, described(raw));
        bad_request(format!("field \"by\": expected an integer from {least} to {most}, got {got}"))
    })
}

/// The body of a `get-or-set`: as that of a `set`, without a precondition.
///
/// # Errors
/// `bad_request` or `too_large`, naming field, value and limit.
pub fn parse_get_or_set(body: &[u8], limits: &Limits) -> Result<SetRequest, ServiceError> {
    let request = parse_value("get-or-set", body, limits)?;
    if request.condition == Condition::NONE {
        return Ok(request);
    }
    Err(bad_request("get-or-set: it asks nothing of the entry; leave \"if_version\" and \"if_absent\" out"))
}

/// `{"value":…,"node":…,"version":…}`.
pub fn incremented(value: i64, node: &NodeName, version: Version) -> Bytes {
    format!(r#"{{"value":{value},"node":"{node}","version":"{version}"}}"#).into()
}

/// `{"stored":false,"value":…,"node":…,"version":…}`: what was there, as a `get` answers it.
pub(in crate::cache) fn got_or_set_stored(
    value: &[u8],
    content_type: &[u8],
    node: &NodeName,
    version: Version,
) -> Bytes {
    with_value(br#"{"stored":false,"value":"#, value, content_type, node, version)
}

/// `{"stored":true,"value":…,"node":…,"version":…}`: nothing was there, the JSON value given is from now on.
pub(in crate::cache) fn set_instead(value: &[u8], node: &NodeName, version: Version) -> Bytes {
    with_value(br#"{"stored":true,"value":"#, value, b"", node, version)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_increment_is_by_one_where_nothing_is_said_and_what_is_no_integer_is_refused() {
        let by = |fields: &str| parse_increment(format!(r#"{{"key":"k"{fields}}}"#).as_bytes()).map(|it| it.by);
        for (fields, expected) in [("", 1), (r#","by":null"#, 1), (r#","by":-7"#, -7), (r#","by":0"#, 0)] {
            assert_eq!(by(fields).unwrap(), expected, "{fields}");
        }
        assert_eq!(by(r#","by":-9223372036854775808"#).unwrap(), i64::MIN);
        for bad in ["1.5", "1e3", "\"1\"", "true", "[1]", "9223372036854775808"] {
            let refused = by(&format!(r#","by":{bad}"#)).unwrap_err();
            assert!(refused.code == "bad_request" && refused.message.contains("field \"by\""), "{bad}: {refused}");
        }
        let with_ttl = parse_increment(br#"{"key":"k","ttl":1.5}"#).unwrap();
        assert_eq!(with_ttl.ttl, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn get_or_set_takes_a_value_and_no_precondition() {
        let limits = Limits { max_value_bytes: 40 };
        let parse = |fields: &str| parse_get_or_set(format!(r#"{{"key":"k"{fields}}}"#).as_bytes(), &limits);
        assert_eq!(parse(r#","value":[1]"#).unwrap().value, "[1]");
        for (bad, names) in [
            ("", "get-or-set: field \"value\" is missing"),
            (r#","value":1,"if_absent":true"#, "if_absent"),
            (r#","value":1,"if_version":"1.1""#, "if_version"),
        ] {
            assert!(parse(bad).unwrap_err().message.contains(names), "{bad}");
        }
    }
}
