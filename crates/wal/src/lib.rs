//! Write-Ahead Log: what must survive a crash is on disk before anybody is told of it.
//!
//! One log per node core, shared by all its groups. May not know consensus or what its bytes mean.
#![forbid(unsafe_code)]

mod disk;
mod record;

pub use disk::{Disk, DiskCompletion, DiskError, DiskOp, DiskToken, FileId, FileInfo};
pub use record::{EntryRecord, GroupState, Record};
