//! From the settings about NATS to the options of a connection: here the files with secrets are read.

use std::path::Path;
use std::time::Duration;

use nkeys::KeyPair;

use super::exit::{Code, Failure};
use crate::config::{NatsConfig, NatsLogin};
use crate::connect::{ConnectOptions, Credentials, Tls};

/// Shortest text that can be an nkey seed.
const SEED_CHARS_MIN: usize = 50;

/// How to connect with these settings.
pub(super) fn connect_options(nats: &NatsConfig, wait: Duration) -> Result<ConnectOptions, Failure> {
    let tls = Tls {
        required: false,
        first: nats.tls.first,
        ca_file: nats.tls.ca_file.clone(),
        client_certificate: nats.tls.client_certificate.clone(),
    };
    Ok(ConnectOptions {
        credentials: credentials(&nats.login)?,
        tls,
        inbox_prefix: nats.inbox_prefix.clone(),
        wait,
        ..ConnectOptions::new(nats.servers.clone())
    })
}

fn credentials(login: &NatsLogin) -> Result<Credentials, Failure> {
    Ok(match login {
        NatsLogin::None => Credentials::None,
        NatsLogin::UserPassword { user, password } => {
            Credentials::UserPassword { user: user.clone(), password: password.clone() }
        }
        NatsLogin::Token(token) => Credentials::Token(token.clone()),
        NatsLogin::CredsFile(file) => Credentials::CredsFile(file.clone()),
        NatsLogin::NkeySeedFile(file) => Credentials::NkeySeed(seed(file)?),
    })
}

fn seed(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let message = format!("nkey seed file '{}' cannot be read ({error}): check nats-nkey", file.display());
        Failure::new(Code::Usage, message)
    })?;
    // Such files may carry comments and the lines that mark the seed's begin and end.
    let line = text.lines().map(str::trim).find(|line| line.starts_with('S') && line.len() >= SEED_CHARS_MIN);
    // Checked here: the client takes a broken one for a refusal by the server.
    line.filter(|seed| KeyPair::from_seed(seed).is_ok()).map(str::to_owned).ok_or_else(|| {
        Failure::new(Code::Usage, format!("file '{}' holds no nkey seed: check nats-nkey", file.display()))
    })
}
