//! An operator's wish that the node leaves, from the subject where it is said to whoever runs the node.

use tokio_util::sync::CancellationToken;

/// Said once; the first wish counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Leave {
    pub(super) asked: CancellationToken,
    for_good: CancellationToken,
}

impl Leave {
    /// The node is to leave, to come back or not.
    pub(super) fn ask(&self, for_good: bool) {
        if for_good && !self.asked.is_cancelled() {
            self.for_good.cancel();
        }
        self.asked.cancel();
    }

    /// Whether it is not to come back.
    pub(super) fn is_for_good(&self) -> bool {
        self.for_good.is_cancelled()
    }
}
