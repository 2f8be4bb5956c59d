//! The classic mistakes of Raft implementations, one test each, against a single member.

use crate::host::{Host, messages};
use bytes::Bytes;
use clocks::{GroupId, LogPosition, Monotonic, NodeId, Term};
use consensus::{
    Body, Config, Effect, Entry, LeaseMode, Membership, MembershipChange, MembershipError, Message,
    Payload, ProgressState, ReadToken, Role,
};
use std::collections::BTreeSet;
use std::time::Duration;

const LEASE: Duration = Duration::from_millis(200);

fn position(index: u64, term: u64) -> LogPosition {
    LogPosition::new(Term(term), index)
}

fn entry(index: u64, term: u64) -> Entry {
    let payload = Payload::Command(Bytes::from(format!("{index}@{term}")));
    Entry { position: position(index, term), payload }
}

fn append(previous: LogPosition, entries: Vec<Entry>, committed: u64) -> Body {
    Body::Append { previous, entries, committed }
}

/// Member 1 of a group, and the time.
struct Lone {
    host: Host,
    now: Monotonic,
}

impl Lone {
    fn of(voters: u64) -> Lone {
        Lone::with(Config { lease: LeaseMode::Off, ..Config::new(NodeId(1), GroupId(0)) }, voters)
    }

    fn with(config: Config, voters: u64) -> Lone {
        let founders = Membership::of_voters((1..=voters).map(NodeId));
        let now = Monotonic(0);
        Lone { host: Host::new(config, founders, now, 7), now }
    }

    /// Leads in term 1, its first entry committed by 2.
    fn leader(voters: u64) -> Lone {
        Lone::candidate(voters).elected(voters)
    }

    fn elected(self, voters: u64) -> Lone {
        let mut lone = self;
        for voter in 2..=voters {
            lone.hear(voter, 1, Body::VoteReply { granted: true });
        }
        assert_eq!(lone.host.raft.role(), Role::Leader);
        lone.sync();
        for voter in 2..=voters {
            lone.hear(voter, 1, Body::AppendOk { matched: position(1, 1) });
        }
        assert_eq!(lone.host.raft.committed(), 1);
        lone
    }

    /// Campaigns in term 1, its own vote durable.
    fn candidate(voters: u64) -> Lone {
        Lone::of(voters).campaigning(voters)
    }

    fn campaigning(self, voters: u64) -> Lone {
        let mut lone = self;
        lone.now = lone.host.raft.deadline().expect("an election timeout");
        lone.pass(Duration::ZERO);
        for voter in 2..=voters {
            lone.hear(voter, 1, Body::PreVoteReply { granted: true });
        }
        lone.sync();
        let role = if voters > 1 { Role::Candidate } else { Role::Leader };
        assert_eq!(lone.host.raft.role(), role);
        lone
    }

    fn pass(&mut self, time: Duration) -> Vec<Message> {
        self.now = self.now.after(time);
        self.host.raft.handle_deadline(self.now);
        self.flush()
    }

    fn flush(&mut self) -> Vec<Message> {
        messages(self.host.flush(self.now)).0
    }

    fn hear(&mut self, from: u64, term: u64, body: Body) -> Vec<Message> {
        let (from, to, group) = (NodeId(from), NodeId(1), GroupId(0));
        let message = Message { group, from, to, term: Term(term), body };
        self.host.raft.handle_message(self.now, message);
        self.flush()
    }

    /// Completes every write.
    fn sync(&mut self) -> Vec<Message> {
        let mut said = Vec::new();
        while self.host.complete_write(self.now) {
            said.extend(self.flush());
        }
        said
    }

    fn propose(&mut self, text: &'static str) -> Vec<Message> {
        let command = vec![Bytes::from_static(text.as_bytes())];
        self.host.raft.propose(self.now, command).expect("it leads");
        self.flush()
    }
}

fn bodies(messages: &[Message]) -> Vec<&Body> {
    messages.iter().map(|message| &message.body).collect()
}

#[test]
fn election_timer_is_reset_by_heartbeats() {
    let mut lone = Lone::of(3);
    for round in 1..100 {
        let body = Body::Heartbeat { round, committed: 0, lease: Duration::ZERO };
        lone.hear(2, 1, body);
        lone.sync();
        lone.pass(Duration::from_millis(900));
        assert_eq!(lone.host.raft.role(), Role::Follower);
    }
    lone.pass(Duration::from_millis(1200));
    assert_eq!(lone.host.raft.role(), Role::PreCandidate);
}

#[test]
fn election_timer_is_reset_by_giving_a_vote() {
    let mut lone = Lone::of(3);
    let deadline = lone.host.raft.deadline().expect("an election timeout");
    lone.now = Monotonic(deadline.0 - 1);
    lone.hear(2, 1, Body::Vote { last: LogPosition::ZERO, transfer: false });
    lone.pass(Duration::from_millis(900));
    assert_eq!(lone.host.raft.role(), Role::Follower);
}

#[test]
fn wrong_previous_entry_is_refused() {
    let mut lone = Lone::of(3);
    lone.hear(2, 1, append(LogPosition::ZERO, vec![entry(1, 1), entry(2, 1)], 0));
    lone.sync();

    // The right index, another term.
    let said = lone.hear(3, 3, append(position(2, 2), vec![entry(3, 3)], 3));
    assert!(said.is_empty(), "term 3 is not durable yet");
    let said = lone.sync();
    let refusal = Body::AppendConflict { refused: position(2, 2), hint: position(2, 1) };
    assert_eq!(bodies(&said), [&refusal]);
    // Beyond the end.
    let said = lone.hear(3, 3, append(position(7, 3), vec![entry(8, 3)], 8));
    let refusal = Body::AppendConflict { refused: position(7, 3), hint: position(2, 1) };
    assert_eq!(bodies(&said), [&refusal]);
    assert_eq!(lone.host.raft.last_position(), position(2, 1));
    assert_eq!(lone.host.raft.committed(), 0, "nothing was verified");
}

#[test]
fn votes_of_an_older_term_are_not_counted() {
    let mut lone = Lone::candidate(3);
    lone.pass(Duration::from_millis(2100));
    for voter in [2, 3] {
        lone.hear(voter, 2, Body::PreVoteReply { granted: true });
    }
    lone.sync();
    assert_eq!((lone.host.raft.role(), lone.host.raft.term()), (Role::Candidate, Term(2)));
    for voter in [2, 3] {
        lone.hear(voter, 1, Body::VoteReply { granted: true });
    }
    assert_eq!(lone.host.raft.role(), Role::Candidate);
    lone.hear(2, 2, Body::VoteReply { granted: true });
    assert_eq!(lone.host.raft.role(), Role::Leader);
}

#[test]
fn a_shorter_or_older_log_gets_no_vote() {
    let voter = || {
        let mut lone = Lone::of(3);
        lone.hear(2, 2, append(LogPosition::ZERO, vec![entry(1, 1), entry(2, 2)], 0));
        lone.sync();
        lone
    };
    // Longer, but its last entry is older (Raft, section 5.4.1).
    for (last, granted) in [
        (position(1, 2), false),
        (position(9, 1), false),
        (position(2, 2), true),
        (position(1, 3), true),
    ] {
        let mut lone = voter();
        lone.pass(Duration::from_millis(250));
        lone.hear(3, 7, Body::Vote { last, transfer: false });
        assert_eq!(bodies(&lone.sync()), [&Body::VoteReply { granted }], "{last}");
        let said = lone.hear(3, 9, Body::PreVote { last });
        assert_eq!(bodies(&said), [&Body::PreVoteReply { granted }], "{last}");
    }
}

#[test]
fn a_follower_takes_the_mark_only_as_far_as_it_verified() {
    let mut lone = Lone::of(3);
    // 2..=5 are of a leader that did not last.
    let entries = (1..=5).map(|index| entry(index, 1)).collect();
    lone.hear(2, 1, append(LogPosition::ZERO, entries, 0));
    lone.sync();
    lone.hear(3, 2, append(position(1, 1), Vec::new(), 5));
    assert_eq!(lone.host.raft.committed(), 1);
    lone.hear(3, 2, append(position(1, 1), vec![entry(2, 2)], 5));
    assert_eq!(lone.host.raft.committed(), 2);
    assert_eq!(lone.host.raft.last_position(), position(2, 2));
    // Nor does a late, shorter append shorten the log.
    lone.hear(3, 2, append(position(2, 2), vec![entry(3, 2), entry(4, 2)], 2));
    lone.hear(3, 2, append(position(2, 2), vec![entry(3, 2)], 2));
    assert_eq!(lone.host.raft.last_position(), position(4, 2));
}

#[test]
fn one_voter_counts_once() {
    let mut lone = Lone::candidate(5);
    for _ in 0..5 {
        lone.hear(2, 1, Body::VoteReply { granted: true });
    }
    assert_eq!(lone.host.raft.role(), Role::Candidate);
    lone.hear(3, 1, Body::VoteReply { granted: true });
    assert_eq!(lone.host.raft.role(), Role::Leader);
}

#[test]
fn nothing_is_said_before_it_is_durable() {
    // A vote.
    let mut lone = Lone::of(3);
    let said = lone.hear(2, 1, Body::Vote { last: LogPosition::ZERO, transfer: false });
    assert!(said.is_empty());
    assert_eq!(bodies(&lone.sync()), [&Body::VoteReply { granted: true }]);
    // Entries.
    let said = lone.hear(2, 1, append(LogPosition::ZERO, vec![entry(1, 1)], 0));
    assert!(said.is_empty());
    assert_eq!(bodies(&lone.sync()), [&Body::AppendOk { matched: position(1, 1) }]);
    // A term that was only heard of.
    let body = Body::Heartbeat { round: 1, committed: 0, lease: Duration::ZERO };
    assert!(lone.hear(3, 5, body).is_empty());
    assert_eq!(bodies(&lone.sync()), [&Body::HeartbeatReply { round: 1 }]);
    // The own candidacy.
    lone.pass(Duration::from_millis(2100));
    let said = lone.hear(2, 6, Body::PreVoteReply { granted: true });
    assert!(said.is_empty());
    assert_eq!(lone.host.raft.role(), Role::Candidate);
    assert!(lone.sync().iter().all(|message| matches!(message.body, Body::Vote { .. })));
}

#[test]
fn a_vote_that_was_not_durable_is_not_counted() {
    let mut lone = Lone::of(3);
    lone.pass(Duration::from_millis(2100));
    lone.hear(2, 1, Body::PreVoteReply { granted: true });
    assert_eq!(lone.host.raft.role(), Role::Candidate);
    lone.hear(2, 1, Body::VoteReply { granted: true });
    assert_eq!(lone.host.raft.role(), Role::Candidate, "its own vote is on its way to the disk");
    lone.sync();
    assert_eq!(lone.host.raft.role(), Role::Leader);
}

#[test]
fn an_older_term_is_not_committed_by_counting() {
    let mut lone = Lone::of(3);
    lone.hear(2, 1, append(LogPosition::ZERO, vec![entry(1, 1)], 0));
    lone.sync();
    lone.pass(Duration::from_millis(2100));
    lone.hear(3, 2, Body::PreVoteReply { granted: true });
    lone.sync();
    lone.hear(3, 2, Body::VoteReply { granted: true });
    lone.sync();
    assert_eq!(lone.host.raft.role(), Role::Leader);

    for voter in [2, 3] {
        lone.hear(voter, 2, Body::AppendOk { matched: position(1, 1) });
    }
    assert_eq!(lone.host.raft.committed(), 0, "all three hold it, and it is of term 1");
    lone.hear(3, 2, Body::AppendOk { matched: position(2, 2) });
    assert_eq!(lone.host.raft.committed(), 2);
}

#[test]
fn append_aba_race_with_asynchronous_writes() {
    let mut lone = Lone::of(3);
    lone.hear(2, 1, append(LogPosition::ZERO, vec![entry(1, 1)], 1));
    lone.sync();
    // A: 2@1. B: 2@2. A again: 2@1, from the leader of term 3. Three writes are under way.
    lone.hear(2, 1, append(position(1, 1), vec![entry(2, 1)], 1));
    lone.hear(3, 2, append(position(1, 1), vec![entry(2, 2)], 1));
    lone.hear(2, 3, append(position(1, 1), vec![entry(2, 1), entry(3, 3)], 1));
    assert_eq!(lone.host.writing.len(), 3);
    for _ in 0..2 {
        lone.host.complete_write(lone.now);
        let said = lone.flush();
        assert!(said.is_empty(), "neither write holds the log that would be acknowledged");
        assert_eq!(lone.host.raft.durable(), 1);
    }
    lone.host.complete_write(lone.now);
    let said = lone.flush();
    assert_eq!(bodies(&said), [&Body::AppendOk { matched: position(3, 3) }]);
    assert_eq!(lone.host.raft.durable(), 3);
}

#[test]
fn writes_complete_in_any_order() {
    let mut lone = Lone::leader(1);
    lone.propose("a");
    lone.propose("b");
    let tokens: Vec<_> = lone.host.writing.iter().map(|write| write.token).collect();
    lone.host.raft.handle_persisted(lone.now, tokens[1]);
    lone.flush();
    assert_eq!(lone.host.raft.durable(), 1, "what comes before is not durable");
    lone.host.raft.handle_persisted(lone.now, tokens[0]);
    lone.flush();
    assert_eq!((lone.host.raft.durable(), lone.host.raft.committed()), (3, 3));
    // A second report of the same changes nothing.
    lone.host.raft.handle_persisted(lone.now, tokens[0]);
    lone.flush();
    assert_eq!(lone.host.raft.durable(), 3);
}

#[test]
fn a_leader_sends_before_its_own_write_completes() {
    let mut lone = Lone::leader(3);
    let said = lone.propose("a");
    assert_eq!(said.len(), 2, "to both followers, at once");
    assert_eq!(lone.host.writing.len(), 1);
    lone.hear(2, 1, Body::AppendOk { matched: position(2, 1) });
    assert_eq!(lone.host.raft.committed(), 1, "one other and an unfinished write are no quorum");
    lone.hear(3, 1, Body::AppendOk { matched: position(2, 1) });
    assert_eq!(lone.host.raft.committed(), 2, "two others are");
}

#[test]
fn reads_wait_for_the_first_commit_of_the_term() {
    let mut lone = Lone::candidate(3);
    lone.hear(2, 1, Body::VoteReply { granted: true });
    lone.host.raft.read_index(lone.now, ReadToken(1)).expect("it leads");
    lone.flush();
    for voter in [2, 3] {
        lone.hear(voter, 1, Body::HeartbeatReply { round: 1 });
    }
    lone.sync();
    lone.hear(2, 1, Body::AppendOk { matched: position(1, 1) });
    let message = |round| Message {
        group: GroupId(0),
        from: NodeId(2),
        to: NodeId(1),
        term: Term(1),
        body: Body::HeartbeatReply { round },
    };
    let answers = |lone: &mut Lone, round| {
        lone.host.raft.handle_message(lone.now, message(round));
        lone.host.flush(lone.now)
    };
    assert!(answers(&mut lone, 1).is_empty(), "round 1 began before that commit");
    let ready = Effect::ReadReady { token: ReadToken(1), index: 1 };
    assert_eq!(answers(&mut lone, 2), [ready]);
}

#[test]
fn membership_changes_need_a_commit_of_the_own_term_and_are_joint() {
    let change = |voters: &[u64]| MembershipChange {
        voters: voters.iter().copied().map(NodeId).collect(),
        learners: BTreeSet::new(),
    };
    let mut lone = Lone::candidate(4);
    for voter in [2, 3] {
        lone.hear(voter, 1, Body::VoteReply { granted: true });
    }
    let raft = &mut lone.host.raft;
    let early = raft.propose_membership(lone.now, change(&[1, 2, 3, 4, 5]));
    assert_eq!(early, Err(MembershipError::NotReady));

    let mut lone = Lone::leader(4);
    let raft = &mut lone.host.raft;
    raft.propose_membership(lone.now, change(&[1, 2, 3, 4, 5])).expect("now it may");
    assert!(raft.membership().is_joint(), "even to add a single voter");
    let second = raft.propose_membership(lone.now, change(&[1, 2, 3]));
    assert_eq!(second, Err(MembershipError::InProgress));
}

#[test]
fn a_removed_member_is_refused_while_the_leader_is_heard() {
    let mut lone = Lone::of(3);
    let body = Body::Heartbeat { round: 1, committed: 0, lease: Duration::ZERO };
    lone.hear(2, 1, body);
    lone.sync();
    let said = lone.hear(3, 9, Body::PreVote { last: position(9, 8) });
    assert_eq!(bodies(&said), [&Body::PreVoteReply { granted: false }]);
    assert_eq!(said[0].term, Term(1), "the asker's term is not taken over");
    assert_eq!(lone.host.raft.leader(), Some(NodeId(2)));
    // Unless the leader's connection closes.
    lone.host.raft.handle_peer_disconnected(lone.now, NodeId(2));
    let said = lone.hear(3, 9, Body::PreVote { last: position(9, 8) });
    assert_eq!(bodies(&said), [&Body::PreVoteReply { granted: true }]);
}

#[test]
fn a_snapshot_is_not_installed_over_newer_state() {
    let mut lone = Lone::of(3);
    let entries = (1..=5).map(|index| entry(index, 1)).collect();
    lone.hear(2, 1, append(LogPosition::ZERO, entries, 5));
    lone.sync();
    let body = Body::SnapshotChunk {
        position: position(4, 1),
        membership: Membership::of_voters([NodeId(2)]),
        chunk: 0,
        data: Bytes::new(),
        done: true,
    };
    let said = lone.hear(2, 1, body);
    assert_eq!(bodies(&said), [&Body::AppendOk { matched: position(5, 1) }]);
    assert_eq!(lone.host.raft.first_index(), 1);
}

#[test]
fn a_snapshot_that_the_leader_begins_anew_is_begun_anew() {
    let mut lone = Lone::of(3);
    let members = Membership::of_voters((1..=3).map(NodeId));
    let at = position(9, 1);
    lone.hear(2, 1, Body::Heartbeat { round: 1, committed: 0, lease: Duration::ZERO });
    lone.sync();
    let chunk = |lone: &mut Lone, chunk: u64| {
        let (membership, data) = (members.clone(), Bytes::from_static(b"state"));
        let body = Body::SnapshotChunk { position: at, membership, chunk, data, done: false };
        let (from, to, group) = (NodeId(2), NodeId(1), GroupId(0));
        lone.host.raft.handle_message(lone.now, Message { group, from, to, term: Term(1), body });
        let (_, effects) = messages(lone.host.flush(lone.now));
        let written = |effect: &Effect| match effect {
            Effect::WriteSnapshot { chunk, .. } => Some(*chunk),
            _ => None,
        };
        let written = effects.iter().find_map(written);
        if let Some(chunk) = written {
            let raft = &mut lone.host.raft;
            raft.handle_snapshot_written(lone.now, at, members.clone(), chunk, false);
        }
        written
    };
    assert_eq!(chunk(&mut lone, 0), Some(0));
    assert_eq!(chunk(&mut lone, 1), Some(1));
    assert_eq!(chunk(&mut lone, 0), None, "once may be a late copy");
    assert_eq!(chunk(&mut lone, 2), Some(2));
    assert_eq!(chunk(&mut lone, 0), None);
    assert_eq!(chunk(&mut lone, 0), Some(0), "twice means that it cannot go on");
    assert_eq!(chunk(&mut lone, 1), Some(1));
}

#[test]
fn a_follower_that_lost_its_log_is_not_probed_for_ever() {
    let mut lone = Lone::leader(3);
    lone.propose("a");
    lone.sync();
    lone.hear(3, 1, Body::AppendOk { matched: position(2, 1) });
    // 3 held all that, and now says that it has nothing.
    let said = lone.propose("b");
    assert_eq!(said.len(), 2);
    let refusal = Body::AppendConflict { refused: position(2, 1), hint: LogPosition::ZERO };
    let said = lone.hear(3, 1, refusal);
    let Body::Append { previous, entries, .. } = &said[0].body else { panic!("an append") };
    assert_eq!((*previous, entries.len()), (LogPosition::ZERO, 3));
    lone.hear(3, 1, Body::AppendHeld { matched: position(3, 1) });
    let progress = lone.host.raft.progress();
    assert_eq!((progress[1].state, progress[1].matched), (ProgressState::Replicate, 3));
}

#[test]
fn a_log_cut_at_the_entry_that_was_being_read_is_not_continued_there() {
    let base = Config::new(NodeId(1), GroupId(0));
    let config = Config { lease: LeaseMode::Off, cache_bytes: 1, ..base };
    let mut lone = Lone::with(config, 3).campaigning(3).elected(3);
    lone.propose("a");
    lone.propose("b");
    lone.sync();
    lone.hear(2, 1, Body::AppendOk { matched: position(3, 1) });
    lone.host.apply(usize::MAX);
    // Member 3 has lost its log: what follows its first entry is no longer in the cache.
    let refused = Body::AppendConflict { refused: position(3, 1), hint: position(1, 1) };
    let message =
        Message { group: GroupId(0), from: NodeId(3), to: NodeId(1), term: Term(1), body: refused };
    lone.host.raft.handle_message(lone.now, message);
    let (_, effects) = messages(lone.host.flush(lone.now));
    assert!(matches!(effects[..], [Effect::ReadLog { from: 2, .. }]), "{effects:?}");
    let entries = lone.host.read_log(2, usize::MAX);
    lone.host.raft.compact_log(position(2, 1));
    lone.host.raft.handle_log_read(lone.now, NodeId(3), entries);
    let (said, effects) = messages(lone.host.flush(lone.now));
    assert!(said.is_empty(), "{said:?}");
    assert!(matches!(effects[..], [Effect::ReadSnapshot { chunk: 0, .. }]), "{effects:?}");
}

#[test]
fn a_damaged_follower_does_not_count() {
    let mut lone = Lone::leader(3);
    lone.propose("a");
    lone.sync();
    let held = Body::AppendHeld { matched: position(2, 1) };
    lone.hear(3, 1, held);
    assert_eq!(lone.host.raft.committed(), 1);
    lone.hear(2, 1, Body::AppendOk { matched: position(2, 1) });
    assert_eq!(lone.host.raft.committed(), 2);
}

#[test]
fn late_and_repeated_answers_change_nothing() {
    let mut lone = Lone::leader(3);
    lone.propose("a");
    lone.sync();
    for _ in 0..3 {
        lone.hear(2, 1, Body::AppendOk { matched: position(2, 1) });
        lone.hear(2, 1, Body::AppendOk { matched: position(1, 1) });
        let late = Body::AppendConflict { refused: position(1, 1), hint: LogPosition::ZERO };
        lone.hear(2, 1, late);
        lone.hear(2, 1, Body::AppendOk { matched: position(2, 1) });
        assert_eq!(lone.host.raft.committed(), 2);
    }
    let progress = lone.host.raft.progress();
    assert_eq!((progress[0].matched, progress[0].next), (2, 3));
}

#[test]
fn a_transfer_vote_overrides_the_promise_for_the_next_term_only() {
    let promised = || {
        let mut lone = Lone::of(3);
        lone.hear(2, 4, Body::Heartbeat { round: 1, committed: 0, lease: LEASE });
        lone.sync();
        lone
    };
    let vote = |transfer| Body::Vote { last: LogPosition::ZERO, transfer };
    for (term, transfer, at_once) in [(5, true, true), (6, true, false), (5, false, false)] {
        let mut lone = promised();
        lone.hear(3, term, vote(transfer));
        let said = lone.sync();
        assert_eq!(said.len(), usize::from(at_once), "term {term}, transfer {transfer}");
        lone.pass(Duration::from_millis(199));
        assert_eq!(lone.sync().len(), 0);
        lone.pass(Duration::from_millis(1));
        assert_eq!(lone.sync().len(), usize::from(!at_once), "it waited, and was not refused");
        assert_eq!(lone.host.raft.term(), Term(term));
    }
}

#[test]
fn the_promise_binds_the_giver_too() {
    let mut lone = Lone::of(3);
    lone.hear(2, 1, Body::Heartbeat { round: 1, committed: 0, lease: LEASE });
    lone.sync();
    lone.host.raft.handle_peer_disconnected(lone.now, NodeId(2));
    lone.pass(Duration::from_millis(50));
    assert_eq!(lone.host.raft.role(), Role::PreCandidate);
    lone.hear(3, 2, Body::PreVoteReply { granted: true });
    lone.pass(Duration::from_millis(149));
    assert_eq!(lone.host.raft.role(), Role::PreCandidate);
    lone.pass(Duration::from_millis(1));
    assert_eq!(lone.host.raft.role(), Role::Candidate);
}

#[test]
fn a_promise_longer_than_a_restart_would_renew_is_not_given() {
    let mut lone = Lone::of(3);
    let body = Body::Heartbeat { round: 1, committed: 0, lease: LEASE * 2 };
    lone.hear(2, 1, body);
    assert!(lone.sync().is_empty());
    assert_eq!(lone.host.raft.leader(), Some(NodeId(2)), "it follows all the same");
}

#[test]
fn proposals_are_refused_beyond_the_limit() {
    let mut lone = Lone::of(1);
    lone.host.config.max_uncommitted_bytes = 200;
    let config = lone.host.config.clone();
    let founders = Membership::of_voters([NodeId(1)]);
    lone.host = Host::new(config, founders, lone.now, 1);
    lone.pass(Duration::ZERO);
    lone.sync();
    let command = || vec![Bytes::from(vec![0; 68])];
    for _ in 0..2 {
        lone.host.raft.propose(lone.now, command()).expect("there is room");
    }
    lone.flush();
    assert!(lone.host.raft.propose(lone.now, command()).is_err());
    lone.sync();
    lone.host.raft.propose(lone.now, command()).expect("there is room again");
    // One that is larger than the limit goes alone.
    lone.flush();
    lone.sync();
    let large = vec![Bytes::from(vec![0; 1000])];
    lone.host.raft.propose(lone.now, large).expect("nothing else is uncommitted");
}
