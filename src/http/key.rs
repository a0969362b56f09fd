//! The key a request is about, in its query or its path: raw text of which no byte is guessed.

use std::borrow::Cow;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use percent_encoding::percent_decode;

use super::ApiError;
use crate::cache::check_key;

/// The key a request is about, within the cache's limits.
#[derive(Debug)]
pub(super) struct Key(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let key = parameter(parts.uri.query().unwrap_or(""), "key")?;
        let key = key.ok_or_else(|| ApiError::bad_request("parameter \"key\" is missing: write ?key=…"))?;
        check_key(key.as_bytes())?;
        Ok(Self(key))
    }
}

/// The key in the rest of a path, slashes included; within the cache's limits.
pub(super) fn key_in_path(rest: &str) -> Result<String, ApiError> {
    let hex = |at: usize| rest.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    if let Some((at, _)) = rest.match_indices('%').find(|(at, _)| !hex(at + 1) || !hex(at + 2)) {
        let given: String = rest[at..].chars().take(3).collect();
        return Err(ApiError::bad_request(format!(
            "the key in the path: '{given}' is no percent-encoding; a % is %25"
        )));
    }
    let key = percent_decode(rest.as_bytes()).decode_utf8();
    let key = key.map_err(|_| ApiError::bad_request("the key in the path is not UTF-8 after percent-decoding"))?;
    check_key(key.as_bytes())?;
    Ok(key.into_owned())
}

/// The parameter with this name, decoded; `None` where it is absent.
///
/// Unlike common form decoders this refuses bytes that are not UTF-8: replacing them would let two keys meet in one.
pub(super) fn parameter(query: &str, name: &str) -> Result<Option<String>, ApiError> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(key, _)| decode(key).is_some_and(|key| key == name)).map(|(_, value)| value);
    let (value, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(ApiError::bad_request(format!("parameter \"{name}\" is given more than once")));
    }
    let refused = || ApiError::bad_request(format!("parameter \"{name}\" is not UTF-8 after percent-decoding"));
    value.map(|value| decode(value).ok_or_else(refused)).transpose()
}

/// As forms encode: `+` is a space, `%XX` a byte.
fn decode(text: &str) -> Option<String> {
    let spaced: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    percent_decode(spaced.as_bytes()).decode_utf8().ok().map(Cow::into_owned)
}
