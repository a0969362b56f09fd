//! One setting each: from its text to its value, or to what would have been accepted.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use super::{ConfigError, LogFormat, NatsLogin, Settings};
use crate::types::{Consistency, Factor, KeyHash, NAME_MAX_BYTES, OnLoss, PartitionCount};

const LEASE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
const WEIGHT: RangeInclusive<u32> = 1..=1000;
const MEMORY_MIN: ByteSize = ByteSize::mib(16);
const COPY_PARALLEL: RangeInclusive<usize> = 1..=64;
const COPY_RATE_MIN: ByteSize = ByteSize::kb(100);
const RETURN_DELAY_MAX: Duration = Duration::from_secs(3600);
const KV_REPLICAS: [usize; 3] = [1, 3, 5];
const ZONE_MAX_BYTES: usize = 64;
const INBOX_PREFIX_MAX_BYTES: usize = 128;

/// How many bytes of a refused text are repeated.
const SHOWN_MAX_CHARS: usize = 80;

/// The value of a text, or what is accepted instead.
type Parsed<T> = Result<T, String>;

/// The value of a setting that has a default.
pub(super) fn given<T>(
    field: &'static str,
    text: Option<String>,
    default: &str,
    parse: impl FnOnce(&str) -> Parsed<T>,
) -> Result<T, ConfigError> {
    checked(field, text.as_deref().unwrap_or(default), parse)
}

/// The value of a setting that need not be given.
pub(super) fn optional<T>(
    field: &'static str,
    text: Option<String>,
    parse: impl FnOnce(&str) -> Parsed<T>,
) -> Result<Option<T>, ConfigError> {
    text.map(|text| checked(field, &text, parse)).transpose()
}

/// The value of a text.
pub(super) fn checked<T>(
    field: &'static str,
    text: &str,
    parse: impl FnOnce(&str) -> Parsed<T>,
) -> Result<T, ConfigError> {
    parse(text.trim()).map_err(|limit| {
        // Servers may hold a password.
        let given = if field == "nats" { "…".to_owned() } else { shown(text) };
        ConfigError::Invalid { field, given, limit }
    })
}

/// One line, and not a long one.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX_CHARS).flat_map(char::escape_debug).collect()
}

/// A name that becomes one subject token.
pub(super) fn name<T: FromStr>(text: &str) -> Parsed<T> {
    text.parse().map_err(|_| {
        format!("give 1 to {NAME_MAX_BYTES} of the characters a-z A-Z 0-9 - _ (it becomes one token of NATS subjects)")
    })
}

pub(super) fn servers(text: &str) -> Parsed<Vec<String>> {
    let servers: Vec<String> = text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
    if servers.is_empty() {
        return Err("no server is named; give nats://host:port, several separated by commas".to_owned());
    }
    Ok(servers)
}

/// The path of a file; `~` at its begin is the home directory, also where no shell has seen it.
pub(super) fn path(text: &str) -> PathBuf {
    let below_home = text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    match (below_home, std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(text),
    }
}

pub(super) fn truth(text: &str) -> Parsed<bool> {
    text.parse().map_err(|_| "give true or false".to_owned())
}

/// One or more subject tokens, none of them a wildcard.
pub(super) fn inbox_prefix(text: &str) -> Parsed<String> {
    let token = |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && !b"*>".contains(&b));
    if text.len() <= INBOX_PREFIX_MAX_BYTES && text.split('.').all(token) {
        return Ok(text.to_owned());
    }
    Err("give subject tokens such as _INBOX or _INBOX.ring, no wildcards".to_owned())
}

/// `:8081` is loopback: to be reached from elsewhere is asked for, not given.
pub(super) fn http_address(text: &str) -> Parsed<SocketAddr> {
    let loopback = |port: &str| port.parse().ok().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let port_alone = text.strip_prefix(':').or_else(|| text.strip_prefix("localhost:"));
    let address = port_alone.map_or_else(|| text.parse().ok(), loopback);
    address.ok_or_else(|| {
        "give :PORT (loopback) or ADDRESS:PORT such as 0.0.0.0:8080, ports 0 (picks one) to 65535".to_owned()
    })
}

pub(super) fn partitions(text: &str) -> Parsed<PartitionCount> {
    let count = text.parse().ok().and_then(PartitionCount::new);
    count.ok_or_else(|| format!("give a number from 1 to {}", PartitionCount::MAX))
}

pub(super) fn key_hash(text: &str) -> Parsed<KeyHash> {
    text.parse().map_err(|_| format!("give {}", KeyHash::ALL.map(|hash| hash.to_string()).join(" or ")))
}

pub(super) fn zone(text: &str) -> Parsed<String> {
    let fits = (1..=ZONE_MAX_BYTES).contains(&text.len());
    if fits && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Ok(text.to_owned());
    }
    Err(format!("give 1 to {ZONE_MAX_BYTES} printable ASCII characters"))
}

pub(super) fn weight(text: &str) -> Parsed<u32> {
    let limit = || format!("give a number from {} to {}", WEIGHT.start(), WEIGHT.end());
    text.parse().ok().filter(|weight| WEIGHT.contains(weight)).ok_or_else(limit)
}

pub(super) fn lease(text: &str) -> Parsed<Duration> {
    let limit = format!("give {:?} to {:?}, such as 3s or 1500ms", LEASE.start(), LEASE.end());
    duration(text, limit, |lease| LEASE.contains(lease))
}

pub(super) fn wait(text: &str) -> Parsed<Duration> {
    duration(text, "give 0s to 24h, such as 30s or 500ms".to_owned(), |wait| *wait <= WAIT_MAX)
}

fn duration(text: &str, limit: impl Display, fits: impl FnOnce(&Duration) -> bool) -> Parsed<Duration> {
    humantime::parse_duration(text).ok().filter(fits).ok_or_else(|| limit.to_string())
}

pub(super) fn memory(text: &str) -> Parsed<u64> {
    let size = text.parse::<ByteSize>().ok().filter(|size| *size >= MEMORY_MIN && size.as_u64() < u64::MAX);
    size.map(|size| size.as_u64()).ok_or_else(|| "give at least 16MiB, such as 1GiB or 512MB".to_owned())
}

pub(super) fn replicas(text: &str) -> Parsed<Factor> {
    text.parse().map_err(|_| format!("give a number from 1 to {}, the owner's copy included", Factor::MAX))
}

pub(super) fn consistency(text: &str) -> Parsed<Consistency> {
    text.parse().map_err(|_| "give eventual, quorum or strong".to_owned())
}

pub(super) fn on_loss(text: &str) -> Parsed<OnLoss> {
    text.parse().map_err(|_| "give accept or wait".to_owned())
}

pub(super) fn copy_parallel(text: &str) -> Parsed<usize> {
    let limit = || format!("give a number from {} to {}", COPY_PARALLEL.start(), COPY_PARALLEL.end());
    text.parse().ok().filter(|copies| COPY_PARALLEL.contains(copies)).ok_or_else(limit)
}

pub(super) fn copy_rate(text: &str) -> Parsed<u64> {
    let rate = text.parse::<ByteSize>().ok().filter(|rate| *rate >= COPY_RATE_MIN && rate.as_u64() < u64::MAX);
    rate.map(|rate| rate.as_u64()).ok_or_else(|| "give bytes per second, at least 100KB, such as 100MB".to_owned())
}

pub(super) fn return_delay(text: &str) -> Parsed<Duration> {
    duration(text, "give 0s (off) to 1h, such as 30s or 2m".to_owned(), |delay| *delay <= RETURN_DELAY_MAX)
}

pub(super) fn folder(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() { Err("give the path of a folder".to_owned()) } else { Ok(path(text)) }
}

pub(super) fn kv_replicas(text: &str) -> Parsed<usize> {
    let copies = text.parse().ok().filter(|copies| KV_REPLICAS.contains(copies));
    copies.ok_or_else(|| "give 1, 3 or 5, and no more than there are JetStream servers".to_owned())
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("give text or json".to_owned()),
    }
}

/// At most one way to log in, whole.
pub(super) fn login(settings: &Settings) -> Result<NatsLogin, ConfigError> {
    let user = match (&settings.nats_user, &settings.nats_password) {
        (Some(user), Some(password)) => {
            Some(NatsLogin::UserPassword { user: user.clone(), password: password.clone() })
        }
        (None, None) => None,
        _ => return Err(ConfigError::Credentials("give both nats-user and nats-password")),
    };
    let token = settings.nats_token.clone().map(NatsLogin::Token);
    let creds = settings.nats_creds.as_ref().map(|file| NatsLogin::CredsFile(path(file)));
    let nkey = settings.nats_nkey.as_ref().map(|file| NatsLogin::NkeySeedFile(path(file)));
    let mut all = [user, token, creds, nkey].into_iter().flatten();
    match (all.next(), all.next()) {
        (one, None) => Ok(one.unwrap_or_default()),
        _ => {
            Err(ConfigError::Credentials("give one of nats-user with nats-password, nats-token, nats-creds, nats-nkey"))
        }
    }
}
