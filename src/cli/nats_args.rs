//! Where NATS is and who asks: the flags that every command shares.

use std::time::Duration;

use clap::Args;

use super::exit::Failure;
use super::start;
use crate::config::{Config, Settings};
use crate::connect::ConnectOptions;

/// Texts: they are checked where those of the file are, with the same messages.
#[derive(Args, Clone, Default)]
pub(super) struct NatsArgs {
    /// Servers of one NATS, comma-separated [default: nats://localhost:4222]
    #[arg(long, env = "NATS_RING_NATS", value_name = "URLS", hide_env_values = true)]
    pub(super) nats: Option<String>,
    /// User name for NATS
    #[arg(long, env = "NATS_RING_NATS_USER", value_name = "USER")]
    pub(super) nats_user: Option<String>,
    /// Its password; as a flag, other users of the machine can see it
    #[arg(long, env = "NATS_RING_NATS_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    pub(super) nats_password: Option<String>,
    /// Token for NATS; as a flag, other users of the machine can see it
    #[arg(long, env = "NATS_RING_NATS_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(super) nats_token: Option<String>,
    /// Credentials file for NATS (.creds)
    #[arg(long, env = "NATS_RING_NATS_CREDS", value_name = "FILE")]
    pub(super) nats_creds: Option<String>,
    /// File with an nkey seed for NATS
    #[arg(long, env = "NATS_RING_NATS_NKEY", value_name = "FILE")]
    pub(super) nats_nkey: Option<String>,
}

impl NatsArgs {
    /// How to connect, waiting at most so long for an absent server.
    pub(super) fn connect_options(self, wait: Duration) -> Result<ConnectOptions, Failure> {
        let settings = Settings {
            nats: self.nats,
            nats_user: self.nats_user,
            nats_password: self.nats_password,
            nats_token: self.nats_token,
            nats_creds: self.nats_creds,
            nats_nkey: self.nats_nkey,
            ..Settings::default()
        };
        Ok(ConnectOptions { wait, ..start::connect_options(&Config::new(settings)?)? })
    }
}
