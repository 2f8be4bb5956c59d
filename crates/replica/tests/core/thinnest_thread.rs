//! One put through three cores: the thread that every layer hangs on.

use crate::cluster::{Cluster, TestNode, put_of};
use clocks::{GroupId, NodeId};
use replica::{Ask, LogEvent, ReplicaLimits, Reply, RequestError};
use std::sync::Arc;
use store::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, Put, Txn, TxnOp,
};
use store::range::KeyRange;
use store::reply::{Outcome, StoreError};

#[test]
fn a_put_at_any_member_is_read_at_every_member() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    for member in 1..=3 {
        let value = format!("from {member}");
        let reply = cluster.put(NodeId(member), "key", &value);
        assert!(matches!(reply, Ok(Reply::Written(Outcome::Put { .. }))), "{reply:?}");
        for reader in 1..=3 {
            assert_eq!(cluster.get(NodeId(reader), "key"), Some(value.clone()));
        }
    }
}

#[test]
fn a_lone_node_serves_by_itself_and_finds_everything_after_a_restart() {
    let mut cluster = Cluster::of(1);
    cluster.run(3_000);
    cluster.put(NodeId(1), "key", "value").unwrap();
    let TestNode { disk, engine, .. } = cluster.stop(NodeId(1));
    // The engine forgets what was not flushed; the log has it.
    assert!(engine.unflushed() > 0);
    cluster.restart(NodeId(1), disk, Arc::new(engine.crash(0)), 1);
    cluster.run(3_000);
    assert_eq!(cluster.get(NodeId(1), "key").as_deref(), Some("value"));
}

#[test]
fn a_write_waits_out_a_failover_at_a_member_that_survives() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    let leader = cluster.leader();
    cluster.put(leader, "key", "before").unwrap();
    cluster.stop(leader);
    let survivor = *cluster.nodes.keys().next().unwrap();
    cluster.put(survivor, "key", "after").unwrap();
    assert_eq!(cluster.get(survivor, "key").as_deref(), Some("after"));
    assert_ne!(cluster.leader(), leader);
}

#[test]
fn without_a_quorum_requests_end_at_their_deadline() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    cluster.stop(NodeId(1));
    cluster.stop(NodeId(2));
    let write = cluster.put(NodeId(3), "key", "value");
    assert_eq!(write.err(), Some(RequestError::TimedOut));
    let read = cluster.answer(NodeId(3), Ask::ReadBarrier);
    assert_eq!(read.err(), Some(RequestError::TimedOut));
}

#[test]
fn a_member_that_was_away_for_long_gets_a_snapshot() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    let away = NodeId(if cluster.leader() == NodeId(3) { 2 } else { 3 });
    let TestNode { disk, engine, .. } = cluster.stop(away);
    let leader = cluster.leader();
    for round in 0..200 {
        cluster.ask(leader, Ask::Write(put_of(round)));
        cluster.run(2);
    }
    let first = cluster.nodes[&leader].log.status().groups[1].first_index;
    assert!(first > 100, "the log was cut: it begins at {first}");
    cluster.restart(away, disk, engine, 3);
    cluster.run(5_000);
    assert_eq!(cluster.get(away, "key").as_deref(), Some("value 199"));
    let hashes: Vec<_> =
        cluster.nodes.values().map(|node| node.applier.chain_hash(GroupId::KEYSPACE)).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
}

#[test]
fn a_log_that_takes_too_much_space_is_cut_whatever_it_would_keep_for_absent_members() {
    let limits = ReplicaLimits { retained_log_bytes: 1, ..ReplicaLimits::default() };
    let mut cluster = Cluster::with(3, limits);
    cluster.run(3_000);
    for round in 0..20 {
        let reply = cluster.answer(NodeId(1), Ask::Write(put_of(round)));
        assert!(reply.is_ok(), "{reply:?}");
    }
    cluster.run(3_000);
    for node in cluster.nodes.values() {
        let group = &node.log.status().groups[1];
        assert!(group.first_index > 20, "the log begins at {}", group.first_index);
    }
    assert_eq!(cluster.get(NodeId(2), "key").as_deref(), Some("value 19"));
}

#[test]
fn the_few_entries_of_the_consistent_core_do_not_hold_the_log() {
    let limits = ReplicaLimits { retained_entries: 5, flush_bytes: 1, ..ReplicaLimits::default() };
    let mut cluster = Cluster::with(1, limits);
    for round in 0..20 {
        cluster.answer(NodeId(1), Ask::Write(put_of(round))).unwrap();
    }
    let status = cluster.nodes[&NodeId(1)].log.status();
    let [core, keyspace] = &status.groups[..] else { panic!("{status:?}") };
    assert_eq!(core.first_index, core.last_index + 1, "it holds nothing");
    assert!(keyspace.first_index > 5, "{keyspace:?}");
    assert!(keyspace.last_index + 1 - keyspace.first_index >= 5, "{keyspace:?}");
}

#[test]
fn short_of_space_refuses_writes_before_they_are_proposed_and_recovers_by_itself() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    let set = |cluster: &mut Cluster, short| {
        let node = cluster.nodes.get_mut(&NodeId(2)).unwrap();
        node.log.handle(LogEvent::ShortOfSpace(short), cluster.now, &mut node.disk);
        cluster.run(2_000);
    };
    set(&mut cluster, true);
    for member in 1..=3 {
        let refused = cluster.put(NodeId(member), "key", "value");
        assert_eq!(refused.err(), Some(RequestError::NoSpace));
    }
    assert_eq!(cluster.get(NodeId(1), "key"), None);
    for member in 1..=3 {
        let keys = KeyRange::Key("key".into());
        let delete = Command::DeleteRange(DeleteRange { keys, prev_kv: false });
        for makes_room in [delete, Command::Compact { revision: 1 + member as i64 }] {
            let reply = cluster.answer(NodeId(member), Ask::Write(makes_room));
            assert_ne!(reply.err(), Some(RequestError::NoSpace), "it makes room");
        }
    }
    set(&mut cluster, false);
    cluster.put(NodeId(1), "key", "value").unwrap();
}

#[test]
fn a_refusal_of_the_state_machine_reaches_the_caller() {
    let mut cluster = Cluster::of(1);
    cluster.run(3_000);
    let reply = cluster.answer(NodeId(1), Ask::Write(Command::Compact { revision: 99 }));
    let expected = RequestError::Refused(StoreError::FutureRevision { current: 1 });
    assert_eq!(reply.err(), Some(expected));
    let absent = Compare {
        keys: KeyRange::Key("key".into()),
        result: CompareResult::Equal,
        target: CompareTarget::Version(0),
    };
    let put = Put { key: "key".into(), value: "value".into(), ..Put::default() };
    let create = Txn { compare: vec![absent], success: vec![TxnOp::Put(put)], failure: Vec::new() };
    for expected in [true, false] {
        match cluster.answer(NodeId(1), Ask::Write(Command::Txn(create.clone()))) {
            Ok(Reply::Written(Outcome::Txn { reply, .. })) => {
                assert_eq!(reply.succeeded, expected);
            }
            other => panic!("{other:?}"),
        }
    }
}
