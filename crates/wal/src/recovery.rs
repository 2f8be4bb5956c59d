//! Recovery: what a log holds after a crash, and where it goes on.
//!
//! The rule that all of it serves: a bad batch is *corruption* only if something written later
//! proves that it had been synced; otherwise it is the torn tail of a write that nobody was told
//! of. What proves it is the header of the next segment, which is written only after everything
//! before it, or the head of a later batch of the same incarnation that names it as synced.
//! Recovery seals the last segment where its good batches end and goes on in a new one, whose
//! header says so: a second crash finds the same end, whatever stands behind it.
//! Stated limit: rot within the last write cannot be told from a torn write.

use crate::batch_codec::{BATCH_HEADER_BYTES, BatchHeader};
use crate::limits::{BLOCK, round_up_to_block};
use crate::queued_batch::QueuedBatch;
use crate::record_codec::{FoundRecord, RECORD_HEADER_BYTES};
use crate::replay::Replay;
use crate::segment_header::{Opening, PreviousEnd, SegmentHeader};
use crate::segment_reader::{FoundBatch, NoBatch, SegmentReader};
use crate::write_ahead_log::encode_opening;
use crate::{
    Damage, Disk, DiskOp, EntryRecord, FileId, FileInfo, GroupState, Wal, WalConfig, WalError,
};
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition, Term};
use std::collections::{BTreeMap, VecDeque};

/// What the log held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Larger with every recovery of this directory: the incarnation of the process.
    pub incarnation: u64,
    /// Every group that was ever written to.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// Set if entries that had been synced were lost, now or earlier, and `Wal::clear_damage` has
    /// not been called since. The member must not vote before it has learnt them anew.
    pub damage: Option<Damage>,
}

/// What the log held of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Its last state, if one was ever set.
    pub state: Option<GroupState>,
    /// The index before its first entry: what was released, or taken over by a snapshot. May be
    /// lower than the last `release`, which is not synced by itself.
    pub start: LogIndex,
    /// Its last entry; none if there is no entry.
    pub last: Option<LogPosition>,
    /// Term and kind of every entry after `start`, as runs in order.
    pub runs: Vec<Run>,
    /// The newest entries, in order, up to `WalConfig::recovered_tail_bytes`.
    pub tail: Vec<EntryRecord>,
}

/// Consecutive entries of one term and kind, up to the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index of the first.
    pub first: LogIndex,
    /// Their term.
    pub term: Term,
    /// The owner's kind.
    pub kind: u8,
}

/// What to do about corruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnDamage {
    Refuse,
    KeepWhatCameBefore,
}

impl Wal {
    /// Reads the log of `disk` and opens it for writing; an empty directory becomes an empty log.
    ///
    /// # Errors
    /// Corruption, a format of the future, a failed operation, or no space for a segment. Nothing
    /// is lost by trying again.
    ///
    /// # Panics
    /// On a configuration that [`WalConfig::validate`] refuses.
    pub fn recover(config: WalConfig, disk: &mut dyn Disk) -> Result<(Wal, Recovered), WalError> {
        Recovery::run(config, disk, OnDamage::Refuse)
    }

    /// As [`Wal::recover`], but corruption is survived: the log holds the entries before it, and
    /// is durably marked as damaged until [`Wal::clear_damage`]. For members of a group whose
    /// other members hold what was lost.
    ///
    /// # Errors
    /// As `recover`, and `StateLost` if a group's newest state may have been lost too.
    ///
    /// # Panics
    /// As `recover`.
    pub fn recover_damaged(
        config: WalConfig,
        disk: &mut dyn Disk,
    ) -> Result<(Wal, Recovered), WalError> {
        Recovery::run(config, disk, OnDamage::KeepWhatCameBefore)
    }
}

struct Recovery<'a> {
    config: WalConfig,
    disk: &'a mut dyn Disk,
    files: BTreeMap<u64, FileInfo>,
    /// The files that begin as a segment of ours does.
    headers: BTreeMap<u64, SegmentHeader>,
    replay: Replay,
    /// Highest batch sequence seen anywhere that matters; never used again.
    highest_sequence: u64,
}

/// Where the good batches of a segment end.
struct WalkEnd {
    /// Byte offset after the last one.
    offset: u64,
    /// Sequence of the batch that should come there.
    sequence: u64,
    /// What is wrong there; none at the end that the next segment names.
    fault: Option<Fault>,
}

/// Something that is not as it was written.
#[derive(Clone, Debug)]
struct Fault {
    at: u64,
    detail: String,
}

/// Damage, and where the search for later states goes on.
struct Corruption {
    damage: Damage,
    detail: String,
    /// Segments from here on may hold later states; `offset` is in the first of them.
    segments: Vec<u64>,
    /// None: from the first one's opening.
    offset: Option<u64>,
    /// First batch that is missing.
    sequence: u64,
}

impl Recovery<'_> {
    fn run(
        config: WalConfig,
        disk: &mut dyn Disk,
        on_damage: OnDamage,
    ) -> Result<(Wal, Recovered), WalError> {
        if let Err(words) = config.validate() {
            panic!("the owner validates its settings: {words}");
        }
        let files: BTreeMap<u64, FileInfo> =
            disk.list()?.into_iter().map(|info| (info.file.0, info)).collect();
        let next_number = files.keys().next_back().map_or(1, |number| number + 1);
        let replay = Replay::new(&config, next_number);
        let mut recovery =
            Recovery { config, disk, files, headers: BTreeMap::new(), replay, highest_sequence: 0 };
        recovery.survey()?;
        if let Some(corruption) = recovery.read_log()? {
            // Records that verify and make no sense are a bug of ours, not rot: nothing is certain.
            if on_damage == OnDamage::Refuse || recovery.replay.makes_no_sense {
                let Corruption { damage, detail, .. } = corruption;
                return Err(WalError::Corrupt { damage, detail });
            }
            recovery.salvage(&corruption)?;
            recovery.replay.drop_holes();
            // An older mark stays the one that is named.
            recovery.replay.damage.get_or_insert(corruption.damage);
        }
        recovery.go_on(next_number)
    }

    fn reader(&mut self, number: u64) -> SegmentReader<'_> {
        SegmentReader::new(self.disk, self.files[&number])
    }

    /// Finds out which files are segments.
    fn survey(&mut self) -> Result<(), WalError> {
        for (&number, &info) in &self.files {
            if let Some(opening) = SegmentReader::head(self.disk, info).opening()? {
                self.headers.insert(number, opening.header);
            }
        }
        Ok(())
    }

    fn opening(&mut self, number: u64) -> Result<Opening, WalError> {
        let opening = self.reader(number).opening()?;
        opening.ok_or_else(|| WalError::Corrupt {
            damage: Damage { file: FileId(number), offset: 0 },
            detail: "its header reads differently every time".into(),
        })
    }

    /// Replays every segment that is needed, up to the first thing that is not as it was written.
    fn read_log(&mut self) -> Result<Option<Corruption>, WalError> {
        let chain = match self.chain()? {
            Ok(chain) => chain,
            Err(corruption) => return Ok(Some(corruption)),
        };
        let mut end = None;
        for (nth, &number) in chain.iter().enumerate() {
            let next = chain.get(nth + 1).map(|next| &self.headers[next]);
            let limit = next.and_then(|header| header.previous);
            let walk = self.replay_segment(number, limit)?;
            if let (Some(fault), Some(_)) = (&walk.fault, limit) {
                let fault = fault.clone();
                return Ok(Some(corruption_at(number, fault, &walk, chain[nth..].to_vec())));
            }
            end = Some((number, walk));
        }
        if let Some(corruption) = self.judge_tail(end)? {
            return Ok(Some(corruption));
        }
        Ok(self.replay.hole().map(|(group, first)| Corruption {
            damage: Damage { file: FileId(chain[0]), offset: 0 },
            detail: format!("the log of {group} begins with entry {first}, those before are lost"),
            segments: Vec::new(),
            offset: None,
            sequence: self.replay.last_sequence + 1,
        }))
    }

    /// The needed segments, oldest first; each names the one before it.
    fn chain(&mut self) -> Result<Result<Vec<u64>, Corruption>, WalError> {
        let Some(&last) = self.headers.keys().next_back() else { return Ok(Ok(Vec::new())) };
        let oldest = self.oldest_needed(last)?;
        let mut chain = VecDeque::from([last]);
        while chain[0] > oldest {
            let first = chain[0];
            let previous = self.headers[&first].previous.map_or(oldest, |end| end.segment);
            if !self.headers.contains_key(&previous) {
                let detail = match self.files.contains_key(&previous) {
                    true => "its header is not what was written there",
                    false => "the file is missing",
                };
                return Ok(Err(Corruption {
                    damage: Damage { file: FileId(previous), offset: 0 },
                    detail: detail.into(),
                    sequence: self.headers[&first].base_sequence,
                    segments: chain.into(),
                    offset: None,
                }));
            }
            assert!(previous < first, "headers that do not point back are not accepted");
            chain.push_front(previous);
        }
        Ok(Ok(chain.into()))
    }

    /// The low-water mark: what the last good batch names.
    fn oldest_needed(&mut self, last: u64) -> Result<u64, WalError> {
        let opening = self.opening(last)?;
        let mut oldest = opening.header.oldest;
        walk(&mut self.reader(last), &opening, None, |batch| {
            oldest = batch.header.oldest;
            Ok(())
        })?;
        Ok(oldest.min(last))
    }

    fn replay_segment(
        &mut self,
        number: u64,
        limit: Option<PreviousEnd>,
    ) -> Result<WalkEnd, WalError> {
        let opening = self.opening(number)?;
        let info = self.files[&number];
        if let Err(detail) = self.replay.open(&opening, info.len) {
            let fault = Some(Fault { at: 0, detail });
            let sequence = opening.header.base_sequence;
            return Ok(WalkEnd { offset: opening.first_batch, sequence, fault });
        }
        let replay = &mut self.replay;
        let mut reader = SegmentReader::new(self.disk, info);
        let walked = walk(&mut reader, &opening, limit, |batch| replay.batch(batch))?;
        self.highest_sequence = self.highest_sequence.max(walked.sequence - 1);
        Ok(walked)
    }

    /// Decides whether the log simply ends at `end`, or goes on behind damage.
    fn judge_tail(&mut self, end: Option<(u64, WalkEnd)>) -> Result<Option<Corruption>, WalError> {
        let last = end.as_ref().map_or(0, |(number, _)| *number);
        let next_sequence = end.as_ref().map_or(1, |(_, walk)| walk.sequence);
        let mut proof = 0;
        if let Some((number, walk)) = &end {
            let mut reader = SegmentReader::new(self.disk, self.files[number]);
            let evidence = Evidence::gather(&mut reader, *number, walk.offset)?;
            self.highest_sequence = self.highest_sequence.max(evidence.highest_sequence);
            proof = evidence.synced;
        }
        let unopened: Vec<u64> = self.files.range(last + 1..).map(|(&number, _)| number).collect();
        for &number in &unopened {
            let evidence = Evidence::gather(&mut self.reader(number), number, 0)?;
            self.highest_sequence = self.highest_sequence.max(evidence.highest_sequence);
            if evidence.opened {
                let detail = "its header is not what was written there".into();
                let fault = Fault { at: 0, detail };
                let offset = end.as_ref().map_or(0, |(_, walk)| walk.offset);
                let walk = WalkEnd { offset, sequence: next_sequence, fault: None };
                let mut segments: Vec<u64> = end.iter().map(|(number, _)| *number).collect();
                segments.extend(&unopened);
                return Ok(Some(corruption_at(number, fault, &walk, segments)));
            }
            proof = proof.max(evidence.synced);
        }
        let Some((number, walk)) = end.filter(|_| proof >= next_sequence) else { return Ok(None) };
        let fault = walk
            .fault
            .clone()
            .unwrap_or(Fault { at: walk.offset, detail: "there should be a batch".into() });
        let segments = std::iter::once(number).chain(unopened).collect();
        Ok(Some(corruption_at(number, fault, &walk, segments)))
    }

    /// After damage only states and bounds count. They are taken from whatever can still be read,
    /// provided that none can have been written to what cannot.
    fn salvage(&mut self, corruption: &Corruption) -> Result<(), WalError> {
        let mut expected = corruption.sequence;
        let mut uncertain = false;
        let mut offset = corruption.offset;
        for &number in &corruption.segments {
            if offset.is_none() && self.headers.contains_key(&number) {
                let opening = self.opening(number)?;
                self.salvage_records(&opening.bytes, &opening.records, corruption)?;
                // It repeats every state written before.
                uncertain = false;
                expected = opening.header.base_sequence;
                offset = Some(opening.first_batch);
            }
            let mut at = offset.take().unwrap_or(0);
            while let Some((found_at, header)) = self.reader(number).next_header(at)? {
                at = found_at + BLOCK;
                self.highest_sequence = self.highest_sequence.max(header.sequence);
                let at_home = header.incarnation == number && header.offset == found_at;
                if !at_home || header.sequence < expected {
                    continue;
                }
                uncertain |= header.state_sequence >= expected;
                if let Ok(batch) = self.reader(number).batch(found_at)? {
                    self.salvage_records(&batch.bytes, &batch.records, corruption)?;
                    expected = header.sequence + 1;
                    at = found_at + round_up_to_block(header.len());
                }
            }
        }
        if uncertain {
            let Corruption { damage, detail, .. } = corruption;
            return Err(WalError::StateLost { damage: damage.clone(), detail: detail.clone() });
        }
        Ok(())
    }

    fn salvage_records(
        &mut self,
        bytes: &Bytes,
        records: &[FoundRecord],
        corruption: &Corruption,
    ) -> Result<(), WalError> {
        let salvaged = self.replay.bounds_and_states(bytes, records);
        salvaged.map_err(|detail| WalError::StateLost { damage: corruption.damage.clone(), detail })
    }

    /// Opens the segment that the log goes on in, and hands over.
    fn go_on(mut self, number: u64) -> Result<(Wal, Recovered), WalError> {
        let replay = &mut self.replay;
        let base_sequence = self.highest_sequence.max(replay.last_sequence) + 1;
        let kept = replay.segmented.len() > 0;
        let previous = kept.then(|| {
            let (segment, end) = replay.segmented.current();
            PreviousEnd { segment, end, sequence: replay.last_sequence }
        });
        // Segments before the first one read are gone, even if the mark read last is older.
        let oldest = if kept { replay.oldest.max(replay.low_water.oldest()) } else { number };
        let header = SegmentHeader {
            incarnation: number,
            base_sequence,
            previous,
            oldest,
            damage: replay.damage.clone(),
            state_sequence: replay.state_sequence,
        };
        let mut data =
            encode_opening(&header, &replay.states, &replay.low_water, replay.groups.keys());
        let first_batch = data.len() as u64;
        data.extend_from_slice(&first_batch_of(&header, first_batch, replay.last_sequence));
        data.resize(data.len().next_multiple_of(DiskOp::BLOCK), 0);

        let marks = (BATCH_HEADER_BYTES + replay.groups.len() * RECORD_HEADER_BYTES) as u64;
        let needed = data.len() as u64 + BLOCK + round_up_to_block(marks);
        let len = needed.max(self.config.segment_bytes);
        replay.low_water.open(number);
        replay.segmented.open(number, len, base_sequence, first_batch);
        replay.segmented.push_batch(base_sequence, BATCH_HEADER_BYTES as u64);
        replay.low_water.advance(oldest);

        self.allocate(FileId(number), len)?;
        let file = FileId(number);
        self.disk.run(DiskOp::WriteSync { file, offset: 0, data: Bytes::from(data) })?;
        self.remove_leftovers()?;
        Ok(self.hand_over(number, base_sequence, oldest))
    }

    /// Files that hold nothing needed: all but the kept segments.
    fn leftovers(&self) -> Vec<FileInfo> {
        let kept = |number: &u64| self.replay.segmented.holds(*number);
        self.files.iter().filter(|(number, _)| !kept(number)).map(|(_, &info)| info).collect()
    }

    fn allocate(&mut self, file: FileId, len: u64) -> Result<(), WalError> {
        let recycled = self.leftovers().into_iter().find(|info| info.len == len);
        let recycled = recycled.map(|info| info.file);
        self.disk.run(DiskOp::Allocate { file, len, recycled })?;
        if let Some(file) = recycled {
            self.files.remove(&file.0);
        }
        Ok(())
    }

    fn remove_leftovers(&mut self) -> Result<(), WalError> {
        for info in self.leftovers() {
            if let Some(remove) = self.replay.segmented.give_back(info.file, info.len) {
                self.disk.run(remove)?;
            }
        }
        Ok(())
    }

    fn hand_over(mut self, number: u64, base_sequence: u64, oldest: u64) -> (Wal, Recovered) {
        let recovered = Recovered {
            incarnation: number,
            groups: self.replay.recovered_groups(),
            damage: self.replay.damage.clone(),
        };
        let replay = self.replay;
        let wal = Wal {
            config: self.config,
            groups: replay.groups,
            states: replay.states,
            low_water: replay.low_water,
            segmented: replay.segmented,
            damage: replay.damage,
            next_sequence: base_sequence + 1,
            synced: base_sequence,
            durable_oldest: oldest,
            state_sequence: replay.state_sequence,
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            operations: BTreeMap::new(),
            next_operation: 0,
            next_append: 0,
            failed: None,
        };
        (wal, recovered)
    }
}

/// An empty batch: by naming what was synced before it, the next one proves that this segment's
/// header had been synced.
fn first_batch_of(header: &SegmentHeader, offset: u64, synced: u64) -> Vec<u8> {
    QueuedBatch::new(header.base_sequence).seal(BatchHeader {
        incarnation: header.incarnation,
        offset,
        base_sequence: header.base_sequence,
        sequence: header.base_sequence,
        synced,
        oldest: header.oldest,
        state_sequence: header.state_sequence,
        body_len: 0,
        records: 0,
    })
}

fn corruption_at(number: u64, fault: Fault, walk: &WalkEnd, segments: Vec<u64>) -> Corruption {
    Corruption {
        damage: Damage { file: FileId(number), offset: fault.at },
        detail: fault.detail,
        segments,
        offset: Some(walk.offset),
        sequence: walk.sequence,
    }
}

/// Goes through the batches of a segment in order, up to `limit` or the first that is not good.
fn walk(
    reader: &mut SegmentReader<'_>,
    opening: &Opening,
    limit: Option<PreviousEnd>,
    mut visit: impl FnMut(&FoundBatch) -> Result<(), String>,
) -> Result<WalkEnd, WalError> {
    let mut offset = opening.first_batch;
    let mut sequence = opening.header.base_sequence;
    loop {
        let ended = limit.filter(|limit| offset >= limit.end);
        if let Some(limit) = ended
            && offset == limit.end
            && (sequence == opening.header.base_sequence || sequence - 1 == limit.sequence)
        {
            return Ok(WalkEnd { offset, sequence, fault: None });
        }
        let (at, detail) = match reader.batch(offset)? {
            _ if ended.is_some() => (offset, "the next segment names another end".to_owned()),
            Ok(batch) if batch.header.sequence == sequence => match visit(&batch) {
                Ok(()) => {
                    offset += round_up_to_block(batch.header.len());
                    sequence += 1;
                    continue;
                }
                Err(detail) => (offset, detail),
            },
            Ok(batch) => {
                let found = batch.header.sequence;
                (offset, format!("batch {found} stands where batch {sequence} belongs"))
            }
            Err(NoBatch::Header) => (offset, format!("batch {sequence} is not there")),
            Err(NoBatch::Records { at, .. }) => {
                (at, format!("a record of batch {sequence} is bad"))
            }
        };
        return Ok(WalkEnd { offset, sequence, fault: Some(Fault { at, detail }) });
    }
}

/// What the heads of batches behind the end of the good ones tell. Leftovers of recycled segments
/// are among them; they only name what was synced long before. A write that went to the wrong
/// place counts too: what it names as synced was synced.
#[derive(Default)]
struct Evidence {
    /// Highest batch named as synced.
    synced: u64,
    /// Whether a batch of this very segment names the one that was written with its header.
    opened: bool,
    highest_sequence: u64,
}

impl Evidence {
    fn gather(
        reader: &mut SegmentReader<'_>,
        number: u64,
        from: u64,
    ) -> Result<Evidence, WalError> {
        let mut evidence = Evidence::default();
        let mut offset = from;
        while let Some((at, header)) = reader.next_header(offset)? {
            offset = at + BLOCK;
            let at_home = header.incarnation == number && header.offset == at;
            evidence.opened |= at_home && header.synced >= header.base_sequence;
            evidence.synced = evidence.synced.max(header.synced);
            evidence.highest_sequence = evidence.highest_sequence.max(header.sequence);
        }
        Ok(evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DiskError, DiskToken, Record};

    /// A directory with one file, which nobody may write to.
    struct OneFile(u64, Bytes);

    impl Disk for OneFile {
        fn submit(&mut self, _: DiskToken, op: DiskOp) {
            panic!("recovery does not submit {op:?}");
        }

        fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
            Ok(vec![FileInfo { file: FileId(self.0), len: self.1.len() as u64 }])
        }

        fn run(&mut self, op: DiskOp) -> Result<Bytes, DiskError> {
            let DiskOp::Read { offset, len, .. } = op else {
                return Err(DiskError::Failed(format!("a log with a hole is written to: {op:?}")));
            };
            let at = |offset: u64| usize::try_from(offset).expect("it fits memory");
            Ok(self.1.slice(at(offset)..at(offset + len)))
        }
    }

    #[test]
    fn entries_that_are_gone_and_were_never_released_are_corruption() {
        let header = SegmentHeader {
            incarnation: 4,
            base_sequence: 9,
            previous: Some(PreviousEnd { segment: 3, end: 8192, sequence: 8 }),
            oldest: 4,
            damage: None,
            state_sequence: 0,
        };
        let mut bytes = header.encode(&[], 0);
        let mut batch = QueuedBatch::new(9);
        let position = LogPosition::new(Term(1), 7);
        let entry = EntryRecord { position, kind: 0, payload: Bytes::new() };
        batch.push(&Record::Entry { group: GroupId(1), entry });
        let offset = bytes.len() as u64;
        bytes.extend(batch.seal(BatchHeader {
            incarnation: 4,
            offset,
            base_sequence: 9,
            sequence: 9,
            synced: 8,
            oldest: 4,
            state_sequence: 0,
            body_len: 0,
            records: 0,
        }));
        bytes.resize(4 * DiskOp::BLOCK, 0);

        let mut disk = OneFile(4, bytes.into());
        let error = Wal::recover(WalConfig::default(), &mut disk).expect_err("1 to 6 are lost");
        let damage = Damage { file: FileId(4), offset: 0 };
        let detail = "the log of g1 begins with entry 7, those before are lost".into();
        assert_eq!(error, WalError::Corrupt { damage, detail });
    }
}
