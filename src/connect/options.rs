//! What a connection is made from: servers, credentials, TLS, and the times that bound it.
//!
//! In: text as people write it in flags and files. Out: the client's own options, or a [`ConnectError`] naming the
//! field that cannot be used.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::ServerAddr;

use super::{ConnectError, Tls};

/// Who this process says it is.
#[derive(Clone, Default, PartialEq, Eq)]
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

    /// The servers as they were given, but for the users that their URLs name: to be shown, and to be typed again.
    pub(crate) fn servers_without_users(&self) -> String {
        let texts = self.servers.iter().flat_map(|entry| entry.split(','));
        let shown = texts.map(|text| match (text.split_once("://"), text.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            (None, Some((_, host))) => host.to_owned(),
            (_, None) => text.to_owned(),
        });
        shown.collect::<Vec<_>>().join(",")
    }

    /// The servers as the client wants them, one address each.
    fn addresses(&self) -> Result<Vec<ServerAddr>, ConnectError> {
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

    /// The servers without the users that their URLs name, and who this process says it is: credentials that are given,
    /// else the user of the URLs. The client itself uses neither part of a URL, and logs both.
    pub(super) fn login(&self) -> Result<(Vec<ServerAddr>, Credentials), ConnectError> {
        let addresses = self.addresses()?;
        let mut named: Vec<Credentials> = addresses.iter().filter_map(named_in_url).collect();
        named.dedup();
        if let (Credentials::None, [_, _, ..]) = (&self.credentials, &named[..]) {
            let reason = "another server's URL names another user: give one login apart from the URLs".to_owned();
            return Err(ConnectError::BadUrl { url: shown(&addresses), reason });
        }
        let login = match (&self.credentials, named.pop()) {
            (Credentials::None, Some(named)) => named,
            (given, _) => given.clone(),
        };
        let addresses = addresses.iter().map(without_user).collect::<Result<_, _>>()?;
        Ok((addresses, login))
    }

    /// The client's options, but for what needs a connection's own state.
    pub(super) async fn client_options(
        &self,
        login: &Credentials,
        addresses: &[ServerAddr],
    ) -> Result<async_nats::ConnectOptions, ConnectError> {
        let reconnect_delay_max = self.reconnect_delay_max;
        let mut options = async_nats::ConnectOptions::new()
            .name(&self.name)
            .connection_timeout(self.connection_timeout)
            .ping_interval(self.ping_interval)
            .subscription_capacity(self.subscription_capacity)
            .reconnect_delay_callback(move |attempt| reconnect_delay(attempt, reconnect_delay_max));
        if let Some(prefix) = &self.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        // Asked for at one server it holds for all, also for those that the client hears of from that one.
        let required = self.tls.required || addresses.iter().any(ServerAddr::tls_required);
        let options = Tls { required, ..self.tls.clone() }.applied_to(options)?;
        with_credentials(login, options).await
    }
}

async fn with_credentials(
    credentials: &Credentials,
    options: async_nats::ConnectOptions,
) -> Result<async_nats::ConnectOptions, ConnectError> {
    Ok(match credentials {
        Credentials::None => options,
        Credentials::UserPassword { user, password } => options.user_and_password(user.clone(), password.clone()),
        Credentials::Token(token) => options.token(token.clone()),
        Credentials::NkeySeed(seed) => options.nkey(seed.clone()),
        Credentials::CredsFile(file) => options
            .credentials_file(file)
            .await
            .map_err(|error| ConnectError::CredsFile { file: file.display().to_string(), reason: error.to_string() })?,
    })
}

/// Addresses as messages show them: host and port, never a password.
pub(super) fn shown(addresses: &[ServerAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(|a| format!("{}:{}", a.host(), a.port())).collect();
    texts.join(", ")
}

/// `user:password@` of a URL, or `token@`.
fn named_in_url(address: &ServerAddr) -> Option<Credentials> {
    let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let user = plain(address.username()?);
    Some(match address.password() {
        Some(password) => Credentials::UserPassword { user, password: plain(password) },
        None => Credentials::Token(user),
    })
}

fn without_user(address: &ServerAddr) -> Result<ServerAddr, ConnectError> {
    if address.username().is_none() && address.password().is_none() {
        return Ok(address.clone());
    }
    let host = if address.host().contains(':') { format!("[{}]", address.host()) } else { address.host().to_owned() };
    let url = format!("{}://{host}:{}", address.scheme(), address.port());
    url.parse().map_err(|error: std::io::Error| ConnectError::BadUrl { url, reason: error.to_string() })
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
    fn servers_are_shown_as_given_but_for_their_users() {
        let shown = ConnectOptions::new(["nats://me:s/e@c@a:1,tls://token@b", "c:2,nats://d"]).servers_without_users();
        assert_eq!(shown, "nats://a:1,tls://b,c:2,nats://d");
        assert_eq!(ConnectOptions::new(["me:secret@a:1"]).servers_without_users(), "a:1");
    }

    #[test]
    fn a_bad_url_is_named_without_its_password() {
        let error = ConnectOptions::new(["http://me:secret@host"]).addresses().unwrap_err();
        assert!(matches!(&error, ConnectError::BadUrl { url, .. } if url == "…@host"), "{error}");
        assert!(matches!(ConnectOptions::new([" , "]).addresses(), Err(ConnectError::BadUrl { .. })));
    }

    #[test]
    fn the_user_of_a_url_is_taken_from_it_unless_another_login_is_given() {
        let url = "tls://me:p%40ss@[::1]:4333,nats://me:p%40ss@b,c";
        let (addresses, login) = ConnectOptions::new([url]).login().unwrap();
        let texts: Vec<_> = addresses.iter().map(ServerAddr::as_url_str).collect();
        assert_eq!(texts, ["tls://[::1]:4333", "nats://b:4222", "nats://c"]);
        assert!(login == Credentials::UserPassword { user: "me".to_owned(), password: "p@ss".to_owned() });
        let token = ConnectOptions::new(["nats://secret@a"]);
        assert!(token.login().unwrap().1 == Credentials::Token("secret".to_owned()));
        let given = Credentials::Token("given".to_owned());
        let options = ConnectOptions { credentials: given.clone(), ..ConnectOptions::new([url]) };
        assert!(options.login().unwrap().1 == given);
    }

    #[test]
    fn urls_that_name_two_users_are_refused_without_naming_them() {
        let error = ConnectOptions::new(["nats://me:one@a,nats://me:two@b"]).login().unwrap_err();
        assert!(matches!(&error, ConnectError::BadUrl { url, .. } if url == "a:4222, b:4222"), "{error}");
    }

    #[test]
    fn the_reconnect_delay_starts_at_zero_and_never_exceeds_its_bound() {
        let longest = Duration::from_millis(50);
        assert_eq!(reconnect_delay(1, longest), Duration::ZERO);
        assert!((2..100).all(|attempt| reconnect_delay(attempt, longest) <= longest));
    }
}
