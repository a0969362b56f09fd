//! The ring's rules, pure: leases, planning, the phases of each partition. No I/O, no clock, no randomness.
//!
//! In: [`Input`]s with the time they came. Out: [`Action`]s. [`Machine`] is the whole of it.

mod event;
mod io;
mod lease;
mod machine;
pub mod plan;
mod settings;
mod view;

pub use event::{Event, MemberChange, Origin, PlacesEnd, RemovalReason};
pub use io::{Action, CopySet, Input, Offer, OpId, Outcome};
pub use machine::{CopiesReport, Machine, MemberReport, MoveReport, PlacesReport, Report, Standing, Wait, WaitReport};
pub use settings::{Former, Identity, Timing};
