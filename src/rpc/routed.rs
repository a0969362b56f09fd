//! A call by key in the making: what is asked, and how long it may take; made by awaiting it.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::call::{CallError, Caller, How, READ_TIMEOUT, Reply, Resend, WRITE_TIMEOUT};
use crate::types::RequestId;

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
    how: How,
}

impl<'a> RoutedCall<'a> {
    pub(crate) fn new(caller: &'a dyn Caller, key: &[u8], operation: &'a str, payload: Bytes) -> Self {
        let how = How { timeout: WRITE_TIMEOUT, resend: Resend::Never };
        Self { caller, key: Bytes::copy_from_slice(key), operation, payload, how }
    }

    /// It only reads: waits [`READ_TIMEOUT`], and is sent again where no answer comes.
    pub fn read(self) -> Self {
        Self { how: How { timeout: READ_TIMEOUT, resend: Resend::Read }, ..self }
    }

    /// The service knows requests by their name ([`Request::once`](crate::service::Request::once)) and executes none twice: so
    /// it is sent again where no answer comes.
    pub fn once(self) -> Self {
        Self { how: How { resend: Resend::Once(None), ..self.how }, ..self }
    }

    /// The same, under a name that the caller gives it and may call again by.
    pub fn once_as(self, id: RequestId) -> Self {
        Self { how: How { resend: Resend::Once(Some(id)), ..self.how }, ..self }
    }

    /// Waits so long.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { how: How { timeout, ..self.how }, ..self }
    }
}

impl<'a> IntoFuture for RoutedCall<'a> {
    type Output = Result<Reply, CallError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.caller.call_with(self.key, self.operation, self.payload, self.how)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::types::{Epoch, NodeName, PartitionId};

    /// Answers with what it was asked.
    struct Echo;

    #[async_trait]
    impl Caller for Echo {
        async fn call(
            &self,
            key: Bytes,
            operation: &str,
            payload: Bytes,
            timeout: Duration,
        ) -> Result<Reply, CallError> {
            let payload = Bytes::from(format!("{key:?} {operation} {payload:?} {timeout:?}"));
            let (partition, node) = (PartitionId::new(0), NodeName::new("n").unwrap());
            Ok(Reply { partition, node, epoch: Epoch::ZERO, payload })
        }
    }

    #[tokio::test]
    async fn a_call_waits_five_seconds_a_read_two_and_either_as_long_as_it_is_told() {
        let call = || RoutedCall::new(&Echo, b"k", "op", Bytes::from_static(b"p"));
        assert_eq!(call().await.unwrap().payload, "b\"k\" op b\"p\" 5s");
        assert_eq!(call().read().await.unwrap().payload, "b\"k\" op b\"p\" 2s");
        assert_eq!(call().timeout(Duration::from_millis(7)).await.unwrap().payload, "b\"k\" op b\"p\" 7ms");
    }
}
