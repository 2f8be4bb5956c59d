//! Looking into a snapshot, and a new cluster that begins with what it holds.

use crate::support::{Group, at, bytes, put};
use crate::versioned_value::command;
use clocks::{LogPosition, NodeId};
use proptest::prelude::*;
use std::ops::Bound;
use store::command::{Command, Member, TokenSecret};
use store::reply::StoreError;
use store::{
    Content, Engine, MachineKind, Refounding, SnapshotInspector, SnapshotSummary, refound_core,
};

fn inspected(group: &Group) -> SnapshotSummary {
    let (chunks, position) = (group.snapshot(), group.machine.applied());
    let mut inspector = SnapshotInspector::new(position);
    for (number, chunk) in chunks.iter().enumerate() {
        inspector.take(chunk, number + 1 == chunks.len()).expect("it is sound");
    }
    inspector.summary()
}

/// What the member itself says of it.
fn said(group: &Group) -> SnapshotSummary {
    let reader = group.machine.reader();
    let hash = reader.hash_kv(0).expect("memory does not fail").expect("of now");
    let keys = group.all_at(0).expect("of now").len() as u64;
    let (revision, compacted) = (reader.revision(), reader.compacted());
    SnapshotSummary { revision, compacted, keys, hash: hash.hash }
}

fn filled() -> Group {
    let mut group = Group::keyspace();
    for key in ["a", "b", "c", "a"] {
        group.put(key, "value");
    }
    group.apply(vec![Content::Membership(bytes("the old members"))]);
    group
}

/// Another member that was given the same snapshot.
fn restored(group: &Group, refounding: Refounding) -> Group {
    let mut member = Group::unopened(MachineKind::Keyspace, store::MemEngine::new());
    member.install(group);
    member.machine.refound(refounding, TokenSecret([9; 32])).expect("memory does not fail");
    member
}

proptest! {
    #[test]
    fn a_snapshot_says_of_itself_what_its_member_says(
        commands in prop::collection::vec(command(), 0..60),
    ) {
        let mut group = Group::keyspace();
        for command in commands {
            let _refused = group.enter(command);
        }
        prop_assert_eq!(inspected(&group), said(&group));
    }
}

#[test]
fn whatever_is_wrong_with_a_snapshot_is_said() {
    let group = filled();
    let (chunks, position) = (group.snapshot(), group.machine.applied());
    let mut elsewhere = SnapshotInspector::new(at(position.index + 1));
    assert!(elsewhere.take(&chunks[0], false).is_err());
    let mut cut = SnapshotInspector::new(position);
    assert!(cut.take(&chunks[0], chunks.len() > 1).is_err(), "its end is elsewhere");
    for byte in 0..chunks[0].len() {
        let mut bent = chunks[0].to_vec();
        bent[byte] ^= 1;
        let taken = SnapshotInspector::new(position).take(&bent, chunks.len() == 1);
        assert!(taken.is_err(), "byte {byte}");
    }
}

#[test]
fn keys_stay_and_what_was_of_the_old_cluster_goes() {
    let old = filled();
    let first = restored(&old, Refounding::default());
    assert_eq!(said(&first), said(&old));
    assert_eq!(first.machine.applied(), old.machine.applied());
    assert_eq!(first.machine.membership(), None);
    assert_eq!(first.machine.reader().sessions(), Ok(vec![]));
    let second = restored(&old, Refounding::default());
    assert_eq!(first.machine.chain_hash(), second.machine.chain_hash());
    assert_eq!(first.snapshot(), second.snapshot());
    // Durable at once, and nothing half-way: it was one batch.
    let crashed = first.crashed(0);
    assert_eq!(crashed.snapshot(), first.snapshot());
}

#[test]
fn a_request_of_the_old_cluster_has_no_session_in_the_new_one() {
    let mut member = restored(&filled(), Refounding::default());
    let late = member.enter(Command::Put(put("a", "late")));
    assert_eq!(late, Err(StoreError::SessionExpired));
    member.enter(Command::OpenSession).expect("its numbers begin anew");
    assert_eq!(member.put("a", "new"), 6);
}

#[test]
fn a_bumped_revision_is_never_seen_twice_and_the_compacted_one_does_not_go_back() {
    let mut old = filled();
    old.compact(3);
    let revision = old.machine.revision();
    let refounding = Refounding { bump_revision: 1000, mark_compacted: true };
    let mut member = restored(&old, refounding);
    let reader = member.machine.reader();
    assert_eq!((reader.revision(), reader.compacted()), (revision + 1000, revision + 1000));
    assert_eq!(member.all_at(0).map(|pairs| pairs.len()), Ok(3));
    let compacted = revision + 1000;
    assert_eq!(member.all_at(revision), Err(StoreError::Compacted { compacted }));
    member.enter(Command::OpenSession).expect("its numbers begin anew");
    assert_eq!(member.put("d", "new"), revision + 1001);
    member.sweep();
    assert_eq!(member.all_at(0).map(|pairs| pairs.len()), Ok(4));
    assert_eq!(inspected(&member), said(&member));
    assert_eq!(member.crashed(usize::MAX).machine.reader().compacted(), compacted);
}

#[test]
fn a_revision_that_would_overflow_is_noticed_before() {
    let most = Refounding { bump_revision: u64::MAX, mark_compacted: true };
    assert_eq!(most.revision_after(1), None);
    let far = Refounding { bump_revision: i64::MAX as u64, mark_compacted: true };
    assert_eq!(far.revision_after(1), None);
    assert_eq!(Refounding { bump_revision: 9, mark_compacted: false }.revision_after(1), Some(10));
}

#[test]
fn a_refounded_core_knows_nobody_and_keeps_the_feature_level_for_who_joins_later_too() {
    let core = |engine| Group::unopened(MachineKind::ClusterMetadata, engine);
    let mut old = core(store::MemEngine::new());
    old.enter(Command::OpenSession).expect("a first session opens");
    let member = Member { id: NodeId(1), feature_level: 2, ..Member::default() };
    old.enter(Command::RegisterMember(member)).expect("nobody has the id");
    refound_core(&old.engine, 2).expect("memory does not fail");
    let new = core(old.engine.clone());
    assert_eq!((new.machine.feature_level(), new.machine.membership()), (2, None));
    assert_eq!(new.machine.reader().members(), Ok(vec![]));
    assert_eq!(new.machine.reader().sessions(), Ok(vec![]));
    assert!(new.machine.applied().index > 0, "a log from its first entry on lacks the level");
    let mut joiner = core(store::MemEngine::new());
    joiner.install(&new);
    assert_eq!(joiner.machine.feature_level(), 2);
    assert_eq!(joiner.machine.chain_hash(), new.machine.chain_hash());
    // Again, as after a crash.
    refound_core(&new.engine, 2).expect("memory does not fail");
    assert_eq!(core(new.engine.clone()).machine.feature_level(), 2);
    // Without a level to keep it begins as one that never was.
    refound_core(&new.engine, 1).expect("memory does not fail");
    assert_eq!(new.engine.snapshot().scan(Bound::Unbounded, Bound::Unbounded).count(), 0);
    assert_eq!(core(new.engine.clone()).machine.applied(), LogPosition::default());
}
