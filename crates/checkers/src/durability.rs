//! Durability: what was acknowledged is there in the end, on every member.
//!
//! Compares the final state of each member with the acknowledged writes. For each key the last
//! acknowledged write must be there, unless one of unknown outcome may have come later. Members
//! that read the same revision must also hold the same.
//!
//! The invariant that lets this be simple: a history in which a write is overwritten before the end
//! says nothing about that write here; `watch` and `linearizability` judge what was seen of it.
//!
//! Not here: reading the members (the caller does, after they have caught up).

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{Bytes, History, MaybeBytes, Operation, Revision, Time};

/// A key's value and the revision that wrote it.
pub type Written = (Vec<u8>, Revision);

/// All that one member holds, read linearizably or after it has caught up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalState {
    /// The member's name.
    pub member: String,
    /// Revision of the keyspace at the time of reading.
    pub revision: Revision,
    /// What it holds.
    pub pairs: BTreeMap<Vec<u8>, Written>,
}

/// What a member's final state contradicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An acknowledged write is not there, and nothing can have come after it.
    Lost {
        /// The member.
        member: String,
        /// The write.
        write: Box<Operation>,
        /// What the member holds instead.
        found: Option<Written>,
    },
    /// A value is there that no acknowledged or uncertain write explains.
    Unexplained {
        /// The member.
        member: String,
        /// The key.
        key: Vec<u8>,
        /// What the member holds.
        found: Written,
    },
    /// Two members that read the same revision hold different values.
    MembersDiffer {
        /// The members.
        members: (String, String),
        /// The revision both read.
        revision: Revision,
        /// The key.
        key: Vec<u8>,
        /// What each holds.
        found: (Option<Written>, Option<Written>),
    },
}

/// Compares the acknowledged writes of a history with what each member holds. Empty: all is there.
pub fn check(history: &History, states: &[FinalState]) -> Vec<Violation> {
    let mut keys: BTreeMap<&[u8], Writes> = BTreeMap::new();
    for operation in history.operations() {
        let writes = keys.entry(&operation.key).or_default();
        if operation.acknowledged_write().is_some() {
            writes.acknowledged.push(operation);
        } else if operation.uncertain_write().is_some() {
            writes.uncertain.push(operation);
        }
    }
    let mut violations = Vec::new();
    for state in states {
        for (key, writes) in &keys {
            violations.extend(writes.judge(state, key));
        }
        let unasked = state.pairs.iter().filter(|(key, _)| !keys.contains_key(key.as_slice()));
        violations.extend(unasked.map(|(key, found)| Violation::Unexplained {
            member: state.member.clone(),
            key: key.clone(),
            found: found.clone(),
        }));
    }
    violations.extend(states.windows(2).flat_map(|pair| differences(&pair[0], &pair[1])));
    violations
}

/// The writes to one key that may have taken effect.
#[derive(Default)]
struct Writes<'a> {
    acknowledged: Vec<&'a Operation>,
    uncertain: Vec<&'a Operation>,
}

impl Writes<'_> {
    fn judge(&self, state: &FinalState, key: &[u8]) -> Option<Violation> {
        let member = || state.member.clone();
        let found = state.pairs.get(key);
        let value = found.map(|(value, _)| value.as_slice());
        let last = self.possibly_last();
        let explained = match last.is_empty() {
            // Nobody ever wrote it for certain.
            true => found.is_none(),
            false => last.iter().any(|write| explains(write, found)),
        };
        let maybe = |write: &&Operation| write.uncertain_write() == Some(value);
        if explained || self.uncertain.iter().any(|write| maybe(write) && follows(found, &last)) {
            return None;
        }
        match (last.first(), found) {
            (Some(write), _) => Some(Violation::Lost {
                member: member(),
                write: Box::new((*write).clone()),
                found: found.cloned(),
            }),
            (None, Some(found)) => Some(Violation::Unexplained {
                member: member(),
                key: key.to_vec(),
                found: found.clone(),
            }),
            (None, None) => unreachable!("an absent key that nobody wrote is explained"),
        }
    }

    /// The acknowledged write with the highest revision; without revisions, all those after whose
    /// reply no other began.
    fn possibly_last(&self) -> Vec<&Operation> {
        let by_revision = self.acknowledged.iter().map(|write| write.header_revision());
        let by_revision: Option<Vec<Revision>> = by_revision.collect();
        if let Some(revisions) = by_revision {
            let last =
                revisions.iter().zip(&self.acknowledged).max_by_key(|(revision, _)| **revision);
            return last.map(|(_, write)| *write).into_iter().collect();
        }
        let last_call = self.acknowledged.iter().map(|write| write.call).max().unwrap_or(0);
        let ended = |write: &Operation| write.returned().unwrap_or(Time::MAX);
        let last = self.acknowledged.iter().copied();
        last.filter(|write| ended(write) >= last_call).collect()
    }
}

/// Whether this acknowledged write left what was found.
fn explains(write: &Operation, found: Option<&Written>) -> bool {
    let same_revision = |revision: Revision| {
        write.header_revision().is_none_or(|acknowledged| acknowledged == revision)
    };
    match (write.acknowledged_write().flatten(), found) {
        (Some(written), Some((value, revision))) => written == value && same_revision(*revision),
        (None, None) => true,
        _ => false,
    }
}

/// Whether what was found can have been written after the last acknowledged writes.
fn follows(found: Option<&Written>, last: &[&Operation]) -> bool {
    let Some((_, revision)) = found else { return true };
    last.iter().all(|write| write.header_revision().is_none_or(|last| last < *revision))
}

fn differences(first: &FinalState, second: &FinalState) -> Vec<Violation> {
    if first.revision != second.revision {
        return Vec::new();
    }
    let differs = |key: &&Vec<u8>| first.pairs.get(*key) != second.pairs.get(*key);
    let missing = second.pairs.keys().filter(|key| !first.pairs.contains_key(*key));
    let keys = first.pairs.keys().chain(missing).filter(differs);
    let differences = keys.map(|key| Violation::MembersDiffer {
        members: (first.member.clone(), second.member.clone()),
        revision: first.revision,
        key: key.clone(),
        found: (first.pairs.get(key).cloned(), second.pairs.get(key).cloned()),
    });
    differences.collect()
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Lost { member, write, found } => write!(
                f,
                "member {member} lost an acknowledged write: it holds {} after: {write}",
                Found(found.as_ref())
            ),
            Violation::Unexplained { member, key, found } => write!(
                f,
                "member {member} holds {} under key {}, which nobody wrote",
                Found(Some(found)),
                Bytes(key)
            ),
            Violation::MembersDiffer { members, revision, key, found } => write!(
                f,
                "at revision {revision} member {} holds {} under key {}, but member {} holds {}",
                members.0,
                Found(found.0.as_ref()),
                Bytes(key),
                members.1,
                Found(found.1.as_ref())
            ),
        }
    }
}

struct Found<'a>(Option<&'a Written>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((value, revision)) => write!(f, "{} of revision {revision}", Bytes(value)),
            None => MaybeBytes(None).fmt(f),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Input, Outcome, Output};

    fn operation(call: Time, input: Input, outcome: Outcome) -> Operation {
        Operation { client: 1, key: b"k".to_vec(), input, call, outcome }
    }

    fn put(call: Time, value: &str, revision: Option<Revision>) -> Operation {
        let input = Input::Put { value: value.as_bytes().to_vec() };
        operation(call, input, Outcome::Ok { at: call + 1, revision, output: Output::Put })
    }

    fn delete(call: Time, revision: Revision) -> Operation {
        let (revision, output) = (Some(revision), Output::Delete { deleted: true });
        operation(call, Input::Delete, Outcome::Ok { at: call + 1, revision, output })
    }

    fn maybe_put(value: &str) -> Operation {
        operation(0, Input::Put { value: value.as_bytes().to_vec() }, Outcome::Unknown)
    }

    fn member(name: &str, found: Option<(&str, Revision)>) -> FinalState {
        let pair = |(value, revision): (&str, _)| (b"k".to_vec(), (value.into(), revision));
        let pairs = found.map(pair).into_iter().collect();
        FinalState { member: name.to_owned(), revision: 9, pairs }
    }

    fn judge(writes: &[Operation], found: Option<(&str, Revision)>) -> Vec<Violation> {
        check(&writes.iter().cloned().collect(), &[member("n1", found)])
    }

    #[test]
    fn what_was_acknowledged_last_is_there() {
        let writes = [put(0, "a", Some(2)), put(2, "b", Some(3))];
        assert_eq!(judge(&writes, Some(("b", 3))), []);
        assert_eq!(judge(&[put(0, "a", Some(2)), delete(2, 3)], None), []);
        assert_eq!(judge(&[], None), []);
    }

    #[test]
    fn a_lost_write_is_found() {
        let writes = [put(0, "a", Some(2)), put(2, "b", Some(3))];
        for found in [None, Some(("a", 2)), Some(("b", 4)), Some(("c", 4))] {
            let violations = judge(&writes, found);
            let [Violation::Lost { write, .. }] = violations.as_slice() else {
                panic!("{found:?}: {violations:?}")
            };
            assert_eq!(**write, writes[1]);
        }
        let text = judge(&writes, Some(("a", 2)))[0].to_string();
        assert!(text.starts_with("member n1 lost an acknowledged write: it holds \"a\""), "{text}");
    }

    #[test]
    fn a_lost_delete_is_found() {
        let writes = [put(0, "a", Some(2)), delete(2, 3)];
        assert!(matches!(judge(&writes, Some(("a", 2)))[..], [Violation::Lost { .. }]));
    }

    #[test]
    fn an_uncertain_write_may_have_come_last_but_not_before() {
        let writes = [put(0, "a", Some(2)), put(2, "b", Some(3)), maybe_put("c")];
        assert_eq!(judge(&writes, Some(("c", 4))), []);
        assert_eq!(judge(&writes, Some(("b", 3))), []);
        assert!(matches!(judge(&writes, Some(("c", 1)))[..], [Violation::Lost { .. }]));
        assert!(matches!(judge(&writes, None)[..], [Violation::Lost { .. }]));
        let maybe_deleted = operation(0, Input::Delete, Outcome::Unknown);
        assert_eq!(judge(&[put(0, "a", Some(2)), maybe_deleted], None), []);
        assert_eq!(judge(&[maybe_put("c")], Some(("c", 2))), []);
        assert_eq!(judge(&[maybe_put("c")], None), []);
    }

    #[test]
    fn without_revisions_any_of_the_concurrent_last_writes_may_have_won() {
        let mut late = put(2, "b", None);
        late.outcome = Outcome::Ok { at: 9, revision: None, output: Output::Put };
        let writes = [put(0, "a", None), late, put(4, "c", None)];
        assert_eq!(judge(&writes, Some(("b", 3))), []);
        assert_eq!(judge(&writes, Some(("c", 3))), []);
        assert!(matches!(judge(&writes, Some(("a", 3)))[..], [Violation::Lost { .. }]));
    }

    #[test]
    fn a_value_that_nobody_wrote_is_found() {
        let violations = judge(&[], Some(("x", 2)));
        assert!(matches!(violations[..], [Violation::Unexplained { .. }]));
        assert!(violations[0].to_string().contains("which nobody wrote"));
        let refused = Operation { outcome: Outcome::Failed, ..maybe_put("x") };
        assert!(matches!(judge(&[refused], Some(("x", 2)))[..], [Violation::Unexplained { .. }]));
    }

    #[test]
    fn members_that_differ_at_one_revision_are_found() {
        let history: History = [put(0, "a", Some(2)), maybe_put("b")].into_iter().collect();
        let (first, second) = (member("n1", Some(("a", 2))), member("n2", Some(("b", 3))));
        let violations = check(&history, &[first.clone(), second.clone()]);
        assert!(matches!(violations[..], [Violation::MembersDiffer { revision: 9, .. }]));
        assert!(violations[0].to_string().contains("but member n2 holds \"b\" of revision 3"));
        let behind = FinalState { revision: 8, ..second };
        assert_eq!(check(&history, &[first, behind]), []);
    }
}
