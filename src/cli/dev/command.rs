//! Commands to a running `dev`, from keys and from a second terminal, and their answers. Pure: text in, text out.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Add(Option<String>),
    Do(Verb, String),
    Status,
}

/// What can be done to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Stop,
    Kill,
    Restart,
    Freeze,
    Thaw,
}

const VERBS: [(Verb, &str); 5] = [
    (Verb::Stop, "stop"),
    (Verb::Kill, "kill"),
    (Verb::Restart, "restart"),
    (Verb::Freeze, "freeze"),
    (Verb::Thaw, "thaw"),
];

/// `{"node":"node-2"}`; nothing counts as `{}`.
#[derive(Default, Serialize, Deserialize)]
struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

impl Command {
    /// Last token of the subject.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Add(_) => "add",
            Self::Status => "status",
            Self::Do(verb, _) => VERBS.iter().find(|(known, _)| known == verb).map_or("", |(_, word)| word),
        }
    }

    /// The request's payload.
    pub(super) fn body(&self) -> String {
        let node = match self {
            Self::Add(node) => node.clone(),
            Self::Do(_, node) => Some(node.clone()),
            Self::Status => None,
        };
        serde_json::to_string(&Body { node }).unwrap_or_default()
    }

    /// Reads word and payload; says what is wrong with them.
    pub(super) fn parse(word: &str, payload: &[u8]) -> Result<Self, String> {
        let blank = payload.iter().all(u8::is_ascii_whitespace);
        let body = if blank { Ok(Body::default()) } else { serde_json::from_slice::<Body>(payload) };
        let node = body.map_err(|error| format!("the payload must be such as {{\"node\":\"node-2\"}}: {error}"))?.node;
        match word {
            "add" => return Ok(Self::Add(node)),
            "status" => return Ok(Self::Status),
            _ => {}
        }
        let Some((verb, _)) = VERBS.iter().find(|(_, known)| *known == word) else {
            let verbs: Vec<&str> = VERBS.iter().map(|(_, word)| *word).collect();
            return Err(format!("there is no command '{word}': there are add, {}, status", verbs.join(", ")));
        };
        let node = node.ok_or_else(|| format!("'{word}' needs a node: {{\"node\":\"node-2\"}}"))?;
        Ok(Self::Do(*verb, node))
    }
}

/// `<ring>.dev.<command>`, the last token left out.
pub(super) fn subject(ring: &str) -> String {
    format!("{ring}.dev")
}

/// What was done.
pub(super) fn done(node: &str, text: &str, seconds: f64) -> Value {
    json!({ "ok": true, "node": node, "message": text, "seconds": (seconds * 1000.0).round() / 1000.0 })
}

/// What was not, in the shape of errors everywhere.
pub(super) fn failed(code: &str, message: &str) -> Value {
    json!({ "error": { "code": code, "message": message } })
}

/// Code and message, where the answer is an error.
pub(super) fn error_of(answer: &Value) -> Option<(&str, &str)> {
    let error = answer.get("error")?;
    Some((error["code"].as_str().unwrap_or("internal"), error["message"].as_str().unwrap_or("no reason given")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_read_back_from_its_word_and_body() {
        let verbs = VERBS.map(|(verb, _)| Command::Do(verb, "node-2".to_owned()));
        let others = [Command::Add(None), Command::Add(Some("spare".to_owned())), Command::Status];
        for command in verbs.into_iter().chain(others) {
            assert_eq!(Command::parse(command.word(), command.body().as_bytes()), Ok(command));
        }
        assert_eq!(Command::parse("status", b" "), Ok(Command::Status));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(Command::parse("explode", b"{}").unwrap_err().contains("'explode': there are add, stop, kill"));
        assert!(Command::parse("kill", b"").unwrap_err().contains("'kill' needs a node"));
        assert!(Command::parse("kill", b"node-2").unwrap_err().contains("payload must be"));
        assert_eq!(error_of(&failed("not_found", "there is no node 'x'")), Some(("not_found", "there is no node 'x'")));
        assert_eq!(error_of(&done("a", "b", 1.0)), None);
    }
}
