//! Read-modify-write under a partition's lock: increment, and get-or-set.
//!
//! Both look before they make room, so that what is refused or only read costs nobody else's entries; what is found
//! under the lock decides. To the copies they are ordinary writes.

use std::time::Duration;

use super::content_type::{self, is_json};
use super::item::{Item, heaviest};
use super::limits::bad_request;
use super::once::Outcome;
use super::partition::Held;
use super::refused::Refused;
use super::stats::add;
use super::store::{NewValue, Store, ensure_serving, not_held};
use super::write::Write;
use crate::service::{ServiceError, UNKNOWN};
use crate::types::{Time, Version};

/// The longest text of an integer: `-9223372036854775808`.
const INTEGER_MAX_BYTES: usize = 20;

impl Store {
    /// Adds to the integer that the entry is, or to 0 where there is none; the sum and the version of the write. With a
    /// time to live it lives that long from now on, else as long as it would have.
    pub(super) fn increment(
        &self,
        write: &Write<'_>,
        by: i64,
        ttl: Option<Duration>,
    ) -> Result<(i64, Version), Refused> {
        let Write { grant, key, .. } = *write;
        let now = self.clock().now();
        let partition = self.partition(grant.partition).ok_or_else(|| not_held(grant))?;
        let type_len = {
            let held = partition.read();
            ensure_serving(&held, grant)?;
            if let Some((version, Outcome::Incremented(value))) = write.executed_before(&held)? {
                return Ok((value, version));
            }
            let item = held.map.look(key, now);
            sum(item, by).map_err(judged(&held, item))?;
            item.map_or(0, |item| item.content_type.len())
        };
        let content_len = key.len() + type_len + INTEGER_MAX_BYTES;
        self.ensure_can_ever_fit(content_len, INTEGER_MAX_BYTES)?;
        self.prepare_room(&partition, heaviest(content_len), now);
        let mut held = partition.write();
        ensure_serving(&held, grant)?;
        if let Some((version, Outcome::Incremented(value))) = write.executed_before(&held)? {
            return Ok((value, version));
        }
        let item = held.map.look(key, now);
        let sum = sum(item, by).map_err(judged(&held, item))?;
        let ttl = ttl.or_else(|| item.and_then(|item| item.remaining(now)));
        let content_type = item.map_or(Vec::new(), |item| item.content_type.to_vec());
        let text = sum.to_string();
        let value = NewValue { bytes: text.as_bytes(), content_type: &content_type, ttl };
        Ok((sum, self.replace(&mut held, write, value, now, Outcome::Incremented(sum))?))
    }

    /// Reads the live entry with this key, or stores the value where there is none. What `answer` made of the entry that was
    /// found, `None` where the value was stored; and the version that either goes back to.
    pub(super) fn get_or_set<T>(
        &self,
        write: &Write<'_>,
        value: NewValue<'_>,
        answer: impl Fn(&Item<'_>, Time) -> Result<T, ServiceError>,
    ) -> Result<(Option<T>, Version), Refused> {
        let Write { grant, key, .. } = *write;
        let content_len = key.len() + value.content_type.len() + value.bytes.len();
        self.ensure_can_ever_fit(content_len, value.bytes.len())?;
        let now = self.clock().now();
        let partition = self.partition(grant.partition).ok_or_else(|| not_held(grant))?;
        let first_look = got(&partition.read(), write, now, &answer)?;
        match first_look {
            Some(got) if !write.is_remembered_anyway() => return Ok(self.counted(got)),
            Some(_) => {}
            None => self.prepare_room(&partition, heaviest(content_len), now),
        }
        let mut held = partition.write();
        if let Some((found, version)) = got(&held, write, now, &answer)? {
            let remembered = found.as_ref().and_then(|_| write.changed_nothing(&mut held, now, Some(version)));
            return Ok(self.counted((found, remembered.unwrap_or(version))));
        }
        add(&self.counters.misses, 1);
        Ok((None, self.replace(&mut held, write, value, now, Outcome::Stored { created: true })?))
    }

    /// Counts the reading of an entry.
    fn counted<T>(&self, got: (Option<T>, Version)) -> (Option<T>, Version) {
        add(&self.counters.hits, u64::from(got.0.is_some()));
        got
    }
}

/// What a `get_or_set` comes to, as there, where there is nothing to store: it was done before, or there is an entry.
fn got<T>(
    held: &Held,
    write: &Write<'_>,
    now: Time,
    answer: impl Fn(&Item<'_>, Time) -> Result<T, ServiceError>,
) -> Result<Option<(Option<T>, Version)>, Refused> {
    ensure_serving(held, write.grant)?;
    let before = write.executed_before(held)?;
    if let Some((version, Outcome::Stored { .. })) = before {
        return Ok(Some((None, version)));
    }
    match (held.map.get(write.key, now), before) {
        (Some(item), before) => {
            let version = before.map_or(item.version, |(version, _)| version.max(item.version));
            let answer = answer(&item, now).map_err(Refused::by(version))?;
            Ok(Some((Some(answer), version)))
        }
        (None, None) => Ok(None),
        // To store now would undo what was done since it was answered.
        (None, Some(_)) => {
            let message = "it was executed before, and found an entry which is gone since; nothing was stored";
            Err(ServiceError::new(UNKNOWN, message).into())
        }
    }
}

/// A refusal for what the entry is.
fn judged(held: &Held, item: Option<Item<'_>>) -> impl FnOnce(ServiceError) -> Refused {
    Refused::by(item.map_or(held.last_version(), |item| item.version))
}

/// What the integer is after adding.
fn sum(item: Option<Item<'_>>, by: i64) -> Result<i64, ServiceError> {
    let before = item.map_or(Ok(0), |item| integer(&item))?;
    before.checked_add(by).ok_or_else(|| {
        bad_request(format!(
            "incr: {before} and {by} are beyond what an integer here can be, {} to {}; nothing was executed",
            i64::MIN,
            i64::MAX
        ))
    })
}

/// The integer that an entry is.
fn integer(item: &Item<'_>) -> Result<i64, ServiceError> {
    let text = std::str::from_utf8(item.value).ok().filter(|_| is_json(item.content_type));
    text.and_then(|text| text.trim_ascii().parse().ok()).ok_or_else(|| {
        let content_type = content_type::as_str(item.content_type);
        let shown = text.filter(|text| text.len() <= 40).map_or(String::new(), |text| format!(" ({text})"));
        let len = item.value.len();
        bad_request(format!(
            "incr: the entry is no integer from {} to {} but {len} bytes of {content_type}{shown}; nothing was executed",
            i64::MIN,
            i64::MAX
        ))
    })
}
