//! Contexts of the `nats` command line, read as the lowest layer of settings.
//!
//! In: a context's name; `$XDG_CONFIG_HOME/nats/context/<name>.json`, or the same below `~/.config`. Out: [`Settings`],
//! or what in it cannot be honoured: a context that is followed in part would end up at another server, or as somebody
//! else. Which context the `nats` command line has selected is not looked at: what a node connects to is said where it
//! is started.

use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, Settings};

/// What `nats context` writes. Fields that say nothing about the connection are left out.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    url: String,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    inbox_prefix: String,
    tls_first: bool,
    socks_proxy: String,
    nsc: String,
    user_jwt: String,
    user_seed: String,
    jetstream_domain: String,
    jetstream_api_prefix: String,
    windows_cert_store: String,
}

/// Begins of texts that name a secret kept elsewhere.
const KEPT_ELSEWHERE: [&str; 3] = ["op://", "nsc://", "env://"];

/// The settings that a context stands for.
pub(super) fn read(name: &str) -> Result<Settings, ConfigError> {
    let fail = |reason: String| ConfigError::Context { name: name.to_owned(), reason };
    let file = file(name).map_err(fail)?;
    let text = std::fs::read_to_string(&file)
        .map_err(|error| fail(format!("{}: {error}; 'nats context ls' lists what there is", file.display())))?;
    // Its message has line and column; an excerpt might show a password.
    let context: Context =
        serde_json::from_str(&text).map_err(|error| fail(format!("{}: {}", file.display(), told(&error))))?;
    if let Some((field, instead)) = context.not_honoured() {
        return Err(fail(format!("its {field} is not supported here; {instead}")));
    }
    Ok(context.settings())
}

/// What is wrong with a file, without repeating what is in it.
fn told(error: &serde_json::Error) -> String {
    let what = if error.is_data() { "a field has another type than the nats command line gives it" } else { "no JSON" };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

fn file(name: &str) -> Result<PathBuf, String> {
    if name.is_empty() || name.contains("..") || name.contains(['/', '\\']) {
        return Err("give the name of a context, as 'nats context ls' shows it".to_owned());
    }
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let config = config.or_else(|| std::env::home_dir().map(|home| home.join(".config")));
    let config = config.ok_or("there is neither XDG_CONFIG_HOME nor a home directory to look for it in")?;
    Ok(config.join("nats/context").join(format!("{name}.json")))
}

impl Context {
    /// The first field that is set and cannot be followed, and what to do.
    fn not_honoured(&self) -> Option<(&'static str, &'static str)> {
        let elsewhere = "give the secret in a file, with --nats-creds or --nats-nkey";
        let server = "connect to a server of that JetStream, with --nats";
        let refused = [
            (!self.socks_proxy.is_empty(), "socks_proxy", "name servers that can be reached directly, with --nats"),
            (!self.nsc.is_empty(), "nsc", "write the credentials to a file with 'nsc generate creds'"),
            (!self.user_jwt.is_empty(), "user_jwt", elsewhere),
            (!self.user_seed.is_empty(), "user_seed", elsewhere),
            (kept_elsewhere(&self.creds), "creds", elsewhere),
            (kept_elsewhere(&self.nkey), "nkey", elsewhere),
            (!self.jetstream_domain.is_empty(), "jetstream_domain", server),
            (!self.jetstream_api_prefix.is_empty(), "jetstream_api_prefix", server),
            (!self.windows_cert_store.is_empty(), "windows_cert_store", "give files, with --nats-cert and --nats-key"),
        ];
        refused.into_iter().find(|(is_set, ..)| *is_set).map(|(_, field, instead)| (field, instead))
    }

    /// Of several ways to log in the one that the `nats` command line takes.
    fn settings(self) -> Settings {
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let mut settings = Settings {
            nats: given(self.url),
            nats_ca: given(self.ca),
            nats_cert: given(self.cert),
            nats_key: given(self.key),
            nats_tls_first: self.tls_first.then(|| true.to_string()),
            nats_inbox_prefix: given(self.inbox_prefix),
            ..Settings::default()
        };
        if let Some(user) = given(self.user) {
            // A user without a password has an empty one.
            (settings.nats_user, settings.nats_password) = (Some(user), Some(self.password));
        } else if let Some(creds) = given(self.creds) {
            settings.nats_creds = Some(creds);
        } else if let Some(nkey) = given(self.nkey) {
            settings.nats_nkey = Some(nkey);
        } else {
            settings.nats_token = given(self.token);
        }
        settings
    }
}

fn kept_elsewhere(text: &str) -> bool {
    KEPT_ELSEWHERE.iter().any(|begin| text.starts_with(begin))
}
