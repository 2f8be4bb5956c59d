//! Watching a few keys from within the front end, as a client would.

use crate::NodeHandle;
use crate::watch_streams::{WatchDelivery, WatchReceiver, WatchSender};
use store::command::Caller;
use store::range::{KeyRange, Revision};
use store::{Event, WatchRequest};

/// A stream of watches of our own; it closes when it is dropped.
pub(super) struct KeyWatch {
    _sender: WatchSender,
    receiver: WatchReceiver,
    /// What is being read, and how far.
    delivery: Option<(WatchDelivery, usize)>,
}

impl KeyWatch {
    /// Watches each of `keys` from `start` on, for as long as `watcher` may read them. On behalf of
    /// the cluster nothing of it may be shown: whoever is told what follows is asked for their
    /// permission then.
    pub(super) async fn open(
        handle: &NodeHandle,
        watcher: Option<Caller>,
        keys: impl IntoIterator<Item = KeyRange>,
        start: Revision,
    ) -> KeyWatch {
        let (sender, receiver) = handle.open_watch_stream();
        for keys in keys {
            let watch = WatchRequest {
                watch_id: None,
                keys,
                start_revision: start,
                no_put: false,
                no_delete: false,
                prev_kv: false,
                progress_notify: false,
                fragment: false,
            };
            sender.create(watcher.clone(), watch).await;
        }
        KeyWatch { _sender: sender, receiver, delivery: None }
    }

    /// The next event, and the revision up to which it is told; `None` if there are no more to
    /// come: history was compacted, the watcher may not read it any more, or the node stops. The
    /// caller then looks for itself.
    pub(super) async fn next(&mut self) -> Option<(Event, Revision)> {
        loop {
            if let Some((delivery, place)) = &mut self.delivery
                && let Some(event) = delivery.response.events.get(*place)
            {
                *place += 1;
                return Some((event.clone(), delivery.response.revision));
            }
            self.delivery = None;
            let delivery = self.receiver.next().await?;
            if delivery.response.canceled {
                return None;
            }
            self.delivery = Some((delivery, 0));
        }
    }
}
