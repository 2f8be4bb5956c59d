//! The log as its owner uses it, in small steps.

use crate::model_disk::ModelDisk;
use bytes::Bytes;
use clocks::{GroupId, LogPosition, Term};
use wal::{
    AppendToken, DiskError, EntryRecord, GroupState, ReadToken, Record, Wal, WalConfig, WalError,
    WalEvent,
};

const GROUP: GroupId = GroupId(1);

fn config() -> WalConfig {
    WalConfig {
        segment_bytes: 32 << 10,
        max_batch_bytes: 8 << 10,
        recycled_segments: 1,
        writes_in_flight: 1,
        recovered_tail_bytes: 1 << 20,
    }
}

fn entry_of(len: usize, index: u64, term: u64) -> EntryRecord {
    let payload = Bytes::from(vec![index as u8; len]);
    EntryRecord { position: LogPosition::new(Term(term), index), kind: 1, payload }
}

fn append_of(len: usize, index: u64, term: u64) -> Record {
    Record::Entry { group: GROUP, entry: entry_of(len, index, term) }
}

fn append(index: u64, term: u64) -> Record {
    append_of(100, index, term)
}

fn entry(index: u64, term: u64) -> EntryRecord {
    entry_of(100, index, term)
}

fn open(disk: &mut ModelDisk) -> Wal {
    let (mut wal, _) = Wal::recover(config(), disk).expect("it recovers");
    // The next segment is prepared at once, since this one is so small.
    wal.flush(disk);
    disk.settle(&mut wal).expect("the disk works");
    wal
}

fn write(wal: &mut Wal, disk: &mut ModelDisk, records: Vec<Record>) {
    let token = wal.append(records);
    wal.flush(disk);
    let events = disk.settle(wal).expect("the disk works");
    assert!(events.contains(&WalEvent::Durable { through: token }), "{events:?}");
}

/// Reads all of the group, as often as it takes.
fn read_all(wal: &mut Wal, disk: &mut ModelDisk) -> Vec<EntryRecord> {
    let mut entries = Vec::new();
    let mut from = wal.first_index(GROUP);
    while from <= wal.last_index(GROUP) {
        let token = ReadToken(from);
        let read = wal.read(token, GROUP, from, 1000, disk).unwrap_or_else(|| {
            let events = disk.settle(wal).expect("the disk works");
            let read = events.into_iter().find_map(|event| match event {
                WalEvent::Read { token: of, entries } if of == token => Some(entries),
                _ => None,
            });
            read.expect("the read was answered")
        });
        assert!(!read.is_empty(), "at least one entry is returned");
        from += read.len() as u64;
        entries.extend(read);
    }
    entries
}

#[test]
fn an_empty_directory_becomes_an_empty_log() {
    let mut disk = ModelDisk::default();
    let (wal, recovered) = Wal::recover(config(), &mut disk).expect("it recovers");
    assert!(recovered.groups.is_empty() && recovered.damage.is_none());
    assert_eq!((wal.first_index(GROUP), wal.last_index(GROUP), wal.segments()), (1, 0, 1));
    let (_, again) = Wal::recover(config(), &mut disk).expect("it recovers");
    assert!(again.incarnation > recovered.incarnation);
}

#[test]
fn what_is_durable_is_recovered_and_read_back() {
    let mut disk = ModelDisk::default();
    let mut wal = open(&mut disk);
    let state = GroupState(Bytes::from_static(b"vote"));
    write(&mut wal, &mut disk, vec![Record::State { group: GROUP, state: state.clone() }]);
    for index in 1..=200 {
        write(&mut wal, &mut disk, vec![append(index, 1)]);
    }
    let expected: Vec<EntryRecord> = (1..=200).map(|index| entry(index, 1)).collect();
    assert!(wal.segments() > 20, "{} segments", wal.segments());
    assert_eq!(read_all(&mut wal, &mut disk), expected);

    let (mut wal, recovered) = Wal::recover(config(), &mut disk).expect("it recovers");
    let group = &recovered.groups[&GROUP];
    assert_eq!(group.state, Some(state));
    assert_eq!(group.last, Some(LogPosition::new(Term(1), 200)));
    assert_eq!(group.tail, expected);
    assert_eq!(group.runs.len(), 1);
    assert_eq!(read_all(&mut wal, &mut disk), expected);
}

#[test]
fn a_replacement_replaces_everything_after_it() {
    let mut disk = ModelDisk::default();
    let mut wal = open(&mut disk);
    write(&mut wal, &mut disk, (1..=5).map(|index| append(index, 1)).collect());
    write(&mut wal, &mut disk, vec![append(3, 2), append(4, 2), append(4, 3)]);
    let expected = [entry(1, 1), entry(2, 1), entry(3, 2), entry(4, 3)];
    assert_eq!(read_all(&mut wal, &mut disk), expected);
    let (mut wal, recovered) = Wal::recover(config(), &mut disk).expect("it recovers");
    assert_eq!(recovered.groups[&GROUP].tail, expected);
    assert_eq!(read_all(&mut wal, &mut disk), expected);
}

#[test]
fn what_is_queued_or_in_flight_is_read_from_memory() {
    let mut disk = ModelDisk::default();
    let mut wal = open(&mut disk);
    wal.append(vec![append(1, 1)]);
    wal.flush(&mut disk);
    wal.append(vec![append(2, 1), append(3, 1)]);
    let read = wal.read(ReadToken(1), GROUP, 1, usize::MAX, &mut disk);
    assert_eq!(read, Some(vec![entry(1, 1), entry(2, 1), entry(3, 1)]));
    assert_eq!(wal.read(ReadToken(1), GROUP, 4, 1, &mut disk), Some(Vec::new()));
    assert_eq!(wal.read(ReadToken(1), GROUP, 2, 1, &mut disk), Some(vec![entry(2, 1)]));
}

#[test]
fn batches_form_while_a_sync_is_in_flight() {
    let mut disk = ModelDisk::default();
    let mut wal = open(&mut disk);
    for index in 1..=10 {
        wal.append(vec![append(index, 1)]);
        wal.flush(&mut disk);
    }
    let first = disk.complete(0);
    let events = wal.handle_completion(first, &mut disk).expect("the disk works");
    assert_eq!(events, [WalEvent::Durable { through: AppendToken(1) }]);
    let second = disk.complete(0);
    let events = wal.handle_completion(second, &mut disk).expect("the disk works");
    assert_eq!(events, [WalEvent::Durable { through: AppendToken(10) }], "nine went together");
    assert!(wal.is_idle());
}

#[test]
fn an_entry_larger_than_a_segment_gets_a_segment_of_its_own() {
    let mut disk = ModelDisk::default();
    let mut wal = open(&mut disk);
    write(&mut wal, &mut disk, vec![append(1, 1)]);
    write(&mut wal, &mut disk, vec![append_of(100_000, 2, 1)]);
    write(&mut wal, &mut disk, vec![append(3, 1)]);
    let expected = [entry(1, 1), entry_of(100_000, 2, 1), entry(3, 1)];
    assert_eq!(read_all(&mut wal, &mut disk), expected);
    let (_, recovered) = Wal::recover(config(), &mut disk).expect("it recovers");
    assert_eq!(recovered.groups[&GROUP].tail, expected);
}

#[test]
fn a_failed_write_is_final() {
    let mut disk = ModelDisk::default();
    let mut wal = open(&mut disk);
    wal.append(vec![append(1, 1)]);
    wal.flush(&mut disk);
    disk.fail_write = Some(DiskError::Full);
    assert_eq!(disk.under_way.len(), 1);
    let error = disk.settle(&mut wal).expect_err("the write failed");
    assert_eq!(error, WalError::Disk(DiskError::Full));
    wal.append(vec![append(2, 1)]);
    wal.flush(&mut disk);
    assert!(disk.under_way.is_empty(), "nothing is written any more");
}

#[test]
#[should_panic(expected = "a payload exceeds the documented limit")]
fn a_payload_above_the_limit_is_the_owners_bug() {
    let mut disk = ModelDisk::default();
    let mut wal = open(&mut disk);
    let payload = Bytes::from(vec![0; wal::MAX_PAYLOAD_BYTES + 1]);
    let entry = EntryRecord { position: LogPosition::new(Term(1), 1), kind: 0, payload };
    wal.append(vec![Record::Entry { group: GROUP, entry }]);
}

#[test]
fn a_payload_at_the_limit_is_written_and_read_back() {
    let mut disk = ModelDisk::default();
    let mut wal = open(&mut disk);
    write(&mut wal, &mut disk, vec![append_of(wal::MAX_PAYLOAD_BYTES, 1, 1)]);
    let (mut wal, recovered) = Wal::recover(config(), &mut disk).expect("it recovers");
    let group = &recovered.groups[&GROUP];
    assert_eq!(group.last, Some(LogPosition::new(Term(1), 1)));
    assert!(group.tail.is_empty(), "it is above what recovery hands over");
    let read = read_all(&mut wal, &mut disk);
    assert_eq!(read[0].payload.len(), wal::MAX_PAYLOAD_BYTES);
}
