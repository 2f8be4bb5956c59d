//! Lease clock: how much time the leases of a group have seen, kept by its leader and told to all
//! members through the log.
//!
//! Gray and Cheriton's leases need a clock that runs no faster than anybody's; a group has one that
//! stands still while nobody leads. It is a number in the log: a leader that has applied an entry
//! of its own term takes the last value logged, adds what its monotonic clock has counted since,
//! and logs the sum (`LeaseTick`): directly before any batch that holds a grant or a renewal, when
//! a lease is due, and while there are leases whenever its leadership has lasted twice as long as
//! was logged, at first after a quarter of a second and later every second.
//!
//! Invariants: a tick is proposed by the leader that read its own clock for it, in that leader's
//! term, and by nobody else; so a deposed leader revokes nothing. Ticks of a term never regress.
//!
//! **No lease ends early.** A renewal is proposed at some moment `p`, after the request for it
//! arrived. Its entry stands behind a tick of `p` in the same batch, so that at apply the lease
//! clock is at least the leader's at `p`; or the leader has no clock yet, and one begins later than
//! `p` with what is logged. Either way, when the clock reaches `clock + ttl + slack`, at least
//! `ttl + slack` has passed since `p`: a new leader begins at a value that was reached before.
//! A front end that answers within the slack of the request's arrival has promised less than that;
//! one that takes longer promises less (`node`). Times are those of monotonic clocks within their
//! bound.
//!
//! **No lease ends late by much.** Of the time that passes while somebody leads, a new leader lacks
//! what its predecessor had not logged (a second), and a lease has the slack (another). However
//! often leaders change, at least half of a leadership that lasts a quarter of a second is logged,
//! so that leases end. Those that are due together end in portions, with pauses that leave half of
//! the machine to everything else.

use crate::limits::{LEASE_FIRST_TICK, LEASE_REVOKE_MAX, LEASE_REVOKE_PACE, LEASE_TICK_INTERVAL};
use bytes::Bytes;
use clocks::{LogIndex, Monotonic, Term};
use mutants::{Bug, planted};
use std::time::Duration;
use store::LeaseStatus;
use store::command::{Caller, Command, Envelope, SessionId};

/// A value of the clock that is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick {
    clock_ms: u64,
    revoke_max: u32,
}

impl Tick {
    /// The bytes of its log entry.
    pub(crate) fn encode(&self) -> Bytes {
        let Tick { clock_ms, revoke_max } = *self;
        Envelope {
            session: SessionId::default(),
            sequence: 0,
            answered_below: 0,
            advisory_time_ms: 0,
            caller: Some(Caller::Cluster),
            command: Command::LeaseTick { clock_ms, revoke_max },
        }
        .encode()
    }
}

/// The clock of one group at one member; runs only while that member leads.
#[derive(Default)]
pub(crate) struct LeaseClock {
    /// As last applied here.
    status: LeaseStatus,
    running: Option<Running>,
}

/// The clock of one leadership.
struct Running {
    term: Term,
    /// It showed `base_ms` at `since`.
    base_ms: u64,
    since: Monotonic,
    /// The last tick appended.
    ticked_ms: u64,
    ticked_at: Monotonic,
    /// The last tick that may revoke, if it is not applied here yet, and when it was appended.
    under_way: Option<(LogIndex, Monotonic)>,
    /// No such tick before.
    paced_until: Monotonic,
}

impl Running {
    fn at(&self, now: Monotonic) -> u64 {
        let elapsed = u64::try_from(now.since(self.since).as_millis()).unwrap_or(u64::MAX);
        self.base_ms.saturating_add(elapsed)
    }

    /// When the next tick is to be appended: what is logged by then, for whatever reason it was, is
    /// half of the leadership, and lacks no more than an interval.
    fn next_tick(&self) -> Monotonic {
        let logged = self.ticked_at.since(self.since);
        let half = self.since.after(LEASE_FIRST_TICK.max(logged * 2));
        half.min(self.ticked_at.after(LEASE_TICK_INTERVAL))
    }
}

impl LeaseClock {
    /// The applier went on to `index`, and the leases stand as told. `leading` is this member's
    /// term, if it leads and that entry is of this very term.
    pub(crate) fn on_applied(
        &mut self,
        index: LogIndex,
        status: LeaseStatus,
        leading: Option<Term>,
        now: Monotonic,
    ) {
        self.status = status;
        let Some(term) = leading else { return };
        match &mut self.running {
            Some(running) if running.term == term || planted(Bug::DeposedTick) => {
                if let Some((_, appended)) = running.under_way.take_if(|(tick, _)| *tick <= index) {
                    let pace = LEASE_REVOKE_PACE.max(now.since(appended));
                    running.paced_until = now.after(pace);
                }
            }
            running => {
                *running = Some(Running {
                    term,
                    base_ms: status.clock_ms,
                    since: now,
                    ticked_ms: status.clock_ms,
                    ticked_at: now,
                    under_way: None,
                    paced_until: now,
                });
            }
        }
    }

    /// What must be appended before a batch that lets leases live from now. It revokes nothing:
    /// revocation has its own pace.
    pub(crate) fn tick_before_batch(&self, leading: Option<Term>, now: Monotonic) -> Option<Tick> {
        let running = self.running(leading)?;
        let clock_ms = running.at(now);
        (clock_ms > running.ticked_ms).then_some(Tick { clock_ms, revoke_max: 0 })
    }

    /// That tick was appended.
    pub(crate) fn appended_before_batch(&mut self, tick: &Tick, now: Monotonic) {
        let running = self.running.as_mut().expect("a tick was made by a running clock");
        assert!(tick.clock_ms >= running.ticked_ms, "ticks of a term never regress");
        running.ticked_ms = tick.clock_ms;
        running.ticked_at = now;
    }

    /// What is to be appended now, to log the time or because leases are due.
    pub(crate) fn tick_due(&self, leading: Option<Term>, now: Monotonic) -> Option<Tick> {
        self.deadline(leading).filter(|&at| at <= now)?;
        let clock_ms = self.running(leading)?.at(now);
        Some(Tick { clock_ms, revoke_max: LEASE_REVOKE_MAX })
    }

    /// That tick was appended at `index`.
    pub(crate) fn appended(&mut self, tick: &Tick, index: LogIndex, now: Monotonic) {
        self.appended_before_batch(tick, now);
        if let Some(running) = &mut self.running {
            running.under_way = Some((index, now));
        }
    }

    /// That tick could not be appended; it is tried again after a pause.
    pub(crate) fn refused(&mut self, now: Monotonic) {
        if let Some(running) = &mut self.running {
            running.paced_until = now.after(LEASE_REVOKE_PACE);
        }
    }

    /// When `tick_due` has something to say.
    pub(crate) fn deadline(&self, leading: Option<Term>) -> Option<Monotonic> {
        let running = self.running(leading).filter(|running| running.under_way.is_none())?;
        let wait_ms = self.status.next_due_ms?.saturating_sub(running.base_ms);
        let due = running.since.after(Duration::from_millis(wait_ms));
        let at = due.min(running.next_tick());
        Some(at.max(running.paced_until))
    }

    /// The clock, if it is of this leadership.
    fn running(&self, leading: Option<Term>) -> Option<&Running> {
        let of_this = |running: &&Running| leading == Some(running.term);
        let passes = planted(Bug::DeposedTick) && leading.is_some();
        self.running.as_ref().filter(|running| passes || of_this(running))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Term = Term(3);
    const LEADING: Option<Term> = Some(TERM);

    fn ms(millis: u64) -> Monotonic {
        Monotonic(millis * 1_000_000)
    }

    fn status(clock_ms: u64, next_due_ms: Option<u64>) -> LeaseStatus {
        LeaseStatus { clock_ms, next_due_ms }
    }

    /// A clock that showed 5 s at 100 s.
    fn started(next_due_ms: Option<u64>) -> LeaseClock {
        let mut clock = LeaseClock::default();
        clock.on_applied(1, status(5_000, next_due_ms), LEADING, ms(100_000));
        clock
    }

    #[test]
    fn it_stands_still_until_an_entry_of_the_own_term_is_applied() {
        let mut clock = LeaseClock::default();
        clock.on_applied(1, status(5_000, Some(9_000)), None, ms(100_000));
        assert_eq!(clock.tick_before_batch(LEADING, ms(200_000)), None);
        assert_eq!(clock.deadline(LEADING), None);
        clock.on_applied(2, status(5_000, Some(9_000)), LEADING, ms(200_000));
        let tick = clock.tick_before_batch(LEADING, ms(200_700)).unwrap();
        assert_eq!(tick.clock_ms, 5_700, "the time without a leader does not count");
    }

    #[test]
    fn a_clock_of_an_earlier_leadership_says_nothing() {
        let clock = started(Some(9_000));
        assert_eq!(clock.tick_before_batch(None, ms(150_000)), None);
        assert_eq!(clock.tick_due(Some(Term(4)), ms(150_000)), None);
    }

    /// Trap: leaders that change faster than they log, under whom no time passes.
    #[test]
    fn at_least_half_of_a_short_leadership_is_logged() {
        let mut clock = started(Some(60_000));
        for (index, at) in (2..).zip([100_250, 100_500, 101_000, 102_000, 103_000]) {
            assert_eq!(clock.deadline(LEADING), Some(ms(at)));
            let tick = clock.tick_due(LEADING, ms(at)).unwrap();
            clock.appended(&tick, index, ms(at));
            clock.on_applied(index, status(at - 95_000, Some(60_000)), LEADING, ms(at));
        }
    }

    /// Trap: ticks before batches put the next one off.
    #[test]
    fn at_least_half_is_logged_whatever_is_granted_between() {
        for grants_every in [1, 7, 10, 100, 240, 249, 251, 400, 900] {
            let (mut clock, mut logged, mut due) = (started(Some(60_000)), 0, 0);
            for at in 1..5_000 {
                let now = ms(100_000 + at);
                let granted = at == 10 || at % grants_every == 0 && at % 1_700 < 800;
                if let Some(tick) = clock.tick_due(LEADING, now) {
                    (logged, due) = (tick.clock_ms - 5_000, due + 1);
                    clock.appended(&tick, at, now);
                    let status = status(tick.clock_ms, Some(60_000));
                    clock.on_applied(at, status, LEADING, now);
                } else if granted {
                    let tick = clock.tick_before_batch(LEADING, now).expect("time has passed");
                    logged = tick.clock_ms - 5_000;
                    clock.appended_before_batch(&tick, now);
                }
                assert!(at < 250 || 2 * logged >= at, "{logged} of {at} ms, {grants_every}");
                assert!(at - logged <= 1_000, "{logged} of {at} ms, {grants_every}");
            }
            assert!(due <= 7, "{due} ticks of its own in five seconds, {grants_every}");
        }
    }

    #[test]
    fn it_ticks_every_second_while_there_are_leases_and_when_one_is_due() {
        let mut clock = started(Some(6_500));
        let tick = clock.tick_due(LEADING, ms(101_000)).unwrap();
        assert_eq!(tick, Tick { clock_ms: 6_000, revoke_max: LEASE_REVOKE_MAX });
        clock.appended(&tick, 7, ms(101_000));
        assert_eq!(clock.deadline(LEADING), None, "one at a time");
        clock.on_applied(7, status(6_000, Some(6_500)), LEADING, ms(101_001));
        assert_eq!(clock.deadline(LEADING), Some(ms(101_500)), "the lease is due");
        clock.on_applied(8, status(6_000, None), LEADING, ms(101_002));
        assert_eq!(clock.deadline(LEADING), None, "no lease is left");
    }

    #[test]
    fn batches_tick_once_a_millisecond_and_revoke_nothing() {
        let mut clock = started(None);
        assert_eq!(clock.tick_before_batch(LEADING, ms(100_000)), None, "it has not moved");
        let tick = clock.tick_before_batch(LEADING, ms(100_001)).unwrap();
        assert_eq!(tick, Tick { clock_ms: 5_001, revoke_max: 0 });
        clock.appended_before_batch(&tick, ms(100_001));
        assert_eq!(clock.tick_before_batch(LEADING, ms(100_001)), None);
    }

    /// Renewals in every batch must not keep leases that are due alive.
    #[test]
    fn ticks_of_batches_do_not_put_revocation_off() {
        let mut clock = started(Some(5_100));
        let tick = clock.tick_before_batch(LEADING, ms(100_200)).unwrap();
        clock.appended_before_batch(&tick, ms(100_200));
        let tick = clock.tick_due(LEADING, ms(100_200)).unwrap();
        assert_eq!(tick.revoke_max, LEASE_REVOKE_MAX);
    }

    #[test]
    fn revocation_pauses_at_least_as_long_as_it_took() {
        let mut clock = started(Some(5_100));
        let tick = clock.tick_due(LEADING, ms(100_200)).unwrap();
        clock.appended(&tick, 7, ms(100_200));
        clock.on_applied(6, status(5_000, Some(5_100)), LEADING, ms(100_210));
        assert_eq!(clock.deadline(LEADING), None, "it is not applied yet");
        clock.on_applied(7, status(5_200, Some(5_100)), LEADING, ms(100_280));
        assert_eq!(clock.deadline(LEADING), Some(ms(100_360)));
        clock.refused(ms(100_360));
        assert_eq!(clock.deadline(LEADING), Some(ms(100_360).after(LEASE_REVOKE_PACE)));
    }
}
