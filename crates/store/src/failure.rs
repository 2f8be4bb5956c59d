//! What stops a node: its state can no longer be trusted, or no longer be read. Never the answer
//! to a request; that is [`crate::reply::StoreError`].

use crate::EngineError;
use clocks::{GroupId, LogPosition};
use std::fmt;

/// Why the node has to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreFailure {
    /// The engine failed.
    Engine(EngineError),
    /// The data directory was written by a version that this one cannot read.
    UnknownFormat {
        /// Whose state.
        group: GroupId,
        /// The format found.
        found: u16,
    },
    /// A committed entry cannot be decoded; every member stops at it.
    UndecodableEntry {
        /// Where.
        position: LogPosition,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A record of the state is not as this crate writes them.
    CorruptState {
        /// Whose state.
        group: GroupId,
        /// Which record.
        record: &'static str,
    },
}

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreFailure::Engine(error) => write!(f, "{error}"),
            StoreFailure::UnknownFormat { group, found } => write!(
                f,
                "the state of {group} has format {found}; this version reads only format {}",
                crate::limits::STATE_FORMAT
            ),
            StoreFailure::UndecodableEntry { position, reason } => {
                write!(f, "the committed entry {position} cannot be decoded: {reason}")
            }
            StoreFailure::CorruptState { group, record } => {
                write!(f, "the state of {group} is corrupt: {record}")
            }
        }
    }
}

impl std::error::Error for StoreFailure {}

impl From<EngineError> for StoreFailure {
    fn from(error: EngineError) -> StoreFailure {
        StoreFailure::Engine(error)
    }
}
