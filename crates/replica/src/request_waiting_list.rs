//! Request Waiting List: the requests of this node that have no outcome yet, in the order in which
//! they arrived.
//!
//! Used by Cassandra (write callbacks), Kafka (purgatory) and etcd (`wait`). A write stays here, as
//! encoded, until this node has applied it or its caller's deadline passes; until then it may be
//! sent to one leader after another, since the idempotent receiver (`store`) applies it once.
//! Invariants: sequence numbers of a session grow by one; `unsent` is a subset of `waiting`;
//! the count and the bytes stay within their bounds.
//! Not here: answering callers (`applier`), which sees the outcome first.

use crate::{ReplicaLimits, RequestError, RequestId};
use bytes::Bytes;
use clocks::{Monotonic, NodeId, Term, WallTime};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::command::{Caller, Command, Envelope, SessionId};

/// Incarnations of one process are numbered within its log's incarnation.
const SESSIONS_PER_PROCESS_BITS: u32 = 16;

struct Waiting {
    /// Nobody, for requests of the core itself.
    request: Option<RequestId>,
    caller: Option<Caller>,
    command: Command,
    deadline: Monotonic,
    bytes: usize,
}

/// To whom requests go, and under which leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) leader: NodeId,
    pub(crate) term: Term,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionState {
    Closed,
    /// The opening command is under way.
    Opening,
    Open,
}

/// The waiting writes of one group, and the session that numbers them.
pub(crate) struct RequestWaitingList {
    session: SessionId,
    state: SessionState,
    next_sequence: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Sequences to send to the current leader.
    unsent: BTreeSet<u64>,
    /// Those that `take_unsent` returned last, in case they are put back.
    taken: Vec<u64>,
    deadlines: BTreeSet<(Monotonic, u64)>,
    bytes: usize,
    max_requests: usize,
    max_bytes: usize,
    retry_after: Duration,
    /// Where everything not in `unsent` was sent.
    sent_to: Option<Leadership>,
    retry: Option<Retry>,
}

/// When to repeat what a remote leader did not answer, and which sequences that concerns.
#[derive(Clone, Copy)]
struct Retry {
    at: Monotonic,
    below: u64,
}

/// A request that ended without an outcome.
pub(crate) struct Expired {
    pub(crate) sequence: u64,
    pub(crate) request: Option<RequestId>,
}

impl RequestWaitingList {
    pub(crate) fn new(member: NodeId, incarnation: u64, limits: &ReplicaLimits) -> Self {
        assert!(incarnation < 1 << (u64::BITS - SESSIONS_PER_PROCESS_BITS));
        let incarnation = incarnation << SESSIONS_PER_PROCESS_BITS;
        RequestWaitingList {
            session: SessionId { member, incarnation },
            state: SessionState::Closed,
            next_sequence: 1,
            waiting: BTreeMap::new(),
            unsent: BTreeSet::new(),
            taken: Vec::new(),
            deadlines: BTreeSet::new(),
            bytes: 0,
            max_requests: limits.waiting_requests,
            max_bytes: limits.waiting_bytes,
            retry_after: limits.forward_retry,
            sent_to: None,
            retry: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    /// Takes a write in; it is sent by the next `take_unsent`.
    pub(crate) fn admit(
        &mut self,
        request: Option<RequestId>,
        caller: Option<Caller>,
        command: Command,
        deadline: Monotonic,
    ) -> Result<u64, RequestError> {
        let bytes = command.weight() + caller.as_ref().map_or(0, Caller::weight);
        if self.waiting.len() >= self.max_requests || self.bytes + bytes > self.max_bytes {
            return Err(RequestError::Overloaded);
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.bytes += bytes;
        self.deadlines.insert((deadline, sequence));
        self.unsent.insert(sequence);
        self.waiting.insert(sequence, Waiting { request, caller, command, deadline, bytes });
        Ok(sequence)
    }

    /// What waits under a number, and until when.
    pub(crate) fn find(&self, sequence: u64) -> Option<(&Command, Monotonic)> {
        self.waiting.get(&sequence).map(|waiting| (&waiting.command, waiting.deadline))
    }

    /// The outcome is known, or nobody wants it any more.
    pub(crate) fn remove(&mut self, sequence: u64) -> Option<Option<RequestId>> {
        let waiting = self.waiting.remove(&sequence)?;
        self.bytes -= waiting.bytes;
        self.deadlines.remove(&(waiting.deadline, sequence));
        self.unsent.remove(&sequence);
        Some(waiting.request)
    }

    /// Removes every request whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Monotonic) -> Vec<Expired> {
        let mut expired = Vec::new();
        while let Some(&(deadline, sequence)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            let request = self.remove(sequence).expect("deadlines name waiting requests");
            expired.push(Expired { sequence, request });
        }
        expired
    }

    /// When `expire` or a retry has something to do.
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        let expiry = self.deadlines.first().map(|&(deadline, _)| deadline);
        [expiry, self.retry.map(|retry| retry.at)].into_iter().flatten().min()
    }

    /// The answer to our `OpenSession`, or the refusal of a request under an expired session.
    /// Returns the sequences that must be expected under a fresh session, if one was begun.
    pub(crate) fn on_session(&mut self, session: SessionId, open: bool) -> Vec<Expecting> {
        // Answers to an earlier session come late.
        if session != self.session {
            return Vec::new();
        }
        if open {
            self.state = SessionState::Open;
            self.resend_all();
            return Vec::new();
        }
        self.begin_session()
    }

    /// Everything that waits moves to a fresh session. Safe: what was refused will be refused for
    /// ever, and what had been applied would have been answered before the refusal.
    fn begin_session(&mut self) -> Vec<Expecting> {
        self.session.incarnation += 1;
        self.state = SessionState::Closed;
        self.resend_all();
        self.waiting
            .iter()
            .map(|(&sequence, waiting)| Expecting { sequence, request: waiting.request })
            .collect()
    }

    /// What was sent may be lost: a new leader, or a new connection to it.
    pub(crate) fn resend_all(&mut self) {
        self.unsent = self.waiting.keys().copied().collect();
        self.sent_to = None;
        self.retry = None;
        if self.state == SessionState::Opening {
            self.state = SessionState::Closed;
        }
    }

    /// Nobody leads: what was sent is sent again to whoever does next, and nothing is due before.
    pub(crate) fn no_leader(&mut self) {
        if self.sent_to.is_some() {
            self.resend_all();
        }
    }

    /// The leader refused what it was sent: repeat it after a pause, unless it leads no more.
    pub(crate) fn on_refused(&mut self, term: Term, now: Monotonic) {
        if self.sent_to.is_some_and(|sent| sent.term <= term) {
            let at = now.after(self.retry_after / 8);
            self.retry = Some(Retry { at, below: self.next_sequence });
        }
    }

    /// Encoded envelopes to send to `to`, oldest first, within `max_bytes` (but at least one).
    pub(crate) fn take_unsent(
        &mut self,
        to: Leadership,
        us: NodeId,
        now: Monotonic,
        wall: WallTime,
        max_bytes: usize,
    ) -> Vec<Bytes> {
        if self.sent_to.is_some_and(|sent| sent != to) {
            self.resend_all();
        }
        self.retry_overdue(now);
        self.taken.clear();
        if self.waiting.is_empty() {
            return Vec::new();
        }
        if self.state != SessionState::Open {
            return self.open_session(to, us, now, wall);
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(&sequence) = self.unsent.first() {
            let envelope = self.envelope(sequence, wall);
            bytes += envelope.len();
            if bytes > max_bytes && !batch.is_empty() {
                break;
            }
            batch.push(envelope);
            self.unsent.pop_first();
            self.taken.push(sequence);
        }
        if !batch.is_empty() {
            self.mark_sent(to, us, now);
        }
        batch
    }

    /// The batch that `take_unsent` returned could not be proposed after all. Those before it
    /// could: a full log must not be filled with them again.
    pub(crate) fn put_back(&mut self) {
        self.unsent.extend(self.taken.drain(..));
        if self.state == SessionState::Opening {
            self.state = SessionState::Closed;
        }
    }

    /// Of what `take_unsent` returned last, these have to wait a little.
    pub(crate) fn put_back_some(&mut self, sequences: Vec<u64>) {
        let waiting = sequences.into_iter().filter(|sequence| self.waiting.contains_key(sequence));
        self.unsent.extend(waiting);
    }

    fn open_session(
        &mut self,
        to: Leadership,
        us: NodeId,
        now: Monotonic,
        wall: WallTime,
    ) -> Vec<Bytes> {
        if self.state == SessionState::Opening {
            return Vec::new();
        }
        self.state = SessionState::Opening;
        self.mark_sent(to, us, now);
        let envelope = Envelope {
            session: self.session,
            sequence: 0,
            answered_below: 0,
            advisory_time_ms: wall.0,
            caller: None,
            command: Command::OpenSession,
        };
        vec![envelope.encode()]
    }

    fn mark_sent(&mut self, to: Leadership, us: NodeId, now: Monotonic) {
        self.sent_to = Some(to);
        // What this node proposed itself stays in its log for as long as it leads.
        if to.leader != us && self.retry.is_none() {
            self.retry = Some(Retry { at: now.after(self.retry_after), below: self.next_sequence });
        }
    }

    fn retry_overdue(&mut self, now: Monotonic) {
        let Some(retry) = self.retry.filter(|retry| retry.at <= now) else { return };
        self.retry = None;
        if self.state == SessionState::Opening {
            self.state = SessionState::Closed;
        }
        self.unsent.extend(self.waiting.range(..retry.below).map(|(&sequence, _)| sequence));
        // Newer ones were sent as well, and are watched from now on.
        if self.waiting.len() > self.unsent.len() {
            self.retry = Some(Retry { at: now.after(self.retry_after), below: self.next_sequence });
        }
    }

    fn envelope(&self, sequence: u64, wall: WallTime) -> Bytes {
        let (&oldest, _) = self.waiting.first_key_value().expect("the unsent wait");
        let waiting = &self.waiting[&sequence];
        Envelope {
            session: self.session,
            sequence,
            answered_below: oldest,
            advisory_time_ms: wall.0,
            caller: waiting.caller.clone(),
            command: waiting.command.clone(),
        }
        .encode()
    }
}

/// A request to be answered under a fresh session.
pub(crate) struct Expecting {
    pub(crate) sequence: u64,
    pub(crate) request: Option<RequestId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: NodeId = NodeId(1);
    const FIRST: Leadership = Leadership { leader: NodeId(2), term: Term(1) };
    const SECOND: Leadership = Leadership { leader: NodeId(3), term: Term(2) };
    const FOREVER: Monotonic = Monotonic(u64::MAX);
    const WALL: WallTime = WallTime(0);

    fn command() -> Command {
        Command::Compact { revision: 1 }
    }

    fn list() -> RequestWaitingList {
        let limits = ReplicaLimits { waiting_requests: 4, ..ReplicaLimits::default() };
        RequestWaitingList::new(US, 7, &limits)
    }

    fn open(list: &mut RequestWaitingList) {
        list.admit(None, None, command(), FOREVER).unwrap();
        assert_eq!(sent(list, FIRST, 0), [0], "first of all the session is opened");
        list.on_session(list.session(), true);
    }

    fn sent(list: &mut RequestWaitingList, to: Leadership, now: u64) -> Vec<u64> {
        let batch = list.take_unsent(to, US, Monotonic(now), WALL, 1 << 20);
        batch.into_iter().map(|bytes| Envelope::decode(bytes).unwrap().sequence).collect()
    }

    #[test]
    fn a_write_is_sent_once_to_each_leadership_until_it_is_answered() {
        let mut list = list();
        open(&mut list);
        list.admit(None, None, command(), FOREVER).unwrap();
        assert_eq!(sent(&mut list, FIRST, 1), [1, 2]);
        assert_eq!(sent(&mut list, FIRST, 2), []);
        list.remove(1);
        assert_eq!(sent(&mut list, SECOND, 3), [2], "the new leader may not have it");
    }

    #[test]
    fn an_unanswered_forward_is_repeated_and_what_was_sent_later_is_watched_too() {
        let mut list = list();
        open(&mut list);
        let retry = ReplicaLimits::default().forward_retry.as_nanos() as u64;
        assert_eq!(sent(&mut list, FIRST, 1), [1]);
        list.admit(None, None, command(), FOREVER).unwrap();
        assert_eq!(sent(&mut list, FIRST, retry), [2]);
        assert_eq!(sent(&mut list, FIRST, retry + 1), [1]);
        assert_eq!(sent(&mut list, FIRST, 2 * retry + 1), [1, 2]);
    }

    #[test]
    fn what_this_node_proposed_itself_is_not_repeated() {
        let mut list = list();
        let own = Leadership { leader: US, term: Term(1) };
        list.admit(None, None, command(), FOREVER).unwrap();
        assert_eq!(sent(&mut list, own, 0), [0]);
        list.on_session(list.session(), true);
        assert_eq!(sent(&mut list, own, 1), [1]);
        assert_eq!(sent(&mut list, own, u64::MAX - 1), []);
        assert_eq!(list.deadline(), Some(FOREVER));
    }

    #[test]
    fn what_was_proposed_before_the_log_was_full_is_not_proposed_again() {
        let mut list = list();
        let own = Leadership { leader: US, term: Term(1) };
        list.admit(None, None, command(), FOREVER).unwrap();
        assert_eq!(sent(&mut list, own, 0), [0]);
        list.put_back();
        assert_eq!(sent(&mut list, own, 0), [0], "the opening is tried again");
        list.on_session(list.session(), true);
        list.admit(None, None, command(), FOREVER).unwrap();
        assert_eq!(list.take_unsent(own, US, Monotonic(1), WALL, 1).len(), 1);
        assert_eq!(sent(&mut list, own, 1), [2]);
        list.put_back();
        list.admit(None, None, command(), FOREVER).unwrap();
        assert_eq!(sent(&mut list, own, 2), [2, 3]);
    }

    #[test]
    fn a_refused_session_is_followed_by_a_fresh_one_under_which_everything_is_expected() {
        let mut list = list();
        open(&mut list);
        assert_eq!(sent(&mut list, FIRST, 1), [1]);
        let old = list.session();
        let moved = list.on_session(old, false);
        assert_eq!(moved.iter().map(|moved| moved.sequence).collect::<Vec<_>>(), [1]);
        assert!(list.session().incarnation > old.incarnation);
        assert_eq!(sent(&mut list, FIRST, 2), [0]);
        assert!(list.on_session(old, true).is_empty(), "answers to the old session come late");
        assert_eq!(sent(&mut list, FIRST, 3), []);
        list.on_session(list.session(), true);
        assert_eq!(sent(&mut list, FIRST, 4), [1]);
    }

    #[test]
    fn envelopes_tell_below_which_sequence_everything_is_answered() {
        let mut list = list();
        open(&mut list);
        list.admit(None, None, command(), FOREVER).unwrap();
        list.remove(1);
        let batch = list.take_unsent(FIRST, US, Monotonic(1), WALL, 1 << 20);
        assert_eq!(Envelope::decode(batch[0].clone()).unwrap().answered_below, 2);
    }

    #[test]
    fn without_a_leader_nothing_is_due_before_the_deadline() {
        let mut list = list();
        open(&mut list);
        assert_eq!(sent(&mut list, FIRST, 1), [1]);
        assert!(list.deadline().is_some_and(|due| due < FOREVER));
        list.no_leader();
        assert_eq!(list.deadline(), Some(FOREVER));
        assert_eq!(sent(&mut list, FIRST, 2), [1], "the same leader again: it may be lost");
    }

    #[test]
    fn expired_writes_leave_and_the_list_is_bounded() {
        let mut list = list();
        open(&mut list);
        for deadline in [5, 6, 7] {
            list.admit(Some(RequestId(deadline)), None, command(), Monotonic(deadline)).unwrap();
        }
        assert_eq!(list.admit(None, None, command(), FOREVER), Err(RequestError::Overloaded));
        let expired: Vec<_> = list.expire(Monotonic(6)).iter().map(|one| one.sequence).collect();
        assert_eq!(expired, [2, 3]);
        assert_eq!(list.len(), 2);
        assert_eq!(sent(&mut list, FIRST, 6), [1, 4]);
    }

    #[test]
    fn a_batch_is_bounded_in_bytes_and_never_empty() {
        let mut list = list();
        open(&mut list);
        list.admit(None, None, command(), FOREVER).unwrap();
        let one = list.take_unsent(FIRST, US, Monotonic(1), WALL, 1);
        assert_eq!(one.len(), 1);
        assert_eq!(sent(&mut list, FIRST, 1), [2]);
    }
}
