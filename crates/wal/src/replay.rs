//! What the records of a log add up to, one after the other.
//!
//! Everything here comes from disk: whatever makes no sense is an error in words, never a panic.

use crate::group_log::GroupLog;
use crate::low_water_mark::{LowWaterMark, Touch};
use crate::record_codec::{FoundRecord, RecordKind};
use crate::segment_header::Opening;
use crate::segment_reader::FoundBatch;
use crate::segmented_log::SegmentedLog;
use crate::{Damage, EntryRecord, GroupState, RecoveredGroup, Run, WalConfig};
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// The log as read so far.
pub(crate) struct Replay {
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
    pub(crate) states: BTreeMap<GroupId, GroupState>,
    pub(crate) low_water: LowWaterMark,
    pub(crate) segmented: SegmentedLog,
    pub(crate) damage: Option<Damage>,
    pub(crate) state_sequence: u64,
    /// The last batch read; 0 before the first.
    pub(crate) last_sequence: u64,
    /// Low-water mark as last named.
    pub(crate) oldest: u64,
    /// Whether a record that verifies could not be applied; a batch is then applied in part.
    pub(crate) makes_no_sense: bool,
    tails: BTreeMap<GroupId, Tail>,
    tail_bytes: usize,
}

/// The newest entries of a group, and the positions of all.
#[derive(Default)]
struct Tail {
    runs: Vec<Run>,
    entries: VecDeque<EntryRecord>,
    bytes: usize,
}

impl Replay {
    /// Nothing read yet. `next_number`: above every file's.
    pub(crate) fn new(config: &WalConfig, next_number: u64) -> Replay {
        Replay {
            groups: BTreeMap::new(),
            states: BTreeMap::new(),
            low_water: LowWaterMark::default(),
            segmented: SegmentedLog::new(config, next_number),
            damage: None,
            state_sequence: 0,
            last_sequence: 0,
            oldest: 0,
            makes_no_sense: false,
            tails: BTreeMap::new(),
            tail_bytes: config.recovered_tail_bytes,
        }
    }

    /// A segment of `len` bytes begins.
    ///
    /// # Errors
    /// What makes no sense in it.
    pub(crate) fn open(&mut self, opening: &Opening, len: u64) -> Result<(), String> {
        let header = &opening.header;
        if header.base_sequence <= self.last_sequence {
            self.makes_no_sense = true;
            return Err(format!("its first batch does not follow batch {}", self.last_sequence));
        }
        self.low_water.open(header.incarnation);
        self.segmented.open(header.incarnation, len, header.base_sequence, opening.first_batch);
        self.damage = header.damage.clone();
        self.state_sequence = header.state_sequence;
        self.oldest = header.oldest;
        if self.last_sequence == 0 {
            self.last_sequence = header.base_sequence - 1;
        }
        self.bounds_and_states(&opening.bytes, &opening.records)
    }

    /// The next batch of the segment opened last.
    ///
    /// # Errors
    /// What makes no sense in it.
    pub(crate) fn batch(&mut self, batch: &FoundBatch) -> Result<(), String> {
        let applied = self.apply(batch);
        self.makes_no_sense |= applied.is_err();
        applied
    }

    fn apply(&mut self, batch: &FoundBatch) -> Result<(), String> {
        let header = &batch.header;
        let mut touched = BTreeMap::new();
        let mut has_state = false;
        for record in &batch.records {
            let RecordKind::Entry = record.header.kind else {
                has_state |= record.header.kind == RecordKind::State;
                self.low_water.on_batch(header.incarnation, &std::mem::take(&mut touched));
                self.bounds_and_states(&batch.bytes, std::slice::from_ref(record))?;
                continue;
            };
            let group = record.header.group;
            let index = record.header.position.index;
            // A replacement must be known before the next record is judged.
            if self.groups.get(&group).is_some_and(|log| index <= log.last()) {
                self.low_water.on_batch(header.incarnation, &std::mem::take(&mut touched));
            }
            self.entry(record, &batch.bytes, header.sequence)?;
            touched.entry(group).or_insert_with(Touch::default).entry(index);
        }
        self.low_water.on_batch(header.incarnation, &touched);
        self.segmented.push_batch(header.sequence, header.len());
        if has_state {
            self.state_sequence = header.sequence;
        }
        self.last_sequence = header.sequence;
        self.oldest = header.oldest;
        Ok(())
    }

    /// Everything in `records` but entries: also what counts of the log after damage in it.
    pub(crate) fn bounds_and_states(
        &mut self,
        bytes: &Bytes,
        records: &[FoundRecord],
    ) -> Result<(), String> {
        for record in records {
            let group = record.header.group;
            let index = record.header.position.index;
            if index == LogIndex::MAX {
                return Err(format!("index {index} of {group} is not possible"));
            }
            match record.header.kind {
                RecordKind::Entry => {}
                RecordKind::State => {
                    let state = Bytes::copy_from_slice(&bytes[record.payload.clone()]);
                    self.groups.entry(group).or_default();
                    self.states.insert(group, GroupState(state));
                }
                RecordKind::Reset => {
                    let mut touch = Touch::default();
                    touch.reset(index);
                    self.low_water.on_batch(0, &BTreeMap::from([(group, touch)]));
                    self.groups.entry(group).or_default().reset(index);
                    self.tails.remove(&group);
                }
                RecordKind::Released => {
                    self.low_water.release(group, index);
                    self.groups.entry(group).or_default().release(index);
                    self.tails.entry(group).or_default().release(index);
                }
                RecordKind::DamageCleared => self.damage = None,
            }
        }
        Ok(())
    }

    fn entry(&mut self, record: &FoundRecord, bytes: &Bytes, sequence: u64) -> Result<(), String> {
        let LogPosition { index, .. } = record.header.position;
        let group = record.header.group;
        let log = self.groups.entry(group).or_default();
        let released = self.low_water.released(group);
        if index <= released || index == LogIndex::MAX {
            return Err(format!("entry {index} of {group} follows the release of {released}"));
        }
        let tail = self.tails.entry(group).or_default();
        // The segments that held earlier entries may be gone; `hole` checks that they were
        // released, which only a later batch may say.
        let empty = log.last() == log.start();
        if index <= log.start() || (empty && index - 1 > log.last()) {
            log.reset(index - 1);
            *tail = Tail::default();
        }
        if index - 1 > log.last() {
            return Err(format!("entry {index} of {group} follows entry {}", log.last()));
        }
        log.append(index, sequence, record_bytes(record));
        tail.push(record, bytes, self.tail_bytes);
        Ok(())
    }

    /// A group that lacks entries which were never released, and the first that it has.
    pub(crate) fn hole(&self) -> Option<(GroupId, LogIndex)> {
        let missing = |(&group, log): (&GroupId, &GroupLog)| {
            (log.start() > self.low_water.released(group)).then(|| (group, log.start() + 1))
        };
        self.groups.iter().find_map(missing)
    }

    /// Drops what stands behind a hole.
    pub(crate) fn drop_holes(&mut self) {
        while let Some((group, _)) = self.hole() {
            let released = self.low_water.released(group);
            self.groups.entry(group).or_default().reset(released);
            self.tails.remove(&group);
        }
    }

    /// What the owner is told of each group.
    pub(crate) fn recovered_groups(&mut self) -> BTreeMap<GroupId, RecoveredGroup> {
        let mut tails = std::mem::take(&mut self.tails);
        let recovered = |(&group, log): (&GroupId, &GroupLog)| {
            let mut tail = tails.remove(&group).unwrap_or_default();
            tail.release(log.start());
            if log.last() == log.start() {
                tail.runs.clear();
            }
            let last = tail.runs.last().map(|run| LogPosition::new(run.term, log.last()));
            let state = self.states.get(&group).cloned();
            let tail_entries = tail.entries.into();
            let start = log.start();
            (group, RecoveredGroup { state, start, last, runs: tail.runs, tail: tail_entries })
        };
        self.groups.iter().map(recovered).collect()
    }
}

/// The bytes of a batch that a record takes.
fn record_bytes(record: &FoundRecord) -> Range<u32> {
    let offset = |at: usize| u32::try_from(at).expect("batch bodies are below 4 GiB");
    offset(record.payload.start - crate::record_codec::RECORD_HEADER_BYTES)
        ..offset(record.payload.end)
}

impl Tail {
    fn push(&mut self, record: &FoundRecord, bytes: &Bytes, limit: usize) {
        let position = record.header.position;
        let kind = record.header.entry_kind;
        self.truncate(position.index);
        if self.runs.last().is_none_or(|run| (run.term, run.kind) != (position.term, kind)) {
            self.runs.push(Run { first: position.index, term: position.term, kind });
        }
        let payload = Bytes::copy_from_slice(&bytes[record.payload.clone()]);
        self.bytes += payload.len();
        self.entries.push_back(EntryRecord { position, kind, payload });
        while self.bytes > limit
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= entry.payload.len();
        }
    }

    /// Drops what stands at or after `from`.
    fn truncate(&mut self, from: LogIndex) {
        while self.runs.last().is_some_and(|run| run.first >= from) {
            self.runs.pop();
        }
        while let Some(entry) = self.entries.pop_back_if(|entry| entry.position.index >= from) {
            self.bytes -= entry.payload.len();
        }
    }

    /// Drops what stands at or before `through`.
    fn release(&mut self, through: LogIndex) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.position.index <= through) {
            self.bytes -= entry.payload.len();
        }
        // A run is over where the next begins.
        let over = self.runs.windows(2).take_while(|pair| pair[1].first <= through + 1).count();
        self.runs.drain(..over);
        if let Some(run) = self.runs.first_mut() {
            run.first = run.first.max(through + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Record;
    use crate::batch_codec::{BATCH_HEADER_BYTES, BatchHeader};
    use crate::queued_batch::QueuedBatch;
    use crate::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
    use clocks::Term;

    const GROUP: GroupId = GroupId(1);

    fn entry(index: LogIndex) -> Record {
        let position = LogPosition::new(Term(1), index);
        let entry = EntryRecord { position, kind: 0, payload: Bytes::new() };
        Record::Entry { group: GROUP, entry }
    }

    /// Replays one batch that verifies, whatever it says.
    fn replayed(records: &[Record]) -> (Replay, Result<(), String>) {
        let header = SegmentHeader {
            incarnation: 4,
            base_sequence: 9,
            previous: None,
            oldest: 4,
            damage: None,
            state_sequence: 0,
        };
        let opening = Opening {
            header,
            bytes: vec![0; SEGMENT_HEADER_BYTES].into(),
            records: Vec::new(),
            first_batch: 4096,
        };
        let mut replay = Replay::new(&WalConfig::default(), 5);
        replay.open(&opening, 1 << 20).expect("the opening is empty");
        let mut batch = QueuedBatch::new(9);
        for record in records {
            batch.push(record);
        }
        let header = BatchHeader {
            incarnation: 4,
            offset: 4096,
            base_sequence: 9,
            sequence: 9,
            synced: 8,
            oldest: 4,
            state_sequence: 0,
            body_len: 0,
            records: 0,
        };
        let bytes = Bytes::from(batch.seal(header));
        let header = BatchHeader::decode(&bytes, 4, 4096).expect("just written");
        assert_eq!(header.len(), BATCH_HEADER_BYTES as u64 + u64::from(header.body_len));
        let found = header.records(&bytes).expect("just written");
        let applied = replay.batch(&FoundBatch { header, bytes, records: found });
        (replay, applied)
    }

    #[test]
    fn a_log_may_begin_behind_released_segments_but_then_has_no_gap() {
        let (replay, applied) = replayed(&[entry(7), entry(8), entry(8), entry(9)]);
        assert_eq!(applied, Ok(()));
        assert_eq!(replay.hole(), Some((GROUP, 7)), "nothing says that 1 to 6 were released");
        let (gap, applied) = replayed(&[entry(7), entry(9)]);
        assert_eq!(applied, Err("entry 9 of g1 follows entry 7".into()));
        assert!(gap.makes_no_sense);
    }

    #[test]
    fn indexes_that_cannot_be_are_an_error_and_no_panic() {
        for index in [0, LogIndex::MAX] {
            let (_, applied) = replayed(&[entry(index)]);
            assert!(applied.is_err(), "entry {index}");
        }
        let (_, applied) = replayed(&[Record::Reset { group: GROUP, start: LogIndex::MAX }]);
        assert!(applied.is_err());
        let (_, applied) = replayed(&[Record::Reset { group: GROUP, start: 5 }, entry(5)]);
        assert_eq!(applied, Err("entry 5 of g1 follows the release of 5".into()));
    }
}
