//! Leases: what was promised to live, lives; what nobody renews, ends; what ended stays ended.
//!
//! Gray and Cheriton (1989); etcd's and Chubby's leases. A holder that asked at `asked` and was
//! told at `told` counts its time to live from `told`, but at most from a margin after `asked`: a
//! late answer promises less. The time that the service may take to notice the end is counted in
//! the time for which it decided anything at all, with an allowance for every change of its leader.
//!
//! The invariant: no alarm about a correct service with clocks within their bound. Not here: who
//! holds a lock (`fencing`), whether members agree (`agreement`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history::{Revision, Time};

/// Names a lease. A history that reuses one cannot be judged.
pub type LeaseId = i64;

/// What the service says of its leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Rate error of clocks, in parts per million.
    pub drift_ppm: u64,
    /// A holder counts from the answer if it came this soon, else from this long after it asked.
    pub margin: Time,
    /// A lease outlives its time by no more than this while one leader decides.
    pub late: Time,
    /// As much later for every change of the leader.
    pub late_per_leader: Time,
    /// While nothing was decided for longer than this, nobody led.
    pub silence: Time,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A lease ended while its holder could count on it.
    Early {
        /// Which.
        lease: LeaseId,
        /// Until when it was promised.
        promised: Time,
        /// When it was gone.
        now: Time,
    },
    /// A lease that nobody renewed was still there.
    Late {
        /// Which.
        lease: LeaseId,
        /// When it should have ended at the latest.
        due: Time,
        /// When it was still there.
        now: Time,
    },
    /// A lease that had ended was renewed, or had a key attached.
    Revived {
        /// Which.
        lease: LeaseId,
        /// When it ended.
        ended: Time,
        /// When somebody asked for more of it and got it.
        asked: Time,
    },
    /// Some keys of a lease were deleted with it, others not at that revision.
    Apart {
        /// Which.
        lease: LeaseId,
        /// Where the first keys were deleted.
        revision: Revision,
        /// A key that stayed.
        left: Vec<u8>,
    },
}

#[derive(Clone, Debug, Default)]
struct Lease {
    /// Until when a holder counts on it.
    promised: Time,
    /// Until when it may live at most, in decided time; none before it was seen to be granted.
    lives: Option<Deadline>,
    /// Since when its end has been asked for.
    revoking: Option<Time>,
    ended: Option<Time>,
    keys: BTreeSet<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
struct Deadline {
    /// Its time to live after what was decided last.
    ttl: Time,
    since: Time,
    /// As of `since`.
    silent: Time,
    leaders: u64,
}

/// Watches the leases of one keyspace, in the order of true time.
#[derive(Clone, Debug)]
pub struct Leases {
    promise: Promise,
    leases: BTreeMap<LeaseId, Lease>,
    /// Whose each key is.
    attached: BTreeMap<Vec<u8>, LeaseId>,
    decided: Time,
    silent: Time,
    leaders: u64,
    ended: u64,
}

impl Leases {
    /// One that has seen nothing.
    pub fn new(promise: Promise) -> Self {
        Leases {
            promise,
            leases: BTreeMap::new(),
            attached: BTreeMap::new(),
            decided: 0,
            silent: 0,
            leaders: 0,
            ended: 0,
        }
    }

    /// The service decided something: somebody leads.
    pub fn decided(&mut self, now: Time) {
        let gap = now.saturating_sub(self.decided);
        if gap > self.promise.silence {
            self.silent += gap;
        }
        self.decided = now.max(self.decided);
    }

    /// Another leader took over.
    pub fn led_anew(&mut self) {
        self.leaders += 1;
    }

    /// A grant or a renewal was decided: the lease lives on for `ttl`.
    pub fn lives_on(&mut self, lease: LeaseId, ttl: Time, now: Time) {
        let (silent, leaders) = (self.silent, self.leaders);
        let lease = self.leases.entry(lease).or_default();
        lease.lives = Some(Deadline { ttl, since: now, silent, leaders });
    }

    /// A renewal was decided: the lease lives on for as long as it was granted for.
    pub fn renewed(&mut self, lease: LeaseId, now: Time) {
        let lives = self.leases.get(&lease).and_then(|state| state.lives);
        if let Some(Deadline { ttl, .. }) = lives {
            self.lives_on(lease, ttl, now);
        }
    }

    /// A holder was answered: granted, or renewed for `ttl`.
    pub fn promised(
        &mut self,
        lease: LeaseId,
        ttl: Time,
        asked: Time,
        told: Time,
    ) -> Result<(), Violation> {
        let state = self.leases.entry(lease).or_default();
        if let Some(ended) = state.ended.filter(|ended| *ended < asked) {
            return Err(Violation::Revived { lease, ended, asked });
        }
        let from = told.min(asked + self.promise.margin);
        let bound = ttl - ttl / 1_000_000 * self.promise.drift_ppm;
        state.promised = state.promised.max(from + bound);
        if let Some(now) = state.ended.filter(|ended| *ended < from + bound) {
            // It ended between being renewed and saying so.
            return early(lease, state, now);
        }
        Ok(())
    }

    /// A read that was asked for at `asked` showed a key attached to the lease.
    pub fn seen(&mut self, lease: LeaseId, asked: Time) -> Result<(), Violation> {
        match self.leases.entry(lease).or_default().ended {
            Some(ended) if ended < asked => Err(Violation::Revived { lease, ended, asked }),
            _ => Ok(()),
        }
    }

    /// Somebody asks for the lease to end.
    pub fn revoking(&mut self, lease: LeaseId, now: Time) {
        self.leases.entry(lease).or_default().revoking.get_or_insert(now);
    }

    /// A holder was told that there is no such lease (any more).
    pub fn lost(&mut self, lease: LeaseId, now: Time) -> Result<(), Violation> {
        self.end(lease, now)
    }

    /// A key was written by a request of `asked`, with this lease or none.
    pub fn attached(&mut self, key: &[u8], lease: Option<LeaseId>) {
        self.detach(key);
        if let Some(lease) = lease {
            self.attached.insert(key.to_vec(), lease);
            self.leases.entry(lease).or_default().keys.insert(key.to_vec());
        }
    }

    /// A key is attached to no lease any more.
    pub fn detach(&mut self, key: &[u8]) {
        if let Some(lease) = self.attached.remove(key) {
            self.leases.entry(lease).or_default().keys.remove(key);
        }
    }

    /// These keys were deleted at one revision, by the end of leases and by nothing else.
    pub fn deleted(
        &mut self,
        keys: &[&[u8]],
        revision: Revision,
        now: Time,
    ) -> Result<(), Violation> {
        let mut leases = BTreeSet::new();
        for key in keys {
            leases.extend(self.attached.get(*key).copied());
            self.detach(key);
        }
        for lease in leases {
            if let Some(left) = self.leases.entry(lease).or_default().keys.first() {
                return Err(Violation::Apart { lease, revision, left: left.clone() });
            }
            self.end(lease, now)?;
        }
        Ok(())
    }

    fn end(&mut self, lease: LeaseId, now: Time) -> Result<(), Violation> {
        let state = self.leases.entry(lease).or_default();
        if state.ended.is_some() {
            return Ok(());
        }
        state.ended = Some(now);
        self.ended += 1;
        if now < state.promised { early(lease, state, now) } else { Ok(()) }
    }

    /// To be called now and then: is anything still there that should be gone?
    pub fn check(&self, now: Time) -> Result<(), Violation> {
        if now.saturating_sub(self.decided) > self.promise.silence {
            return Ok(());
        }
        for (&lease, state) in self.leases.iter().filter(|(_, state)| state.ended.is_none()) {
            let Some(lives) = state.lives.filter(|_| !state.keys.is_empty()) else { continue };
            let changes = (self.leaders - lives.leaders) * self.promise.late_per_leader;
            let drift = lives.ttl / 1_000_000 * self.promise.drift_ppm;
            let due = lives.since
                + lives.ttl
                + drift
                + self.promise.late
                + changes
                + (self.silent - lives.silent);
            if now > due {
                return Err(Violation::Late { lease, due, now });
            }
        }
        Ok(())
    }

    /// Leases whose end was seen: none means that little was checked.
    pub fn ends_seen(&self) -> u64 {
        self.ended
    }
}

fn early(lease: LeaseId, state: &Lease, now: Time) -> Result<(), Violation> {
    match state.revoking {
        Some(revoking) if revoking <= now => Ok(()),
        _ => Err(Violation::Early { lease, promised: state.promised, now }),
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Early { lease, promised, now } => write!(
                f,
                "lease {lease} was gone at {now}, although its holder could count on it until \
                 {promised}"
            ),
            Violation::Late { lease, due, now } => {
                write!(f, "lease {lease} is still there at {now}; it was to end by {due}")
            }
            Violation::Revived { lease, ended, asked } => write!(
                f,
                "lease {lease} had ended at {ended}, and more of it was got by asking at {asked}"
            ),
            Violation::Apart { lease, revision, left } => write!(
                f,
                "at revision {revision} keys went with lease {lease}, but {} stayed",
                String::from_utf8_lossy(left)
            ),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMISE: Promise =
        Promise { drift_ppm: 0, margin: 10, late: 20, late_per_leader: 10, silence: 5 };

    /// Lease 7 of 100, decided at 3, answered at 5.
    fn granted() -> Leases {
        let mut leases = Leases::new(PROMISE);
        leases.lives_on(7, 100, 3);
        leases.promised(7, 100, 0, 5).unwrap();
        leases.attached(b"a", Some(7));
        leases.attached(b"b", Some(7));
        leases
    }

    fn busy(leases: &mut Leases, from: Time, to: Time) {
        (from..=to).for_each(|now| leases.decided(now));
    }

    #[test]
    fn a_lease_that_ends_in_its_time_with_all_its_keys_is_fine() {
        let mut leases = granted();
        busy(&mut leases, 4, 110);
        leases.check(110).unwrap();
        leases.deleted(&[b"a", b"b"], 9, 110).unwrap();
        busy(&mut leases, 110, 500);
        leases.check(500).unwrap();
        assert_eq!(leases.ends_seen(), 1);
    }

    #[test]
    fn an_end_before_the_last_answer_plus_the_time_to_live_is_found() {
        let mut leases = granted();
        leases.promised(7, 100, 50, 55).unwrap();
        let violation = leases.deleted(&[b"a", b"b"], 9, 154).unwrap_err();
        assert_eq!(violation, Violation::Early { lease: 7, promised: 155, now: 154 });
    }

    #[test]
    fn a_holder_that_is_told_too_soon_that_it_lost_the_lease_has_found_one() {
        let mut leases = granted();
        assert!(matches!(leases.lost(7, 104), Err(Violation::Early { .. })));
    }

    #[test]
    fn a_late_answer_promises_less() {
        let mut leases = granted();
        leases.promised(7, 100, 50, 90).unwrap();
        leases.deleted(&[b"a", b"b"], 9, 160).unwrap();
    }

    #[test]
    fn an_answer_that_comes_after_the_end_is_judged_too() {
        let mut leases = granted();
        leases.deleted(&[b"a", b"b"], 9, 110).unwrap();
        assert!(matches!(leases.promised(7, 100, 105, 112), Err(Violation::Early { .. })));
    }

    #[test]
    fn what_was_revoked_may_end_at_any_time_and_never_comes_back() {
        let mut leases = granted();
        leases.revoking(7, 20);
        leases.deleted(&[b"a", b"b"], 9, 25).unwrap();
        let violation = leases.promised(7, 100, 30, 31).unwrap_err();
        assert_eq!(violation, Violation::Revived { lease: 7, ended: 25, asked: 30 });
    }

    #[test]
    fn a_key_that_is_read_after_its_lease_ended_is_found() {
        let mut leases = granted();
        leases.seen(7, 50).unwrap();
        leases.deleted(&[b"a", b"b"], 9, 110).unwrap();
        leases.seen(7, 109).unwrap();
        assert!(leases.seen(7, 111).is_err());
    }

    #[test]
    fn a_lease_that_nobody_renews_and_nobody_ends_is_found() {
        let mut leases = granted();
        busy(&mut leases, 4, 123);
        leases.check(123).unwrap();
        busy(&mut leases, 123, 124);
        assert_eq!(leases.check(124), Err(Violation::Late { lease: 7, due: 123, now: 124 }));
    }

    #[test]
    fn time_without_a_leader_and_changes_of_leader_are_allowed_for() {
        let mut leases = granted();
        busy(&mut leases, 4, 50);
        leases.check(90).unwrap();
        leases.led_anew();
        busy(&mut leases, 90, 173);
        leases.check(173).unwrap();
        busy(&mut leases, 173, 174);
        assert!(matches!(leases.check(174), Err(Violation::Late { due: 173, .. })));
    }

    #[test]
    fn keys_that_do_not_go_together_are_found() {
        let mut leases = granted();
        let violation = leases.deleted(&[b"a"], 9, 110).unwrap_err();
        assert_eq!(violation, Violation::Apart { lease: 7, revision: 9, left: b"b".to_vec() });
    }

    #[test]
    fn a_key_that_was_attached_elsewhere_or_nowhere_stays() {
        let mut leases = granted();
        leases.attached(b"b", None);
        leases.deleted(&[b"a"], 9, 110).unwrap();
        let mut leases = granted();
        leases.attached(b"b", Some(8));
        leases.deleted(&[b"a"], 9, 110).unwrap();
    }
}
