//! Encryption: what is asked for, whether its files can be used, and which failures are its own.
//!
//! In: paths from flags, environment and files. Out: the client's own options, or a [`ConnectError`] naming the file.

use std::error::Error;
use std::path::{Path, PathBuf};

use async_nats::rustls;

use super::ConnectError;

/// What a PEM file of certificates holds.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// How the first line of a private key in PEM ends, whatever its kind.
const PRIVATE_KEY: &str = "PRIVATE KEY-----";

/// Encryption beyond what the servers' URLs (`tls://`) ask for. Any of it demands encryption.
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
    /// Asked for, or implied by what only makes sense encrypted.
    fn demanded(&self) -> bool {
        self.required || self.first || self.ca_file.is_some() || self.client_certificate.is_some()
    }

    /// The client's options with these. The files are looked at here because the client tells only at the handshake
    /// what is wrong with them, and does not name them.
    pub(super) fn applied_to(
        &self,
        options: async_nats::ConnectOptions,
    ) -> Result<async_nats::ConnectOptions, ConnectError> {
        let mut options = options.require_tls(self.demanded());
        if self.first {
            options = options.tls_first();
        }
        if let Some(file) = &self.ca_file {
            check(file, CERTIFICATE, "certificate")?;
            options = options.add_root_certificates(file.clone());
        }
        if let Some((certificate, key)) = &self.client_certificate {
            check(certificate, CERTIFICATE, "certificate")?;
            check(key, PRIVATE_KEY, "private key")?;
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options)
    }
}

/// Whether a PEM file can be read and holds what it is given for.
fn check(file: &Path, marker: &str, what: &'static str) -> Result<(), ConnectError> {
    let fail = |reason: String| ConnectError::TlsFile { file: file.display().to_string(), reason };
    let text = std::fs::read(file).map_err(|error| fail(error.to_string()))?;
    if String::from_utf8_lossy(&text).contains(marker) {
        return Ok(());
    }
    Err(fail(format!("it holds no {what} in PEM form")))
}

/// What the TLS library said, where it was the one to fail. The client calls most of its failures I/O.
pub(super) fn failure(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(error.to_string());
        }
        // An I/O error shows what is within it only on demand.
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match within {
            Some(within) => Some(within as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}
