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
