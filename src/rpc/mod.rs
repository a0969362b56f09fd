//! Requests between clients and nodes, over core NATS.
//!
//! `bus` is what is needed of NATS (`nats` the real one, `mem` its twin); `subject` and `envelope` what goes over it;
//! `table` who owns what; `router` the caller's side, `server` the owner's.

mod bus;
mod call;
pub mod drain;
pub mod envelope;
pub mod mem;
pub mod micro;
pub mod nats;
mod resend;
mod routed;
mod router;
pub mod server;
pub mod status;
pub mod subject;
mod table;
mod trace;

pub use bus::{Bus, BusError, Headers, Message, RequestError, Source, Subscription};
pub use call::{CallError, Caller, How, READ_TIMEOUT, Reply, Resend, WRITE_TIMEOUT};
pub use routed::RoutedCall;
pub use router::{Router, RouterParts};
pub use table::{Route, RouteChanges, RouteTable};
pub use trace::{TRACE_HEADER, current_trace, sound_trace, traced};
