//! What applied commands did to the keyspace, for watchers.

use crate::envelope::DecodeError;
use crate::range::{KeyValue, Revision};
use std::sync::Arc;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was set.
    Put,
    /// It was deleted; the pair holds only the key and the revision of the deletion.
    Delete,
}

impl EventKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            EventKind::Put => 1,
            EventKind::Delete => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<EventKind, DecodeError> {
        match code {
            1 => Ok(EventKind::Put),
            2 => Ok(EventKind::Delete),
            _ => Err(DecodeError("a kind of event is unknown")),
        }
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The new version, or the tombstone.
    pub pair: KeyValue,
    /// The version replaced or deleted, unless it has been compacted.
    pub previous: Option<KeyValue>,
}

impl Event {
    /// Whether this event created its key (etcd `IsCreate`).
    #[must_use]
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.pair.create_revision == self.pair.mod_revision
    }
}

/// Everything that one transaction changed, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionEvents {
    /// The transaction's revision.
    pub revision: Revision,
    /// At least one; shared by all who watch.
    pub events: Arc<[Event]>,
}
