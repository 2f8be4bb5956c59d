//! Installing a snapshot: chunk after chunk under a generation of its own, then the switch.

use super::codec::{ChunkError, Record, read_chunk};
use super::{SnapshotRefusal, SnapshotWrite};
use crate::WriteBatch;
use crate::envelope::DecodeError;
use crate::event::EventKind;
use crate::key_layout::{
    CurrentRecord, EventRecord, GenerationRecord, Layout, META_MEMBERSHIP, META_STATE,
    PREFIX_LENGTH, Space, StateRecord,
};
use crate::limits::STATE_FORMAT;
use crate::state_machine::MachineKind;
use bytes::{BufMut, Bytes, BytesMut};
use clocks::LogPosition;

/// A snapshot that is being received.
pub(crate) struct Staging {
    position: LogPosition,
    layout: Layout,
    next: u64,
    checksum: u64,
    header: Option<(StateRecord, Option<Bytes>)>,
}

/// What a chunk leads to.
pub(crate) enum Staged {
    /// Answer this; there is nothing to write.
    Answer(SnapshotWrite),
    /// Write this, then the chunk is stored.
    Store(WriteBatch),
    /// Write this, then the snapshot is live.
    Switch(WriteBatch),
}

impl Staging {
    /// Begins a snapshot under a generation that holds nothing.
    pub(crate) fn new(position: LogPosition, layout: Layout) -> Staging {
        Staging { position, layout, next: 0, checksum: 0, header: None }
    }

    pub(crate) fn position(&self) -> LogPosition {
        self.position
    }

    pub(crate) fn generation(&self) -> u32 {
        self.layout.generation
    }

    /// Takes a chunk. Until the batch is written, nothing has happened but that the next chunk is
    /// expected; the caller stops if writing fails.
    pub(crate) fn take(
        &mut self,
        kind: MachineKind,
        chunk: u64,
        data: &[u8],
        done: bool,
    ) -> Staged {
        let refuse = |refusal| Staged::Answer(SnapshotWrite::Refused(refusal));
        if chunk + 1 == self.next {
            return Staged::Answer(SnapshotWrite::Written);
        }
        if chunk != self.next {
            return refuse(SnapshotRefusal::Unexpected { next: self.next });
        }
        let mut checksum = self.checksum;
        let records = match read_chunk(data, self.position, chunk, &mut checksum) {
            Ok(records) => records,
            Err(ChunkError::Damaged) => return refuse(SnapshotRefusal::Damaged),
            Err(ChunkError::Foreign(reason)) => return refuse(SnapshotRefusal::Foreign(reason)),
        };
        let batch = match self.translate(kind, &records, done) {
            Ok(batch) => batch,
            Err(DecodeError(reason)) => return refuse(SnapshotRefusal::Foreign(reason)),
        };
        self.checksum = checksum;
        self.next += 1;
        if done { Staged::Switch(self.switch(batch)) } else { Staged::Store(batch) }
    }

    fn translate(
        &mut self,
        kind: MachineKind,
        records: &[Record],
        done: bool,
    ) -> Result<WriteBatch, DecodeError> {
        let mut batch = WriteBatch::default();
        let mut header = self.header.take();
        let mut ended = false;
        for record in records {
            if ended {
                return Err(DecodeError("the snapshot goes on behind its end"));
            }
            match record {
                Record::Header { kind: theirs, state, membership } => {
                    if *theirs != kind || state.applied != self.position || header.is_some() {
                        return Err(DecodeError("the snapshot's header is of something else"));
                    }
                    header = Some((*state, membership.clone()));
                }
                _ if header.is_none() => {
                    return Err(DecodeError("the snapshot does not begin with its header"));
                }
                Record::Pair { space, name, value } => {
                    batch.put(self.key(*space, name), value.clone());
                }
                Record::Event { id, record } => {
                    let event = EventRecord::decode(record.clone())?;
                    self.put_event(&mut batch, *id, event, record.clone());
                }
                Record::Trailer { .. } => ended = true,
            }
        }
        if ended != done {
            return Err(DecodeError("the snapshot's end is not where it was announced"));
        }
        self.header = header;
        Ok(batch)
    }

    fn key(&self, space: Space, name: &Bytes) -> Bytes {
        let mut key = BytesMut::with_capacity(PREFIX_LENGTH + name.len());
        key.put_u32(self.layout.group.0);
        key.put_u32(self.layout.generation);
        key.put_u8(space as u8);
        key.put_slice(name);
        key.freeze()
    }

    /// Events come in the order of their revisions, so the last one of a key is its live version.
    fn put_event(
        &self,
        batch: &mut WriteBatch,
        id: crate::key_layout::EventId,
        event: EventRecord,
        record: Bytes,
    ) {
        let layout = self.layout;
        batch.put(layout.event(id), record);
        let kind = Bytes::copy_from_slice(&[event.kind.code()]);
        batch.put(layout.history(&event.key, id), kind);
        let current = layout.current(&event.key);
        match event.kind {
            EventKind::Delete => batch.delete(current),
            EventKind::Put => {
                let live = CurrentRecord {
                    id,
                    create_revision: event.create_revision,
                    version: event.version,
                    lease: event.lease,
                    value: event.value,
                };
                batch.put(current, live.encode());
            }
        }
    }

    fn switch(&self, mut batch: WriteBatch) -> WriteBatch {
        let (state, membership) = self.header.as_ref().expect("an end comes behind a header");
        batch.put(self.layout.meta(META_STATE), state.encode());
        if let Some(membership) = membership {
            batch.put(self.layout.meta(META_MEMBERSHIP), membership.clone());
        }
        let live = GenerationRecord { format: STATE_FORMAT, live: self.layout.generation };
        batch.put(GenerationRecord::key(self.layout.group), live.encode());
        batch
    }
}
