//! Marks: what some run should go through, and how often runs did.
//!
//! A check proves nothing about a branch that no run takes (FoundationDB's *sometimes* assertions).
//! A mark that thousands of seeds never reach says that a workload or a fault is missing. The core
//! holds no marks: they are read off what goes into and comes out of it (`coverage`), every kind of
//! message, request, refusal and role being matched there, so that a new one does not compile
//! without a mark. Tidy sees to it that every mark can be reached.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! marks {
    ($($(#[doc = $meaning:literal])+ $name:ident,)*) => {
        /// What some run should go through.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark {
            $($(#[doc = $meaning])+ $name,)*
        }

        impl Mark {
            /// All of them.
            pub const ALL: &[Mark] = &[$(Mark::$name,)*];

            /// What was gone through, in a sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Mark::$name => concat!($($meaning),+).trim_start(),)* }
            }
        }
    };
}

marks! {
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
    /// A disk read wrong what had been synced.
    SyncedSectorRotten,
    /// A member refused to start on a log of which a vote may be lost.
    RottenStartRefused,
    /// A member stopped when it read its own log back and found it wrong.
    RottenReadStopped,
    /// A member started on a log that was found to be corrupt, and marked itself.
    StartedDamaged,
    /// A member that had lost part of its log had learnt it anew.
    DamageHealed,

    /// Heard: a pre-vote.
    HeardPreVote,
    /// Heard: a pre-vote is granted.
    HeardPreVoteGranted,
    /// Heard: a pre-vote is refused.
    HeardPreVoteRefused,
    /// Heard: a request to vote.
    HeardVote,
    /// Heard: a request to vote in an election that the old leader asked for.
    HeardTransferVote,
    /// Heard: a vote is given.
    HeardVoteGiven,
    /// Heard: a vote is refused.
    HeardVoteRefused,
    /// Heard: entries.
    HeardEntries,
    /// Heard: a probe, an append without entries.
    HeardProbe,
    /// Heard: entries are durable at a follower.
    HeardAppendOk,
    /// Heard: a member that lost part of its log holds entries.
    HeardAppendHeld,
    /// Heard: a log does not fit.
    HeardAppendConflict,
    /// Heard: a heartbeat.
    HeardHeartbeat,
    /// Heard: the answer to one.
    HeardHeartbeatReply,
    /// Heard: a damaged member is back.
    HeardReturned,
    /// Heard: the leader knows of it.
    HeardReturnHeard,
    /// Heard: part of a snapshot.
    HeardSnapshotChunk,
    /// Heard: the last part of a snapshot.
    HeardSnapshotEnd,
    /// Heard: the next part is wanted.
    HeardSnapshotAck,
    /// Heard: take over.
    HeardTimeoutNow,
    /// Heard: requests to propose.
    HeardPropose,
    /// Heard: they were not proposed.
    HeardProposeRefused,
    /// Heard: a question up to where to read.
    HeardReadIndex,
    /// Heard: the answer.
    HeardReadIndexReply,
    /// Heard: whoever was asked does not lead.
    HeardNoReadIndex,
    /// Heard: hashes of the state.
    HeardStateHashes,
    /// Heard: a member has room on its disk.
    HeardRoomy,
    /// Heard: a member is short of disk space.
    HeardShortOfSpace,
    /// Heard: learners that have the log.
    HeardLearnersInSync,
    /// Heard: you are no member any more.
    HeardRemoved,

    /// A member became a follower.
    BecameFollower,
    /// A member asked whether an election would succeed.
    BecamePreCandidate,
    /// A member asked for votes.
    BecameCandidate,
    /// A member came to lead.
    BecameLeader,
    /// A member that led no longer does.
    Deposed,
    /// A pre-candidate gave its candidacy up.
    CandidacyGivenUp,

    /// A transaction's comparison held.
    ComparisonHeld,
    /// A transaction's comparison did not hold.
    ComparisonFailed,
    /// Applied here: a write.
    Written,
    /// A read was released.
    ReadReleased,
    /// A group's leadership was handed over as asked.
    HandedOver,
    /// Refused: the waiting list is full.
    Overloaded,
    /// Refused: a member is short of disk space.
    NoSpace,
    /// Ended: its time was over.
    TimedOut,
    /// Ended: a snapshot overtook the outcome.
    OutcomeOvertaken,
    /// Refused: only a leader hands over.
    NotLeaderToHandOver,
    /// Refused: the revision is compacted.
    RevisionCompacted,
    /// Refused: the revision does not exist yet.
    RevisionInFuture,
    /// Refused: no such lease.
    LeaseMissing,
    /// Refused: the lease is there already.
    LeaseThere,
    /// A session gave way to others.
    SessionGaveWay,
    /// Refused: the member table does not allow it.
    MembershipRefused,
    /// Refused: users and roles do not allow it.
    AuthRefused,

    /// Committed: a barrier of a new leader.
    CommittedBarrier,
    /// Committed: a membership of two majorities.
    CommittedJointMembership,
    /// Committed: a membership of one majority.
    CommittedMembership,
    /// Committed: a session is opened.
    CommittedSession,
    /// Committed: a put.
    CommittedPut,
    /// Committed: a deletion.
    CommittedDelete,
    /// Committed: a transaction.
    CommittedTxn,
    /// Committed: a compaction.
    CommittedCompaction,
    /// Committed: a tick of the lease clock.
    CommittedLeaseTick,
    /// Committed: a lease is granted.
    CommittedLeaseGrant,
    /// Committed: a lease is revoked.
    CommittedLeaseRevoke,
    /// Committed: leases are renewed.
    CommittedLeaseRenew,
    /// Committed: a change of users and roles.
    CommittedAuth,
    /// Committed: who a member is.
    CommittedRegistration,
    /// Committed: the feature level rises.
    CommittedLevel,
    /// Committed: a change of the member table.
    CommittedMemberTable,
    /// Committed once more: a request that was sent twice.
    CommittedTwice,

    /// Entries for the applier were read back from the log.
    SnapshotAsked,
    /// A snapshot was begun for a peer.
    SnapshotBegun,
    /// A snapshot went on for a peer.
    SnapshotContinued,
    /// Part of a snapshot was written.
    SnapshotPartWritten,
    /// A snapshot became the state.
    SnapshotInstalled,
    /// Part of a snapshot was refused.
    SnapshotRefused,
    /// A request was given up before it was applied.
    ExpectationDropped,
    /// A read's caller had stopped waiting.
    ReadExpired,
    /// The engine was flushed.
    EngineFlushed,
    /// The log asked for a flush, to be cut.
    FlushAskedFor,
    /// Work was done in the background.
    BackgroundWork,
    /// Watchers had to resume from history.
    WatchReset,
    /// A watch was told that its history is compacted.
    WatchCompacted,
    /// A watch was told of progress alone.
    WatchProgress,
    /// A member forgot what it had done without a flush.
    UnflushedLost,

    /// A write was torn by a power failure.
    WriteInterrupted,
    /// A disk had no room for a file.
    DiskWasFull,
    /// An operation of a disk failed.
    DiskFailed,
    /// A file was made of the blocks of another.
    FileRecycled,
    /// A file was removed.
    FileRemoved,
    /// Something was read back from the log while it ran.
    LogReadBack,
    /// The power failed during a recovery.
    PowerFailedInRecovery,
    /// A process crashed at the step chosen for it.
    Ambushed,
}

impl Mark {
    /// The kinds of messages.
    pub(crate) const HEARD: &[Mark] = &[
        Mark::HeardPreVote,
        Mark::HeardPreVoteGranted,
        Mark::HeardPreVoteRefused,
        Mark::HeardVote,
        Mark::HeardTransferVote,
        Mark::HeardVoteGiven,
        Mark::HeardVoteRefused,
        Mark::HeardEntries,
        Mark::HeardProbe,
        Mark::HeardAppendOk,
        Mark::HeardAppendHeld,
        Mark::HeardAppendConflict,
        Mark::HeardHeartbeat,
        Mark::HeardHeartbeatReply,
        Mark::HeardReturned,
        Mark::HeardReturnHeard,
        Mark::HeardSnapshotChunk,
        Mark::HeardSnapshotEnd,
        Mark::HeardSnapshotAck,
        Mark::HeardTimeoutNow,
        Mark::HeardPropose,
        Mark::HeardProposeRefused,
        Mark::HeardReadIndex,
        Mark::HeardReadIndexReply,
        Mark::HeardNoReadIndex,
        Mark::HeardStateHashes,
        Mark::HeardRoomy,
        Mark::HeardShortOfSpace,
        Mark::HeardLearnersInSync,
        Mark::HeardRemoved,
    ];
}

/// Marks that no run is known to reach, each with the reason. At most five.
pub const UNREACHED: &[(Mark, &str)] = &[];

const _: () = assert!(UNREACHED.len() <= 5, "too much is out of reach");

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

    /// Those that no run reached, though some run should have.
    pub fn never(&self) -> impl Iterator<Item = Mark> {
        let expected = Mark::ALL.iter().filter(|mark| UNREACHED.iter().all(|(un, _)| un != *mark));
        expected.copied().filter(|mark| self.count(*mark) == 0)
    }

    /// Every mark, how often it was reached, and what it means: the coverage of the runs.
    #[must_use]
    pub fn table(&self) -> String {
        let row = |mark: &Mark| {
            let reason = UNREACHED.iter().find(|(other, _)| other == mark);
            let reason = reason.map_or(String::new(), |(_, why)| format!(" (not reached: {why})"));
            let (count, name) = (self.count(*mark), format!("{mark:?}"));
            format!("{count:>12}  {name:<26}  {}{reason}\n", mark.meaning())
        };
        Mark::ALL.iter().map(row).collect()
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reached = Mark::ALL.iter().filter(|mark| self.count(**mark) > 0).count();
        write!(f, " {reached} of {}", Mark::ALL.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_every_mark_and_tells_what_it_means() {
        let mut marks = Marks::default();
        marks.reach(Mark::BecameLeader);
        let table = marks.table();
        assert_eq!(table.lines().count(), Mark::ALL.len());
        assert!(table.contains("1  BecameLeader                A member came to lead."), "{table}");
        assert!(!marks.never().any(|mark| mark == Mark::BecameLeader));
        assert!(marks.never().any(|mark| mark == Mark::Deposed));
    }
}
