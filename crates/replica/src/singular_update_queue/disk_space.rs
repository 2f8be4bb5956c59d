//! How much disk the log takes, and what members tell each other when there is none left.
//!
//! The log is cut at the low-water mark: what the engine has flushed, less what is kept for members
//! that were away for a moment. Invariant: nothing is cut that a restart would need.

use super::LogMachine;
use crate::{ApplierEvent, LogEffect, PeerMessage};
use clocks::{GroupId, LogPosition, Monotonic, NodeId};
use wal::Disk;

impl LogMachine {
    pub(super) fn on_condition(&mut self, member: NodeId, short_of_space: bool) {
        if short_of_space {
            self.short_of_space.insert(member);
        } else {
            self.short_of_space.remove(&member);
        }
    }

    pub(super) fn check_space(&mut self, disk: &mut dyn Disk) {
        let full = self.wal.is_full();
        self.on_condition(self.config.node, self.host_short_of_space || full);
        if full {
            // Known by the next check; until then the log counts as full.
            self.wal.retry_full(disk);
        }
    }

    pub(super) fn tell_condition(&mut self, now: Monotonic, disk: &mut dyn Disk) {
        if now < self.next_condition {
            return;
        }
        self.check_space(disk);
        if self.log_is_too_large() {
            self.effects.push_back(LogEffect::Applier(ApplierEvent::FlushSoon));
        }
        self.next_condition = now.after(self.config.limits.condition_interval);
        let short_of_space = self.short_of_space.contains(&self.config.node);
        self.tell_peers(&PeerMessage::MemberCondition { short_of_space });
        self.tell_learners(now);
    }

    /// Cuts the log at the newest flushed position that leaves enough for members that were away,
    /// and what members that answer still lack: one that is sent a snapshot goes on behind it.
    pub(super) fn on_flushed(&mut self, group: GroupId, position: LogPosition, now: Monotonic) {
        let too_large = self.log_is_too_large();
        let keeps_none = group == GroupId::CONSISTENT_CORE || too_large;
        let retained = if keeps_none { 0 } else { self.config.limits.retained_entries };
        let (silence_max, absent) = (self.config.election_timeout, &self.absent);
        let log = self.groups.get_mut(&group).expect("the group is one of ours");
        let lacking = log.lacking_from(now, silence_max, absent).filter(|_| !too_large);
        log.flushed.push_back(position);
        let mut through = None;
        while log.flushed.front().is_some_and(|flushed| {
            flushed.index + retained <= log.applied
                && lacking.is_none_or(|lacking| flushed.index <= lacking)
        }) {
            through = log.flushed.pop_front();
        }
        if let Some(through) = through.filter(|cut| cut.index >= log.raft.first_index()) {
            log.raft.compact_log(through);
        }
    }

    /// Files grow faster than entries where batches are small or starts are many.
    fn log_is_too_large(&self) -> bool {
        self.wal.disk_bytes() > self.config.limits.retained_log_bytes
    }
}
