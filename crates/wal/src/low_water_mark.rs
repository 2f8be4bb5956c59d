//! Low-Water Mark: the place in the log below which nothing is needed any more, so that its
//! segments can be given back.
//!
//! Used by Kafka (log start offset), etcd and CockroachDB (Raft log truncation), PostgreSQL (the
//! checkpoint's redo point). Invariant: a segment below the mark holds no entry that any group may
//! still ask for, and its file is touched only once a batch that names the mark is durable; by that
//! recovery tells a released segment from a lost one.
//! Not here: the files themselves (`segmented_log`).

use crate::record_codec::{self, RecordHeader, RecordKind};
use clocks::{GroupId, LogIndex};
use std::collections::BTreeMap;

/// What one batch does to one group's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touch {
    /// Lowest index that is replaced or appended (0 by a reset); none if only the state changes.
    pub(crate) floor: Option<LogIndex>,
    /// Where the last reset of the batch makes the log begin.
    pub(crate) reset: Option<LogIndex>,
    /// Highest entry of the batch that the batch itself does not replace.
    pub(crate) highest: Option<LogIndex>,
}

impl Touch {
    /// The batch appends entry `index`.
    pub(crate) fn entry(&mut self, index: LogIndex) {
        self.floor = Some(self.floor.map_or(index, |floor| floor.min(index)));
        self.highest = Some(index);
    }

    /// The batch drops the group's log.
    pub(crate) fn reset(&mut self, start: LogIndex) {
        *self = Touch { floor: Some(0), reset: Some(start), highest: None };
    }
}

/// The mark, over the batches written so far (queued ones do not count).
#[derive(Clone, Debug, Default)]
pub(crate) struct LowWaterMark {
    /// Invariant: never regresses.
    oldest: u64,
    /// How far each group has released its log, as the log itself says or will say next.
    released: BTreeMap<GroupId, LogIndex>,
    /// Per segment, each group's highest entry in it.
    segments: BTreeMap<u64, BTreeMap<GroupId, LogIndex>>,
}

impl LowWaterMark {
    /// The oldest segment that is needed, as last written to a batch.
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// How far `group` has released its log.
    pub(crate) fn released(&self, group: GroupId) -> LogIndex {
        self.released.get(&group).copied().unwrap_or(0)
    }

    /// A segment has been opened.
    pub(crate) fn open(&mut self, segment: u64) {
        self.segments.insert(segment, BTreeMap::new());
        if self.oldest == 0 {
            self.oldest = segment;
        }
    }

    /// A batch goes to `segment`.
    pub(crate) fn on_batch(&mut self, segment: u64, touched: &BTreeMap<GroupId, Touch>) {
        for (&group, touch) in touched {
            if let Some(floor) = touch.floor {
                self.forget_replaced(group, floor);
            }
            if let Some(start) = touch.reset {
                self.released.insert(group, start);
            }
            if let Some(index) = touch.highest {
                let segment = self.segments.get_mut(&segment).expect("batches go to open segments");
                let highest = segment.entry(group).or_insert(index);
                *highest = index.max(*highest);
            }
        }
    }

    /// Entries of `group` from `floor` on are replaced, so nobody waits for their release.
    fn forget_replaced(&mut self, group: GroupId, floor: LogIndex) {
        for highest in self.segments.values_mut().rev() {
            match highest.get_mut(&group) {
                Some(_) if floor <= 1 => drop(highest.remove(&group)),
                Some(index) if *index >= floor => *index = floor - 1,
                // Older segments hold nothing higher: an append costs no walk over all of them.
                Some(_) => return,
                None => {}
            }
        }
    }

    /// `group` does not need its entries up to `through`.
    pub(crate) fn release(&mut self, group: GroupId, through: LogIndex) {
        let released = self.released.entry(group).or_insert(0);
        *released = through.max(*released);
    }

    /// The oldest segment that must stay, given what has been released; `current` always stays.
    pub(crate) fn needed(&self, current: u64) -> u64 {
        let waits = |highest: &BTreeMap<GroupId, LogIndex>| {
            highest.iter().any(|(&group, &index)| index > self.released(group))
        };
        let first = self.segments.iter().find(|(_, highest)| waits(highest));
        first.map_or(current, |(&segment, _)| segment.min(current))
    }

    /// A batch that names `oldest` is being written.
    pub(crate) fn advance(&mut self, oldest: u64) {
        assert!(oldest >= self.oldest, "the low-water mark went back");
        self.oldest = oldest;
        self.segments = self.segments.split_off(&oldest);
    }

    /// One record for each of `groups`: what a log that begins here needs to know of its past.
    pub(crate) fn encode(
        &self,
        groups: impl Iterator<Item = GroupId>,
        buffer: &mut Vec<u8>,
    ) -> u32 {
        let mut records = 0;
        for group in groups {
            let header = RecordHeader::mark(RecordKind::Released, group, self.released(group));
            record_codec::encode(buffer, &header, &[]);
            records += 1;
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GroupId = GroupId(0);
    const B: GroupId = GroupId(1);

    fn entries(group: GroupId, indexes: &[LogIndex]) -> BTreeMap<GroupId, Touch> {
        let mut touch = Touch::default();
        for &index in indexes {
            touch.entry(index);
        }
        BTreeMap::from([(group, touch)])
    }

    fn two_segments() -> LowWaterMark {
        let mut mark = LowWaterMark::default();
        mark.open(1);
        mark.on_batch(1, &entries(A, &[1, 2]));
        mark.on_batch(1, &entries(B, &[1]));
        mark.open(2);
        mark.on_batch(2, &entries(A, &[3]));
        mark
    }

    #[test]
    fn the_slowest_group_holds_the_mark() {
        let mut mark = two_segments();
        mark.release(A, 3);
        assert_eq!(mark.needed(2), 1, "group 1 has released nothing");
        mark.release(B, 1);
        assert_eq!(mark.needed(2), 2);
    }

    #[test]
    fn replaced_entries_hold_nothing() {
        let mut mark = two_segments();
        mark.release(A, 1);
        mark.release(B, 1);
        assert_eq!(mark.needed(2), 1, "entry 2 is still needed");
        mark.on_batch(2, &entries(A, &[2]));
        assert_eq!(mark.needed(2), 2, "it now stands in segment 2");
    }

    #[test]
    fn a_reset_frees_every_entry_before_it() {
        let mut mark = two_segments();
        mark.release(B, 1);
        let mut touch = Touch::default();
        touch.entry(4);
        touch.reset(100);
        mark.on_batch(2, &BTreeMap::from([(A, touch)]));
        assert_eq!((mark.needed(2), mark.released(A)), (2, 100));
    }
}
