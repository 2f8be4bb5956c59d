//! Why the log stops, and what its owner hears from it.

use crate::{DiskError, EntryRecord, FileId};
use std::fmt;

/// A place where the log's bytes are not what had been synced there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The damaged file.
    pub file: FileId,
    /// Byte offset of the first thing in it that cannot be trusted.
    pub offset: u64,
}

/// Why the log cannot go on. All of them are final for this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalError {
    /// Bytes that had been synced are not there any more. `Wal::recover_damaged` goes on with what
    /// came before them.
    Corrupt {
        /// Where.
        damage: Damage,
        /// What is wrong there.
        detail: String,
    },
    /// As `Corrupt`, and a group's state may have been lost with it: a forgotten vote could elect
    /// two leaders, so the member must be replaced.
    StateLost {
        /// Where.
        damage: Damage,
        /// What is wrong there.
        detail: String,
    },
    /// A newer release wrote this file.
    UnknownVersion {
        /// Which file.
        file: FileId,
        /// The version it names.
        version: u32,
    },
    /// A disk operation failed; what it left on disk is unknown.
    Disk(DiskError),
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalError::Corrupt { damage: Damage { file, offset }, detail } => {
                write!(f, "log file {} is corrupt at byte {offset}: {detail}", file.0)
            }
            WalError::StateLost { damage: Damage { file, offset }, detail } => write!(
                f,
                "log file {} is corrupt at byte {offset}: {detail}; a vote may have been lost \
                 with it, so this member must be replaced",
                file.0
            ),
            WalError::UnknownVersion { file, version } => write!(
                f,
                "log file {} has format version {version}, and this release knows only version \
                 {}; start the release that wrote it, or a newer one",
                file.0,
                crate::segment_header::FORMAT_VERSION
            ),
            WalError::Disk(DiskError::Full) => write!(f, "no space left for the log"),
            WalError::Disk(DiskError::Failed(words)) => write!(f, "the log's disk failed: {words}"),
        }
    }
}

impl std::error::Error for WalError {}

impl From<DiskError> for WalError {
    fn from(error: DiskError) -> WalError {
        WalError::Disk(error)
    }
}

/// Names one `append`; grows with every one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppendToken(pub u64);

/// Names one `read`; chosen by the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadToken(pub u64);

/// What became of earlier calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// Every append up to this one would survive power loss.
    Durable {
        /// The newest such append.
        through: AppendToken,
    },
    /// The end of a `read` that had to go to the disk.
    Read {
        /// Which one.
        token: ReadToken,
        /// Consecutive entries from the wanted index on; empty if it has been cut away meanwhile.
        entries: Vec<EntryRecord>,
    },
    /// There is no space for the next segment. What fits into the current one is still written;
    /// reads go on. It is tried again with `Wal::flush`, `Wal::retry_full` and whenever a segment
    /// is given back; `Wal::is_full` tells when it is over.
    Full,
}
