//! Singular Update Queue: one machine drains one queue of everything that may change the log, in
//! order, so that no lock guards consensus.
//!
//! Used by ZooKeeper (request processors), etcd (the raft loop) and Redis (its event loop). The
//! host drains its queue into [`LogMachine::handle`], then calls [`LogMachine::flush`] once: the
//! batches of proposals, appends, reads and disk writes are whatever gathered while the last ones
//! were under way; there are no timers on the hot path.
//! Invariant: nothing that a message promises leaves before the disk has confirmed it; `consensus`
//! holds such messages until then.
//! Not here: applying (`applier`), the rules of consensus, the layout of the log.

mod disk_space;
mod membership;
mod reads;

use crate::follower_reads::{Reader, WaitingRead};
use crate::group_log::GroupLog;
use crate::membership_reconciler::MembershipReconciler;
use crate::{
    AppliedState, ApplierEvent, Ask, COMMAND_BYTES, CoreConfig, LogEffect, LogEvent, NodeStatus,
    PeerMessage, ReplicaLimits, Reply, Request, RequestError, RequestId, log_replay, persistence,
};
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition, Monotonic, NodeId, WallTime};
use consensus::{Committed, Effect, HeartbeatCoalescer, Persist, PersistToken};
use mutants::{Bug, planted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use store::command::{Caller, Command, Envelope, MembershipCommand, SessionId};
use wal::{
    AppendToken, Damage, Disk, DiskCompletion, EntryRecord, Record, Recovered, Wal, WalError,
    WalEvent,
};

/// A `Persist` on its way to the disk.
struct Persisting {
    append: AppendToken,
    group: GroupId,
    token: PersistToken,
    /// The log's new start, if this moves it: what came before is released once this is durable.
    log_start: Option<LogIndex>,
    /// The state says that the group's log is whole.
    heals: bool,
}

/// Why entries are read back from the log.
enum LogReader {
    /// A peer whose next entries left the cache.
    Peer(NodeId),
    /// The applier, up to this index.
    Applier(LogIndex),
}

/// Consensus and log of every group of one node.
pub struct LogMachine {
    config: CoreConfig,
    wal: Wal,
    groups: BTreeMap<GroupId, GroupLog>,
    heartbeats: HeartbeatCoalescer,
    effects: VecDeque<LogEffect>,
    /// In the order of their appends.
    persisting: VecDeque<Persisting>,
    log_readers: BTreeMap<wal::ReadToken, (GroupId, LogReader)>,
    next_log_read: u64,
    /// What the host says of free space.
    host_short_of_space: bool,
    /// Members, this one included, that are short of disk space.
    short_of_space: BTreeSet<NodeId>,
    next_condition: Monotonic,
    peers: BTreeSet<NodeId>,
    /// Members whose connection closed and is not up again.
    absent: BTreeSet<NodeId>,
    /// Whether the host was told that nobody else is needed; `None`: it is to be told anew.
    peers_told: Option<bool>,
    reconciler: MembershipReconciler,
    /// Groups whose voters do not agree on their state.
    corrupt: BTreeSet<GroupId>,
    /// Groups that lost part of their log and have not learnt it anew yet.
    damaged: BTreeSet<GroupId>,
    /// What recovery found to be lost; stays for the life of the process.
    damage: Option<Damage>,
    /// What the consistent core allows to be written, as applied here.
    feature_level: u32,
    incarnation: u64,
    stopped: bool,
}

impl LogMachine {
    /// Reads the log back, or creates it. `applied` is what the applier's state machines say.
    ///
    /// # Errors
    /// A plain sentence: the log is corrupt, of another version, or the disk failed.
    pub fn recover(
        config: &CoreConfig,
        disk: &mut dyn Disk,
        applied: &AppliedState,
        now: Monotonic,
        seed: u64,
    ) -> Result<LogMachine, String> {
        let (mut wal, found) = open_log(config, disk, applied)?;
        let incarnation = found.incarnation;
        let damage = found.damage.clone();
        let damaged = match found.damage {
            Some(_) => config.groups.iter().map(|&(group, _)| group).collect(),
            None => BTreeSet::new(),
        };
        let recovered = log_replay::replay(config, &mut wal, disk, found, &applied.groups)?;
        let mut groups = BTreeMap::new();
        for (ordinal, (group, recovered)) in (0u64..).zip(recovered) {
            let seed = seed ^ ordinal.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let log = GroupLog::new(config, group, recovered, incarnation, now, seed);
            groups.insert(group, log);
        }
        let mut machine = LogMachine {
            config: config.clone(),
            wal,
            groups,
            heartbeats: HeartbeatCoalescer::new(),
            effects: VecDeque::new(),
            persisting: VecDeque::new(),
            log_readers: BTreeMap::new(),
            next_log_read: 1,
            host_short_of_space: false,
            short_of_space: BTreeSet::new(),
            next_condition: now,
            peers: BTreeSet::new(),
            absent: BTreeSet::new(),
            peers_told: None,
            reconciler: MembershipReconciler {
                table: applied.member_table.clone(),
                ..MembershipReconciler::default()
            },
            corrupt: BTreeSet::new(),
            damage,
            damaged,
            feature_level: applied.feature_level,
            incarnation,
            stopped: false,
        };
        machine.register();
        machine.connect_peers();
        Ok(machine)
    }

    /// Number of this start of the process; grows with every one.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Where the log turned out to be damaged: members that hold what was lost make up for it.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// When `flush` must be called even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        let groups = self.groups.values().filter_map(GroupLog::deadline);
        groups.chain([self.next_condition]).chain(self.reconciler.deadline()).min()
    }

    /// The next thing to do, in order. Drain it after every `flush`.
    pub fn poll(&mut self) -> Option<LogEffect> {
        self.effects.pop_front()
    }

    /// Where every group stands.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            groups: self.groups.values().map(GroupLog::status).collect(),
            log_bytes: self.wal.disk_bytes(),
            short_of_space: self.short_of_space.iter().copied().collect(),
            corrupt: self.corrupt.iter().copied().collect(),
            damaged: self.damaged.iter().copied().collect(),
        }
    }

    /// Takes one event in. Its consequences may wait for `flush`.
    pub fn handle(&mut self, event: LogEvent, now: Monotonic, disk: &mut dyn Disk) {
        if self.stopped {
            return;
        }
        match event {
            LogEvent::Request(request) => self.on_request(request, now),
            LogEvent::Peer { from, message } => self.on_peer_message(from, message, now),
            LogEvent::Connected(peer) => self.on_connected(peer, now),
            LogEvent::Disconnected(peer) => self.on_disconnected(peer, now),
            LogEvent::Disk(completion) => self.on_disk(completion, now, disk),
            LogEvent::ShortOfSpace(short) => {
                self.host_short_of_space = short;
                self.check_space(disk);
            }
            LogEvent::Removed => self.on_removed(),
            LogEvent::MemberTable(table) => self.on_member_table(table),
            LogEvent::MembershipApplied { request, sequence, outcome } => {
                self.on_membership_applied(request, sequence, outcome);
            }
            LogEvent::Session { group, session, open } => self.on_session(group, session, open),
            LogEvent::Flushed { group, position } => self.on_flushed(group, position, now),
            LogEvent::FeatureLevel { level, possible } => self.on_feature_level(level, possible),
            LogEvent::Applied { group, index, weight, answered, hashes, leases } => {
                self.log(group).on_leases(index, leases, now);
                self.on_applied(group, index, weight, &answered, hashes);
            }
            LogEvent::SnapshotRead { group, peer, read } => {
                if let Some(log) = self.groups.get_mut(&group) {
                    log.sending.insert(peer, read.position.index);
                    log.raft.handle_snapshot_read(now, peer, read);
                }
            }
            LogEvent::SnapshotRefused { group, position, chunk } => {
                if let Some(log) = self.groups.get_mut(&group) {
                    log.raft.handle_snapshot_refused(now, position, chunk);
                }
            }
            LogEvent::SnapshotWritten { group, position, membership, chunk, done } => {
                let Some(log) = self.groups.get_mut(&group) else { return };
                log.raft.handle_snapshot_written(now, position, membership, chunk, done);
                if done {
                    log.applied = log.applied.max(position.index);
                    log.reads.applied(log.applied);
                }
            }
        }
    }

    /// Ends a drain of the queue: `now` was sampled after it. Runs what is due, forms the batches
    /// and starts at most one write of the log.
    pub fn flush(&mut self, now: Monotonic, wall: WallTime, disk: &mut dyn Disk) {
        if self.stopped {
            return;
        }
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for &group in &ids {
            self.expire(group, now);
            if self.log(group).raft.deadline().is_some_and(|deadline| deadline <= now) {
                self.log(group).raft.handle_deadline(now);
            }
            self.send_writes(group, now, wall);
            self.log(group).tick_leases(now);
            self.send_reads(group, now);
            self.reconcile(group, now);
            self.log(group).raft.flush(now);
            self.drain_raft(group, now, disk);
            self.hand_over(group, now, disk);
        }
        self.check_membership(now);
        self.tell_condition(now, disk);
        self.wal.flush(disk);
        for heartbeats in self.heartbeats.drain() {
            let to = heartbeats.to;
            let message = PeerMessage::Heartbeats(heartbeats);
            self.effects.push_back(LogEffect::Send { to, message });
        }
    }

    fn log(&mut self, group: GroupId) -> &mut GroupLog {
        self.groups.get_mut(&group).expect("the group is one of ours")
    }

    /// The rest of this process's life is to be stopped by the host.
    fn fatal(&mut self, why: String) {
        self.stopped = true;
        self.effects.push_back(LogEffect::Fatal(why));
    }

    fn reply(&mut self, request: RequestId, result: Result<Reply, RequestError>) {
        self.effects.push_back(LogEffect::Reply { request, result });
    }
}

/// Opens the log; a damaged one only if other voters hold what was lost.
fn open_log(
    config: &CoreConfig,
    disk: &mut dyn Disk,
    applied: &AppliedState,
) -> Result<(Wal, Recovered), String> {
    let is_sole_voter = |applied: &AppliedState| {
        applied.groups.values().any(|applied| applied.membership.voters.len() == 1)
    };
    match Wal::recover(config.wal.clone(), disk) {
        Err(corrupt @ WalError::Corrupt { .. }) if is_sole_voter(applied) => Err(format!(
            "{corrupt}; this member is the only voter, so nobody else holds what was lost: \
             restore its data directory from a copy"
        )),
        Err(WalError::Corrupt { .. }) => {
            Wal::recover_damaged(config.wal.clone(), disk).map_err(|error| error.to_string())
        }
        opened => opened.map_err(|error| error.to_string()),
    }
}

/// Requests of this node.
impl LogMachine {
    fn on_request(&mut self, request: Request, now: Monotonic) {
        let Request { id, group, deadline, caller, ask } = request;
        if deadline <= now {
            return self.reply(id, Err(RequestError::TimedOut));
        }
        match ask {
            Ask::Status => {
                let status = self.status();
                self.reply(id, Ok(Reply::Status(status)));
            }
            Ask::TransferLeadership { to } => {
                self.on_transfer_leadership(id, group, deadline, to, now);
            }
            Ask::ReadBarrier => {
                let read = WaitingRead { reader: Reader::Request(id), deadline };
                let admitted = match self.groups.get_mut(&group) {
                    Some(log) => log.reads.admit(read),
                    None => Err(RequestError::Refused(store::reply::StoreError::WrongGroup)),
                };
                if let Err(error) = admitted {
                    self.reply(id, Err(error));
                }
            }
            Ask::Write(command) => {
                if let Err(error) = self.admit_write(group, Some(id), caller, command, deadline) {
                    self.reply(id, Err(error));
                }
            }
        }
    }

    fn admit_write(
        &mut self,
        group: GroupId,
        request: Option<RequestId>,
        caller: Option<Caller>,
        command: Command,
        deadline: Monotonic,
    ) -> Result<(), RequestError> {
        assert!(!matches!(command, Command::LeaseTick { .. }), "ticks are proposed, not asked for");
        if command.feature_level() > self.level_to_write() {
            return Err(RequestError::NotCapable);
        }
        if !self.has_space_for(group, &command) {
            return Err(RequestError::NoSpace);
        }
        let Some(log) = self.groups.get_mut(&group) else {
            return Err(RequestError::Refused(store::reply::StoreError::WrongGroup));
        };
        let sequence = log.waiting.admit(request, caller, command, deadline)?;
        let session = log.waiting.session();
        let expect = ApplierEvent::Expect { group, session, sequence, request };
        self.effects.push_back(LogEffect::Applier(expect));
        Ok(())
    }

    /// Deletions and compactions are let through while disk space is short: they make room.
    fn has_space_for(&self, group: GroupId, command: &Command) -> bool {
        group == GroupId::CONSISTENT_CORE
            || self.short_of_space.is_empty()
            || !command.takes_space()
    }

    /// Tells the consistent core who this node is; repeated until it is known.
    fn register(&mut self) {
        let command = Command::RegisterMember(self.config.member.clone());
        let never = Monotonic(u64::MAX);
        self.admit_write(GroupId::CONSISTENT_CORE, None, None, command, never)
            .expect("an empty waiting list of the consistent core takes a first request");
    }

    /// Level 1 is what every build speaks; the founders' first commands come before the consistent
    /// core has heard of them all.
    fn level_to_write(&self) -> u32 {
        self.feature_level.max(1)
    }

    fn on_feature_level(&mut self, level: u32, possible: u32) {
        self.feature_level = level;
        if possible <= level {
            return;
        }
        let us = self.config.node;
        let leads = |log: &GroupLog| log.raft.leader() == Some(us);
        if self.groups.get(&GroupId::CONSISTENT_CORE).is_some_and(leads) {
            let command = Command::RaiseFeatureLevel { level: possible };
            // Refused for lack of room: the next registration proposes it again.
            let never = Monotonic(u64::MAX);
            let _ = self.admit_write(GroupId::CONSISTENT_CORE, None, None, command, never);
        }
    }

    fn expire(&mut self, group: GroupId, now: Monotonic) {
        let log = self.log(group);
        let writes = log.waiting.expire(now);
        let mut reads = log.reads.expire(now);
        reads.extend(log.expire_asked(now));
        let session = log.waiting.session();
        for expired in writes {
            let forget = ApplierEvent::Forget { group, session, sequence: expired.sequence };
            self.effects.push_back(LogEffect::Applier(forget));
            if let Some(request) = expired.request.filter(|_| !planted(Bug::ExpiryUnanswered)) {
                self.reply(request, Err(RequestError::TimedOut));
            }
        }
        if reads.is_empty() {
            return;
        }
        let forget = ApplierEvent::ForgetReads { group, requests: reads.clone() };
        self.effects.push_back(LogEffect::Applier(forget));
        for request in reads {
            self.reply(request, Err(RequestError::TimedOut));
        }
    }

    fn send_writes(&mut self, group: GroupId, now: Monotonic, wall: WallTime) {
        let us = self.config.node;
        let batch_bytes = self.config.window.append_bytes;
        let log = self.log(group);
        let Some(to) = log.leadership() else { return log.waiting.no_leader() };
        loop {
            let commands = self.log(group).waiting.take_unsent(to, us, now, wall, batch_bytes);
            if commands.is_empty() {
                return;
            }
            if to.leader != us {
                let message = PeerMessage::Propose { group, commands };
                self.effects.push_back(LogEffect::Send { to: to.leader, message });
            } else {
                let proposed = self.propose(group, commands, now);
                let waiting = &mut self.log(group).waiting;
                match proposed {
                    Ok(later) if later.is_empty() => {}
                    Ok(later) => return waiting.put_back_some(later),
                    Err(_) => return waiting.put_back(),
                }
            }
        }
    }
}

/// Peers.
impl LogMachine {
    fn on_connected(&mut self, peer: NodeId, now: Monotonic) {
        self.absent.remove(&peer);
        for log in self.groups.values_mut() {
            log.raft.handle_peer_connected(now, peer);
            if log.raft.leader() == Some(peer) {
                // What was sent over the old connection may be lost.
                log.waiting.resend_all();
                log.reads.abandon_round();
            }
        }
    }

    fn on_disconnected(&mut self, peer: NodeId, now: Monotonic) {
        for log in self.groups.values_mut() {
            log.raft.handle_peer_disconnected(now, peer);
            log.sending.remove(&peer);
        }
        self.absent.insert(peer);
        // An absent member's disk holds nobody up.
        self.on_condition(peer, false);
    }

    fn tell_peers(&mut self, message: &PeerMessage) {
        for &to in &self.peers {
            self.effects.push_back(LogEffect::Send { to, message: message.clone() });
        }
    }

    fn on_peer_message(&mut self, from: NodeId, message: PeerMessage, now: Monotonic) {
        if self.turn_away(from) {
            return;
        }
        match message {
            PeerMessage::Consensus(message) => {
                let known = self.groups.get_mut(&message.group);
                // A peer speaks only for itself.
                if let Some(log) = known.filter(|_| message.from == from) {
                    log.raft.handle_message(now, message);
                }
            }
            PeerMessage::Heartbeats(heartbeats) => {
                let honest = heartbeats.from == from && heartbeats.to == self.config.node;
                for message in heartbeats.into_messages().filter(|_| honest) {
                    if let Some(log) = self.groups.get_mut(&message.group) {
                        log.raft.handle_message(now, message);
                    }
                }
            }
            PeerMessage::Propose { group, commands } => {
                self.on_forwarded(from, group, commands, now);
            }
            PeerMessage::ProposeRefused { group, term } => {
                if let Some(log) = self.groups.get_mut(&group) {
                    log.waiting.on_refused(term, now);
                }
            }
            PeerMessage::ReadIndex { group, round } => self.on_read_index(from, group, round, now),
            PeerMessage::ReadIndexReply { group, round, index } => {
                self.on_read_index_reply(group, round, index, now);
            }
            PeerMessage::StateHashes { group, hashes } => self.compare(from, group, &hashes),
            PeerMessage::LearnersInSync { group, term, learners } => {
                self.on_learners_in_sync(from, group, term, learners, now);
            }
            PeerMessage::Removed if self.peers.contains(&from) => self.on_removed(),
            PeerMessage::Removed => {}
            PeerMessage::MemberCondition { short_of_space } => {
                self.on_condition(from, short_of_space);
            }
        }
    }

    fn on_forwarded(
        &mut self,
        from: NodeId,
        group: GroupId,
        mut commands: Vec<Bytes>,
        now: Monotonic,
    ) {
        let mut refused = false;
        commands.retain(|command| self.may_propose(from, group, command, &mut refused));
        if !self.groups.contains_key(&group) {
            return;
        }
        if !commands.is_empty() {
            refused |= !self.propose(group, commands, now).is_ok_and(|later| later.is_empty());
        }
        if refused {
            let message = PeerMessage::ProposeRefused { group, term: self.log(group).raft.term() };
            self.effects.push_back(LogEffect::Send { to: from, message });
        }
    }

    /// Whether `from` may have this command proposed now: what every member has to apply must be
    /// readable, and a member asks only in sessions of its own (an honest one sends nothing else).
    /// Notes what may be proposed later.
    fn may_propose(
        &self,
        from: NodeId,
        group: GroupId,
        command: &Bytes,
        refused: &mut bool,
    ) -> bool {
        if command.len() > COMMAND_BYTES {
            return false;
        }
        let Ok(asked) = Envelope::decode(command.clone()) else { return false };
        let fits = self.has_space_for(group, &asked.command);
        // This member may be the last to hear of a new level.
        let spoken = asked.command.feature_level() <= self.level_to_write();
        *refused |= !fits || !spoken;
        // A tick says what time it is at its leader, and only leaders object: nobody else's counts.
        let own = matches!(
            asked.command,
            Command::LeaseTick { .. } | Command::Membership(MembershipCommand::Refuse { .. })
        );
        fits && spoken && !own && asked.session.member == from
    }

    fn compare(&mut self, member: NodeId, group: GroupId, hashes: &[(LogIndex, u64)]) {
        let Some(log) = self.groups.get_mut(&group) else { return };
        let voters = log.raft.membership().voters.clone();
        let verdicts = hashes
            .iter()
            .filter_map(|&(index, hash)| log.hashes.record(member, index, hash, &voters))
            .collect::<Vec<_>>();
        let mut undecided = hashes.iter().map(|&(index, _)| index);
        if undecided.any(|index| log.hashes.is_undecided(index, &voters)) {
            self.corrupt.insert(group);
        }
        if let Some(diverged) = verdicts.first() {
            self.fatal(format!(
                "the state of group {group} at index {} has hash {:016x} here and {:016x} on a \
                 majority: this member's data is wrong; stop it for good and replace the member",
                diverged.index, diverged.ours, diverged.theirs
            ));
        }
    }
}

/// Disk and applier.
impl LogMachine {
    fn on_disk(&mut self, completion: DiskCompletion, now: Monotonic, disk: &mut dyn Disk) {
        let events = match self.wal.handle_completion(completion, disk) {
            Ok(events) => events,
            Err(error) => return self.fatal(error.to_string()),
        };
        for event in events {
            match event {
                WalEvent::Durable { through } => self.on_durable(through, now, disk),
                WalEvent::Read { token, entries } => self.on_log_read(token, entries, now),
                WalEvent::Full => self.on_condition(self.config.node, true),
            }
        }
    }

    fn on_durable(&mut self, through: AppendToken, now: Monotonic, disk: &mut dyn Disk) {
        while self.persisting.front().is_some_and(|persisting| persisting.append <= through) {
            let Some(done) = self.persisting.pop_front() else { return };
            if let Some(start) = done.log_start {
                self.wal.release(done.group, start + 1, disk);
            }
            if done.heals && self.damaged.remove(&done.group) && self.damaged.is_empty() {
                self.wal.clear_damage();
            }
            self.log(done.group).raft.handle_persisted(now, done.token);
        }
    }

    fn on_log_read(&mut self, token: wal::ReadToken, records: Vec<EntryRecord>, now: Monotonic) {
        let Some((group, reader)) = self.log_readers.remove(&token) else { return };
        let decoded: Result<Vec<_>, _> =
            records.into_iter().map(persistence::decode_entry).collect();
        let mut entries = match decoded {
            Ok(entries) => entries,
            Err(error) => return self.fatal(format!("log of group {group}: {error}")),
        };
        let log = self.log(group);
        match reader {
            LogReader::Peer(peer) => log.raft.handle_log_read(now, peer, entries),
            LogReader::Applier(through) => {
                log.reading_committed = None;
                // A snapshot may have been installed meanwhile.
                let wanted = log.applied + 1..=through;
                entries.retain(|entry| wanted.contains(&entry.position.index));
                self.apply(group, entries);
            }
        }
    }

    fn on_applied(
        &mut self,
        group: GroupId,
        index: LogIndex,
        weight: usize,
        answered: &[u64],
        hashes: Vec<(LogIndex, u64)>,
    ) {
        let us = self.config.node;
        let log = self.log(group);
        assert!(log.unapplied >= weight, "more was applied than handed over");
        log.unapplied -= weight;
        log.applied = log.applied.max(index);
        log.reads.applied(log.applied);
        for &sequence in answered {
            log.waiting.remove(sequence);
        }
        if !hashes.is_empty() {
            self.compare(us, group, &hashes);
            self.tell_peers(&PeerMessage::StateHashes { group, hashes });
        }
    }

    fn on_session(&mut self, group: GroupId, session: SessionId, open: bool) {
        let log = self.log(group);
        let moved = log.waiting.on_session(session, open);
        let session = log.waiting.session();
        for expecting in moved {
            let (sequence, request) = (expecting.sequence, expecting.request);
            let expect = ApplierEvent::Expect { group, session, sequence, request };
            self.effects.push_back(LogEffect::Applier(expect));
        }
    }

    /// Hands committed entries to the applier, as far as it has room.
    fn hand_over(&mut self, group: GroupId, now: Monotonic, disk: &mut dyn Disk) {
        let ReplicaLimits { unapplied_bytes, apply_batch_bytes, .. } = self.config.limits;
        loop {
            let log = self.log(group);
            if log.reading_committed.is_some() || log.unapplied >= unapplied_bytes {
                return;
            }
            match log.raft.next_committed(apply_batch_bytes) {
                Committed::Nothing => return,
                Committed::Entries(entries) => self.apply(group, entries),
                Committed::OnDisk { from, to } => {
                    log.reading_committed = Some(to);
                    self.read_log(
                        group,
                        LogReader::Applier(to),
                        from,
                        apply_batch_bytes,
                        now,
                        disk,
                    );
                }
            }
        }
    }

    fn apply(&mut self, group: GroupId, entries: Vec<consensus::Entry>) {
        let Some(last) = entries.last().map(|entry| entry.position.index) else { return };
        let log = self.log(group);
        log.unapplied += entries.iter().map(consensus::Entry::weight).sum::<usize>();
        log.raft.handed_over(last);
        self.effects.push_back(LogEffect::Applier(ApplierEvent::Apply { group, entries }));
    }

    fn read_log(
        &mut self,
        group: GroupId,
        reader: LogReader,
        from: LogIndex,
        max_bytes: usize,
        now: Monotonic,
        disk: &mut dyn Disk,
    ) {
        let token = wal::ReadToken(self.next_log_read);
        self.next_log_read += 1;
        self.log_readers.insert(token, (group, reader));
        if let Some(entries) = self.wal.read(token, group, from, max_bytes, disk) {
            self.on_log_read(token, entries, now);
        }
    }
}

/// Consensus.
impl LogMachine {
    fn drain_raft(&mut self, group: GroupId, now: Monotonic, disk: &mut dyn Disk) {
        while let Some(effect) = self.log(group).raft.poll_effect() {
            match effect {
                Effect::Send(message) => {
                    if let Some(message) = self.heartbeats.offer(message) {
                        let (to, message) = (message.to, PeerMessage::Consensus(message));
                        self.effects.push_back(LogEffect::Send { to, message });
                    }
                }
                Effect::Persist(persist) => self.persist(group, persist),
                // `hand_over` follows every drain.
                Effect::Committed(_) => {}
                Effect::ReadReady { token, index } => self.on_read_ready(group, token, index),
                Effect::ReadRefused { token } => self.on_read_refused(group, token),
                Effect::ReadLog { peer, from, max_bytes } => {
                    self.read_log(group, LogReader::Peer(peer), from, max_bytes, now, disk);
                }
                Effect::ReadSnapshot { peer, position, chunk } => {
                    let read = ApplierEvent::ReadSnapshot { group, peer, position, chunk };
                    self.effects.push_back(LogEffect::Applier(read));
                }
                Effect::WriteSnapshot { position, chunk, data, done, .. } => {
                    let write = ApplierEvent::WriteSnapshot { group, position, chunk, data, done };
                    self.effects.push_back(LogEffect::Applier(write));
                }
                Effect::RoleChanged { role, term, leader } => {
                    let changed = LogEffect::RoleChanged { group, role, term, leader };
                    self.effects.push_back(changed);
                }
                Effect::MembershipChanged(_) => self.connect_peers(),
                Effect::Contradicted { index } => self.fatal(format!(
                    "the leader of group {group} contradicts entry {index}, which this member \
                     knows to be committed: a disk lost what it had synced, or there is a defect; \
                     keep every member's data directory and compare them"
                )),
            }
        }
    }

    fn persist(&mut self, group: GroupId, persist: Persist) {
        let Persist { token, hard_state, entries, reset } = persist;
        let log_start = hard_state.as_ref().map(|state| state.log_start.index);
        let heals = hard_state.as_ref().is_some_and(|state| !state.damaged);
        let reset = reset.map(|LogPosition { index: start, .. }| Record::Reset { group, start });
        let state = hard_state
            .map(|state| Record::State { group, state: persistence::encode_state(&state) });
        let entries = entries
            .into_iter()
            .map(|entry| Record::Entry { group, entry: persistence::encode_entry(entry) });
        // A crash may keep a prefix. Dropping the log first is safe, since the snapshot that takes
        // its place is durable; entries must never be there without the term that wrote them.
        let records = reset.into_iter().chain(state).chain(entries).collect();
        let append = self.wal.append(records);
        self.persisting.push_back(Persisting { append, group, token, log_start, heals });
    }
}
