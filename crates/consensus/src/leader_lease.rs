//! Leader Lease: for a while after a quorum answered its heartbeat, a leader is sure to be the only
//! one, and serves reads without asking.
//!
//! Used by Chubby, Spanner, TiKV and CockroachDB (thesis, section 6.4.1). The lease is the
//! counterpart of a promise: whoever answers a heartbeat votes for nobody, itself included, for the
//! length carried in it. The follower counts from the receipt, on its clock; the leader from the
//! *send*, on its own, less what two clocks may drift apart. Both rely on the monotonic clock only.
//!
//! A vote request waits the promise out; a pre-vote, which binds nobody, does not. A restart
//! renews the promise. Handing leadership over gives the lease up for the rest of the term, which
//! is why a transfer vote for the term after the promise's need not wait.

use crate::request_pipeline::Peer;
use crate::{Body, Config, Membership, Message};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use clocks::{Monotonic, NodeId, Term};
use core::time::Duration;
use mutants::{Bug, planted};

/// The leader's side. Belongs to one leadership.
#[derive(Debug)]
pub(crate) struct LeaderLease {
    /// The promise that heartbeats ask for; zero if leases are off.
    length: Duration,
    /// How much of it is relied upon.
    reliable: Duration,
    /// Leadership was offered to somebody: no lease again in this term.
    given_up: bool,
    /// Answers to rounds up to here were given under an earlier membership and do not count.
    counts_after_round: u64,
}

impl LeaderLease {
    pub(crate) fn new(config: &Config) -> LeaderLease {
        let length = config.lease.length();
        let relied = if planted(Bug::LeaseTooLong) { length * 6 } else { length };
        LeaderLease {
            length,
            reliable: config.clock_bound.reliable_part(relied),
            given_up: false,
            counts_after_round: 0,
        }
    }

    pub(crate) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// How long whoever answers a heartbeat is to vote for nobody.
    pub(crate) fn promise_asked(&self) -> Duration {
        if self.given_up { Duration::ZERO } else { self.length }
    }

    /// A membership came into force: only rounds after `round` prove anything about its quorums.
    pub(crate) fn membership_changed(&mut self, round: u64, peers: &mut BTreeMap<NodeId, Peer>) {
        self.counts_after_round = round;
        peers.values_mut().for_each(|peer| peer.promised_from = None);
    }

    /// `peer` answered `round`, which was sent at `sent`.
    pub(crate) fn answered(&self, peer: &mut Peer, round: u64, sent: Monotonic) {
        if round > self.counts_after_round {
            peer.promised_from = peer.promised_from.max(Some(sent));
        }
    }

    /// Whether nobody else can lead at `now`. The leader itself needs no promise: whatever makes
    /// it vote makes it step down first.
    pub(crate) fn holds(
        &self,
        now: Monotonic,
        node: NodeId,
        membership: &Membership,
        peers: &BTreeMap<NodeId, Peer>,
    ) -> bool {
        if self.given_up || self.reliable.is_zero() {
            return false;
        }
        let promised_from = |voter: NodeId| {
            if voter == node {
                Some(now)
            } else {
                peers.get(&voter).and_then(|peer| peer.promised_from)
            }
        };
        let since = membership.quorum_value(promised_from).flatten();
        since.is_some_and(|since| since <= now && now.since(since) < self.reliable)
    }
}

/// The follower's side: until then it votes for nobody.
#[derive(Debug)]
pub(crate) struct LeasePromise {
    /// The term of the leader it was given to.
    term: Term,
    until: Monotonic,
    /// Vote requests that wait for its end; the latest of each candidate, of a bounded number.
    held: BTreeMap<NodeId, Message>,
}

impl LeasePromise {
    /// After a restart, any promise may have been given up to a moment ago; on a first start, when
    /// no term was ever seen, none.
    pub(crate) fn renewed(now: Monotonic, term: Term, longest_lease: Duration) -> LeasePromise {
        let forgets = term == Term::ZERO || planted(Bug::PromiseForgotten);
        let length = if forgets { Duration::ZERO } else { longest_lease };
        LeasePromise { term, until: now.after(length), held: BTreeMap::new() }
    }

    pub(crate) fn give(&mut self, now: Monotonic, term: Term, length: Duration) {
        assert!(term >= self.term, "promises are given to leaders of the current term");
        self.term = term;
        self.until = self.until.max(now.after(length));
    }

    pub(crate) fn until(&self) -> Monotonic {
        self.until
    }

    /// Whether a vote in `term` must wait.
    pub(crate) fn forbids_vote(&self, now: Monotonic, term: Term, transfer: bool) -> bool {
        let handed_over = transfer && term == self.term.next();
        now < self.until && !handed_over
    }

    /// Keeps a vote request until the promise ends.
    pub(crate) fn hold(&mut self, message: Message) {
        assert!(matches!(message.body, Body::Vote { .. }), "only votes wait");
        let known = self.held.get(&message.from);
        let is_newer = known.is_none_or(|held| held.term < message.term);
        if is_newer && (known.is_some() || self.held.len() < crate::MAX_MEMBERS) {
            self.held.insert(message.from, message);
        }
    }

    /// The requests that waited, the latest term first.
    pub(crate) fn release(&mut self) -> Vec<Message> {
        let mut messages: Vec<Message> = core::mem::take(&mut self.held).into_values().collect();
        messages.sort_by_key(|message| core::cmp::Reverse(message.term));
        messages
    }
}
