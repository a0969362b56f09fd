//! The campaign's judge is judged, and its schedule; neither needs a ring. The campaign itself is a program: `make faults`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[path = "../common/mod.rs"]
mod common;

#[path = "../campaign/checker/mod.rs"]
mod checker;
#[path = "../campaign/history.rs"]
mod history;
#[path = "../campaign/plant.rs"]
mod plant;
#[path = "../campaign/schedule.rs"]
mod schedule;

mod checker_tests;
