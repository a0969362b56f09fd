//! What REST must answer, said as simply as possible: a map, a clock, and the standard's order of preconditions.
//!
//! In: steps drawn at random. Out: the request of each, and the judgement over its answer. Tags are learned from answers;
//! each write must give one never seen before.
#![allow(unreachable_pub, clippy::unwrap_used)] // shared by tests as a module

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::Answer;

const TYPES: [&str; 3] = ["text/plain", "image/png", "application/json"];

/// What a precondition names.
#[derive(Debug, Clone)]
pub enum Tags {
    Any,
    List(Vec<Tag>),
}

#[derive(Debug, Clone, Copy)]
pub enum Tag {
    /// The entry's own, strong or weak; one that never was where there is no entry.
    Current { weak: bool },
    /// The key's first.
    Old,
    /// One that is no version.
    Foreign,
}

#[derive(Debug, Clone, Default)]
pub struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

#[derive(Debug, Clone)]
pub enum Step {
    Put { key: u8, content_type: usize, number: u32, max_age: Option<u64>, conditions: Conditions },
    Get { key: u8, head: bool, conditions: Conditions },
    Delete { key: u8, conditions: Conditions },
    Touch { key: u8, max_age: u64, conditions: Conditions },
    Persist { key: u8, conditions: Conditions },
    Advance { ms: u64 },
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let tag = prop_oneof![
        4 => any::<bool>().prop_map(|weak| Tag::Current { weak }),
        1 => Just(Tag::Old),
        1 => Just(Tag::Foreign),
    ];
    let tags = prop_oneof![1 => Just(Tags::Any), 3 => prop::collection::vec(tag, 1..4).prop_map(Tags::List)];
    let given = prop_oneof![2 => Just(None), 1 => tags.prop_map(Some)];
    (given.clone(), given).prop_map(|(if_match, if_none_match)| Conditions { if_match, if_none_match })
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0u8..3;
    let put = (key.clone(), 0..TYPES.len(), any::<u32>(), prop::option::of(1u64..4), conditions()).prop_map(
        |(key, content_type, number, max_age, conditions)| Step::Put { key, content_type, number, max_age, conditions },
    );
    let get = (key.clone(), any::<bool>(), conditions());
    let touch = (key.clone(), 1u64..4, conditions());
    let step = prop_oneof![
        5 => put,
        5 => get.prop_map(|(key, head, conditions)| Step::Get { key, head, conditions }),
        2 => (key.clone(), conditions()).prop_map(|(key, conditions)| Step::Delete { key, conditions }),
        2 => touch.prop_map(|(key, max_age, conditions)| Step::Touch { key, max_age, conditions }),
        1 => (key, conditions()).prop_map(|(key, conditions)| Step::Persist { key, conditions }),
        2 => (1u64..2500).prop_map(|ms| Step::Advance { ms }),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Debug, Clone)]
struct Entry {
    body: String,
    content_type: &'static str,
    tag: String,
    written_ms: u64,
    deadline_ms: Option<u64>,
}

/// A request to be sent.
pub struct Request {
    pub line: String,
    pub headers: Vec<String>,
    pub body: String,
}

#[derive(Default)]
pub struct Model {
    now_ms: u64,
    entries: HashMap<u8, Entry>,
    first_tags: HashMap<u8, String>,
    seen: BTreeSet<String>,
}

impl Model {
    pub fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        let now_ms = self.now_ms;
        self.entries.retain(|_, entry| entry.deadline_ms.is_none_or(|deadline| deadline > now_ms));
    }

    pub fn request(&self, step: &Step) -> Request {
        let (line, key, conditions, mut headers, body) = match step {
            Step::Put { key, content_type, number, max_age, conditions } => {
                let mut headers = vec![format!("content-type: {}", TYPES[*content_type])];
                headers.extend(max_age.map(|seconds| format!("cache-control: max-age={seconds}")));
                (format!("PUT /v1/keys/{key}"), key, conditions, headers, number.to_string())
            }
            Step::Get { key, head, conditions } => {
                let method = if *head { "HEAD" } else { "GET" };
                (format!("{method} /v1/keys/{key}"), key, conditions, Vec::new(), String::new())
            }
            Step::Delete { key, conditions } => {
                (format!("DELETE /v1/keys/{key}"), key, conditions, Vec::new(), String::new())
            }
            Step::Touch { key, max_age, conditions } => {
                let headers = vec![format!("cache-control: max-age={max_age}")];
                (format!("POST /v1/keys/{key}/touch"), key, conditions, headers, String::new())
            }
            Step::Persist { key, conditions } => {
                (format!("POST /v1/keys/{key}/persist"), key, conditions, Vec::new(), String::new())
            }
            Step::Advance { .. } => unreachable!("sends nothing"),
        };
        let Conditions { if_match, if_none_match } = conditions;
        headers.extend(if_match.as_ref().map(|tags| format!("if-match: {}", self.text(*key, tags))));
        headers.extend(if_none_match.as_ref().map(|tags| format!("if-none-match: {}", self.text(*key, tags))));
        Request { line, headers, body }
    }

    fn text(&self, key: u8, tags: &Tags) -> String {
        let Tags::List(tags) = tags else { return "*".to_owned() };
        tags.iter().map(|tag| self.tag(key, *tag)).collect::<Vec<_>>().join(", ")
    }

    fn tag(&self, key: u8, tag: Tag) -> String {
        let never = || "\"9.9\"".to_owned();
        match tag {
            Tag::Current { weak } => {
                let tag = self.entries.get(&key).map_or_else(never, |entry| entry.tag.clone());
                if weak { format!("W/{tag}") } else { tag }
            }
            Tag::Old => self.first_tags.get(&key).cloned().unwrap_or_else(never),
            Tag::Foreign => "\"some,thing\"".to_owned(),
        }
    }

    /// Whether the tags match the entry.
    fn matches(&self, key: u8, tags: &Tags, weakly: bool) -> bool {
        let Some(entry) = self.entries.get(&key) else { return false };
        match tags {
            Tags::Any => true,
            Tags::List(tags) => tags.iter().any(|tag| {
                let text = self.tag(key, *tag);
                let strong = text.strip_prefix("W/");
                if weakly { strong.unwrap_or(&text) == entry.tag } else { text == entry.tag }
            }),
        }
    }

    /// The status that the preconditions alone lead to, if they end it.
    fn ended_by(&self, key: u8, conditions: &Conditions, reads: bool) -> Option<u16> {
        let Conditions { if_match, if_none_match } = conditions;
        if if_match.as_ref().is_some_and(|tags| !self.matches(key, tags, false)) {
            return Some(412);
        }
        let excluded = if_none_match.as_ref().is_some_and(|tags| self.matches(key, tags, true));
        excluded.then_some(if reads { 304 } else { 412 })
    }

    pub fn check(&mut self, step: &Step, request: &Request, answer: &Answer) {
        let (line, headers) = (&request.line, &request.headers);
        let expected = self.expected(step);
        assert_eq!(answer.status, expected, "{line} {headers:?}: {:?}", answer.body);
        if expected == 200 || expected == 304 {
            self.check_read(step, answer);
        } else if expected < 300 {
            self.apply(step, answer);
        }
    }

    fn expected(&self, step: &Step) -> u16 {
        let there = |key: &u8| self.entries.contains_key(key);
        match step {
            Step::Put { key, conditions, .. } => {
                let done = if there(key) { 204 } else { 201 };
                self.ended_by(*key, conditions, false).unwrap_or(done)
            }
            // Preconditions count only where it would succeed without them.
            Step::Get { key, conditions, .. } if there(key) => self.ended_by(*key, conditions, true).unwrap_or(200),
            Step::Delete { key, conditions }
            | Step::Touch { key, conditions, .. }
            | Step::Persist { key, conditions }
                if there(key) =>
            {
                self.ended_by(*key, conditions, false).unwrap_or(204)
            }
            _ => 404,
        }
    }

    fn check_read(&self, step: &Step, answer: &Answer) {
        let Step::Get { key, head, .. } = step else { panic!("{step:?} is no read") };
        let entry = &self.entries[key];
        assert_eq!(answer.header("etag"), Some(&*entry.tag));
        let age_ms = self.now_ms - entry.written_ms;
        assert_eq!(answer.header("age"), Some(&*(age_ms / 1000).to_string()));
        let max_age = entry.deadline_ms.map(|deadline| format!("max-age={}", (deadline - entry.written_ms) / 1000));
        assert_eq!(answer.header("cache-control"), max_age.as_deref());
        if answer.status == 200 {
            assert_eq!(answer.header("content-type"), Some(entry.content_type));
            assert_eq!(answer.header("content-length"), Some(&*entry.body.len().to_string()));
        }
        let body = if *head || answer.status == 304 { "" } else { &entry.body };
        assert_eq!(answer.body, body);
    }

    fn apply(&mut self, step: &Step, answer: &Answer) {
        let now_ms = self.now_ms;
        match step {
            Step::Put { key, content_type, number, max_age, .. } => {
                let tag = self.new_tag(*key, answer);
                let deadline_ms = max_age.map(|seconds| now_ms + seconds * 1000);
                let (body, content_type) = (number.to_string(), TYPES[*content_type]);
                self.entries.insert(*key, Entry { body, content_type, tag, written_ms: now_ms, deadline_ms });
            }
            Step::Delete { key, .. } => {
                self.entries.remove(key);
            }
            Step::Touch { key, max_age, .. } => {
                let tag = self.new_tag(*key, answer);
                let entry = self.entries.get_mut(key).unwrap();
                (entry.tag, entry.deadline_ms) = (tag, Some(now_ms + max_age * 1000));
            }
            Step::Persist { key, .. } if self.entries[key].deadline_ms.is_some() => {
                let tag = self.new_tag(*key, answer);
                let entry = self.entries.get_mut(key).unwrap();
                (entry.tag, entry.deadline_ms) = (tag, None);
            }
            // Nothing to take away: it is still the same.
            Step::Persist { key, .. } => assert_eq!(answer.header("etag"), Some(&*self.entries[key].tag)),
            Step::Get { .. } | Step::Advance { .. } => panic!("{step:?} changes nothing"),
        }
    }

    fn new_tag(&mut self, key: u8, answer: &Answer) -> String {
        let tag = answer.header("etag").unwrap().to_owned();
        self.first_tags.entry(key).or_insert_with(|| tag.clone());
        // Versions are unique within a partition; that of a key never changes.
        assert!(self.seen.insert(format!("{key} {tag}")), "{tag} was given before");
        tag
    }
}
