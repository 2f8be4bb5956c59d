//! Revision order: etcd's revisions are one total order of writes that respects real time and
//! explains every reply.
//!
//! Where `linearizability` searches for an order, here the service has named one: O(n log n), and
//! across keys. Checked: no two acknowledged writes share a revision; whatever begins after a reply
//! was received has no lower revision than it (a write: a higher one); a reply holds what the
//! acknowledged writes up to its revision left, unless a write of unknown outcome may explain it.
//!
//! Replies without a revision are not judged. Each operation is taken to be a request of its own: a
//! transaction that writes several keys does not fit into a history of this kind.
//!
//! Not here: replies without revisions (`linearizability`), events (`watch`).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use crate::history::{History, Input, MaybeBytes, Operation, Outcome, Output, Revision, Time};

/// Later ones are not reported: they are mostly consequences.
const VIOLATIONS_MAX: usize = 32;

/// Replies that contradict the order of revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two acknowledged writes have one revision.
    SharedRevision {
        /// One write.
        first: Box<Operation>,
        /// The other.
        second: Box<Operation>,
    },
    /// An operation began after another had been answered, but its revision says otherwise.
    AgainstTime {
        /// The one that had been answered.
        earlier: Box<Operation>,
        /// The one that began afterwards.
        later: Box<Operation>,
    },
    /// A reply does not fit the state at its revision.
    Inconsistent {
        /// The operation with that reply.
        operation: Box<Operation>,
        /// The revision of that state.
        revision: Revision,
        /// The last acknowledged write to the key up to it, if any.
        last_write: Option<Box<Operation>>,
        /// What is wrong, as part of a sentence.
        why: &'static str,
    },
}

/// Checks all replies that carry a revision. Empty: all fit. Keys are absent at first.
pub fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let by_revision = unique_revisions(history, &mut violations);
    real_time(history, &mut violations);

    let mut keys: BTreeMap<&[u8], Key> = BTreeMap::new();
    for operation in history.operations() {
        let key = keys.entry(&operation.key).or_default();
        match (operation.acknowledged_write(), operation.header_revision()) {
            (Some(_), Some(revision)) => {
                key.writes.entry(revision).or_insert(operation);
            }
            (Some(value), None) => key.add_uncertain(value, operation.call),
            (None, _) => {
                let value = operation.uncertain_write();
                value.into_iter().for_each(|value| key.add_uncertain(value, operation.call));
            }
        }
    }
    for operation in history.operations() {
        if violations.len() >= VIOLATIONS_MAX {
            break;
        }
        let key = &keys[operation.key.as_slice()];
        violations.extend(key.judge(operation, &by_revision));
    }
    violations.truncate(VIOLATIONS_MAX);
    violations
}

fn unique_revisions<'a>(
    history: &'a History,
    violations: &mut Vec<Violation>,
) -> BTreeMap<Revision, &'a Operation> {
    let mut by_revision: BTreeMap<Revision, &Operation> = BTreeMap::new();
    for operation in history.operations() {
        let (Some(_), Some(revision)) =
            (operation.acknowledged_write(), operation.header_revision())
        else {
            continue;
        };
        if let Some(first) = by_revision.insert(revision, operation) {
            violations.push(Violation::SharedRevision {
                first: Box::new(first.clone()),
                second: Box::new(operation.clone()),
            });
        }
    }
    by_revision
}

fn real_time(history: &History, violations: &mut Vec<Violation>) {
    let mut calls = history
        .operations()
        .iter()
        .filter_map(|operation| Some((operation.header_revision()?, operation)))
        .collect::<Vec<_>>();
    let mut returns = calls.clone();
    calls.sort_by_key(|(_, operation)| operation.call);
    returns.sort_by_key(|(_, operation)| operation.returned());
    let mut returns = returns.into_iter().peekable();
    // The reply with the highest revision of those received so far.
    let mut highest: Option<(Revision, &Operation)> = None;
    for (revision, later) in calls {
        while let Some(next) = returns.next_if(|(_, other)| other.returned() < Some(later.call)) {
            if highest.is_none_or(|(highest, _)| highest < next.0) {
                highest = Some(next);
            }
        }
        let Some((floor, earlier)) = highest else { continue };
        let advances = later.acknowledged_write().is_some();
        if revision < floor || (advances && revision == floor) {
            violations.push(Violation::AgainstTime {
                earlier: Box::new(earlier.clone()),
                later: Box::new(later.clone()),
            });
        }
    }
}

/// All writes to one key.
#[derive(Default)]
struct Key<'a> {
    /// Acknowledged, by revision.
    writes: BTreeMap<Revision, &'a Operation>,
    /// Of unknown outcome or revision: by value, the earliest call.
    uncertain: BTreeMap<Option<&'a [u8]>, Time>,
}

impl<'a> Key<'a> {
    fn add_uncertain(&mut self, value: Option<&'a [u8]>, call: Time) {
        let earliest = self.uncertain.entry(value).or_insert(call);
        *earliest = call.min(*earliest);
    }

    fn judge(
        &self,
        operation: &Operation,
        by_revision: &BTreeMap<Revision, &Operation>,
    ) -> Option<Violation> {
        let Outcome::Ok { at, revision: Some(revision), output } = &operation.outcome else {
            return None;
        };
        let before = revision.saturating_sub(1);
        let (revision, why) = match (&operation.input, output) {
            (_, Output::Get { value: Some(value), mod_revision: Some(written) }) => {
                let why = self.judge_version(value, *written, *revision, *at, by_revision);
                (*revision, why?)
            }
            (_, Output::Get { value, .. }) if !self.may_be(value.as_deref(), *revision, *at) => {
                (*revision, "it read something else")
            }
            (_, Output::Delete { deleted: false }) if !self.may_be(None, *revision, *at) => {
                (*revision, "it found nothing to delete")
            }
            (_, Output::Delete { deleted: true }) if !self.may_not_be(None, before, *at) => {
                (before, "it deleted something")
            }
            (Input::CompareAndSet { expect, .. }, Output::CompareAndSet { succeeded }) => {
                let expect = expect.as_deref();
                match succeeded {
                    true if !self.may_be(expect, before, *at) => {
                        (before, "its expectation was held to be met")
                    }
                    false if !self.may_not_be(expect, *revision, *at) => {
                        (*revision, "its expectation was held not to be met")
                    }
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some(Violation::Inconsistent {
            operation: Box::new(operation.clone()),
            revision,
            last_write: self.last(revision).map(|(_, write)| Box::new(write.clone())),
            why,
        })
    }

    /// What is wrong with having read `value`, said to be written at `written`, at `revision`.
    fn judge_version(
        &self,
        value: &[u8],
        written: Revision,
        revision: Revision,
        returned: Time,
        by_revision: &BTreeMap<Revision, &Operation>,
    ) -> Option<&'static str> {
        let last = self.last(revision);
        let (last_revision, left) = last.map_or((0, None), |(at, write)| (at, left_by(write)));
        if written > revision {
            return Some("it read a value from a later revision");
        }
        if written < last_revision {
            return Some("it read an older value");
        }
        if written == last_revision {
            return (left != Some(value)).then_some("it read another value of that revision");
        }
        if by_revision.contains_key(&written) {
            return Some("it read a value of a revision that wrote another key");
        }
        let maybe = self.uncertain.get(&Some(value)).is_some_and(|call| *call <= returned);
        (!maybe).then_some("it read a value that no write explains")
    }

    /// Whether the key may have held exactly this.
    fn may_be(&self, value: Option<&[u8]>, revision: Revision, returned: Time) -> bool {
        let left = self.last(revision).and_then(|(_, write)| left_by(write));
        left == value || self.uncertain.get(&value).is_some_and(|call| *call <= returned)
    }

    /// Whether the key may have held anything else.
    fn may_not_be(&self, value: Option<&[u8]>, revision: Revision, returned: Time) -> bool {
        let left = self.last(revision).and_then(|(_, write)| left_by(write));
        let others = self.uncertain.iter().filter(|(other, _)| **other != value);
        left != value || others.into_iter().any(|(_, call)| *call <= returned)
    }

    /// The last acknowledged write at or below a revision.
    fn last(&self, revision: Revision) -> Option<(Revision, &'a Operation)> {
        let range = (Bound::Unbounded, Bound::Included(revision));
        self.writes.range(range).next_back().map(|(revision, write)| (*revision, *write))
    }
}

fn left_by(write: &Operation) -> Option<&[u8]> {
    write.acknowledged_write().flatten()
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::SharedRevision { first, second } => {
                write!(f, "two writes have one revision:\n  {first}\n  {second}")
            }
            Violation::AgainstTime { earlier, later } => write!(
                f,
                "revisions contradict time: the second began after the first had been answered, \
                 but has no later revision:\n  {earlier}\n  {later}"
            ),
            Violation::Inconsistent { operation, revision, last_write: Some(write), why } => {
                let left = MaybeBytes(left_by(write));
                write!(
                    f,
                    "at revision {revision} the key was left {left} by the first, but the second \
                     does not fit: {why}:\n  {write}\n  {operation}"
                )
            }
            Violation::Inconsistent { operation, revision, last_write: None, why } => write!(
                f,
                "up to revision {revision} no acknowledged write touched the key, but this does \
                 not fit: {why}:\n  {operation}"
            ),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(call: Time, input: Input, revision: Revision, output: Output) -> Operation {
        let outcome = Outcome::Ok { at: call + 1, revision: Some(revision), output };
        Operation { client: call, key: b"k".to_vec(), input, call, outcome }
    }

    fn put(call: Time, value: &str, revision: Revision) -> Operation {
        answered(call, Input::Put { value: value.into() }, revision, Output::Put)
    }

    fn get(call: Time, found: Option<(&str, Revision)>, revision: Revision) -> Operation {
        let (value, mod_revision) = found.unzip();
        let value = value.map(|value| value.as_bytes().to_vec());
        answered(call, Input::Get, revision, Output::Get { value, mod_revision })
    }

    fn cas(call: Time, expect: &str, succeeded: bool, revision: Revision) -> Operation {
        let input = Input::CompareAndSet { expect: Some(expect.into()), set: b"set".to_vec() };
        answered(call, input, revision, Output::CompareAndSet { succeeded })
    }

    fn delete(call: Time, deleted: bool, revision: Revision) -> Operation {
        answered(call, Input::Delete, revision, Output::Delete { deleted })
    }

    fn unanswered(operation: Operation) -> Operation {
        Operation { outcome: Outcome::Unknown, ..operation }
    }

    fn judge(operations: &[Operation]) -> Vec<Violation> {
        check(&operations.iter().cloned().collect())
    }

    fn only_reason(operations: &[Operation]) -> &'static str {
        let violations = judge(operations);
        let [Violation::Inconsistent { why, .. }] = violations[..] else {
            panic!("one inconsistency expected: {violations:?}")
        };
        why
    }

    #[test]
    fn an_honest_history_passes() {
        let honest = [
            get(0, None, 1),
            delete(2, false, 1),
            put(4, "a", 2),
            get(6, Some(("a", 2)), 2),
            cas(8, "b", false, 2),
            cas(10, "a", true, 3),
            get(12, Some(("set", 3)), 9),
            delete(14, true, 10),
            get(16, None, 10),
        ];
        assert_eq!(judge(&honest), []);
    }

    #[test]
    fn a_shared_revision_is_found_across_keys() {
        let other = Operation { key: b"other".to_vec(), ..put(0, "b", 2) };
        let violations = judge(&[put(0, "a", 2), other]);
        assert!(matches!(violations[..], [Violation::SharedRevision { .. }]), "{violations:?}");
        assert!(violations[0].to_string().starts_with("two writes have one revision"));
    }

    #[test]
    fn a_write_with_a_lower_revision_than_one_answered_before_is_found_across_keys() {
        let other = Operation { key: b"other".to_vec(), ..put(5, "b", 2) };
        let violations = judge(&[put(0, "a", 3), other.clone()]);
        assert!(matches!(violations[..], [Violation::AgainstTime { .. }]), "{violations:?}");
        // Concurrent ones may go either way.
        assert_eq!(judge(&[put(0, "a", 3), Operation { call: 1, ..other }]), []);
    }

    #[test]
    fn a_stale_read_is_found_by_its_header_alone() {
        let other = Operation { key: b"other".to_vec(), ..put(0, "a", 5) };
        let violations = judge(&[other, get(9, None, 4)]);
        assert!(matches!(violations[..], [Violation::AgainstTime { .. }]), "{violations:?}");
    }

    #[test]
    fn a_write_after_a_read_is_later_than_what_was_read() {
        let violations = judge(&[get(0, None, 7), put(5, "b", 7)]);
        assert!(matches!(violations[..], [Violation::AgainstTime { .. }, _]), "{violations:?}");
    }

    #[test]
    fn reads_that_do_not_fit_their_revision_are_found() {
        let writes = [put(0, "a", 2), put(2, "b", 3)];
        let with = |operation: Operation| [writes.as_slice(), &[operation]].concat();
        assert_eq!(only_reason(&with(get(9, Some(("a", 2)), 3))), "it read an older value");
        assert_eq!(
            only_reason(&with(get(9, Some(("x", 3)), 3))),
            "it read another value of that revision"
        );
        assert_eq!(
            only_reason(&with(get(9, Some(("b", 4)), 3))),
            "it read a value from a later revision"
        );
        assert_eq!(
            only_reason(&with(get(9, Some(("x", 4)), 4))),
            "it read a value that no write explains"
        );
        assert_eq!(only_reason(&with(get(9, None, 3))), "it read something else");
        let other = Operation { key: b"other".to_vec(), ..put(4, "x", 4) };
        assert_eq!(
            only_reason(&[with(get(9, Some(("b", 4)), 4)), vec![other]].concat()),
            "it read a value of a revision that wrote another key"
        );
    }

    #[test]
    fn conditional_writes_that_do_not_fit_are_found() {
        let writes = [put(0, "a", 2), put(2, "b", 3)];
        let with = |operation: Operation| [writes.as_slice(), &[operation]].concat();
        assert_eq!(only_reason(&with(cas(9, "a", true, 4))), "its expectation was held to be met");
        assert_eq!(
            only_reason(&with(cas(9, "b", false, 3))),
            "its expectation was held not to be met"
        );
        assert_eq!(only_reason(&with(delete(9, false, 3))), "it found nothing to delete");
        assert_eq!(only_reason(&[delete(9, true, 3)]), "it deleted something");
    }

    #[test]
    fn a_write_of_unknown_outcome_explains_what_it_can() {
        let maybe = unanswered(put(0, "x", 0));
        let history = |operation: Operation| [put(0, "a", 2), maybe.clone(), operation];
        assert_eq!(judge(&history(get(9, Some(("x", 3)), 3))), []);
        assert_eq!(judge(&history(cas(9, "a", false, 3))), []);
        assert_eq!(judge(&history(cas(9, "x", true, 4))), []);
        assert_eq!(judge(&history(get(9, Some(("a", 2)), 3))), []);
        assert_eq!(judge(&history(get(9, None, 3))).len(), 1);
        let too_late = unanswered(put(20, "x", 0));
        assert_eq!(judge(&[put(0, "a", 2), too_late, get(9, Some(("x", 3)), 3)]).len(), 1);
    }

    #[test]
    fn the_report_is_bounded() {
        let stale = (0..1_000).map(|index| get(10 + 2 * index, None, 2));
        let history: History = [put(0, "a", 2)].into_iter().chain(stale).collect();
        assert_eq!(check(&history).len(), VIOLATIONS_MAX);
    }
}
