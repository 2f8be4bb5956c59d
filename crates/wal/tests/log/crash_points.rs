//! Crashes at every byte and every sync boundary of a recorded run: everything acknowledged is
//! there afterwards, nothing is invented, and a second recovery finds the same.

use crate::model_disk::ModelDisk;
use crate::recorded_run::{RecordedRun, config};
use wal::{DiskOp, Wal};

/// Recovers twice; both must find the same prefix of what was appended.
fn check(run: &RecordedRun, mut disk: ModelDisk, what: &dyn Fn() -> String) {
    disk.under_way.clear();
    let recovered = Wal::recover(config(), &mut disk);
    let (_, first) = recovered.unwrap_or_else(|error| panic!("{}: {error}", what()));
    let prefix = run.naive.prefix_of(&first).unwrap_or_else(|why| panic!("{}: {why}", what()));
    let recovered = Wal::recover(config(), &mut disk);
    let (_, second) = recovered.unwrap_or_else(|error| panic!("{}, again: {error}", what()));
    assert!(second.incarnation > first.incarnation);
    let again = run.naive.prefix_of(&second).unwrap_or_else(|why| panic!("{}: {why}", what()));
    assert_eq!(prefix, again, "{}: the end of the log moved", what());
}

/// Crashes in the middle of each write that is about to be performed: after every byte counted
/// from its front, and from its back.
#[test]
fn every_byte_of_every_write() {
    let mut crashes = 0;
    RecordedRun::new().play(|run| {
        check(run, run.disk.clone(), &|| "between operations".into());
        for (_, op) in &run.disk.under_way {
            let DiskOp::WriteSync { file, offset, data } = op else { continue };
            let old = &run.disk.files[&file.0][*offset as usize..][..data.len()];
            let differing = (0..data.len()).filter(|&at| old[at] != data[at]);
            for at in differing {
                let mut front = run.disk.clone();
                let place = *offset as usize;
                let target = front.files.get_mut(&file.0).expect("it exists");
                target[place..=place + at].copy_from_slice(&data[..=at]);
                check(run, front, &|| format!("{file:?} at {offset}, {at} bytes from its front"));

                let mut back = run.disk.clone();
                let target = back.files.get_mut(&file.0).expect("it exists");
                target[place + at..place + data.len()].copy_from_slice(&data[at..]);
                check(run, back, &|| format!("{file:?} at {offset}, from byte {at} to its end"));
                crashes += 2;
            }
        }
    });
    assert!(crashes > 10_000, "{crashes} crashes");
}

/// Of the operations under way together, any subset may have happened.
#[test]
fn every_subset_of_what_is_under_way() {
    RecordedRun::new().play(|run| {
        for subset in 0..1u32 << run.disk.under_way.len() {
            let mut disk = run.disk.clone();
            let mut nth = 0;
            disk.crash_by_operation(|| {
                nth += 1;
                subset >> (nth - 1) & 1 == 1
            });
            check(run, disk, &|| format!("subset {subset:b} of {:?}", run.disk.under_way));
        }
    });
}

/// Recovery itself is cut short after each of its operations, and within its write.
#[test]
fn every_operation_of_recovery() {
    RecordedRun::new().play(|run| {
        let mut whole = run.disk.clone();
        whole.under_way.clear();
        whole.history.clear();
        Wal::recover(config(), &mut whole).expect("it recovers");
        let operations: Vec<DiskOp> =
            whole.history.iter().filter(|op| !matches!(op, DiskOp::Read { .. })).cloned().collect();
        assert!(operations.len() >= 2, "recovery opens a segment");
        let mut disk = run.disk.clone();
        for op in operations {
            check(run, disk.clone(), &|| format!("recovery before {op:?}"));
            if let DiskOp::WriteSync { file, offset, data } = &op {
                assert_eq!(*offset, 0, "recovery writes the head of a segment");
                for kept in (0..data.len()).step_by(64) {
                    let mut torn = disk.clone();
                    let target = torn.files.get_mut(&file.0).expect("just allocated");
                    target[..kept].copy_from_slice(&data[..kept]);
                    check(run, torn, &|| format!("recovery after {kept} bytes of its write"));
                }
            }
            disk.perform_now(op);
        }
        check(run, disk, &|| "recovery at its end".into());
    });
}
