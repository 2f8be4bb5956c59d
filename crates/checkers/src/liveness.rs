//! Liveness: once a quorum-capable core is healed, the cluster works again within a bound.
//!
//! Safety alone is kept by a cluster that does nothing. So after the safety phase the world heals
//! enough, and from then on every group must make progress and every request must be answered, each
//! within the bound (TigerBeetle's simulator has the same two phases).
//!
//! Not here: what the answers are.

use std::collections::BTreeMap;
use std::fmt;

use crate::history::Time;

/// What did not happen in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stall {
    /// A group made no progress.
    NoProgress {
        /// What stood still, as the caller named it.
        what: String,
        /// Since when.
        since: Time,
        /// When that was noticed.
        now: Time,
    },
    /// A request got no answer, not even a refusal.
    NoAnswer {
        /// The request, as the caller numbered it.
        request: u64,
        /// When it was sent, or when the world healed if that was later.
        since: Time,
        /// When that was noticed.
        now: Time,
    },
}

/// Watches for progress while the world is healthy enough.
#[derive(Clone, Debug)]
pub struct Liveness {
    /// How long anything may take, in the caller's unit of time.
    bound: Time,
    /// `None`: something is broken that may stop everything.
    healed: Option<Time>,
    /// By name: when it last moved.
    expected: BTreeMap<String, Time>,
    /// By number: when it was sent.
    requests: BTreeMap<u64, Time>,
}

impl Liveness {
    /// One for a world that is not healed yet.
    pub fn new(bound: Time) -> Self {
        assert!(bound > 0, "nothing happens in no time");
        Liveness { bound, healed: None, expected: BTreeMap::new(), requests: BTreeMap::new() }
    }

    /// From now on a quorum of every group runs and can talk.
    pub fn healed(&mut self, now: Time) {
        self.healed.get_or_insert(now);
    }

    /// Something broke again: nothing is demanded until the next [`Liveness::healed`].
    pub fn broken(&mut self) {
        self.healed = None;
    }

    /// Demands that `what` (a group, a watcher) keeps moving; load must be there to move it.
    pub fn expect(&mut self, what: &str, now: Time) {
        self.expected.entry(what.to_owned()).or_insert(now);
    }

    /// `what` moved: a write was acknowledged, an event came.
    pub fn progressed(&mut self, what: &str, now: Time) {
        self.expected.insert(what.to_owned(), now);
    }

    /// No more is demanded of `what`.
    pub fn no_longer(&mut self, what: &str) {
        self.expected.remove(what);
    }

    /// A request was sent.
    pub fn asked(&mut self, request: u64, now: Time) {
        self.requests.insert(request, now);
    }

    /// It was answered, or its client gave up for its own reasons.
    pub fn answered(&mut self, request: u64) {
        self.requests.remove(&request);
    }

    /// To be called now and then, and at the end.
    pub fn check(&self, now: Time) -> Result<(), Stall> {
        let Some(healed) = self.healed else { return Ok(()) };
        let late = |since: &Time| now.saturating_sub(*since) > self.bound;
        let since = |time: &Time| healed.max(*time);
        let stalled = self.expected.iter().map(|(what, time)| (what, since(time)));
        if let Some((what, since)) = stalled.into_iter().find(|(_, since)| late(since)) {
            return Err(Stall::NoProgress { what: what.clone(), since, now });
        }
        let waiting = self.requests.iter().map(|(request, time)| (*request, since(time)));
        match waiting.into_iter().find(|(_, since)| late(since)) {
            Some((request, since)) => Err(Stall::NoAnswer { request, since, now }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stall::NoProgress { what, since, now } => write!(
                f,
                "{what} has not moved from time {since} to {now}, although a quorum was healthy"
            ),
            Stall::NoAnswer { request, since, now } => write!(
                f,
                "request {request} got no answer from time {since} to {now}, although a quorum was \
                 healthy"
            ),
        }
    }
}

impl std::error::Error for Stall {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_demanded_of_a_broken_world() {
        let mut liveness = Liveness::new(10);
        liveness.expect("group 1", 0);
        liveness.asked(1, 0);
        liveness.check(1_000).unwrap();
        liveness.healed(1_000);
        liveness.check(1_010).unwrap();
        liveness.broken();
        liveness.check(2_000).unwrap();
    }

    #[test]
    fn a_group_that_stands_still_after_healing_is_found() {
        let mut liveness = Liveness::new(10);
        liveness.expect("group 1", 0);
        liveness.expect("group 2", 0);
        liveness.healed(100);
        liveness.progressed("group 1", 105);
        liveness.check(110).unwrap();
        let stall = liveness.check(111).unwrap_err();
        assert_eq!(stall, Stall::NoProgress { what: "group 2".to_owned(), since: 100, now: 111 });
        liveness.progressed("group 2", 111);
        let stall = liveness.check(116).unwrap_err();
        assert!(stall.to_string().starts_with("group 1 has not moved from time 105 to 116"));
        liveness.no_longer("group 1");
        liveness.check(116).unwrap();
    }

    #[test]
    fn a_request_that_hangs_after_healing_is_found() {
        let mut liveness = Liveness::new(10);
        liveness.asked(1, 90);
        liveness.healed(100);
        liveness.asked(2, 105);
        liveness.answered(1);
        liveness.check(115).unwrap();
        let stall = liveness.check(116).unwrap_err();
        assert_eq!(stall, Stall::NoAnswer { request: 2, since: 105, now: 116 });
        liveness.answered(2);
        liveness.check(1_000).unwrap();
    }

    #[test]
    fn healing_twice_does_not_extend_the_bound() {
        let mut liveness = Liveness::new(10);
        liveness.expect("group 1", 0);
        liveness.healed(100);
        liveness.healed(108);
        assert!(liveness.check(111).is_err());
    }
}
