//! Log lines to stderr: what `RUST_LOG` asks for, else `info`; of the NATS client only what it names.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::exit::{Code, Failure};
use crate::config::LogFormat;

const VARIABLE: &str = "RUST_LOG";
const DEFAULT_LEVEL: &str = "info";
/// While a link is cut the client logs each attempt to connect, twenty times a second; the connection says in its own words
/// when it is lost and when it is back. Who wants to see it all the same names this target in `RUST_LOG`.
const ATTEMPTS_FILTER: &str = "async_nats::connector=off";
/// The client's other lines repeat what is said here, unless `RUST_LOG` names it.
const CLIENT_FILTER: &str = "async_nats=warn";
/// Levels that let less through than that.
const QUIETER: [&str; 2] = ["off", "error"];

/// Starts logging where `RUST_LOG` asks for it: what a command has to say is its output and, after a failure, one line.
///
/// # Errors
/// [`Failure`] where `RUST_LOG` cannot be read.
pub(super) fn start_if_asked() -> Result<(), Failure> {
    if std::env::var_os(VARIABLE).is_some() { start(LogFormat::Text) } else { Ok(()) }
}

/// Starts logging; once per process.
///
/// # Errors
/// [`Failure`] where `RUST_LOG` cannot be read.
pub(super) fn start(format: LogFormat) -> Result<(), Failure> {
    let wanted = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let wanted = wanted.as_deref().unwrap_or(DEFAULT_LEVEL);
    let client = if QUIETER.contains(&wanted.trim()) { wanted } else { CLIENT_FILTER };
    let filter = EnvFilter::try_new(format!("{ATTEMPTS_FILTER},{client},{wanted}")).map_err(|error| {
        Failure::new(Code::Usage, format!("{VARIABLE} is not usable ({error}): give such as info, or nats_ring=debug"))
    })?;
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    let started = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::internal("logging did not start", error))
}
