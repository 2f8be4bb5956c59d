//! Follower Reads: any member serves a linearizable read from its own state, once the leader has
//! told it up to where it must have applied.
//!
//! Used by etcd (linearizable reads at any member), TiKV and CockroachDB. Reads that wait are
//! confirmed together: one question per round, and a read joins only a round that begins after it
//! arrived. Invariant: a round's number is never reused, by a later process of this member neither,
//! so that a late answer confirms nothing that came after its question. A read counts, and may
//! expire, until the member has applied up to its index: one that lags must not gather them.
//! Not here: how the leader confirms its leadership (`consensus`), answering once that is applied
//! (`applier`).

use crate::membership_reconciler::OwnRead;
use crate::request_waiting_list::Leadership;
use crate::{ReplicaLimits, RequestError, RequestId};
use clocks::{LogIndex, Monotonic};
use std::time::Duration;

/// Rounds of one process are numbered within its log's incarnation.
const ROUNDS_PER_PROCESS_BITS: u32 = 36;

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Request(RequestId),
    /// The core itself; for ever, and in small numbers.
    Own(OwnRead),
}

/// A read that waits for its index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingRead {
    pub(crate) reader: Reader,
    pub(crate) deadline: Monotonic,
}

struct Round {
    number: u64,
    asked: Leadership,
    retry_at: Monotonic,
    reads: Vec<WaitingRead>,
}

/// The reads of one group that wait for their index at this node.
pub(crate) struct FollowerReads {
    /// Not yet part of a round.
    waiting: Vec<WaitingRead>,
    round: Option<Round>,
    /// Confirmed, and the index not applied yet.
    confirmed: Vec<(LogIndex, WaitingRead)>,
    next_round: u64,
    max_waiting: usize,
    retry_after: Duration,
}

impl FollowerReads {
    pub(crate) fn new(incarnation: u64, limits: &ReplicaLimits) -> FollowerReads {
        assert!(incarnation < 1 << (u64::BITS - ROUNDS_PER_PROCESS_BITS));
        FollowerReads {
            waiting: Vec::new(),
            round: None,
            confirmed: Vec::new(),
            next_round: (incarnation << ROUNDS_PER_PROCESS_BITS) + 1,
            max_waiting: limits.waiting_requests,
            retry_after: limits.forward_retry,
        }
    }

    pub(crate) fn admit(&mut self, read: WaitingRead) -> Result<(), RequestError> {
        if self.len() >= self.max_waiting {
            return Err(RequestError::Overloaded);
        }
        self.waiting.push(read);
        Ok(())
    }

    /// Takes in a read of the core itself, whatever else waits.
    pub(crate) fn admit_own(&mut self, read: WaitingRead) {
        self.waiting.push(read);
    }

    pub(crate) fn len(&self) -> usize {
        let under_way = self.round.as_ref().map_or(0, |round| round.reads.len());
        self.waiting.len() + under_way + self.confirmed.len()
    }

    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        let retry = self.round.as_ref().map(|round| round.retry_at);
        let under_way = self.round.iter().flat_map(|round| &round.reads);
        let confirmed = self.confirmed.iter().map(|(_, read)| read);
        let reads = self.waiting.iter().chain(under_way).chain(confirmed);
        let reads = reads.map(|read| read.deadline);
        reads.chain(retry).min()
    }

    /// Removes and returns the reads whose callers have stopped waiting.
    pub(crate) fn expire(&mut self, now: Monotonic) -> Vec<RequestId> {
        let mut expired = Vec::new();
        let mut keep = |read: &WaitingRead| {
            let alive = read.deadline > now;
            if let (false, Reader::Request(request)) = (alive, read.reader) {
                expired.push(request);
            }
            alive
        };
        self.waiting.retain(&mut keep);
        if let Some(round) = &mut self.round {
            round.reads.retain(&mut keep);
        }
        self.confirmed.retain(|(_, read)| keep(read));
        expired
    }

    /// These may be answered once `index` is applied.
    pub(crate) fn confirmed(&mut self, reads: &[WaitingRead], index: LogIndex) {
        self.confirmed.extend(reads.iter().map(|read| (index, *read)));
    }

    /// Everything up to `index` is applied: what waited for it has been answered.
    pub(crate) fn applied(&mut self, index: LogIndex) {
        self.confirmed.retain(|(awaited, _)| *awaited > index);
    }

    /// At the leader: all that wait, to be confirmed by a round of its own.
    pub(crate) fn take_waiting(&mut self) -> Vec<WaitingRead> {
        self.abandon_round();
        std::mem::take(&mut self.waiting)
    }

    /// Reads that could not be confirmed wait on.
    pub(crate) fn put_back(&mut self, reads: Vec<WaitingRead>) {
        self.waiting.extend(reads);
    }

    /// At a follower: the number of the question to ask now, if one is due.
    pub(crate) fn next_question(&mut self, to: Leadership, now: Monotonic) -> Option<u64> {
        if let Some(round) = &self.round {
            if round.asked == to && now < round.retry_at {
                return None;
            }
            self.abandon_round();
        }
        if self.waiting.is_empty() {
            return None;
        }
        let number = self.next_round;
        self.next_round += 1;
        let retry_at = now.after(self.retry_after);
        let reads = std::mem::take(&mut self.waiting);
        self.round = Some(Round { number, asked: to, retry_at, reads });
        Some(number)
    }

    /// The reads that an answer confirms: none if it is late.
    pub(crate) fn on_answer(&mut self, number: u64) -> Vec<WaitingRead> {
        match self.round.take_if(|round| round.number == number) {
            Some(round) => round.reads,
            None => Vec::new(),
        }
    }

    /// The asked node does not lead: ask again when a leader is known.
    pub(crate) fn on_refusal(&mut self, number: u64, now: Monotonic) {
        if let Some(round) = self.round.as_mut().filter(|round| round.number == number) {
            round.retry_at = round.retry_at.min(now.after(self.retry_after / 8));
        }
    }

    /// The question or its answer may be lost.
    pub(crate) fn abandon_round(&mut self) {
        if let Some(round) = self.round.take() {
            self.waiting.extend(round.reads);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clocks::{NodeId, Term};

    const LEADER: Leadership = Leadership { leader: NodeId(1), term: Term(1) };

    fn reads() -> FollowerReads {
        reads_of(7)
    }

    fn reads_of(incarnation: u64) -> FollowerReads {
        let limits = ReplicaLimits { waiting_requests: 4, ..ReplicaLimits::default() };
        FollowerReads::new(incarnation, &limits)
    }

    fn read(id: u64) -> WaitingRead {
        WaitingRead { reader: Reader::Request(RequestId(id)), deadline: Monotonic(u64::MAX) }
    }

    #[test]
    fn a_read_joins_only_a_round_that_begins_after_it() {
        let mut reads = reads();
        reads.admit(read(1)).unwrap();
        let first = reads.next_question(LEADER, Monotonic(0)).unwrap();
        reads.admit(read(2)).unwrap();
        assert_eq!(reads.next_question(LEADER, Monotonic(1)), None, "one round at a time");
        let confirmed: Vec<_> = reads.on_answer(first).iter().map(|read| read.reader).collect();
        assert_eq!(confirmed, [Reader::Request(RequestId(1))]);
        assert!(reads.next_question(LEADER, Monotonic(2)).unwrap() > first);
    }

    #[test]
    fn a_retry_has_a_new_number_and_the_late_answer_confirms_nothing() {
        let mut reads = reads();
        reads.admit(read(1)).unwrap();
        let first = reads.next_question(LEADER, Monotonic(0)).unwrap();
        let second = reads.next_question(LEADER, Monotonic(1_000_000_000)).unwrap();
        assert_ne!(first, second);
        assert!(reads.on_answer(first).is_empty());
        assert_eq!(reads.on_answer(second).len(), 1);
    }

    #[test]
    fn an_answer_to_the_process_before_confirms_nothing() {
        let mut before = reads_of(7);
        before.admit(read(1)).unwrap();
        let asked = before.next_question(LEADER, Monotonic(0)).unwrap();
        let mut after = reads_of(8);
        after.admit(read(1)).unwrap();
        after.next_question(LEADER, Monotonic(0)).unwrap();
        assert!(after.on_answer(asked).is_empty(), "the index is from before the restart");
    }

    #[test]
    fn a_new_leader_is_asked_at_once() {
        let mut reads = reads();
        reads.admit(read(1)).unwrap();
        let first = reads.next_question(LEADER, Monotonic(0)).unwrap();
        let next = Leadership { leader: NodeId(2), term: Term(2) };
        assert!(reads.next_question(next, Monotonic(1)).unwrap() > first);
    }

    #[test]
    fn expired_reads_leave_whether_or_not_they_were_asked_for() {
        let mut reads = reads();
        reads.admit(WaitingRead { deadline: Monotonic(5), ..read(1) }).unwrap();
        reads.next_question(LEADER, Monotonic(0));
        reads.admit(WaitingRead { deadline: Monotonic(6), ..read(2) }).unwrap();
        reads.admit(read(3)).unwrap();
        assert_eq!(reads.expire(Monotonic(6)), [RequestId(2), RequestId(1)]);
        assert_eq!(reads.len(), 1);
    }

    #[test]
    fn a_confirmed_read_counts_and_expires_until_its_index_is_applied() {
        let mut reads = reads();
        let late = WaitingRead { deadline: Monotonic(5), ..read(1) };
        reads.confirmed(&[late, read(2)], 9);
        reads.confirmed(&[read(3)], 7);
        assert_eq!((reads.len(), reads.deadline()), (3, Some(Monotonic(5))));
        assert_eq!(reads.expire(Monotonic(5)), [RequestId(1)]);
        reads.applied(8);
        assert_eq!(reads.len(), 1);
        (4..7).for_each(|id| reads.admit(read(id)).unwrap());
        assert_eq!(reads.admit(read(7)), Err(RequestError::Overloaded));
    }

    #[test]
    fn the_list_is_bounded() {
        let mut reads = reads();
        for id in 0..4 {
            reads.admit(read(id)).unwrap();
        }
        assert_eq!(reads.admit(read(4)), Err(RequestError::Overloaded));
    }
}
