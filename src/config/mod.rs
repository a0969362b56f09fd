//! Every setting of the program, checked.
//!
//! In: [`Settings`], the texts as people wrote them in flags, environment and file, merged by precedence. Out: a
//! [`Config`] whose values are all within their limits, or a [`ConfigError`] naming field, value and limit.

mod context;
mod nats;
mod parse;
mod settings;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use nats::{DEFAULT_NATS, NatsConfig, NatsLogin, NatsTls};
pub use settings::Settings;

use crate::types::{Consistency, Factor, KeyHash, NodeName, OnLoss, PartitionCount, RingName};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// All settings of a node.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// This node's name.
    pub node: NodeName,
    /// Where NATS is, and who this process says it is.
    pub nats: NatsConfig,
    /// Where HTTP listens; port 0 picks one.
    pub http: SocketAddr,
    /// Partitions of the ring.
    pub partitions: PartitionCount,
    /// How the ring maps keys to them.
    pub key_hash: KeyHash,
    /// Name of the ring.
    pub platform: RingName,
    /// Failure zone, if any.
    pub zone: Option<String>,
    /// Share of the partitions, relative to other nodes.
    pub weight: u32,
    /// How long the others wait before they take over.
    pub lease: Duration,
    /// Bound on the cache's memory.
    pub memory_bytes: u64,
    /// Copies of each partition; the ring's, this is what it is created with.
    pub replicas: Option<Factor>,
    /// What has to have a write before it is answered, likewise.
    pub consistency: Option<Consistency>,
    /// What becomes of a partition whose copies are all gone, likewise.
    pub on_loss: Option<OnLoss>,
    /// Copies of partitions that this node makes for others at once.
    pub copy_parallel: usize,
    /// Bytes a second of all of them together.
    pub copy_bytes_per_second: u64,
    /// How long a node that went away is reckoned with: what it misses is kept, and what it held. Zero: not at all.
    pub return_delay: Duration,
    /// For so long nobody else gets this node's copies once it was evicted.
    pub evicted_delay: Duration,
    /// The folder in which this node's copies are kept from a drain to the next start; `None`: they are not.
    pub keep: Option<PathBuf>,
    /// Copies of the ring's bucket; where not given, 3 on a JetStream cluster, else 1.
    pub kv_replicas: Option<usize>,
    /// How long to wait for NATS at start.
    pub wait: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("node", &self.node)
            .field("platform", &self.platform)
            .field("nats", &self.nats)
            .field("http", &self.http)
            .field("partitions", &self.partitions.get())
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Checks every setting; what is not given has its default.
    ///
    /// # Errors
    /// [`ConfigError`]: the first setting that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, ConfigError> {
        let nats = NatsConfig::new(settings.clone())?;
        Ok(Self {
            nats,
            node: parse::given("node", settings.node, "node-1", parse::name)?,
            http: parse::given("http", settings.http, ":8080", parse::http_address)?,
            partitions: settings
                .partitions
                .map_or(Ok(PartitionCount::DEFAULT), |text| parse::checked("partitions", &text, parse::partitions))?,
            key_hash: settings
                .key_hash
                .map_or(Ok(KeyHash::default()), |text| parse::checked("key-hash", &text, parse::key_hash))?,
            platform: parse::given("platform", settings.platform, "cache-platform", parse::name)?,
            zone: parse::optional("zone", settings.zone, parse::zone)?,
            weight: parse::given("weight", settings.weight, "1", parse::weight)?,
            lease: parse::given("lease", settings.lease, "3s", parse::lease)?,
            memory_bytes: parse::given("memory", settings.memory, "1GiB", parse::memory)?,
            replicas: parse::optional("replicas", settings.replicas, parse::replicas)?,
            consistency: parse::optional("consistency", settings.consistency, parse::consistency)?,
            on_loss: parse::optional("on-loss", settings.on_loss, parse::on_loss)?,
            copy_parallel: parse::given("copy-parallel", settings.copy_parallel, "4", parse::copy_parallel)?,
            copy_bytes_per_second: parse::given("copy-rate", settings.copy_rate, "100MB", parse::copy_rate)?,
            return_delay: parse::given("return-delay", settings.return_delay, "30s", parse::return_delay)?,
            evicted_delay: parse::given("evicted-delay", settings.evicted_delay, "0s", parse::return_delay)?,
            keep: parse::optional("keep", settings.keep, parse::folder)?,
            kv_replicas: parse::optional("kv-replicas", settings.kv_replicas, parse::kv_replicas)?,
            wait: parse::given("wait", settings.wait, "30s", parse::wait)?,
            log_format: parse::given("log-format", settings.log_format, "text", parse::log_format)?,
        })
    }
}

/// Why the settings cannot be used: one line that names what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is outside its limits.
    #[error("{field} '{given}' is not usable: {limit}")]
    Invalid {
        /// Name of the setting: that of its flag and of its key in the file.
        field: &'static str,
        /// The text that was refused.
        given: String,
        /// What is accepted.
        limit: String,
    },
    /// More than one way to log in, or half of one.
    #[error("NATS credentials are not usable: {0}")]
    Credentials(&'static str),
    /// The certificate without its key, or the key without its certificate.
    #[error("TLS for NATS is not usable: give both nats-cert and nats-key")]
    HalfCertificate,
    /// The context of `--context` cannot be used.
    #[error("context '{}' is not usable: {reason}", name.escape_debug())]
    Context {
        /// Which context.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file of `--config` cannot be used.
    #[error("config file '{}' is not usable: {reason}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
