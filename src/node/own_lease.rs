//! What the store has of this node's own lease, looked up where a renewal of it was refused.
//!
//! In: a key. Out: the record as the store has it, as an input like those of the watch. A renewal is refused where an
//! earlier one landed and its acknowledgement was lost, as in any outage. The watch tells of that too; but after an
//! outage a cluster answers writes seconds before it lets a watch be opened, which is longer than a lease: others
//! would evict a node that is well and only does not know its own revision.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::coord::{Key, Position, Store, read_entry};
use crate::ring::Input;

/// Sends the record to the loop. What is stale changes nothing there: per key later revisions win, and the next renewal is
/// a compare-and-set.
pub(super) async fn look_up(
    store: &dyn Store,
    key: &Key,
    timeout: Duration,
    position: &Position,
    inputs: &mpsc::Sender<Input>,
) {
    let Ok(Ok(Some(entry))) = tokio::time::timeout(timeout, store.get_latest(&key.text())).await else { return };
    position.saw(entry.revision);
    if let Some(update) = read_entry(entry) {
        // Closed only once the incarnation is over.
        let _ = inputs.send(Input::LeaseChange(update)).await;
    }
}
