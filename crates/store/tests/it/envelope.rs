//! The envelope of a command: what is written is read, hostile bytes are refused, and version 1 is
//! read for ever.

use crate::auth::auth_command;
use crate::versioned_value::{delete, put, txn};
use bytes::{BufMut, Bytes, BytesMut};
use clocks::NodeId;
use proptest::prelude::*;
use store::command::{
    Caller, Command, Compare, CompareResult, CompareTarget, DeleteRange, Envelope, Member,
    MembershipCommand, MembershipRefusal, Put, SessionId, Txn, TxnOp,
};
use store::limits::{LEASE_RENEW_MAX, LEASE_TTL_MAX_S, TXN_DEPTH_MAX, TXN_ITEMS_MAX};
use store::range::{KeyRange, Projection, Range, SortOrder, SortTarget};

fn member() -> impl Strategy<Value = Member> {
    let addresses = || prop::collection::vec("[a-z]{0,4}:[0-9]{1,4}", 0..3);
    (any::<u64>(), "\\PC{0,5}", addresses(), addresses(), any::<u128>(), any::<u32>()).prop_map(
        |(id, name, peer_addresses, client_urls, directory_id, feature_level)| Member {
            id: NodeId(id),
            name,
            peer_addresses,
            client_urls,
            directory_id,
            feature_level,
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::OpenSession),
        put().prop_map(Command::Put),
        delete().prop_map(Command::DeleteRange),
        txn().prop_map(Command::Txn),
        any::<i64>().prop_map(|revision| Command::Compact { revision }),
        member().prop_map(Command::RegisterMember),
        auth_command().prop_map(Command::Auth),
        any::<u32>().prop_map(|level| Command::RaiseFeatureLevel { level }),
        lease_command(),
        membership_command().prop_map(Command::Membership),
    ]
}

fn caller() -> impl Strategy<Value = Option<Caller>> {
    let user =
        ("\\PC{0,5}", any::<u64>()).prop_map(|(name, revision)| Caller::User { name, revision });
    prop::option::of(prop_oneof![user, Just(Caller::Cluster)])
}

fn membership_command() -> impl Strategy<Value = MembershipCommand> {
    let id = || any::<u64>().prop_map(NodeId);
    let addresses = || prop::collection::vec("[a-z]{0,4}:[0-9]{1,4}", 0..3);
    prop_oneof![
        (id(), addresses(), any::<bool>()).prop_map(|(id, peer_addresses, learner)| {
            MembershipCommand::Add { id, peer_addresses, learner }
        }),
        id().prop_map(|id| MembershipCommand::Promote { id }),
        id().prop_map(|id| MembershipCommand::Remove { id }),
        (id(), addresses())
            .prop_map(|(id, peer_addresses)| MembershipCommand::Update { id, peer_addresses }),
        prop::collection::vec(member(), 0..3)
            .prop_map(|founders| MembershipCommand::Found { founders }),
        Just(MembershipCommand::Refuse { refusal: MembershipRefusal::Unhealthy }),
    ]
}

fn lease_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        any::<(u64, u32)>()
            .prop_map(|(clock_ms, revoke_max)| Command::LeaseTick { clock_ms, revoke_max }),
        (any::<i64>(), 0..=LEASE_TTL_MAX_S)
            .prop_map(|(id, ttl_s)| Command::LeaseGrant { id, ttl_s }),
        any::<i64>().prop_map(|id| Command::LeaseRevoke { id }),
        prop::collection::vec(any::<i64>(), 0..4).prop_map(|ids| Command::LeaseRenew { ids }),
    ]
}

#[test]
fn leases_of_a_command_and_their_time_to_live_are_bounded() {
    let renew = |count| of(Command::LeaseRenew { ids: vec![1; count] }).encode();
    assert!(Envelope::decode(renew(LEASE_RENEW_MAX)).is_ok());
    assert!(Envelope::decode(renew(LEASE_RENEW_MAX + 1)).is_err());
    let grant = |ttl_s| of(Command::LeaseGrant { id: 1, ttl_s }).encode();
    assert!(Envelope::decode(grant(LEASE_TTL_MAX_S)).is_ok());
    assert!(Envelope::decode(grant(LEASE_TTL_MAX_S + 1)).is_err());
}

proptest! {
    #[test]
    fn whether_a_lease_lives_from_it_shows_without_decoding(envelope in envelope()) {
        let begins = matches!(
            envelope.command,
            Command::LeaseGrant { .. } | Command::LeaseRenew { .. }
        );
        prop_assert_eq!(Envelope::begins_lease_time(&envelope.encode()), begins);
    }
}

fn envelope() -> impl Strategy<Value = Envelope> {
    (any::<[u64; 5]>(), caller(), command()).prop_map(|(numbers, caller, command)| Envelope {
        session: SessionId { member: NodeId(numbers[0]), incarnation: numbers[1] },
        sequence: numbers[2],
        answered_below: numbers[3],
        advisory_time_ms: numbers[4],
        caller,
        command,
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(envelope in envelope()) {
        prop_assert_eq!(Envelope::decode(envelope.encode()), Ok(envelope));
    }

    #[test]
    fn every_shorter_and_every_longer_form_is_refused(envelope in envelope()) {
        let bytes = envelope.encode();
        for length in 0..bytes.len() {
            prop_assert!(Envelope::decode(bytes.slice(..length)).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(Envelope::decode(longer.into()).is_err());
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_never_a_panic(
        envelope in envelope(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = envelope.encode().to_vec();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(read) = Envelope::decode(bytes.clone().into()) {
            prop_assert_eq!(&read.encode()[..], &bytes[..], "two forms of one envelope");
        }
    }

    #[test]
    fn random_bytes_are_refused_or_read_never_a_panic(mut bytes: Vec<u8>) {
        let _ = Envelope::decode(bytes.clone().into());
        // Past the version and the fixed fields.
        bytes.splice(0..0, [[1].as_slice(), &[0; 40]].concat());
        let _ = Envelope::decode(bytes.into());
    }
}

fn nested(depth: usize) -> Envelope {
    let mut txn = Txn::default();
    for _ in 1..depth {
        txn = Txn { success: vec![TxnOp::Txn(txn)], ..Txn::default() };
    }
    of(Command::Txn(txn))
}

fn of(command: Command) -> Envelope {
    Envelope {
        session: SessionId::default(),
        sequence: 1,
        answered_below: 0,
        advisory_time_ms: 0,
        caller: None,
        command,
    }
}

#[test]
fn nesting_is_bounded() {
    assert!(Envelope::decode(nested(TXN_DEPTH_MAX).encode()).is_ok());
    let refused = Envelope::decode(nested(TXN_DEPTH_MAX + 1).encode()).unwrap_err();
    assert_eq!(refused.0, "its transactions are nested too deeply");
}

#[test]
fn the_number_of_operations_is_bounded_over_all_levels() {
    let op = || TxnOp::Range(Range::of(KeyRange::Key(Bytes::new())));
    let branch = |length| std::iter::repeat_with(op).take(length).collect();
    let inner = Txn { success: branch(TXN_ITEMS_MAX - 2), ..Txn::default() };
    let mut outer = Txn { failure: vec![TxnOp::Txn(inner)], ..Txn::default() };
    outer.success = branch(1);
    assert!(Envelope::decode(of(Command::Txn(outer.clone())).encode()).is_ok());
    outer.success = branch(2);
    assert!(Envelope::decode(of(Command::Txn(outer)).encode()).is_err());
}

/// A count of four billion in a few bytes must not allocate for four billion.
#[test]
fn a_count_alone_allocates_nothing() {
    let empty = of(Command::Txn(Txn::default())).encode();
    for (place, bomb) in [(42, u32::MAX), (42, 60_000), (46, u32::MAX), (50, 60_000)] {
        let mut bytes = BytesMut::from(&empty[..place]);
        bytes.put_u32(bomb);
        assert!(Envelope::decode(bytes.freeze()).is_err(), "{place} {bomb}");
    }
}

/// Every form of every field once.
fn golden_membership(member: Member) -> impl Iterator<Item = Command> {
    let changes = [
        MembershipCommand::Add {
            id: NodeId(14),
            peer_addresses: vec!["host:2380".to_owned()],
            learner: true,
        },
        MembershipCommand::Promote { id: NodeId(15) },
        MembershipCommand::Remove { id: NodeId(16) },
        MembershipCommand::Update { id: NodeId(17), peer_addresses: vec!["other:2380".to_owned()] },
        MembershipCommand::Found { founders: vec![member] },
        MembershipCommand::Refuse { refusal: MembershipRefusal::LearnerNotReady },
    ];
    changes.into_iter().map(Command::Membership)
}

fn golden_envelopes() -> Vec<Envelope> {
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let key = || KeyRange::Key(text("key"));
    let span = || KeyRange::Span { start: text("a"), end: text("b") };
    let put = Put { key: text("key"), value: text("value"), ..Put::default() };
    let all =
        Put { lease: -7, prev_kv: true, ignore_value: true, ignore_lease: true, ..put.clone() };
    let range = Range {
        revision: 1,
        limit: 2,
        sort_target: SortTarget::Mod,
        sort_order: SortOrder::Descend,
        projection: Projection::KeysOnly,
        min_mod_revision: 3,
        max_mod_revision: 4,
        min_create_revision: 5,
        max_create_revision: 6,
        ..Range::of(KeyRange::From(text("from")))
    };
    let compare = |result, target| Compare { keys: key(), result, target };
    let inner = Txn {
        compare: vec![
            compare(CompareResult::Equal, CompareTarget::Version(1)),
            compare(CompareResult::Greater, CompareTarget::Create(2)),
            compare(CompareResult::Less, CompareTarget::Mod(3)),
            compare(CompareResult::NotEqual, CompareTarget::Value(text("value"))),
            compare(CompareResult::Equal, CompareTarget::Lease(4)),
        ],
        success: vec![TxnOp::Put(put.clone())],
        failure: vec![TxnOp::DeleteRange(DeleteRange { keys: span(), prev_kv: false })],
    };
    let txn = Txn { success: vec![TxnOp::Range(range), TxnOp::Txn(inner)], ..Txn::default() };
    let member = Member {
        id: NodeId(9),
        name: "nine".to_owned(),
        peer_addresses: vec!["host:2380".to_owned()],
        client_urls: vec!["http://host:2379".to_owned(), "http://host:1".to_owned()],
        directory_id: 1 << 100,
        feature_level: 3,
    };
    let commands = [
        Command::OpenSession,
        Command::Put(put),
        Command::Put(all),
        Command::DeleteRange(DeleteRange { keys: key(), prev_kv: true }),
        Command::Txn(txn),
        Command::Compact { revision: 5 },
        Command::RegisterMember(member.clone()),
        Command::RaiseFeatureLevel { level: 2 },
        Command::LeaseTick { clock_ms: 7, revoke_max: 8 },
        Command::LeaseGrant { id: -9, ttl_s: 10 },
        Command::LeaseRevoke { id: 11 },
        Command::LeaseRenew { ids: vec![12, -13] },
    ];
    let session = SessionId { member: NodeId(1), incarnation: 2 };
    let wrap = |command| Envelope {
        session,
        sequence: 3,
        answered_below: 2,
        advisory_time_ms: 1_700_000_000_000,
        caller: None,
        command,
    };
    commands.into_iter().chain(golden_membership(member)).map(wrap).collect()
}

#[test]
fn a_caller_travels_in_version_2_and_nobody_in_version_1() {
    let nobody = of(Command::OpenSession);
    let user = Caller::User { name: "ann".to_owned(), revision: 7 };
    let with = |caller| Envelope { caller: Some(caller), ..nobody.clone() }.encode();
    assert_eq!(nobody.encode()[0], 1);
    let header = [&[2], &nobody.encode()[1..41]].concat();
    let ann = [&header[..], b"\x01\0\0\0\x03ann\0\0\0\0\0\0\0\x07\x01"].concat();
    assert_eq!(with(user), ann);
    assert_eq!(with(Caller::Cluster), [&header[..], b"\x02\x01"].concat());
    let unknown = [&header[..], b"\x03\x01"].concat();
    assert_eq!(Envelope::decode(unknown.into()).unwrap_err().0, "a kind of caller is unknown");
}

#[test]
fn version_1_is_read_for_ever() {
    let golden = include_str!("../golden/envelope_v1.txt");
    let lines: Vec<_> = golden.lines().filter(|line| !line.starts_with('#')).collect();
    let envelopes = golden_envelopes();
    let hex = |envelope: &Envelope| -> String {
        envelope.encode().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    assert_eq!(lines, envelopes.iter().map(hex).collect::<Vec<_>>());
    for (line, envelope) in lines.iter().zip(envelopes) {
        let bytes: Vec<_> = (0..line.len())
            .step_by(2)
            .map(|place| u8::from_str_radix(&line[place..place + 2], 16).unwrap())
            .collect();
        assert_eq!(Envelope::decode(bytes.into()), Ok(envelope));
    }
}
