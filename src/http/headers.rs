//! HTTP's own words for what the cache knows: entity tags, preconditions, times to live, content types.
//!
//! In: request headers, as RFC 9110 and RFC 9111 define them. Out: the cache's types; and back, for answers.

use std::time::Duration;

use axum::http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH,
};
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;

use super::ApiError;
use crate::cache::{Condition, ContentType, MAX_TTL_SECONDS, Matching, Version};
use crate::types::{Consistency, RequestId};

/// An entity tag: opaque to everybody else, a version to us.
#[derive(Debug, PartialEq, Eq)]
struct Tag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

/// Ours: how many copies must have what is written or read.
const CONSISTENCY: HeaderName = HeaderName::from_static("consistency");

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// `Consistency`.
pub(super) fn consistency(headers: &HeaderMap) -> Result<Option<Consistency>, ApiError> {
    let mut lines = headers.get_all(CONSISTENCY).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let text = String::from_utf8_lossy(line.as_bytes());
    if lines.next().is_some() {
        return Err(ApiError::bad_request("header consistency: it is there more than once"));
    }
    let level = text.trim().parse().map_err(|error| ApiError::bad_request(format!("header consistency: {error}")))?;
    Ok(Some(level))
}

/// The name its client gives a request (draft-ietf-httpapi-idempotency-key-header): a string in quotes, or without.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Bytes>, ApiError> {
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let refused = |what: String| ApiError::bad_request(format!("header idempotency-key: {what}"));
    if lines.next().is_some() {
        return Err(refused("it is there more than once".to_owned()));
    }
    let given = line.as_bytes().trim_ascii();
    let name = given.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(given);
    // Whether it is one does not depend on what it names.
    RequestId::named(name, "", b"").map_err(|error| refused(error.to_string()))?;
    Ok(Some(Bytes::copy_from_slice(name)))
}

/// `If-Match` and `If-None-Match`.
pub(super) fn preconditions(headers: &HeaderMap) -> Result<Condition, ApiError> {
    // Weak tags never match strongly; with weak comparison, being weak does not matter.
    let if_match = matching(headers, &IF_MATCH, |tag| !tag.weak)?;
    let if_none_match = matching(headers, &IF_NONE_MATCH, |_| true)?;
    Ok(Condition { if_match, if_none_match })
}

fn matching(
    headers: &HeaderMap,
    name: &HeaderName,
    counts: impl Fn(&Tag<'_>) -> bool,
) -> Result<Option<Matching>, ApiError> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    if let [line] = lines[..]
        && line.trim_ascii() == b"*"
    {
        return Ok(Some(Matching::Any));
    }
    let mut versions = Vec::new();
    let mut tags = 0;
    for line in lines {
        let mut rest = line;
        while let Some((tag, left)) = next_tag(rest).ok_or_else(|| bad_tags(name, line))? {
            tags += 1;
            rest = left;
            // A tag that is no version of ours matches none.
            let version: Option<Version> = std::str::from_utf8(tag.opaque).ok().and_then(|text| text.parse().ok());
            versions.extend(version.filter(|_| counts(&tag)));
        }
    }
    if tags == 0 {
        return Err(bad_tags(name, b""));
    }
    Ok(Some(Matching::OneOf(versions)))
}

/// The next tag of a list and what follows it; `Some(None)` at its end, `None` where it is malformed.
fn next_tag(list: &[u8]) -> Option<Option<(Tag<'_>, &[u8])>> {
    // Elements may be empty.
    let start = list.iter().position(|b| !matches!(b, b' ' | b'\t' | b','));
    let Some(start) = start else { return Some(None) };
    let rest = &list[start..];
    let (weak, rest) = rest.strip_prefix(b"W/").map_or((false, rest), |rest| (true, rest));
    let rest = rest.strip_prefix(b"\"")?;
    let end = rest.iter().position(|b| *b == b'"')?;
    let (opaque, after) = (&rest[..end], rest[end + 1..].trim_ascii_start());
    let ended = matches!(after.first(), None | Some(b','));
    let legal = opaque.iter().all(|b| matches!(b, 0x21 | 0x23..=0x7e | 0x80..));
    (ended && legal).then_some(Some((Tag { weak, opaque }, after)))
}

fn bad_tags(name: &HeaderName, line: &[u8]) -> ApiError {
    let given = line.escape_ascii();
    ApiError::bad_request(format!("header {name}: '{given}' is neither * nor a list of entity tags such as \"4.17\""))
}

/// The time to live in `Cache-Control: max-age=…`. Directives that say nothing about it are ignored, as RFC 9111 has it.
pub(super) fn ttl(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let refused = |what: String| Err(ApiError::bad_request(format!("header cache-control: {what}")));
    let mut ttl = None;
    for line in headers.get_all(CACHE_CONTROL) {
        let Ok(line) = line.to_str() else { return refused("it is not ASCII".to_owned()) };
        for directive in line.split(',') {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            let name = name.trim();
            if name.eq_ignore_ascii_case("no-store") {
                return refused("no-store asks that nothing is stored".to_owned());
            }
            if !name.eq_ignore_ascii_case("max-age") {
                continue;
            }
            let argument = argument.trim();
            let digits = argument.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(argument);
            let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            // More digits than a number holds are a number over the limit.
            let seconds = whole.then(|| digits.parse().unwrap_or(u64::MAX));
            let Some(seconds) = seconds.filter(|seconds| (1..=MAX_TTL_SECONDS).contains(seconds)) else {
                let given = argument.escape_debug();
                return refused(format!(
                    "max-age is '{given}'; whole seconds from 1 to {MAX_TTL_SECONDS} (10 years) are allowed, leave it out for no end"
                ));
            };
            if ttl.replace(Duration::from_secs(seconds)).is_some() {
                return refused("max-age is given more than once".to_owned());
            }
        }
    }
    Ok(ttl)
}

/// What the body is. Parts of a value and encoded ones are refused: they would come back as something else.
pub(super) fn content_type(headers: &HeaderMap) -> Result<ContentType, ApiError> {
    if headers.contains_key(CONTENT_RANGE) {
        return Err(ApiError::bad_request("header content-range: a value is stored whole, not in parts"));
    }
    let identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| !identity(encoding)) {
        return Err(ApiError::bad_request(
            "header content-encoding: it is not kept; send the value as it is, or its encoded form under a content type of its own",
        ));
    }
    match headers.get(CONTENT_TYPE) {
        None => Ok(ContentType::BINARY),
        // What is not ASCII is refused like anything else that is no content type.
        Some(given) => Ok(ContentType::new(&String::from_utf8_lossy(given.as_bytes()))?),
    }
}

/// A strong entity tag.
pub(super) fn etag(version: Version) -> HeaderValue {
    header_value(format!("\"{version}\""))
}

/// What an answer about an entry says of it, whether it carries the value or not: its tag, age and time to live.
///
/// `max-age` counts from when the value was written, as `Age` does: what is left is their difference, for caches on the
/// way as well.
pub(super) fn describe(headers: &mut HeaderMap, version: Version, age: Duration, remaining_ttl: Option<Duration>) {
    headers.insert(ETAG, etag(version));
    headers.insert(AGE, HeaderValue::from(age.as_secs()));
    if let Some(left) = remaining_ttl {
        let max_age = age.saturating_add(left).as_secs();
        headers.insert(CACHE_CONTROL, header_value(format!("max-age={max_age}")));
    }
}

/// A content type as a header.
pub(super) fn content_type_value(content_type: ContentType) -> HeaderValue {
    HeaderValue::from_maybe_shared(content_type.into_bytes())
        .unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// Digits, dots and quotes are always legal.
fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    fn headers(name: HeaderName, lines: &[&[u8]]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), HeaderValue::from_bytes(line).unwrap())).collect()
    }

    fn version(sequence: u64) -> Version {
        Version { epoch: Epoch::new(4), sequence }
    }

    #[test]
    fn tags_are_read_as_lists_and_weak_ones_match_only_weakly() {
        let one_of = |versions: &[u64]| Some(Matching::OneOf(versions.iter().map(|v| version(*v)).collect()));
        let cases: [(&[&[u8]], _, _); 7] = [
            (&[b"*"], Some(Matching::Any), Some(Matching::Any)),
            (&[b"\"4.1\""], one_of(&[1]), one_of(&[1])),
            (&[b" ,\"4.1\" ,\t, W/\"4.2\",\"4.3\","], one_of(&[1, 3]), one_of(&[1, 2, 3])),
            (&[b"\"4.1\"", b"\"4.2\""], one_of(&[1, 2]), one_of(&[1, 2])),
            (&[b"\"a,b\", \"\", \"\xff\", \"04.1\""], one_of(&[]), one_of(&[])),
            (&[b"\"*\""], one_of(&[]), one_of(&[])),
            (&[], None, None),
        ];
        for (lines, if_match, if_none_match) in cases {
            assert_eq!(preconditions(&headers(IF_MATCH, lines)).unwrap().if_match, if_match, "{lines:?}");
            assert_eq!(
                preconditions(&headers(IF_NONE_MATCH, lines)).unwrap().if_none_match,
                if_none_match,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn what_is_no_list_of_tags_is_refused() {
        let cases: [&[&[u8]]; 11] = [
            &[b""],
            &[b" , "],
            &[b"4.1"],
            &[b"\"4.1"],
            &[b"\"4.1\" \"4.2\""],
            &[b"\"4.1\"x"],
            &[b"w/\"4.1\""],
            &[b"\"4 1\""],
            &[b"*, \"4.1\""],
            &[b"*", b"*"],
            &[b"W/4.1"],
        ];
        for lines in cases {
            for name in [IF_MATCH, IF_NONE_MATCH] {
                assert!(preconditions(&headers(name, lines)).is_err(), "{lines:?}");
            }
        }
    }

    #[test]
    fn the_time_to_live_is_the_only_directive_that_counts() {
        let of = |line: &str| ttl(&headers(CACHE_CONTROL, &[line.as_bytes()]));
        assert_eq!(ttl(&HeaderMap::new()).unwrap(), None);
        for (line, seconds) in [
            ("max-age=60", Some(60)),
            ("public, MAX-AGE=1 , immutable", Some(1)),
            ("max-age=\"60\"", Some(60)),
            ("max-age=315360000", Some(315_360_000)),
            ("no-cache, s-maxage=5, private=\"x\", stale-if-error=3", None),
            ("", None),
        ] {
            assert_eq!(of(line).unwrap(), seconds.map(Duration::from_secs), "{line}");
        }
        for bad in [
            "max-age",
            "max-age=",
            "max-age=0",
            "max-age=-1",
            "max-age=1.5",
            "max-age=+1",
            "max-age=1e3",
            "max-age=315360001",
            "max-age=99999999999999999999999",
            "max-age=1, max-age=1",
            "no-store",
            "max-age=5, No-Store",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_name_of_a_request_is_taken_with_quotes_or_without_and_what_is_none_is_refused() {
        let of = |lines: &[&[u8]]| idempotency_key(&headers(IDEMPOTENCY_KEY, lines));
        assert_eq!(of(&[]).unwrap(), None);
        for given in ["\"order-7\"", " order-7 ", "order-7"] {
            assert_eq!(of(&[given.as_bytes()]).unwrap().unwrap(), "order-7", "{given}");
        }
        let bad: [&[&[u8]]; 5] = [&[b""], &[b"\"\""], &[&[b'x'; 65]], &[b"a", b"a"], &[b"\xc3\xa9"]];
        for lines in bad {
            assert!(of(lines).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn max_age_less_age_is_what_is_left() {
        let mut headers = HeaderMap::new();
        describe(&mut headers, version(9), Duration::from_millis(10_700), Some(Duration::from_millis(49_300)));
        assert_eq!(headers[ETAG], "\"4.9\"");
        assert_eq!(
            (&headers[AGE], &headers[CACHE_CONTROL]),
            (&HeaderValue::from(10), &HeaderValue::from_static("max-age=60"))
        );
        let mut headers = HeaderMap::new();
        describe(&mut headers, version(9), Duration::ZERO, None);
        assert!(!headers.contains_key(CACHE_CONTROL));
    }
}
