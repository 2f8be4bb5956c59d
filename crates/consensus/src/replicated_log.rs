//! Replicated Log: the entries that every member applies in the same order.
//!
//! Used by Raft, Multi-Paxos, Viewstamped Replication, ZAB and Kafka's KRaft. Held here: the shape
//! of the whole log (where every term begins), the memberships in it, and a bounded cache of its
//! newest entries. Invariants: start <= durable <= last; the cache is a suffix of the log and holds
//! at least every entry that is not yet durable. Not here: files (`wal`).

use crate::term_table::TermTable;
use crate::{Entry, Membership, Payload};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use clocks::{LogIndex, LogPosition};

#[derive(Debug)]
pub(crate) struct ReplicatedLog {
    table: TermTable,
    /// The membership in force at the start.
    start_membership: Membership,
    /// Those that came into force after it, in order.
    memberships: Vec<(LogPosition, Membership)>,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    cache_bytes_limit: usize,
    /// Everything up to here survives a crash of this member.
    durable: LogIndex,
}

impl ReplicatedLog {
    /// A log whose entries are all durable; `cache` holds the newest.
    pub(crate) fn new(
        table: TermTable,
        start_membership: Membership,
        memberships: Vec<(LogPosition, Membership)>,
        cache: VecDeque<Entry>,
        cache_bytes_limit: usize,
    ) -> ReplicatedLog {
        let cache_bytes = cache.iter().map(Entry::weight).sum();
        let durable = table.last().index;
        let mut log = ReplicatedLog {
            table,
            start_membership,
            memberships,
            cache,
            cache_bytes,
            cache_bytes_limit,
            durable,
        };
        log.evict();
        log
    }

    /// The log begins after this position.
    pub(crate) fn start(&self) -> LogPosition {
        self.table.start()
    }

    pub(crate) fn last(&self) -> LogPosition {
        self.table.last()
    }

    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    pub(crate) fn position_at(&self, index: LogIndex) -> Option<LogPosition> {
        self.table.position_at(index)
    }

    pub(crate) fn contains(&self, position: LogPosition) -> bool {
        self.table.contains(position)
    }

    /// See [`TermTable::floor`].
    pub(crate) fn floor(&self, bound: LogPosition) -> Option<LogPosition> {
        self.table.floor(bound)
    }

    /// The membership in force: the last one in the log, committed or not (thesis, section 4.1).
    pub(crate) fn membership(&self) -> &Membership {
        self.memberships.last().map_or(&self.start_membership, |(_, membership)| membership)
    }

    /// The membership in force before the present one (or the present one, at the log's start).
    pub(crate) fn previous_membership(&self) -> &Membership {
        let previous = self.memberships.iter().rev().nth(1);
        previous.map_or(&self.start_membership, |(_, membership)| membership)
    }

    /// Since when it is in force.
    pub(crate) fn membership_index(&self) -> LogIndex {
        self.memberships.last().map_or(self.start().index, |(position, _)| position.index)
    }

    /// The first index in the cache, or the one after the end.
    pub(crate) fn cached_from(&self) -> LogIndex {
        self.cache.front().map_or(self.last().index + 1, |entry| entry.position.index)
    }

    /// Cached entries of `from..=to`: at least one, up to the limits. `None` if `from` is not
    /// cached.
    pub(crate) fn cached(
        &self,
        from: LogIndex,
        to: LogIndex,
        max_bytes: usize,
        max_entries: usize,
    ) -> Option<Vec<Entry>> {
        let skip = usize::try_from(from.checked_sub(self.cached_from())?).ok()?;
        let mut bytes = 0_usize;
        let entries: Vec<Entry> = self
            .cache
            .range(skip.min(self.cache.len())..)
            .take_while(|entry| entry.position.index <= to)
            .take(max_entries.max(1))
            .enumerate()
            .take_while(|(place, entry)| {
                bytes = bytes.saturating_add(entry.weight());
                *place == 0 || bytes <= max_bytes
            })
            .map(|(_, entry)| entry.clone())
            .collect();
        if entries.is_empty() { None } else { Some(entries) }
    }

    /// Appends the entry after the last one; a membership is in force from now on.
    pub(crate) fn append(&mut self, entry: Entry) {
        self.table.push(entry.position);
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.push((entry.position, membership.clone()));
        }
        self.cache_bytes += entry.weight();
        self.cache.push_back(entry);
    }

    /// Drops every entry after `index`; memberships among them are no longer in force.
    pub(crate) fn truncate_after(&mut self, index: LogIndex) {
        self.table.truncate_after(index);
        self.durable = self.durable.min(index);
        self.memberships.retain(|(position, _)| position.index <= index);
        while let Some(entry) = self.cache.pop_back_if(|entry| entry.position.index > index) {
            self.cache_bytes -= entry.weight();
        }
    }

    /// Everything up to `index` is durable.
    pub(crate) fn durable_through(&mut self, index: LogIndex) {
        assert!(index <= self.last().index, "only what the log holds can be durable in it");
        self.durable = self.durable.max(index);
        self.evict();
    }

    /// Lets the log begin after `through`, and returns the membership in force there.
    pub(crate) fn compact(&mut self, through: LogPosition) -> &Membership {
        self.table.compact(through);
        self.durable = self.durable.max(through.index);
        while let Some(entry) = self.cache.pop_front_if(|e| e.position.index <= through.index) {
            self.cache_bytes -= entry.weight();
        }
        let passed = self.memberships.partition_point(|(at, _)| at.index <= through.index);
        if let Some((_, membership)) = self.memberships.drain(..passed).next_back() {
            self.start_membership = membership;
        }
        &self.start_membership
    }

    /// Replaces the whole log by a snapshot's position.
    pub(crate) fn restart_after(&mut self, start: LogPosition, membership: Membership) {
        self.table = TermTable::new(start);
        self.start_membership = membership;
        self.memberships.clear();
        self.cache.clear();
        self.cache_bytes = 0;
        self.durable = start.index;
    }

    /// Drops the oldest durable entries beyond the limit of the cache.
    fn evict(&mut self) {
        while self.cache_bytes > self.cache_bytes_limit {
            let durable = self.durable;
            let Some(entry) = self.cache.pop_front_if(|e| e.position.index <= durable) else {
                return;
            };
            self.cache_bytes -= entry.weight();
        }
    }

    pub(crate) fn check_invariants(&self) {
        let (start, last) = (self.start().index, self.last().index);
        assert!(start <= self.durable && self.durable <= last, "start <= durable <= last");
        let bytes: usize = self.cache.iter().map(Entry::weight).sum();
        assert!(bytes == self.cache_bytes, "the cache knows its size");
        assert!(self.cached_from() <= self.durable + 1, "what is not durable is cached");
        for (entry, index) in self.cache.iter().zip(self.cached_from()..) {
            assert!(self.position_at(index) == Some(entry.position), "the cache is the log's end");
        }
        let in_log = |(position, _): &(LogPosition, Membership)| self.contains(*position);
        assert!(self.memberships.iter().all(in_log), "every membership is in the log");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use clocks::{NodeId, Term};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Change {
        Append { term_step: u64, bytes: usize, members: Option<u64> },
        Truncate(u64),
        Durable(u64),
        Compact(u64),
        Restart(u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        let members = prop::option::weighted(0.2, 1..9_u64);
        prop_oneof![
            8 => (0..2_u64, 0..60_usize, members).prop_map(|(term_step, bytes, members)| {
                Change::Append { term_step, bytes, members }
            }),
            1 => any::<u64>().prop_map(Change::Truncate),
            4 => any::<u64>().prop_map(Change::Durable),
            1 => any::<u64>().prop_map(Change::Compact),
            1 => (1..5_u64).prop_map(Change::Restart),
        ]
    }

    /// A log that keeps every entry since its beginning, snapshots included.
    #[derive(Debug)]
    struct Naive {
        start: LogPosition,
        start_membership: Membership,
        entries: Vec<Entry>,
        durable: LogIndex,
    }

    impl Naive {
        fn last(&self) -> LogPosition {
            self.entries.last().map_or(self.start, |entry| entry.position)
        }

        fn membership_at(&self, index: LogIndex) -> &Membership {
            let before = self.entries.iter().rev().filter(|entry| entry.position.index <= index);
            before
                .filter_map(|entry| match &entry.payload {
                    Payload::Membership(membership) => Some(membership),
                    _ => None,
                })
                .next()
                .unwrap_or(&self.start_membership)
        }
    }

    fn apply(naive: &mut Naive, log: &mut ReplicatedLog, change: Change) {
        let (first, last) = (naive.start.index, naive.last());
        let some_index = |draw: u64| first + draw % (last.index - first + 1);
        match change {
            Change::Append { term_step, bytes, members } => {
                let position = LogPosition::new(Term(last.term.0 + term_step), last.index + 1);
                let payload = match members {
                    Some(node) => Payload::Membership(Membership::of_voters([NodeId(node)])),
                    None => Payload::Command(Bytes::from(std::vec![7; bytes])),
                };
                naive.entries.push(Entry { position, payload: payload.clone() });
                log.append(Entry { position, payload });
            }
            Change::Truncate(draw) => {
                let index = some_index(draw);
                naive.entries.truncate((index - first) as usize);
                naive.durable = naive.durable.min(index);
                log.truncate_after(index);
            }
            Change::Durable(draw) => {
                let index = some_index(draw);
                naive.durable = naive.durable.max(index);
                log.durable_through(index);
            }
            Change::Compact(draw) => {
                let through = some_index(draw);
                let membership = naive.membership_at(through).clone();
                let position = log.position_at(through).expect("in range");
                naive.entries.drain(..(through - first) as usize);
                naive.durable = naive.durable.max(through);
                naive.start = position;
                naive.start_membership = membership.clone();
                assert_eq!(*log.compact(position), membership);
            }
            Change::Restart(step) => {
                let start = LogPosition::new(Term(last.term.0 + 1), last.index + step);
                let membership = Membership::of_voters([NodeId(90 + step)]);
                naive.entries.clear();
                naive.durable = start.index;
                naive.start = start;
                naive.start_membership = membership.clone();
                log.restart_after(start, membership);
            }
        }
    }

    proptest! {
        #[test]
        fn equals_a_log_that_keeps_everything(
            changes in prop::collection::vec(change(), 1..80),
            cache_bytes in 0..400_usize,
        ) {
            let start_membership = Membership::of_voters([NodeId(9)]);
            let start = LogPosition::ZERO;
            let mut naive = Naive {
                start,
                start_membership: start_membership.clone(),
                entries: Vec::new(),
                durable: 0,
            };
            let table = TermTable::new(start);
            let mut log = ReplicatedLog::new(
                table, start_membership, Vec::new(), VecDeque::new(), cache_bytes,
            );
            for change in changes {
                apply(&mut naive, &mut log, change);
                log.check_invariants();
                prop_assert_eq!(log.last(), naive.last());
                prop_assert_eq!(log.durable(), naive.durable);
                prop_assert_eq!(log.membership(), naive.membership_at(LogIndex::MAX));
                let cached = log.cached_from();
                for (place, entry) in naive.entries.iter().enumerate() {
                    let index = entry.position.index;
                    prop_assert_eq!(log.position_at(index), Some(entry.position));
                    let found = log.cached(index, index + 2, 100, 3);
                    prop_assert_eq!(found.is_some(), index >= cached);
                    for (found, expected) in found.iter().flatten().zip(&naive.entries[place..]) {
                        prop_assert_eq!(found, expected);
                    }
                }
            }
            log.durable_through(naive.last().index);
            let kept = naive.entries.iter().filter(|e| e.position.index >= log.cached_from());
            let kept: usize = kept.map(Entry::weight).sum();
            prop_assert!(kept <= cache_bytes, "what is durable is kept within the limit");
        }
    }
}
