//! What a node counts and measures, and its text for Prometheus.
//!
//! In: events as they happen ([`Metrics`], cheap, from any thread) and, at each scrape, the state of the moment
//! ([`Gauges`]). Out: OpenMetrics text. Names begin with `nats_ring_`, units are seconds and bytes, and the values of
//! every label are known beforehand, so that no request can add a time series.

mod counted;
mod labels;
mod scrape;

pub use counted::Metrics;
pub use labels::{Hook, MoveEnd, Outcome};
pub use scrape::{Figure, Gauges};

/// Media type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every name begins with.
const PREFIX: &str = "nats_ring";
