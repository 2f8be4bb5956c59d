//! The disk as the log sees it: numbered files, and operations that are submitted now and complete
//! later. Synchronous only during recovery.
//!
//! Implemented by `node` (O_DIRECT | O_DSYNC) and by `simulator` (a page cache that loses things).

use bytes::Bytes;

/// A file of the log directory, by number; numbers are chosen by the log and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// What recovery finds in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// The file.
    pub file: FileId,
    /// Its length in bytes.
    pub len: u64,
}

/// Names one submitted operation; chosen by the log, unique while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskToken(pub u64);

/// An operation. Offsets and lengths of writes are multiples of [`DiskOp::BLOCK`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Write and make durable; completes only when the bytes would survive power loss.
    WriteSync {
        /// Target.
        file: FileId,
        /// Byte offset, a multiple of the block size.
        offset: u64,
        /// Whole blocks.
        data: Bytes,
    },
    /// Read `len` bytes.
    Read {
        /// Source.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// Bytes wanted.
        len: u64,
    },
    /// Create `file` with `len` bytes, every block written once, durable with its directory entry;
    /// takes over the blocks of `recycled` (renamed) if given.
    Allocate {
        /// The new file.
        file: FileId,
        /// Its length, a multiple of the block size.
        len: u64,
        /// A released file whose blocks are reused; it is gone afterwards.
        recycled: Option<FileId>,
    },
    /// Delete a released file.
    Remove {
        /// The file.
        file: FileId,
    },
}

impl DiskOp {
    /// The unit of writes, in bytes.
    pub const BLOCK: usize = 4096;
}

/// The end of one operation. Operations may complete in any order.
#[derive(Clone, Debug)]
pub struct DiskCompletion {
    /// Which operation.
    pub token: DiskToken,
    /// The bytes read (empty for other operations), or why it failed.
    pub result: Result<Bytes, DiskError>,
}

/// Why an operation failed. A failed write or sync is final: the node stops (design rule 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// No space left; nothing was written.
    Full,
    /// Anything else, in the operating system's words, with the file and the operation.
    Failed(String),
}

/// A directory of numbered files.
pub trait Disk {
    /// Starts an operation. Its completion reaches the log through `Wal::handle_completion`.
    fn submit(&mut self, token: DiskToken, op: DiskOp);

    /// Recovery only: the files there are, in any order.
    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError>;

    /// Recovery only: performs one operation and waits for it.
    fn run(&mut self, op: DiskOp) -> Result<Bytes, DiskError>;
}
