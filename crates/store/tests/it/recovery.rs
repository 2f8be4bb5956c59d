//! Crashes at every batch of the engine, snapshots whole and damaged, and members that must not be
//! told apart; etcd's storage and read traps by name.

use crate::support::{Group, bytes, envelope, key, put, span};
use crate::versioned_value::command;
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;
use store::command::{Command, SessionId, Txn, TxnOp};
use store::range::{KeyRange, Range, Revision};
use store::reply::StoreError;
use store::{
    Content, Engine, EngineError, EngineSnapshot, MachineKind, MemEngine, RangeCursor, Reader,
    SnapshotReader, SnapshotRefusal, SnapshotWrite, StateMachine, StoreFailure, StoreLimits,
    WatchHub, WriteBatch,
};

/// All that can be told of a member, physical compaction apart.
#[derive(Debug, PartialEq)]
struct Shape {
    applied: u64,
    chain_hash: u64,
    revision: Revision,
    compacted: Revision,
    hash: u32,
    snapshot: Vec<Bytes>,
}

fn shape(group: &Group) -> Shape {
    let reader = group.machine.reader();
    Shape {
        applied: reader.applied().index,
        chain_hash: reader.chain_hash(),
        revision: reader.revision(),
        compacted: reader.compacted(),
        hash: reader.hash_kv(0).unwrap().unwrap().hash,
        snapshot: group.snapshot(),
    }
}

fn filled() -> Group {
    let mut group = Group::keyspace();
    for number in 0..6 {
        group.put("a", &number.to_string());
        group.put(&format!("k{number}"), "1");
    }
    group.delete(span("k2", "k4"));
    group.put("k2", "again");
    group
}

#[test]
fn the_applied_index_is_never_apart_from_the_data() {
    let mut group = Group::keyspace();
    let mut shapes = vec![shape(&group)];
    let first = group.engine.unflushed();
    for number in 0..5 {
        group.put("a", &number.to_string());
        group.delete(key("a"));
        shapes.push(shape(&group));
    }
    for (place, expected) in shapes.iter().enumerate() {
        let crashed = group.crashed(first + 2 * place);
        assert_eq!(shape(&crashed), *expected);
    }
}

#[test]
fn unflushed_entries_are_lost_whole_and_applied_again_to_the_same_state() {
    let mut group = filled();
    group.engine.flush().unwrap();
    let flushed = shape(&group);
    let entries: Vec<_> =
        (0..4).map(|number| group.envelope(Command::Put(put("a", &number.to_string())))).collect();
    group.apply(entries.clone());
    let mut crashed = group.crashed(0);
    assert_eq!(shape(&crashed), flushed);
    crashed.apply(entries);
    assert_eq!(shape(&crashed), shape(&group));
}

#[test]
fn a_crash_during_compaction_does_not_take_the_revision_back() {
    let mut group = filled();
    group.compact(12);
    let expected = (shape(&group), group.all_at(12).unwrap());
    group.engine.flush().unwrap();
    let mut kept = 0;
    loop {
        let more = group.machine.compact_step(1).unwrap();
        kept += 1;
        let mut crashed = group.crashed(kept);
        assert_eq!((shape(&crashed), crashed.all_at(12).unwrap()), expected);
        crashed.sweep();
        assert_eq!((shape(&crashed), crashed.all_at(12).unwrap()), expected);
        if !more {
            // However often it was interrupted, the same is left.
            assert_eq!(crashed.engine.contents(), group.engine.contents());
            break;
        }
    }
    assert!(kept > 10, "a step a time: {kept}");
}

#[test]
fn compaction_leaves_one_version_of_each_live_key_and_the_events_of_its_revision() {
    let mut group = filled();
    let deleted = group.delete(key("k5"));
    group.compact(deleted);
    let before = group.engine.disk_bytes();
    group.sweep();
    assert!(group.engine.disk_bytes() < before);
    let live = group.all_at(0).unwrap().len();
    let of = |space: u8| {
        let contents = group.engine.contents();
        contents.iter().filter(|(key, _)| key[7] == 1 && key[8] == space).count()
    };
    // Spaces of docs/formats.md: current, history, events. One more: the deletion.
    assert_eq!([of(2), of(3), of(4)], [live, live + 1, live + 1]);
}

#[test]
fn compacting_twice_equals_compacting_once() {
    let (mut twice, mut once) = (filled(), filled());
    twice.compact(5);
    twice.machine.compact_step(2).unwrap();
    twice.compact(13);
    twice.sweep();
    once.compact(13);
    once.sweep();
    assert_eq!(twice.all_at(13), once.all_at(13));
    let of_keyspace = |group: &Group| {
        let contents = group.engine.contents().into_iter();
        contents.filter(|(key, _)| (2..=4).contains(&key[8])).collect::<Vec<_>>()
    };
    assert_eq!(of_keyspace(&twice), of_keyspace(&once));
}

#[test]
fn every_event_of_the_compacted_revision_stays_even_if_superseded_within_it() {
    // Front ends refuse such transactions; a log may still hold one.
    let twice = Txn {
        success: vec![TxnOp::Put(put("a", "first")), TxnOp::Put(put("a", "second"))],
        ..Txn::default()
    };
    let mut group = filled();
    let revision = group.machine.revision() + 1;
    group.enter(Command::Txn(twice)).unwrap();
    group.compact(revision);
    let unswept = shape(&group);
    group.sweep();
    assert_eq!(shape(&group), unswept);
    let events = |group: &Group| {
        let reader = group.machine.reader();
        let change = reader.history(revision, store::Previous::Omit).next();
        change.map_or(0, |change| change.unwrap().events.len())
    };
    assert_eq!(events(&group), 2);
    group.put("b", "1");
    group.compact(revision + 1);
    group.sweep();
    assert_eq!(events(&group), 1, "later it is as any other");
}

#[test]
fn a_compacted_revision_inside_a_txn_does_not_make_members_diverge() {
    let (mut swept, mut unswept) = (filled(), filled());
    for group in [&mut swept, &mut unswept] {
        group.compact(10);
    }
    swept.sweep();
    for revision in [9, 10, 11] {
        let read = Range { revision, ..Range::of(key("a")) };
        let success = vec![TxnOp::Put(put("t", "1")), TxnOp::Range(read)];
        let txn = Txn { success, ..Txn::default() };
        let outcome = swept.enter(Command::Txn(txn.clone()));
        assert_eq!(outcome, unswept.enter(Command::Txn(txn)));
        assert_eq!(outcome.is_err(), revision == 9, "{outcome:?}");
    }
    assert_eq!(shape(&swept), shape(&unswept));
}

#[test]
fn an_interrupted_install_leaves_the_old_state_at_every_chunk() {
    let leader = filled();
    let chunks = leader.snapshot();
    assert!(chunks.len() > 3, "several chunks: {}", chunks.len());
    let mut follower = Group::keyspace();
    follower.put("old", "1");
    follower.engine.flush().unwrap();
    let old = shape(&follower);
    let position = leader.machine.applied();
    for (number, chunk) in chunks.iter().enumerate() {
        let done = number + 1 == chunks.len();
        let written = follower.machine.write_snapshot_chunk(position, number as u64, chunk, done);
        if done {
            assert_eq!(written, Ok(SnapshotWrite::Installed));
            break;
        }
        assert_eq!(written, Ok(SnapshotWrite::Written));
        let mut crashed = follower.crashed(number + 1);
        assert_eq!(shape(&crashed), old, "chunk {number}");
        assert_eq!(crashed.install(&leader), SnapshotWrite::Installed);
        assert_eq!(shape(&crashed), shape(&leader));
    }
    // Durable without another flush.
    assert_eq!(shape(&follower.crashed(0)), shape(&leader));
}

#[test]
fn what_a_snapshot_replaced_is_deleted_in_steps_and_after_any_crash() {
    let leader = filled();
    let mut fresh = Group::unopened(MachineKind::Keyspace, MemEngine::new());
    fresh.install(&leader);
    while fresh.machine.delete_step(100).unwrap() {}
    let expected = fresh.engine.contents().len();

    let mut follower = filled();
    follower.engine.flush().unwrap();
    let mut leader = leader;
    leader.enter(Command::Compact { revision: 99 }).unwrap_err();
    follower.install(&leader);
    follower.engine.flush().unwrap();
    let mut kept = 0;
    while follower.machine.delete_step(2).unwrap() {
        kept += 1;
        let mut crashed = follower.crashed(kept);
        assert_eq!(shape(&crashed), shape(&leader));
        while crashed.machine.delete_step(7).unwrap() {}
        assert_eq!(crashed.engine.contents().len(), expected);
    }
    assert!(kept > 5);
}

#[test]
fn what_an_unfinished_snapshot_left_does_not_show_in_the_next_and_is_deleted() {
    let mut leader = filled();
    let first = (leader.machine.applied(), leader.snapshot());
    leader.delete(KeyRange::From(Bytes::new()));
    leader.put("only", "1");
    let last = leader.machine.revision();
    leader.compact(last);
    let begin = |follower: &mut Group| {
        for (number, chunk) in (0..).zip(&first.1[..3]) {
            follower.machine.write_snapshot_chunk(first.0, number, chunk, false).unwrap();
        }
    };
    for restart in [false, true] {
        let mut follower = Group::keyspace();
        while follower.machine.delete_step(10).unwrap() {}
        begin(&mut follower);
        if restart {
            follower = follower.crashed(usize::MAX);
        }
        follower.install(&leader);
        assert_eq!(shape(&follower), shape(&leader), "restart {restart}");
        while follower.machine.delete_step(10).unwrap() {}
        let generations = |group: &Group| {
            let mut all: Vec<_> = group.engine.contents().iter().map(|(key, _)| key[7]).collect();
            all.dedup();
            all.len()
        };
        assert_eq!(generations(&follower), 2, "which is live, and that one");
        // The same while the state stays.
        begin(&mut follower);
        assert_eq!(generations(&follower), 2, "a stale snapshot is refused at once");
    }
    let mut follower = Group::keyspace();
    while follower.machine.delete_step(10).unwrap() {}
    let before = follower.engine.contents();
    begin(&mut follower);
    follower.machine.write_snapshot_chunk(first.0, 0, &first.1[0], false).unwrap();
    let staged = follower.engine.contents().len() - before.len();
    while follower.machine.delete_step(10).unwrap() {}
    let left = follower.engine.contents().len() - before.len();
    assert!(0 < left && left < staged, "the second attempt stays: {left} of {staged}");
}

#[test]
fn two_snapshots_in_quick_succession() {
    let mut leader = filled();
    let first = (leader.machine.applied(), leader.snapshot());
    leader.put("a", "newer");
    let mut follower = Group::keyspace();
    // The first is given up half-way, then even resumed: only the second counts.
    for chunk in 0..2 {
        let data = &first.1[chunk];
        follower.machine.write_snapshot_chunk(first.0, chunk as u64, data, false).unwrap();
    }
    assert_eq!(follower.install(&leader), SnapshotWrite::Installed);
    let late = follower.machine.write_snapshot_chunk(first.0, 2, &first.1[2], false).unwrap();
    let applied = follower.machine.applied();
    assert_eq!(late, SnapshotWrite::Refused(SnapshotRefusal::Stale { applied }));
    leader.put("a", "newest");
    assert_eq!(follower.install(&leader), SnapshotWrite::Installed);
    assert_eq!(shape(&follower), shape(&leader));
    while follower.machine.delete_step(10).unwrap() {}
    assert_eq!(shape(&follower.crashed(usize::MAX)), shape(&leader));
}

#[test]
fn bit_flips_in_a_snapshot_are_found() {
    let leader = filled();
    let chunks = leader.snapshot();
    let mut follower = Group::keyspace();
    let old = shape(&follower);
    let position = leader.machine.applied();
    for (number, chunk) in chunks.iter().enumerate() {
        let done = number + 1 == chunks.len();
        for bit in 0..chunk.len() * 8 {
            let mut damaged = chunk.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let written =
                follower.machine.write_snapshot_chunk(position, number as u64, &damaged, done);
            assert_eq!(written, Ok(SnapshotWrite::Refused(SnapshotRefusal::Damaged)));
        }
        assert_eq!(shape(&follower), old);
        follower.machine.write_snapshot_chunk(position, number as u64, chunk, done).unwrap();
    }
    assert_eq!(shape(&follower), shape(&leader));
}

#[test]
fn a_snapshot_is_refused_out_of_order_of_another_group_and_cut_short() {
    let leader = filled();
    let chunks = leader.snapshot();
    let position = leader.machine.applied();
    let refused = |written: Result<SnapshotWrite, StoreFailure>| {
        matches!(written, Ok(SnapshotWrite::Refused(_)))
    };
    let mut follower = Group::keyspace();
    let machine = &mut follower.machine;
    assert!(refused(machine.write_snapshot_chunk(position, 1, &chunks[1], false)));
    machine.write_snapshot_chunk(position, 0, &chunks[0], false).unwrap();
    assert!(refused(machine.write_snapshot_chunk(position, 2, &chunks[2], false)));
    assert!(refused(machine.write_snapshot_chunk(position, 1, &chunks[1], true)));
    assert!(refused(machine.write_snapshot_chunk(position, 1, &chunks[2], false)));
    let mut core = Group::new(MachineKind::ClusterMetadata);
    assert!(refused(core.machine.write_snapshot_chunk(position, 0, &chunks[0], false)));
}

#[test]
fn chunks_of_a_snapshot_can_be_read_again() {
    let mut group = filled();
    let chunks = group.snapshot();
    let mut reader = group.machine.open_snapshot().unwrap();
    group.put("a", "not in it");
    let mut read = |number: u64| reader.chunk(number).unwrap().map(|chunk| chunk.data);
    for (number, chunk) in (0..).zip(&chunks) {
        assert_eq!(read(number).as_ref(), Some(chunk));
        assert_eq!(read(number).as_ref(), Some(chunk), "the same again");
        assert_eq!(read(number + 2), None, "none is skipped");
    }
    assert_eq!(read(chunks.len() as u64), None);
    assert_eq!(read(0), Some(chunks[0].clone()), "from the beginning");
}

#[test]
fn membership_travels_in_snapshots_and_outlives_restarts() {
    let mut leader = filled();
    leader.apply(vec![Content::Membership(bytes("three voters")), Content::Barrier]);
    let mut follower = Group::keyspace();
    follower.install(&leader);
    let restarted = follower.crashed(0);
    assert_eq!(restarted.machine.membership(), Some(bytes("three voters")));
    let reader = restarted.machine.open_snapshot().unwrap();
    assert_eq!(reader.membership(), Some(&bytes("three voters")));
    assert_eq!(reader.position(), leader.machine.applied());
}

#[test]
fn a_large_range_comes_in_chunks() {
    let mut group = Group::keyspace();
    for number in 0..50 {
        group.put(&format!("k{number:02}"), "0123456789");
    }
    let all = Range { limit: 45, ..Range::of(KeyRange::From(Bytes::new())) };
    let reader = group.machine.reader();
    group.put("k00", "later");
    let whole = reader.range(&all).unwrap().unwrap();
    let mut cursor: RangeCursor = reader.stream(&all).unwrap();
    let (mut pairs, mut end, mut chunks) = (Vec::new(), None, 0);
    while let Some(chunk) = reader.next_chunk(&mut cursor, 300).unwrap() {
        assert!(chunk.pairs.len() <= 6);
        pairs.extend(chunk.pairs);
        end = chunk.end;
        chunks += 1;
    }
    let end = end.expect("the last chunk says that it is the last");
    assert_eq!((pairs, end.more, end.count), (whole.pairs, whole.more, whole.count));
    assert_eq!((chunks, end.more, end.count), (10, true, 50));
}

#[test]
fn the_chain_hash_is_handed_out_at_every_interval() {
    let mut group = Group::keyspace();
    let applied = group.apply(vec![Content::Barrier; 2_100]);
    let indices: Vec<_> = applied.hashes.iter().map(|(index, _)| *index).collect();
    assert_eq!(indices, [1024, 2048]);
    assert_ne!(applied.hashes[0].1, applied.hashes[1].1);
}

#[test]
fn the_session_table_is_bounded() {
    let limits = StoreLimits { sessions_max: 2, session_gaps_max: 2, ..StoreLimits::default() };
    let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
    let kind = MachineKind::Keyspace;
    let machine = StateMachine::open(engine, crate::support::id(kind), kind, limits).unwrap();
    let mut group = Group::of(machine);
    let session = |member| SessionId { member: clocks::NodeId(member), incarnation: 1 };
    let mut enter = |member, sequence, command| {
        let content = envelope(session(member), sequence, 0, command);
        group.apply(vec![content]).outcomes.pop().map(|(_, _, outcome)| outcome)
    };
    let write = || Command::Put(put("a", "1"));
    for member in 1..=2 {
        assert!(enter(member, 0, Command::OpenSession).unwrap().is_ok());
    }
    assert!(enter(1, 1, write()).unwrap().is_ok(), "member 2 was used longest ago");
    assert!(enter(3, 0, Command::OpenSession).unwrap().is_ok());
    assert_eq!(enter(2, 1, write()), Some(Err(StoreError::SessionExpired)));
    assert_eq!(enter(2, 0, Command::OpenSession), Some(Err(StoreError::SessionExpired)));
    // Gaps are requests under way; too many, and the session has expired.
    assert!(enter(1, 3, write()).unwrap().is_ok());
    assert_eq!(enter(1, 5, write()), Some(Err(StoreError::SessionExpired)));
    assert_eq!(enter(1, 2, write()), Some(Err(StoreError::SessionExpired)));
}

#[test]
fn an_unknown_format_is_refused_in_a_plain_sentence() {
    let group = filled();
    let (key, _) = group.engine.contents()[0].clone();
    let mut batch = WriteBatch::default();
    batch.put(key, Bytes::from_static(&[0, 9, 1, 2, 3]));
    group.engine.write(batch).unwrap();
    let engine: Arc<dyn Engine> = Arc::new(group.engine.clone());
    let kind = MachineKind::Keyspace;
    let refused = Reader::open(&engine, crate::support::id(kind)).err().unwrap();
    assert_eq!(
        refused.to_string(),
        "the state of g1 has format 9; this version reads only format 1"
    );
    let opened = StateMachine::open(engine, crate::support::id(kind), kind, StoreLimits::default());
    assert_eq!(opened.err(), Some(refused));
}

#[test]
fn an_undecodable_entry_stops_the_node_and_names_its_place() {
    let mut group = filled();
    let position = crate::support::at(group.machine.applied().index + 1);
    let content = Content::Command(Bytes::from_static(&[99]));
    let failure = group.machine.apply(vec![store::ToApply { position, content }]).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "the committed entry 16@1 cannot be decoded: its version is unknown"
    );
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Bytes {
    let byte =
        |place| u8::from_str_radix(&text[place..place + 2], 16).expect("golden files are hex");
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Every kind of record once.
fn golden_group() -> Group {
    let mut group = Group::keyspace();
    group.put("a", "1");
    group.put("a", "2");
    group.put("zero\0byte", "3");
    group.delete(key("a"));
    group.compact(3);
    group.apply(vec![Content::Membership(bytes("membership")), Content::Barrier]);
    group.machine.compact_step(1).unwrap();
    group
}

pub(crate) fn golden_lines(golden: &str) -> Vec<&str> {
    golden.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn state_of_format_1_is_read_for_ever() {
    let golden = golden_lines(include_str!("../golden/state_v1.txt"));
    let group = golden_group();
    let written = group.engine.contents().into_iter();
    let written = written.map(|(key, value)| format!("{} {}", hex(&key), hex(&value)));
    assert_eq!(golden, written.collect::<Vec<_>>());
    let mut batch = WriteBatch::default();
    for line in golden {
        let (key, value) = line.split_once(' ').expect("a key and a value");
        batch.put(unhex(key), unhex(value));
    }
    let engine = MemEngine::new();
    engine.write(batch).unwrap();
    let read = Group::unopened(MachineKind::Keyspace, engine);
    assert_eq!(shape(&read), shape(&group));
    assert_eq!(read.all_at(4), group.all_at(4));
}

#[test]
fn snapshots_of_version_1_are_read_for_ever() {
    let golden = golden_lines(include_str!("../golden/snapshot_v1.txt"));
    let group = golden_group();
    assert_eq!(golden, group.snapshot().iter().map(|chunk| hex(chunk)).collect::<Vec<_>>());
    let mut read = Group::unopened(MachineKind::Keyspace, MemEngine::new());
    for (number, line) in golden.iter().enumerate() {
        let (position, done) = (group.machine.applied(), number + 1 == golden.len());
        let chunk = unhex(line);
        read.machine.write_snapshot_chunk(position, number as u64, &chunk, done).unwrap();
    }
    assert_eq!(shape(&read), shape(&group));
}

struct Broken;

impl Engine for Broken {
    fn write(&self, _: WriteBatch) -> Result<(), EngineError> {
        Err(EngineError("no space".to_owned()))
    }
    fn snapshot(&self) -> Box<dyn EngineSnapshot> {
        MemEngine::new().snapshot()
    }
    fn flush(&self) -> Result<(), EngineError> {
        Ok(())
    }
    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[test]
fn an_engine_that_fails_is_a_failure_not_a_panic() {
    let kind = MachineKind::Keyspace;
    let id = crate::support::id(kind);
    let opened = StateMachine::open(Arc::new(Broken), id, kind, StoreLimits::default());
    assert_eq!(opened.err().unwrap().to_string(), "storage engine: no space");
}

#[test]
fn readers_and_machines_go_to_other_threads() {
    fn goes<T: Send>() {}
    fn is_shared<T: Sync>() {}
    goes::<StateMachine>();
    goes::<Reader>();
    is_shared::<Reader>();
    goes::<SnapshotReader>();
    goes::<WatchHub>();
}

/// How a member gets to apply a log: in which batches, and with what in between.
#[derive(Clone, Debug)]
enum Life {
    Apply(usize),
    Sweep(usize),
    Restart,
    /// A new member takes over by a snapshot.
    Replace,
}

fn life() -> impl Strategy<Value = Vec<Life>> {
    let event = prop_oneof![
        5 => (1..6usize).prop_map(Life::Apply),
        2 => (1..9usize).prop_map(Life::Sweep),
        1 => Just(Life::Restart),
        1 => Just(Life::Replace),
    ];
    prop::collection::vec(event, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn equal_logs_make_equal_members_whatever_their_lives(
        commands in prop::collection::vec(command(), 0..40),
        life in life(),
    ) {
        let mut plain = Group::keyspace();
        let log: Vec<_> = commands.into_iter().map(|command| plain.envelope(command)).collect();
        let expected = plain.apply(log.clone());

        let mut group = Group::keyspace();
        let (mut rest, mut outcomes) = (&log[..], Vec::new());
        let mut apply = |group: &mut Group, count: usize| {
            let (now, later) = rest.split_at(count.min(rest.len()));
            rest = later;
            outcomes.extend(group.apply(now.to_vec()).outcomes);
        };
        for event in life {
            match event {
                Life::Apply(count) => apply(&mut group, count),
                Life::Sweep(budget) => drop(group.machine.compact_step(budget).unwrap()),
                Life::Restart => group = group.crashed(usize::MAX),
                Life::Replace => {
                    let mut replacement =
                        Group::unopened(MachineKind::Keyspace, MemEngine::new());
                    replacement.install(&group);
                    group = replacement;
                }
            }
        }
        apply(&mut group, usize::MAX);
        prop_assert_eq!(outcomes, expected.outcomes);
        prop_assert_eq!(shape(&group), shape(&plain));
        group.sweep();
        prop_assert_eq!(shape(&group), shape(&plain));
    }
}
