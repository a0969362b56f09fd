//! Requests with the key in the subject, `<ring>.key.<operation>.<key>`, made into the JSON of [`super::plain`].
//!
//! In: key, payload and headers as they came. Out: the same request as `<ring>.<operation>` takes it. The payload of a `set`
//! or `get-or-set` is the value itself, that of an `incr` the number, so that `nats req cache-platform.key.set.user:1 Alice`
//! does what it says.

use std::borrow::Cow;

use bytes::Bytes;

use super::levels;
use super::limits::{Limits, bad_request, ttl_from_seconds};
use super::plain::check_json;
use crate::service::ServiceError;

/// Header of what stores a value: the time to live in seconds, fractions allowed.
const TTL_HEADER: &str = "Nats-Ring-Ttl";
/// Header of any operation: the consistency asked for.
const CONSISTENCY_HEADER: &str = "Nats-Ring-Consistency";
/// Header of what takes a value: what the payload is, where that is not to be found out by looking at it.
const CONTENT_TYPE: &str = "Content-Type";

/// The body that `<ring>.<operation>` would have.
///
/// # Errors
/// `bad_request` or `too_large`, naming payload or header.
pub(super) fn body(
    operation: &str,
    key: &str,
    payload: Bytes,
    headers: &[(String, String)],
    limits: &Limits,
) -> Result<Bytes, ServiceError> {
    let consistency = header(headers, CONSISTENCY_HEADER).map(consistency).transpose()?.unwrap_or_default();
    let key = json_text(key) + &consistency;
    if matches!(operation, "set" | "get-or-set") {
        let value = value(&payload, header(headers, CONTENT_TYPE))?;
        limits.check_value(&value)?;
        let ttl = header(headers, TTL_HEADER).map(ttl).transpose()?.unwrap_or_default();
        return Ok([br#"{"key":"#, key.as_bytes(), ttl.as_bytes(), br#","value":"#, &value, b"}"].concat().into());
    }
    let object = payload.trim_ascii();
    if operation == "incr" && !object.starts_with(b"{") {
        let ttl = header(headers, TTL_HEADER).map(ttl).transpose()?.unwrap_or_default();
        let by = if object.is_empty() { 1 } else { integer(object)? };
        return Ok(format!(r#"{{"key":{key},"by":{by}{ttl}}}"#).into());
    }
    // Of the others, the object that they take otherwise, without the key.
    match object.strip_prefix(b"{").map(<[u8]>::trim_ascii_start) {
        _ if object.is_empty() => Ok(format!(r#"{{"key":{key}}}"#).into()),
        Some(b"}") => Ok(format!(r#"{{"key":{key}}}"#).into()),
        Some(fields) => Ok([br#"{"key":"#, key.as_bytes(), b",", fields].concat().into()),
        None => {
            Err(bad_request(format!("{operation}: expected no payload, or a JSON object without the field \"key\"")))
        }
    }
}

/// The JSON text of the value: the payload where it is JSON, else the payload as a string.
fn value<'a>(payload: &'a [u8], content_type: Option<&str>) -> Result<Cow<'a, [u8]>, ServiceError> {
    let essence = content_type.map(|text| text.split(';').next().unwrap_or(text).trim().to_ascii_lowercase());
    match essence.as_deref() {
        Some("application/json") => check_json(payload).map(|()| Cow::Borrowed(payload)),
        None if check_json(payload).is_ok() => Ok(Cow::Borrowed(payload)),
        None | Some("text/plain") => match std::str::from_utf8(payload) {
            Ok(text) => Ok(Cow::Owned(json_text(text).into_bytes())),
            Err(error) => Err(bad_request(format!("payload: it is neither JSON nor UTF-8 text: {error}"))),
        },
        Some(other) => Err(bad_request(format!(
            "header \"{CONTENT_TYPE}\": '{other}' is not known; known: application/json, text/plain; without it the \
             payload is taken as JSON where it is, else as text"
        ))),
    }
}

/// What an `incr` adds.
fn integer(text: &[u8]) -> Result<i64, ServiceError> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        bad_request(format!(
            "incr: payload: expected an integer from {} to {}, nothing for 1, or a JSON object without the field \"key\"",
            i64::MIN,
            i64::MAX
        ))
    })
}

/// `,"ttl":<seconds>`.
fn ttl(text: &str) -> Result<String, ServiceError> {
    let seconds: f64 = text
        .trim()
        .parse()
        .map_err(|_| bad_request(format!("header \"{TTL_HEADER}\": expected a number of seconds, got '{text}'")))?;
    ttl_from_seconds(seconds)?;
    // Never with an exponent, and finite by now: a JSON number.
    Ok(format!(r#","ttl":{seconds}"#))
}

/// `,"consistency":"<level>"`.
fn consistency(text: &str) -> Result<String, ServiceError> {
    let level = levels::parse(&format!("header \"{CONSISTENCY_HEADER}\""), text.trim())?;
    Ok(format!(r#","consistency":"{level}""#))
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::plain::parse_set;
    use super::*;
    use std::time::Duration;

    const LIMITS: Limits = Limits { max_value_bytes: 40 };

    fn set(payload: &[u8], headers: &[(&str, &str)]) -> Result<(String, Option<Duration>), ServiceError> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let body = body("set", "k\"1", Bytes::copy_from_slice(payload), &headers, &LIMITS)?;
        let parsed = parse_set(&body, &LIMITS).unwrap();
        assert_eq!(parsed.key, "k\"1");
        Ok((String::from_utf8(parsed.value.to_vec()).unwrap(), parsed.ttl))
    }

    #[test]
    fn a_payload_that_is_json_is_kept_as_it_is_and_any_other_text_becomes_a_string() {
        for (payload, value) in [
            ("Alice", r#""Alice""#),
            (r#""Alice""#, r#""Alice""#),
            ("12.50", "12.50"),
            (r#" {"a": 1} "#, r#"{"a": 1}"#),
            ("", r#""""#),
            ("say \"hi\"\n", r#""say \"hi\"\n""#),
            (r#"1,"ttl":5"#, r#""1,\"ttl\":5""#),
            ("é", r#""é""#),
        ] {
            assert_eq!(set(payload.as_bytes(), &[]).unwrap(), (value.to_owned(), None), "{payload}");
        }
    }

    #[test]
    fn the_content_type_decides_where_it_is_given() {
        let with =
            |payload: &str, kind: &str| set(payload.as_bytes(), &[("content-type", kind)]).map(|(value, _)| value);
        assert_eq!(with("12", "text/plain; charset=utf-8").unwrap(), r#""12""#);
        assert_eq!(with("12", "application/json").unwrap(), "12");
        assert!(with("Alice", "application/json").unwrap_err().message.contains("not JSON"));
        assert!(with("Alice", "image/png").unwrap_err().message.contains("image/png"));
    }

    #[test]
    fn the_ttl_is_a_header_in_seconds_and_what_is_none_is_refused() {
        let with = |ttl: &str| set(b"1", &[(TTL_HEADER, ttl)]).map(|(_, ttl)| ttl);
        assert_eq!(with("1.5").unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!(with("1e2").unwrap(), Some(Duration::from_secs(100)));
        assert_eq!(with("0").unwrap(), None);
        for bad in ["soon", "-1", "nan", "inf", "1e300", ""] {
            let refused = with(bad).unwrap_err();
            assert!(
                refused.code == "bad_request" && refused.message.to_lowercase().contains("ttl"),
                "{bad}: {refused}"
            );
        }
    }

    #[test]
    fn what_is_no_text_or_over_the_limit_is_refused() {
        assert_eq!(set(b"\xff\xfe", &[]).unwrap_err().code, "bad_request");
        assert_eq!(set(&[b'a'; 39], &[]).unwrap_err().code, "too_large");
        assert!(set(&[b'a'; 38], &[]).is_ok());
    }

    #[test]
    fn an_increment_takes_its_number_nothing_or_its_object() {
        let of =
            |payload: &'static str, headers: &[(String, String)]| body("incr", "k", payload.into(), headers, &LIMITS);
        for (payload, expected) in [
            ("", r#"{"key":"k","by":1}"#),
            (" -5\n", r#"{"key":"k","by":-5}"#),
            (r#"{"by":2,"ttl":1}"#, r#"{"key":"k","by":2,"ttl":1}"#),
        ] {
            assert_eq!(of(payload, &[]).unwrap(), expected, "{payload}");
        }
        let ttl = [(TTL_HEADER.to_owned(), "1.5".to_owned())];
        assert_eq!(of("7", &ttl).unwrap(), r#"{"key":"k","by":7,"ttl":1.5}"#);
        for bad in ["1.5", "one", "9223372036854775808", "\"1\""] {
            let refused = of(bad, &[]).unwrap_err();
            assert!(refused.code == "bad_request" && refused.message.contains("integer"), "{bad}: {refused}");
        }
    }

    #[test]
    fn the_others_take_their_object_without_the_key() {
        let of = |payload: &'static str| body("touch", "k", payload.into(), &[], &LIMITS);
        for (payload, expected) in
            [("", r#"{"key":"k"}"#), (" { } ", r#"{"key":"k"}"#), (r#"{ "ttl":1}"#, r#"{"key":"k","ttl":1}"#)]
        {
            assert_eq!(of(payload).unwrap(), expected, "{payload}");
        }
        assert!(of("60").is_err());
    }
}
