//! W3C `traceparent`, from whoever asked to whoever answers: kept beside the task, so that a service that calls other
//! keys passes on what it was called with.
//!
//! In: the text that came with a request. Out: the text that goes with the next. Nothing here reads it.

use std::future::Future;

use futures::future::Either;

/// Name of the header, over HTTP and NATS.
pub const TRACE_HEADER: &str = "traceparent";
/// Longest text that is passed on. The format of today has 55 bytes; later ones may be longer.
const MAX_BYTES: usize = 128;

tokio::task_local! {
    static TRACE: String;
}

/// Runs `work` as part of this trace: calls by key that it makes carry it. Without one, or with a text that cannot be a
/// `traceparent`, `work` runs as it is.
pub fn traced<F: Future>(trace: Option<String>, work: F) -> impl Future<Output = F::Output> {
    match trace.and_then(|text| sound_trace(&text)) {
        Some(trace) => Either::Left(TRACE.scope(trace, work)),
        None => Either::Right(work),
    }
}

/// The trace that the running task is part of.
pub fn current_trace() -> Option<String> {
    TRACE.try_with(String::clone).ok()
}

/// The text, where it can be a `traceparent`: it comes from anybody, and goes into every request that follows.
pub fn sound_trace(text: &str) -> Option<String> {
    let sound =
        (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    sound.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[tokio::test]
    async fn what_runs_in_a_trace_sees_it_and_nothing_else_does() {
        assert_eq!(traced(Some(PARENT.to_owned()), async { current_trace() }).await.as_deref(), Some(PARENT));
        assert_eq!(current_trace(), None);
        assert_eq!(traced(None, async { current_trace() }).await, None);
    }

    #[tokio::test]
    async fn text_that_cannot_be_a_traceparent_is_not_passed_on() {
        for text in [String::new(), "0".repeat(MAX_BYTES + 1), "00-\r\nx".to_owned()] {
            assert_eq!(traced(Some(text.clone()), async { current_trace() }).await, None, "{text:?}");
        }
    }
}
