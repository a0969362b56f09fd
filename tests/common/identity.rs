//! Who is who, made for one test: an authority and its certificates, and the tokens of NATS's operator mode.
//!
//! The tokens are written out here because the crates that make them know no operators and no JetStream limits; three
//! parts in base64, signed with the nkey of whoever issues them.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // shared by tests: none uses all of it

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A private certificate authority. Its files are gone when it is dropped.
pub struct Authority {
    folder: TempDir,
    /// The file with its certificate.
    pub file: PathBuf,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

/// A certificate and its key, as files.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = rcgen::KeyPair::generate().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, file, issuer: Issuer::new(params, key) }
    }

    /// A certificate for this host name or address.
    pub fn issue(&self, host: &str) -> Identity {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, host);
        let key = rcgen::KeyPair::generate().unwrap();
        let identity = Identity {
            certificate: self.folder.path().join(format!("{host}.pem")),
            key: self.folder.path().join(format!("{host}.key")),
        };
        std::fs::write(&identity.certificate, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }

    /// The `tls` block of a server that shows a certificate of this authority, with further lines in it.
    pub fn server_tls(&self, more: &str) -> String {
        let Identity { certificate, key } = self.issue("127.0.0.1");
        format!("tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {:?}\n{more} }}", self.file)
    }
}

/// A server's configuration in operator mode, with one account that has JetStream.
pub struct Operator {
    account: KeyPair,
    pub server_lines: String,
}

impl Operator {
    pub fn new() -> Self {
        let (operator, account, system) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
        let token = |subject: &KeyPair, name: &str, nats: Value| signed(&operator, &subject.public_key(), name, nats);
        let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1});
        let no_jetstream = json!({"subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1});
        let operator_token = token(&operator, "operator", json!({"type": "operator", "version": 2}));
        let account_token = token(&account, "ring", json!({"type": "account", "version": 2, "limits": limits}));
        let system_token = token(&system, "SYS", json!({"type": "account", "version": 2, "limits": no_jetstream}));
        let server_lines = format!(
            "operator: {operator_token}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload: {{\n\
             {account}: {account_token}\n{system}: {system_token}\n}}\n",
            account = account.public_key(),
            system = system.public_key(),
        );
        Self { account, server_lines }
    }

    /// Writes the `.creds` file of a new user of the account.
    pub fn creds(&self, file: &Path) {
        let user = KeyPair::new_user();
        let nats = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
        let token = signed(&self.account, &user.public_key(), "node", nats);
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(file, text).unwrap();
    }
}

fn signed(issuer: &KeyPair, subject: &str, name: &str, nats: Value) -> String {
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let claims = json!({"jti": name, "iat": 1, "iss": issuer.public_key(), "name": name, "sub": subject, "nats": nats});
    let text = format!("{}.{}", part(json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}
