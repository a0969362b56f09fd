//! Reads Rust source as text for the tests that keep the project's layers apart: no compiler, a few rules.
//!
//! In: one file's text. Out: its words without comments, literals and test modules, and the paths it names from the
//! crate's root (`crate::a::{b, c::D}` gives `a::b` and `a::c::D`; so do chains of `super` that reach the root).
#![allow(unreachable_pub)] // shared by tests as a module

/// A word or a punctuation mark, and the line it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A path from the crate's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CratePath {
    pub segments: Vec<String>,
    pub line: usize,
}

/// What a file says outside comments, literals and test modules.
pub struct Source {
    pub tokens: Vec<Token>,
    /// Modules declared `#[cfg(test)] mod name;`: their files are tests.
    pub test_modules: Vec<String>,
}

impl Source {
    pub fn read(text: &str) -> Self {
        let mut tokens = tokens(&blank_comments_and_literals(text));
        let test_modules = cut_test_modules(&mut tokens);
        Self { tokens, test_modules }
    }

    /// Whether the word stands anywhere, and where first.
    pub fn line_of(&self, word: &str) -> Option<usize> {
        self.tokens.iter().find(|t| t.text == word).map(|t| t.line)
    }

    /// All paths from the crate's root; `module_depth` is how deep in the crate the file's module is (`a/b.rs`: 2).
    pub fn crate_paths(&self, module_depth: usize) -> Vec<CratePath> {
        let mut found = Vec::new();
        for at in 0..self.tokens.len() {
            if let Some(start) = self.path_start(at, module_depth) {
                self.expand(start, &[], &mut found);
            }
        }
        found
    }

    fn word(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |t| t.text.as_str())
    }

    /// Where the path after `crate::`, or after enough `super::`, begins.
    fn path_start(&self, at: usize, module_depth: usize) -> Option<usize> {
        let begins = at == 0 || self.word(at - 1) != "::";
        match self.word(at) {
            "crate" if begins && self.word(at + 1) == "::" => Some(at + 2),
            "super" if begins => {
                let mut next = at;
                let mut ups = 0;
                while self.word(next) == "super" && self.word(next + 1) == "::" {
                    next += 2;
                    ups += 1;
                }
                (ups > 0 && ups >= module_depth).then_some(next)
            }
            _ => None,
        }
    }

    /// Collects the paths of the use tree at `at`; returns where it ends.
    fn expand(&self, mut at: usize, prefix: &[String], found: &mut Vec<CratePath>) -> usize {
        let mut segments = prefix.to_vec();
        loop {
            if self.word(at) == "{" {
                return self.expand_group(at + 1, &segments, found);
            }
            let Some(token) = self.tokens.get(at) else { return at };
            segments.push(token.text.clone());
            if self.word(at + 1) != "::" {
                found.push(CratePath { segments, line: token.line });
                return at + 1;
            }
            at += 2;
        }
    }

    fn expand_group(&self, mut at: usize, prefix: &[String], found: &mut Vec<CratePath>) -> usize {
        while at < self.tokens.len() && self.word(at) != "}" {
            at = self.expand(at, prefix, found);
            while at < self.tokens.len() && !matches!(self.word(at), "," | "}") {
                at += 1; // `as name`
            }
            if self.word(at) == "," {
                at += 1;
            }
        }
        at + 1
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            found.push(Token { text: rest[..length].to_owned(), line: number + 1 });
            rest = rest[length..].trim_start();
        }
    }
    found
}

/// Takes out `#[cfg(test)] mod x { … }`; returns the names of those declared `#[cfg(test)] mod x;`.
fn cut_test_modules(tokens: &mut Vec<Token>) -> Vec<String> {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut elsewhere = Vec::new();
    let mut at = 0;
    while at + CFG_TEST.len() < tokens.len() {
        if !CFG_TEST.iter().enumerate().all(|(i, word)| tokens[at + i].text == *word) {
            at += 1;
            continue;
        }
        let mut item = at + CFG_TEST.len();
        while tokens.get(item).is_some_and(|t| t.text == "#") {
            item = after_closing(tokens, item + 1, "[", "]");
        }
        let word = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
        let end = match (word(item), word(item + 2)) {
            ("mod", "{") => after_closing(tokens, item + 2, "{", "}"),
            ("mod", ";") => {
                elsewhere.push(word(item + 1).to_owned());
                item + 3
            }
            _ => item,
        };
        tokens.drain(at..end);
    }
    elsewhere
}

fn after_closing(tokens: &[Token], open_at: usize, open: &str, close: &str) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open_at) {
        if token.text == open {
            depth += 1;
        } else if token.text == close {
            depth -= 1;
            if depth == 0 {
                return at + 1;
            }
        }
    }
    tokens.len()
}

/// The text with everything in comments, strings and characters replaced by spaces; lines stay where they are.
pub fn blank_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_or_comment_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` where none does.
fn literal_or_comment_end(chars: &[char], at: usize) -> usize {
    let peek = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (chars[at], peek(at + 1)) {
        ('/', '/') => chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n),
        ('/', '*') => block_comment_end(chars, at),
        ('"', _) => quoted_end(chars, at + 1, '"'),
        ('r', '"' | '#') if !in_word || (at > 0 && chars[at - 1] == 'b') => raw_string_end(chars, at),
        // A character, not a lifetime: closed by a quote after one character or an escape.
        ('\'', '\\') => quoted_end(chars, at + 1, '\''),
        ('\'', c) if c != '\'' && peek(at + 2) == '\'' => at + 3,
        _ => at,
    }
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => {
                depth += 1;
                at += 2;
            }
            ('*', '/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn raw_string_end(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return start; // a raw identifier
    }
    let mut at = open + 1;
    while at < chars.len() {
        if chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    chars.len()
}
