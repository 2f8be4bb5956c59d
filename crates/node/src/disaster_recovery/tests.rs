//! What a restore or a forced new cluster leaves when it is interrupted, cannot be done, or is
//! asked for again.

use super::*;
use crate::backup_file::BackupWriter;
use crate::{Node, Settings};
use bytes::Bytes;
use clocks::{LogPosition, Term};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use store::command::{Command, Envelope, Member, Put, SessionId};
use store::{Content, MemEngine, ToApply};

const OLD: u64 = 0xc1;
const MEMBER: NodeId = NodeId(0xa1);

struct Scratch {
    root: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Scratch {
        Scratch { root: tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory") }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("n0")
    }

    fn config(&self, lines: &str) -> NodeConfig {
        let text = format!(
            "name = 'n0'\ndata-dir = '{}'\netcd = '127.0.0.1:0'\npeer = '127.0.0.1:0'\n\
             admin = '127.0.0.1:0'\nfront-ends = 1\nreserve-mib = 0\ncache-mib = 8\n{lines}",
            self.directory().display()
        );
        Settings::from_toml(&text, "test").expect("sound").resolve().expect("consistent")
    }

    /// Runs a member, which puts these keys, and which is told that the cluster had two founders
    /// once it is down: a lone survivor.
    fn survivor(&self, keys: &[&str]) {
        let node = Node::start(&self.config("")).expect("it starts");
        put(&node, keys);
        await_level(&node);
        node.stop().expect("it stops");
        let mut identity = self.open().identity().expect("a member's").clone();
        let address = "10.0.0.2:2380".to_owned();
        identity.known.push(KnownMember { id: NodeId(0xa2), address, is_founder: true });
        std::fs::write(self.directory().join("identity"), identity.render()).expect("written");
    }

    fn open(&self) -> DataDirectory {
        DataDirectory::open(&self.directory()).expect("a data directory")
    }

    fn force(&self) -> Result<Option<Refounded>, String> {
        force_new_cluster(&mut self.open(), "127.0.0.1:2380")
    }
}

/// The level rises by itself, after the first leader.
fn await_level(node: &Node) {
    let give_up = Instant::now() + Duration::from_secs(30);
    let level = || node.handle().reader(GroupId::CONSISTENT_CORE).map(|core| core.feature_level());
    while level().expect("a store") < FEATURE_LEVEL {
        assert!(Instant::now() < give_up, "the feature level does not rise");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn put(node: &Node, keys: &[&str]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        for key in keys {
            let (key, value) = (Bytes::from((*key).to_owned()), Bytes::from_static(b"value"));
            let put = Put { key, value, ..Put::default() };
            let deadline = Duration::from_secs(30);
            let written = node.handle().write(GroupId::KEYSPACE, Command::Put(put), deadline);
            written.await.expect("a quorum of one takes it");
        }
    });
}

/// Entries of a log that begins with a session.
fn entries(commands: Vec<Command>) -> Vec<ToApply> {
    let session = SessionId { member: MEMBER, incarnation: 1 };
    let commands = std::iter::once(Command::OpenSession).chain(commands);
    let entry = |(sequence, command)| {
        let (answered_below, advisory_time_ms, caller) = (0, 0, None);
        let envelope =
            Envelope { session, sequence, answered_below, advisory_time_ms, caller, command };
        let position = LogPosition::new(Term(1), sequence + 1);
        ToApply { position, content: Content::Command(envelope.encode()) }
    };
    (0..).zip(commands).map(entry).collect()
}

/// A cluster with one key, whose members speak this feature level.
fn cluster(level: u32) -> Arc<dyn Engine> {
    let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
    let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
    let member = Member { id: MEMBER, feature_level: level, ..Member::default() };
    let core = vec![Command::RegisterMember(member), Command::RaiseFeatureLevel { level }];
    let keys = vec![Command::Put(Put { key, value, ..Put::default() })];
    for ((group, kind), commands) in GROUPS.into_iter().zip([keys, core]) {
        let limits = StoreLimits::default();
        let mut machine = StateMachine::open(Arc::clone(&engine), group, kind, limits).unwrap();
        machine.apply(entries(commands)).expect("memory does not fail");
    }
    engine
}

fn write_backup(engine: &Arc<dyn Engine>, file: &Path) {
    let mut writer = BackupWriter::open(engine, OLD, MEMBER).expect("memory does not fail");
    while writer.measure().expect("memory does not fail") {}
    let mut bytes = Vec::new();
    while let Some(part) = writer.next_part().expect("memory does not fail") {
        bytes.extend_from_slice(&part);
    }
    std::fs::write(file, bytes).expect("written");
}

impl Scratch {
    fn restore(&self, level: u32, lines: &str) -> Refounded {
        let file = self.root.path().join("backup");
        write_backup(&cluster(level), &file);
        restore(&file, &self.config(lines), Refounding::default()).expect("it is restored")
    }
}

#[test]
fn an_interrupted_restore_says_so_whatever_it_had_done() {
    let scratch = Scratch::new();
    scratch.restore(1, "");
    assert!(scratch.directory().join("state").exists());
    scratch.open().begin(Unfinished::Restore).expect("as before its last step");
    for step in ["identity", "state", "nothing"] {
        let sentence = Node::start(&scratch.config("")).err().expect("it does not start");
        assert!(sentence.contains("was interrupted: remove that directory"), "{step}: {sentence}");
        let sentence = scratch.force().expect_err("it is no member");
        assert!(sentence.contains("was interrupted: remove that directory"), "{step}: {sentence}");
        // Back to what was there before that step.
        let made = scratch.directory().join(step);
        drop(std::fs::remove_file(&made).or_else(|_| std::fs::remove_dir_all(&made)));
    }
}

#[test]
fn a_log_that_cannot_be_read_leaves_the_directory_as_it_was() {
    let scratch = Scratch::new();
    scratch.survivor(&["a", "b"]);
    let log = scratch.directory().join("log");
    let segments = || std::fs::read_dir(&log).expect("a log").flatten().map(|entry| entry.path());
    let spoilt = segments().filter(|path| path.extension() == Some("log".as_ref()));
    let spoilt: Vec<_> = spoilt.map(|path| (std::fs::read(&path).expect("read"), path)).collect();
    for (sound, path) in &spoilt {
        let mut bent = sound.clone();
        // The first batch: what was synced behind it shows that it is damage.
        bent[4096 + 20] ^= 1;
        std::fs::write(path, bent).expect("written");
    }
    let identity = scratch.open().identity().cloned();
    for _ in 0..2 {
        let sentence = scratch.force().expect_err("the log is damaged");
        assert!(sentence.contains("nothing was changed"), "{sentence}");
        let directory = scratch.open();
        assert_eq!((directory.unfinished(), directory.identity()), (Ok(None), identity.as_ref()));
        directory.check_finished().expect("a start without the flag is let through");
    }
    for (sound, path) in &spoilt {
        std::fs::write(path, sound).expect("written");
    }
    let forced = scratch.force().expect("the log is sound again").expect("there was another");
    assert_eq!(forced.revision, 3);
}

fn level(directory: &Path) -> u32 {
    let engine = LsmEngine::open(&directory.join("state"), EngineLimits::default());
    let engine: Arc<dyn Engine> = Arc::new(engine.expect("it opens"));
    Reader::open(&engine, GroupId::CONSISTENT_CORE).expect("sound").feature_level()
}

#[test]
fn a_restored_cluster_may_write_at_once_what_its_keyspace_holds_already() {
    for of_backup in [1, FEATURE_LEVEL] {
        let scratch = Scratch::new();
        scratch.restore(of_backup, "");
        assert_eq!(level(&scratch.directory()).max(1), of_backup);
        let node = Node::start(&scratch.config("")).expect("it starts");
        put(&node, &["new"]);
        node.stop().expect("it stops");
    }
}

#[test]
fn a_forced_cluster_keeps_the_level_of_the_old_one() {
    let scratch = Scratch::new();
    scratch.survivor(&["a"]);
    let before = level(&scratch.directory());
    assert_eq!(before, FEATURE_LEVEL, "its only member speaks it");
    scratch.force().expect("forced").expect("there was another");
    assert_eq!(level(&scratch.directory()), before);
}

#[test]
fn an_option_that_is_left_in_the_settings_forks_no_cluster_that_has_grown() {
    let grown = |scratch: &Scratch| {
        let mut identity = scratch.open().identity().expect("a member's").clone();
        let address = "10.0.0.3:2380".to_owned();
        identity.known.push(KnownMember { id: NodeId(0xa3), address, is_founder: true });
        std::fs::write(scratch.directory().join("identity"), identity.render()).expect("written");
    };
    let scratch = Scratch::new();
    scratch.survivor(&["a"]);
    let forced = scratch.force().expect("forced").expect("there was another");
    grown(&scratch);
    for _ in 0..2 {
        assert_eq!(scratch.force(), Ok(None));
        assert_eq!(
            scratch.open().identity().map(|identity| identity.cluster),
            Some(forced.cluster)
        );
    }
    // Whoever took it out in between and asks for it again, means it.
    scratch.open().force_is_not_wanted().expect("written");
    let again = scratch.force().expect("forced").expect("there was another");
    assert_ne!(again.cluster, forced.cluster);

    let alone = Scratch::new();
    Node::start(&alone.config("")).expect("it starts").stop().expect("it stops");
    assert_eq!(alone.force(), Ok(None));
    grown(&alone);
    assert_eq!(alone.force(), Ok(None), "it was alone when it was asked for");
}

#[test]
fn restored_members_agree_on_a_secret_of_their_own() {
    let old = TokenSecret([7; 32]);
    let new = token_secret(&old, "digest", 1);
    assert_eq!(new, token_secret(&old, "digest", 1));
    assert!(new != old && new != token_secret(&old, "digest", 2));
    assert!(new != token_secret(&old, "another", 1));
    assert!(new != token_secret(&TokenSecret([8; 32]), "digest", 1));
}
