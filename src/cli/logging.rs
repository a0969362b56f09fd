//! Log lines to stderr: what `RUST_LOG` asks for, else `info`.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::exit::{Code, Failure};
use crate::config::LogFormat;

const VARIABLE: &str = "RUST_LOG";
/// The client reports each lost connection, which the node says in its own words.
const DEFAULT_FILTER: &str = "info,async_nats=warn";

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
    let filter = EnvFilter::try_new(wanted.as_deref().unwrap_or(DEFAULT_FILTER)).map_err(|error| {
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
