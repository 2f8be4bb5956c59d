//! Leases against a model that keeps them in a list, through crashes and installed snapshots.

use crate::recovery::{golden_lines, hex, unhex};
use crate::support::{Group, bytes, envelope, key, put};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use store::command::{Command, DeleteRange, Put, SessionId, Txn, TxnOp};
use store::limits::LEASE_SLACK_MS;
use store::range::{KeyRange, Range};
use store::reply::{Outcome, StoreError};
use store::{Engine, EventKind, Lease, MachineKind, MemEngine, SnapshotWrite, WriteBatch};

#[derive(Clone, Debug)]
enum Step {
    Tick { by_ms: u64, revoke_max: u32 },
    Grant(i64, u64),
    Revoke(i64),
    Renew(Vec<i64>),
    Put { key: u8, lease: i64, ignore_lease: bool, in_txn: bool },
    Delete(u8),
    Crash,
    Install,
}

fn step() -> impl Strategy<Value = Step> {
    let id = || -2..4i64;
    prop_oneof![
        2 => (0..4000u64, 0..4u32).prop_map(|(by_ms, revoke_max)| Step::Tick { by_ms, revoke_max }),
        2 => (id(), 1..5u64).prop_map(|(id, ttl_s)| Step::Grant(id, ttl_s)),
        1 => id().prop_map(Step::Revoke),
        2 => prop::collection::vec(id(), 0..4).prop_map(Step::Renew),
        6 => (0..4u8, id(), any::<bool>(), any::<bool>()).prop_map(
            |(key, lease, ignore_lease, in_txn)| Step::Put { key, lease, ignore_lease, in_txn }
        ),
        1 => (0..4u8).prop_map(Step::Delete),
        1 => Just(Step::Crash),
        1 => Just(Step::Install),
    ]
}

#[derive(Default)]
struct Model {
    clock_ms: u64,
    /// Time to live and expiry.
    leases: BTreeMap<i64, (u64, u64)>,
    /// Live keys and their leases.
    keys: BTreeMap<u8, i64>,
}

impl Model {
    fn revoke(&mut self, id: i64) -> usize {
        if self.leases.remove(&id).is_none() {
            return 0;
        }
        let before = self.keys.len();
        self.keys.retain(|_, lease| *lease != id);
        before - self.keys.len()
    }

    fn tick(&mut self, clock_ms: u64, revoke_max: u32) {
        self.clock_ms = self.clock_ms.max(clock_ms);
        let mut room = revoke_max as usize;
        while room > 0 {
            let due = self.leases.iter().map(|(&id, &(_, at))| (at, id)).min();
            let Some((_, id)) = due.filter(|&(at, _)| at <= self.clock_ms) else { return };
            room = room.saturating_sub(1 + self.revoke(id));
        }
    }

    fn expiry(&self, ttl_s: u64) -> u64 {
        self.clock_ms + ttl_s * 1000 + LEASE_SLACK_MS
    }

    fn renew(&mut self, id: i64) -> u64 {
        let (clock, live) = (self.clock_ms, self.leases.get(&id).copied());
        let Some((ttl_s, _)) = live.filter(|&(_, at)| at > clock) else { return 0 };
        self.leases.insert(id, (ttl_s, self.expiry(ttl_s)));
        ttl_s
    }

    fn put(&mut self, key: u8, lease: i64, ignore_lease: bool) -> Result<(), StoreError> {
        let lease = match (ignore_lease, self.keys.get(&key)) {
            (true, None) => return Err(StoreError::KeyNotFound),
            (true, Some(&kept)) => kept,
            (false, _) => lease,
        };
        if lease != 0 && !self.leases.contains_key(&lease) {
            return Err(StoreError::LeaseNotFound);
        }
        self.keys.insert(key, lease);
        Ok(())
    }
}

fn name(key: u8) -> String {
    format!("key {key}")
}

fn tick(group: &mut Group, clock_ms: u64, revoke_max: u32) {
    let command = Command::LeaseTick { clock_ms, revoke_max };
    group.apply(vec![envelope(SessionId::default(), 0, 0, command)]);
}

fn run(group: &mut Group, model: &mut Model, step: &Step) {
    match step.clone() {
        Step::Tick { by_ms, revoke_max } => {
            let clock_ms = model.clock_ms + by_ms;
            tick(group, clock_ms, revoke_max);
            model.tick(clock_ms, revoke_max);
        }
        Step::Grant(id, ttl_s) => {
            let outcome = group.enter(Command::LeaseGrant { id, ttl_s });
            if id == 0 {
                assert_eq!(outcome, Err(StoreError::LeaseNotFound));
            } else if model.leases.contains_key(&id) {
                assert_eq!(outcome, Err(StoreError::LeaseExists));
            } else {
                model.leases.insert(id, (ttl_s, model.expiry(ttl_s)));
                assert!(matches!(outcome, Ok(Outcome::LeaseGranted { .. })), "{outcome:?}");
            }
        }
        Step::Revoke(id) => {
            let outcome = group.enter(Command::LeaseRevoke { id });
            assert_eq!(outcome.is_ok(), model.leases.contains_key(&id), "{outcome:?}");
            model.revoke(id);
        }
        Step::Renew(ids) => {
            let expected: Vec<u64> = ids.iter().map(|&id| model.renew(id)).collect();
            match group.enter(Command::LeaseRenew { ids }) {
                Ok(Outcome::LeasesRenewed { ttls_s, .. }) => assert_eq!(ttls_s, expected),
                other => panic!("{other:?}"),
            }
        }
        Step::Put { key, lease, ignore_lease, in_txn } => {
            let lease = if ignore_lease { 0 } else { lease };
            let put = Put { lease, ignore_lease, ..put(&name(key), "value") };
            let command = if in_txn {
                Command::Txn(Txn { success: vec![TxnOp::Put(put)], ..Txn::default() })
            } else {
                Command::Put(put)
            };
            let outcome = group.enter(command).map(drop);
            assert_eq!(outcome, model.put(key, lease, ignore_lease));
        }
        Step::Delete(deleted) => {
            group.delete(key(&name(deleted)));
            model.keys.remove(&deleted);
        }
        Step::Crash => *group = group.crashed(usize::MAX),
        Step::Install => {
            let mut fresh = Group::unopened(MachineKind::Keyspace, Default::default());
            assert_eq!(fresh.install(group), SnapshotWrite::Installed);
            assert_eq!(fresh.machine.chain_hash(), group.machine.chain_hash());
            fresh.follow(group.sequence());
            *group = fresh;
        }
    }
}

fn compare(group: &Group, model: &Model) {
    let reader = group.machine.reader();
    let leases: BTreeMap<i64, (u64, u64)> = reader
        .leases()
        .map(|lease| lease.expect("memory does not fail"))
        .map(|lease| (lease.id, (lease.ttl_s, lease.expires_at_ms)))
        .collect();
    assert_eq!(leases, model.leases);
    for &id in leases.keys() {
        let attached = model.keys.iter().filter(|&(_, &lease)| lease == id);
        let attached: BTreeSet<_> = attached.map(|(&key, _)| bytes(&name(key))).collect();
        let keys = reader.lease_keys(id).expect("memory does not fail");
        assert_eq!(keys, attached.into_iter().collect::<Vec<_>>());
    }
    let status = group.machine.lease_status();
    assert_eq!(status.clock_ms, model.clock_ms);
    assert_eq!(status.next_due_ms, model.leases.values().map(|&(_, at)| at).min());
    let all = Range::of(KeyRange::From(bytes("key")));
    let live = group.range(&all).expect("current ranges are readable").pairs;
    let live: BTreeMap<_, _> = live.into_iter().map(|pair| (pair.key, pair.lease)).collect();
    let expected = model.keys.iter().map(|(&key, &lease)| (bytes(&name(key)), lease));
    assert_eq!(live, expected.collect());
}

proptest! {
    #[test]
    fn leases_and_what_is_attached_to_them_equal_a_model(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let (mut group, mut model) = (Group::keyspace(), Model::default());
        for step in &steps {
            run(&mut group, &mut model, step);
            compare(&group, &model);
        }
    }
}

/// The trap: mass expiry. Every entry revokes a bounded number, whatever is due.
#[test]
fn many_leases_that_end_together_are_revoked_a_bounded_number_per_entry() {
    const LEASES: i64 = 10_000;
    const MAX: u32 = 512;
    let mut group = Group::keyspace();
    for id in 1..=LEASES {
        group.enter(Command::LeaseGrant { id, ttl_s: 10 }).unwrap();
        let attached = Put { lease: id, ..put(&format!("key {id}"), "value") };
        group.enter(Command::Put(attached)).unwrap();
    }
    group.events.clear();
    let mut entries = 0;
    while group.machine.lease_status().next_due_ms.is_some() {
        let before = group.events.len();
        tick(&mut group, 60_000, MAX);
        assert!(group.events.len() - before <= MAX as usize / 2);
        entries += 1;
    }
    assert_eq!(entries, (LEASES as usize).div_ceil(MAX as usize / 2));
    assert_eq!(group.events.len(), LEASES as usize, "one revision for each lease");
    let deleted = |change: &store::RevisionEvents| change.events[0].kind == EventKind::Delete;
    assert!(group.events.iter().all(deleted));
}

/// As in etcd: a lease ends whole, at one revision, in the entry of its turn.
#[test]
fn a_lease_of_many_keys_ends_at_one_revision() {
    const KEYS: usize = 20_000;
    let mut group = Group::keyspace();
    for id in [1, 2] {
        group.enter(Command::LeaseGrant { id, ttl_s: 10 }).unwrap();
    }
    for number in 0..KEYS {
        let attached = Put { lease: 1, ..put(&format!("key {number}"), "value") };
        group.enter(Command::Put(attached)).unwrap();
    }
    group.events.clear();
    tick(&mut group, 60_000, 512);
    assert_eq!(group.events.len(), 1, "one revision");
    assert_eq!(group.events[0].events.len(), KEYS);
    assert!(group.events[0].events.iter().all(|event| event.kind == EventKind::Delete));
    let next = |group: &Group| group.machine.lease_status().next_due_ms;
    assert!(next(&group).is_some(), "the other one waits for the next entry");
    tick(&mut group, 60_000, 512);
    assert_eq!(next(&group), None);
}

#[test]
fn the_consistent_core_has_no_leases() {
    let mut core = Group::new(MachineKind::ClusterMetadata);
    tick(&mut core, 5_000, 10);
    assert_eq!(core.machine.lease_status(), store::LeaseStatus::default());
    let granted = core.enter(Command::LeaseGrant { id: 1, ttl_s: 1 });
    assert_eq!(granted, Err(StoreError::WrongGroup));
    let all = DeleteRange { keys: KeyRange::From(bytes("")), prev_kv: false };
    assert_eq!(core.enter(Command::DeleteRange(all)), Err(StoreError::WrongGroup));
}

/// What leases add to the state and to a snapshot, each kind of record once.
fn golden_group() -> Group {
    let mut group = Group::keyspace();
    tick(&mut group, 7_000, 0);
    group.enter(Command::LeaseGrant { id: 5, ttl_s: 10 }).unwrap();
    group.enter(Command::Put(Put { lease: 5, ..put("a", "1") })).unwrap();
    group
}

#[test]
fn leases_of_format_1_are_read_for_ever() {
    let golden = golden_lines(include_str!("../golden/lease_state_v1.txt"));
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
    assert_eq!(read.machine.lease_status(), group.machine.lease_status());
    let lease = Some(Lease { id: 5, ttl_s: 10, expires_at_ms: 18_000 });
    assert_eq!(read.machine.reader().lease(5).unwrap(), lease);
    assert_eq!(read.machine.reader().lease_keys(5).unwrap(), [bytes("a")]);
}

#[test]
fn snapshots_with_leases_are_read_for_ever() {
    let golden = golden_lines(include_str!("../golden/lease_snapshot_v1.txt"));
    let group = golden_group();
    assert_eq!(golden, group.snapshot().iter().map(|chunk| hex(chunk)).collect::<Vec<_>>());
    let mut read = Group::unopened(MachineKind::Keyspace, MemEngine::new());
    for (number, line) in golden.iter().enumerate() {
        let (position, done) = (group.machine.applied(), number + 1 == golden.len());
        let chunk = unhex(line);
        read.machine.write_snapshot_chunk(position, number as u64, &chunk, done).unwrap();
    }
    assert_eq!(read.machine.lease_status(), group.machine.lease_status());
    assert_eq!(read.machine.reader().lease_keys(5).unwrap(), [bytes("a")]);
}
