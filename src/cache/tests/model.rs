//! The cache against the simplest map that could do the same.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Set { key: u8, len: usize, ttl_ms: Option<u64> },
    Delete { key: u8 },
    Touch { key: u8, ttl_ms: Option<u64> },
    Get { key: u8 },
    Advance { ms: u64 },
    Sweep { max_entries: usize },
    HandOver,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0u8..20, 2usize..12_000, prop::option::of(1u64..100)).prop_map(|(key, len, ttl_ms)| Step::Set { key, len, ttl_ms }),
        2 => (0u8..20).prop_map(|key| Step::Delete { key }),
        2 => (0u8..20, prop::option::of(1u64..100)).prop_map(|(key, ttl_ms)| Step::Touch { key, ttl_ms }),
        5 => (0u8..20).prop_map(|key| Step::Get { key }),
        3 => (0u64..40).prop_map(|ms| Step::Advance { ms }),
        1 => (0usize..10).prop_map(|max_entries| Step::Sweep { max_entries }),
        1 => Just(Step::HandOver),
    ];
    prop::collection::vec(step, 1..120)
}

/// What is expected of an entry.
#[derive(Clone, Copy)]
struct Expected {
    len: usize,
    version: Version,
    written_ms: u64,
    deadline_ms: Option<u64>,
}

/// The entries by key; never full.
#[derive(Default)]
struct Model {
    now_ms: u64,
    epoch: u64,
    sequence: u64,
    entries: HashMap<u8, Expected>,
}

impl Model {
    fn next_version(&mut self) -> Version {
        self.sequence += 1;
        version(self.epoch, self.sequence)
    }

    fn get(&self, key: u8) -> Option<Got> {
        let Expected { len, version, written_ms, deadline_ms } = *self.entries.get(&key)?;
        let remaining_ttl_ms = deadline_ms.map(|deadline| deadline.saturating_sub(self.now_ms));
        let alive = remaining_ttl_ms != Some(0);
        alive.then(|| Got { value: text(len), version, age_ms: self.now_ms - written_ms, remaining_ttl_ms })
    }

    /// Touch, or persist where there is no time to live; the version afterwards.
    fn set_ttl(&mut self, key: u8, ttl_ms: Option<u64>) -> Option<Version> {
        let got = self.get(key)?;
        if ttl_ms.is_none() && got.remaining_ttl_ms.is_none() {
            return Some(got.version);
        }
        let (version, now_ms) = (self.next_version(), self.now_ms);
        let entry = self.entries.get_mut(&key)?;
        (entry.version, entry.deadline_ms) = (version, ttl_ms.map(|ttl| now_ms + ttl));
        Some(version)
    }
}

async fn run(steps: Vec<Step>) {
    let (mut node, mut model) = (node(), Model { epoch: 1, ..Model::default() });
    let mut grant = super::grant(0, 1);
    node.own(&grant).await;
    for step in steps {
        match step {
            Step::Set { key, len, ttl_ms } => {
                let version = model.next_version();
                let (written_ms, deadline_ms) = (model.now_ms, ttl_ms.map(|ttl| model.now_ms + ttl));
                model.entries.insert(key, Expected { len, version, written_ms, deadline_ms });
                assert_eq!(node.set(&grant, &[key], &text(len), ttl_ms).await, version);
            }
            Step::Delete { key } => {
                let expected = (model.get(key).is_some(), model.next_version());
                model.entries.remove(&key);
                assert_eq!(node.delete(&grant, &[key]).await, expected);
            }
            Step::Touch { key, ttl_ms } => {
                assert_eq!(node.set_ttl(&grant, &[key], ttl_ms).await, model.set_ttl(key, ttl_ms));
            }
            Step::Get { key } => assert_eq!(node.get(&grant, &[key]).await, model.get(key)),
            Step::Advance { ms } => {
                model.now_ms += ms;
                node.clock.advance(Duration::from_millis(ms));
            }
            Step::Sweep { max_entries } => assert!(node.sweep(max_entries) <= max_entries),
            Step::HandOver => {
                (model.epoch, model.sequence) = (model.epoch + 1, 0);
                let next = super::node();
                let chunks = node.cache.snapshot(&grant, 16_384).await.unwrap();
                let chunks = futures::TryStreamExt::try_collect(chunks).await.unwrap();
                grant = super::grant(0, model.epoch);
                next.cache.restore(&grant, chunks, Duration::ZERO).await.unwrap();
                next.own(&grant).await;
                node = next;
            }
        }
    }
    node.sweep(usize::MAX);
    let alive = (0..20).filter(|key| model.get(*key).is_some()).count();
    assert_eq!(node.cache.stats().entries, alive as u64);
    assert_eq!(node.cache.stats().evicted, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_history_of_one_partition_over_several_owners_reads_as_the_model_says(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(steps));
    }
}
