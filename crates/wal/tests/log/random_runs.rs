//! Random runs against the naive model: appends, replacements, resets, releases, reads, operations
//! that complete in any order, and crashes that leave any subset of the sectors in flight.

use crate::model_disk::ModelDisk;
use crate::naive_model::NaiveLog;
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition, Term};
use proptest::prelude::*;
use std::collections::BTreeMap;
use wal::{
    AppendToken, EntryRecord, GroupState, ReadToken, Record, Wal, WalConfig, WalError, WalEvent,
};

const GROUPS: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    Append { group: u32, count: u64, len: usize },
    Replace { group: u32, back: u64 },
    Reset { group: u32, ahead: i64 },
    State { group: u32, len: usize },
    Release { group: u32, share: u64 },
    Flush,
    Complete { nth: usize },
    Read { group: u32, share: u64, max_bytes: usize },
    Capacity { segments: u64 },
    Crash { seed: u64, bias: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let group = || 0..GROUPS;
    let step = prop_oneof![
        8 => (group(), 1..5u64, 0..3000usize)
            .prop_map(|(group, count, len)| Step::Append { group, count, len }),
        1 => (group(), 0..9000usize)
            .prop_map(|(group, len)| Step::Append { group, count: 1, len: len * 5 }),
        2 => (group(), 1..8u64).prop_map(|(group, back)| Step::Replace { group, back }),
        1 => (group(), -3..20i64).prop_map(|(group, ahead)| Step::Reset { group, ahead }),
        2 => (group(), 0..200usize).prop_map(|(group, len)| Step::State { group, len }),
        3 => (group(), 0..=100u64).prop_map(|(group, share)| Step::Release { group, share }),
        8 => Just(Step::Flush),
        12 => (0..6usize).prop_map(|nth| Step::Complete { nth }),
        4 => (group(), 0..=110u64, 0..20_000usize)
            .prop_map(|(group, share, max_bytes)| Step::Read { group, share, max_bytes }),
        1 => (0..12u64).prop_map(|segments| Step::Capacity { segments }),
        1 => (any::<u64>(), any::<u8>()).prop_map(|(seed, bias)| Step::Crash { seed, bias }),
    ];
    proptest::collection::vec(step, 0..300)
}

struct Run {
    config: WalConfig,
    disk: ModelDisk,
    wal: Wal,
    naive: NaiveLog,
    /// How many records of the list each append ends with.
    appended: BTreeMap<AppendToken, usize>,
    reads: BTreeMap<ReadToken, (GroupId, LogIndex, usize)>,
    term: u64,
    incarnation: u64,
}

impl Run {
    fn new(config: WalConfig) -> Run {
        let mut disk = ModelDisk::default();
        let (wal, recovered) = Wal::recover(config.clone(), &mut disk).expect("an empty directory");
        Run {
            config,
            disk,
            wal,
            naive: NaiveLog::default(),
            appended: BTreeMap::new(),
            reads: BTreeMap::new(),
            term: 1,
            incarnation: recovered.incarnation,
        }
    }

    fn append(&mut self, records: Vec<Record>) {
        for record in &records {
            self.naive.append(record.clone());
        }
        let token = self.wal.append(records);
        self.appended.insert(token, self.naive.records.len());
    }

    fn entries(&self, group: GroupId, from: LogIndex, count: u64, len: usize) -> Vec<Record> {
        let entry = |index| EntryRecord {
            position: LogPosition::new(Term(self.term), index),
            kind: (index % 5 / 4) as u8,
            payload: Bytes::from(vec![(index + self.term) as u8; len]),
        };
        let records =
            (from..from + count).map(|index| Record::Entry { group, entry: entry(index) });
        records.collect()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append { group, count, len } => {
                let group = GroupId(group);
                let records = self.entries(group, self.naive.last(group) + 1, count, len);
                self.append(records);
            }
            Step::Replace { group, back } => {
                let group = GroupId(group);
                self.term += 1;
                let last = self.naive.last(group);
                let from = (last + 1).saturating_sub(back).max(self.wal.first_index(group));
                let records = self.entries(group, from, 2, 50);
                self.append(records);
            }
            Step::Reset { group, ahead } => {
                let group = GroupId(group);
                let start = self.naive.last(group).saturating_add_signed(ahead);
                self.append(vec![Record::Reset { group, start }]);
            }
            Step::State { group, len } => {
                let state = GroupState(Bytes::from(vec![self.naive.records.len() as u8; len]));
                self.append(vec![Record::State { group: GroupId(group), state }]);
            }
            Step::Release { group, share } => {
                let group = GroupId(group);
                let (first, last) = (self.wal.first_index(group), self.wal.last_index(group));
                let below = first + (last + 1 - first) * share / 100;
                self.naive.release(group, below);
                self.wal.release(group, below, &mut self.disk);
                assert_eq!(self.wal.first_index(group), below);
            }
            Step::Flush => self.wal.flush(&mut self.disk),
            Step::Complete { nth } => self.complete(nth),
            Step::Read { group, share, max_bytes } => self.read(GroupId(group), share, max_bytes),
            Step::Capacity { segments } => {
                let room = segments * self.config.segment_bytes;
                self.disk.capacity = (segments < 10).then(|| self.disk.used() + room);
                self.wal.retry_full(&mut self.disk);
            }
            Step::Crash { seed, bias } => self.crash(seed, bias),
        }
    }

    fn complete(&mut self, nth: usize) {
        let Some(nth) = nth.checked_rem(self.disk.under_way.len()) else { return };
        let completion = self.disk.complete(nth);
        let events = self.wal.handle_completion(completion, &mut self.disk).expect("no faults");
        for event in events {
            match event {
                WalEvent::Durable { through } => {
                    let durable = self.appended[&through];
                    assert!(durable >= self.naive.durable, "durability went back");
                    self.naive.durable = durable;
                }
                WalEvent::Read { token, entries } => {
                    let (group, from, max_bytes) = self.reads.remove(&token).expect("asked for");
                    self.check_read(group, from, max_bytes, &entries);
                }
                WalEvent::Full => assert!(self.disk.capacity.is_some(), "there is space"),
            }
        }
    }

    fn read(&mut self, group: GroupId, share: u64, max_bytes: usize) {
        let (first, last) = (self.wal.first_index(group), self.wal.last_index(group));
        let from = first + (last + 1 - first) * share / 100;
        let token = ReadToken(self.wal.segments() as u64 * 1000 + self.reads.len() as u64);
        if self.reads.contains_key(&token) {
            return;
        }
        match self.wal.read(token, group, from, max_bytes, &mut self.disk) {
            Some(entries) => self.check_read(group, from, max_bytes, &entries),
            None => drop(self.reads.insert(token, (group, from, max_bytes))),
        }
    }

    fn check_read(&self, group: GroupId, from: LogIndex, max: usize, entries: &[EntryRecord]) {
        let (first, last) = (self.wal.first_index(group), self.wal.last_index(group));
        assert_eq!(last, self.naive.last(group));
        assert_eq!(entries.is_empty(), from < first || from > last, "{from} of {first}..={last}");
        for (entry, index) in entries.iter().zip(from..) {
            assert_eq!(entry, &self.naive.now[&group].entries[&index]);
        }
        let bytes: usize = entries.iter().map(|entry| entry.payload.len() + 32).sum();
        assert!(entries.len() <= 1 || bytes <= max, "{bytes} bytes of {max}");
    }

    fn crash(&mut self, seed: u64, bias: u8) {
        let mut random = seed | 1;
        self.disk.crash(|| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 32) as u8 >= bias
        });
        self.disk.capacity = None;
        let (wal, recovered) =
            Wal::recover(self.config.clone(), &mut self.disk).expect("a crash corrupts nothing");
        assert!(recovered.incarnation > self.incarnation, "incarnations grow");
        assert_eq!(recovered.damage, None);
        self.incarnation = recovered.incarnation;
        let prefix = self.naive.prefix_of(&recovered).unwrap_or_else(|why| panic!("{why}"));
        self.naive.restart(prefix, &recovered);
        self.wal = wal;
        self.appended.clear();
        self.reads.clear();
    }

    /// Everything appended becomes durable, and what was released is given back.
    fn finish(&mut self) -> Result<(), WalError> {
        self.disk.capacity = None;
        self.wal.retry_full(&mut self.disk);
        while !self.disk.under_way.is_empty() {
            self.complete(0);
        }
        assert!(self.wal.is_idle() && !self.wal.is_full());
        if let Some((_, &records)) = self.appended.last_key_value() {
            assert_eq!(self.naive.durable, records, "everything is durable in the end");
        }
        assert!(self.reads.is_empty(), "every read is answered");
        assert_eq!(self.disk.used(), self.wal.disk_bytes());
        for group in (0..GROUPS).map(GroupId) {
            let below = self.wal.last_index(group) + 1;
            self.wal.release(group, below, &mut self.disk);
            self.naive.release(group, below);
        }
        while !self.disk.under_way.is_empty() {
            self.complete(0);
        }
        assert!(self.wal.segments() <= 2, "{} segments stay", self.wal.segments());
        self.crash(1, 0);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_what_the_naive_model_says(
        steps in steps(),
        blocks in 4..24u64,
        max_batch_bytes in 1..12_000usize,
        recycled_segments in 0..3usize,
        writes_in_flight in 1..4usize,
    ) {
        let mut run = Run::new(WalConfig {
            segment_bytes: blocks * 4096,
            max_batch_bytes,
            recycled_segments,
            writes_in_flight,
            recovered_tail_bytes: usize::MAX,
        });
        for step in &steps {
            run.step(step);
        }
        run.finish().expect("no faults");
    }
}
