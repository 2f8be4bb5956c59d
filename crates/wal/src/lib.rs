//! Write-Ahead Log: what must survive a crash is on disk before anybody is told of it.
//!
//! One log per node core, shared by all its groups. May not know consensus or what its bytes mean.
#![forbid(unsafe_code)]

mod batch_codec;
mod disk;
mod error;
mod group_log;
mod limits;
mod log_reader;
mod low_water_mark;
mod queued_batch;
mod record;
mod record_codec;
mod recovery;
mod replay;
mod segment_header;
mod segment_reader;
mod segmented_log;
mod write_ahead_log;

pub use disk::{Disk, DiskCompletion, DiskError, DiskOp, DiskToken, FileId, FileInfo};
pub use error::{AppendToken, Damage, ReadToken, WalError, WalEvent};
pub use limits::{MAX_PAYLOAD_BYTES, WalConfig};
pub use record::{EntryRecord, GroupState, Record};
pub use recovery::{Recovered, RecoveredGroup, Run};
pub use write_ahead_log::Wal;
