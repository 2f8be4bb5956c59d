//! The log's disk on real files: on this machine's disk, and on tmpfs if there is one.

use super::*;
use crate::private_files::mode_of;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const BLOCK: u64 = DiskOp::BLOCK as u64;
const FILE: FileId = FileId(1);

struct Fixture {
    disk: LogDisk,
    completions: Receiver<DiskCompletion>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn disk_in(directory: tempfile::TempDir, form: SyncForm) -> Fixture {
    let path = directory.path().join("log");
    let (sender, completions) = channel();
    let on_completion: OnCompletion = Arc::new(move |completion| {
        // The test may have ended.
        let _ = sender.send(completion);
    });
    let disk = LogDisk::open(&path, form, &Arc::default(), &on_completion).expect("opens");
    Fixture { disk, completions, path, _directory: directory }
}

fn disk(form: SyncForm) -> Fixture {
    disk_in(tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory"), form)
}

impl Fixture {
    fn allocate(&mut self, file: FileId, blocks: u64, recycled: Option<FileId>) {
        let len = blocks * BLOCK;
        self.disk.run(DiskOp::Allocate { file, len, recycled }).expect("allocate");
    }

    fn submit(&mut self, token: u64, op: DiskOp) -> Result<Bytes, DiskError> {
        self.disk.submit(DiskToken(token), op);
        let completion = self.completions.recv_timeout(Duration::from_secs(30));
        let completion = completion.expect("the operation completes");
        assert_eq!(completion.token, DiskToken(token));
        completion.result
    }

    fn on_disk(&self, file: FileId) -> Vec<u8> {
        std::fs::read(self.path.join(format!("{:016x}.log", file.0))).expect("the file")
    }
}

fn write(file: FileId, block: u64, byte: u8, blocks: usize) -> DiskOp {
    let data = Bytes::from(vec![byte; blocks * DiskOp::BLOCK]);
    DiskOp::WriteSync { file, offset: block * BLOCK, data }
}

fn writes_and_reads(mut fixture: Fixture) {
    fixture.allocate(FILE, 16, None);
    fixture.submit(1, write(FILE, 2, 7, 3)).expect("write");
    let read = DiskOp::Read { file: FILE, offset: BLOCK + 10, len: 5 * BLOCK };
    let bytes = fixture.submit(2, read).expect("read");
    let mut expected = vec![0; 5 * DiskOp::BLOCK];
    expected[DiskOp::BLOCK - 10..4 * DiskOp::BLOCK - 10].fill(7);
    assert_eq!(bytes, expected);
    assert_eq!(fixture.disk.list(), Ok(vec![FileInfo { file: FILE, len: 16 * BLOCK }]));
    fixture.submit(3, DiskOp::Remove { file: FILE }).expect("remove");
    assert_eq!(fixture.disk.list(), Ok(vec![]));
}

#[test]
fn writes_and_reads_on_this_disk() {
    writes_and_reads(disk(SyncForm::Real));
}

#[test]
fn writes_and_reads_in_memory() {
    let directory = tempfile::tempdir_in("/dev/shm").expect("Linux has /dev/shm");
    writes_and_reads(disk_in(directory, SyncForm::Real));
}

#[test]
fn the_power_loss_option_changes_nothing_that_is_seen() {
    writes_and_reads(disk(SyncForm::HeldUntilSync));
    writes_and_reads(disk(SyncForm::TakenOut));
}

#[test]
fn a_batch_of_many_blocks_arrives_whole() {
    for form in [SyncForm::Real, SyncForm::HeldUntilSync] {
        let mut fixture = disk(form);
        fixture.allocate(FILE, 2048, None);
        let data: Vec<u8> = (0..1500 * BLOCK).map(|at| (at / 977) as u8).collect();
        let op = DiskOp::WriteSync { file: FILE, offset: BLOCK, data: Bytes::from(data.clone()) };
        fixture.submit(1, op).expect("write");
        let found = fixture.on_disk(FILE);
        assert!(found[DiskOp::BLOCK..][..data.len()] == data[..], "{form:?}");
    }
}

#[test]
fn recycling_takes_over_the_blocks_and_the_length_asked_for() {
    let mut fixture = disk(SyncForm::Real);
    fixture.allocate(FILE, 4, None);
    fixture.submit(1, write(FILE, 0, 9, 4)).expect("write");
    fixture.allocate(FileId(2), 6, Some(FILE));
    let found = fixture.on_disk(FileId(2));
    assert_eq!(found.len() as u64, 6 * BLOCK);
    assert!(found[..4 * DiskOp::BLOCK].iter().all(|byte| *byte == 9), "left over, as promised");
    assert!(found[4 * DiskOp::BLOCK..].iter().all(|byte| *byte == 0));
    fixture.allocate(FileId(3), 2, Some(FileId(2)));
    let files = fixture.disk.list().expect("list");
    assert_eq!(files, [FileInfo { file: FileId(3), len: 2 * BLOCK }]);
}

#[test]
fn an_unfinished_allocation_is_removed_and_strangers_are_left_alone() {
    let mut fixture = disk(SyncForm::Real);
    let unfinished = fixture.path.join("0000000000000007.new");
    let stranger = fixture.path.join("README");
    std::fs::write(&unfinished, "half").expect("write");
    std::fs::write(&stranger, "notes").expect("write");
    assert_eq!(fixture.disk.list(), Ok(vec![]));
    assert!(!unfinished.exists() && stranger.exists());
}

#[test]
fn the_log_is_closed_to_other_users() {
    let mut fixture = disk(SyncForm::Real);
    fixture.allocate(FILE, 2, None);
    assert_eq!(mode_of(&fixture.path), 0o700);
    assert_eq!(mode_of(&fixture.path.join(format!("{:016x}.log", FILE.0))), 0o600);
}

#[test]
fn errors_name_the_file_and_are_final_for_writes() {
    let mut fixture = disk(SyncForm::Real);
    let error = fixture.submit(1, write(FILE, 0, 1, 1)).expect_err("there is no such file");
    let DiskError::Failed(sentence) = &error else { panic!("{error:?}") };
    assert!(sentence.contains("0000000000000001.log"), "{sentence}");
    fixture.allocate(FILE, 2, None);
    assert_eq!(fixture.submit(2, write(FILE, 0, 1, 1)), Err(error), "a failed write is final");

    let beyond = DiskOp::Read { file: FILE, offset: BLOCK, len: u64::MAX };
    let error = fixture.submit(3, beyond).expect_err("nothing is allocated for this");
    assert!(matches!(error, DiskError::Failed(_)));
}

#[test]
fn a_full_disk_is_told_apart() {
    let mut fixture = disk(SyncForm::Real);
    // Sparse: only the kernel knows that it does not fit.
    let limit = DiskOp::Allocate { file: FILE, len: 1 << 62, recycled: None };
    let link = fixture.path.join("0000000000000001.new");
    std::os::unix::fs::symlink("/dev/full", &link).expect("a link to /dev/full");
    assert_eq!(fixture.disk.run(limit), Err(DiskError::Full));
    assert!(std::fs::symlink_metadata(&link).is_err(), "nothing is left of it");
}

#[test]
fn with_the_sync_taken_out_an_acknowledged_write_is_not_in_the_file() {
    let mut fixture = disk(SyncForm::TakenOut);
    fixture.allocate(FILE, 4, None);
    fixture.submit(1, write(FILE, 0, 5, 2)).expect("write");
    assert!(fixture.on_disk(FILE).iter().all(|byte| *byte == 0), "it should be held in memory");
    std::thread::sleep(Duration::from_millis(2500));
    let late = fixture.on_disk(FILE);
    assert!(late[..2 * DiskOp::BLOCK].iter().all(|byte| *byte == 5), "written back late");
}

#[test]
fn with_the_sync_in_place_a_completed_write_is_in_the_file() {
    let mut fixture = disk(SyncForm::HeldUntilSync);
    fixture.allocate(FILE, 8, None);
    for round in 1..=20 {
        fixture.submit(u64::from(round), write(FILE, u64::from(round % 4), round, 3)).expect("ok");
        let at = usize::from(round % 4) * DiskOp::BLOCK;
        let found = fixture.on_disk(FILE);
        assert!(found[at..at + 3 * DiskOp::BLOCK].iter().all(|byte| *byte == round));
    }
}

#[test]
fn an_operation_whose_worker_breaks_fails_instead_of_never_ending() {
    let mut fixture = disk(SyncForm::Real);
    let half_a_block = DiskOp::WriteSync { file: FILE, offset: 0, data: Bytes::from_static(b"x") };
    let error = fixture.submit(1, half_a_block).expect_err("the log writes whole blocks");
    assert!(matches!(error, DiskError::Failed(sentence) if sentence.contains("invariant")));
}
