//! A call by key in the making: what is asked, and how long it may take; made by awaiting it.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::call::{CallError, Caller, READ_TIMEOUT, Reply, WRITE_TIMEOUT};

/// A call by key, made by awaiting it.
///
/// It waits [`WRITE_TIMEOUT`] for its answer unless told otherwise: a call that may change something is given more time,
/// because to give it up leaves its outcome unknown.
#[must_use = "a call is made by awaiting it"]
pub struct RoutedCall<'a> {
    caller: &'a dyn Caller,
    key: Bytes,
    operation: &'a str,
    payload: Bytes,
    timeout: Duration,
}

impl<'a> RoutedCall<'a> {
    pub(crate) fn new(caller: &'a dyn Caller, key: &[u8], operation: &'a str, payload: Bytes) -> Self {
        Self { caller, key: Bytes::copy_from_slice(key), operation, payload, timeout: WRITE_TIMEOUT }
    }

    /// It only reads: waits [`READ_TIMEOUT`].
    pub fn read(self) -> Self {
        self.timeout(READ_TIMEOUT)
    }

    /// Waits so long.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

impl<'a> IntoFuture for RoutedCall<'a> {
    type Output = Result<Reply, CallError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.caller.call(self.key, self.operation, self.payload, self.timeout)
    }
}
