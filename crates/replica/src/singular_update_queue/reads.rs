//! Linearizable reads of the log machine: this node's own, and those that followers ask about.
//! Which round confirms which read is kept in `follower_reads`.

use super::LogMachine;
use crate::follower_reads::{Reader, WaitingRead};
use crate::group_log::ReadAsker;
use crate::{ApplierEvent, LogEffect, PeerMessage};
use clocks::{GroupId, LogIndex, Monotonic, NodeId};
use consensus::ReadToken;

impl LogMachine {
    pub(super) fn send_reads(&mut self, group: GroupId, now: Monotonic) {
        let us = self.config.node;
        let log = self.log(group);
        let Some(to) = log.leadership() else { return log.reads.abandon_round() };
        if to.leader == us {
            let reads = log.reads.take_waiting();
            if reads.is_empty() {
                return;
            }
            let token = log.new_read_token();
            match log.raft.read_index(now, token) {
                Ok(()) => {
                    log.asked.insert(token, ReadAsker::Local(reads));
                }
                Err(_) => log.reads.put_back(reads),
            }
        } else if let Some(round) = log.reads.next_question(to, now) {
            let message = PeerMessage::ReadIndex { group, round };
            self.effects.push_back(LogEffect::Send { to: to.leader, message });
        }
    }

    pub(super) fn on_read_index(
        &mut self,
        from: NodeId,
        group: GroupId,
        round: u64,
        now: Monotonic,
    ) {
        let Some(log) = self.groups.get_mut(&group) else { return };
        let token = log.new_read_token();
        if log.raft.read_index(now, token).is_ok() {
            log.asked.insert(token, ReadAsker::Peer(from, round));
        } else {
            let message = PeerMessage::ReadIndexReply { group, round, index: None };
            self.effects.push_back(LogEffect::Send { to: from, message });
        }
    }

    pub(super) fn on_read_index_reply(
        &mut self,
        group: GroupId,
        round: u64,
        index: Option<LogIndex>,
        now: Monotonic,
    ) {
        let Some(log) = self.groups.get_mut(&group) else { return };
        match index {
            Some(index) => {
                let reads = log.reads.on_answer(round);
                self.await_applied(group, reads, index);
            }
            None => log.reads.on_refusal(round, now),
        }
    }

    pub(super) fn await_applied(
        &mut self,
        group: GroupId,
        reads: Vec<WaitingRead>,
        index: LogIndex,
    ) {
        let log = self.log(group);
        if index > log.applied {
            log.reads.confirmed(&reads, index);
        }
        let mut requests = Vec::with_capacity(reads.len());
        for read in reads {
            match read.reader {
                Reader::Request(request) => requests.push(request),
                Reader::Own(read) => self.on_own_read(read, index),
            }
        }
        if requests.is_empty() {
            return;
        }
        let wait = ApplierEvent::AwaitApplied { requests, group, index };
        self.effects.push_back(LogEffect::Applier(wait));
    }

    pub(super) fn on_read_ready(&mut self, group: GroupId, token: ReadToken, index: LogIndex) {
        match self.log(group).asked.remove(&token) {
            Some(ReadAsker::Local(reads)) => self.await_applied(group, reads, index),
            Some(ReadAsker::Peer(to, round)) => {
                let message = PeerMessage::ReadIndexReply { group, round, index: Some(index) };
                self.effects.push_back(LogEffect::Send { to, message });
            }
            None => {}
        }
    }

    pub(super) fn on_read_refused(&mut self, group: GroupId, token: ReadToken) {
        let log = self.log(group);
        match log.asked.remove(&token) {
            Some(ReadAsker::Local(reads)) => log.reads.put_back(reads),
            Some(ReadAsker::Peer(to, round)) => {
                let message = PeerMessage::ReadIndexReply { group, round, index: None };
                self.effects.push_back(LogEffect::Send { to, message });
            }
            None => {}
        }
    }
}
