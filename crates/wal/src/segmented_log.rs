//! Segmented Log: one logical log in files of bounded length, so that its old part can be given
//! back while its new part is written.
//!
//! Used by Kafka, etcd, PostgreSQL and Raft implementations at large. Segments are allocated before
//! they are needed, written once from front to back, and recycled for their blocks. A segment's
//! number is its incarnation and its file's number, and never used again.
//! Not here: what batches hold (`write_ahead_log`), when a segment may go (`low_water_mark`).

use crate::limits::{BLOCK, WalConfig, round_up_to_block};
use crate::{DiskOp, FileId};
use std::collections::BTreeMap;

/// A file that holds batches.
#[derive(Clone, Debug)]
struct Segment {
    len: u64,
    base_sequence: u64,
    /// Block at which each batch begins, from `base_sequence` on.
    blocks: Vec<u32>,
    /// Where the next batch goes.
    end: u64,
    /// Reads in flight; the file stays while there are any.
    readers: u32,
}

/// The file that the log goes on in once the current one is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    None,
    Allocating { number: u64, len: u64, recycled: Option<FileId> },
    Ready { number: u64, len: u64 },
}

/// Whether a batch can be placed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// In the current segment.
    Current,
    /// In the next one, which is ready.
    Next,
    /// Nowhere, before the next segment of this length is ready.
    Wait { segment_len: u64 },
}

/// The files of the log.
#[derive(Clone, Debug)]
pub(crate) struct SegmentedLog {
    segment_bytes: u64,
    recycled_limit: usize,
    /// The last one is the one being written.
    segments: BTreeMap<u64, Segment>,
    next: Next,
    next_number: u64,
    /// Released files of ordinary length.
    recycled: Vec<FileId>,
    /// Whether the last allocation failed for want of space.
    full: bool,
    /// Whether there may be space again.
    retry: bool,
}

impl SegmentedLog {
    /// A log without a segment; numbers begin with `next_number`.
    pub(crate) fn new(config: &WalConfig, next_number: u64) -> SegmentedLog {
        SegmentedLog {
            segment_bytes: config.segment_bytes,
            recycled_limit: config.recycled_segments,
            segments: BTreeMap::new(),
            next: Next::None,
            next_number,
            recycled: Vec::new(),
            full: false,
            retry: false,
        }
    }

    /// The segment being written, and where its next batch goes.
    pub(crate) fn current(&self) -> (u64, u64) {
        let (&number, segment) = self.segments.last_key_value().expect("a segment is open");
        (number, segment.end)
    }

    /// Sequence of the first batch of the segment being written.
    pub(crate) fn base_sequence(&self) -> u64 {
        self.segments.values().next_back().expect("a segment is open").base_sequence
    }

    /// Number of segments that hold batches.
    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether segment `number` is one of them.
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.segments.contains_key(&number)
    }

    /// Bytes of all files.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let next = match self.next {
            Next::None => 0,
            Next::Allocating { len, .. } | Next::Ready { len, .. } => len,
        };
        let live: u64 = self.segments.values().map(|segment| segment.len).sum();
        live + next + self.recycled.len() as u64 * self.segment_bytes
    }

    /// Whether the last allocation failed for want of space.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Goes on in segment `number`, whose first batch is `base_sequence` at `first_batch`.
    pub(crate) fn open(&mut self, number: u64, len: u64, base_sequence: u64, first_batch: u64) {
        if let Some((&current, segment)) = self.segments.last_key_value() {
            assert!(number > current, "segment numbers grow");
            assert!(base_sequence >= segment.base_sequence, "batch sequences grow");
        }
        let segment =
            Segment { len, base_sequence, blocks: Vec::new(), end: first_batch, readers: 0 };
        self.segments.insert(number, segment);
        self.next_number = self.next_number.max(number + 1);
    }

    /// Takes the next segment, which must be ready: its number and length.
    pub(crate) fn take_next(&mut self) -> (u64, u64) {
        let Next::Ready { number, len } = self.next else {
            panic!("the next segment is not ready")
        };
        self.next = Next::None;
        (number, len)
    }

    /// Batch `sequence` of `len` bytes goes to the end of the current segment.
    pub(crate) fn push_batch(&mut self, sequence: u64, len: u64) {
        let mut current = self.segments.last_entry().expect("a segment is open");
        let segment = current.get_mut();
        assert_eq!(
            sequence,
            segment.base_sequence + segment.blocks.len() as u64,
            "batches of a segment are consecutive"
        );
        let block = u32::try_from(segment.end / BLOCK).expect("segments are below 16 TiB");
        segment.blocks.push(block);
        segment.end += round_up_to_block(len);
        assert!(segment.end <= segment.len, "a batch crosses the end of its segment");
    }

    /// The segment and the offset of batch `sequence`, which must be on disk.
    pub(crate) fn place_of(&self, sequence: u64) -> (u64, u64) {
        let mut newest_first = self.segments.iter().rev();
        let (&number, segment) = newest_first
            .find(|(_, segment)| segment.base_sequence <= sequence && !segment.blocks.is_empty())
            .expect("the index names batches of live segments");
        let nth = usize::try_from(sequence - segment.base_sequence).expect("batches are counted");
        (number, u64::from(segment.blocks[nth]) * BLOCK)
    }

    /// Where a batch of at most `len` bytes can go, keeping `kept` bytes of the segment free; a
    /// new segment would open with `opening` bytes.
    pub(crate) fn placement(&self, len: u64, kept: u64, opening: u64) -> Placement {
        let segment = self.segments.values().next_back().expect("a segment is open");
        if segment.end + round_up_to_block(len) + kept <= segment.len {
            return Placement::Current;
        }
        let needed = round_up_to_block(opening) + round_up_to_block(len) + round_up_to_block(kept);
        match self.next {
            Next::Ready { len, .. } if len >= needed => Placement::Next,
            _ => Placement::Wait { segment_len: needed.max(self.segment_bytes) },
        }
    }

    /// Whether the current segment is so far used that the next one should be prepared.
    pub(crate) fn wants_next(&self) -> bool {
        let segment = self.segments.values().next_back().expect("a segment is open");
        self.next == Next::None && (!self.full || self.retry) && segment.end >= segment.len / 4
    }

    /// The operation that prepares a segment of at least `len` bytes; none if that is under way,
    /// or there is no space and no reason to think that there is again.
    /// A prepared one that is too short is set aside, and what must be deleted comes first.
    pub(crate) fn allocate(&mut self, len: u64) -> Vec<DiskOp> {
        let mut operations = Vec::new();
        match self.next {
            // Asking a full disk again at once would go on for ever.
            Next::None if self.full && !self.retry => return operations,
            Next::Allocating { .. } => return operations,
            Next::Ready { len: ready, .. } if ready >= len => return operations,
            Next::Ready { number, len: ready } => {
                operations.extend(self.give_back(FileId(number), ready));
            }
            Next::None => {}
        }
        self.retry = false;
        let len = round_up_to_block(len.max(self.segment_bytes));
        let number = self.next_number;
        self.next_number += 1;
        let recycled = if len == self.segment_bytes { self.recycled.pop() } else { None };
        self.next = Next::Allocating { number, len, recycled };
        operations.push(DiskOp::Allocate { file: FileId(number), len, recycled });
        operations
    }

    /// The allocation ended well.
    pub(crate) fn on_allocated(&mut self) {
        let Next::Allocating { number, len, .. } = self.next else {
            panic!("nothing was allocated")
        };
        self.next = Next::Ready { number, len };
        self.full = false;
    }

    /// There may be space again: the next segment is asked for once more.
    pub(crate) fn retry(&mut self) {
        self.retry = true;
    }

    /// The allocation found no space. Says whether that is news.
    pub(crate) fn on_full(&mut self) -> bool {
        if let Next::Allocating { recycled, .. } = std::mem::replace(&mut self.next, Next::None) {
            self.recycled.extend(recycled);
        }
        !std::mem::replace(&mut self.full, true)
    }

    /// Nothing below `oldest` is needed and the disk knows: recycles what it can; returns the
    /// deletions of the rest.
    pub(crate) fn retire(&mut self, oldest: u64) -> Vec<DiskOp> {
        let mut operations = Vec::new();
        let retired =
            |number: &u64, segment: &mut Segment| *number < oldest && segment.readers == 0;
        let retired: Vec<(u64, Segment)> = self.segments.extract_if(.., retired).collect();
        self.retry |= !retired.is_empty();
        for (number, segment) in retired {
            operations.extend(self.give_back(FileId(number), segment.len));
        }
        operations
    }

    /// A file whose content nobody needs: kept for its blocks, or deleted.
    pub(crate) fn give_back(&mut self, file: FileId, len: u64) -> Option<DiskOp> {
        if len == self.segment_bytes && self.recycled.len() < self.recycled_limit {
            self.recycled.push(file);
            return None;
        }
        Some(DiskOp::Remove { file })
    }

    /// A read of segment `number` begins.
    pub(crate) fn pin(&mut self, number: u64) {
        self.segments.get_mut(&number).expect("reads go to live segments").readers += 1;
    }

    /// A read of segment `number` ended.
    pub(crate) fn unpin(&mut self, number: u64) {
        let segment = self.segments.get_mut(&number).expect("a pinned segment stays");
        segment.readers -= 1;
    }
}
