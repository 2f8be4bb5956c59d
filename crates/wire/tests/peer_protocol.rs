//! The peer protocol against its golden bytes, against itself and against hostile bytes.

use bytes::{Bytes, BytesMut};
use clocks::{GroupId, LogPosition, NodeId, Term};
use consensus::{Beat, Body, Entry, Membership, Message, Payload, PeerHeartbeats};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use replica::PeerMessage;
use std::fmt::Write;
use std::time::Duration;
use wire::peer::{
    DecodeError, Frame, Hello, PROTOCOL_VERSION, Refusal, RefusalReason, decode_frame,
    decode_message, encode_message,
};

fn position(term: u64, index: u64) -> LogPosition {
    LogPosition::new(Term(term), index)
}

fn message(body: Body) -> Message {
    Message { group: GroupId(1), from: NodeId(2), to: NodeId(3), term: Term(4), body }
}

fn framed(message: &PeerMessage) -> BytesMut {
    let mut out = BytesMut::new();
    encode_message(&mut out, message);
    out
}

fn joint_membership() -> Membership {
    Membership {
        voters: [NodeId(1), NodeId(2)].into(),
        outgoing: [NodeId(3)].into(),
        learners: [NodeId(4)].into(),
    }
}

/// One of every kind, body and payload, by name.
fn samples() -> Vec<(&'static str, PeerMessage)> {
    let entries = vec![
        Entry { position: position(4, 8), payload: Payload::Barrier },
        Entry { position: position(4, 9), payload: Payload::Command(Bytes::from("command")) },
        Entry { position: position(4, 10), payload: Payload::Membership(joint_membership()) },
    ];
    let snapshot_chunk = Body::SnapshotChunk {
        position: position(4, 9),
        membership: Membership::of_voters([NodeId(1)]),
        chunk: 5,
        data: Bytes::from("state"),
        done: true,
    };
    let lease = Duration::from_millis(200);
    let (refused, hint) = (position(3, 7), position(2, 6));
    [
        ("pre_vote", Body::PreVote { last: position(3, 7) }),
        ("pre_vote_reply", Body::PreVoteReply { granted: true }),
        ("vote", Body::Vote { last: position(3, 7), transfer: true }),
        ("vote_reply", Body::VoteReply { granted: false }),
        ("append", Body::Append { previous: position(3, 7), entries, committed: 6 }),
        ("append_ok", Body::AppendOk { matched: position(4, 10) }),
        ("append_conflict", Body::AppendConflict { refused, hint }),
        ("heartbeat", Body::Heartbeat { round: 12, committed: 6, lease }),
        ("heartbeat_reply", Body::HeartbeatReply { round: 12 }),
        ("snapshot_chunk", snapshot_chunk),
        ("snapshot_ack", Body::SnapshotAck { position: position(4, 9), next: 6 }),
        ("timeout_now", Body::TimeoutNow),
        ("append_held", Body::AppendHeld { matched: position(4, 10) }),
        ("returned", Body::Returned { nonce: 13 }),
        ("return_heard", Body::ReturnHeard { nonce: 13, position: position(4, 11) }),
    ]
    .map(|(name, body)| (name, PeerMessage::Consensus(message(body))))
    .into_iter()
    .chain(replica_samples())
    .collect()
}

fn replica_samples() -> Vec<(&'static str, PeerMessage)> {
    let group = GroupId(1);
    let lease = Duration::from_millis(200);
    let beats =
        [Body::Heartbeat { round: 12, committed: 6, lease }, Body::HeartbeatReply { round: 11 }]
            .map(|body| Beat { group, term: Term(4), body })
            .to_vec();
    let heartbeats = PeerHeartbeats { from: NodeId(2), to: NodeId(3), beats };
    let commands = vec![Bytes::from("one"), Bytes::new()];
    let (term, learners) = (Term(4), vec![NodeId(5)]);
    vec![
        ("heartbeats", PeerMessage::Heartbeats(heartbeats)),
        ("propose", PeerMessage::Propose { group, commands }),
        ("propose_refused", PeerMessage::ProposeRefused { group, term: Term(4) }),
        ("read_index", PeerMessage::ReadIndex { group, round: 7 }),
        ("read_at", PeerMessage::ReadIndexReply { group, round: 7, index: Some(9) }),
        ("read_elsewhere", PeerMessage::ReadIndexReply { group, round: 7, index: None }),
        ("state_hashes", PeerMessage::StateHashes { group, hashes: vec![(1024, 5), (2048, 6)] }),
        ("member_condition", PeerMessage::MemberCondition { short_of_space: true }),
        ("learners_in_sync", PeerMessage::LearnersInSync { group, term, learners }),
        ("removed", PeerMessage::Removed),
    ]
}

#[test]
fn version_1_is_written_and_read_as_its_golden_bytes_say() {
    let golden = include_str!("golden/peer_v1.txt");
    let mut written = String::new();
    for (name, message) in samples() {
        let frame = framed(&message);
        writeln!(written, "{name} {}", hex(&frame)).unwrap();
    }
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        cluster_id: 0xc1,
        sender: NodeId(2),
        receiver: NodeId(3),
        feature_level: 1,
        directory_id: 0xd1,
    };
    let mut frame = BytesMut::new();
    hello.encode(&mut frame);
    writeln!(written, "hello {}", hex(&frame)).unwrap();
    let refusal = Refusal { reason: RefusalReason::NotAMember, text: "removed".into() };
    let mut frame = BytesMut::new();
    refusal.encode(&mut frame);
    writeln!(written, "refusal {}", hex(&frame)).unwrap();
    assert_eq!(written, golden, "the bytes of a published version never change");

    let read = golden.lines().zip(samples()).map(|(line, (name, expected))| {
        let bytes = unhex(line.strip_prefix(name).unwrap().trim());
        let frame = decode_frame(&mut BytesMut::from(&bytes[..])).unwrap().unwrap();
        assert_eq!(decode_message(frame), Ok(expected), "{name}");
    });
    assert_eq!(read.count(), samples().len());
}

#[test]
fn a_command_is_a_slice_of_its_frame() {
    let (_, append) = &samples()[4];
    let frame = decode_frame(&mut framed(append)).unwrap().unwrap();
    let range = frame.payload.as_ptr_range();
    let Ok(PeerMessage::Consensus(message)) = decode_message(frame) else { unreachable!() };
    let Body::Append { entries, .. } = message.body else { unreachable!() };
    let Payload::Command(command) = &entries[1].payload else { unreachable!() };
    assert!(range.contains(&command.as_ptr()));
}

#[test]
fn a_message_cut_short_anywhere_is_an_error() {
    for (name, message) in samples() {
        let sound = decode_frame(&mut framed(&message)).unwrap().unwrap();
        for length in 0..sound.payload.len() {
            let payload = sound.payload.slice(..length);
            assert!(decode_message(Frame { payload, ..sound.clone() }).is_err(), "{name} {length}");
        }
    }
}

#[test]
fn bytes_after_a_message_are_an_error() {
    for (name, message) in samples() {
        let sound = decode_frame(&mut framed(&message)).unwrap().unwrap();
        let payload = Bytes::from([&sound.payload[..], &[0]].concat());
        let error = decode_message(Frame { payload, ..sound }).unwrap_err();
        assert_eq!(error, DecodeError::Trailing { bytes: 1 }, "{name}");
    }
}

#[test]
fn a_count_of_entries_beyond_what_follows_allocates_nothing() {
    let probe = Body::Append { previous: position(3, 7), entries: vec![], committed: 6 };
    let probe = PeerMessage::Consensus(message(probe));
    let sound = decode_frame(&mut framed(&probe)).unwrap().unwrap();
    let count = sound.payload.len() - 4;
    let with_count = |count_bytes: u32| {
        let payload = [&sound.payload[..count], &count_bytes.to_be_bytes()].concat();
        decode_message(Frame { payload: payload.into(), ..sound.clone() }).unwrap_err()
    };
    assert_eq!(with_count(1), DecodeError::Truncated { field: "the entries" });
    assert_eq!(with_count(u32::MAX), DecodeError::Invalid { field: "the entries" });
}

#[test]
fn an_entry_beyond_the_last_index_is_an_error() {
    let entries = vec![Entry { position: position(3, 8), payload: Payload::Barrier }];
    let append = Body::Append { previous: position(3, 7), entries, committed: 6 };
    let append = PeerMessage::Consensus(message(append));
    let sound = decode_frame(&mut framed(&append)).unwrap().unwrap();
    let mut payload = sound.payload.to_vec();
    // Group, sender, receiver, term, body and the previous entry's term come before its index.
    payload[4 + 8 + 8 + 8 + 1 + 8..][..8].fill(0xff);
    let error = decode_message(Frame { payload: payload.into(), ..sound }).unwrap_err();
    assert_eq!(error, DecodeError::Invalid { field: "an entry's index" });
}

fn any_position() -> impl Strategy<Value = LogPosition> {
    (any::<u64>(), any::<u32>()).prop_map(|(term, index)| position(term, u64::from(index)))
}

fn any_membership() -> impl Strategy<Value = Membership> {
    let members = || btree_set(any::<u64>().prop_map(NodeId), 0..4);
    (members(), members(), members()).prop_map(|(voters, outgoing, learners)| Membership {
        voters,
        outgoing,
        learners,
    })
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn any_payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Barrier),
        any_bytes().prop_map(Payload::Command),
        any_membership().prop_map(Payload::Membership),
    ]
}

fn any_append() -> impl Strategy<Value = Body> {
    let entries = vec((any::<u64>(), any_payload()), 0..5);
    (any_position(), entries, any::<u64>()).prop_map(|(previous, entries, committed)| {
        let numbered = (previous.index + 1..).zip(entries);
        let entries = numbered
            .map(|(index, (term, payload))| Entry { position: position(term, index), payload })
            .collect();
        Body::Append { previous, entries, committed }
    })
}

fn any_body() -> impl Strategy<Value = Body> {
    let lease = any::<u64>().prop_map(Duration::from_nanos);
    let chunk = (any_position(), any_membership(), any::<u64>(), any_bytes(), any::<bool>());
    prop_oneof![
        any_position().prop_map(|last| Body::PreVote { last }),
        any::<bool>().prop_map(|granted| Body::PreVoteReply { granted }),
        (any_position(), any::<bool>()).prop_map(|(last, transfer)| Body::Vote { last, transfer }),
        any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
        any_append(),
        any_position().prop_map(|matched| Body::AppendOk { matched }),
        (any_position(), any_position())
            .prop_map(|(refused, hint)| Body::AppendConflict { refused, hint }),
        (any::<u64>(), any::<u64>(), lease).prop_map(|(round, committed, lease)| Body::Heartbeat {
            round,
            committed,
            lease
        }),
        any::<u64>().prop_map(|round| Body::HeartbeatReply { round }),
        chunk.prop_map(|(position, membership, chunk, data, done)| Body::SnapshotChunk {
            position,
            membership,
            chunk,
            data,
            done
        }),
        (any_position(), any::<u64>())
            .prop_map(|(position, next)| Body::SnapshotAck { position, next }),
        Just(Body::TimeoutNow),
        any_position().prop_map(|matched| Body::AppendHeld { matched }),
        any::<u64>().prop_map(|nonce| Body::Returned { nonce }),
        (any::<u64>(), any_position())
            .prop_map(|(nonce, position)| Body::ReturnHeard { nonce, position }),
    ]
}

fn any_heartbeats() -> impl Strategy<Value = PeerMessage> {
    let body = prop_oneof![
        any::<u64>().prop_map(|round| Body::HeartbeatReply { round }),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(round, committed, nanos)| {
            Body::Heartbeat { round, committed, lease: Duration::from_nanos(nanos) }
        }),
    ];
    let beat = (any::<u32>(), any::<u64>(), body).prop_map(|(group, term, body)| Beat {
        group: GroupId(group),
        term: Term(term),
        body,
    });
    (any::<u64>(), any::<u64>(), vec(beat, 0..4)).prop_map(|(from, to, beats)| {
        PeerMessage::Heartbeats(PeerHeartbeats { from: NodeId(from), to: NodeId(to), beats })
    })
}

fn any_message() -> impl Strategy<Value = PeerMessage> {
    let group = || any::<u32>().prop_map(GroupId);
    let hashes = vec((any::<u64>(), any::<u64>()), 0..4);
    prop_oneof![
        8 => any_consensus_message().prop_map(PeerMessage::Consensus),
        2 => any_heartbeats(),
        1 => (group(), vec(any_bytes(), 0..4))
            .prop_map(|(group, commands)| PeerMessage::Propose { group, commands }),
        1 => (group(), any::<u64>())
            .prop_map(|(group, term)| PeerMessage::ProposeRefused { group, term: Term(term) }),
        1 => (group(), any::<u64>())
            .prop_map(|(group, round)| PeerMessage::ReadIndex { group, round }),
        1 => (group(), any::<u64>(), any::<Option<u64>>()).prop_map(|(group, round, index)| {
            PeerMessage::ReadIndexReply { group, round, index }
        }),
        1 => (group(), hashes)
            .prop_map(|(group, hashes)| PeerMessage::StateHashes { group, hashes }),
        1 => any::<bool>()
            .prop_map(|short_of_space| PeerMessage::MemberCondition { short_of_space }),
        1 => (group(), any::<u64>(), vec(any::<u64>().prop_map(NodeId), 0..4)).prop_map(
            |(group, term, learners)| {
                PeerMessage::LearnersInSync { group, term: Term(term), learners }
            }
        ),
        1 => Just(PeerMessage::Removed),
    ]
}

fn any_consensus_message() -> impl Strategy<Value = Message> {
    (any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any_body()).prop_map(
        |(group, from, to, term, body)| Message {
            group: GroupId(group),
            from: NodeId(from),
            to: NodeId(to),
            term: Term(term),
            body,
        },
    )
}

proptest! {
    #[test]
    fn every_message_is_read_as_it_was_written(messages in vec(any_message(), 1..4)) {
        let mut stream = BytesMut::new();
        for message in &messages {
            encode_message(&mut stream, message);
        }
        for message in messages {
            let frame = decode_frame(&mut stream).unwrap().unwrap();
            prop_assert_eq!(decode_message(frame), Ok(message));
        }
        prop_assert!(stream.is_empty());
    }

    #[test]
    fn hostile_payloads_never_panic(kind in 0_u8..16, payload in vec(any::<u8>(), 0..200)) {
        let frame = Frame { kind, payload: payload.into() };
        let _ = Hello::decode(frame.clone());
        let _ = decode_message(frame);
    }

    /// A changed byte that still decodes is another message, written with other bytes.
    #[test]
    fn a_message_has_one_encoding(
        message in any_message(),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        let sound = decode_frame(&mut framed(&message)).unwrap().unwrap();
        let mut payload = sound.payload.to_vec();
        // Some say all there is by their kind.
        if !payload.is_empty() {
            let at = at.index(payload.len());
            payload[at] = with;
        }
        let bent = Frame { payload: payload.into(), ..sound };
        if let Ok(decoded) = decode_message(bent.clone()) {
            let again = decode_frame(&mut framed(&decoded)).unwrap().unwrap();
            prop_assert_eq!(again, bent);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}
