//! The keyspace against a model that keeps every state it ever had.

use crate::support::Group;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use store::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, Put, Txn, TxnOp,
};
use store::range::{KeyRange, KeyValue, Projection, Range, Revision, SortOrder, SortTarget};
use store::reply::{Outcome, RangeReply, StoreError, TxnOpReply, TxnReply};

type State = BTreeMap<Bytes, KeyValue>;

/// The dumb form: a copy of the whole keyspace for every revision.
struct Model {
    states: Vec<State>,
    compacted: Revision,
}

impl Model {
    fn new() -> Model {
        // Revision 0 never was; revision 1 is empty.
        Model { states: vec![State::new(), State::new()], compacted: -1 }
    }

    fn revision(&self) -> Revision {
        self.states.len() as Revision - 1
    }

    fn state(&self) -> &State {
        self.states.last().expect("never empty")
    }

    fn range(&self, range: &Range) -> Result<RangeReply, StoreError> {
        read(range, self.state(), self.revision(), self)
    }

    fn enter(&mut self, command: &Command) -> Result<Outcome, StoreError> {
        let mut change =
            Change { state: self.state().clone(), main: self.revision() + 1, count: 0 };
        let outcome = match command {
            Command::Put(put) => {
                let previous = change.put(put)?;
                Outcome::Put { revision: 0, previous }
            }
            Command::DeleteRange(delete) => {
                let (deleted, previous) = change.delete(delete);
                Outcome::DeleteRange { revision: 0, deleted, previous }
            }
            Command::Txn(txn) => {
                self.check(txn)?;
                Outcome::Txn { revision: 0, reply: self.run(txn, &mut change) }
            }
            Command::Compact { revision } => {
                if *revision <= self.compacted {
                    return Err(StoreError::Compacted { compacted: self.compacted });
                }
                if *revision > self.revision() {
                    return Err(StoreError::FutureRevision { current: self.revision() });
                }
                self.compacted = *revision;
                return Ok(Outcome::Compacted { revision: self.revision() });
            }
            other => panic!("not in the model: {other:?}"),
        };
        if change.count > 0 {
            self.states.push(change.state);
        }
        let after = self.revision();
        Ok(match outcome {
            Outcome::Put { previous, .. } => Outcome::Put { revision: after, previous },
            Outcome::DeleteRange { deleted, previous, .. } => {
                Outcome::DeleteRange { revision: after, deleted, previous }
            }
            Outcome::Txn { reply, .. } => Outcome::Txn { revision: after, reply },
            other => other,
        })
    }

    fn branch<'a>(&self, txn: &'a Txn) -> (bool, &'a [TxnOp]) {
        let holds = |compare: &Compare| {
            let mut pairs: Vec<_> = select(self.state(), &compare.keys).cloned().collect();
            if pairs.is_empty() {
                if matches!(compare.target, CompareTarget::Value(_)) {
                    return false;
                }
                pairs.push(KeyValue::default());
            }
            pairs.iter().all(|pair| {
                let ordering = match &compare.target {
                    CompareTarget::Version(operand) => pair.version.cmp(operand),
                    CompareTarget::Create(operand) => pair.create_revision.cmp(operand),
                    CompareTarget::Mod(operand) => pair.mod_revision.cmp(operand),
                    CompareTarget::Value(operand) => pair.value.cmp(operand),
                    CompareTarget::Lease(operand) => pair.lease.cmp(operand),
                };
                match compare.result {
                    CompareResult::Equal => ordering.is_eq(),
                    CompareResult::Greater => ordering.is_gt(),
                    CompareResult::Less => ordering.is_lt(),
                    CompareResult::NotEqual => ordering.is_ne(),
                }
            })
        };
        let succeeded = txn.compare.iter().all(holds);
        (succeeded, if succeeded { &txn.success } else { &txn.failure })
    }

    fn check(&self, txn: &Txn) -> Result<(), StoreError> {
        for op in self.branch(txn).1 {
            match op {
                TxnOp::Range(range) if range.revision == 0 => {}
                TxnOp::Range(range) if range.revision > self.revision() => {
                    return Err(StoreError::FutureRevision { current: self.revision() });
                }
                TxnOp::Range(range) if range.revision < self.compacted => {
                    return Err(StoreError::Compacted { compacted: self.compacted });
                }
                TxnOp::Put(put) => {
                    let mut probe = Change { state: self.state().clone(), main: 0, count: 0 };
                    probe.put(put)?;
                }
                TxnOp::Txn(txn) => self.check(txn)?,
                TxnOp::Range(_) | TxnOp::DeleteRange(_) => {}
            }
        }
        Ok(())
    }

    fn run(&self, txn: &Txn, change: &mut Change) -> TxnReply {
        let (succeeded, ops) = self.branch(txn);
        let run = |op: &TxnOp| match op {
            TxnOp::Range(range) => {
                let revision = self.revision() + Revision::from(change.count > 0);
                let reply = read(range, &change.state, revision, self);
                TxnOpReply::Range(reply.expect("checked before"))
            }
            TxnOp::Put(put) => {
                TxnOpReply::Put { previous: change.put(put).expect("checked before") }
            }
            TxnOp::DeleteRange(delete) => {
                let (deleted, previous) = change.delete(delete);
                TxnOpReply::DeleteRange { deleted, previous }
            }
            TxnOp::Txn(txn) => TxnOpReply::Txn(self.run(txn, change)),
        };
        TxnReply { succeeded, replies: ops.iter().map(run).collect() }
    }
}

struct Change {
    state: State,
    main: Revision,
    count: usize,
}

impl Change {
    fn put(&mut self, put: &Put) -> Result<Option<KeyValue>, StoreError> {
        if put.lease != 0 {
            return Err(StoreError::LeaseNotFound);
        }
        let old = self.state.get(&put.key).cloned();
        if old.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(StoreError::KeyNotFound);
        }
        let known = old.clone().unwrap_or_default();
        let pair = KeyValue {
            key: put.key.clone(),
            value: if put.ignore_value { known.value } else { put.value.clone() },
            create_revision: if old.is_some() { known.create_revision } else { self.main },
            mod_revision: self.main,
            version: known.version + 1,
            lease: 0,
        };
        self.state.insert(put.key.clone(), pair);
        self.count += 1;
        Ok(old.filter(|_| put.prev_kv))
    }

    fn delete(&mut self, delete: &DeleteRange) -> (i64, Vec<KeyValue>) {
        let gone: Vec<_> = select(&self.state, &delete.keys).cloned().collect();
        gone.iter().for_each(|pair| drop(self.state.remove(&pair.key)));
        self.count += gone.len();
        (gone.len() as i64, if delete.prev_kv { gone } else { Vec::new() })
    }
}

fn select<'a>(state: &'a State, keys: &'a KeyRange) -> impl Iterator<Item = &'a KeyValue> {
    state.values().filter(move |pair| keys.contains(&pair.key))
}

/// Reads `state`, which is the one of `revision`, or an older one.
fn read(
    range: &Range,
    state: &State,
    revision: Revision,
    model: &Model,
) -> Result<RangeReply, StoreError> {
    if range.revision > revision {
        return Err(StoreError::FutureRevision { current: revision });
    }
    let at = if range.revision <= 0 { revision } else { range.revision };
    if at < model.compacted {
        return Err(StoreError::Compacted { compacted: model.compacted });
    }
    let state = if at == revision { state } else { &model.states[at as usize] };
    let mut pairs: Vec<_> = select(state, &range.keys).cloned().collect();
    let count = pairs.len() as i64;
    if range.projection == Projection::CountOnly {
        return Ok(RangeReply { revision, pairs: Vec::new(), more: false, count });
    }
    let filters = [
        range.min_mod_revision,
        range.max_mod_revision,
        range.min_create_revision,
        range.max_create_revision,
    ];
    let limit = if range.limit > 0 { range.limit as usize } else { usize::MAX };
    if range.sort_order == SortOrder::None && filters == [0; 4] {
        pairs.truncate(limit.saturating_add(1));
    }
    pairs.retain(|pair| {
        (filters[0] == 0 || pair.mod_revision >= filters[0])
            && (filters[1] == 0 || pair.mod_revision <= filters[1])
            && (filters[2] == 0 || pair.create_revision >= filters[2])
            && (filters[3] == 0 || pair.create_revision <= filters[3])
    });
    let by = |a: &KeyValue, b: &KeyValue| match range.sort_target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    match range.sort_order {
        SortOrder::Descend => pairs.sort_by(|a, b| by(b, a)),
        SortOrder::None | SortOrder::Ascend => pairs.sort_by(by),
    }
    let more = pairs.len() > limit;
    pairs.truncate(limit);
    if range.projection == Projection::KeysOnly {
        pairs.iter_mut().for_each(|pair| pair.value = Bytes::new());
    }
    Ok(RangeReply { revision, pairs, more, count })
}

fn user_key() -> impl Strategy<Value = Bytes> {
    let keys: [&[u8]; 8] = [b"a", b"a\0", b"a\0b", b"ab", b"b", b"b\xff", b"c", b"\xff"];
    prop::sample::select(keys.to_vec()).prop_map(Bytes::from_static)
}

fn keys() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => user_key().prop_map(KeyRange::Key),
        2 => (user_key(), user_key()).prop_map(|(start, end)| KeyRange::Span { start, end }),
        1 => user_key().prop_map(KeyRange::From),
    ]
}

pub(crate) fn put() -> impl Strategy<Value = Put> {
    let flags = (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    let lease = prop_oneof![20 => Just(0), 1 => Just(7i64)];
    (user_key(), 0..5u8, flags, lease).prop_map(|(key, value, flags, lease)| Put {
        key,
        value: Bytes::copy_from_slice(&[b'0' + value]),
        lease,
        prev_kv: flags.0,
        ignore_value: flags.1,
        ignore_lease: flags.2,
    })
}

pub(crate) fn delete() -> impl Strategy<Value = DeleteRange> {
    (keys(), any::<bool>()).prop_map(|(keys, prev_kv)| DeleteRange { keys, prev_kv })
}

fn range() -> impl Strategy<Value = Range> {
    let bound = || prop_oneof![4 => Just(0), 1 => 1..20i64];
    let sort = (
        prop::sample::select(vec![
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ]),
        prop::sample::select(vec![SortOrder::None, SortOrder::Ascend, SortOrder::Descend]),
        prop::sample::select(vec![
            Projection::Full,
            Projection::Full,
            Projection::KeysOnly,
            Projection::CountOnly,
        ]),
    );
    let bounds = (bound(), bound(), bound(), bound());
    (keys(), -2..24i64, prop_oneof![Just(0), 0..4i64], sort, bounds).prop_map(
        |(keys, revision, limit, sort, bounds)| Range {
            keys,
            revision,
            limit,
            sort_target: sort.0,
            sort_order: sort.1,
            projection: sort.2,
            min_mod_revision: bounds.0,
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2,
            max_create_revision: bounds.3,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..3i64).prop_map(CompareTarget::Version),
        (0..9i64).prop_map(CompareTarget::Create),
        (0..9i64).prop_map(CompareTarget::Mod),
        (0..5u8).prop_map(|v| CompareTarget::Value(Bytes::copy_from_slice(&[b'0' + v]))),
        (0..2i64).prop_map(CompareTarget::Lease),
    ];
    let result = prop::sample::select(vec![
        CompareResult::Equal,
        CompareResult::Greater,
        CompareResult::Less,
        CompareResult::NotEqual,
    ]);
    (keys(), result, target).prop_map(|(keys, result, target)| Compare { keys, result, target })
}

/// Transactions as front ends let them pass: the keys of a branch's puts and deletes are distinct.
pub(crate) fn txn() -> impl Strategy<Value = Txn> {
    let leaf = prop_oneof![
        range().prop_map(TxnOp::Range),
        put().prop_map(TxnOp::Put),
        delete().prop_map(TxnOp::DeleteRange),
    ];
    let op = leaf.prop_recursive(2, 8, 3, |op| {
        let branch = || prop::collection::vec(op.clone(), 0..3);
        (prop::collection::vec(compare(), 0..2), branch(), branch())
            .prop_map(|(compare, success, failure)| TxnOp::Txn(Txn { compare, success, failure }))
    });
    let branch = || prop::collection::vec(op.clone(), 0..4);
    (prop::collection::vec(compare(), 0..3), branch(), branch())
        .prop_map(|(compare, success, failure)| Txn { compare, success, failure })
        .prop_filter("writes that meet are refused before they are proposed", |txn| {
            let mut written = Vec::new();
            disjoint(&txn.success, &mut written) && {
                written.clear();
                disjoint(&txn.failure, &mut written)
            }
        })
}

fn disjoint(ops: &[TxnOp], written: &mut Vec<Bytes>) -> bool {
    ops.iter().all(|op| match op {
        TxnOp::Range(_) => true,
        TxnOp::Put(put) => {
            !written.contains(&put.key) && {
                written.push(put.key.clone());
                true
            }
        }
        TxnOp::DeleteRange(delete) => match &delete.keys {
            KeyRange::Key(key) => {
                !written.contains(key) && {
                    written.push(key.clone());
                    true
                }
            }
            _ => false,
        },
        TxnOp::Txn(txn) => disjoint(&txn.success, written) && disjoint(&txn.failure, written),
    })
}

#[derive(Clone, Debug)]
enum Step {
    Enter(Command),
    Read(Range),
    CompactSome,
    Restart,
}

/// A command of the keyspace.
pub(crate) fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        6 => put().prop_map(Command::Put),
        3 => delete().prop_map(Command::DeleteRange),
        4 => txn().prop_map(Command::Txn),
        1 => (-1..20i64).prop_map(|revision| Command::Compact { revision }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        14 => command().prop_map(Step::Enter),
        8 => range().prop_map(Step::Read),
        2 => Just(Step::CompactSome),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_keyspace_equals_a_model_that_keeps_every_state(
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let (mut group, mut model) = (Group::keyspace(), Model::new());
        for step in steps {
            match step {
                Step::Enter(command) => {
                    prop_assert_eq!(group.enter(command.clone()), model.enter(&command));
                }
                Step::Read(range) => {
                    prop_assert_eq!(group.range(&range), model.range(&range));
                }
                Step::CompactSome => {
                    group.machine.compact_step(2).unwrap();
                }
                Step::Restart => group = group.crashed(usize::MAX),
            }
            prop_assert_eq!(group.machine.revision(), model.revision());
        }
        let first = model.compacted.max(1);
        for revision in first..=model.revision() {
            let expected: Vec<_> = model.states[revision as usize].values().cloned().collect();
            prop_assert_eq!(group.all_at(revision).unwrap(), expected);
        }
    }
}
