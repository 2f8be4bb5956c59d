//! What a member waits for, and the jitter that keeps members from waiting in step.

use clocks::Monotonic;
use core::time::Duration;

/// One reason to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Follower: the leader has been silent for too long. Candidate: the election is over.
    Election,
    /// Candidate of either kind: ask again those who have not answered.
    AskAgain,
    /// Pre-candidate that has won: the own lease promise is over.
    Campaign,
    /// The lease promise is over, and vote requests wait for that.
    HeldVotes,
    /// Leader: the next round on the grid.
    Heartbeat,
    /// Leader: the time by which a quorum must have answered.
    CheckQuorum,
    /// Leader: the transfer of leadership has failed.
    Transfer,
}

impl Timer {
    const ALL: [Timer; 7] = [
        Timer::Election,
        Timer::AskAgain,
        Timer::Campaign,
        Timer::HeldVotes,
        Timer::Heartbeat,
        Timer::CheckQuorum,
        Timer::Transfer,
    ];
}

/// The deadlines that are set.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    deadlines: [Option<Monotonic>; Timer::ALL.len()],
}

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, deadline: Monotonic) {
        self.deadlines[timer as usize] = Some(deadline);
    }

    pub(crate) fn get(&self, timer: Timer) -> Option<Monotonic> {
        self.deadlines[timer as usize]
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        self.deadlines[timer as usize] = None;
    }

    /// Clears everything that belongs to a role; held votes outlive it.
    pub(crate) fn clear_role(&mut self) {
        for timer in Timer::ALL.into_iter().filter(|timer| *timer != Timer::HeldVotes) {
            self.clear(timer);
        }
    }

    pub(crate) fn next(&self) -> Option<Monotonic> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Takes the earliest timer that is due; ties in the order of `Timer::ALL`.
    pub(crate) fn take_due(&mut self, now: Monotonic) -> Option<Timer> {
        let due = |timer: &Timer| self.get(*timer).filter(|deadline| *deadline <= now);
        let timer = Timer::ALL.into_iter().filter(|t| due(t).is_some()).min_by_key(due)?;
        self.clear(timer);
        Some(timer)
    }
}

/// A seeded generator (SplitMix64; Steele, Lea and Flood 2014): plenty for jitter and nonces.
#[derive(Debug)]
pub(crate) struct Jitter {
    state: u64,
}

impl Jitter {
    pub(crate) fn new(seed: u64) -> Jitter {
        Jitter { state: seed }
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A duration below `bound` (zero for zero).
    pub(crate) fn below(&mut self, bound: Duration) -> Duration {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.draw() % nanos.max(1))
    }
}
