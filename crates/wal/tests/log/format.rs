//! The format on disk: one golden dump per version, which is read for ever.
//!
//! After a deliberate change of the format raise its version, keep the old dump, and write the new
//! one with `UPDATE_GOLDENFILES=1`.

use crate::model_disk::ModelDisk;
use crate::recorded_run::{entry, state};
use clocks::{GroupId, LogPosition, Term};
use std::fmt::Write as _;
use std::path::PathBuf;
use wal::{Damage, FileId, GroupState, Record, Recovered, Run, Wal, WalConfig, WalError};

const ROW: usize = 16;

fn config() -> WalConfig {
    WalConfig {
        segment_bytes: 4 * 4096,
        max_batch_bytes: 4096,
        recycled_segments: 0,
        writes_in_flight: 1,
        recovered_tail_bytes: usize::MAX,
    }
}

fn golden_path(version: u32) -> PathBuf {
    let name = format!("version_{version}.hex");
    [env!("CARGO_MANIFEST_DIR"), "testdata", &name].iter().collect()
}

/// A log with every kind of record and header: what a run left, and what went on after damage.
fn written_now() -> ModelDisk {
    let mut disk = ModelDisk::default();
    let (mut wal, _) = Wal::recover(config(), &mut disk).expect("an empty directory");
    let batches = [
        vec![state(0, "state of group 0"), entry(0, 1, 1, 40), entry(0, 2, 1, 40)],
        vec![entry(1, 1, 1, 50), entry(1, 2, 1, 50), entry(1, 2, 2, 50), entry(1, 3, 2, 50)],
        vec![state(1, "state of group 1"), reset(0, 10)],
        vec![entry(0, 11, 3, 60), entry(1, 4, 3, 60), reset(2, 7)],
        vec![entry(0, 12, 3, 60), entry(1, 5, 3, 60)],
        vec![entry(1, 6, 3, 60)],
    ];
    for batch in batches {
        wal.append(batch);
        wal.flush(&mut disk);
        disk.settle(&mut wal).expect("the disk works");
    }
    wal.release(GroupId(1), 4, &mut disk);
    disk.settle(&mut wal).expect("the disk works");

    lose_block_with(&mut disk, b"entry 5 of group 1 in term 3");
    let (mut wal, found) = Wal::recover_damaged(config(), &mut disk).expect("states survived");
    assert!(found.damage.is_some());
    wal.append(vec![entry(1, 5, 4, 60)]);
    wal.clear_damage();
    wal.flush(&mut disk);
    disk.settle(&mut wal).expect("the disk works");
    disk
}

fn reset(group: u32, start: u64) -> Record {
    Record::Reset { group: GroupId(group), start }
}

fn lose_block_with(disk: &mut ModelDisk, words: &[u8]) {
    let find = |bytes: &Vec<u8>| bytes.windows(words.len()).position(|window| window == words);
    let found = disk.files.values_mut().find_map(|bytes| find(bytes).map(|at| (bytes, at)));
    let (bytes, at) = found.expect("it was written");
    bytes[at - at % 4096..][..4096].fill(0);
}

fn dump(disk: &ModelDisk) -> String {
    let mut dump = String::new();
    for (file, bytes) in &disk.files {
        writeln!(dump, "file {file} {}", bytes.len()).expect("strings take everything");
        for (row, chunk) in bytes.chunks(ROW).enumerate() {
            if chunk.iter().all(|&byte| byte == 0) {
                continue;
            }
            let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            let shown = |&byte: &u8| if byte.is_ascii_graphic() { byte as char } else { '.' };
            let text: String = chunk.iter().map(shown).collect();
            writeln!(dump, "{:08x}  {}  {text}", row * ROW, hex.join(" ")).expect("as above");
        }
    }
    dump
}

fn undump(dump: &str) -> ModelDisk {
    let mut disk = ModelDisk::default();
    let mut current = 0;
    for line in dump.lines() {
        if let Some(words) = line.strip_prefix("file ") {
            let (file, len) = words.split_once(' ').expect("number and length");
            current = file.parse().expect("a number");
            disk.files.insert(current, vec![0; len.parse().expect("a length")]);
            continue;
        }
        let offset = usize::from_str_radix(&line[0..8], 16).expect("an offset");
        let row = line[10..10 + 3 * ROW].split_whitespace();
        let bytes = row.map(|byte| u8::from_str_radix(byte, 16).expect("a byte"));
        let file = disk.files.get_mut(&current).expect("named above");
        for (target, byte) in file[offset..].iter_mut().zip(bytes) {
            *target = byte;
        }
    }
    disk
}

fn golden(version: u32) -> ModelDisk {
    let path = golden_path(version);
    undump(&std::fs::read_to_string(&path).expect("the golden dump is committed"))
}

fn check_version_1(found: &Recovered) {
    let core = &found.groups[&GroupId(0)];
    assert_eq!(core.state, Some(GroupState("state of group 0".into())));
    assert_eq!((core.start, core.last), (10, Some(LogPosition::new(Term(3), 11))));
    let keys = &found.groups[&GroupId(1)];
    assert_eq!(keys.state, Some(GroupState("state of group 1".into())));
    assert_eq!((keys.start, keys.last), (3, Some(LogPosition::new(Term(4), 5))));
    let run = |first, term| Run { first, term: Term(term), kind: 1 };
    assert_eq!(keys.runs, [run(4, 3), run(5, 4)]);
    let records =
        keys.tail.iter().map(|entry| Record::Entry { group: GroupId(1), entry: entry.clone() });
    let installed = &found.groups[&GroupId(2)];
    assert_eq!((installed.start, installed.last), (7, None));
    assert!(records.eq([entry(1, 4, 3, 60), entry(1, 5, 4, 60)]));
}

#[test]
fn what_is_written_now_is_the_newest_golden_dump() {
    let now = dump(&written_now());
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(golden_path(1), &now).expect("the directory exists");
    }
    let golden = std::fs::read_to_string(golden_path(1)).expect("the golden dump is committed");
    assert!(now == golden, "the format has changed; see this file's documentation");
}

#[test]
fn version_1_is_read_for_ever() {
    let (_, found) = Wal::recover(config(), &mut golden(1)).expect("version 1 is known");
    assert_eq!(found.damage, None);
    check_version_1(&found);
}

#[test]
fn an_unknown_version_is_refused_in_a_plain_sentence() {
    let mut disk = golden(1);
    let (&file, bytes) = disk.files.first_key_value().expect("there are files");
    let mut bytes = bytes.clone();
    bytes[8..12].copy_from_slice(&7u32.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..512]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    disk.files.insert(file, bytes);
    let error = Wal::recover(config(), &mut disk.clone()).expect_err("version 7 is unknown");
    assert_eq!(error, WalError::UnknownVersion { file: FileId(file), version: 7 });
    assert_eq!(
        error.to_string(),
        format!(
            "log file {file} has format version 7, and this release knows only version 1; start \
             the release that wrote it, or a newer one"
        )
    );
    assert!(Wal::recover_damaged(config(), &mut disk).is_err(), "nor taken for damage");
}

#[test]
fn errors_are_plain_sentences() {
    let damage = Damage { file: FileId(3), offset: 8192 };
    let corrupt =
        WalError::Corrupt { damage: damage.clone(), detail: "batch 9 is not there".into() };
    assert_eq!(corrupt.to_string(), "log file 3 is corrupt at byte 8192: batch 9 is not there");
    let lost = WalError::StateLost { damage, detail: "batch 9 is not there".into() };
    assert!(lost.to_string().ends_with("so this member must be replaced"));
}
