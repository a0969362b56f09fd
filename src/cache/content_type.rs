//! What the bytes of a value are: a media type, kept with the entry and given back with it.
//!
//! JSON is the empty text in every format, so that the usual entry carries nothing for it.

use std::fmt;

use bytes::Bytes;

use super::limits::{bad_request, too_large};
use crate::service::ServiceError;

/// Longest accepted content type, in bytes.
pub const MAX_CONTENT_TYPE_BYTES: usize = 255;

const JSON: &str = "application/json";
const BINARY: &str = "application/octet-stream";

/// A media type with its parameters, as HTTP has it: `text/html; charset=utf-8`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContentType {
    /// Visible ASCII and spaces; empty for JSON.
    stored: Bytes,
}

impl ContentType {
    /// `application/json`: the value was checked to be JSON text.
    pub const JSON: Self = Self { stored: Bytes::new() };
    /// `application/octet-stream`: bytes of which nobody said what they are.
    pub const BINARY: Self = Self { stored: Bytes::from_static(BINARY.as_bytes()) };

    /// Checks a content type as a caller gives it.
    ///
    /// # Errors
    /// `bad_request` where it has not the form `type/subtype`, `too_large` over [`MAX_CONTENT_TYPE_BYTES`].
    pub fn new(text: &str) -> Result<Self, ServiceError> {
        Self::from_stored(Bytes::copy_from_slice(checked(text)?.as_bytes()))
    }

    /// From the form it has in records and messages; nothing is copied.
    pub(super) fn from_stored(stored: Bytes) -> Result<Self, ServiceError> {
        check_stored(&stored)?;
        Ok(Self { stored })
    }

    /// The form it has in records and messages.
    pub(super) fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// As HTTP has it.
    pub fn as_str(&self) -> &str {
        as_str(&self.stored)
    }

    /// The bytes of [`ContentType::as_str`], shared.
    pub fn into_bytes(self) -> Bytes {
        if self.stored.is_empty() { Bytes::from_static(JSON.as_bytes()) } else { self.stored }
    }

    /// Whether values of this type are JSON text: `application/json` and whatever ends in `+json`.
    pub fn is_json(&self) -> bool {
        is_json(&self.stored)
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text of a stored content type.
pub(super) fn as_str(stored: &[u8]) -> &str {
    // Only ASCII is ever stored.
    if stored.is_empty() { JSON } else { std::str::from_utf8(stored).unwrap_or(BINARY) }
}

/// Whether values of a stored content type are JSON text.
pub(super) fn is_json(stored: &[u8]) -> bool {
    stored.is_empty() || {
        let essence = essence(as_str(stored));
        essence.eq_ignore_ascii_case(JSON) || has_suffix(essence, "+json")
    }
}

/// Whether values of a stored content type are meant to be read by people: `text/*`, forms, XML.
pub(super) fn is_text(stored: &[u8]) -> bool {
    let essence = essence(as_str(stored));
    let begins = |start: &str| essence.get(..start.len()).is_some_and(|text| text.eq_ignore_ascii_case(start));
    let known = ["application/x-www-form-urlencoded", "application/xml"];
    begins("text/") || known.iter().any(|name| essence.eq_ignore_ascii_case(name)) || has_suffix(essence, "+xml")
}

/// Type and subtype, without parameters.
fn essence(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim_end()
}

fn has_suffix(essence: &str, suffix: &str) -> bool {
    let start = essence.len().saturating_sub(suffix.len());
    essence.get(start..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// Checks what came as a stored content type; empty is JSON.
pub(super) fn check_stored(stored: &[u8]) -> Result<(), ServiceError> {
    if stored.is_empty() {
        return Ok(());
    }
    let text = std::str::from_utf8(stored).map_err(|_| bad_request("field \"content_type\": it is not ASCII"))?;
    checked(text).map(|_| ())
}

/// The form in which it is stored, or why it is refused.
fn checked(text: &str) -> Result<&str, ServiceError> {
    let size = text.len();
    if size > MAX_CONTENT_TYPE_BYTES {
        let limit = MAX_CONTENT_TYPE_BYTES;
        return Err(too_large(format!("field \"content_type\": {size} bytes is over the limit of {limit} bytes")));
    }
    let token = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
        !part.is_empty() && part.bytes().all(allowed)
    };
    let printable = text.bytes().all(|b| matches!(b, b' '..=b'~'));
    let well_formed = essence(text).split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub));
    if !printable || !well_formed {
        let given = text.escape_debug();
        return Err(bad_request(format!("field \"content_type\": '{given}' is not of the form type/subtype")));
    }
    Ok(if text == JSON { "" } else { text })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_kept_as_given_and_json_takes_no_room() {
        for text in ["text/html; charset=utf-8", "application/JSON", "image/svg+xml", "application/vnd.x.v1+json"] {
            assert_eq!(ContentType::new(text).unwrap().as_str(), text);
        }
        let json = ContentType::new("application/json").unwrap();
        assert_eq!((json.stored().len(), json.as_str()), (0, "application/json"));
        assert_eq!((json.clone(), json.into_bytes()), (ContentType::JSON, Bytes::from_static(b"application/json")));
    }

    #[test]
    fn json_and_text_are_told_by_type_and_suffix_in_any_case() {
        let is = |text: &str| {
            let content_type = ContentType::new(text).unwrap();
            (content_type.is_json(), is_text(content_type.stored()))
        };
        for json in ["application/json", "Application/Json;charset=utf-8", "application/problem+json"] {
            assert_eq!(is(json), (true, false), "{json}");
        }
        for text in ["text/plain", "TEXT/html ; charset=x", "application/xml", "image/svg+xml"] {
            assert_eq!(is(text), (false, true), "{text}");
        }
        for other in ["application/octet-stream", "image/png", "application/jsonl", "x/json"] {
            assert_eq!(is(other), (false, false), "{other}");
        }
    }

    #[test]
    fn what_is_no_content_type_is_refused() {
        for bad in ["", "text", "text/", "/html", "text/ht ml", "a/b/c", "text/html\r\nx: y", "text/h\u{e9}", "text/\0"]
        {
            assert_eq!(ContentType::new(bad).unwrap_err().code, "bad_request", "{bad:?}");
        }
        let long = format!("text/{}", "x".repeat(MAX_CONTENT_TYPE_BYTES - 5));
        assert!(ContentType::new(&long).is_ok());
        assert_eq!(ContentType::new(&format!("{long}x")).unwrap_err().code, "too_large");
    }
}
