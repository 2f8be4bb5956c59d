//! The verdict at the end of a run: what clients saw, held against what was promised.
//!
//! An undecided check fails the seed: not knowing is not passing. Not here: what is checked while
//! the run goes on (`witness`).

use crate::cluster::World;
use crate::network::Slot;
use bytes::Bytes;
use checkers::durability::{self, FinalState};
use checkers::linearizability::{self, Verdict};
use checkers::revision_order;
use clocks::GroupId;
use std::collections::BTreeMap;
use store::range::{KeyRange, KeyValue, Range, Revision};

impl World {
    /// Judges the run; all members are up and have applied the same.
    pub(crate) fn judge(&mut self) {
        for group in self.keyspaces.clone() {
            self.judge_states(group);
            self.judge_linearizability(group);
            self.judge_revisions(group);
            self.judge_durability(group);
        }
        self.judge_watchers();
        let checked = self.judges.check_balances();
        self.check(checked);
        if !self.judges.has_seen_effects() {
            self.violate("requests take effect", "none was seen to".to_string());
        }
        let (entries, states) = self.witness.compared();
        if entries == 0 || states == 0 {
            self.violate("members are compared", format!("{entries} entries, {states} states"));
        }
    }

    /// Every member holds exactly what the history of the keyspace leaves.
    fn judge_states(&mut self, group: GroupId) {
        let Some(keyspace) = self.witness.keyspace(group) else {
            return self.violate("a run changes something", format!("{group} is empty"));
        };
        let expected: Vec<KeyValue> = keyspace.live().cloned().collect();
        let revision = keyspace.revision();
        for slot in self.occupied() {
            let (found, at) = self.everything(slot, group);
            if at != revision {
                let detail = format!("node {slot} {group} is at revision {at}, not {revision}");
                return self.violate("every member has everything", detail);
            }
            if found != expected {
                let odd = found.iter().zip(&expected).find(|(one, other)| one != other);
                let detail = format!(
                    "node {slot} {group} holds {} keys, not {}; first difference {odd:?}",
                    found.len(),
                    expected.len()
                );
                return self.violate("every member has everything", detail);
            }
        }
    }

    fn judge_linearizability(&mut self, group: GroupId) {
        match linearizability::check(&self.histories[&group]) {
            Verdict::Linearizable => {}
            Verdict::Violation(violation) => {
                let detail = format!("{group}: {violation}");
                self.violate("operations are linearizable", detail);
            }
            Verdict::Unknown { why } => {
                self.violate("linearizability is decided", format!("{group}: {why}"));
            }
        }
    }

    fn judge_revisions(&mut self, group: GroupId) {
        if let Some(violation) = revision_order::check(&self.histories[&group]).first() {
            self.violate("revisions order operations", format!("{group}: {violation}"));
        }
    }

    fn judge_durability(&mut self, group: GroupId) {
        let mut states = Vec::new();
        for slot in self.occupied() {
            let (pairs, revision) = self.everything(slot, group);
            let pairs: BTreeMap<_, _> = pairs
                .into_iter()
                .filter(|pair| pair.key.starts_with(b"key/"))
                .map(|pair| {
                    (pair.key.to_vec(), (pair.value.to_vec(), pair.mod_revision.unsigned_abs()))
                })
                .collect();
            let (member, revision) = (format!("node {slot}"), revision.unsigned_abs());
            states.push(FinalState { member, revision, pairs });
        }
        if let Some(violation) = durability::check(&self.histories[&group], &states).first() {
            let detail = format!("{group}: {violation}");
            self.violate("what was acknowledged is on every member", detail);
        }
    }

    /// All pairs that a member holds, and its revision.
    fn everything(&mut self, slot: Slot, group: GroupId) -> (Vec<KeyValue>, Revision) {
        let reader = self.process(slot).applier.reader(group);
        let all = Range::of(KeyRange::From(Bytes::from_static(b"\0")));
        let reply = reader.range(&all).expect("memory does not fail");
        let reply = reply.expect("a read of the present is not refused");
        (reply.pairs, reply.revision)
    }
}
