//! What clients ask for: puts, linearizable and serializable reads, compare-and-set through nested
//! transactions, deletions, ranges, reads of the past, pairs of keys written together, compactions.
//!
//! Invariant: no value is written twice, so that a read tells which write it saw. Not here: sending
//! requests and taking replies (`front_end`).

use crate::event_heap::Instant;
use crate::rng::Rng;
use crate::swarm::WorkloadProfile;
use bytes::Bytes;
use clocks::GroupId;
use std::collections::BTreeMap;
use store::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, Put, Txn, TxnOp,
};
use store::range::{KeyRange, Range, Revision};

/// Kinds of operations, in the order of `WorkloadProfile::mix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Set a key.
    Put,
    /// Read a key, linearizably.
    Get,
    /// Set a key if it holds what is expected.
    CompareAndSet,
    /// Delete a key.
    Delete,
    /// Read some neighbouring keys, linearizably.
    Range,
    /// Read a key from what the member has.
    Serializable,
    /// Read a key as it was.
    Historical,
    /// Forget old versions.
    Compact,
    /// Write two keys together.
    PutPair,
    /// Read both.
    GetPair,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Put,
        Kind::Get,
        Kind::CompareAndSet,
        Kind::Delete,
        Kind::Range,
        Kind::Serializable,
        Kind::Historical,
        Kind::Compact,
        Kind::PutPair,
        Kind::GetPair,
    ];
}

/// An operation that a client has decided on.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Set `key`.
    Put {
        /// The key.
        key: Bytes,
        /// Never written before.
        value: Bytes,
    },
    /// Set `key` if it holds `expect`.
    CompareAndSet {
        /// The key.
        key: Bytes,
        /// `None`: must not exist.
        expect: Option<Bytes>,
        /// Never written before.
        set: Bytes,
    },
    /// Delete `key`.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Linearizable read of these keys (consecutive in byte order), now.
    Read {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// Read without asking other members.
    Serializable {
        /// The key.
        key: Bytes,
    },
    /// Linearizable read of a past state.
    Historical {
        /// The key.
        key: Bytes,
        /// As of this revision.
        revision: Revision,
    },
    /// Compact at this revision.
    Compact {
        /// The revision.
        revision: Revision,
    },
    /// Write both keys of a pair.
    PutPair {
        /// The pair's number.
        pair: u64,
        /// Never written before.
        value: Bytes,
    },
    /// Read both keys of a pair.
    GetPair {
        /// The pair's number.
        pair: u64,
    },
}

impl Operation {
    /// The command to propose, for writes.
    #[must_use]
    pub(crate) fn command(&self) -> Option<Command> {
        Some(match self {
            Operation::Put { key, value } => Command::Put(put(key, value)),
            Operation::CompareAndSet { key, expect, set } => {
                Command::Txn(compare_and_set(key, expect.as_ref(), set))
            }
            Operation::Delete { key } => Command::DeleteRange(DeleteRange {
                keys: KeyRange::Key(key.clone()),
                prev_kv: false,
            }),
            Operation::Compact { revision } => Command::Compact { revision: *revision },
            Operation::PutPair { pair, value } => {
                let success = pair_keys(*pair).map(|key| TxnOp::Put(put(&key, value))).to_vec();
                Command::Txn(Txn { success, ..Txn::default() })
            }
            Operation::Read { .. }
            | Operation::Serializable { .. }
            | Operation::Historical { .. }
            | Operation::GetPair { .. } => return None,
        })
    }

    /// What to read from a snapshot, for reads.
    #[must_use]
    pub(crate) fn range(&self) -> Option<Range> {
        let keys = match self {
            Operation::Read { keys } => span(keys),
            Operation::Serializable { key } | Operation::Historical { key, .. } => {
                KeyRange::Key(key.clone())
            }
            Operation::GetPair { pair } => span(&pair_keys(*pair)),
            _ => return None,
        };
        let mut range = Range::of(keys);
        if let Operation::Historical { revision, .. } = self {
            range.revision = *revision;
        }
        Some(range)
    }
}

/// The two keys of a pair.
#[must_use]
pub(crate) fn pair_keys(pair: u64) -> [Bytes; 2] {
    ["a", "b"].map(|side| Bytes::from(format!("pair/{pair}/{side}")))
}

fn put(key: &Bytes, value: &Bytes) -> Put {
    Put { key: key.clone(), value: value.clone(), ..Put::default() }
}

/// Nested, so that nesting is exercised: the outer transaction compares, the inner one writes.
fn compare_and_set(key: &Bytes, expect: Option<&Bytes>, set: &Bytes) -> Txn {
    let target = match expect {
        Some(value) => CompareTarget::Value(value.clone()),
        None => CompareTarget::Version(0),
    };
    let keys = KeyRange::Key(key.clone());
    let compare = Compare { keys: keys.clone(), result: CompareResult::Equal, target };
    let inner = Txn { success: vec![TxnOp::Put(put(key, set))], ..Txn::default() };
    Txn {
        compare: vec![compare],
        success: vec![TxnOp::Txn(inner)],
        failure: vec![TxnOp::Range(Range::of(keys))],
    }
}

fn span(keys: &[Bytes]) -> KeyRange {
    match keys {
        [only] => KeyRange::Key(only.clone()),
        _ => {
            let mut end = keys.last().expect("a read has a key").to_vec();
            end.push(0);
            KeyRange::Span { start: keys[0].clone(), end: Bytes::from(end) }
        }
    }
}

/// The decisions of one client.
pub(crate) struct ClientMind {
    /// Number of the client, part of every value it writes.
    number: u64,
    /// The keyspace that it works on.
    pub(crate) group: GroupId,
    rng: Rng,
    written: u64,
    /// Last value seen of each key of the current generation; `None`: absent.
    seen: BTreeMap<Bytes, Option<Bytes>>,
    generation: u64,
    /// Highest revision seen in a reply.
    revision: Revision,
}

impl ClientMind {
    /// A client that has seen nothing.
    #[must_use]
    pub(crate) fn new(number: u64, group: GroupId, rng: Rng) -> ClientMind {
        let seen = BTreeMap::new();
        ClientMind { number, group, rng, written: 0, seen, generation: 0, revision: 1 }
    }

    /// Nanoseconds until its next operation.
    pub(crate) fn think(&mut self, profile: &WorkloadProfile) -> u64 {
        self.rng.exponential(profile.mean_think)
    }

    /// Takes note of what a reply showed.
    pub(crate) fn saw(&mut self, key: &Bytes, value: Option<&Bytes>, revision: Revision) {
        self.revision = self.revision.max(revision);
        self.seen.insert(key.clone(), value.cloned());
    }

    /// Decides what to do next.
    pub(crate) fn decide(&mut self, now: Instant, profile: &WorkloadProfile) -> Operation {
        let generation = now.0 / profile.key_lifetime;
        if generation != self.generation {
            self.generation = generation;
            self.seen.clear();
        }
        let key = self.key(profile);
        match self.kind(profile) {
            Kind::Put => Operation::Put { key, value: self.fresh_value(profile) },
            Kind::Get => Operation::Read { keys: vec![key] },
            Kind::CompareAndSet => {
                let expect = self.seen.get(&key).cloned().flatten();
                Operation::CompareAndSet { key, expect, set: self.fresh_value(profile) }
            }
            Kind::Delete => Operation::Delete { key },
            Kind::Range => {
                let first = self.rng.below(profile.keys);
                let last = (first + self.rng.between(1, 3)).min(profile.keys - 1);
                let keys = (first..=last).map(|number| self.key_number(number)).collect();
                Operation::Read { keys }
            }
            Kind::Serializable => Operation::Serializable { key },
            Kind::Historical => {
                Operation::Historical { key, revision: self.recent_revision(60).max(1) }
            }
            Kind::Compact => Operation::Compact { revision: self.recent_revision(200).max(1) },
            Kind::PutPair => {
                Operation::PutPair { pair: self.rng.below(3), value: self.fresh_value(profile) }
            }
            Kind::GetPair => Operation::GetPair { pair: self.rng.below(3) },
        }
    }

    fn kind(&mut self, profile: &WorkloadProfile) -> Kind {
        let total: u32 = profile.mix.iter().sum();
        let mut drawn = self.rng.below(u64::from(total));
        for (kind, weight) in Kind::ALL.iter().zip(profile.mix) {
            match drawn.checked_sub(u64::from(weight)) {
                None => return *kind,
                Some(rest) => drawn = rest,
            }
        }
        unreachable!("the weights add up to the total")
    }

    fn key(&mut self, profile: &WorkloadProfile) -> Bytes {
        // The smaller of two draws: some keys are hotter than others.
        let number = self.rng.below(profile.keys).min(self.rng.below(profile.keys));
        self.key_number(number)
    }

    fn key_number(&self, number: u64) -> Bytes {
        Bytes::from(format!("key/{:03}/{number:03}", self.generation))
    }

    fn recent_revision(&mut self, spread: u64) -> Revision {
        let back = i64::try_from(self.rng.below(spread)).expect("small");
        self.revision - back
    }

    fn fresh_value(&mut self, profile: &WorkloadProfile) -> Bytes {
        self.written += 1;
        let mut value = format!("{}.{}", self.number, self.written).into_bytes();
        let (big, bytes) = profile.big_value;
        let bytes = if self.rng.chance(big) { bytes } else { profile.value_bytes };
        let len = self.rng.index(bytes + 1);
        if value.len() < len {
            value.resize(len, b'.');
        }
        Bytes::from(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_heap::SECOND;
    use crate::rng::Seed;
    use crate::swarm::Swarm;
    use std::collections::BTreeSet;

    fn operations(number: u64, count: u64) -> Vec<Operation> {
        let mut profile = Swarm::draw(Seed(1)).workload;
        profile.mix = [1; 10];
        let mut mind = ClientMind::new(number, GroupId(1), Seed(1).stream("client", number));
        (0..count).map(|n| mind.decide(Instant(n * SECOND / 100), &profile)).collect()
    }

    #[test]
    fn no_value_is_written_twice() {
        let mut values = BTreeSet::new();
        for operation in operations(1, 2_000).iter().chain(&operations(2, 2_000)) {
            if let Operation::Put { value, .. }
            | Operation::CompareAndSet { set: value, .. }
            | Operation::PutPair { value, .. } = operation
            {
                assert!(values.insert(value.clone()), "{value:?} twice");
            }
        }
        assert!(values.len() > 500);
    }

    #[test]
    fn every_operation_is_either_a_command_or_a_read() {
        for operation in operations(1, 1_000) {
            assert_ne!(operation.command().is_some(), operation.range().is_some());
        }
    }

    #[test]
    fn keys_are_replaced_after_their_lifetime() {
        let operations = operations(1, 4_000);
        let keys: BTreeSet<Bytes> = operations
            .iter()
            .filter_map(|operation| match operation {
                Operation::Put { key, .. } => Some(key.slice(..7)),
                _ => None,
            })
            .collect();
        assert!(keys.len() >= 4, "{keys:?}");
    }
}
