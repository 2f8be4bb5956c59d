//! One group at this node: its consensus, and the requests that wait for it.

use crate::divergence::StateHashes;
use crate::follower_reads::{FollowerReads, Reader, WaitingRead};
use crate::lease_clock::{LeaseClock, Tick};
use crate::membership_reconciler::is_active;
use crate::request_waiting_list::{Leadership, RequestWaitingList};
use crate::{CoreConfig, GroupStatus, RequestId};
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition, Monotonic, NodeId, Term};
use consensus::{Config, LeaseMode, ProgressState, ProposeError, Raft, ReadToken, Recovered};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use store::LeaseStatus;
use store::command::Envelope;

/// Who asked for a read index.
pub(crate) enum ReadAsker {
    /// Requests of this node.
    Local(Vec<WaitingRead>),
    /// A follower, with the number of its question.
    Peer(NodeId, u64),
}

/// What this node holds of one group besides its entries.
pub(crate) struct GroupLog {
    pub(crate) group: GroupId,
    pub(crate) raft: Raft,
    pub(crate) waiting: RequestWaitingList,
    pub(crate) reads: FollowerReads,
    pub(crate) asked: BTreeMap<ReadToken, ReadAsker>,
    pub(crate) hashes: StateHashes,
    pub(crate) next_read_token: u64,
    /// Weight of entries handed to the applier and not yet applied.
    pub(crate) unapplied: usize,
    /// Last index known to be applied.
    pub(crate) applied: LogIndex,
    /// Positions up to which the engine was flushed, ascending, that the log still holds.
    pub(crate) flushed: VecDeque<LogPosition>,
    /// Where the snapshots end that members were sent last.
    pub(crate) sending: BTreeMap<NodeId, LogIndex>,
    /// Committed entries that left the cache are being read from the log.
    pub(crate) reading_committed: Option<LogIndex>,
    pub(crate) lease_clock: LeaseClock,
}

impl GroupLog {
    pub(crate) fn new(
        config: &CoreConfig,
        group: GroupId,
        recovered: Recovered,
        incarnation: u64,
        now: Monotonic,
        seed: u64,
    ) -> GroupLog {
        let raft = Raft::recover(raft_config(config, group), recovered, now, seed);
        GroupLog {
            group,
            waiting: RequestWaitingList::new(config.node, incarnation, &config.limits),
            reads: FollowerReads::new(incarnation, &config.limits),
            asked: BTreeMap::new(),
            hashes: StateHashes::new(config.node, config.limits.compared_hashes),
            next_read_token: 1,
            unapplied: 0,
            applied: raft.committed(),
            flushed: VecDeque::new(),
            sending: BTreeMap::new(),
            reading_committed: None,
            lease_clock: LeaseClock::default(),
            raft,
        }
    }

    /// At the leader: behind which index members that answer still need the log.
    pub(crate) fn lacking_from(
        &mut self,
        now: Monotonic,
        silence_max: Duration,
        absent: &BTreeSet<NodeId>,
    ) -> Option<LogIndex> {
        let peers = self.raft.progress();
        self.sending.retain(|member, _| peers.iter().any(|peer| peer.node == *member));
        let active = peers
            .iter()
            .filter(|peer| !absent.contains(&peer.node) && is_active(peer, now, silence_max));
        let lacking = active.filter_map(|peer| match peer.state {
            ProgressState::Snapshot => self.sending.get(&peer.node).copied(),
            ProgressState::Replicate => Some(peer.matched),
            // Nobody knows yet what it has.
            ProgressState::Probe => None,
        });
        lacking.min()
    }

    /// Whom to send requests to, if anybody.
    pub(crate) fn leadership(&self) -> Option<Leadership> {
        let leader = self.raft.leader()?;
        Some(Leadership { leader, term: self.raft.term() })
    }

    pub(crate) fn new_read_token(&mut self) -> ReadToken {
        let token = ReadToken(self.next_read_token);
        self.next_read_token += 1;
        token
    }

    /// The term in which this member leads, if it does.
    pub(crate) fn leading(&self) -> Option<Term> {
        (self.raft.leader() == Some(self.raft.node())).then(|| self.raft.term())
    }

    /// Proposes commands, and the lease clock's tick before those that need it.
    pub(crate) fn propose(
        &mut self,
        now: Monotonic,
        mut commands: Vec<Bytes>,
    ) -> Result<(), ProposeError> {
        let mut tick = None;
        if commands.iter().any(Envelope::begins_lease_time) {
            tick = self.lease_clock.tick_before_batch(self.leading(), now);
            commands.splice(0..0, tick.as_ref().map(Tick::encode));
        }
        self.raft.propose(now, commands)?;
        if let Some(tick) = tick {
            self.lease_clock.appended_before_batch(&tick, now);
        }
        Ok(())
    }

    /// Proposes the lease clock's tick, if one is due.
    pub(crate) fn tick_leases(&mut self, now: Monotonic) {
        let Some(tick) = self.lease_clock.tick_due(self.leading(), now) else { return };
        match self.raft.propose(now, vec![tick.encode()]) {
            Ok(position) => self.lease_clock.appended(&tick, position.index, now),
            Err(_) => self.lease_clock.refused(now),
        }
    }

    /// The applier went on to `index`.
    pub(crate) fn on_leases(&mut self, index: LogIndex, leases: LeaseStatus, now: Monotonic) {
        let of_term = self.raft.position_at(index).map(|position| position.term);
        let leading = self.leading().filter(|&term| of_term == Some(term));
        self.lease_clock.on_applied(index, leases, leading, now);
    }

    /// Removes and returns the reads whose callers have stopped waiting for a confirmation, which
    /// takes long while a new leader has much to commit.
    pub(crate) fn expire_asked(&mut self, now: Monotonic) -> Vec<RequestId> {
        let mut expired = Vec::new();
        for asker in self.asked.values_mut() {
            let ReadAsker::Local(reads) = asker else { continue };
            for read in reads.extract_if(.., |read| read.deadline <= now) {
                if let Reader::Request(request) = read.reader {
                    expired.push(request);
                }
            }
        }
        expired
    }

    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        let own = [self.raft.deadline(), self.waiting.deadline(), self.reads.deadline()];
        let leases = self.lease_clock.deadline(self.leading());
        let asked = self.asked.values().filter_map(|asker| match asker {
            ReadAsker::Local(reads) => reads.iter().map(|read| read.deadline).min(),
            ReadAsker::Peer(..) => None,
        });
        own.into_iter().chain([leases]).flatten().chain(asked).min()
    }

    pub(crate) fn status(&self) -> GroupStatus {
        let peers = self.raft.progress();
        GroupStatus {
            group: self.group,
            role: self.raft.role(),
            term: self.raft.term(),
            leader: self.raft.leader(),
            last_index: self.raft.last_position().index,
            committed: self.raft.committed(),
            applied: self.applied,
            first_index: self.raft.first_index(),
            matched: peers.iter().map(|peer| (peer.node, peer.matched)).collect(),
            waiting: self.waiting.len() + self.reads.len(),
            membership: self.raft.membership().clone(),
            membership_settled: self.raft.membership_is_committed()
                && !self.raft.membership().is_joint(),
        }
    }
}

/// Consensus settings of one group.
pub(crate) fn raft_config(config: &CoreConfig, group: GroupId) -> Config {
    let window = &config.window;
    Config {
        heartbeat_interval: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        lease: if config.lease.is_zero() { LeaseMode::Off } else { LeaseMode::For(config.lease) },
        longest_lease: config.longest_lease,
        clock_bound: config.clock_bound,
        max_append_bytes: window.append_bytes,
        max_append_entries: window.append_entries,
        max_inflight_messages: window.inflight_messages,
        max_inflight_bytes: window.inflight_bytes,
        cache_bytes: window.cache_bytes,
        max_uncommitted_bytes: window.uncommitted_bytes,
        max_waiting_reads: config.limits.waiting_requests,
        ..Config::new(config.node, group)
    }
}
