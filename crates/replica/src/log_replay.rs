//! Replays the log found at the start into what each group starts from.
//!
//! Bounded memory: entries are read back in chunks, and those beyond the cache are checked and
//! dropped; they are read again when needed.

use crate::CoreConfig;
use crate::applier::to_apply;
use crate::group_log::raft_config;
use crate::persistence::{self, Undecodable};
use bytes::Bytes;
use clocks::{GroupId, LogPosition, NodeId};
use consensus::{Applied, Entry, HardState, Membership, Payload, Recovered, Recovery};
use mutants::{Bug, planted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use store::StateMachine;
use store::command::Envelope;
use wal::{
    Disk, DiskCompletion, DiskError, DiskOp, DiskToken, EntryRecord, FileInfo, ReadToken,
    RecoveredGroup, Wal, WalError, WalEvent,
};

/// Bytes of entries read back at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Gives each group what the log and its state machine say together.
///
/// # Errors
/// A plain sentence: the log cannot be read, or contradicts the state.
pub(crate) fn replay(
    config: &CoreConfig,
    wal: &mut Wal,
    disk: &mut dyn Disk,
    found: wal::Recovered,
    applied: &BTreeMap<GroupId, Applied>,
) -> Result<Vec<(GroupId, Recovered)>, String> {
    let damaged = found.damage.is_some() && !planted(Bug::DamageUnmarked);
    let mut logs = found.groups;
    let mut disk = WaitingDisk { disk, completions: VecDeque::new() };
    let founders = Membership::of_voters(config.initial_voters.iter().copied());
    let mut groups = Vec::new();
    // Nobody can tell whether who joins was a member before, on a directory that is gone: like one
    // that lost part of its log, it votes once it holds what may be in what is gone.
    let damaged_if_new = damaged || founders.voters.is_empty();
    for &(group, _) in &config.groups {
        let membership = founders.clone();
        let initial = HardState { membership, damaged: damaged_if_new, ..HardState::default() };
        let mut recovery = Recovery::new(initial, raft_config(config, group).cache_bytes);
        if let Some(log) = logs.remove(&group) {
            replay_group(&mut recovery, wal, &mut disk, group, &log, damaged)
                .map_err(|why| format!("the log of group {group} cannot be read: {why}"))?;
        }
        let applied = applied.get(&group).cloned().unwrap_or_default();
        let recovered = recovery.finish(applied).map_err(|error| {
            format!("the log of group {group} and its state do not fit together: {error}")
        })?;
        groups.push((group, recovered));
    }
    match logs.keys().next() {
        Some(unknown) => {
            Err(format!("the log holds group {unknown}, which this build does not know"))
        }
        None => Ok(groups),
    }
}

fn replay_group(
    recovery: &mut Recovery,
    wal: &mut Wal,
    disk: &mut WaitingDisk<'_>,
    group: GroupId,
    log: &RecoveredGroup,
    damaged: bool,
) -> Result<(), String> {
    let plain = |undecodable: Undecodable| undecodable.to_string();
    if let Some(state) = &log.state {
        let mut state = persistence::decode_state(state).map_err(plain)?;
        state.damaged |= damaged;
        recovery.replay_hard_state(state);
    }
    if log.start > 0 {
        recovery.replay_reset(log.start);
    }
    let last = log.last.map_or(log.start, |position| position.index);
    let mut next = log.start + 1;
    while next <= last {
        let records = disk.read(wal, group, next).map_err(|error| error.to_string())?;
        if records.is_empty() {
            return Err(format!("entry {next} is missing"));
        }
        for record in records {
            next = record.position.index + 1;
            let entry = persistence::decode_entry(record).map_err(plain)?;
            recovery.replay_entry(entry).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// What a look through a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogContents {
    /// Entries that this member had promised to keep were lost, at an earlier start.
    pub was_damaged: bool,
    /// What its commands need, beyond level 1.
    pub feature_level: u32,
    /// Everybody named by a membership in it.
    pub members: BTreeSet<NodeId>,
}

/// Goes through all that the log holds of the group behind `applied`, as [`apply_whole_log`] would,
/// and changes nothing: what this takes, that can apply.
///
/// # Errors
/// A plain sentence: the log cannot be read, or does not fit the state.
pub fn check_whole_log(
    group: GroupId,
    disk: &mut dyn Disk,
    applied: LogPosition,
) -> Result<LogContents, String> {
    let mut found = LogContents { feature_level: 1, ..LogContents::default() };
    found.was_damaged = walk_log(group, disk, applied, |entries| {
        for entry in entries {
            match entry.payload {
                Payload::Barrier => {}
                Payload::Command(command) => {
                    let envelope = Envelope::decode(command).map_err(|error| {
                        format!("entry {} cannot be understood: {error}", entry.position)
                    })?;
                    found.feature_level = found.feature_level.max(envelope.feature_level());
                }
                Payload::Membership(membership) => found.members.extend(membership.members()),
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Applies to `machine` all that the log holds of its group behind what was applied, committed or
/// not: for a member that goes on alone, since what it holds may have been acknowledged by a quorum
/// that is lost.
///
/// # Errors
/// A plain sentence: as [`check_whole_log`], or the engine fails.
pub fn apply_whole_log(
    group: GroupId,
    disk: &mut dyn Disk,
    machine: &mut StateMachine,
) -> Result<(), String> {
    walk_log(group, disk, machine.applied(), |entries| {
        let entries = entries.into_iter().map(to_apply).collect();
        machine.apply(entries).map(drop).map_err(|failure| failure.to_string())
    })
    .map(drop)
}

/// Hands over the entries behind `applied`, in order. Whether the log was damaged before.
fn walk_log(
    group: GroupId,
    disk: &mut dyn Disk,
    applied: LogPosition,
    mut take: impl FnMut(Vec<Entry>) -> Result<(), String>,
) -> Result<bool, String> {
    let (mut wal, mut found) =
        Wal::recover(wal::WalConfig::default(), disk).map_err(|error| error.to_string())?;
    let was_damaged = found.damage.is_some();
    let Some(log) = found.groups.remove(&group) else { return Ok(was_damaged) };
    if log.start > applied.index {
        return Err(format!(
            "the log of group {group} begins behind entry {}, and its state ends with {}",
            log.start, applied.index
        ));
    }
    let last = log.last.map_or(log.start, |position| position.index);
    let mut disk = WaitingDisk { disk, completions: VecDeque::new() };
    // The entry applied last, if the log has it, tells whether the two belong together.
    let mut next = applied.index.max(log.start + 1);
    let mut before = applied;
    while next <= last {
        let records = disk.read(&mut wal, group, next).map_err(|error| error.to_string())?;
        if records.is_empty() {
            return Err(format!("entry {next} of group {group} is missing"));
        }
        let mut batch = Vec::new();
        for record in records {
            let entry = persistence::decode_entry(record).map_err(|error| error.to_string())?;
            let position = entry.position;
            next = position.index + 1;
            if position.index > applied.index {
                if position.index != before.index + 1 || position.term < before.term {
                    return Err(format!("entry {position} of group {group} follows {before}"));
                }
                before = position;
                batch.push(entry);
            } else if position != applied {
                // A snapshot overtook this log; nothing in it counts any more.
                return Ok(was_damaged);
            }
        }
        take(batch)?;
    }
    Ok(was_damaged)
}

/// Performs every operation at once: nothing else happens during recovery.
struct WaitingDisk<'a> {
    disk: &'a mut dyn Disk,
    completions: VecDeque<DiskCompletion>,
}

impl WaitingDisk<'_> {
    fn read(
        &mut self,
        wal: &mut Wal,
        group: GroupId,
        from: u64,
    ) -> Result<Vec<EntryRecord>, WalError> {
        if let Some(entries) = wal.read(ReadToken(0), group, from, CHUNK_BYTES, self) {
            return Ok(entries);
        }
        let mut read = Vec::new();
        while let Some(completion) = self.completions.pop_front() {
            for event in wal.handle_completion(completion, self)? {
                if let WalEvent::Read { entries, .. } = event {
                    read.extend(entries);
                }
            }
        }
        Ok(read)
    }
}

impl Disk for WaitingDisk<'_> {
    fn submit(&mut self, token: DiskToken, op: DiskOp) {
        let result = self.disk.run(op);
        self.completions.push_back(DiskCompletion { token, result });
    }

    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        self.disk.list()
    }

    fn run(&mut self, op: DiskOp) -> Result<Bytes, DiskError> {
        self.disk.run(op)
    }
}
