//! Request Batch, as the log does it: what arrives while a sync is in flight waits here, already
//! encoded, and goes to disk together.
//!
//! Group commit is used by every serious log (PostgreSQL, InnoDB, etcd, Kafka). There is no timer:
//! a batch is as large as the sync before it was slow.

use crate::batch_codec::{BATCH_HEADER_BYTES, BatchHeader};
use crate::low_water_mark::Touch;
use crate::record_codec::{self, RecordHeader, RecordKind};
use crate::{AppendToken, DiskOp, EntryRecord, GroupState, Record};
use bytes::Bytes;
use clocks::{GroupId, LogIndex};
use std::collections::BTreeMap;
use std::ops::Range;

/// Records that will be written together.
#[derive(Clone, Debug)]
pub(crate) struct QueuedBatch {
    /// Its place in the order of all batches.
    pub(crate) sequence: u64,
    /// Newest append that ends in this batch.
    pub(crate) through: Option<AppendToken>,
    /// What it does to each group's log.
    pub(crate) touched: BTreeMap<GroupId, Touch>,
    /// The states it sets.
    pub(crate) states: BTreeMap<GroupId, GroupState>,
    /// Whether it ends the mark of earlier damage.
    pub(crate) clears_damage: bool,
    /// The header's place, then records that have no checksum yet.
    buffer: Vec<u8>,
    records: u32,
}

impl QueuedBatch {
    /// An empty batch.
    pub(crate) fn new(sequence: u64) -> QueuedBatch {
        // Whole blocks from the start: padding the batch later rarely moves it.
        let mut buffer = Vec::with_capacity(DiskOp::BLOCK);
        buffer.resize(BATCH_HEADER_BYTES, 0);
        QueuedBatch {
            sequence,
            through: None,
            touched: BTreeMap::new(),
            states: BTreeMap::new(),
            clears_damage: false,
            buffer,
            records: 0,
        }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether it holds no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether `record` can go with it without passing `max_bytes`; the first one always can.
    pub(crate) fn has_room(&self, record: &Record, max_bytes: usize) -> bool {
        self.records == 0 || self.buffer.len() + encoded_len(record) <= max_bytes
    }

    /// Adds a record; returns the bytes of the batch that it takes.
    pub(crate) fn push(&mut self, record: &Record) -> Range<u32> {
        match record {
            Record::State { group, state } => {
                self.states.insert(*group, state.clone());
                self.touched.entry(*group).or_default();
                self.encode(&RecordHeader::mark(RecordKind::State, *group, 0), &state.0)
            }
            Record::Entry { group, entry } => {
                self.touched.entry(*group).or_default().entry(entry.position.index);
                let header = RecordHeader {
                    kind: RecordKind::Entry,
                    group: *group,
                    entry_kind: entry.kind,
                    position: entry.position,
                };
                self.encode(&header, &entry.payload)
            }
            Record::Reset { group, start } => {
                self.touched.entry(*group).or_default().reset(*start);
                self.encode(&RecordHeader::mark(RecordKind::Reset, *group, *start), &[])
            }
        }
    }

    /// Adds the end of the damage mark.
    pub(crate) fn push_damage_cleared(&mut self) {
        self.clears_damage = true;
        self.encode(&RecordHeader::mark(RecordKind::DamageCleared, GroupId(0), 0), &[]);
    }

    /// Adds what `encode` writes; it returns how many records that were.
    pub(crate) fn extend(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> u32) {
        self.records += encode(&mut self.buffer);
    }

    /// The lowest index of `group` that it replaces or appends.
    pub(crate) fn floor(&self, group: GroupId) -> Option<LogIndex> {
        self.touched.get(&group).and_then(|touch| touch.floor)
    }

    /// The batch's bytes at their place, not padded. `header` names the place.
    pub(crate) fn seal(mut self, header: BatchHeader) -> Vec<u8> {
        let body_len = self.buffer.len() - BATCH_HEADER_BYTES;
        let body_len = u32::try_from(body_len).expect("batches are below 4 GiB");
        let header = BatchHeader { body_len, records: self.records, ..header };
        header.encode(&mut self.buffer);
        record_codec::seal(&mut self.buffer, BATCH_HEADER_BYTES, &header.belonging());
        self.buffer
    }

    /// The bytes so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    fn encode(&mut self, header: &RecordHeader, payload: &[u8]) -> Range<u32> {
        let offset = |buffer: &Vec<u8>| u32::try_from(buffer.len()).expect("below 4 GiB");
        let start = offset(&self.buffer);
        record_codec::encode(&mut self.buffer, header, payload);
        self.records += 1;
        start..offset(&self.buffer)
    }
}

fn encoded_len(record: &Record) -> usize {
    let payload = match record {
        Record::State { state, .. } => state.0.len(),
        Record::Entry { entry, .. } => entry.payload.len(),
        Record::Reset { .. } => 0,
    };
    record_codec::RECORD_HEADER_BYTES + payload
}

/// The entries `from..=last` of `group` among the records in `bytes`, which are not verified: they
/// never left our memory.
pub(crate) fn entries_in_memory(
    bytes: &[u8],
    range: Range<usize>,
    group: GroupId,
    from: LogIndex,
    last: LogIndex,
) -> Vec<EntryRecord> {
    let mut entries = Vec::new();
    let (mut at, mut wanted) = (range.start, from);
    while wanted <= last {
        let found =
            record_codec::parse(bytes, at, range.end).expect("the index names whole records");
        at = found.payload.end;
        let header = found.header;
        let ours = header.kind == RecordKind::Entry && header.group == group;
        if ours && header.position.index == wanted {
            let payload = Bytes::copy_from_slice(&bytes[found.payload]);
            let kind = header.entry_kind;
            entries.push(EntryRecord { position: header.position, kind, payload });
            wanted += 1;
        }
    }
    entries
}
