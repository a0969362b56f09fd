//! The records kept in the coordination store: one versioned JSON value per key.
//!
//! In: bytes of a KV value. Out: a typed record, or a reason why it cannot be read. A record of a newer format than
//! this release knows is refused, never guessed at.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{Revision, RingConfig};
use crate::types::{Epoch, Generation, Incarnation, KeyHash, NodeId, NodeName, PartitionCount, PartitionId};

/// The format this release writes, and the only one it reads.
pub const FORMAT: u32 = 1;
/// How a value of that format begins, as it is written here.
const OURS: &[u8] = b"{\"format\":1,";

/// A key of the ring's bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// What never changes but by a rollback: identity of the ring.
    Meta,
    /// What operators may change while the ring runs.
    Config,
    /// A node's right to act.
    Lease(NodeName),
    /// What a node says of itself.
    Member(NodeName),
    /// Who should own what.
    Plan,
    /// Who owns a partition.
    Own(PartitionId),
}

impl Key {
    /// The key as the store spells it.
    pub fn text(&self) -> String {
        match self {
            Self::Meta => "meta".to_owned(),
            Self::Config => "config".to_owned(),
            Self::Plan => "plan".to_owned(),
            Self::Lease(node) => format!("lease.{node}"),
            Self::Member(node) => format!("member.{node}"),
            Self::Own(partition) => format!("own.{partition}"),
        }
    }

    /// The key from its spelling; `None` for a key this release does not know.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('.') {
            None => match text {
                "meta" => Some(Self::Meta),
                "config" => Some(Self::Config),
                "plan" => Some(Self::Plan),
                _ => None,
            },
            Some(("lease", node)) => NodeName::new(node).ok().map(Self::Lease),
            Some(("member", node)) => NodeName::new(node).ok().map(Self::Member),
            Some(("own", partition)) => partition.parse().ok().map(|p| Self::Own(PartitionId::new(p))),
            Some(_) => None,
        }
    }
}

/// `meta`: what every node of a ring must agree on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Meta {
    /// The ring's random number, part of every fencing token.
    pub nonce: Uuid,
    /// Counts rollbacks and re-creations of the store.
    pub generation: Generation,
    /// How many partitions.
    pub partitions: PartitionCount,
    /// How keys map to them.
    pub key_hash: KeyHash,
}

/// State of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// Renewed by its holder.
    Live,
    /// Given up by its holder.
    Left,
    /// Taken away by an observer, after a full lease without a renewal.
    Evicted,
}

/// `lease.<node>`: never deleted, so that it stays positive evidence of what became of an incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// Whose.
    pub incarnation: Incarnation,
    /// Live, left or evicted.
    pub state: LeaseState,
    /// Counts renewals.
    pub beat: u64,
    /// How long observers wait after a renewal before they may evict.
    pub lease_ms: u64,
    /// Of a life under a generation that has one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Resumed>,
}

/// What a life says of the one before it, where the store has gone back or was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resumed {
    /// Under which it began: a lease from before says another, or nothing.
    pub generation: Generation,
    /// What it knew of the ring before; nothing where its process was started since.
    pub knew: Option<Knew>,
}

/// What a process knew of the ring before it began anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Knew {
    /// Of the newest plan it knew.
    pub generation: Generation,
    /// That plan's version.
    pub plan: u64,
    /// What it was itself.
    pub was: Incarnation,
}

/// State of a member, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Takes its share.
    Active,
    /// On its way out: gets nothing, gives everything away.
    Draining,
    /// Gone by its own will.
    Left,
}

/// `member.<node>`: written by that node, under its own incarnation only.
#[derive(Debug, Clone, PartialEq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Who writes.
    pub incarnation: Incarnation,
    /// Revision at which this incarnation's lease was created: the ring's order of age.
    pub since: Revision,
    /// Active or draining.
    pub state: MemberState,
    /// Failure zone, if any.
    pub zone: Option<String>,
    /// Share relative to other nodes.
    pub weight: u32,
    /// Where its HTTP listens, if it does.
    pub http: Option<String>,
    /// The program's version.
    pub version: String,
    /// Partitions this node could not start and is not to be given until it takes them off the list.
    pub excluded: Vec<PartitionId>,
    /// Whether it keeps copies of partitions it does not own; releases before replication do not say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replicates: bool,
    /// For how long its places among the copies are kept, should it go now; zero: they are planned anew at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub return_ms: u64,
}

/// A member as the plan knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanMember {
    /// Who, in which incarnation.
    pub id: NodeId,
    /// Its age: smaller is older.
    pub since: Revision,
    /// On its way out.
    pub draining: bool,
    /// Its zone.
    pub zone: Option<String>,
    /// Its share relative to other nodes.
    pub weight: u32,
    /// Partitions it is not to be given.
    pub excluded: Vec<PartitionId>,
    /// Whether it keeps copies of partitions it does not own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replicates: bool,
    /// For how long its places are kept, as it says itself.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub return_ms: u64,
}

impl PlanMember {
    /// As the plan knows a node that says this of itself.
    pub fn announced(node: &NodeName, member: &Member) -> Self {
        Self {
            id: NodeId { node: node.clone(), incarnation: member.incarnation },
            since: member.since,
            draining: member.state == MemberState::Draining,
            zone: member.zone.clone(),
            weight: member.weight,
            excluded: member.excluded.clone(),
            replicates: member.replicates,
            return_ms: member.return_ms,
        }
    }
}

/// What is not said is not written, as by releases before.
#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Places among the copies that are left vacant for a node, or were until it came back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeptPlaces {
    /// Who had them, in which incarnation. Where a member of the plan has this name and another incarnation, it is back, and
    /// has not caught up everywhere.
    pub id: NodeId,
    /// The zone it was in.
    pub zone: Option<String>,
    /// For how long, from when whoever looks first saw that it is away; and once more from its return.
    pub return_ms: u64,
    /// Of which partitions.
    pub partitions: Vec<PartitionId>,
}

/// `plan`: who should own what. Written by the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanRecord {
    /// Grows with each plan.
    pub version: u64,
    /// Who wrote it.
    pub author: NodeId,
    /// Store generation it was made under.
    pub generation: Generation,
    /// Live members, oldest first.
    pub members: Vec<PlanMember>,
    /// Incarnations known to be gone that claims still name.
    pub gone: Vec<NodeId>,
    /// For each partition its replicas, the owner-to-be first; empty where nobody can hold it.
    pub rows: Vec<Vec<NodeName>>,
    /// What operators had asked for when it was made.
    #[serde(default)]
    pub config: RingConfig,
    /// Places that no row names anybody for, because who had them may come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptPlaces>,
}

/// State of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimState {
    /// Owned.
    Held,
    /// Owned, state still being gathered from the surviving replicas.
    Recovering,
    /// Given back: nobody owns it, anybody planned may claim it.
    Released,
}

/// `own.<p>`: who owns a partition. The truth.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// Store generation it was made under.
    pub generation: Generation,
    /// Counts owners.
    pub epoch: Epoch,
    /// The owner; where `state` is released, the last one.
    pub owner: NodeId,
    /// In-sync replicas, the owner included.
    pub replicas: Vec<NodeId>,
    /// Held, recovering, released.
    pub state: ClaimState,
}

impl Claim {
    /// The owner, unless the claim was released.
    pub fn holder(&self) -> Option<&NodeId> {
        (self.state != ClaimState::Released).then_some(&self.owner)
    }
}

/// Any record, by its key.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum Record {
    /// `meta`
    Meta(Meta),
    /// `config`; where it cannot be read, why: nodes go on with the last one that could.
    Config(Result<RingConfig, String>),
    /// `lease.<node>`
    Lease(Lease),
    /// `member.<node>`
    Member(Member),
    /// `plan`
    Plan(PlanRecord),
    /// `own.<p>`
    Own(Claim),
}

/// A value that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON of the expected shape.
    #[error("the value of key '{key}' cannot be read: {source}")]
    Malformed {
        /// Which key.
        key: String,
        /// What the decoder said.
        source: serde_json::Error,
    },
    /// Written by another release.
    #[error("the value of key '{key}' has format {found}, this release reads format {FORMAT}: upgrade this node")]
    Format {
        /// Which key.
        key: String,
        /// Its format.
        found: u32,
    },
}

#[derive(Serialize)]
struct Outgoing<'a, T> {
    format: u32,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

fn write<T: Serialize>(body: &T) -> Bytes {
    // Plain data with string keys: serialising it cannot fail.
    serde_json::to_vec(&Outgoing { format: FORMAT, body }).unwrap_or_default().into()
}

fn read<T: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, RecordError> {
    let malformed = |source| RecordError::Malformed { key: key.text(), source };
    // As every release has written it so far; then it need not be looked for.
    if !value.starts_with(OURS) {
        let FormatOnly { format } = serde_json::from_slice(value).map_err(malformed)?;
        if format != FORMAT {
            return Err(RecordError::Format { key: key.text(), found: format });
        }
    }
    serde_json::from_slice(value).map_err(malformed)
}

impl Record {
    /// The record as a KV value.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Meta(body) => write(body),
            Self::Config(Ok(body)) => write(body),
            // Nobody writes what could not be read.
            Self::Config(Err(_)) => Bytes::new(),
            Self::Lease(body) => write(body),
            Self::Member(body) => write(body),
            Self::Plan(body) => write(body),
            Self::Own(body) => write(body),
        }
    }

    /// The record in a KV value.
    ///
    /// # Errors
    /// [`RecordError`] where it is not JSON of the expected shape, or of another format.
    pub fn decode(key: &Key, value: &[u8]) -> Result<Self, RecordError> {
        Ok(match key {
            Key::Meta => Self::Meta(read(key, value)?),
            Key::Config => Self::Config(
                read::<RingConfig>(key, value).map(RingConfig::without_format).map_err(|error| error.to_string()),
            ),
            Key::Lease(_) => Self::Lease(read(key, value)?),
            Key::Member(_) => Self::Member(read(key, value)?),
            Key::Plan => Self::Plan(read(key, value)?),
            Key::Own(_) => Self::Own(read(key, value)?),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::coord::OnLoss;
    use crate::types::Consistency;

    fn claim() -> Record {
        let owner = NodeId {
            node: NodeName::new("node-1").unwrap(),
            incarnation: Incarnation { start: 3, id: Uuid::from_u128(9) },
        };
        Record::Own(Claim {
            generation: Generation::new(1),
            epoch: Epoch::new(4),
            owner: owner.clone(),
            replicas: vec![owner],
            state: ClaimState::Held,
        })
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let key = Key::Own(PartitionId::new(7));
        assert_eq!(Record::decode(&key, &claim().encode()).unwrap(), claim());
    }

    #[test]
    fn a_record_is_read_wherever_its_format_stands() {
        let key = Key::Own(PartitionId::new(7));
        let text = String::from_utf8(claim().encode().to_vec()).unwrap();
        assert!(text.as_bytes().starts_with(OURS));
        let last = text.replace("\"format\":1,", "").replace("\"held\"}", "\"held\",\"format\": 1}");
        assert_eq!(Record::decode(&key, last.as_bytes()).unwrap(), claim());
        let none = text.replace("\"format\":1,", "");
        assert!(matches!(Record::decode(&key, none.as_bytes()), Err(RecordError::Malformed { .. })));
    }

    #[test]
    fn a_record_of_another_format_is_refused_by_name() {
        let key = Key::Own(PartitionId::new(7));
        let newer = String::from_utf8(claim().encode().to_vec()).unwrap().replace("\"format\":1", "\"format\":2");
        let error = Record::decode(&key, newer.as_bytes()).unwrap_err();
        assert!(matches!(error, RecordError::Format { found: 2, .. }), "{error}");
    }

    fn config(text: &str) -> Result<RingConfig, String> {
        match Record::decode(&Key::Config, text.as_bytes()) {
            Ok(Record::Config(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_config_keeps_what_it_does_not_know_when_something_else_is_changed() {
        let text = r#"{"format":1,"paused":true,"pins":{"17":"b"},"later":{"limit":3}}"#;
        let mut read = config(text).unwrap();
        assert_eq!((read.paused, read.cordoned.len()), (true, 0));
        assert_eq!(read.pins[&PartitionId::new(17)].as_str(), "b");
        read.cordoned.insert(NodeName::new("a").unwrap());
        let written: serde_json::Value = serde_json::from_slice(&Record::Config(Ok(read)).encode()).unwrap();
        let expected = serde_json::json!({"format": 1, "paused": true, "cordoned": ["a"], "pins": {"17": "b"},
            "later": {"limit": 3}});
        assert_eq!(written, expected);
    }

    #[test]
    fn a_config_that_cannot_be_read_says_why_and_is_no_error_of_the_record() {
        assert_eq!(config(r#"{"format":1}"#).unwrap(), RingConfig::default());
        for bad in ["", "{}", "[]", r#"{"format":1,"paused":"yes"}"#, r#"{"format":1,"cordoned":["a b"]}"#] {
            assert!(config(bad).unwrap_err().contains("'config'"), "{bad}");
        }
        assert!(config(r#"{"format":2}"#).unwrap_err().contains("format 2"));
        for bad in ["0", "8", "256", "\"3\"", "-1"] {
            let refused = config(&format!("{{\"format\":1,\"replicas\":{bad}}}")).unwrap_err();
            assert!(refused.contains("'config'"), "{refused}");
        }
        assert!(config(r#"{"format":1,"replicas":8}"#).unwrap_err().contains("from 1 to 7"));
        assert!(config(r#"{"format":1,"consistency":"most"}"#).is_err());
        assert!(config(r#"{"format":1,"on_loss":"panic"}"#).is_err());
    }

    #[test]
    fn what_operators_say_of_copies_is_read_and_written_and_has_defaults() {
        let text = r#"{"format":1,"paused":false,"cordoned":[],"pins":{},"replicas":2,"consistency":"quorum","on_loss":"wait"}"#;
        let read = config(text).unwrap();
        assert_eq!((read.factor().get(), read.consistency, read.on_loss), (2, Consistency::Quorum, OnLoss::Wait));
        assert_eq!(Record::Config(Ok(read)).encode(), text);
        let absent = config(r#"{"format":1}"#).unwrap();
        assert_eq!((absent.replicas, absent.factor().get()), (None, 3));
        assert_eq!((absent.consistency, absent.on_loss), (Consistency::Eventual, OnLoss::Accept));
    }

    #[test]
    fn keys_read_back_as_they_are_spelled() {
        let node = NodeName::new("node-1").unwrap();
        for key in [
            Key::Meta,
            Key::Config,
            Key::Plan,
            Key::Lease(node.clone()),
            Key::Member(node),
            Key::Own(PartitionId::new(63)),
        ] {
            assert_eq!(Key::parse(&key.text()), Some(key));
        }
        assert_eq!(Key::parse("own.x"), None);
        assert_eq!(Key::parse("other"), None);
    }
}
