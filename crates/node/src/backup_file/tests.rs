//! Backups that are whole, bent, cut off and written by somebody else.

use super::*;
use store::command::{Command, Envelope, Put, SessionId};
use store::{Content, MemEngine, StateMachine, ToApply};

const CLUSTER: u64 = 0xc1;
const MEMBER: NodeId = NodeId(0xa1);

/// An engine whose keyspace holds so many keys, changed once each.
fn engine(keys: usize, value: &'static [u8]) -> Arc<dyn Engine> {
    let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
    let (group, kind) = (GroupId::KEYSPACE, MachineKind::Keyspace);
    let machine = StateMachine::open(Arc::clone(&engine), group, kind, StoreLimits::default());
    let mut machine = machine.expect("memory does not fail");
    let session = SessionId { member: MEMBER, incarnation: 1 };
    let puts = (0..keys).map(|number| {
        let (key, value) = (Bytes::from(format!("k{number:05}")), Bytes::from_static(value));
        Command::Put(Put { key, value, ..Put::default() })
    });
    let commands = std::iter::once(Command::OpenSession).chain(puts);
    let entries = commands.zip(0u64..).map(|(command, sequence)| {
        let (answered_below, advisory_time_ms) = (0, 0);
        let caller = None;
        let envelope =
            Envelope { session, sequence, answered_below, advisory_time_ms, caller, command };
        let position = LogPosition::new(Term(1), sequence + 1);
        ToApply { position, content: Content::Command(envelope.encode()) }
    });
    machine.apply(entries.collect()).expect("memory does not fail");
    engine
}

/// A backup about to be read.
fn measured(engine: &Arc<dyn Engine>) -> BackupWriter {
    let mut writer = BackupWriter::open(engine, CLUSTER, MEMBER).expect("memory does not fail");
    while writer.measure().expect("memory does not fail") {}
    writer
}

fn backup(engine: &Arc<dyn Engine>) -> Vec<u8> {
    let mut writer = measured(engine);
    let mut file = Vec::new();
    while let Some(part) = writer.next_part().expect("memory does not fail") {
        file.extend_from_slice(&part);
        assert_eq!(writer.remaining(), writer.description().bytes - file.len() as u64);
    }
    assert_eq!(writer.remaining(), 0);
    file
}

struct Scratch {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Scratch {
    fn new() -> Scratch {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("backup");
        Scratch { _directory: directory, path }
    }

    fn check(&self, bytes: &[u8]) -> Result<BackupFile, String> {
        std::fs::write(&self.path, bytes).expect("write");
        let checked = BackupFile::check(&self.path);
        if let Err(sentence) = &checked {
            assert!(!sentence.contains('\n'), "{sentence}");
            assert!(sentence.contains("backup"), "it names the file: {sentence}");
        }
        checked
    }
}

/// The file with its digest made right again.
fn resealed(mut file: Vec<u8>) -> Vec<u8> {
    let end = file.len() - DIGEST;
    let digest = Sha256::digest(&file[..end]);
    file[end..].copy_from_slice(&digest);
    file
}

#[test]
fn a_backup_says_what_it_holds_and_has_the_form_that_clients_want() {
    let engine = engine(3000, &[7; 300]);
    let file = backup(&engine);
    assert_eq!(file.len() as u64 % BLOCK, DIGEST as u64);
    let scratch = Scratch::new();
    let checked = scratch.check(&file).expect("it is sound");
    let description = checked.description();
    assert_eq!((description.cluster, description.member), (CLUSTER, MEMBER));
    assert_eq!(description.bytes, file.len() as u64);
    assert!(description.chunks > 2, "several chunks");
    let reader = store::Reader::open(&engine, GroupId::KEYSPACE).expect("readable");
    let hash = reader.hash_kv(0).expect("memory does not fail").expect("of now");
    assert_eq!(checked.summary().keys, 3000);
    assert_eq!(checked.summary().revision, 3001);
    assert_eq!(checked.summary().hash, hash.hash);
}

#[test]
fn two_backups_in_quick_succession_are_the_same_bytes_and_do_not_disturb_each_other() {
    let engine = engine(50, b"value");
    let mut first = measured(&engine);
    let begun = first.next_part().expect("memory does not fail").expect("a first part");
    let second = backup(&engine);
    let mut file = begun.to_vec();
    while let Some(part) = first.next_part().expect("memory does not fail") {
        file.extend_from_slice(&part);
    }
    assert_eq!(file, second);
}

#[test]
fn every_flipped_bit_of_a_backup_is_found() {
    let file = backup(&engine(5, b"value"));
    let scratch = Scratch::new();
    for at in 0..file.len() {
        let mut bent = file.clone();
        bent[at] ^= 1 << (at % 8);
        scratch.check(&bent).expect_err("bent");
    }
}

#[test]
fn every_flipped_byte_is_found_by_what_stands_around_it_too() {
    let file = backup(&engine(5, b"value"));
    let scratch = Scratch::new();
    for at in 0..file.len() - DIGEST {
        let mut bent = file.clone();
        bent[at] ^= 0x41;
        scratch.check(&resealed(bent)).expect_err("bent, under a digest that is right");
    }
}

#[test]
fn a_file_that_was_cut_off_or_goes_on_is_refused() {
    let file = backup(&engine(5, b"value"));
    let scratch = Scratch::new();
    for length in 0..file.len() {
        scratch.check(&file[..length]).expect_err("cut off");
    }
    for more in [1, 480, 512, 4096] {
        let mut longer = file.clone();
        longer.extend(std::iter::repeat_n(0, more));
        scratch.check(&longer).expect_err("it goes on");
    }
    let mut longer = file[..file.len() - DIGEST].to_vec();
    longer.extend(std::iter::repeat_n(0, 512 + DIGEST));
    scratch.check(&resealed(longer)).expect_err("another block, under a digest that is right");
}

#[test]
fn what_is_wrong_is_said_in_plain_words() {
    let file = backup(&engine(5, b"value"));
    let scratch = Scratch::new();
    let mut newer = file.clone();
    newer[9] = 2;
    let sentence = scratch.check(&newer).expect_err("unknown");
    assert!(sentence.contains("format 2, and this version of quorate knows only 1"), "{sentence}");
    let sentence = scratch.check(&[0; 1024 + DIGEST]).expect_err("of somebody else");
    assert!(sentence.contains("is not one that quorate wrote"), "{sentence}");
    let sentence = scratch.check(&file[..file.len() - 512]).expect_err("cut off");
    assert!(sentence.contains("SHA-256"), "{sentence}");
    let missing = BackupFile::check(Path::new("/nonexistent/backup")).expect_err("missing");
    assert!(missing.contains("cannot read /nonexistent/backup"), "{missing}");
}

#[test]
fn golden_description_of_version_1() {
    let description = BackupDescription {
        cluster: CLUSTER,
        member: MEMBER,
        feature_level: 2,
        position: LogPosition::new(Term(3), 9),
        chunks: 4,
        bytes: 1056,
        members: vec![("n1".into(), "10.0.0.1:2380".into())],
    };
    let hex: String = description.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = include_str!("../../tests/golden/backup_description_v1.txt");
    assert_eq!(hex, golden.trim_end());
}
