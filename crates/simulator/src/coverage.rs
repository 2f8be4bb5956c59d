//! Coverage: which mark each message, role, ending, entry and effect of the core is.
//!
//! Everything is matched without a wildcard, so that what is added to the core needs a mark before
//! it compiles. Not here: the marks (`mark`), and those which a workload or a fault sets itself.

use crate::cluster::World;
use crate::mark::{Mark, Marks};
use crate::network::Slot;
use consensus::{Body, Entry, Payload, Role};
use replica::{ApplierEffect, ApplierEvent, LogEvent, PeerMessage, Reply, RequestError};
use store::command::{Command, Envelope};
use store::reply::StoreError;

/// What was heard.
pub(crate) fn of_message(message: &PeerMessage) -> Mark {
    match message {
        PeerMessage::Consensus(message) => of_body(&message.body),
        PeerMessage::Heartbeats(heartbeats) => {
            heartbeats.beats.first().map_or(Mark::HeardHeartbeat, |beat| of_body(&beat.body))
        }
        PeerMessage::Propose { .. } => Mark::HeardPropose,
        PeerMessage::ProposeRefused { .. } => Mark::HeardProposeRefused,
        PeerMessage::ReadIndex { .. } => Mark::HeardReadIndex,
        PeerMessage::ReadIndexReply { index: Some(_), .. } => Mark::HeardReadIndexReply,
        PeerMessage::ReadIndexReply { index: None, .. } => Mark::HeardNoReadIndex,
        PeerMessage::StateHashes { .. } => Mark::HeardStateHashes,
        PeerMessage::MemberCondition { short_of_space: true } => Mark::HeardShortOfSpace,
        PeerMessage::MemberCondition { short_of_space: false } => Mark::HeardRoomy,
        PeerMessage::LearnersInSync { .. } => Mark::HeardLearnersInSync,
        PeerMessage::Removed => Mark::HeardRemoved,
    }
}

fn of_body(body: &Body) -> Mark {
    match body {
        Body::PreVote { .. } => Mark::HeardPreVote,
        Body::PreVoteReply { granted: true } => Mark::HeardPreVoteGranted,
        Body::PreVoteReply { granted: false } => Mark::HeardPreVoteRefused,
        Body::Vote { transfer: false, .. } => Mark::HeardVote,
        Body::Vote { transfer: true, .. } => Mark::HeardTransferVote,
        Body::VoteReply { granted: true } => Mark::HeardVoteGiven,
        Body::VoteReply { granted: false } => Mark::HeardVoteRefused,
        Body::Append { entries, .. } if entries.is_empty() => Mark::HeardProbe,
        Body::Append { .. } => Mark::HeardEntries,
        Body::AppendOk { .. } => Mark::HeardAppendOk,
        Body::AppendHeld { .. } => Mark::HeardAppendHeld,
        Body::AppendConflict { .. } => Mark::HeardAppendConflict,
        Body::Heartbeat { .. } => Mark::HeardHeartbeat,
        Body::HeartbeatReply { .. } => Mark::HeardHeartbeatReply,
        Body::Returned { .. } => Mark::HeardReturned,
        Body::ReturnHeard { .. } => Mark::HeardReturnHeard,
        Body::SnapshotChunk { done: false, .. } => Mark::HeardSnapshotChunk,
        Body::SnapshotChunk { done: true, .. } => Mark::HeardSnapshotEnd,
        Body::SnapshotAck { .. } => Mark::HeardSnapshotAck,
        Body::TimeoutNow => Mark::HeardTimeoutNow,
    }
}

/// How a request ended.
pub(crate) fn of_ending(result: &Result<Reply, RequestError>) -> Option<Mark> {
    Some(match result {
        Ok(Reply::Written(_)) => Mark::Written,
        Ok(Reply::ReadReady) => Mark::ReadReleased,
        Ok(Reply::LeadershipTransferred) => Mark::HandedOver,
        Ok(Reply::Status(_)) => return None,
        Err(error) => match error {
            RequestError::Refused(refused) => return of_refusal(refused),
            RequestError::Overloaded => Mark::Overloaded,
            RequestError::NoSpace => Mark::NoSpace,
            RequestError::NotCapable => Mark::NotCapable,
            RequestError::TimedOut => Mark::TimedOut,
            RequestError::OutcomeUnknown => Mark::OutcomeOvertaken,
            RequestError::NotLeader => Mark::NotLeaderToHandOver,
            // Said by the host when it stops, and to who names a member that is none: neither
            // happens here.
            RequestError::Stopping | RequestError::BadLeaderTransferee => return None,
        },
    })
}

fn of_refusal(refused: &StoreError) -> Option<Mark> {
    Some(match refused {
        StoreError::Compacted { .. } => Mark::RevisionCompacted,
        StoreError::FutureRevision { .. } => Mark::RevisionInFuture,
        StoreError::LeaseNotFound => Mark::LeaseMissing,
        StoreError::LeaseExists => Mark::LeaseThere,
        StoreError::SessionExpired => Mark::SessionGaveWay,
        StoreError::Membership(_) => Mark::MembershipRefused,
        StoreError::Auth(_) => Mark::AuthRefused,
        // Nobody here asks so.
        StoreError::KeyNotFound | StoreError::WrongGroup | StoreError::ForeignDirectory => {
            return None;
        }
    })
}

/// What became durable on a quorum.
fn of_entry(entry: &Entry) -> Option<Mark> {
    Some(match &entry.payload {
        Payload::Barrier => Mark::CommittedBarrier,
        Payload::Membership(membership) if membership.is_joint() => Mark::CommittedJointMembership,
        Payload::Membership(_) => Mark::CommittedMembership,
        Payload::Command(command) => of_command(&Envelope::decode(command.clone()).ok()?.command),
    })
}

fn of_command(command: &Command) -> Mark {
    match command {
        Command::OpenSession => Mark::CommittedSession,
        Command::Put(_) => Mark::CommittedPut,
        Command::DeleteRange(_) => Mark::CommittedDelete,
        Command::Txn(_) => Mark::CommittedTxn,
        Command::Compact { .. } => Mark::CommittedCompaction,
        Command::LeaseTick { .. } => Mark::CommittedLeaseTick,
        Command::LeaseGrant { .. } => Mark::CommittedLeaseGrant,
        Command::LeaseRevoke { .. } => Mark::CommittedLeaseRevoke,
        Command::LeaseRenew { .. } => Mark::CommittedLeaseRenew,
        Command::Auth(_) => Mark::CommittedAuth,
        Command::RegisterMember(_) => Mark::CommittedRegistration,
        Command::RaiseFeatureLevel { .. } => Mark::CommittedLevel,
        Command::Membership(_) => Mark::CommittedMemberTable,
    }
}

/// What the applier is told.
pub(crate) fn of_applier_event(event: &ApplierEvent) -> Option<Mark> {
    Some(match event {
        ApplierEvent::ReadSnapshot { position: None, .. } => Mark::SnapshotBegun,
        ApplierEvent::ReadSnapshot { position: Some(_), .. } => Mark::SnapshotContinued,
        ApplierEvent::WriteSnapshot { .. } => Mark::SnapshotPartWritten,
        ApplierEvent::Forget { .. } => Mark::ExpectationDropped,
        ApplierEvent::ForgetReads { .. } => Mark::ReadExpired,
        ApplierEvent::FlushSoon => Mark::FlushAskedFor,
        ApplierEvent::Flushed => Mark::EngineFlushed,
        ApplierEvent::Idle => Mark::BackgroundWork,
        // Each entry has a mark of its own; the others come with every request.
        ApplierEvent::Apply { .. }
        | ApplierEvent::Expect { .. }
        | ApplierEvent::AwaitApplied { .. } => return None,
    })
}

/// What the applier says.
pub(crate) fn of_applier_effect(effect: &ApplierEffect) -> Option<Mark> {
    Some(match effect {
        ApplierEffect::Log(event) => return of_told_log(event),
        ApplierEffect::Reply { result, .. } => return of_ending(result),
        ApplierEffect::WatchReset { .. } => Mark::WatchReset,
        ApplierEffect::Watch { .. }
        | ApplierEffect::Accounts { .. }
        | ApplierEffect::Compacted { .. }
        | ApplierEffect::Flush
        | ApplierEffect::WantsIdle
        | ApplierEffect::Fatal(_) => return None,
    })
}

fn of_told_log(event: &LogEvent) -> Option<Mark> {
    Some(match event {
        LogEvent::Session { open: false, .. } => Mark::SessionGaveWay,
        LogEvent::SnapshotRead { .. } => Mark::SnapshotAsked,
        LogEvent::SnapshotWritten { done: true, .. } => Mark::SnapshotInstalled,
        LogEvent::SnapshotRefused { .. } => Mark::SnapshotRefused,
        _ => return None,
    })
}

impl Marks {
    /// These entries are committed.
    pub(crate) fn committed(&mut self, entries: &[Entry]) {
        entries.iter().filter_map(of_entry).for_each(|mark| self.reach(mark));
    }

    /// A mark, if there is one.
    pub(crate) fn reach_some(&mut self, mark: Option<Mark>) {
        mark.into_iter().for_each(|mark| self.reach(mark));
    }
}

impl World {
    /// A member's role is another than it was.
    pub(crate) fn mark_role(&mut self, slot: Slot, group: clocks::GroupId, role: Role) {
        let before = self.process(slot).roles.insert(group, role).unwrap_or(Role::Follower);
        self.marks.reach(match role {
            Role::Follower => Mark::BecameFollower,
            Role::PreCandidate => Mark::BecamePreCandidate,
            Role::Candidate => Mark::BecameCandidate,
            Role::Leader => Mark::BecameLeader,
        });
        match (before, role) {
            (Role::Leader, Role::Follower) => self.marks.reach(Mark::Deposed),
            (Role::PreCandidate | Role::Candidate, Role::Follower) => {
                self.marks.reach(Mark::CandidacyGivenUp);
            }
            _ => {}
        }
    }
}
