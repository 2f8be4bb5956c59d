//! An entry of the replicated log, which every member applies in the same order.

use crate::Membership;
use bytes::Bytes;
use clocks::LogPosition;

/// One entry of a group's log. Immutable once committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the entry stands and which leadership wrote it.
    pub position: LogPosition,
    /// What it carries.
    pub payload: Payload,
}

/// The content of an [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A new leader's first entry: commits what came before it (Raft, section 8).
    Barrier,
    /// A command for the state machine; opaque here.
    Command(Bytes),
    /// From this entry on, quorums are those of this membership (thesis, section 4.1).
    Membership(Membership),
}

impl Entry {
    /// Bytes that the entry takes in windows and caches: see [`Payload::weight`].
    #[must_use]
    pub fn weight(&self) -> usize {
        self.payload.weight()
    }
}

impl Payload {
    /// Bytes that it counts for: its own and a fixed overhead, so that empty ones count too.
    #[must_use]
    pub fn weight(&self) -> usize {
        const OVERHEAD: usize = 32;
        OVERHEAD
            + match self {
                Payload::Barrier => 0,
                Payload::Command(command) => command.len(),
                Payload::Membership(membership) => 8 * membership.len(),
            }
    }
}
