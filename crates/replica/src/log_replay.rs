//! Replays the records of the log, found at the start, into what each group starts from.
//!
//! Bounded memory: entries beyond the cache are checked and dropped, and read again when needed.

use crate::CoreConfig;
use crate::group_log::raft_config;
use crate::persistence::{self, Undecodable};
use clocks::GroupId;
use consensus::{Applied, HardState, Membership, Recovered, Recovery};
use std::collections::BTreeMap;
use wal::Record;

/// Collects the records of every group.
pub(crate) struct LogReplay {
    groups: BTreeMap<GroupId, Recovery>,
    /// The first record that made no sense.
    failure: Option<String>,
}

impl LogReplay {
    pub(crate) fn new(config: &CoreConfig) -> LogReplay {
        let founders = Membership::of_voters(config.initial_voters.iter().copied());
        let begin = |&(group, _): &(GroupId, _)| {
            let initial = HardState { membership: founders.clone(), ..HardState::default() };
            (group, Recovery::new(initial, raft_config(config, group).cache_bytes))
        };
        LogReplay { groups: config.groups.iter().map(begin).collect(), failure: None }
    }

    pub(crate) fn record(&mut self, record: Record) {
        let (Record::State { group, .. } | Record::Entry { group, .. } | Record::Reset { group, .. }) =
            record;
        if self.failure.is_some() {
            return;
        }
        if let Err(why) = self.replay(group, record) {
            self.failure = Some(format!("the log of group {group} cannot be read: {why}"));
        }
    }

    fn replay(&mut self, group: GroupId, record: Record) -> Result<(), String> {
        let recovery = self.groups.get_mut(&group).ok_or("this build knows no such group")?;
        let plain = |undecodable: Undecodable| undecodable.to_string();
        match record {
            Record::State { state, .. } => {
                recovery.replay_hard_state(persistence::decode_state(&state).map_err(plain)?);
            }
            Record::Entry { entry, .. } => {
                let entry = persistence::decode_entry(entry).map_err(plain)?;
                recovery.replay_entry(entry).map_err(|error| error.to_string())?;
            }
            Record::Reset { start, .. } => recovery.replay_reset(start),
        }
        Ok(())
    }

    /// Puts logs and state machines together.
    pub(crate) fn finish(
        self,
        applied: &BTreeMap<GroupId, Applied>,
    ) -> Result<Vec<(GroupId, Recovered)>, String> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let finish = |(group, recovery): (GroupId, Recovery)| {
            let applied = applied.get(&group).cloned().unwrap_or_default();
            let recovered = recovery.finish(applied).map_err(|error| {
                format!("the log of group {group} and its state do not fit together: {error}")
            })?;
            Ok((group, recovered))
        };
        self.groups.into_iter().map(finish).collect()
    }
}
