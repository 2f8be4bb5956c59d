//! Marks: rare branches that a run went through.
//!
//! A check proves nothing about a branch that no run takes (FoundationDB's *sometimes* assertions).
//! A mark that thousands of seeds never reach says that a workload or a fault is missing.

use std::collections::BTreeMap;
use std::fmt;

/// A branch that some run should take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// The feature level rose while clients were asking.
    LevelRaisedUnderLoad,
    /// A command was refused because a member does not know it yet.
    NotCapable,
    /// An old build was refused at its start.
    OldBuildRefused,
    /// An old build stopped while it ran, because the level had risen.
    OldBuildStopped,
    /// A member would not connect to one that speaks less than the cluster.
    OldBuildNotConnected,
    /// Keys were deleted with their lease.
    KeysWentWithLease,
    /// A renewal came when the lease had ended.
    RenewedTooLate,
    /// A contender came to hold a lock.
    LockTaken,
    /// A write of somebody who held a lock no more was kept out by its fence.
    FenceKeptOut,
    /// A member was removed and another votes in its place.
    MemberReplaced,
    /// A removed member stopped by itself.
    RemovedMemberStopped,
    /// A learner was promoted.
    LearnerPromoted,
    /// A leader objected to a change of membership.
    LeaderObjected,
    /// A member was added.
    MemberAdded,
    /// A member was removed.
    MemberRemoved,
    /// Leadership was moved on request.
    LeaderMoved,
    /// A member lost its disk for good.
    DiskLost,
    /// Authentication was turned on.
    AuthEnabled,
    /// A write was refused for lack of permission.
    PermissionDenied,
}

impl Mark {
    /// All of them.
    pub const ALL: [Mark; 19] = [
        Mark::LevelRaisedUnderLoad,
        Mark::NotCapable,
        Mark::OldBuildRefused,
        Mark::OldBuildStopped,
        Mark::OldBuildNotConnected,
        Mark::KeysWentWithLease,
        Mark::RenewedTooLate,
        Mark::LockTaken,
        Mark::FenceKeptOut,
        Mark::MemberReplaced,
        Mark::RemovedMemberStopped,
        Mark::LearnerPromoted,
        Mark::LeaderObjected,
        Mark::MemberAdded,
        Mark::MemberRemoved,
        Mark::LeaderMoved,
        Mark::DiskLost,
        Mark::AuthEnabled,
        Mark::PermissionDenied,
    ];
}

/// How often each mark was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    reached: BTreeMap<Mark, u64>,
}

impl Marks {
    /// The branch was taken once more.
    pub(crate) fn reach(&mut self, mark: Mark) {
        *self.reached.entry(mark).or_default() += 1;
    }

    /// How often it was.
    #[must_use]
    pub fn count(&self, mark: Mark) -> u64 {
        self.reached.get(&mark).copied().unwrap_or(0)
    }

    /// Adds those of another run.
    pub(crate) fn add(&mut self, other: &Marks) {
        for (mark, count) in &other.reached {
            *self.reached.entry(*mark).or_default() += count;
        }
    }

    /// These and those.
    pub(crate) fn and(mut self, other: &Marks) -> Marks {
        self.add(other);
        self
    }

    /// Those that no run reached.
    pub fn never(&self) -> impl Iterator<Item = Mark> {
        Mark::ALL.into_iter().filter(|mark| self.count(*mark) == 0)
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reached.iter().try_for_each(|(mark, count)| write!(f, " {mark:?} {count}"))
    }
}
