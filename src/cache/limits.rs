//! What the cache accepts: sizes of keys and values, times to live. Refusals name field, given value and limit.

use std::time::Duration;

use crate::service::ServiceError;

/// Longest accepted key, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;
/// Longest accepted value where the NATS server's `max_payload` allows it: JSON text, in bytes.
pub const MAX_VALUE_BYTES: usize = 768 * 1024;
/// Longest accepted time to live, in seconds: ten years.
pub const MAX_TTL_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// What goes around a value in a message: key, envelope, headers, the fields of the answer.
const AROUND_VALUE_BYTES: usize = MAX_KEY_BYTES + 4096;

/// Code of a request that is wrong in itself.
pub(super) const BAD_REQUEST: &str = "bad_request";
/// Code of a request over a limit of size.
pub(super) const TOO_LARGE: &str = "too_large";
/// Code of a request that came where the partition is not held.
pub(super) const UNAVAILABLE: &str = "unavailable";

pub(super) fn bad_request(message: impl Into<String>) -> ServiceError {
    ServiceError::new(BAD_REQUEST, message)
}

pub(super) fn too_large(message: impl Into<String>) -> ServiceError {
    ServiceError::new(TOO_LARGE, message)
}

/// The limits that depend on where the cache runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest accepted value, in bytes.
    pub max_value_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_value_bytes: MAX_VALUE_BYTES }
    }
}

impl Limits {
    /// The limits behind a NATS server with this `max_payload`: a value must fit a message with all that goes around it.
    pub fn within_payload(max_payload_bytes: usize) -> Self {
        Self { max_value_bytes: MAX_VALUE_BYTES.min(max_payload_bytes.saturating_sub(AROUND_VALUE_BYTES)) }
    }

    /// Checks the size of a value.
    ///
    /// # Errors
    /// `too_large` over the limit.
    pub fn check_value(&self, value: &[u8]) -> Result<(), ServiceError> {
        if value.len() <= self.max_value_bytes {
            return Ok(());
        }
        let (size, limit) = (value.len(), self.max_value_bytes);
        Err(too_large(format!("field \"value\": {size} bytes is over the limit of {limit} bytes")))
    }

    /// Checks the size of an answer in JSON, where a value that is not JSON may take more than it has bytes.
    pub(super) fn check_answer(&self, answer: &[u8]) -> Result<(), ServiceError> {
        let (size, limit) = (answer.len(), self.max_value_bytes + AROUND_VALUE_BYTES);
        if size <= limit {
            return Ok(());
        }
        Err(too_large(format!(
            "this value takes {size} bytes as JSON, over the limit of {limit} bytes of an answer over NATS; read it over \
             HTTP, from /v1/keys/"
        )))
    }
}

/// Checks a key: 1 to [`MAX_KEY_BYTES`] bytes.
///
/// # Errors
/// `bad_request` where it is empty, `too_large` where it is too long.
pub fn check_key(key: &[u8]) -> Result<(), ServiceError> {
    match key.len() {
        0 => Err(bad_request(format!("field \"key\": it is empty; 1 to {MAX_KEY_BYTES} bytes are allowed"))),
        1..=MAX_KEY_BYTES => Ok(()),
        size => Err(too_large(format!("field \"key\": {size} bytes is over the limit of {MAX_KEY_BYTES} bytes"))),
    }
}

/// A time to live given in seconds; `None` for 0, which means none.
///
/// # Errors
/// `bad_request` where it is negative, not a number or longer than [`MAX_TTL_SECONDS`].
pub fn ttl_from_seconds(seconds: f64) -> Result<Option<Duration>, ServiceError> {
    // Also false for NaN.
    if !(0.0..=MAX_TTL_SECONDS as f64).contains(&seconds) {
        return Err(ttl_refused(seconds));
    }
    // Rounded up: a time that was asked for must not become none.
    let ttl = Duration::from_millis((seconds * 1000.0).ceil() as u64);
    Ok((!ttl.is_zero()).then_some(ttl))
}

/// Checks a time to live that is a duration already.
///
/// # Errors
/// `bad_request` where it is zero or longer than [`MAX_TTL_SECONDS`].
pub fn check_ttl(ttl: Duration) -> Result<(), ServiceError> {
    if ttl.is_zero() || ttl > Duration::from_secs(MAX_TTL_SECONDS) {
        return Err(ttl_refused(ttl.as_secs_f64()));
    }
    Ok(())
}

fn ttl_refused(given: f64) -> ServiceError {
    bad_request(format!(
        "field \"ttl\": {given:?} s is outside 0 to {MAX_TTL_SECONDS} s (10 years); 0 or absent means none"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_taken_up_to_their_limit_and_refused_with_size_and_limit_beyond() {
        assert!(check_key(b"k").is_ok() && check_key(&[7; MAX_KEY_BYTES]).is_ok());
        assert_eq!(check_key(b"").unwrap_err().code, BAD_REQUEST);
        let long = check_key(&[7; MAX_KEY_BYTES + 1]).unwrap_err();
        assert_eq!(long.code, TOO_LARGE);
        assert!(long.message.contains("\"key\"") && long.message.contains("1025") && long.message.contains("1024"));
        let limits = Limits { max_value_bytes: 10 };
        assert!(limits.check_value(&[7; 10]).is_ok());
        let large = limits.check_value(&[7; 11]).unwrap_err();
        assert_eq!(large.code, TOO_LARGE);
        assert!(large.message.contains("\"value\"") && large.message.contains("11 bytes"), "{large}");
    }

    #[test]
    fn times_to_live_are_taken_with_fractions_and_refused_when_negative_absurd_or_no_number() {
        assert_eq!(ttl_from_seconds(0.0).unwrap(), None);
        assert_eq!(ttl_from_seconds(-0.0).unwrap(), None);
        assert_eq!(ttl_from_seconds(1.5).unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!(ttl_from_seconds(0.000_01).unwrap(), Some(Duration::from_millis(1)));
        assert!(ttl_from_seconds(MAX_TTL_SECONDS as f64).is_ok());
        for bad in [-0.001, -1.0, f64::NAN, f64::INFINITY, MAX_TTL_SECONDS as f64 + 1.0] {
            let refused = ttl_from_seconds(bad).unwrap_err();
            assert_eq!(refused.code, BAD_REQUEST);
            assert!(refused.message.contains("\"ttl\"") && refused.message.contains("315360000"), "{refused}");
        }
        assert!(check_ttl(Duration::ZERO).is_err() && check_ttl(Duration::from_secs(MAX_TTL_SECONDS + 1)).is_err());
    }

    #[test]
    fn the_value_limit_follows_a_small_max_payload_and_never_exceeds_its_own() {
        assert_eq!(Limits::within_payload(1024 * 1024).max_value_bytes, MAX_VALUE_BYTES);
        assert_eq!(Limits::within_payload(64 * 1024).max_value_bytes, 64 * 1024 - 5120);
        assert_eq!(Limits::within_payload(100).max_value_bytes, 0);
    }
}
