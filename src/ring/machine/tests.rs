//! The machine, proven without I/O: action lists step by step, and whole rings in a simulated world.
//!
//! `rig` drives one machine by hand and shortens what is looked at; `world` runs several against a store that delays,
//! loses and reorders, and `explore` follows every interleaving of a small one; `invariants` is what both are judged by.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod away;
mod coordinate;
mod copies;
mod explore;
mod failures;
mod former;
mod invariants;
mod lease;
mod leaving;
mod moves;
mod operators;
mod recovery;
mod rig;
mod world;
