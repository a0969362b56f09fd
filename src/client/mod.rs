//! Routing without joining: a [`RingClient`] follows who owns what and calls owners directly, as nodes do among each other.
//!
//! `ring_client` is the handle, `follow` the task behind it that keeps its routes true.

mod follow;
mod ring_client;

pub use ring_client::{ClientError, ClientParts, RingClient};
