//! Looking into a snapshot without an engine: the same checks as installing it, and what it holds.
//!
//! Not here: the file around it (`node::backup_file`).

use super::codec::{Record, read_chunk};
use super::install::{Staged, Staging};
use super::{SnapshotRefusal, SnapshotWrite};
use crate::event::EventKind;
use crate::key_layout::{EventId, EventRecord, Layout};
use crate::range::Revision;
use crate::state_machine::MachineKind;
use bytes::{BufMut, BytesMut};
use clocks::{GroupId, LogPosition};

/// What a snapshot of the keyspace holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// Revision of the last change.
    pub revision: Revision,
    /// History below is forgotten; -1 if none ever was.
    pub compacted: Revision,
    /// Keys that live at the revision.
    pub keys: u64,
    /// As [`crate::KeyspaceHash::hash`] of the member that it was taken of, at that revision.
    pub hash: u32,
}

/// Takes a snapshot's chunks in order and keeps nothing but sums.
pub struct SnapshotInspector {
    position: LogPosition,
    staging: Staging,
    next: u64,
    checksum: u64,
    summary: SnapshotSummary,
    live: i64,
}

impl SnapshotInspector {
    /// Of a keyspace as of `position`.
    #[must_use]
    pub fn new(position: LogPosition) -> SnapshotInspector {
        // Whatever would be written goes nowhere.
        let layout = Layout { group: GroupId::KEYSPACE, generation: 1 };
        SnapshotInspector {
            position,
            staging: Staging::new(position, layout),
            next: 0,
            checksum: 0,
            summary: SnapshotSummary::default(),
            live: 0,
        }
    }

    /// Checks the next chunk as an installation would.
    ///
    /// # Errors
    /// What is wrong with it, in half a sentence; then the snapshot is of no use.
    pub fn take(&mut self, data: &[u8], done: bool) -> Result<(), &'static str> {
        match self.staging.take(MachineKind::Keyspace, self.next, data, done) {
            Staged::Store(_) | Staged::Switch(_) => {}
            Staged::Answer(SnapshotWrite::Refused(SnapshotRefusal::Foreign(reason))) => {
                return Err(reason);
            }
            Staged::Answer(_) => return Err("a chunk of the snapshot is damaged"),
        }
        let records = read_chunk(data, self.position, self.next, &mut self.checksum);
        let records = records.map_err(|_| "a chunk of the snapshot is damaged")?;
        self.next += 1;
        for record in records {
            match record {
                Record::Header { state, .. } => {
                    self.summary.revision = state.revision;
                    self.summary.compacted = state.compacted;
                }
                Record::Event { id, record } => {
                    let mut place = BytesMut::with_capacity(12);
                    place.put_i64(id.main);
                    place.put_u32(id.sub);
                    let hash = crc32c::crc32c_append(self.summary.hash, &place);
                    self.summary.hash = crc32c::crc32c_append(hash, &record);
                    let event = EventRecord::decode(record).map_err(|error| error.0)?;
                    self.count(id, &event);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The version that an event superseded was sent before it, unless compaction took it.
    fn count(&mut self, id: EventId, event: &EventRecord) {
        let compacted = self.summary.compacted;
        let superseded = event.previous != EventId::NONE
            && (event.previous.main >= compacted || id.main > compacted);
        self.live += match (event.kind, superseded) {
            (EventKind::Put, false) => 1,
            (EventKind::Delete, true) => -1,
            (EventKind::Put, true) | (EventKind::Delete, false) => 0,
        };
    }

    /// What it holds, once its last chunk was taken.
    #[must_use]
    pub fn summary(&self) -> SnapshotSummary {
        SnapshotSummary { keys: u64::try_from(self.live).unwrap_or(0), ..self.summary }
    }
}
