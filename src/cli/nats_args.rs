//! Where NATS is and who asks: the flags that every command shares, and the connection that follows from them.

use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::exit::Failure;
use super::login;
use crate::config::{NatsConfig, Settings};
use crate::connect::ConnectOptions;

/// Texts: they are checked where those of the file are, with the same messages.
#[derive(Args, Clone, Default)]
pub(super) struct NatsArgs {
    /// Servers of one NATS, comma-separated [default: nats://localhost:4222]
    #[arg(long, env = "NATS_RING_NATS", value_name = "URLS", hide_env_values = true)]
    pub(super) nats: Option<String>,
    /// A context of the nats command line: what no other setting says about NATS, it says
    #[arg(long, env = "NATS_RING_CONTEXT", value_name = "NAME")]
    pub(super) context: Option<String>,
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
    /// Encrypt, and trust the authorities of this PEM file in place of the system's
    #[arg(long, env = "NATS_RING_NATS_CA", value_name = "FILE")]
    pub(super) nats_ca: Option<String>,
    /// Encrypt, and show this certificate (PEM), with --nats-key
    #[arg(long, env = "NATS_RING_NATS_CERT", value_name = "FILE")]
    pub(super) nats_cert: Option<String>,
    /// Its private key (PEM)
    #[arg(long, env = "NATS_RING_NATS_KEY", value_name = "FILE")]
    pub(super) nats_key: Option<String>,
    /// Encrypt before the server's first word: for servers with handshake_first
    #[arg(long, env = "NATS_RING_NATS_TLS_FIRST", value_parser = BoolishValueParser::new())]
    pub(super) nats_tls_first: bool,
    /// First tokens of the subjects that answers come back on [default: _INBOX]
    #[arg(long, env = "NATS_RING_NATS_INBOX_PREFIX", value_name = "SUBJECT")]
    pub(super) nats_inbox_prefix: Option<String>,
}

impl NatsArgs {
    /// These flags as a layer of settings.
    pub(super) fn settings(self) -> Settings {
        Settings {
            nats: self.nats,
            context: self.context,
            nats_user: self.nats_user,
            nats_password: self.nats_password,
            nats_token: self.nats_token,
            nats_creds: self.nats_creds,
            nats_nkey: self.nats_nkey,
            nats_ca: self.nats_ca,
            nats_cert: self.nats_cert,
            nats_key: self.nats_key,
            nats_tls_first: self.nats_tls_first.then(|| "true".to_owned()),
            nats_inbox_prefix: self.nats_inbox_prefix,
            ..Settings::default()
        }
    }

    /// How a command that takes these flags alone connects, waiting for an absent server as long as `wait`.
    ///
    /// # Errors
    /// [`Failure`] where a flag, the context, or a file that they name cannot be used.
    pub(super) fn connect_options(self, wait: Duration) -> Result<ConnectOptions, Failure> {
        login::connect_options(&NatsConfig::new(self.settings())?, wait)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::super::exit::Code;
    use super::*;

    #[derive(Parser)]
    struct Any {
        #[command(flatten)]
        nats: NatsArgs,
    }

    fn options(arguments: &[&str]) -> Result<ConnectOptions, Failure> {
        let arguments = ["any"].iter().chain(arguments);
        Any::try_parse_from(arguments).unwrap().nats.connect_options(Duration::from_secs(7))
    }

    #[test]
    fn the_flags_alone_make_a_connection() {
        let made = options(&["--nats", "tls://a,b", "--nats-tls-first", "--nats-inbox-prefix", "_INBOX.me"]).unwrap();
        assert_eq!((made.servers, made.wait), (vec!["tls://a".to_owned(), "b".to_owned()], Duration::from_secs(7)));
        assert_eq!((made.tls.first, made.inbox_prefix.as_deref()), (true, Some("_INBOX.me")));
    }

    #[test]
    fn what_cannot_be_used_is_a_usage_failure() {
        for wrong in [&["--nats-key", "a.key"][..], &["--context", "a/b"], &["--nats-user", "a"]] {
            assert_eq!(options(wrong).unwrap_err().code, Code::Usage, "{wrong:?}");
        }
    }
}
