//! The witness sees every member from inside and outside at once: what was committed, which state
//! followed from it, and which events.
//!
//! White-box checks are linear and online, so that a violation is found where it happens and not at
//! the end of a run (TigerBeetle's state checker, FoundationDB's workload checks). Invariants:
//! members agree on every committed entry, on the state after it, on the events of a revision; a
//! term has one leader; a value is applied once.

use crate::network::Slot;
use crate::trace_hash::TraceHash;
use bytes::Bytes;
use checkers::agreement::{Agreement, Violation};
use clocks::{GroupId, LogIndex, Term};
use consensus::{Entry, Payload};
use std::collections::BTreeMap;
use std::ops::Bound;
use store::range::{KeyRange, KeyValue, Projection, Range, Revision, SortOrder, SortTarget};
use store::reply::RangeReply;
use store::{Event, RevisionEvents};

/// A broken invariant and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    /// Which, in a few words.
    pub(crate) invariant: &'static str,
    /// What was seen.
    pub(crate) detail: String,
}

fn breach(invariant: &'static str, detail: String) -> Result<(), Breach> {
    Err(Breach { invariant, detail })
}

/// All that members showed so far.
#[derive(Default)]
pub(crate) struct Witness {
    agreement: Agreement,
    /// The last index handed to the applier in this life of the process.
    handed: BTreeMap<(Slot, GroupId), LogIndex>,
    /// The last snapshot installed in this life: what it includes may be handed over late, and is
    /// skipped.
    installed: BTreeMap<(Slot, GroupId), LogIndex>,
    keyspaces: BTreeMap<GroupId, Keyspace>,
    elections: u64,
    /// The consistent core's last index that anybody showed, and the feature level there.
    level: (LogIndex, u32),
}

/// The history of one keyspace, as the first member to reach each revision told it.
#[derive(Default)]
pub(crate) struct Keyspace {
    /// From revision 2 on.
    revisions: Vec<RevisionEvents>,
    /// Per key, ascending: the version, or none for a deletion.
    versions: BTreeMap<Bytes, Vec<(Revision, Option<KeyValue>)>>,
    /// Revision at which each value was written.
    values: BTreeMap<Bytes, Revision>,
}

/// Revision of the first change of a keyspace.
const FIRST_REVISION: Revision = 2;

impl Witness {
    /// A process starts anew.
    pub(crate) fn restarted(&mut self, slot: Slot) {
        self.handed.retain(|(other, _), _| *other != slot);
        self.installed.retain(|(other, _), _| *other != slot);
    }

    /// The machine has no member any more.
    pub(crate) fn left(&mut self, slot: Slot, groups: &[GroupId]) {
        self.restarted(slot);
        groups.iter().for_each(|group| self.agreement.leave(slot as u64, u64::from(group.0)));
    }

    /// A member installed a snapshot: what it is handed next may lie further on.
    pub(crate) fn snapshot_installed(&mut self, slot: Slot, group: GroupId, index: LogIndex) {
        self.handed.insert((slot, group), index);
        self.installed.insert((slot, group), index);
    }

    /// A member leads a group in a term, with this last entry in its log.
    pub(crate) fn leader(
        &mut self,
        slot: Slot,
        group: GroupId,
        term: Term,
        last: LogIndex,
    ) -> Result<(), Breach> {
        self.elections += 1;
        let (node, group) = (slot as u64, u64::from(group.0));
        agreed(self.agreement.leader(node, group, term.0, (last, term.0)))
    }

    /// A member stands at this index of the consistent core, with this feature level.
    pub(crate) fn level_at(
        &mut self,
        slot: Slot,
        index: LogIndex,
        level: u32,
    ) -> Result<(), Breach> {
        let (last, highest) = self.level;
        if index >= last && level < highest {
            let detail = format!(
                "node {slot} is at level {level} at index {index}, it was {highest} at {last}"
            );
            return breach("the feature level never falls", detail);
        }
        self.level = self.level.max((index, level));
        Ok(())
    }

    /// The highest feature level that anybody showed.
    #[must_use]
    pub(crate) fn level(&self) -> u32 {
        self.level.1
    }

    /// Number of leaderships so far.
    #[must_use]
    pub(crate) fn elections(&self) -> u64 {
        self.elections
    }

    /// Entries and states that more than one member reported.
    #[must_use]
    pub(crate) fn compared(&self) -> (u64, u64) {
        let summary = self.agreement.summary();
        (summary.entries_compared, summary.states_compared)
    }

    /// A member hands these entries to its applier, as committed.
    pub(crate) fn committed(
        &mut self,
        slot: Slot,
        group: GroupId,
        entries: &[Entry],
    ) -> Result<(), Breach> {
        for entry in entries {
            let index = entry.position.index;
            let installed = self.installed.get(&(slot, group)).copied().unwrap_or(0);
            if index > installed {
                let before = self.handed.insert((slot, group), index);
                if before.is_some_and(|before| index != before + 1) {
                    let detail = format!("node {slot} {group}: {index} after {before:?}");
                    return breach("entries are applied in order", detail);
                }
            }
            let (node, group) = (slot as u64, u64::from(group.0));
            let (term, digest) = (entry.position.term.0, digest(&entry.payload));
            agreed(self.agreement.committed(node, group, index, term, digest))?;
        }
        Ok(())
    }

    /// A member has this state after applying `index`.
    pub(crate) fn state(
        &mut self,
        slot: Slot,
        group: GroupId,
        index: LogIndex,
        hash: u64,
    ) -> Result<(), Breach> {
        agreed(self.agreement.applied(slot as u64, u64::from(group.0), index, hash))
    }

    /// A member's keyspace changed so.
    pub(crate) fn events(
        &mut self,
        slot: Slot,
        group: GroupId,
        revision: Revision,
        events: &[RevisionEvents],
    ) -> Result<(), Breach> {
        let keyspace = self.keyspaces.entry(group).or_default();
        for change in events {
            keyspace.change(slot, group, change)?;
        }
        match events.last() {
            Some(last) if last.revision > revision => {
                let detail = format!("node {slot} {group}: {} beyond {revision}", last.revision);
                breach("events are within the revision", detail)
            }
            _ => Ok(()),
        }
    }

    /// The history of a keyspace.
    #[must_use]
    pub(crate) fn keyspace(&self, group: GroupId) -> Option<&Keyspace> {
        self.keyspaces.get(&group)
    }
}

impl Keyspace {
    fn change(
        &mut self,
        slot: Slot,
        group: GroupId,
        change: &RevisionEvents,
    ) -> Result<(), Breach> {
        let at = usize::try_from(change.revision - FIRST_REVISION).unwrap_or(usize::MAX);
        if let Some(known) = self.revisions.get(at) {
            let same = known.events.len() == change.events.len()
                && known.events.iter().zip(change.events.iter()).all(same_change);
            if same {
                return Ok(());
            }
            let detail = format!(
                "node {slot} {group} tells {:?} of revision {}, others told {:?}",
                change.events, change.revision, known.events
            );
            return breach("members tell the same events", detail);
        }
        if at != self.revisions.len() {
            let detail = format!(
                "node {slot} {group} went from revision {} to {}",
                self.revision(),
                change.revision
            );
            return breach("revisions are dense", detail);
        }
        self.revisions.push(change.clone());
        for event in change.events.iter() {
            self.learn(slot, group, event)?;
        }
        Ok(())
    }

    fn learn(&mut self, slot: Slot, group: GroupId, event: &Event) -> Result<(), Breach> {
        let pair = &event.pair;
        let version = (pair.version > 0).then(|| pair.clone());
        let versions = self.versions.entry(pair.key.clone()).or_default();
        versions.push((pair.mod_revision, version));
        if pair.version == 0 {
            return Ok(());
        }
        let first = *self.values.entry(pair.value.clone()).or_insert(pair.mod_revision);
        if first == pair.mod_revision {
            return Ok(());
        }
        let detail = format!(
            "node {slot} {group}: value {:?} was written at revision {first} and again at {}",
            pair.value, pair.mod_revision
        );
        breach("a request is applied once", detail)
    }

    /// The last revision.
    #[must_use]
    pub(crate) fn revision(&self) -> Revision {
        self.revisions.last().map_or(FIRST_REVISION - 1, |last| last.revision)
    }

    /// Everything that happened, by revision.
    pub(crate) fn revisions(&self) -> &[RevisionEvents] {
        &self.revisions
    }

    /// A key as of a revision.
    #[must_use]
    pub(crate) fn version(&self, key: &Bytes, revision: Revision) -> Option<&KeyValue> {
        let versions = self.versions.get(key)?;
        let after = versions.partition_point(|(written, _)| *written <= revision);
        versions[..after].last()?.1.as_ref()
    }

    /// Every key that exists at the last revision, in order.
    pub(crate) fn live(&self) -> impl Iterator<Item = &KeyValue> {
        self.versions.values().filter_map(|versions| versions.last()?.1.as_ref())
    }

    /// A read of `keys` must show what was there at `revision`.
    pub(crate) fn explains(
        &self,
        keys: &[Bytes],
        revision: Revision,
        reply: &RangeReply,
    ) -> Result<(), Breach> {
        if reply.revision > self.revision() {
            let detail = format!("a reply at revision {} of {}", reply.revision, self.revision());
            return breach("a read sees what was applied", detail);
        }
        let expected: Vec<&KeyValue> =
            keys.iter().filter_map(|key| self.version(key, revision)).collect();
        let found: Vec<&KeyValue> =
            reply.pairs.iter().filter(|pair| keys.contains(&pair.key)).collect();
        if expected == found {
            return Ok(());
        }
        let detail = format!("at revision {revision}, {keys:?}: {found:?}, not {expected:?}");
        breach("a read shows the state of its revision", detail)
    }
}

impl Keyspace {
    /// A range read now must show what is there, as it was asked for.
    pub(crate) fn answers(&self, range: &Range, reply: &RangeReply) -> Result<(), Breach> {
        let bounds = match range.keys.clone() {
            KeyRange::Key(key) => (Bound::Included(key.clone()), Bound::Included(key)),
            KeyRange::Span { start, end } => (Bound::Included(start), Bound::Excluded(end)),
            KeyRange::From(start) => (Bound::Included(start), Bound::Unbounded),
        };
        let there: Vec<&KeyValue> = self
            .versions
            .range(bounds)
            .filter_map(|(key, _)| self.version(key, reply.revision))
            .collect();
        let wanted = |pair: &&KeyValue| pair.mod_revision >= range.min_mod_revision;
        let matching = there.iter().copied().filter(wanted).count();
        let limit = usize::try_from(range.limit).ok().filter(|limit| *limit > 0);
        let shown = match range.projection {
            Projection::CountOnly => 0,
            Projection::Full | Projection::KeysOnly => matching.min(limit.unwrap_or(usize::MAX)),
        };
        let same = |pair: &KeyValue| {
            let there = self.version(&pair.key, reply.revision);
            there.filter(wanted).is_some_and(|there| match range.projection {
                Projection::KeysOnly => pair.value.is_empty() && pair.version == there.version,
                _ => pair == there,
            })
        };
        let is_sound = usize::try_from(reply.count) == Ok(there.len())
            && reply.pairs.len() == shown
            && reply.pairs.iter().all(same)
            && is_sorted(range, &reply.pairs);
        if is_sound {
            return Ok(());
        }
        let detail = format!("{range:?} was answered by {reply:?}, there is {there:?}");
        breach("a range shows the state of its revision", detail)
    }
}

fn is_sorted(range: &Range, pairs: &[KeyValue]) -> bool {
    let ordered = |one: &KeyValue, other: &KeyValue| match range.sort_target {
        SortTarget::Key => one.key.cmp(&other.key),
        SortTarget::Version => one.version.cmp(&other.version),
        SortTarget::Create => one.create_revision.cmp(&other.create_revision),
        SortTarget::Mod => one.mod_revision.cmp(&other.mod_revision),
        SortTarget::Value => one.value.cmp(&other.value),
    };
    match range.sort_order {
        SortOrder::Descend => pairs.is_sorted_by(|one, other| ordered(one, other).is_ge()),
        SortOrder::None | SortOrder::Ascend => {
            pairs.is_sorted_by(|one, other| ordered(one, other).is_le())
        }
    }
}

fn agreed(result: Result<(), Violation>) -> Result<(), Breach> {
    result.map_err(|violation| Breach { invariant: "members agree", detail: violation.to_string() })
}

fn digest(payload: &Payload) -> u64 {
    let mut hash = TraceHash::default();
    match payload {
        Payload::Barrier => hash.number(0),
        Payload::Command(command) => {
            hash.number(1);
            hash.bytes(command);
        }
        Payload::Membership(membership) => {
            hash.number(2);
            for members in [&membership.voters, &membership.outgoing, &membership.learners] {
                hash.number(members.len() as u64);
                members.iter().for_each(|member| hash.number(member.0));
            }
        }
    }
    hash.value()
}

/// The version replaced is left out: compaction may have taken it at one member already.
fn same_change((one, other): (&Event, &Event)) -> bool {
    one.kind == other.kind && one.pair == other.pair
}

#[cfg(test)]
mod tests {
    use super::*;
    use clocks::LogPosition;
    use store::EventKind;

    const GROUP: GroupId = GroupId(1);

    fn entry(index: u64, term: u64, command: &'static [u8]) -> Entry {
        let position = LogPosition::new(Term(term), index);
        Entry { position, payload: Payload::Command(Bytes::from_static(command)) }
    }

    fn change(revision: Revision, key: &'static str, value: &'static str) -> RevisionEvents {
        let pair = KeyValue {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(value.as_bytes()),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: 0,
        };
        let event = Event { kind: EventKind::Put, pair, previous: None };
        RevisionEvents { revision, events: [event].into() }
    }

    #[test]
    fn two_leaders_of_a_term_are_seen() {
        let mut witness = Witness::default();
        witness.leader(0, GROUP, Term(1), 0).unwrap();
        witness.leader(1, GROUP, Term(2), 0).unwrap();
        assert!(witness.leader(1, GROUP, Term(1), 0).is_err());
    }

    #[test]
    fn diverging_and_skipped_entries_are_seen() {
        let mut witness = Witness::default();
        witness.committed(0, GROUP, &[entry(1, 1, b"a"), entry(2, 1, b"b")]).unwrap();
        witness.committed(1, GROUP, &[entry(1, 1, b"a")]).unwrap();
        assert!(witness.committed(1, GROUP, &[entry(2, 1, b"c")]).is_err());
        assert!(witness.committed(0, GROUP, &[entry(4, 1, b"d")]).is_err());
        witness.restarted(0);
        witness.committed(0, GROUP, &[entry(2, 1, b"b")]).unwrap();
        witness.snapshot_installed(0, GROUP, 9);
        witness.committed(0, GROUP, &[entry(3, 1, b"c"), entry(10, 1, b"j")]).unwrap();
        assert!(witness.committed(0, GROUP, &[entry(12, 1, b"l")]).is_err());
    }

    #[test]
    fn diverging_states_are_seen() {
        let mut witness = Witness::default();
        witness.state(0, GROUP, 7, 1).unwrap();
        witness.state(1, GROUP, 7, 1).unwrap();
        assert!(witness.state(2, GROUP, 7, 2).is_err());
    }

    #[test]
    fn a_lost_revision_and_a_repeated_request_are_seen() {
        let mut witness = Witness::default();
        let tell = |witness: &mut Witness, slot, change: RevisionEvents| {
            witness.events(slot, GROUP, change.revision, &[change])
        };
        tell(&mut witness, 0, change(2, "a", "1")).unwrap();
        tell(&mut witness, 1, change(2, "a", "1")).unwrap();
        tell(&mut witness, 0, change(3, "a", "2")).unwrap();
        let mut same = Witness::default();
        tell(&mut same, 0, change(2, "a", "1")).unwrap();
        assert!(tell(&mut same, 1, change(2, "a", "other")).is_err());
        assert!(tell(&mut same, 1, change(4, "a", "gap")).is_err());
        assert!(tell(&mut same, 1, change(3, "b", "1")).is_err(), "applied twice");
    }

    #[test]
    fn reads_are_held_against_the_state_of_their_revision() {
        let mut witness = Witness::default();
        witness.events(0, GROUP, 3, &[change(2, "a", "1"), change(3, "a", "2")]).unwrap();
        let keyspace = witness.keyspace(GROUP).unwrap();
        let keys = [Bytes::from_static(b"a")];
        let first = change(2, "a", "1").events[0].pair.clone();
        let reply = RangeReply { revision: 3, pairs: vec![first], more: false, count: 1 };
        keyspace.explains(&keys, 2, &reply).unwrap();
        assert!(keyspace.explains(&keys, 3, &reply).is_err());
        let future = RangeReply { revision: 9, ..RangeReply::default() };
        assert!(keyspace.explains(&keys, 9, &future).is_err());
    }
}
