//! Messages of any content, in any order, at any time, never panic a member, and never make it
//! break its own invariants.

use crate::host::{Host, messages};
use bytes::Bytes;
use clocks::{GroupId, LogPosition, Monotonic, NodeId, Term};
use consensus::{
    Body, Config, Effect, Entry, Membership, MembershipChange, Message, Payload, ReadToken,
    SnapshotRead,
};
use proptest::prelude::*;
use std::time::Duration;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..8_u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn position() -> impl Strategy<Value = LogPosition> {
    prop_oneof![
        8 => (1..4_u64, 1..8_u64).prop_map(|(term, index)| LogPosition::new(Term(term), index)),
        1 => (number(), number()).prop_map(|(term, index)| LogPosition::new(Term(term), index)),
        1 => Just(LogPosition::ZERO),
    ]
}

fn members() -> impl Strategy<Value = Membership> {
    let nodes = || prop::collection::btree_set((1..5_u64).prop_map(NodeId), 0..4);
    (nodes(), nodes(), nodes()).prop_map(|(voters, outgoing, learners)| Membership {
        voters,
        outgoing,
        learners,
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Barrier),
        Just(Payload::Command(Bytes::from_static(b"x"))),
        members().prop_map(Payload::Membership),
    ]
}

/// Mostly what a leader might send: consecutive, and terms that do not fall.
fn append() -> impl Strategy<Value = Body> {
    let step = prop_oneof![9 => Just((1_u64, 0_u64)), 1 => (0..3_u64, 0..2_u64)];
    let steps = prop::collection::vec((step, payload()), 0..5);
    (position(), steps, number()).prop_map(|(previous, steps, committed)| {
        let mut at = previous;
        let entries = steps
            .into_iter()
            .map(|((index, term), payload)| {
                at.index = at.index.wrapping_add(index);
                at.term = Term(at.term.0.wrapping_add(term));
                Entry { position: at, payload }
            })
            .collect();
        Body::Append { previous, entries, committed }
    })
}

fn heartbeat() -> impl Strategy<Value = Body> {
    let lease = (0..400_u64).prop_map(Duration::from_millis);
    (number(), number(), lease).prop_map(|(round, committed, lease)| Body::Heartbeat {
        round,
        committed,
        lease,
    })
}

fn conflict() -> impl Strategy<Value = Body> {
    (position(), position()).prop_map(|(refused, hint)| Body::AppendConflict { refused, hint })
}

fn return_heard() -> impl Strategy<Value = Body> {
    (number(), position()).prop_map(|(nonce, position)| Body::ReturnHeard { nonce, position })
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        1 => position().prop_map(|last| Body::PreVote { last }),
        1 => any::<bool>().prop_map(|granted| Body::PreVoteReply { granted }),
        1 => (position(), any::<bool>()).prop_map(|(last, transfer)| Body::Vote { last, transfer }),
        1 => any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
        4 => append(),
        1 => position().prop_map(|matched| Body::AppendOk { matched }),
        1 => position().prop_map(|matched| Body::AppendHeld { matched }),
        1 => conflict(),
        1 => heartbeat(),
        1 => number().prop_map(|round| Body::HeartbeatReply { round }),
        1 => number().prop_map(|nonce| Body::Returned { nonce }),
        1 => return_heard(),
        2 => (position(), members(), 0..3_u64, any::<bool>()).prop_map(
            |(position, membership, chunk, done)| {
                let data = Bytes::new();
                Body::SnapshotChunk { position, membership, chunk, data, done }
            }
        ),
        1 => (position(), number())
            .prop_map(|(position, next)| Body::SnapshotAck { position, next }),
        1 => Just(Body::TimeoutNow),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Hear { from: u64, term: u64, body: Body },
    Pass(u64),
    Write,
    Answer,
    Propose,
    Read,
    Change(Membership),
    Transfer(u64),
    Connect(u64),
    Disconnect(u64),
    Compact,
    Restart { survivors: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let term = prop_oneof![20 => 0..6_u64, 1 => any::<u64>()];
    prop_oneof![
        20 => (0..6_u64, term, body())
            .prop_map(|(from, term, body)| Step::Hear { from, term, body }),
        3 => (0..1500_u64).prop_map(Step::Pass),
        8 => Just(Step::Write),
        3 => Just(Step::Answer),
        2 => Just(Step::Propose),
        1 => Just(Step::Read),
        1 => members().prop_map(Step::Change),
        1 => (0..5_u64).prop_map(Step::Transfer),
        1 => (0..5_u64).prop_map(Step::Connect),
        1 => (0..5_u64).prop_map(Step::Disconnect),
        1 => Just(Step::Compact),
        1 => (0..4_usize).prop_map(|survivors| Step::Restart { survivors }),
    ]
}

struct Target {
    host: Host,
    now: Monotonic,
    unanswered: Vec<Effect>,
    reads: u64,
}

impl Target {
    fn take(&mut self, step: Step) {
        let Target { host, now, .. } = self;
        match step {
            Step::Hear { from, term, body } => {
                let (from, to, group) = (NodeId(from), NodeId(1), GroupId(0));
                let message = Message { group, from, to, term: Term(term), body };
                host.raft.handle_message(*now, message);
            }
            Step::Pass(millis) => {
                *now = now.after(Duration::from_millis(millis));
                host.raft.handle_deadline(*now);
            }
            Step::Write => {
                host.complete_write(*now);
            }
            Step::Answer => self.answer(),
            Step::Propose => {
                let _ = host.raft.propose(*now, vec![Bytes::from_static(b"command")]);
            }
            Step::Read => {
                self.reads += 1;
                let _ = host.raft.read_index(*now, ReadToken(self.reads));
            }
            Step::Change(Membership { voters, learners, .. }) => {
                let _ = host.raft.propose_membership(*now, MembershipChange { voters, learners });
            }
            Step::Transfer(to) => {
                let _ = host.raft.transfer_leadership(*now, NodeId(to));
            }
            Step::Connect(peer) => host.raft.handle_peer_connected(*now, NodeId(peer)),
            Step::Disconnect(peer) => host.raft.handle_peer_disconnected(*now, NodeId(peer)),
            Step::Compact => {
                host.flushed = host.applied.clone();
                host.raft.compact_log(host.flushed.position);
            }
            Step::Restart { survivors } => {
                host.restart(*now, 3, survivors);
                self.unanswered.clear();
            }
        }
        let effects = self.host.flush(self.now);
        self.host.apply(100);
        self.unanswered.extend(messages(effects).1);
    }

    fn answer(&mut self) {
        let Target { host, now, .. } = self;
        for effect in std::mem::take(&mut self.unanswered) {
            match effect {
                Effect::ReadLog { peer, from, max_bytes } => {
                    let entries = host.read_log(from, max_bytes);
                    host.raft.handle_log_read(*now, peer, entries);
                }
                Effect::ReadSnapshot { peer, position, chunk } => {
                    let read: SnapshotRead = host.read_snapshot(peer, position, chunk);
                    host.raft.handle_snapshot_read(*now, peer, read);
                }
                Effect::WriteSnapshot { position, membership, chunk, done, .. } => {
                    host.write_snapshot(position, membership.clone(), done);
                    host.raft.handle_snapshot_written(*now, position, membership, chunk, done);
                }
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_message_breaks_a_member(steps in prop::collection::vec(step(), 1..120)) {
        let mut config = Config::new(NodeId(1), GroupId(0));
        config.cache_bytes = 150;
        config.max_inflight_messages = 2;
        let founders = Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
        let now = Monotonic(0);
        let host = Host::new(config, founders, now, 1);
        let mut target = Target { host, now, unanswered: Vec::new(), reads: 0 };
        for step in steps {
            target.take(step);
        }
    }
}
