//! The machine, proven without I/O: action lists step by step, and whole rings in a simulated world.
//!
//! `rig` drives one machine by hand and shortens what is looked at; `world` runs several against a store that delays,
//! loses and reorders, and judges them from outside.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod coordinate;
mod failures;
mod lease;
mod leaving;
mod moves;
mod operators;
mod rig;
mod world;
