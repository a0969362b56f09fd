//! Settings as texts, before they are checked: from flags, environment or file, and merged by precedence.

use std::path::Path;

use config::{File, FileFormat};
use serde::Deserialize;

use super::ConfigError;

/// Each setting as it was written, where it was. In a file they have the flags' names (`kv-replicas`).
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// This node's name.
    pub node: Option<String>,
    /// Servers, comma-separated.
    pub nats: Option<String>,
    /// Name of a context of the `nats` command line.
    pub context: Option<String>,
    /// User name for NATS.
    pub nats_user: Option<String>,
    /// Its password.
    pub nats_password: Option<String>,
    /// Token for NATS.
    pub nats_token: Option<String>,
    /// Path of a `.creds` file.
    pub nats_creds: Option<String>,
    /// Path of a file with an nkey seed.
    pub nats_nkey: Option<String>,
    /// Path of a file with the authorities to trust.
    pub nats_ca: Option<String>,
    /// Path of this process's certificate.
    pub nats_cert: Option<String>,
    /// Path of its private key.
    pub nats_key: Option<String>,
    /// `true` or `false`: encrypt before the server's first word.
    pub nats_tls_first: Option<String>,
    /// First tokens of the subjects that answers come back on.
    pub nats_inbox_prefix: Option<String>,
    /// Where HTTP listens.
    pub http: Option<String>,
    /// Number of partitions.
    pub partitions: Option<String>,
    /// How keys are mapped to them.
    pub key_hash: Option<String>,
    /// Name of the ring.
    pub platform: Option<String>,
    /// Failure zone.
    pub zone: Option<String>,
    /// Share relative to other nodes.
    pub weight: Option<String>,
    /// Length of the lease.
    pub lease: Option<String>,
    /// Bound on memory.
    pub memory: Option<String>,
    /// Copies of each partition.
    pub replicas: Option<String>,
    /// What has to have a write before it is answered.
    pub consistency: Option<String>,
    /// What becomes of a partition whose copies are all gone.
    pub on_loss: Option<String>,
    /// Copies of partitions that this node makes for others at once.
    pub copy_parallel: Option<String>,
    /// Bytes of them a second.
    pub copy_rate: Option<String>,
    /// How long a node that went away is reckoned with.
    pub return_delay: Option<String>,
    /// How long one that was evicted is.
    pub evicted_delay: Option<String>,
    /// Where copies are kept while the process is away.
    pub keep: Option<String>,
    /// Copies of the bucket.
    pub kv_replicas: Option<String>,
    /// How long to wait for NATS.
    pub wait: Option<String>,
    /// `text` or `json`.
    pub log_format: Option<String>,
}

macro_rules! merged {
    ($upper:expr, $lower:expr, $($field:ident),+ $(,)?) => {
        Settings { $($field: $upper.$field.or($lower.$field)),+ }
    };
}

impl Settings {
    /// Reads a TOML, YAML or JSON file, told apart by its extension.
    ///
    /// # Errors
    /// [`ConfigError::File`] where it cannot be read, or has a key that is no setting.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let fail = |reason: String| ConfigError::File { file: path.to_owned(), reason };
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => FileFormat::Toml,
            Some("yaml" | "yml") => FileFormat::Yaml,
            Some("json") => FileFormat::Json,
            _ => return Err(fail("its name must end in .toml, .yaml, .yml or .json".to_owned())),
        };
        let text = std::fs::read_to_string(path).map_err(|error| fail(format!("{error}; check the path")))?;
        let read = config::Config::builder().add_source(File::from_str(&text, format)).build();
        let settings = read.and_then(config::Config::try_deserialize::<Self>);
        settings.map_err(|error| fail(one_line(&error.to_string())))
    }

    /// These settings, and those of `lower` where there is none here.
    #[must_use]
    pub fn or(self, mut lower: Self) -> Self {
        lower.forget_other_logins(&self);
        merged!(
            self,
            lower,
            node,
            nats,
            context,
            nats_user,
            nats_password,
            nats_token,
            nats_creds,
            nats_nkey,
            nats_ca,
            nats_cert,
            nats_key,
            nats_tls_first,
            nats_inbox_prefix,
            http,
            partitions,
            key_hash,
            platform,
            zone,
            weight,
            lease,
            memory,
            replicas,
            consistency,
            on_loss,
            copy_parallel,
            copy_rate,
            return_delay,
            evicted_delay,
            keep,
            kv_replicas,
            wait,
            log_format,
        )
    }

    /// A way to log in replaces any other way of a layer below; user and password may come from two layers.
    fn forget_other_logins(&mut self, upper: &Self) {
        let whole = upper.nats_token.is_some() || upper.nats_creds.is_some() || upper.nats_nkey.is_some();
        if whole {
            (self.nats_user, self.nats_password) = (None, None);
        }
        if whole || upper.nats_user.is_some() || upper.nats_password.is_some() {
            (self.nats_token, self.nats_creds, self.nats_nkey) = (None, None, None);
        }
    }
}

/// Parsers of files explain themselves over several lines, some with an excerpt behind a bar: it might show a password.
fn one_line(text: &str) -> String {
    let is_excerpt = |line: &&str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    text.lines().filter(|line| !is_excerpt(line)).flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}
