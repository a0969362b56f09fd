//! Rings in memory, for tests.

mod builder;
mod clock;
mod ring;
mod settle;
mod wire;

pub use builder::{TestNode, TestRingBuilder};
pub use ring::{TestRing, Unsettled};
