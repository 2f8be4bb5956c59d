//! What the log holds, as its owner hands it over. The byte layout is in docs/formats.md.

use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition};

/// A small opaque blob per group (vote, term, members), written whole whenever it changes and
/// repeated at the head of every segment, so that cutting old segments drops no vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState(pub Bytes);

/// One log entry of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRecord {
    /// Index and term.
    pub position: LogPosition,
    /// What the owner makes of it; opaque here.
    pub kind: u8,
    /// Opaque.
    pub payload: Bytes,
}

/// One thing to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Replaces the group's state.
    State {
        /// Whose.
        group: GroupId,
        /// The whole new state.
        state: GroupState,
    },
    /// Appends an entry; everything that the group's log held at this index or above is replaced.
    Entry {
        /// Whose.
        group: GroupId,
        /// The entry.
        entry: EntryRecord,
    },
    /// Drops the group's whole log: it begins after `start` (a snapshot took its place).
    Reset {
        /// Whose.
        group: GroupId,
        /// The last index that the snapshot includes.
        start: LogIndex,
    },
}
