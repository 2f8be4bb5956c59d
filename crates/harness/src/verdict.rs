//! The verdict on a run: what was promised, held against what clients and watchers saw.
//!
//! One verdict per checker. An undecided check is a failure. Each complaint is one plain sentence.
//! Not here: producing the evidence (`evidence`), searching for an order of the operations
//! (`checkers`).

use std::collections::BTreeMap;

use checkers::history::{History, Operation};
use checkers::linearizability::{self, Verdict as Order};
use checkers::revision_order;
use serde::Serialize;

use crate::evidence::{Evidence, LocalRead, MemberEvidence};
use crate::watch_recorder::WatchedChange;

/// Complaints of one kind that are spelled out; the rest are counted.
const SHOWN_MAX: usize = 5;

/// What one checker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Its name.
    pub(crate) checker: &'static str,
    /// What was promised, in plain words.
    pub(crate) promise: &'static str,
    /// How many operations, changes or members it looked at.
    pub(crate) checked: usize,
    /// Whether the promise held.
    pub(crate) outcome: Outcome,
    /// What was not as promised, or why that cannot be told: one plain sentence each.
    pub(crate) complaints: Vec<String>,
}

/// Anything but `Held` is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// The promise held, as far as the checker looked.
    Held,
    /// It did not.
    Broken,
    /// The checker gave up, or had nothing to look at.
    Undecided,
}

impl Verdict {
    /// The promise held unless there are complaints; of nothing that was looked at it cannot be
    /// told.
    pub(crate) fn new(
        checker: &'static str,
        promise: &'static str,
        checked: usize,
        mut complaints: Vec<String>,
    ) -> Verdict {
        let outcome = match (checked, complaints.is_empty()) {
            (_, false) => Outcome::Broken,
            (0, true) => Outcome::Undecided,
            (_, true) => Outcome::Held,
        };
        if outcome == Outcome::Undecided {
            complaints.push(format!("{checker}: there was nothing to look at"));
        }
        Verdict { checker, promise, checked, outcome, complaints }
    }
}

/// What every checker says.
pub(crate) fn judge(evidence: &Evidence) -> Vec<Verdict> {
    let acknowledged = acknowledged_writes(&evidence.operations).count();
    let changes = evidence.members.first().map_or(0, |member| member.log.len());
    let mut verdicts = vec![
        Verdict::new(
            "durability",
            "every acknowledged write is in the history of every member, at the revision that was \
             acknowledged",
            if evidence.members.is_empty() { 0 } else { acknowledged },
            lost_writes(evidence),
        ),
        Verdict::new(
            "exactly once",
            "no write took effect twice",
            changes,
            repeated_writes(evidence),
        ),
        Verdict::new(
            "agreement",
            "all members tell the same history and hold what it leads to",
            evidence.members.len(),
            diverging_members(evidence),
        ),
        Verdict::new(
            "watch",
            "every watcher saw every change once and in order",
            evidence.watchers.len(),
            watchers(evidence),
        ),
    ];
    verdicts.extend(order(evidence));
    if !evidence.local_reads.is_empty() {
        verdicts.push(Verdict::new(
            "serializable reads",
            "what a member shows by itself was the state at the revision that it names",
            evidence.local_reads.len(),
            false_local_reads(evidence),
        ));
    }
    verdicts
}

/// Everything that was not as promised; nothing if all promises held.
pub(crate) fn complaints(verdicts: &[Verdict]) -> Vec<String> {
    verdicts.iter().flat_map(|verdict| verdict.complaints.iter().cloned()).collect()
}

/// Acknowledged writes that some member does not have.
pub(crate) fn lost<'a>(evidence: &'a Evidence) -> Vec<&'a Operation> {
    let logs: Vec<Changes<'a>> = evidence.members.iter().map(changes_of).collect();
    let is_lost = |(operation, value): &(&Operation, Written)| {
        logs.iter().any(|changes| !changes.contains_key(&(operation.key.as_slice(), *value)))
    };
    let lost = acknowledged_writes(&evidence.operations).filter(is_lost);
    lost.map(|(operation, _)| operation).collect()
}

/// A value, or a deletion.
type Written<'a> = Option<&'a [u8]>;

/// The revision of every change.
type Changes<'a> = BTreeMap<(&'a [u8], Written<'a>), u64>;

fn changes_of(member: &MemberEvidence) -> Changes<'_> {
    let changes = member.log.iter();
    changes.map(|of| ((of.key.as_slice(), of.value.as_deref()), of.revision)).collect()
}

fn acknowledged_writes(
    operations: &[Operation],
) -> impl Iterator<Item = (&Operation, Written<'_>)> {
    operations.iter().filter_map(|operation| Some((operation, operation.acknowledged_write()?)))
}

/// Every acknowledged write is in every member's log, at the revision that was acknowledged.
fn lost_writes(evidence: &Evidence) -> Vec<String> {
    let mut complaints = Vec::new();
    for member in &evidence.members {
        let changes = changes_of(member);
        let mut lost = Vec::new();
        for (operation, value) in acknowledged_writes(&evidence.operations) {
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
fn order(evidence: &Evidence) -> [Verdict; 2] {
    let history: History = evidence.operations.iter().cloned().collect();
    let answered = history.acknowledged();
    let violations = revision_order::check(&history);
    let violations = shortened(violations.iter().map(ToString::to_string).collect());
    let (outcome, complaints) = match linearizability::check(&history) {
        Order::Linearizable => (None, Vec::new()),
        verdict @ Order::Violation(_) => (None, vec![verdict.to_string()]),
        verdict @ Order::Unknown { .. } => (Some(Outcome::Undecided), vec![verdict.to_string()]),
    };
    let mut linearizable = Verdict::new(
        "linearizability",
        "every operation took effect at one moment between its call and its reply",
        answered,
        complaints,
    );
    linearizable.outcome = outcome.unwrap_or(linearizable.outcome);
    let revisions = Verdict::new(
        "revision order",
        "revisions follow real time and explain every reply, across keys",
        answered,
        violations,
    );
    [linearizable, revisions]
}

/// A read that asked one member alone may be late, but shows what once was.
fn false_local_reads(evidence: &Evidence) -> Vec<String> {
    let Some(member) = evidence.members.first() else {
        return vec!["no member tells its history, by which reads could be judged".to_owned()];
    };
    let mut versions: BTreeMap<&[u8], BTreeMap<u64, Written<'_>>> = BTreeMap::new();
    for change in &member.log {
        versions.entry(&change.key).or_default().insert(change.revision, change.value.as_deref());
    }
    let mut complaints = Vec::new();
    for LocalRead { member, key, at, found } in &evidence.local_reads {
        let of_key = versions.get(key.as_slice());
        let then = of_key.and_then(|versions| versions.range(..=at).next_back());
        let then = then.and_then(|(revision, value)| Some((value.as_ref()?.to_vec(), *revision)));
        if then != *found {
            let text = |found: &Option<(Vec<u8>, u64)>| match found {
                None => "nothing".to_owned(),
                Some((value, revision)) => {
                    format!("{} of revision {revision}", String::from_utf8_lossy(value))
                }
            };
            complaints.push(format!(
                "{member} showed {} under {} at revision {at}, where it was {}",
                text(found),
                String::from_utf8_lossy(key),
                text(&then)
            ));
        }
    }
    shortened(complaints)
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
    use crate::member_client::Versioned;
    use crate::watch_recorder::WatchRecord;
    use checkers::history::{Input, Outcome as Fate, Output};

    fn change(revision: u64, value: &str) -> WatchedChange {
        WatchedChange { revision, key: b"k".to_vec(), value: Some(value.as_bytes().to_vec()) }
    }

    fn put(value: &str, call: u64, revision: u64) -> Operation {
        Operation {
            client: 0,
            key: b"k".to_vec(),
            input: Input::Put { value: value.as_bytes().to_vec() },
            call,
            outcome: Fate::Ok { at: call + 1, revision: Some(revision), output: Output::Put },
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
            local_reads: vec![LocalRead {
                member: "n2".to_owned(),
                key: b"k".to_vec(),
                at: 2,
                found: Some((b"a".to_vec(), 2)),
            }],
        }
    }

    fn complaint(evidence: &Evidence) -> String {
        complaints(&judge(evidence)).join("\n")
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
            outcome: Fate::Ok { at: 21, revision: Some(2), output },
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

    #[test]
    fn a_local_read_of_what_never_was_is_found() {
        let mut evidence = good();
        evidence.local_reads[0].found = None;
        let said = complaint(&evidence);
        assert!(said.contains("n2 showed nothing under k at revision 2"), "{said}");
        assert!(said.contains("where it was a of revision 2"), "{said}");
    }

    #[test]
    fn what_could_not_be_looked_at_is_not_called_good() {
        let evidence = Evidence::default();
        let verdicts = judge(&evidence);
        assert!(verdicts.iter().all(|verdict| verdict.outcome == Outcome::Undecided));
        assert_eq!(complaints(&verdicts).len(), verdicts.len());
    }

    #[test]
    fn lost_writes_are_counted_once() {
        let mut evidence = good();
        assert!(lost(&evidence).is_empty());
        evidence.operations.push(put("c", 20, 4));
        assert_eq!(lost(&evidence).len(), 1, "both members lack it");
    }
}
