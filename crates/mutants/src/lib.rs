//! Planted bugs: known mistakes, written down beside the code that avoids them, by which the checks
//! are checked (mutation testing; design rule 10).
//!
//! Without the feature `planted`, [`planted`] is `false` when it is compiled, and nothing of a bug
//! is left. With it, [`plant`] switches one bug on in the calling thread, which is the whole world
//! of a simulation. The core's own `assert!` is then one that can be switched off as well
//! (`#[macro_use] extern crate mutants`), since a bug that trips an assertion tells nothing about
//! the checkers outside.
#![cfg_attr(not(feature = "planted"), no_std)]
#![forbid(unsafe_code)]

/// A mistake, at the place where the core avoids it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A vote is told before it is durable.
    VoteBeforeSync,
    /// A write that was overtaken by a truncation still counts for the entries it wrote (ABA).
    StaleWriteCounts,
    /// The lease is counted from the answer to a heartbeat, not from its sending.
    LeaseFromReply,
    /// Leadership is handed over without giving up the lease.
    LeaseKeptInTransfer,
    /// A restarted member votes as if it had promised nothing.
    PromiseForgotten,
    /// The leader relies on its lease for longer than followers promised.
    LeaseTooLong,
    /// A vote that was given does not put the giver's own candidacy off.
    VoteKeepsTimer,
    /// An entry of an older term counts as committed once a quorum holds it.
    OlderTermCounts,
    /// A new leader serves reads before it has committed an entry of its own term.
    ReadBeforeOwnTerm,
    /// A request that expired gets no answer.
    ExpiryUnanswered,
    /// A member goes on with the lease clock of its last leadership, tick of a deposed leader.
    DeposedTick,
    /// A lease ends when its time is over, without slack for who told it so.
    SlackRemoved,
    /// The applied position is stored before the data.
    AppliedApart,
    /// A snapshot leaves the leases out.
    LeasesNotInSnapshot,
    /// What a session has asked already is forgotten whenever somebody else comes to lead.
    DuplicatesForgotten,
    /// A member that lost part of its log to corruption votes as if nothing had happened.
    DamageUnmarked,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 16] = [
        Bug::VoteBeforeSync,
        Bug::StaleWriteCounts,
        Bug::LeaseFromReply,
        Bug::LeaseKeptInTransfer,
        Bug::PromiseForgotten,
        Bug::LeaseTooLong,
        Bug::VoteKeepsTimer,
        Bug::OlderTermCounts,
        Bug::ReadBeforeOwnTerm,
        Bug::ExpiryUnanswered,
        Bug::DeposedTick,
        Bug::SlackRemoved,
        Bug::AppliedApart,
        Bug::LeasesNotInSnapshot,
        Bug::DuplicatesForgotten,
        Bug::DamageUnmarked,
    ];
}

/// What the core's assertions do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assertions {
    /// They stop the core, as in production.
    #[default]
    On,
    /// They are passed over: what follows is for the checkers to see.
    Off,
}

#[cfg(not(feature = "planted"))]
mod switch {
    use super::{Assertions, Bug};

    /// Whether the bug is there: never in what ships.
    #[inline(always)]
    #[must_use]
    pub const fn planted(_: Bug) -> bool {
        false
    }

    /// Keeps what was planted in place.
    #[derive(Debug)]
    pub struct Planting(());

    /// Plants nothing.
    ///
    /// # Panics
    /// If asked for more than that: this build holds no bugs.
    #[must_use]
    pub fn plant(bug: Option<Bug>, assertions: Assertions) -> Planting {
        core::assert!(
            bug.is_none() && assertions == Assertions::On,
            "this build holds no planted bugs: it needs the feature `planted` of `mutants`"
        );
        Planting(())
    }
}

#[cfg(feature = "planted")]
mod switch {
    use super::{Assertions, Bug};
    use std::cell::Cell;

    thread_local! {
        static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
        static ASSERTIONS: Cell<Assertions> = const { Cell::new(Assertions::On) };
    }

    /// Whether the bug is there.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        BUG.get() == Some(bug)
    }

    /// Whether a broken assertion stops the core.
    #[must_use]
    pub fn asserts() -> bool {
        ASSERTIONS.get() == Assertions::On
    }

    /// Keeps what was planted in place; without it all is as in production.
    #[derive(Debug)]
    pub struct Planting(());

    impl Drop for Planting {
        fn drop(&mut self) {
            BUG.set(None);
            ASSERTIONS.set(Assertions::On);
        }
    }

    /// Plants a bug in this thread until the result is dropped, one at a time.
    #[must_use]
    pub fn plant(bug: Option<Bug>, assertions: Assertions) -> Planting {
        BUG.set(bug);
        ASSERTIONS.set(assertions);
        Planting(())
    }
}

#[cfg(feature = "planted")]
pub use switch::asserts;
pub use switch::{Planting, plant, planted};

/// The core's assertion: the standard one.
#[cfg(not(feature = "planted"))]
#[macro_export]
macro_rules! assert {
    ($($everything:tt)*) => { ::core::assert!($($everything)*) };
}

/// The core's assertion, which a simulation may switch off.
#[cfg(feature = "planted")]
#[macro_export]
macro_rules! assert {
    ($condition:expr $(,)?) => {
        if !$condition && $crate::asserts() {
            ::core::panic!("assertion failed: {}", ::core::stringify!($condition))
        }
    };
    ($condition:expr, $($text:tt)+) => {
        if !$condition && $crate::asserts() {
            ::core::panic!($($text)+)
        }
    };
}

#[cfg(all(test, feature = "planted"))]
mod tests {
    use super::{Assertions, Bug, plant, planted};

    #[test]
    fn a_bug_is_there_while_its_planting_is_kept() {
        let planting = plant(Some(Bug::VoteBeforeSync), Assertions::Off);
        core::assert!(planted(Bug::VoteBeforeSync) && !planted(Bug::SlackRemoved));
        crate::assert!(1 > 2, "passed over");
        drop(planting);
        core::assert!(!planted(Bug::VoteBeforeSync));
    }

    #[test]
    #[should_panic(expected = "two is not three")]
    fn assertions_are_on_unless_switched_off() {
        let two = 2;
        crate::assert!(two == 3, "{} is not three", "two");
    }
}
