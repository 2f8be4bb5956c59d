//! The applier: hands committed entries to the state machines, in order, and answers those who
//! wait for their effects.
//!
//! Invariant: an own write is answered only after it is applied here, so that its caller sees it in
//! every later read from this member; a read is released only once this member has applied up to
//! the index that the leader gave it.
//! Not here: what commands mean (`store`), deciding what is committed (`consensus`).

use crate::persistence;
use crate::{
    AppliedState, ApplierEffect, ApplierEvent, CoreConfig, LogEvent, ReplicaLimits, Reply,
    RequestError, RequestId,
};
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition, NodeId};
use consensus::{Applied, Entry, Membership, Payload, SnapshotRead};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use store::command::SessionId;
use store::range::Revision;
use store::reply::{Outcome, StoreError};
use store::{
    Accounts, Content, Engine, MachineKind, MembershipRefusal, Reader, SnapshotReader,
    SnapshotRefusal, SnapshotWrite, StateMachine, StoreFailure, ToApply,
};

/// Versions or keys that one step of background work looks at.
const BACKGROUND_STEP: usize = 256;

/// A snapshot that a lagging peer is reading.
struct OpenSnapshot {
    reader: SnapshotReader,
    membership: Membership,
    /// Its last chunk has been read: closed at the next flush.
    finished: bool,
}

struct Group {
    kind: MachineKind,
    machine: StateMachine,
    /// Own requests under way, by session and sequence.
    expected: BTreeMap<(SessionId, u64), Option<RequestId>>,
    /// Reads that wait until an index is applied.
    awaiting: BTreeMap<LogIndex, Vec<RequestId>>,
    snapshots: BTreeMap<NodeId, OpenSnapshot>,
    /// The users and roles of which the host knows.
    accounts: Arc<Accounts>,
    /// Up to where the host was told that compaction is physically done.
    compacted: Revision,
}

/// The state machines of every group of one node.
pub struct Applier {
    node: NodeId,
    groups: BTreeMap<GroupId, Group>,
    initial_membership: Membership,
    feature_level: u32,
    limits: ReplicaLimits,
    effects: VecDeque<ApplierEffect>,
    /// Weight applied since the last flush began.
    unflushed: u64,
    /// What will be durable when the flush under way completes.
    flushing: Option<BTreeMap<GroupId, LogPosition>>,
    idle_wanted: bool,
    stopped: bool,
}

impl Applier {
    /// Opens every group's state machine on `engine`.
    ///
    /// # Errors
    /// A plain sentence: the engine failed, or its format is unknown, or this build does not speak
    /// what the cluster writes.
    pub fn open(config: &CoreConfig, engine: Arc<dyn Engine>) -> Result<Applier, String> {
        let mut groups = BTreeMap::new();
        for &(group, kind) in &config.groups {
            let machine = StateMachine::open(Arc::clone(&engine), group, kind, config.store)
                .map_err(|failure| failure.to_string())?;
            let accounts = Arc::clone(machine.accounts());
            let group_state = Group {
                kind,
                machine,
                expected: BTreeMap::new(),
                awaiting: BTreeMap::new(),
                snapshots: BTreeMap::new(),
                accounts,
                compacted: 0,
            };
            groups.insert(group, group_state);
        }
        if let Some(core) = groups.get(&GroupId::CONSISTENT_CORE) {
            check_spoken(core.machine.feature_level(), config.feature_level)?;
        }
        Ok(Applier {
            node: config.node,
            groups,
            initial_membership: Membership::of_voters(config.initial_voters.iter().copied()),
            feature_level: config.feature_level,
            limits: config.limits.clone(),
            effects: VecDeque::new(),
            unflushed: 0,
            flushing: None,
            idle_wanted: false,
            stopped: false,
        })
    }

    /// Where every group stands, for `LogMachine::recover`.
    ///
    /// # Errors
    /// A plain sentence: the state was written by another version.
    pub fn applied(&self) -> Result<AppliedState, String> {
        let state = |(&group, state): (&GroupId, &Group)| {
            let membership = self.membership(state.machine.membership().as_ref());
            let membership = membership.map_err(|failure| failure.to_string())?;
            Ok((group, Applied { position: state.machine.applied(), membership }))
        };
        let groups = self.groups.iter().map(state).collect::<Result<_, String>>()?;
        let core = self.groups.get(&GroupId::CONSISTENT_CORE);
        let feature_level = core.map_or(0, |core| core.machine.feature_level());
        let table = core.map(|core| core.machine.reader().member_table()).transpose();
        let member_table = table.map_err(|failure| failure.to_string())?.flatten();
        Ok(AppliedState { groups, feature_level, member_table })
    }

    /// The members that a state names; the founders, if no entry has named any yet.
    fn membership(&self, named: Option<&Bytes>) -> Result<Membership, StoreFailure> {
        match named {
            None => Ok(self.initial_membership.clone()),
            Some(bytes) => persistence::decode_membership(bytes.clone()).map_err(|_| {
                let group = GroupId::CONSISTENT_CORE;
                StoreFailure::CorruptState { group, record: "membership" }
            }),
        }
    }

    /// A consistent view of a group's state, as of the last batch applied.
    ///
    /// # Panics
    /// If the group is not one of this node's.
    #[must_use]
    pub fn reader(&self, group: GroupId) -> Reader {
        self.groups[&group].machine.reader()
    }

    /// The users and roles of a group, as of the last batch applied.
    ///
    /// # Panics
    /// If the group is not one of this node's.
    #[must_use]
    pub fn accounts(&self, group: GroupId) -> Arc<Accounts> {
        Arc::clone(self.groups[&group].machine.accounts())
    }

    /// Chain hash of a group's state at its applied index, for checkers.
    #[must_use]
    pub fn chain_hash(&self, group: GroupId) -> Option<(LogPosition, u64)> {
        let machine = &self.groups.get(&group)?.machine;
        Some((machine.applied(), machine.chain_hash()))
    }

    /// The next thing to do, in order. Drain it after every `handle`.
    pub fn poll(&mut self) -> Option<ApplierEffect> {
        self.effects.pop_front()
    }

    /// Takes one event in.
    pub fn handle(&mut self, event: ApplierEvent) {
        if self.stopped {
            return;
        }
        if let Err(failure) = self.on_event(event) {
            self.fatal(failure.to_string());
        }
    }

    fn on_event(&mut self, event: ApplierEvent) -> Result<(), StoreFailure> {
        match event {
            ApplierEvent::Apply { group, entries } => self.apply(group, entries)?,
            ApplierEvent::Expect { group, session, sequence, request } => {
                self.group(group).expected.insert((session, sequence), request);
            }
            ApplierEvent::Forget { group, session, sequence } => {
                self.group(group).expected.remove(&(session, sequence));
            }
            ApplierEvent::AwaitApplied { requests, group, index } => {
                self.await_applied(group, index, requests);
            }
            ApplierEvent::ForgetReads { group, requests } => {
                self.group(group).awaiting.retain(|_, waiting| {
                    waiting.retain(|request| !requests.contains(request));
                    !waiting.is_empty()
                });
            }
            ApplierEvent::ReadSnapshot { group, peer, position, chunk } => {
                self.read_snapshot(group, peer, position, chunk)?;
            }
            ApplierEvent::WriteSnapshot { group, position, chunk, data, done } => {
                self.write_snapshot(group, position, chunk, &data, done)?;
            }
            ApplierEvent::FlushSoon => {
                self.unflushed = self.limits.flush_bytes;
                self.flush_if_due();
            }
            ApplierEvent::Flushed => self.on_flushed(),
            ApplierEvent::Idle => self.background_step()?,
        }
        Ok(())
    }

    fn group(&mut self, group: GroupId) -> &mut Group {
        self.groups.get_mut(&group).expect("the log machine has the same groups")
    }

    fn fatal(&mut self, why: String) {
        self.stopped = true;
        self.effects.push_back(ApplierEffect::Fatal(why));
    }

    fn reply(&mut self, request: RequestId, result: Result<Reply, RequestError>) {
        self.effects.push_back(ApplierEffect::Reply { request, result });
    }

    fn tell_log(&mut self, event: LogEvent) {
        self.effects.push_back(ApplierEffect::Log(event));
    }
}

/// Applying.
impl Applier {
    fn apply(&mut self, group: GroupId, entries: Vec<Entry>) -> Result<(), StoreFailure> {
        let weight: usize = entries.iter().map(Entry::weight).sum();
        let state = self.group(group);
        let before = state.machine.applied().index;
        let newest = entries.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(membership.members()),
            _ => None,
        });
        // A snapshot may have overtaken entries that were handed over before it.
        let batch: Vec<ToApply> = entries
            .into_iter()
            .filter(|entry| entry.position.index > before)
            .map(to_apply)
            .collect();
        let applied = state.machine.apply(batch)?;
        let index = state.machine.applied().index;
        let registered = |(_, _, result): &(_, _, Result<Outcome, StoreError>)| {
            matches!(result, Ok(Outcome::Registered | Outcome::Members(_)))
        };
        if let Some(members) = newest {
            state.snapshots.retain(|peer, _| members.contains(peer));
        }
        // Who is a member, with which directory, is asked before anything can be applied again
        // after a crash.
        let flush_now = applied.outcomes.iter().any(registered);
        if flush_now && group == GroupId::CONSISTENT_CORE {
            self.tell_member_table()?;
        }
        let (answered, sessions) = self.answer(group, applied.outcomes);
        // First whoever may not hear of the events any more.
        self.tell_accounts(group);
        if !applied.events.is_empty() {
            let (revision, events) = (applied.revision, applied.events.into());
            self.effects.push_back(ApplierEffect::Watch { group, revision, events });
        }
        self.release_reads(group);
        let hashes = applied.hashes;
        let leases = self.group(group).machine.lease_status();
        self.tell_log(LogEvent::Applied { group, index, weight, answered, hashes, leases });
        // Only then: whatever waits when a session ends is asked for again.
        for (session, open) in sessions {
            self.tell_log(LogEvent::Session { group, session, open });
        }
        if group == GroupId::CONSISTENT_CORE {
            self.check_feature_level()?;
        }
        self.want_idle();
        self.unflushed += if flush_now { self.limits.flush_bytes } else { weight as u64 };
        self.flush_if_due();
        Ok(())
    }

    /// Answers this node's own requests; returns the sequences that have their outcome, and own
    /// sessions with whether they are open now.
    fn answer(
        &mut self,
        group: GroupId,
        outcomes: Vec<(SessionId, u64, Result<Outcome, StoreError>)>,
    ) -> (Vec<u64>, Vec<(SessionId, bool)>) {
        let (mut answered, mut sessions) = (Vec::new(), Vec::new());
        for (session, sequence, result) in outcomes {
            if session.member != self.node {
                continue;
            }
            match result {
                Ok(Outcome::SessionOpened) => sessions.push((session, true)),
                Err(StoreError::SessionExpired) => {
                    // The log machine begins a fresh session, under which it is expected again.
                    self.group(group).expected.remove(&(session, sequence));
                    sessions.push((session, false));
                }
                result => {
                    // An earlier process of this member may have asked, or the caller gave up.
                    let Some(request) = self.group(group).expected.remove(&(session, sequence))
                    else {
                        continue;
                    };
                    answered.push(sequence);
                    match (request, result) {
                        (Some(request), Ok(outcome @ Outcome::Members(_))) => {
                            let event = LogEvent::MembershipApplied { request, sequence, outcome };
                            self.tell_log(event);
                        }
                        (request, result) => self.answer_one(request, result),
                    }
                }
            }
        }
        (answered, sessions)
    }

    fn answer_one(&mut self, request: Option<RequestId>, result: Result<Outcome, StoreError>) {
        match (request, result) {
            (Some(request), result) => {
                let result = result.map(Reply::Written).map_err(RequestError::Refused);
                self.reply(request, result);
            }
            (None, Err(StoreError::ForeignDirectory)) => self.fatal(
                "the cluster knows this member with another data directory: its data was lost or \
                 exchanged, and starting empty could undo acknowledged writes; replace the member"
                    .into(),
            ),
            (None, Err(StoreError::Membership(MembershipRefusal::MemberRemoved))) => {
                self.tell_log(LogEvent::Removed);
            }
            (None, _) => {}
        }
    }

    fn tell_member_table(&mut self) -> Result<(), StoreFailure> {
        if let Some(table) = self.reader(GroupId::CONSISTENT_CORE).member_table()? {
            self.tell_log(LogEvent::MemberTable(table));
        }
        Ok(())
    }

    fn tell_accounts(&mut self, group: GroupId) {
        let state = self.group(group);
        if !Arc::ptr_eq(&state.accounts, state.machine.accounts()) {
            state.accounts = Arc::clone(state.machine.accounts());
            let accounts = Arc::clone(&state.accounts);
            self.effects.push_back(ApplierEffect::Accounts { group, accounts });
        }
    }

    fn await_applied(&mut self, group: GroupId, index: LogIndex, requests: Vec<RequestId>) {
        self.group(group).awaiting.entry(index).or_default().extend(requests);
        self.release_reads(group);
    }

    fn release_reads(&mut self, group: GroupId) {
        let state = self.group(group);
        let applied = state.machine.applied().index;
        let later = state.awaiting.split_off(&(applied + 1));
        let ready = std::mem::replace(&mut state.awaiting, later);
        for request in ready.into_values().flatten() {
            self.reply(request, Ok(Reply::ReadReady));
        }
    }

    fn check_feature_level(&mut self) -> Result<(), StoreFailure> {
        let reader = self.reader(GroupId::CONSISTENT_CORE);
        let level = reader.feature_level();
        if let Err(sentence) = check_spoken(level, self.feature_level) {
            self.fatal(sentence);
            return Ok(());
        }
        let members = reader.members()?;
        let machine = &self.group(GroupId::CONSISTENT_CORE).machine;
        let voters = machine.membership();
        let voters = self.membership(voters.as_ref())?.voters;
        // Members that never started say nothing; they are refused if they speak too little.
        let started = || members.iter().filter(|member| member.feature_level > 0);
        let known = voters.iter().all(|voter| started().any(|member| member.id == *voter));
        let spoken = started().map(|member| member.feature_level).min().unwrap_or(0);
        let possible = if known { spoken.max(level) } else { level };
        self.tell_log(LogEvent::FeatureLevel { level, possible });
        Ok(())
    }
}

/// Durability, snapshots, background work.
impl Applier {
    fn flush_if_due(&mut self) {
        if self.unflushed < self.limits.flush_bytes || self.flushing.is_some() {
            return;
        }
        self.unflushed = 0;
        let applied = self.groups.iter().map(|(&id, state)| (id, state.machine.applied()));
        self.flushing = Some(applied.collect());
        self.effects.push_back(ApplierEffect::Flush);
    }

    fn on_flushed(&mut self) {
        let Some(flushed) = self.flushing.take() else { return };
        for (group, position) in flushed {
            self.tell_log(LogEvent::Flushed { group, position });
            self.group(group).snapshots.retain(|_, snapshot| !snapshot.finished);
        }
        self.flush_if_due();
    }

    fn want_idle(&mut self) {
        if !self.idle_wanted {
            self.idle_wanted = true;
            self.effects.push_back(ApplierEffect::WantsIdle);
        }
    }

    fn background_step(&mut self) -> Result<(), StoreFailure> {
        self.idle_wanted = false;
        let mut more = false;
        for (&group, state) in &mut self.groups {
            more |= state.machine.compact_step(BACKGROUND_STEP)?;
            more |= state.machine.delete_step(BACKGROUND_STEP)?;
            let compacted = state.machine.physically_compacted();
            if let Some(revision) = compacted.filter(|&revision| revision > state.compacted) {
                state.compacted = revision;
                self.effects.push_back(ApplierEffect::Compacted { group, revision });
            }
        }
        if more {
            self.want_idle();
        }
        Ok(())
    }

    fn read_snapshot(
        &mut self,
        group: GroupId,
        peer: NodeId,
        position: Option<LogPosition>,
        chunk: u64,
    ) -> Result<(), StoreFailure> {
        let limit = self.limits.open_snapshots;
        let state = self.group(group);
        let open = state.snapshots.get(&peer);
        let resumed = open.is_some_and(|open| Some(open.reader.position()) == position);
        if !resumed {
            state.snapshots.remove(&peer);
            let reader = state.machine.open_snapshot()?;
            let membership = self.membership(reader.membership())?;
            let state = self.group(group);
            // With fewer than one for every member, two that lag close each other's for ever.
            while state.snapshots.len() >= limit.max(membership.len()) {
                state.snapshots.pop_first();
            }
            let open = OpenSnapshot { reader, membership, finished: false };
            state.snapshots.insert(peer, open);
        }
        let state = self.group(group);
        let open = state.snapshots.get_mut(&peer).expect("opened above");
        let (chunk, read) = match open.reader.chunk(if resumed { chunk } else { 0 })? {
            Some(read) => (if resumed { chunk } else { 0 }, read),
            // Further back than can be read again: the peer begins anew.
            None => (0, open.reader.chunk(0)?.expect("chunk 0 can always be read")),
        };
        open.finished |= read.done;
        let (position, membership) = (open.reader.position(), open.membership.clone());
        let read = SnapshotRead { position, membership, chunk, data: read.data, done: read.done };
        self.tell_log(LogEvent::SnapshotRead { group, peer, read });
        Ok(())
    }

    fn write_snapshot(
        &mut self,
        group: GroupId,
        position: LogPosition,
        chunk: u64,
        data: &Bytes,
        done: bool,
    ) -> Result<(), StoreFailure> {
        let machine = &mut self.group(group).machine;
        let done = match machine.write_snapshot_chunk(position, chunk, data, done)? {
            SnapshotWrite::Written => false,
            SnapshotWrite::Installed => {
                self.after_install(group)?;
                true
            }
            SnapshotWrite::Refused(SnapshotRefusal::Stale { .. }) => done,
            SnapshotWrite::Refused(_) => {
                self.tell_log(LogEvent::SnapshotRefused { group, position, chunk });
                return Ok(());
            }
        };
        let named = self.group(group).machine.membership();
        let membership = self.membership(named.as_ref())?;
        self.tell_log(LogEvent::SnapshotWritten { group, position, membership, chunk, done });
        Ok(())
    }

    /// Requests whose entries the snapshot includes, or may include, have lost their replies.
    fn after_install(&mut self, group: GroupId) -> Result<(), StoreFailure> {
        let state = self.group(group);
        let machine = &state.machine;
        let overtaken: Vec<_> = state
            .expected
            .iter()
            .filter(|((session, sequence), request)| {
                // Under a fresh session a caller's write could be applied again; what the core
                // asks for itself (nobody to answer) may be.
                machine.session_applied(*session, *sequence) == Some(true)
                    || (request.is_some() && machine.session_has_ended(*session))
            })
            .map(|(&key, &request)| (key, request))
            .collect();
        let index = machine.applied().index;
        let kind = state.kind;
        for (key, _) in &overtaken {
            state.expected.remove(key);
        }
        let answered = overtaken.iter().map(|&((_, sequence), _)| sequence).collect();
        for request in overtaken.into_iter().filter_map(|(_, request)| request) {
            self.reply(request, Err(RequestError::OutcomeUnknown));
        }
        if group == GroupId::CONSISTENT_CORE {
            self.tell_member_table()?;
        }
        let (hashes, leases) = (Vec::new(), self.group(group).machine.lease_status());
        self.tell_log(LogEvent::Applied { group, index, weight: 0, answered, hashes, leases });
        self.tell_accounts(group);
        if kind == MachineKind::Keyspace {
            let revision = self.reader(group).revision();
            self.effects.push_back(ApplierEffect::WatchReset { group, revision });
        }
        if group == GroupId::CONSISTENT_CORE {
            self.check_feature_level()?;
        }
        self.release_reads(group);
        self.want_idle();
        Ok(())
    }
}

/// Whether a build that speaks up to `ours` may be part of a cluster that writes `level`.
fn check_spoken(level: u32, ours: u32) -> Result<(), String> {
    if level <= ours {
        return Ok(());
    }
    Err(format!(
        "the cluster writes feature level {level} and this build speaks up to {ours}: start a \
         newer quorate"
    ))
}

pub(crate) fn to_apply(entry: Entry) -> ToApply {
    let content = match entry.payload {
        Payload::Barrier => Content::Barrier,
        Payload::Command(command) => Content::Command(command),
        Payload::Membership(membership) => {
            Content::Membership(persistence::encode_membership(&membership))
        }
    };
    ToApply { position: entry.position, content }
}
