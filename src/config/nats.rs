//! The settings about NATS: servers, login, TLS. Every command of the program has them.
//!
//! In: [`Settings`], merged; what they leave open comes from the context they name. Out: [`NatsConfig`], or a
//! [`ConfigError`].

use std::fmt;
use std::path::PathBuf;

use super::{ConfigError, Settings, context, parse};

/// Where the program looks for NATS by default.
pub const DEFAULT_NATS: &str = "nats://localhost:4222";

/// Who this process says it is, towards NATS.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum NatsLogin {
    /// Nobody in particular, or whom the servers' URLs name.
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
    /// A file that holds an nkey seed.
    NkeySeedFile(PathBuf),
}

impl fmt::Debug for NatsLogin {
    /// Names the kind, never the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::UserPassword { .. } => "user and password",
            Self::Token(_) => "token",
            Self::CredsFile(_) => "creds file",
            Self::NkeySeedFile(_) => "nkey seed file",
        })
    }
}

/// Encryption beyond what the servers' URLs (`tls://`) ask for. Any of it demands encryption.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// Authorities to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key of this process.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Encrypt before the server's first word.
    pub first: bool,
}

/// Where NATS is, and who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsConfig {
    /// Servers of one NATS, one URL each.
    pub servers: Vec<String>,
    /// Who this process says it is.
    pub login: NatsLogin,
    /// Encryption.
    pub tls: NatsTls,
    /// First tokens of the subjects that answers come back on; where not given, `_INBOX`.
    pub inbox_prefix: Option<String>,
}

impl fmt::Debug for NatsConfig {
    /// Leaves out the servers' URLs: they may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConfig")
            .field("login", &self.login)
            .field("tls", &self.tls)
            .field("inbox_prefix", &self.inbox_prefix)
            .finish_non_exhaustive()
    }
}

impl NatsConfig {
    /// Checks the settings about NATS, and no others; reads the context that they name.
    ///
    /// # Errors
    /// [`ConfigError`]: the first of them that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, ConfigError> {
        let settings = match settings.context.clone() {
            Some(name) => settings.or(context::read(&name)?),
            None => settings,
        };
        let client_certificate = match (settings.nats_cert.as_deref(), settings.nats_key.as_deref()) {
            (Some(certificate), Some(key)) => Some((parse::path(certificate), parse::path(key))),
            (None, None) => None,
            _ => return Err(ConfigError::HalfCertificate),
        };
        let tls = NatsTls {
            ca_file: settings.nats_ca.as_deref().map(parse::path),
            client_certificate,
            first: parse::given("nats-tls-first", settings.nats_tls_first.clone(), "false", parse::truth)?,
        };
        let inbox_prefix = settings.nats_inbox_prefix.as_deref();
        Ok(Self {
            login: parse::login(&settings)?,
            tls,
            inbox_prefix: inbox_prefix
                .map(|text| parse::checked("nats-inbox-prefix", text, parse::inbox_prefix))
                .transpose()?,
            servers: parse::given("nats", settings.nats, DEFAULT_NATS, parse::servers)?,
        })
    }
}
