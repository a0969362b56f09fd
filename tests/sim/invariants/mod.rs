//! What must hold whatever happens, one function each, judged from outside: from what was executed and answered and what
//! was written to the store, never from what a node says of itself.

mod hooks;
mod owners;
mod register;

use std::fmt;

pub(crate) use hooks::Hooks;
pub(crate) use owners::Owners;
pub(crate) use register::{Began, Register};

/// What was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) invariant: &'static str,
    pub(crate) how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.how)
    }
}

pub(crate) type Held = Result<(), Broken>;

/// `Ok` where it holds; else what it is called and how it was broken.
pub(crate) fn ensure(holds: bool, invariant: &'static str, how: impl FnOnce() -> String) -> Held {
    if holds { Ok(()) } else { Err(Broken { invariant, how: how() }) }
}

/// All that the invariants remember.
pub(crate) struct Judge {
    pub(crate) owners: Owners,
    pub(crate) hooks: Hooks,
    pub(crate) register: Register,
}
