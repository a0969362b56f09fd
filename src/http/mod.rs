//! HTTP of a node: the cache's operations, and what the node knows of itself and of the ring.
//!
//! In: requests. Out: JSON, or a value as it was stored; for errors `{"error":{"code","message"}}` without exception. Operations on keys go through a
//! [`Caller`](crate::rpc::Caller) to the key's owner; everything else is answered from a [`NodeView`],
//! which [`front::Front`] is.
//!
//! # Layout
//! - [`app`]: the routes; `operations`, `rest`, `update` and `state`: their handlers; [`bodies`]: the JSON of what is seen.
//! - [`front`]: a node with the cache, as HTTP, plain questions and figures see it.
//! - `key`, `headers`, `body`: what is taken from a request; `error`: refusals and their statuses; `guard`: around every
//!   request.
//! - [`bind`], [`serve`]: the listener, connections, and their end without cutting an answer.

pub mod bodies;
mod body;
mod error;
pub mod front;
mod guard;
mod headers;
mod key;
mod operations;
mod rest;
mod routes;
mod serve;
mod state;
mod update;
mod view;

pub use error::ApiError;
pub use routes::{AppState, RequestLimits, app};
pub use serve::{BindError, ConnectionLimits, ServeEnd, bind, serve};
pub use view::{NodeView, OwnerView, cache_figures, gauges};
