//! Read Index: a linearizable read needs no log entry, only proof that its leader still led when it
//! arrived.
//!
//! Used by etcd, TiKV and CockroachDB (thesis, section 6.4). The leader notes its high-water mark,
//! has a quorum answer one heartbeat round, sent after the reads arrived, and lets them see the
//! state at that mark. One round serves every read that waits. Invariant: no round is begun before
//! an entry of the own term is committed, since until then the mark may lag behind what an earlier
//! leader acknowledged.

use crate::ReadToken;
use crate::config::READ_ROUNDS_IN_FLIGHT;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use clocks::LogIndex;

#[derive(Debug)]
struct ReadRound {
    round: u64,
    index: LogIndex,
    tokens: Vec<ReadToken>,
}

/// The reads of one leadership.
#[derive(Debug, Default)]
pub(crate) struct ReadQueue {
    waiting: Vec<ReadToken>,
    rounds: VecDeque<ReadRound>,
    len: usize,
}

impl ReadQueue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, token: ReadToken) {
        self.waiting.push(token);
        self.len += 1;
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the waiting reads are worth a round of their own now, rather than the next.
    pub(crate) fn wants_round(&self) -> bool {
        self.has_waiting() && self.rounds.len() < READ_ROUNDS_IN_FLIGHT
    }

    /// Round `round` begins; `index` is the high-water mark.
    pub(crate) fn begin_round(&mut self, round: u64, index: LogIndex) {
        if self.waiting.is_empty() {
            return;
        }
        let tokens = core::mem::take(&mut self.waiting);
        self.rounds.push_back(ReadRound { round, index, tokens });
    }

    /// A quorum answered `round`, or a later one: hands out the reads that this confirms.
    pub(crate) fn confirm(&mut self, round: u64) -> Vec<(ReadToken, LogIndex)> {
        let mut confirmed = Vec::new();
        while let Some(done) = self.rounds.pop_front_if(|begun| begun.round <= round) {
            confirmed.extend(done.tokens.into_iter().map(|token| (token, done.index)));
        }
        self.len -= confirmed.len();
        confirmed
    }

    /// Takes the reads that wait for a round to begin: the lease answers them.
    pub(crate) fn take_waiting(&mut self) -> Vec<ReadToken> {
        self.len -= self.waiting.len();
        core::mem::take(&mut self.waiting)
    }

    /// Takes every read: leadership is over.
    pub(crate) fn take_all(&mut self) -> Vec<ReadToken> {
        let waiting = core::mem::take(&mut self.waiting);
        let begun = self.rounds.drain(..).flat_map(|round| round.tokens);
        self.len = 0;
        begun.chain(waiting).collect()
    }
}
