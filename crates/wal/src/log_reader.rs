//! Reading entries back, wherever they are by now: on disk, being written, or queued.

use crate::group_log::Extent;
use crate::limits::{BLOCK, round_up_to_block};
use crate::queued_batch::entries_in_memory;
use crate::record_codec::{self, Belonging, RecordKind};
use crate::write_ahead_log::Operation;
use crate::{Damage, Disk, DiskOp, EntryRecord, FileId, ReadToken, Wal, WalError, WalEvent};
use bytes::Bytes;
use clocks::{GroupId, LogIndex};

/// Bytes that an entry counts for beyond its payload.
const ENTRY_OVERHEAD_BYTES: usize = record_codec::RECORD_HEADER_BYTES;

/// A read under way.
#[derive(Debug)]
pub(crate) struct ReadPlan {
    token: ReadToken,
    group: GroupId,
    from: LogIndex,
    max_bytes: usize,
    /// Of the group's log when the read began.
    epoch: u64,
    segment: u64,
    /// Where in the file the read begins.
    offset: u64,
    pieces: Vec<Piece>,
}

/// Consecutive entries of one batch.
#[derive(Debug)]
struct Piece {
    first: LogIndex,
    last: LogIndex,
    sequence: u64,
    /// Bytes of the file.
    start: u64,
    end: u64,
}

impl Wal {
    /// Entries of `group` from index `from` on: at least one, no more once their payloads and 32
    /// bytes each would pass `max_bytes`, and perhaps fewer, since one read does not cross
    /// segments. Empty if `from` is cut away or beyond the end. What is still in memory is
    /// answered at once; None: the disk has been asked, and `WalEvent::Read` will follow.
    pub fn read(
        &mut self,
        token: ReadToken,
        group: GroupId,
        from: LogIndex,
        max_bytes: usize,
        disk: &mut dyn Disk,
    ) -> Option<Vec<EntryRecord>> {
        let Some(log) = self.groups.get(&group) else { return Some(Vec::new()) };
        if from <= log.start() || from > log.last() {
            return Some(Vec::new());
        }
        let first = log.extents_from(from).next().expect("extents cover the log");
        if first.sequence >= self.first_sequence_in_memory() {
            return Some(self.read_memory(group, from, max_bytes));
        }
        let plan = self.plan_read(token, group, from, max_bytes);
        let end = plan.pieces.last().expect("it has one at least").end;
        let operation = DiskOp::Read {
            file: FileId(plan.segment),
            offset: plan.offset,
            len: round_up_to_block(end) - plan.offset,
        };
        self.segmented.pin(plan.segment);
        self.submit(Operation::Read(plan), operation, disk);
        None
    }

    /// The oldest batch whose bytes are still here.
    fn first_sequence_in_memory(&self) -> u64 {
        let in_flight = self.in_flight.front().map(|batch| batch.sequence);
        let queued = self.queue.front().map(|batch| batch.sequence);
        in_flight.or(queued).unwrap_or(self.next_sequence)
    }

    fn read_memory(&self, group: GroupId, from: LogIndex, max_bytes: usize) -> Vec<EntryRecord> {
        let mut budget = Budget::new(max_bytes);
        let mut entries = Vec::new();
        for extent in self.groups[&group].extents_from(from) {
            let from = from.max(extent.first);
            let range = extent.bytes.start as usize..extent.bytes.end as usize;
            let batch = self.batch_in_memory(extent);
            for entry in entries_in_memory(batch, range, group, from, extent.last) {
                if !budget.takes(&entry) {
                    return entries;
                }
                entries.push(entry);
            }
        }
        entries
    }

    fn batch_in_memory(&self, extent: &Extent) -> &[u8] {
        let in_flight = self.in_flight.iter().find(|batch| batch.sequence == extent.sequence);
        let queued = || self.queue.iter().find(|batch| batch.sequence == extent.sequence);
        match in_flight {
            Some(batch) => &batch.bytes,
            None => queued().expect("what is not on disk is in memory").bytes(),
        }
    }

    /// One operation that covers `from` and, in the same segment, about `max_bytes` after it.
    fn plan_read(
        &self,
        token: ReadToken,
        group: GroupId,
        from: LogIndex,
        max_bytes: usize,
    ) -> ReadPlan {
        let log = &self.groups[&group];
        let in_memory = self.first_sequence_in_memory();
        let mut plan = ReadPlan {
            token,
            group,
            from,
            max_bytes,
            epoch: log.epoch(),
            segment: 0,
            offset: 0,
            pieces: Vec::new(),
        };
        for extent in log.extents_from(from).take_while(|extent| extent.sequence < in_memory) {
            let (segment, batch) = self.segmented.place_of(extent.sequence);
            let start = batch + u64::from(extent.bytes.start);
            let end = batch + u64::from(extent.bytes.end);
            if plan.pieces.is_empty() {
                plan.segment = segment;
                plan.offset = start - start % BLOCK;
            } else if segment != plan.segment || end - plan.offset > max_bytes as u64 {
                break;
            }
            let Extent { first, last, sequence, .. } = *extent;
            plan.pieces.push(Piece { first, last, sequence, start, end });
        }
        plan
    }

    /// The disk answered. If entries were replaced meanwhile, the read begins anew.
    pub(crate) fn on_read(
        &mut self,
        plan: ReadPlan,
        bytes: &Bytes,
        disk: &mut dyn Disk,
    ) -> Result<Vec<WalEvent>, WalError> {
        self.segmented.unpin(plan.segment);
        let log = &self.groups[&plan.group];
        let entries = if log.epoch() != plan.epoch {
            self.read(plan.token, plan.group, plan.from, plan.max_bytes, disk)
        } else if plan.from <= log.start() {
            Some(Vec::new())
        } else {
            Some(plan.entries(bytes)?)
        };
        // Whoever wanted to give the file back has waited for this read.
        self.retire(disk);
        Ok(entries
            .map(|entries| WalEvent::Read { token: plan.token, entries })
            .into_iter()
            .collect())
    }
}

impl ReadPlan {
    fn entries(&self, bytes: &Bytes) -> Result<Vec<EntryRecord>, WalError> {
        let mut budget = Budget::new(self.max_bytes);
        let mut entries = Vec::new();
        let mut full = false;
        for piece in &self.pieces {
            piece.verify(self, bytes, |entry| {
                full = full || !budget.takes(&entry);
                if !full {
                    entries.push(entry);
                }
            })?;
        }
        // Entries share the buffer; a few of them must not keep a large one alive.
        if budget.taken * 2 < bytes.len() {
            for entry in &mut entries {
                entry.payload = Bytes::copy_from_slice(&entry.payload);
            }
        }
        Ok(entries)
    }
}

impl Piece {
    /// Hands over the wanted entries of the piece; every record up to the last must verify.
    fn verify(
        &self,
        plan: &ReadPlan,
        bytes: &Bytes,
        mut take: impl FnMut(EntryRecord),
    ) -> Result<(), WalError> {
        let belonging =
            Belonging { incarnation: plan.segment, sequence: self.sequence, base: plan.offset };
        let place = |offset: u64| usize::try_from(offset - plan.offset).expect("reads fit memory");
        let (mut at, limit) = (place(self.start), place(self.end));
        let mut next = self.first;
        while next <= self.last {
            let found = record_codec::verify(bytes, at, limit, &belonging);
            let found = found.ok_or_else(|| WalError::Corrupt {
                damage: Damage { file: FileId(plan.segment), offset: plan.offset + at as u64 },
                detail: format!("the record of entry {next} of {} is not there", plan.group),
            })?;
            at = found.payload.end;
            let header = found.header;
            let ours = header.kind == RecordKind::Entry && header.group == plan.group;
            if !ours || header.position.index != next {
                continue;
            }
            next += 1;
            if header.position.index >= plan.from {
                let payload = found.payload_of(bytes);
                take(EntryRecord { position: header.position, kind: header.entry_kind, payload });
            }
        }
        Ok(())
    }
}

/// Bound on what one read returns; the first entry always fits.
struct Budget {
    max_bytes: usize,
    taken: usize,
}

impl Budget {
    fn new(max_bytes: usize) -> Budget {
        Budget { max_bytes, taken: 0 }
    }

    fn takes(&mut self, entry: &EntryRecord) -> bool {
        let bytes = entry.payload.len() + ENTRY_OVERHEAD_BYTES;
        if self.taken > 0 && self.taken + bytes > self.max_bytes {
            return false;
        }
        self.taken += bytes;
        true
    }
}
