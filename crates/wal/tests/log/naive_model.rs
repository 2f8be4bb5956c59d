//! The log as one would write it in five minutes: everything appended, in one list, in memory.

use clocks::{GroupId, LogIndex, LogPosition};
use std::collections::BTreeMap;
use wal::{EntryRecord, GroupState, Record, Recovered, RecoveredGroup};

/// One group after some prefix of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NaiveGroup {
    pub(crate) state: Option<GroupState>,
    /// The last reset.
    pub(crate) reset: LogIndex,
    pub(crate) entries: BTreeMap<LogIndex, EntryRecord>,
}

impl NaiveGroup {
    pub(crate) fn last(&self) -> LogIndex {
        self.entries.keys().next_back().copied().unwrap_or(0).max(self.reset)
    }
}

/// All groups after some prefix of the list.
pub(crate) type NaiveGroups = BTreeMap<GroupId, NaiveGroup>;

/// The list, and what the owner released since.
#[derive(Clone, Debug, Default)]
pub(crate) struct NaiveLog {
    pub(crate) records: Vec<Record>,
    /// Records known to be durable.
    pub(crate) durable: usize,
    /// Highest index that each group released or reset to, ever.
    pub(crate) released: BTreeMap<GroupId, LogIndex>,
    /// The log as it is now.
    pub(crate) now: NaiveGroups,
}

fn apply(groups: &mut NaiveGroups, record: &Record) {
    match record {
        Record::State { group, state } => {
            groups.entry(*group).or_default().state = Some(state.clone());
        }
        Record::Entry { group, entry } => {
            let group = groups.entry(*group).or_default();
            let index = entry.position.index;
            drop(group.entries.split_off(&index));
            group.entries.insert(index, entry.clone());
        }
        Record::Reset { group, start } => {
            let group = groups.entry(*group).or_default();
            group.entries.clear();
            group.reset = *start;
        }
    }
}

impl NaiveLog {
    pub(crate) fn append(&mut self, record: Record) {
        apply(&mut self.now, &record);
        if let Record::Reset { group, start } = &record {
            let released = self.released.entry(*group).or_insert(0);
            *released = (*released).max(*start);
        }
        self.records.push(record);
    }

    pub(crate) fn release(&mut self, group: GroupId, below: LogIndex) {
        let released = self.released.entry(group).or_insert(0);
        *released = (*released).max(below.saturating_sub(1));
    }

    pub(crate) fn last(&self, group: GroupId) -> LogIndex {
        self.now.get(&group).map_or(0, NaiveGroup::last)
    }

    /// The shortest prefix of the list, everything durable included, that is what was recovered;
    /// why none is, otherwise.
    pub(crate) fn prefix_of(&self, recovered: &Recovered) -> Result<usize, String> {
        self.prefix_from(self.durable, recovered)
    }

    /// As `prefix_of`, but only `least` records must be there.
    pub(crate) fn prefix_from(&self, least: usize, found: &Recovered) -> Result<usize, String> {
        let mut groups = NaiveGroups::new();
        let mut why = String::new();
        for prefix in 0..=self.records.len() {
            if prefix > 0 {
                apply(&mut groups, &self.records[prefix - 1]);
            }
            if prefix < least {
                continue;
            }
            match self.differs(&groups, found) {
                None => return Ok(prefix),
                Some(difference) => why = format!("{why}\n{prefix} records: {difference}"),
            }
        }
        Err(format!("no prefix of at least {least} records was recovered:{why}"))
    }

    /// What of `found` is not as it is in `groups`.
    pub(crate) fn differs(&self, groups: &NaiveGroups, found: &Recovered) -> Option<String> {
        let nothing = RecoveredGroup {
            state: None,
            start: 0,
            last: None,
            runs: Vec::new(),
            tail: Vec::new(),
        };
        let names = groups.keys().chain(found.groups.keys());
        for &name in names {
            let naive = groups.get(&name).cloned().unwrap_or_default();
            let group = found.groups.get(&name).unwrap_or(&nothing);
            let released = self.released.get(&name).copied().unwrap_or(0);
            if group.state != naive.state {
                return Some(format!("{name} has state {:?}", group.state));
            }
            if group.start < naive.reset || group.start > released.max(naive.reset) {
                return Some(format!("{name} starts after {}", group.start));
            }
            let expected: Vec<EntryRecord> =
                naive.entries.range(group.start + 1..).map(|(_, entry)| entry.clone()).collect();
            if group.tail != expected || naive.last() < group.start {
                let positions = |entries: &[EntryRecord]| -> Vec<LogPosition> {
                    entries.iter().map(|entry| entry.position).collect()
                };
                return Some(format!(
                    "{name} holds {:?} and not {:?}",
                    positions(&group.tail),
                    positions(&expected)
                ));
            }
            if group.last != expected.last().map(|entry| entry.position) {
                return Some(format!("{name} ends with {:?}", group.last));
            }
            if let Some(words) = runs_differ(group) {
                return Some(format!("{name}: {words}"));
            }
        }
        None
    }

    /// The process died; `prefix` records were found afterwards.
    pub(crate) fn restart(&mut self, prefix: usize, recovered: &Recovered) {
        self.records.truncate(prefix);
        self.durable = prefix;
        self.now.clear();
        for record in &self.records {
            apply(&mut self.now, record);
        }
        for (&name, group) in &recovered.groups {
            self.released.insert(name, group.start);
        }
    }
}

/// The runs must say of every entry of the tail what the entry itself says.
fn runs_differ(group: &RecoveredGroup) -> Option<String> {
    for entry in &group.tail {
        let run = group.runs.iter().rev().find(|run| run.first <= entry.position.index);
        if run.is_none_or(|run| (run.term, run.kind) != (entry.position.term, entry.kind)) {
            return Some(format!("entry {} is in run {run:?}", entry.position));
        }
    }
    let rising = group.runs.windows(2).all(|pair| pair[0].first < pair[1].first);
    let first = group.runs.first().map(|run| run.first);
    if !rising || first != group.tail.first().map(|entry| entry.position.index) {
        return Some(format!("runs {:?}", group.runs));
    }
    None
}
