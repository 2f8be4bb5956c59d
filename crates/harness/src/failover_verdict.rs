//! The verdict on a failover run: what was promised, held against what clients and watchers saw.
//!
//! An undecided check is a failure. Each complaint is one plain sentence. Not here: producing the
//! evidence (`failover_run`), searching for an order of the operations (`checkers`).

use std::collections::BTreeMap;

use checkers::history::{History, Operation};
use checkers::linearizability::{self, Verdict};
use checkers::revision_order;

use crate::member_client::Versioned;
use crate::watch_recorder::{WatchRecord, WatchedChange};

/// Complaints of one kind that are spelled out; the rest are counted.
const SHOWN_MAX: usize = 5;

/// What one member holds at the end.
#[derive(Debug, Clone)]
pub(crate) struct MemberEvidence {
    pub(crate) name: String,
    /// Every change since the first revision, as the member tells a new watcher.
    pub(crate) log: Vec<WatchedChange>,
    /// Every key as the member has it.
    pub(crate) keys: Vec<Versioned>,
}

/// Everything that the run collected.
#[derive(Debug)]
pub(crate) struct Evidence {
    pub(crate) operations: Vec<Operation>,
    pub(crate) members: Vec<MemberEvidence>,
    /// One per client, with the client's name.
    pub(crate) watchers: Vec<(String, WatchRecord)>,
}

/// Every promise that was broken; nothing if all held.
pub(crate) fn judge(evidence: &Evidence) -> Vec<String> {
    let mut complaints = Vec::new();
    complaints.extend(lost_writes(evidence));
    complaints.extend(repeated_writes(evidence));
    complaints.extend(diverging_members(evidence));
    complaints.extend(watchers(evidence));
    complaints.extend(order(evidence));
    complaints
}

/// Every acknowledged write is in every member's log, at the revision that was acknowledged.
fn lost_writes(evidence: &Evidence) -> Vec<String> {
    let mut complaints = Vec::new();
    for member in &evidence.members {
        let changes: BTreeMap<(&[u8], Option<&[u8]>), u64> = member
            .log
            .iter()
            .map(|change| ((change.key.as_slice(), change.value.as_deref()), change.revision))
            .collect();
        let mut lost = Vec::new();
        for operation in &evidence.operations {
            let Some(value) = operation.acknowledged_write() else { continue };
            let found = changes.get(&(operation.key.as_slice(), value)).copied();
            if found.is_none() {
                lost.push(format!("acknowledged write lost on {}: {operation}", member.name));
            } else if found != operation.header_revision() {
                let found = found.unwrap_or(0);
                let name = &member.name;
                lost.push(format!("{name} has at revision {found} what was: {operation}"));
            }
        }
        complaints.extend(shortened(lost));
    }
    complaints
}

/// Values are unique: one that was written twice was applied twice.
fn repeated_writes(evidence: &Evidence) -> Vec<String> {
    let Some(member) = evidence.members.first() else { return Vec::new() };
    let mut seen: BTreeMap<(&[u8], Option<&[u8]>), u64> = BTreeMap::new();
    let mut repeated = Vec::new();
    for change in &member.log {
        let written = (change.key.as_slice(), change.value.as_deref());
        if let Some(first) = seen.insert(written, change.revision) {
            let text = describe(change);
            repeated.push(format!("written twice, at revision {first} and again: {text}"));
        }
    }
    shortened(repeated)
}

/// All members tell the same story, and each holds what its story says.
fn diverging_members(evidence: &Evidence) -> Vec<String> {
    let mut complaints = Vec::new();
    for member in &evidence.members {
        let first = &evidence.members[0];
        if let Some(difference) = first_difference(&first.log, &member.log) {
            complaints.push(format!("{} and {} differ: {difference}", first.name, member.name));
        }
        let mut replayed: BTreeMap<&[u8], (&[u8], u64)> = BTreeMap::new();
        for change in &member.log {
            match &change.value {
                Some(value) => replayed.insert(&change.key, (value, change.revision)),
                None => replayed.remove(change.key.as_slice()),
            };
        }
        let held: BTreeMap<&[u8], (&[u8], u64)> = member
            .keys
            .iter()
            .map(|pair| (pair.key.as_slice(), (pair.value.as_slice(), pair.mod_revision)))
            .collect();
        if held != replayed {
            let name = &member.name;
            complaints.push(format!("the keys of {name} are not what its history leads to"));
        }
    }
    complaints
}

/// A watcher saw every change once and in order, whatever happened to its connection.
fn watchers(evidence: &Evidence) -> Vec<String> {
    let Some(member) = evidence.members.first() else { return Vec::new() };
    let mut complaints = Vec::new();
    for (name, record) in &evidence.watchers {
        if let Some(complaint) = &record.complaint {
            complaints.push(format!("the watcher of {name} was {complaint}"));
        } else if let Some(difference) = first_difference(&member.log, &record.changes) {
            complaints.push(format!("the watcher of {name} missed or repeated: {difference}"));
        }
    }
    complaints
}

/// Some order explains every reply, and the revisions name one.
fn order(evidence: &Evidence) -> Vec<String> {
    let history: History = evidence.operations.iter().cloned().collect();
    let violations = revision_order::check(&history);
    let mut complaints = shortened(violations.iter().map(ToString::to_string).collect());
    match linearizability::check(&history) {
        Verdict::Linearizable => {}
        verdict => complaints.push(verdict.to_string()),
    }
    complaints
}

fn first_difference(expected: &[WatchedChange], actual: &[WatchedChange]) -> Option<String> {
    let at =
        (0..expected.len().max(actual.len())).find(|at| expected.get(*at) != actual.get(*at))?;
    let text = |change: Option<&WatchedChange>| change.map_or("nothing".to_owned(), describe);
    Some(format!("change {at} is {}, not {}", text(actual.get(at)), text(expected.get(at))))
}

fn describe(change: &WatchedChange) -> String {
    let value = change.value.as_deref().map_or("deleted".into(), String::from_utf8_lossy);
    format!("{} = {value} at revision {}", String::from_utf8_lossy(&change.key), change.revision)
}

fn shortened(mut complaints: Vec<String>) -> Vec<String> {
    let more = complaints.len().saturating_sub(SHOWN_MAX);
    complaints.truncate(SHOWN_MAX);
    if more > 0 {
        complaints.push(format!("and {more} more like that"));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkers::history::{Input, Outcome, Output};

    fn change(revision: u64, value: &str) -> WatchedChange {
        WatchedChange { revision, key: b"k".to_vec(), value: Some(value.as_bytes().to_vec()) }
    }

    fn put(value: &str, call: u64, revision: u64) -> Operation {
        Operation {
            client: 0,
            key: b"k".to_vec(),
            input: Input::Put { value: value.as_bytes().to_vec() },
            call,
            outcome: Outcome::Ok { at: call + 1, revision: Some(revision), output: Output::Put },
        }
    }

    /// Two puts, two members, one watcher: everything in order.
    fn good() -> Evidence {
        let log = vec![change(2, "a"), change(3, "b")];
        let keys = vec![Versioned { key: b"k".to_vec(), value: b"b".to_vec(), mod_revision: 3 }];
        let member = |name: &str| MemberEvidence {
            name: name.to_owned(),
            log: log.clone(),
            keys: keys.clone(),
        };
        let record = WatchRecord { changes: log.clone(), ..WatchRecord::default() };
        Evidence {
            operations: vec![put("a", 1, 2), put("b", 10, 3)],
            members: vec![member("n1"), member("n2")],
            watchers: vec![("client 0".to_owned(), record)],
        }
    }

    fn complaint(evidence: &Evidence) -> String {
        judge(evidence).join("\n")
    }

    #[test]
    fn kept_promises_need_no_words() {
        assert_eq!(complaint(&good()), "");
    }

    #[test]
    fn an_acknowledged_write_that_one_member_lacks_is_lost() {
        let mut evidence = good();
        evidence.operations.push(put("c", 20, 4));
        evidence.members[0].log.push(change(4, "c"));
        assert!(complaint(&evidence).contains("acknowledged write lost on n2"));
    }

    #[test]
    fn a_write_at_another_revision_than_acknowledged_is_found() {
        let mut evidence = good();
        evidence.operations[1] = put("b", 10, 4);
        assert!(complaint(&evidence).contains("n1 has at revision 3 what was"));
    }

    #[test]
    fn a_write_that_was_applied_twice_is_found() {
        let mut evidence = good();
        evidence.members[0].log.push(change(4, "b"));
        assert!(complaint(&evidence).contains("written twice, at revision 3"));
    }

    #[test]
    fn members_that_differ_are_found() {
        let mut evidence = good();
        evidence.members[1].log.pop();
        assert!(complaint(&evidence).contains("n1 and n2 differ: change 1 is nothing"));
        let mut evidence = good();
        evidence.members[1].keys.clear();
        assert!(complaint(&evidence).contains("the keys of n2"));
    }

    #[test]
    fn a_watcher_that_missed_or_repeated_a_change_is_found() {
        let mut missed = good();
        missed.watchers[0].1.changes.remove(0);
        assert!(complaint(&missed).contains("missed or repeated: change 0"));
        let mut repeated = good();
        repeated.watchers[0].1.changes.push(change(3, "b"));
        assert!(complaint(&repeated).contains("missed or repeated: change 2"));
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut evidence = good();
        let output = Output::Get { value: Some(b"a".to_vec()), mod_revision: Some(2) };
        evidence.operations.push(Operation {
            input: Input::Get,
            call: 20,
            outcome: Outcome::Ok { at: 21, revision: Some(2), output },
            ..put("", 0, 0)
        });
        assert!(complaint(&evidence).contains("not linearizable"));
    }

    #[test]
    fn a_revision_that_runs_against_time_is_found() {
        let mut evidence = good();
        evidence.operations[0] = put("a", 20, 2);
        assert!(complaint(&evidence).contains("revision"), "{}", complaint(&evidence));
    }

    #[test]
    fn many_complaints_are_shortened() {
        let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(shortened(many).last().map(String::as_str), Some("and 4 more like that"));
    }
}
