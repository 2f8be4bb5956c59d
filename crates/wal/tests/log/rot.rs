//! Disks that lie at rest: flipped bits, lost and misdirected writes, missing files. Whatever
//! happens, the log is never silently wrong: it is whole, or lacks nothing but the last write, or
//! says which file is corrupt and where.

use crate::model_disk::ModelDisk;
use crate::naive_model::NaiveLog;
use crate::recorded_run::{RecordedRun, config, entry};
use clocks::GroupId;
use proptest::prelude::*;
use std::collections::BTreeSet;
use wal::{Damage, DiskOp, FileId, Record, Recovered, Wal, WalError};

/// Records of the run's last batch, of which rot cannot be told from a torn write.
const LAST_BATCH_RECORDS: usize = 2;

fn recorded() -> RecordedRun {
    let mut run = RecordedRun::new();
    run.play(|_| {});
    run
}

fn writes(disk: &ModelDisk) -> Vec<(usize, FileId, u64, usize)> {
    let write = |(nth, op): (usize, &DiskOp)| match op {
        DiskOp::WriteSync { file, offset, data } => Some((nth, *file, *offset, data.len())),
        _ => None,
    };
    disk.history.iter().enumerate().filter_map(write).collect()
}

/// What the log held before the damage, with the states and bounds of all that came after.
fn check_survivors(naive: &NaiveLog, found: &Recovered) {
    for (name, group) in &found.groups {
        assert_eq!(group.state, naive.now[name].state, "{name}: a vote was forgotten");
        assert!(group.start <= naive.released[name]);
        let mut histories = BTreeSet::new();
        let mut prefix = NaiveLog::default();
        for record in &naive.records {
            prefix.append(record.clone());
            let Some(naive) = prefix.now.get(name) else { continue };
            let held = naive.entries.range(group.start + 1..).map(|(_, entry)| entry.position);
            histories.insert(held.collect::<Vec<_>>());
        }
        let held: Vec<_> = group.tail.iter().map(|entry| entry.position).collect();
        assert!(histories.contains(&held) || held.is_empty(), "{name} never held {held:?}");
    }
}

/// Goes on after damage: the mark stays until it is cleared, and everything else stays for ever.
fn check_damaged_recovery(run: &RecordedRun, mut disk: ModelDisk, damage: &Damage) -> bool {
    let recovered = Wal::recover_damaged(config(), &mut disk);
    let (_, found) = match recovered {
        Err(WalError::StateLost { damage: at, .. }) => {
            assert_eq!(&at, damage);
            return false;
        }
        other => other.expect("what came before the damage can be read"),
    };
    assert_eq!(found.damage.as_ref(), Some(damage));
    check_survivors(&run.naive, &found);

    let (mut wal, again) = Wal::recover(config(), &mut disk).expect("the damage is marked now");
    assert_eq!((&again.groups, &again.damage), (&found.groups, &found.damage));
    wal.append((1..=30).map(|index| entry(9, index, 1, 1000)).collect());
    wal.flush(&mut disk);
    disk.settle(&mut wal).expect("the disk works");
    let (mut wal, again) = Wal::recover(config(), &mut disk).expect("new segments repeat the mark");
    assert_eq!(again.damage, found.damage);
    assert_eq!(again.groups[&GroupId(9)].tail.len(), 30);
    wal.clear_damage();
    wal.flush(&mut disk);
    disk.settle(&mut wal).expect("the disk works");
    assert_eq!(wal.damage(), None);
    let (_, healed) = Wal::recover(config(), &mut disk).expect("it recovers");
    assert_eq!(healed.damage, None);
    true
}

#[test]
fn every_flipped_bit_is_harmless_or_named() {
    let run = recorded();
    let &(_, last_file, last_offset, last_len) = writes(&run.disk).last().expect("there are some");
    let (mut harmless, mut torn, mut named, mut survived, mut refused) = (0, 0, 0, 0, 0);
    for (&file, bytes) in &run.disk.files {
        for (at, &byte) in bytes.iter().enumerate() {
            // Of padding and unwritten space, a sample is enough.
            if byte == 0 && at % 61 != 0 {
                continue;
            }
            let mut disk = run.disk.clone();
            disk.files.get_mut(&file).expect("it exists")[at] ^= 1 << (at % 8);
            match Wal::recover(config(), &mut disk.clone()) {
                Ok((_, found)) => {
                    let all = run.naive.records.len();
                    let last_write = last_offset as usize..last_offset as usize + last_len;
                    let in_last_write = file == last_file.0 && last_write.contains(&at);
                    let least = if in_last_write { all - LAST_BATCH_RECORDS } else { all };
                    let found = run.naive.prefix_from(least, &found);
                    let prefix = found.unwrap_or_else(|why| panic!("file {file} at {at}: {why}"));
                    if prefix == all { harmless += 1 } else { torn += 1 }
                }
                Err(WalError::Corrupt { damage, .. }) => {
                    assert_eq!(damage.file, FileId(file), "byte {at}");
                    let distance = (at as u64).checked_sub(damage.offset);
                    assert!(distance.is_some_and(|distance| distance < 31_000), "byte {at}");
                    named += 1;
                    // The outcome depends on the batch alone; a sample of its bytes is enough.
                    if named % 16 == 0 {
                        match check_damaged_recovery(&run, disk, &damage) {
                            true => survived += 1,
                            false => refused += 1,
                        }
                    }
                }
                Err(other) => panic!("file {file} at {at}: {other}"),
            }
        }
    }
    let counts = [harmless, torn, named, survived, refused];
    assert!(counts.iter().all(|&count| count > 0), "every outcome occurs: {counts:?}");
    assert!(named > 5_000 && survived > refused, "{counts:?}");
}

/// The disk after the operations of `run`, where write `nth` went to `place` instead, or nowhere.
fn with_misdirected(run: &RecordedRun, nth: usize, place: Option<(FileId, u64)>) -> ModelDisk {
    let mut disk = ModelDisk::default();
    for (at, op) in run.disk.history.iter().enumerate() {
        match op {
            DiskOp::WriteSync { data, .. } if at == nth => {
                let Some((file, offset)) = place else { continue };
                let Some(target) = disk.files.get_mut(&file.0) else { continue };
                let from = offset as usize;
                let to = (from + data.len()).min(target.len());
                target[from..to].copy_from_slice(&data[..to - from]);
            }
            op => disk.perform_now(op.clone()),
        }
    }
    disk
}

#[test]
fn every_lost_or_misdirected_write_is_found() {
    let run = recorded();
    let writes = writes(&run.disk);
    let last = writes.last().expect("there are some").0;
    let mut named = 0;
    for &(nth, file, offset, _) in &writes {
        let mut places = vec![None];
        for block in (0..6 * 4096).step_by(4096) {
            let others = (1..=file.0 + 1).map(|other| Some((FileId(other), block)));
            places.extend(others.filter(|&place| place != Some((file, offset))));
        }
        for place in places {
            let mut disk = with_misdirected(&run, nth, place);
            match Wal::recover(config(), &mut disk) {
                Ok((_, found)) => {
                    let all = run.naive.records.len();
                    let least = if nth == last { all - LAST_BATCH_RECORDS } else { all };
                    let found = run.naive.prefix_from(least, &found);
                    assert!(found.is_ok(), "write {nth} of {file:?} at {offset} to {place:?}");
                }
                Err(WalError::Corrupt { .. }) => named += 1,
                Err(other) => panic!("write {nth} to {place:?}: {other}"),
            }
        }
    }
    assert!(named > 100, "{named}");
}

#[test]
fn a_missing_file_is_named() {
    let run = recorded();
    let files: Vec<u64> = run.disk.files.keys().copied().collect();
    let newest = writes(&run.disk).last().expect("there are some").1.0;
    let mut named = 0;
    for file in files {
        let mut disk = run.disk.clone();
        disk.files.remove(&file);
        match Wal::recover(config(), &mut disk.clone()) {
            Ok((_, found)) => {
                // A prepared or recycled one; or (a stated limit) the newest, without a trace.
                let least = if file == newest { 0 } else { run.naive.records.len() };
                assert!(run.naive.prefix_from(least, &found).is_ok());
            }
            Err(WalError::Corrupt { damage, .. }) => {
                assert_eq!(damage, Damage { file: FileId(file), offset: 0 });
                assert!(check_damaged_recovery(&run, disk, &damage));
                named += 1;
            }
            Err(other) => panic!("file {file}: {other}"),
        }
    }
    assert!(named > 0);
}

#[test]
fn what_a_recycled_segment_held_is_never_taken_for_records() {
    let run = recorded();
    let recycles = |op: &DiskOp| matches!(op, DiskOp::Allocate { recycled: Some(_), .. });
    assert!(run.disk.history.iter().any(recycles), "the run recycles");
    // Blocks of every file of the run's whole history, put behind the end of the newest segment.
    let (_, newest, offset, len) = *writes(&run.disk).last().expect("there are some");
    let end = offset as usize + len;
    for op in &run.disk.history {
        let DiskOp::WriteSync { data, .. } = op else { continue };
        let mut disk = run.disk.clone();
        let target = disk.files.get_mut(&newest.0).expect("it exists");
        let to = (end + data.len()).min(target.len());
        target[end..to].copy_from_slice(&data[..to - end]);
        let (_, found) = Wal::recover(config(), &mut disk).expect("leftovers are no damage");
        let prefix = run.naive.prefix_from(run.naive.records.len(), &found);
        assert_eq!(prefix, Ok(run.naive.records.len()));
    }
}

#[test]
fn a_read_of_rotten_bytes_names_them() {
    let mut run = recorded();
    let (group, first) = (GroupId(1), run.wal.first_index(GroupId(1)));
    let (_, file, offset, _) = *writes(&run.disk).last().expect("there are some");
    let found = run.naive.records.iter().rev().find_map(|record| match record {
        Record::Entry { entry, .. } => Some(entry.payload.clone()),
        _ => None,
    });
    let payload = found.expect("the run ends with entries");
    let bytes = run.disk.files.get_mut(&file.0).expect("it exists");
    let at =
        bytes.windows(payload.len()).position(|window| window == payload).expect("it is there");
    bytes[at] ^= 1;
    let last = run.wal.last_index(group);
    assert!(first <= last);
    let answer = run.wal.read(wal::ReadToken(1), group, last, 10, &mut run.disk);
    assert_eq!(answer, None, "the disk is asked");
    let error = run.disk.settle(&mut run.wal).expect_err("the record is rotten");
    let WalError::Corrupt { damage, .. } = &error else { panic!("{error}") };
    assert_eq!((damage.file, damage.offset), (file, at as u64 - 32));
    assert!(damage.offset > offset);
    assert!(error.to_string().starts_with(&format!("log file {} is corrupt at byte", file.0)));
}

proptest! {
    #[test]
    fn no_bytes_panic_and_nothing_is_invented(
        holes in proptest::collection::vec(
            (any::<prop::sample::Index>(), 0..9000usize, any::<u8>()),
            1..6,
        ),
        cut in proptest::option::of((any::<prop::sample::Index>(), 0..30_000usize)),
    ) {
        let run = recorded();
        let mut disk = run.disk.clone();
        let files: Vec<u64> = disk.files.keys().copied().collect();
        for (place, len, value) in holes {
            let bytes = disk.files.get_mut(place.get(&files)).expect("it exists");
            let start = place.index(bytes.len());
            let end = (start + len).min(bytes.len());
            bytes[start..end].iter_mut().for_each(|byte| *byte ^= value);
        }
        if let Some((place, len)) = cut {
            disk.files.get_mut(place.get(&files)).expect("it exists").truncate(len);
        }
        if let Ok((_, found)) = Wal::recover(config(), &mut disk.clone()) {
            let prefix = run.naive.prefix_from(0, &found);
            prop_assert!(prefix.is_ok(), "{}", prefix.unwrap_err());
        }
        if let Ok((_, found)) = Wal::recover_damaged(config(), &mut disk) {
            prop_assert!(found.groups.len() <= 2);
        }
    }
}
