//! Refuses transactions that would change a key twice in one revision.
//!
//! The rule is the protocol's ("not allowed to modify the same key several times within one txn"):
//! along every way that a transaction can take, a key is put at most once, and not both put and
//! deleted. The two branches of a nested transaction exclude each other, so that both may change
//! the same key. Deleting twice is no second change. etcd's own check overlooks two cases, which
//! are refused here: a delete with an open end over a put key, and a nested delete over a key put
//! by an earlier nested transaction.

use super::errors::{DUPLICATE_KEY, ProtocolError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use store::command::{Txn, TxnOp};
use store::range::KeyRange;

/// Checks both branches, which exclude each other.
pub fn check(txn: &Txn) -> Result<(), ProtocolError> {
    Changes::of(&txn.success)?;
    Changes::of(&txn.failure)?;
    Ok(())
}

/// What a list of operations may change.
#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: KeySet<'a>,
}

impl<'a> Changes<'a> {
    fn of(operations: &'a [TxnOp]) -> Result<Changes<'a>, ProtocolError> {
        let mut level = Changes::default();
        for operation in operations {
            if let TxnOp::DeleteRange(delete) = operation {
                level.deletes.insert(&delete.keys);
            }
        }
        for operation in operations {
            if let TxnOp::Txn(nested) = operation {
                let mut either = Changes::of(&nested.success)?;
                either.absorb(Changes::of(&nested.failure)?);
                level.refuse_overlap(&either)?;
                level.absorb(either);
            }
        }
        for operation in operations {
            if let TxnOp::Put(put) = operation
                && (level.deletes.contains(&put.key) || !level.puts.insert(&put.key))
            {
                return Err(DUPLICATE_KEY);
            }
        }
        Ok(level)
    }

    fn refuse_overlap(&self, nested: &Changes<'_>) -> Result<(), ProtocolError> {
        let put_again = nested.puts.iter().any(|key| self.puts.contains(key));
        let overlap = put_again
            || self.deletes.contains_any(&nested.puts)
            || nested.deletes.contains_any(&self.puts);
        if overlap { Err(DUPLICATE_KEY) } else { Ok(()) }
    }

    fn absorb(&mut self, other: Changes<'a>) {
        self.puts.extend(other.puts);
        self.deletes.absorb(other.deletes);
    }
}

/// Keys of many ranges.
#[derive(Default)]
struct KeySet<'a> {
    points: BTreeSet<&'a [u8]>,
    /// Start to end, no end meaning open. Invariant: not empty, disjoint and not touching.
    spans: BTreeMap<&'a [u8], Option<&'a [u8]>>,
}

impl<'a> KeySet<'a> {
    fn insert(&mut self, keys: &'a KeyRange) {
        match keys {
            KeyRange::Key(key) => {
                self.points.insert(key);
            }
            KeyRange::Span { start, end } => self.insert_span(start, Some(end)),
            KeyRange::From(start) => self.insert_span(start, None),
        }
    }

    fn insert_span(&mut self, mut start: &'a [u8], mut end: Option<&'a [u8]>) {
        if end.is_some_and(|end| end <= start) {
            return;
        }
        // Whatever begins at or before our end and does not end before our start becomes ours.
        while let Some((&other, &other_end)) = self.last_at_or_before(end) {
            if other_end.is_some_and(|other_end| other_end < start) {
                break;
            }
            self.spans.remove(other);
            start = start.min(other);
            end = match (end, other_end) {
                (Some(end), Some(other_end)) => Some(end.max(other_end)),
                _ => None,
            };
        }
        self.spans.insert(start, end);
    }

    fn last_at_or_before(&self, end: Option<&[u8]>) -> Option<(&&'a [u8], &Option<&'a [u8]>)> {
        let to = end.map_or(Bound::Unbounded, Bound::Included);
        self.spans.range::<[u8], _>((Bound::Unbounded, to)).next_back()
    }

    fn absorb(&mut self, other: KeySet<'a>) {
        self.points.extend(other.points);
        for (start, end) in other.spans {
            self.insert_span(start, end);
        }
    }

    fn contains(&self, key: &Bytes) -> bool {
        let in_span = || {
            let (_, end) = self.last_at_or_before(Some(key))?;
            Some(end.is_none_or(|end| end > &key[..]))
        };
        self.points.contains(&key[..]) || in_span().unwrap_or(false)
    }

    fn contains_any(&self, keys: &BTreeSet<&[u8]>) -> bool {
        let spanned = |(start, end): (&&[u8], &Option<&[u8]>)| {
            let to = end.map_or(Bound::Unbounded, Bound::Excluded);
            keys.range::<[u8], _>((Bound::Included(*start), to)).next().is_some()
        };
        self.points.iter().any(|point| keys.contains(point)) || self.spans.iter().any(spanned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use store::command::{DeleteRange, Put};

    fn put(key: &'static str) -> TxnOp {
        TxnOp::Put(Put { key: Bytes::from(key), ..Put::default() })
    }

    fn delete(keys: KeyRange) -> TxnOp {
        TxnOp::DeleteRange(DeleteRange { keys, prev_kv: false })
    }

    fn delete_key(key: &'static str) -> TxnOp {
        delete(KeyRange::Key(Bytes::from(key)))
    }

    fn delete_span(start: &'static str, end: &'static str) -> TxnOp {
        delete(KeyRange::Span { start: Bytes::from(start), end: Bytes::from(end) })
    }

    fn nested(success: Vec<TxnOp>, failure: Vec<TxnOp>) -> TxnOp {
        TxnOp::Txn(Txn { compare: Vec::new(), success, failure })
    }

    fn accepted(success: Vec<TxnOp>) -> bool {
        let forwards = Txn { success: success.clone(), ..Txn::default() };
        let as_failure = Txn { failure: success, ..Txn::default() };
        let verdict = check(&forwards);
        assert_eq!(verdict, check(&as_failure), "the branches are treated differently");
        verdict.is_ok()
    }

    #[test]
    fn a_key_is_put_once() {
        assert!(accepted(vec![put("a"), put("b")]));
        assert!(!accepted(vec![put("a"), put("a")]));
    }

    #[test]
    fn a_key_is_not_put_and_deleted_in_either_order() {
        assert!(!accepted(vec![put("a"), delete_key("a")]));
        assert!(!accepted(vec![delete_key("a"), put("a")]));
        assert!(!accepted(vec![delete_span("a", "c"), put("b")]));
        assert!(accepted(vec![delete_span("a", "c"), put("c")]));
        assert!(accepted(vec![delete_span("c", "a"), put("b")]));
        assert!(!accepted(vec![delete(KeyRange::From(Bytes::from("a"))), put("b")]));
        assert!(accepted(vec![delete(KeyRange::From(Bytes::from("b"))), put("a")]));
    }

    #[test]
    fn a_key_may_be_deleted_twice() {
        assert!(accepted(vec![delete_key("a"), delete_key("a"), delete_span("a", "b")]));
    }

    #[test]
    fn the_branches_of_a_nested_transaction_exclude_each_other() {
        assert!(accepted(vec![nested(vec![put("a")], vec![put("a")])]));
        assert!(accepted(vec![nested(vec![put("a")], vec![delete_key("a")])]));
        assert!(!accepted(vec![nested(vec![put("a"), put("a")], vec![])]));
        assert!(!accepted(vec![nested(vec![], vec![put("a"), put("a")])]));
    }

    #[test]
    fn a_nested_transaction_does_not_exclude_its_surroundings() {
        assert!(!accepted(vec![nested(vec![put("a")], vec![]), put("a")]));
        assert!(!accepted(vec![put("a"), nested(vec![], vec![put("a")])]));
        assert!(!accepted(vec![delete_key("a"), nested(vec![put("a")], vec![])]));
        assert!(!accepted(vec![nested(vec![delete_key("a")], vec![]), put("a")]));
    }

    #[test]
    fn sibling_transactions_do_not_exclude_each_other() {
        assert!(!accepted(vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])]));
        assert!(!accepted(vec![
            nested(vec![put("a")], vec![]),
            nested(vec![delete_span("a", "b")], vec![])
        ]));
        assert!(!accepted(vec![
            nested(vec![delete_key("a")], vec![]),
            nested(vec![put("a")], vec![])
        ]));
    }

    /// One of few keys, so that they meet often.
    fn key() -> impl Strategy<Value = Bytes> {
        (0..8_u8).prop_map(|byte| Bytes::copy_from_slice(&[b'a' + byte]))
    }

    fn keys() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            key().prop_map(KeyRange::Key),
            key().prop_map(KeyRange::From),
            (key(), key()).prop_map(|(start, end)| KeyRange::Span { start, end }),
        ]
    }

    proptest! {
        #[test]
        fn a_key_set_contains_what_one_of_its_ranges_does(
            ranges in prop::collection::vec(keys(), 0..6),
            tried in prop::collection::btree_set(key(), 0..4),
        ) {
            let mut set = KeySet::default();
            for range in &ranges {
                set.insert(range);
            }
            let naive = |key: &Bytes| ranges.iter().any(|range| range.contains(key));
            for key in &tried {
                prop_assert_eq!(set.contains(key), naive(key));
            }
            let slices = tried.iter().map(|key| &key[..]).collect();
            prop_assert_eq!(set.contains_any(&slices), tried.iter().any(naive));
        }
    }
}
