//! What applied commands did to the keyspace, for watchers.

use crate::range::{KeyValue, Revision};

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was set.
    Put,
    /// It was deleted; the pair holds only the key and the revision of the deletion.
    Delete,
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

/// Everything that one transaction changed, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionEvents {
    /// The transaction's revision.
    pub revision: Revision,
    /// At least one.
    pub events: Vec<Event>,
}
