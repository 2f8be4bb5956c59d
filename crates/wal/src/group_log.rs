//! Where each group's entries stand: an index with one extent per batch, never one per entry.
//!
//! It describes everything appended, whether on disk, being written or queued. Invariant: extents
//! are consecutive, and together cover the log from `start + 1` (or before) to `last`.
//! Not here: which file a batch went to (`segmented_log`).

use clocks::LogIndex;
use std::collections::VecDeque;
use std::ops::Range;

/// A run of consecutive entries of one group in one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First index of the run.
    pub(crate) first: LogIndex,
    /// Last index of the run that has not been replaced.
    pub(crate) last: LogIndex,
    /// The batch.
    pub(crate) sequence: u64,
    /// Bytes from the batch's start that hold the run, among records of other groups.
    pub(crate) bytes: Range<u32>,
}

/// The log of one group.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupLog {
    /// Entries up to here are not needed, or in a snapshot.
    start: LogIndex,
    /// Index of the last entry; `start` if there is none.
    last: LogIndex,
    extents: VecDeque<Extent>,
    /// Whether the last extent still ends with the entry that was appended last.
    extendable: bool,
    /// Counts replacements, by which a read in flight learns of them.
    epoch: u64,
}

impl GroupLog {
    /// The index before the first entry.
    pub(crate) fn start(&self) -> LogIndex {
        self.start
    }

    /// The index of the last entry.
    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    /// Grows whenever entries are replaced or dropped from the end.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The extents that hold `from` and what follows it.
    pub(crate) fn extents_from(&self, from: LogIndex) -> impl Iterator<Item = &Extent> {
        let begin = self.extents.partition_point(|extent| extent.last < from);
        self.extents.range(begin..)
    }

    /// Puts entry `index` at `bytes` of batch `sequence`; what the log held from there on is gone.
    ///
    /// # Panics
    /// If it leaves a gap or replaces a released entry.
    pub(crate) fn append(&mut self, index: LogIndex, sequence: u64, bytes: Range<u32>) {
        assert!(index > self.start, "entry {index} was released: the log begins after it");
        assert!(index - 1 <= self.last, "entry {index} leaves a gap after {}", self.last);
        if index <= self.last {
            self.truncate(index);
        }
        self.last = index;
        match self.extents.back_mut() {
            Some(extent) if self.extendable && extent.sequence == sequence => {
                extent.last = index;
                extent.bytes.end = bytes.end;
            }
            _ => self.extents.push_back(Extent { first: index, last: index, sequence, bytes }),
        }
        self.extendable = true;
    }

    /// Drops every entry at or after `from`.
    fn truncate(&mut self, from: LogIndex) {
        while self.extents.back().is_some_and(|extent| extent.first >= from) {
            self.extents.pop_back();
        }
        if let Some(extent) = self.extents.back_mut() {
            extent.last = extent.last.min(from - 1);
        }
        self.last = from - 1;
        self.extendable = false;
        self.epoch += 1;
    }

    /// Drops everything; the log begins after `start`.
    pub(crate) fn reset(&mut self, start: LogIndex) {
        self.extents.clear();
        self.extendable = false;
        self.epoch += 1;
        self.start = start;
        self.last = start;
    }

    /// Entries up to and including `through` are not needed any more.
    pub(crate) fn release(&mut self, through: LogIndex) {
        self.start = self.start.max(through);
        if self.last < self.start {
            self.reset(self.start);
        }
        while self.extents.front().is_some_and(|extent| extent.last <= self.start) {
            self.extents.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[(LogIndex, u64, Range<u32>)]) -> GroupLog {
        let mut log = GroupLog::default();
        for (index, sequence, bytes) in entries {
            log.append(*index, *sequence, bytes.clone());
        }
        log
    }

    fn extents(log: &GroupLog) -> Vec<(LogIndex, LogIndex, u64, Range<u32>)> {
        log.extents_from(0).map(|e| (e.first, e.last, e.sequence, e.bytes.clone())).collect()
    }

    #[test]
    fn entries_of_one_batch_share_an_extent() {
        let log = log(&[(1, 7, 64..100), (2, 7, 150..190), (3, 8, 64..96)]);
        assert_eq!(extents(&log), [(1, 2, 7, 64..190), (3, 3, 8, 64..96)]);
    }

    #[test]
    fn a_replacement_in_the_same_batch_begins_a_new_extent() {
        let log = log(&[(1, 7, 64..96), (2, 7, 96..128), (2, 7, 128..160), (3, 7, 160..192)]);
        assert_eq!(extents(&log), [(1, 1, 7, 64..128), (2, 3, 7, 128..192)]);
        assert_eq!(log.last(), 3);
    }

    #[test]
    fn release_keeps_an_extent_that_is_needed_in_part() {
        let mut log = log(&[(1, 7, 64..96), (2, 7, 96..128), (3, 8, 64..96)]);
        log.release(1);
        assert_eq!((log.start(), extents(&log).len()), (1, 2));
        log.release(9);
        assert_eq!((log.start(), log.last(), extents(&log).len()), (9, 9, 0));
    }

    #[test]
    #[should_panic(expected = "leaves a gap")]
    fn a_gap_is_our_own_bug() {
        log(&[(1, 7, 64..96), (3, 7, 96..128)]);
    }
}
