//! Write-Ahead Log: what must survive a crash is on disk before anybody is told of it.
//!
//! Used by PostgreSQL, InnoDB, etcd, TigerBeetle and nearly everything that stores. One log serves
//! all groups of a node core, so that one sync makes all their waiting records durable.
//! Invariants: batches become durable in the order they were appended; a batch starts on its own
//! block and a synced block is never written again; a failed write is final.
//! Not here: the files (`segmented_log`), giving them back (`low_water_mark`), starting
//! (`recovery`).

use crate::batch_codec::{BATCH_HEADER_BYTES, BatchHeader};
use crate::group_log::GroupLog;
use crate::limits::{WalConfig, round_up_to_block};
use crate::log_reader::ReadPlan;
use crate::low_water_mark::LowWaterMark;
use crate::queued_batch::QueuedBatch;
use crate::record_codec::{self, RECORD_HEADER_BYTES, RecordHeader, RecordKind};
use crate::segment_header::{PreviousEnd, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::segmented_log::{Placement, SegmentedLog};
use crate::{
    AppendToken, Damage, Disk, DiskCompletion, DiskError, DiskOp, DiskToken, FileId, GroupState,
    Record, WalError, WalEvent,
};
use bytes::Bytes;
use clocks::{GroupId, LogIndex};
use std::collections::{BTreeMap, VecDeque};

/// The shared log of one node core. Not thread-safe; one machine owns it.
#[derive(Debug)]
pub struct Wal {
    pub(crate) config: WalConfig,
    /// Everything appended, queued batches included.
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
    /// Every group's state, as of the batches written so far.
    pub(crate) states: BTreeMap<GroupId, GroupState>,
    pub(crate) low_water: LowWaterMark,
    pub(crate) segmented: SegmentedLog,
    pub(crate) damage: Option<Damage>,
    pub(crate) next_sequence: u64,
    /// Every batch up to here is durable.
    pub(crate) synced: u64,
    /// Low-water mark that the disk knows of.
    pub(crate) durable_oldest: u64,
    /// Newest written batch that holds a group's state.
    pub(crate) state_sequence: u64,
    /// Oldest first; the last one still grows.
    pub(crate) queue: VecDeque<QueuedBatch>,
    /// Oldest first.
    pub(crate) in_flight: VecDeque<WrittenBatch>,
    pub(crate) operations: BTreeMap<DiskToken, Operation>,
    pub(crate) next_operation: u64,
    pub(crate) next_append: u64,
    pub(crate) failed: Option<WalError>,
}

/// A batch whose write has been submitted.
#[derive(Debug)]
pub(crate) struct WrittenBatch {
    pub(crate) sequence: u64,
    pub(crate) bytes: Bytes,
    through: Option<AppendToken>,
    oldest: u64,
    done: bool,
}

/// What a disk token stands for.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Of a batch.
    Write { sequence: u64 },
    /// Of the next segment.
    Allocate,
    /// Of a released file.
    Remove,
    /// For the owner.
    Read(ReadPlan),
}

impl Wal {
    /// Index of `group`'s first entry: the one after what it released or a snapshot took over.
    #[must_use]
    pub fn first_index(&self, group: GroupId) -> LogIndex {
        self.groups.get(&group).map_or(0, GroupLog::start) + 1
    }

    /// Index of `group`'s last entry, queued ones included; `first_index - 1` if there is none.
    #[must_use]
    pub fn last_index(&self, group: GroupId) -> LogIndex {
        self.groups.get(&group).map_or(0, GroupLog::last)
    }

    /// Bytes that wait for their write to begin. The log itself sets no bound: its owner proposes
    /// nothing more while this is above what it allows itself.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queue.iter().map(QueuedBatch::len).sum()
    }

    /// Number of segments that hold batches.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segmented.len()
    }

    /// Bytes of all files of the log, prepared and recycled ones included.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.segmented.disk_bytes()
    }

    /// Whether there was no space for the next segment, and there still is none.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.segmented.is_full()
    }

    /// Whether nothing is queued and no operation is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.operations.is_empty()
    }

    /// The damage that the log is marked with, until `clear_damage` is on disk.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Queues `records`, in this order; they reach the disk with the next batch after `flush`.
    /// After a crash a prefix of them is there.
    ///
    /// # Panics
    /// If an entry leaves a gap or replaces a released one, or a payload exceeds
    /// [`MAX_PAYLOAD_BYTES`](crate::MAX_PAYLOAD_BYTES).
    pub fn append(&mut self, records: Vec<Record>) -> AppendToken {
        let token = self.next_append_token();
        for record in &records {
            let full = |batch: &QueuedBatch| !batch.has_room(record, self.config.max_batch_bytes);
            if self.queue.back().is_none_or(full) {
                self.open_batch();
            }
            let batch = self.queue.back_mut().expect("just opened");
            let bytes = batch.push(record);
            match record {
                Record::State { group, .. } => {
                    self.groups.entry(*group).or_default();
                }
                Record::Entry { group, entry } => {
                    let log = self.groups.entry(*group).or_default();
                    log.append(entry.position.index, batch.sequence, bytes);
                }
                Record::Reset { group, start } => {
                    self.groups.entry(*group).or_default().reset(*start);
                }
            }
        }
        self.end_append(token)
    }

    /// Ends the mark of earlier damage: the member has learnt everything anew.
    pub fn clear_damage(&mut self) -> AppendToken {
        let token = self.next_append_token();
        if self.queue.is_empty() {
            self.open_batch();
        }
        self.queue.back_mut().expect("just opened").push_damage_cleared();
        self.end_append(token)
    }

    /// Writes everything queued as one batch (or as few as the limits allow), if no more writes
    /// are in flight than allowed; otherwise it goes when one of them completes.
    /// If that waits for a segment that found no space, the space is asked for once more.
    pub fn flush(&mut self, disk: &mut dyn Disk) {
        if !self.queue.is_empty() {
            self.segmented.retry();
        }
        self.go_on(disk);
    }

    fn go_on(&mut self, disk: &mut dyn Disk) {
        if self.failed.is_some() {
            return;
        }
        self.write_batches(disk);
        if self.segmented.wants_next() {
            self.allocate(0, disk);
        }
    }

    /// Takes the end of an operation, and goes on with what waited for it.
    ///
    /// # Errors
    /// A failed write or sync, or a corrupt read. Final: every later call answers the same.
    ///
    /// # Panics
    /// On a token that is not under way.
    pub fn handle_completion(
        &mut self,
        completion: DiskCompletion,
        disk: &mut dyn Disk,
    ) -> Result<Vec<WalEvent>, WalError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let operation = self.operations.remove(&completion.token);
        let operation = operation.expect("the disk completed an operation that is not under way");
        let events = self.complete(operation, completion.result, disk);
        match events {
            Ok(events) => {
                self.go_on(disk);
                Ok(events)
            }
            Err(error) => {
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Entries of `group` below index `below` are not needed any more. They cannot be read from
    /// now on; their segments are given back once no group needs them.
    pub fn release(&mut self, group: GroupId, below: LogIndex, disk: &mut dyn Disk) {
        let log = self.groups.entry(group).or_default();
        log.release(below.saturating_sub(1).min(log.last()));
        self.go_on(disk);
    }

    /// There may be space again: asks for the segment that could not be allocated.
    pub fn retry_full(&mut self, disk: &mut dyn Disk) {
        self.segmented.retry();
        self.go_on(disk);
    }

    fn next_append_token(&mut self) -> AppendToken {
        self.next_append += 1;
        AppendToken(self.next_append)
    }

    fn open_batch(&mut self) {
        self.queue.push_back(QueuedBatch::new(self.next_sequence));
        self.next_sequence += 1;
    }

    /// The append becomes durable with the batch that is last now.
    fn end_append(&mut self, token: AppendToken) -> AppendToken {
        if self.queue.is_empty() {
            self.open_batch();
        }
        self.queue.back_mut().expect("just opened").through = Some(token);
        token
    }

    fn write_batches(&mut self, disk: &mut dyn Disk) {
        while self.in_flight.len() < self.config.writes_in_flight {
            if self.queue.is_empty() {
                if !self.mark_waits() {
                    return;
                }
                self.open_batch();
            }
            match self.place_next_batch() {
                Placement::Current => {}
                // The new header names the end of the old segment, which therefore is final.
                Placement::Next if self.in_flight.is_empty() => {}
                Placement::Next => return,
                Placement::Wait { segment_len } => {
                    self.allocate(segment_len, disk);
                    return;
                }
            }
            self.write_next_batch(disk);
        }
    }

    /// Whether segments could be given back if only a batch said so.
    fn mark_waits(&mut self) -> bool {
        self.note_released();
        self.low_water.needed(self.segmented.current().0) > self.low_water.oldest()
    }

    /// Takes over what the owner released, as far as no queued batch contradicts it: a mark on
    /// disk must never cover entries that are not on disk before it.
    fn note_released(&mut self) {
        for (&group, log) in &self.groups {
            let queued =
                |batch: &QueuedBatch| batch.floor(group).is_some_and(|floor| floor <= log.start());
            let news = log.start() > self.low_water.released(group);
            if news && !self.queue.iter().any(queued) {
                self.low_water.release(group, log.start());
            }
        }
    }

    /// Where the oldest queued batch can go. Every segment keeps the room for one batch that does
    /// nothing but move the low-water mark, by which a full disk can always be freed.
    fn place_next_batch(&self) -> Placement {
        let batch = self.queue.front().expect("the caller has seen it");
        let marks = (self.groups.len() * RECORD_HEADER_BYTES) as u64;
        let len = batch.len() as u64 + marks;
        let bare_mark = BATCH_HEADER_BYTES as u64 + marks;
        let only_moves_mark = batch.is_empty() && batch.through.is_none();
        let kept = if only_moves_mark { 0 } else { round_up_to_block(bare_mark) };
        self.segmented.placement(len, kept, self.opening_len())
    }

    /// Upper bound of the bytes that a segment opened now begins with.
    fn opening_len(&self) -> u64 {
        let states: usize =
            self.states.values().map(|state| RECORD_HEADER_BYTES + state.0.len()).sum();
        (SEGMENT_HEADER_BYTES + states + self.groups.len() * RECORD_HEADER_BYTES) as u64
    }

    fn write_next_batch(&mut self, disk: &mut dyn Disk) {
        let mut data = match self.place_next_batch() {
            Placement::Next => self.open_next_segment(),
            _ => Vec::new(),
        };
        let mut batch = self.queue.pop_front().expect("the caller has seen it");
        let (segment, offset) = self.segmented.current();
        let holds_state = !batch.states.is_empty();
        let header = BatchHeader {
            incarnation: segment,
            offset,
            base_sequence: self.segmented.base_sequence(),
            sequence: batch.sequence,
            synced: self.synced,
            oldest: self.take_in(&mut batch, segment),
            state_sequence: self.state_sequence,
            body_len: 0,
            records: 0,
        };
        if holds_state {
            self.state_sequence = batch.sequence;
        }
        let through = batch.through;
        let bytes = batch.seal(header);
        self.segmented.push_batch(header.sequence, bytes.len() as u64);

        let opening_len = data.len();
        if opening_len == 0 {
            data = bytes;
        } else {
            data.extend_from_slice(&bytes);
        }
        data.resize(data.len().next_multiple_of(DiskOp::BLOCK), 0);
        let data = Bytes::from(data);
        self.in_flight.push_back(WrittenBatch {
            sequence: header.sequence,
            bytes: data.slice(opening_len..),
            through,
            oldest: header.oldest,
            done: false,
        });
        let operation = Operation::Write { sequence: header.sequence };
        let offset = offset - opening_len as u64;
        self.submit(operation, DiskOp::WriteSync { file: FileId(segment), offset, data }, disk);
    }

    /// Opens the next segment, which must be ready; returns the blocks that it begins with.
    fn open_next_segment(&mut self) -> Vec<u8> {
        let (previous, end) = self.segmented.current();
        let (number, len) = self.segmented.take_next();
        let base_sequence = self.queue.front().expect("a batch asked for it").sequence;
        let sequence = base_sequence - 1;
        let header = SegmentHeader {
            incarnation: number,
            base_sequence,
            previous: Some(PreviousEnd { segment: previous, end, sequence }),
            oldest: self.low_water.oldest(),
            damage: self.damage.clone(),
            state_sequence: self.state_sequence,
        };
        let data = encode_opening(&header, &self.states, &self.low_water, self.groups.keys());
        self.low_water.open(number);
        self.segmented.open(number, len, base_sequence, data.len() as u64);
        data
    }

    /// Moves `batch` from "queued" to "written" in everything that tells them apart, and adds the
    /// released marks if segments become free by it. Returns the low-water mark to name.
    fn take_in(&mut self, batch: &mut QueuedBatch, segment: u64) -> u64 {
        self.low_water.on_batch(segment, &batch.touched);
        self.states.extend(std::mem::take(&mut batch.states));
        if batch.clears_damage {
            self.damage = None;
        }
        self.note_released();
        let needed = self.low_water.needed(segment);
        if needed > self.low_water.oldest() {
            self.low_water.advance(needed);
            batch.extend(|buffer| self.low_water.encode(self.groups.keys().copied(), buffer));
        }
        self.low_water.oldest()
    }

    fn allocate(&mut self, len: u64, disk: &mut dyn Disk) {
        for operation in self.segmented.allocate(len) {
            let kind = match operation {
                DiskOp::Remove { .. } => Operation::Remove,
                _ => Operation::Allocate,
            };
            self.submit(kind, operation, disk);
        }
    }

    pub(crate) fn submit(&mut self, kind: Operation, operation: DiskOp, disk: &mut dyn Disk) {
        self.next_operation += 1;
        let token = DiskToken(self.next_operation);
        self.operations.insert(token, kind);
        disk.submit(token, operation);
    }

    fn complete(
        &mut self,
        operation: Operation,
        result: Result<Bytes, DiskError>,
        disk: &mut dyn Disk,
    ) -> Result<Vec<WalEvent>, WalError> {
        match (operation, result) {
            (Operation::Allocate, Err(DiskError::Full)) => {
                let news = self.segmented.on_full();
                Ok(news.then_some(WalEvent::Full).into_iter().collect())
            }
            (_, Err(error)) => Err(WalError::Disk(error)),
            (Operation::Write { sequence }, Ok(_)) => Ok(self.on_written(sequence, disk)),
            (Operation::Allocate, Ok(_)) => {
                self.segmented.on_allocated();
                Ok(Vec::new())
            }
            (Operation::Remove, Ok(_)) => {
                self.segmented.retry();
                Ok(Vec::new())
            }
            (Operation::Read(plan), Ok(bytes)) => self.on_read(plan, &bytes, disk),
        }
    }

    /// Batches become durable in their order, whatever order the disk completes them in.
    fn on_written(&mut self, sequence: u64, disk: &mut dyn Disk) -> Vec<WalEvent> {
        let written = self.in_flight.iter_mut().find(|batch| batch.sequence == sequence);
        written.expect("its write was in flight").done = true;
        let mut through = None;
        while self.in_flight.front().is_some_and(|batch| batch.done) {
            let batch = self.in_flight.pop_front().expect("just seen");
            assert!(batch.sequence > self.synced, "batches become durable in order");
            self.synced = batch.sequence;
            through = batch.through.or(through);
            self.durable_oldest = batch.oldest;
        }
        self.retire(disk);
        through.map(|through| WalEvent::Durable { through }).into_iter().collect()
    }

    /// Gives back the files that nobody needs and nobody reads.
    pub(crate) fn retire(&mut self, disk: &mut dyn Disk) {
        for operation in self.segmented.retire(self.durable_oldest) {
            self.submit(Operation::Remove, operation, disk);
        }
    }
}

/// The blocks at the head of a segment.
pub(crate) fn encode_opening<'a>(
    header: &SegmentHeader,
    states: &BTreeMap<GroupId, GroupState>,
    low_water: &LowWaterMark,
    groups: impl Iterator<Item = &'a GroupId>,
) -> Vec<u8> {
    let mut opening = Vec::new();
    let mut records = low_water.encode(groups.copied(), &mut opening);
    for (&group, state) in states {
        let header = RecordHeader::mark(RecordKind::State, group, 0);
        record_codec::encode(&mut opening, &header, &state.0);
        records += 1;
    }
    header.encode(&opening, records)
}
