//! One run of a log that goes through everything: several segments, an oversized one, replacement,
//! reset, states, releases with recycling, batches of many records.

use crate::model_disk::ModelDisk;
use crate::naive_model::NaiveLog;
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition, Term};
use std::collections::BTreeMap;
use wal::{AppendToken, EntryRecord, GroupState, Record, Wal, WalConfig, WalEvent};

/// Small segments, so that a short run has many of them.
pub(crate) fn config() -> WalConfig {
    WalConfig {
        segment_bytes: 6 * 4096,
        max_batch_bytes: 6000,
        recycled_segments: 1,
        writes_in_flight: 1,
        recovered_tail_bytes: usize::MAX,
    }
}

/// The run so far.
pub(crate) struct RecordedRun {
    pub(crate) disk: ModelDisk,
    pub(crate) wal: Wal,
    pub(crate) naive: NaiveLog,
    appended: BTreeMap<AppendToken, usize>,
}

/// An entry whose payload says what it is.
pub(crate) fn entry(group: u32, index: LogIndex, term: u64, len: usize) -> Record {
    let mut payload = format!("entry {index} of group {group} in term {term} ").into_bytes();
    payload.resize(len, b'.');
    let payload = Bytes::from(payload);
    let position = LogPosition::new(Term(term), index);
    Record::Entry { group: GroupId(group), entry: EntryRecord { position, kind: 1, payload } }
}

/// A state.
pub(crate) fn state(group: u32, words: &str) -> Record {
    let state = GroupState(Bytes::copy_from_slice(words.as_bytes()));
    Record::State { group: GroupId(group), state }
}

impl RecordedRun {
    /// An empty log.
    pub(crate) fn new() -> RecordedRun {
        let mut disk = ModelDisk::default();
        let (wal, _) = Wal::recover(config(), &mut disk).expect("an empty directory");
        RecordedRun { disk, wal, naive: NaiveLog::default(), appended: BTreeMap::new() }
    }

    /// Goes through all of it; `before` sees the run before every operation of the disk.
    pub(crate) fn play(&mut self, mut before: impl FnMut(&RecordedRun)) {
        for step in steps() {
            let records = step.records.len();
            for record in &step.records {
                self.naive.append(record.clone());
            }
            let token = self.wal.append(step.records);
            self.appended.insert(token, self.naive.records.len());
            for (group, below) in step.releases {
                self.naive.release(GroupId(group), below);
                self.wal.release(GroupId(group), below, &mut self.disk);
            }
            self.wal.flush(&mut self.disk);
            assert!(records > 0, "every step appends");
            while !self.disk.under_way.is_empty() {
                before(self);
                let completion = self.disk.complete(0);
                let events = self.wal.handle_completion(completion, &mut self.disk);
                for event in events.expect("the disk works") {
                    let WalEvent::Durable { through } = event else { panic!("{event:?}") };
                    self.naive.durable = self.appended[&through];
                }
            }
            assert_eq!(self.naive.durable, self.naive.records.len());
        }
        before(self);
    }
}

struct Step {
    records: Vec<Record>,
    releases: Vec<(u32, LogIndex)>,
}

fn steps() -> Vec<Step> {
    let write = |records: Vec<Record>| Step { records, releases: Vec::new() };
    let release =
        |record, releases: &[_]| Step { records: vec![record], releases: releases.into() };
    let several = |group, indexes: std::ops::RangeInclusive<u64>, term, len| -> Vec<Record> {
        indexes.map(|index| entry(group, index, term, len)).collect()
    };
    vec![
        write(vec![state(0, "voted for 1"), entry(0, 1, 1, 40)]),
        write([several(1, 1..=4, 1, 700), several(0, 2..=3, 1, 60)].concat()),
        write(several(1, 5..=9, 1, 900)),
        write(vec![state(1, "voted for 2"), entry(1, 7, 2, 50), entry(1, 8, 2, 50)]),
        write(several(0, 4..=24, 2, 90)),
        write(vec![entry(1, 9, 2, 30_000), entry(1, 10, 2, 20)]),
        release(entry(0, 25, 2, 100), &[(0, 20), (1, 9)]),
        write(several(1, 11..=14, 2, 1000)),
        release(entry(1, 15, 2, 80), &[(1, 13), (0, 25)]),
        write(vec![Record::Reset { group: GroupId(0), start: 100 }, entry(0, 101, 3, 70)]),
        write(several(1, 16..=20, 3, 1100)),
        release(state(0, "voted for 3"), &[(1, 21), (0, 101)]),
        write(several(0, 102..=106, 3, 1300)),
        write(vec![entry(0, 104, 4, 30), entry(1, 21, 4, 30), state(1, "term 4")]),
        write(several(1, 22..=23, 4, 200)),
        write(vec![state(0, "voted for 4"), entry(1, 24, 4, 100)]),
        write(several(1, 25..=26, 4, 300)),
    ]
}
