//! NATS subjects: which are well formed, and which pattern matches which.

/// Whether messages can be sent to it: tokens without spaces, none empty, no wildcards. In one go: every message is asked.
pub(super) fn is_publishable(subject: &str) -> bool {
    let bytes = subject.as_bytes();
    // The byte before, and whether it is a token by itself so far.
    let (mut before, mut alone) = (b'.', false);
    for byte in bytes {
        match byte {
            b'\t'..=b'\r' | b' ' => return false,
            b'.' if before == b'.' || alone && matches!(before, b'*' | b'>') => return false,
            _ => {}
        }
        alone = before == b'.';
        before = *byte;
    }
    before != b'.'
        && !(alone && matches!(before, b'*' | b'>'))
        && (subject.is_ascii() || !subject.contains(char::is_whitespace))
}

/// Whether it can be subscribed to: `>` stands last, if it is there.
pub(super) fn is_pattern(subject: &str) -> bool {
    let mut tokens = tokens(subject).peekable();
    while let Some(token) = tokens.next() {
        if !is_token(token) || (token == b">" && tokens.peek().is_some()) {
            return false;
        }
    }
    !subject.contains(char::is_whitespace)
}

fn tokens(subject: &str) -> impl Iterator<Item = &[u8]> {
    subject.as_bytes().split(|byte| *byte == b'.')
}

/// Not empty, and without the spaces of ASCII.
fn is_token(token: &[u8]) -> bool {
    !token.is_empty() && !token.iter().any(|byte| matches!(byte, b'\t'..=b'\r' | b' '))
}

/// Whether a subscription to `pattern` gets what is sent to `subject`.
pub(super) fn matches(pattern: &str, subject: &str) -> bool {
    // Most have no wildcards, and there is one for each partition.
    if pattern == subject {
        return true;
    }
    if !pattern.ends_with('>') && !pattern.contains('*') {
        return false;
    }
    let mut subject = subject.split('.');
    for token in pattern.split('.') {
        match (token, subject.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    subject.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_one_token_or_all_that_follow() {
        for (pattern, subject) in [("a.b", "a.b"), ("a.*", "a.b"), ("*.*", "a.b"), ("a.>", "a.b.c"), (">", "a")] {
            assert!(matches(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [("a.b", "a"), ("a", "a.b"), ("a.*", "a.b.c"), ("a.*", "a"), ("a.>", "a")] {
            assert!(!matches(pattern, subject), "{pattern} {subject}");
        }
    }

    #[test]
    fn malformed_subjects_are_known() {
        for bad in ["", "a..b", ".a", "a b", "a\u{b}b", "ä\u{2003}b", "a.>.b"] {
            assert!(!is_pattern(bad), "{bad}");
        }
        assert!(is_pattern("a.*.>"));
        for good in ["a", "a.b", "a.**", "a*.b", ">a.b"] {
            assert!(is_publishable(good), "{good}");
        }
        for bad in ["", "a..b", ".a", "a.", "a b", "a\u{b}b", "ä\u{2003}b", "a.*", "*.a", ">", "a.>.b"] {
            assert!(!is_publishable(bad), "{bad}");
        }
    }
}
