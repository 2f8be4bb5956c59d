//! Snapshot: a state machine's whole state in chunks, and its installation beside the live state.
//!
//! Used by Raft (section 7), ZooKeeper and Kafka's KRaft. What is sent is logical: the retained
//! events, from which the receiver rebuilds the other two forms of the keyspace. So a snapshot is
//! the same bytes on every member that has applied the same entries.
//!
//! Invariant: the live state is one generation of keys; a snapshot is written under another one,
//! and becomes live in the one batch that also sets the applied index. Until then, and after a
//! crash at any chunk, the old state is untouched. Chunk and whole are checksummed.

mod codec;
mod inspection;
mod install;

pub use inspection::{SnapshotInspector, SnapshotSummary};
pub(crate) use install::{Staged, Staging};

use crate::failure::StoreFailure;
use crate::key_layout::{EventId, META_AUTH, META_CLUSTER, META_LEASE_CLOCK, Space, as_slices};
use crate::limits::StoreLimits;
use crate::reader::Reader;
use crate::{Engine, state_machine::MachineKind};
use bytes::Bytes;
use clocks::{GroupId, LogPosition};
use codec::{ChunkWriter, Record};
use mutants::{Bug, planted};
use std::ops::Bound;
use std::sync::Arc;

/// What became of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotWrite {
    /// It is stored beside the live state.
    Written,
    /// It was the last: the snapshot is the live state, durably.
    Installed,
    /// Nothing changed.
    Refused(SnapshotRefusal),
}

/// Why a chunk was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotRefusal {
    /// It was damaged on its way; send it again.
    Damaged,
    /// It is not what this version, or this group, understands.
    Foreign(&'static str),
    /// Another chunk is next (0: begin again).
    Unexpected {
        /// That one.
        next: u64,
    },
    /// The live state is at least as new.
    Stale {
        /// Its position.
        applied: LogPosition,
    },
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// To be given to `write_snapshot_chunk`.
    pub data: Bytes,
    /// Whether it is the last.
    pub done: bool,
}

/// Reads a snapshot chunk by chunk. Holds a snapshot of the engine: drop it when done.
pub struct SnapshotReader {
    reader: Reader,
    kind: MachineKind,
    membership: Option<Bytes>,
    chunk_bytes: usize,
    /// Where the chunk read last begins, and the one after it.
    last: Place,
    next: Place,
}

/// Where a chunk begins.
#[derive(Clone, Debug)]
struct Place {
    chunk: u64,
    part: Part,
    /// The whole's checksum over what comes before.
    checksum: u64,
}

/// The parts of a snapshot, in order, and where in each reading goes on.
#[derive(Clone, Debug)]
enum Part {
    Header,
    Members(Bound<Bytes>),
    Cluster,
    RemovedMembers(Bound<Bytes>),
    Sessions(Bound<Bytes>),
    LeaseClock,
    Leases(Bound<Bytes>),
    LeaseKeys(Bound<Bytes>),
    Auth,
    Users(Bound<Bytes>),
    Roles(Bound<Bytes>),
    Events(EventId),
    Trailer,
    End,
}

/// Where to go on.
enum Filled {
    /// In the same chunk.
    Part(Part),
    /// In the next chunk; this one is full.
    Chunk(Part),
}

impl SnapshotReader {
    /// A snapshot of the group's state as of the engine's last write.
    ///
    /// # Errors
    /// If the engine fails or holds what this version does not understand.
    pub fn open(
        engine: &Arc<dyn Engine>,
        group: GroupId,
        kind: MachineKind,
        limits: StoreLimits,
    ) -> Result<SnapshotReader, StoreFailure> {
        SnapshotReader::of(Reader::open(engine, group)?, kind, limits)
    }

    pub(crate) fn of(
        reader: Reader,
        kind: MachineKind,
        limits: StoreLimits,
    ) -> Result<SnapshotReader, StoreFailure> {
        let membership = reader.membership()?;
        let start = Place { chunk: 0, part: Part::Header, checksum: 0 };
        Ok(SnapshotReader {
            reader,
            kind,
            membership,
            chunk_bytes: limits.snapshot_chunk_bytes,
            last: start.clone(),
            next: start,
        })
    }

    /// The last entry that the snapshot covers.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        self.reader.applied()
    }

    /// The membership in force there, as the log carried it.
    #[must_use]
    pub fn membership(&self) -> Option<&Bytes> {
        self.membership.as_ref()
    }

    /// Reads a chunk: 0, the one read last, or the one after that; `None` for any other.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn chunk(&mut self, chunk: u64) -> Result<Option<SnapshotChunk>, StoreFailure> {
        let start = if chunk == self.next.chunk {
            self.next.clone()
        } else if chunk == self.last.chunk {
            self.last.clone()
        } else if chunk == 0 {
            Place { chunk: 0, part: Part::Header, checksum: 0 }
        } else {
            return Ok(None);
        };
        if matches!(start.part, Part::End) {
            return Ok(None);
        }
        let mut writer = ChunkWriter::new(start.checksum);
        let mut part = start.part.clone();
        while !matches!(part, Part::End) {
            match self.fill(part, &mut writer)? {
                Filled::Part(next) => part = next,
                Filled::Chunk(next) => {
                    part = next;
                    break;
                }
            }
        }
        let done = matches!(part, Part::End);
        let checksum = writer.checksum();
        let data = writer.finish(self.position(), chunk);
        self.next = Place { chunk: chunk + 1, part, checksum };
        self.last = start;
        Ok(Some(SnapshotChunk { data, done }))
    }

    /// Writes of one part what fits.
    fn fill(&self, part: Part, writer: &mut ChunkWriter) -> Result<Filled, StoreFailure> {
        Ok(match part {
            Part::Header => {
                writer.put(&Record::Header {
                    kind: self.kind,
                    state: self.reader.state,
                    membership: self.membership.clone(),
                });
                Filled::Part(Part::Members(Bound::Unbounded))
            }
            Part::Members(from) => match self.fill_space(Space::Members, from, writer)? {
                Some(from) => Filled::Chunk(Part::Members(from)),
                None => Filled::Part(Part::Cluster),
            },
            Part::Cluster => {
                self.put_single(META_CLUSTER, writer)?;
                Filled::Part(Part::RemovedMembers(Bound::Unbounded))
            }
            Part::RemovedMembers(from) => {
                match self.fill_space(Space::RemovedMembers, from, writer)? {
                    Some(from) => Filled::Chunk(Part::RemovedMembers(from)),
                    None => Filled::Part(Part::Sessions(Bound::Unbounded)),
                }
            }
            Part::Sessions(from) => match self.fill_space(Space::Sessions, from, writer)? {
                Some(from) => Filled::Chunk(Part::Sessions(from)),
                None => Filled::Part(Part::LeaseClock),
            },
            Part::LeaseClock => {
                self.put_single(META_LEASE_CLOCK, writer)?;
                if planted(Bug::LeasesNotInSnapshot) {
                    return Ok(Filled::Part(Part::Auth));
                }
                Filled::Part(Part::Leases(Bound::Unbounded))
            }
            Part::Leases(from) => match self.fill_space(Space::Leases, from, writer)? {
                Some(from) => Filled::Chunk(Part::Leases(from)),
                None => Filled::Part(Part::LeaseKeys(Bound::Unbounded)),
            },
            Part::LeaseKeys(from) => match self.fill_space(Space::LeaseKeys, from, writer)? {
                Some(from) => Filled::Chunk(Part::LeaseKeys(from)),
                None => Filled::Part(Part::Auth),
            },
            Part::Auth => {
                self.put_single(META_AUTH, writer)?;
                Filled::Part(Part::Users(Bound::Unbounded))
            }
            Part::Users(from) => match self.fill_space(Space::Users, from, writer)? {
                Some(from) => Filled::Chunk(Part::Users(from)),
                None => Filled::Part(Part::Roles(Bound::Unbounded)),
            },
            Part::Roles(from) => match self.fill_space(Space::Roles, from, writer)? {
                Some(from) => Filled::Chunk(Part::Roles(from)),
                None => Filled::Part(Part::Events(EventId::NONE)),
            },
            Part::Events(from) => match self.fill_events(from, writer)? {
                Some(from) => Filled::Chunk(Part::Events(from)),
                None => Filled::Part(Part::Trailer),
            },
            Part::Trailer | Part::End => {
                writer.put_trailer();
                Filled::Part(Part::End)
            }
        })
    }

    /// Writes a single record, if there is one.
    fn put_single(&self, name: u8, writer: &mut ChunkWriter) -> Result<(), StoreFailure> {
        if let Some(value) = self.reader.snapshot.get(&self.reader.layout.meta(name))? {
            writer.put(&Record::Single { name, value });
        }
        Ok(())
    }

    fn fill_space(
        &self,
        space: Space,
        from: Bound<Bytes>,
        writer: &mut ChunkWriter,
    ) -> Result<Option<Bound<Bytes>>, StoreFailure> {
        let mut bounds = self.reader.layout.space_bounds(space);
        if from != Bound::Unbounded {
            bounds.0 = from;
        }
        let (from, to) = as_slices(&bounds);
        for pair in self.reader.snapshot.scan(from, to) {
            let (key, value) = pair?;
            let name = key.slice(crate::key_layout::PREFIX_LENGTH..);
            writer.put(&Record::Pair { space, name, value });
            if writer.length() >= self.chunk_bytes {
                return Ok(Some(Bound::Excluded(key)));
            }
        }
        Ok(None)
    }

    fn fill_events(
        &self,
        from: EventId,
        writer: &mut ChunkWriter,
    ) -> Result<Option<EventId>, StoreFailure> {
        let state = &self.reader.state;
        let view = self.reader.view();
        let mut events = view.stored_events(from, state.revision);
        while let Some((id, record)) = events.next_retained(state.compaction_done())? {
            let record = record.encode();
            if !writer.is_empty() && writer.length() + record.len() > self.chunk_bytes {
                return Ok(Some(id));
            }
            writer.put(&Record::Event { id, record });
        }
        Ok(None)
    }
}
