//! What a connection is made from: servers, credentials, TLS, and the times that bound it.
//!
//! In: text as people write it in flags and files. Out: the client's own options, or a [`ConnectError`] naming the
//! field that cannot be used.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::ServerAddr;

use super::ConnectError;

/// Who this process says it is.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Nobody in particular.
    #[default]
    None,
    /// User name and password.
    UserPassword {
        /// The user.
        user: String,
        /// Its password.
        password: String,
    },
    /// A token.
    Token(String),
    /// A `.creds` file: JWT and seed.
    CredsFile(PathBuf),
    /// An nkey seed.
    NkeySeed(String),
}

impl std::fmt::Debug for Credentials {
    /// Names the kind, never the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::UserPassword { .. } => "user and password",
            Self::Token(_) => "token",
            Self::CredsFile(_) => "creds file",
            Self::NkeySeed(_) => "nkey seed",
        })
    }
}

/// Encryption beyond what the servers' URLs (`tls://`) ask for.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Refuse a server that does not encrypt.
    pub required: bool,
    /// Encrypt before the server's first word: for servers with `handshake_first`.
    pub first: bool,
    /// Trust the authorities of this file in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key of this process.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Whether a server that does not encrypt is refused: asked for, or implied by what only makes sense encrypted.
    fn demanded(&self) -> bool {
        self.required || self.first || self.ca_file.is_some() || self.client_certificate.is_some()
    }
}

/// How to connect.
#[derive(Clone)]
pub struct ConnectOptions {
    /// Servers of one cluster; each entry may hold several, comma-separated.
    pub servers: Vec<String>,
    /// Who this process says it is.
    pub credentials: Credentials,
    /// Encryption.
    pub tls: Tls,
    /// First tokens of the subjects that answers come back on, where they are not `_INBOX`: accounts that let each
    /// user listen to its own answers alone need it.
    pub inbox_prefix: Option<String>,
    /// Name of the connection, as server monitoring shows it.
    pub name: String,
    /// How long to wait for an absent server, or for a cluster that has no leader yet.
    pub wait: Duration,
    /// How long one attempt at one server may take.
    pub connection_timeout: Duration,
    /// Longest pause between two attempts to reconnect; the first follows at once.
    pub reconnect_delay_max: Duration,
    /// How often an idle server is asked whether it lives; after three unanswered the connection is given up.
    pub ping_interval: Duration,
    /// How many messages of one subscription may wait unread in this process; what arrives beyond is dropped.
    pub subscription_capacity: usize,
}

impl std::fmt::Debug for ConnectOptions {
    /// Leaves out the servers' URLs: they may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("credentials", &self.credentials)
            .field("tls", &self.tls)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

impl ConnectOptions {
    /// Options for these servers, with defaults for everything else.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            credentials: Credentials::None,
            tls: Tls::default(),
            inbox_prefix: None,
            name: env!("CARGO_PKG_NAME").to_owned(),
            wait: Duration::from_secs(30),
            connection_timeout: Duration::from_secs(2),
            reconnect_delay_max: Duration::from_millis(500),
            ping_interval: Duration::from_secs(2),
            subscription_capacity: 16 * 1024,
        }
    }

    /// The servers as the client wants them, one address each.
    pub(super) fn addresses(&self) -> Result<Vec<ServerAddr>, ConnectError> {
        let texts =
            self.servers.iter().flat_map(|entry| entry.split(',')).map(str::trim).filter(|text| !text.is_empty());
        let addresses = texts
            .map(|text| {
                text.parse::<ServerAddr>()
                    .map_err(|error| ConnectError::BadUrl { url: redacted(text), reason: error.to_string() })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            let reason = "no server is named".to_owned();
            return Err(ConnectError::BadUrl { url: self.servers.join(","), reason });
        }
        Ok(addresses)
    }

    /// The client's options, but for what needs a connection's own state.
    pub(super) async fn client_options(&self) -> Result<async_nats::ConnectOptions, ConnectError> {
        let reconnect_delay_max = self.reconnect_delay_max;
        let mut options = async_nats::ConnectOptions::new()
            .name(&self.name)
            .connection_timeout(self.connection_timeout)
            .ping_interval(self.ping_interval)
            .subscription_capacity(self.subscription_capacity)
            .reconnect_delay_callback(move |attempt| reconnect_delay(attempt, reconnect_delay_max))
            .require_tls(self.tls.demanded());
        if self.tls.first {
            options = options.tls_first();
        }
        if let Some(prefix) = &self.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        if let Some(file) = &self.tls.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        if let Some((certificate, key)) = &self.tls.client_certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        self.with_credentials(options).await
    }

    async fn with_credentials(
        &self,
        options: async_nats::ConnectOptions,
    ) -> Result<async_nats::ConnectOptions, ConnectError> {
        Ok(match &self.credentials {
            Credentials::None => options,
            Credentials::UserPassword { user, password } => options.user_and_password(user.clone(), password.clone()),
            Credentials::Token(token) => options.token(token.clone()),
            Credentials::NkeySeed(seed) => options.nkey(seed.clone()),
            Credentials::CredsFile(file) => options.credentials_file(file).await.map_err(|error| {
                ConnectError::CredsFile { file: file.display().to_string(), reason: error.to_string() }
            })?,
        })
    }
}

/// Addresses as messages show them: host and port, never a password.
pub(super) fn shown(addresses: &[ServerAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(|a| format!("{}:{}", a.host(), a.port())).collect();
    texts.join(", ")
}

/// A server's text without the part that may hold a password.
fn redacted(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => text.to_owned(),
    }
}

/// Grows from 10 ms to `longest`; jittered, so that the nodes of a ring do not all come back in one moment.
fn reconnect_delay(attempt: usize, longest: Duration) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(attempt - 2).unwrap_or(u32::MAX).min(10);
    let delay = Duration::from_millis(10 << doublings).min(longest);
    delay.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_separated_list_becomes_one_address_per_server() {
        let options = ConnectOptions::new(["nats://a:1, b:2", "c"]);
        assert_eq!(shown(&options.addresses().unwrap()), "a:1, b:2, c:4222");
    }

    #[test]
    fn a_bad_url_is_named_without_its_password() {
        let error = ConnectOptions::new(["http://me:secret@host"]).addresses().unwrap_err();
        assert!(matches!(&error, ConnectError::BadUrl { url, .. } if url == "…@host"), "{error}");
        assert!(matches!(ConnectOptions::new([" , "]).addresses(), Err(ConnectError::BadUrl { .. })));
    }

    #[test]
    fn the_reconnect_delay_starts_at_zero_and_never_exceeds_its_bound() {
        let longest = Duration::from_millis(50);
        assert_eq!(reconnect_delay(1, longest), Duration::ZERO);
        assert!((2..100).all(|attempt| reconnect_delay(attempt, longest) <= longest));
    }
}
