//! Users and roles: who may do what is decided where it is applied, by every member alike.

use crate::support::{Group, put};
use bytes::Bytes;
use proptest::prelude::*;
use std::fmt::Write;
use std::sync::Arc;
use store::command::{
    AuthCommand, Caller, Command, Compare, CompareResult, CompareTarget, DeleteRange, Envelope,
    Permission, PermissionKind, Put, TokenSecret, Txn, TxnOp,
};
use store::limits::{ROLE_PERMISSIONS_MAX, USER_ROLES_MAX};
use store::range::{KeyRange, Range};
use store::reply::{AuthError, Outcome, StoreError};
use store::{Accounts, Content, MachineKind, MemEngine, Refounding, SnapshotWrite};

const DENIED: StoreError = StoreError::Auth(AuthError::PermissionDenied);

fn key(name: &'static str) -> KeyRange {
    KeyRange::Key(name.into())
}

fn span(start: &'static str, end: &'static str) -> KeyRange {
    KeyRange::Span { start: start.into(), end: end.into() }
}

fn user(name: &str, revision: u64) -> Option<Caller> {
    Some(Caller::User { name: name.to_owned(), revision })
}

fn enable() -> AuthCommand {
    AuthCommand::Enable { secret: TokenSecret([7; 32]) }
}

fn add_user(name: &str) -> AuthCommand {
    AuthCommand::UserAdd { name: name.into(), password: "hash".into(), no_password: false }
}

fn add_role(name: &str) -> AuthCommand {
    AuthCommand::RoleAdd { name: name.into() }
}

fn grant_role(name: &str, role: &str) -> AuthCommand {
    AuthCommand::UserGrantRole { name: name.into(), role: role.into() }
}

fn grant(name: &str, kind: PermissionKind, keys: KeyRange) -> AuthCommand {
    AuthCommand::RoleGrantPermission { name: name.into(), permission: Permission { kind, keys } }
}

/// The entry of a command on a caller's behalf.
fn entry(group: &mut Group, caller: Option<Caller>, command: Command) -> Content {
    let Content::Command(bytes) = group.envelope(command) else { panic!("no command") };
    let envelope = Envelope::decode(bytes).expect("it was just encoded");
    Content::Command(Envelope { caller, ..envelope }.encode())
}

fn enter(
    group: &mut Group,
    caller: Option<Caller>,
    command: Command,
) -> Result<Outcome, StoreError> {
    let entry = entry(group, caller, command);
    group.apply(vec![entry]).outcomes.pop().expect("a fresh request is answered").2
}

fn auth(group: &mut Group, caller: Option<Caller>, command: AuthCommand) -> Result<(), StoreError> {
    enter(group, caller, Command::Auth(command)).map(drop)
}

fn revision(group: &Group) -> u64 {
    group.machine.accounts().revision()
}

/// Somebody who has just proved who they are.
fn now(group: &Group, name: &str) -> Option<Caller> {
    user(name, revision(group))
}

/// A keyspace where root has enabled authentication, and ann may do what `grants` say.
fn guarded(grants: &[(PermissionKind, KeyRange)]) -> Group {
    let mut group = Group::keyspace();
    for (name, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        group.put(name, value);
    }
    let mut setup = vec![
        add_user("root"),
        grant_role("root", "root"),
        add_user("ann"),
        add_role("some"),
        grant_role("ann", "some"),
    ];
    setup.extend(grants.iter().map(|(kind, keys)| grant("some", *kind, keys.clone())));
    setup.push(enable());
    for command in setup {
        auth(&mut group, None, command).expect("nobody is asked yet");
    }
    group
}

fn as_ann(group: &mut Group, command: Command) -> Result<Outcome, StoreError> {
    let ann = now(group, "ann");
    enter(group, ann, command)
}

fn txn(success: Vec<TxnOp>) -> Command {
    Command::Txn(Txn { success, ..Txn::default() })
}

fn get(keys: KeyRange) -> TxnOp {
    TxnOp::Range(Range::of(keys))
}

#[test]
fn enabling_auth_does_not_make_members_diverge() {
    let mut leader = guarded(&[(PermissionKind::Write, key("a"))]);
    let ann = now(&leader, "ann");
    let root = now(&leader, "root");
    let put_a = || Command::Put(put("a", "x"));
    // A tail in which every entry's fate depends on the ones before it.
    let disable = Command::Auth(AuthCommand::Disable);
    let late = Command::Auth(AuthCommand::UserChangePassword {
        name: "ann".into(),
        password: "other".into(),
    });
    let steps = [
        (None, put_a()),
        (ann.clone(), put_a()),
        (ann.clone(), Command::Put(put("b", "x"))),
        (root.clone(), late),
        (ann.clone(), put_a()),
        (root, disable),
        (None, put_a()),
        (ann.clone(), Command::Put(put("b", "x"))),
        (None, Command::Auth(enable())),
        (None, put_a()),
        (ann, put_a()),
    ];
    let tail: Vec<Content> =
        steps.into_iter().map(|(caller, command)| entry(&mut leader, caller, command)).collect();

    let follower = Group::unopened(MachineKind::Keyspace, MemEngine::new());
    let mut at_once = Group::of(follower.machine);
    assert_eq!(at_once.install(&leader), SnapshotWrite::Installed);
    let together = at_once.apply(tail.clone()).outcomes;
    let mut singly = Vec::new();
    for entry in tail {
        singly.extend(leader.apply(vec![entry]).outcomes);
        // Whoever starts anew goes on with what was applied.
        leader = leader.crashed(usize::MAX);
    }
    assert_eq!(together, singly);
    assert_eq!(at_once.machine.chain_hash(), leader.machine.chain_hash());
    let fates: Vec<bool> = together.iter().map(|(_, _, outcome)| outcome.is_ok()).collect();
    let expected = [false, true, false, true, false, true, true, true, true, false, false];
    assert_eq!(fates, expected);
}

#[test]
fn a_nested_transaction_does_not_pass_by_the_check() {
    let mut group = guarded(&[(PermissionKind::ReadWrite, key("a"))]);
    let hidden: [TxnOp; 4] = [
        get(key("b")),
        TxnOp::Put(put("b", "stolen")),
        TxnOp::DeleteRange(DeleteRange { keys: key("b"), prev_kv: false }),
        TxnOp::DeleteRange(DeleteRange { keys: span("a", "c"), prev_kv: false }),
    ];
    for op in hidden {
        let mut nested = Txn { success: vec![op.clone()], ..Txn::default() };
        for _ in 0..5 {
            // On the side that is not taken, too.
            nested = Txn { failure: vec![TxnOp::Txn(nested)], ..Txn::default() };
        }
        let command = txn(vec![TxnOp::Put(put("a", "x")), TxnOp::Txn(nested)]);
        assert_eq!(as_ann(&mut group, command), Err(DENIED), "{op:?}");
    }
    let fine = txn(vec![TxnOp::Txn(Txn { success: vec![get(key("a"))], ..Txn::default() })]);
    assert!(as_ann(&mut group, fine).is_ok());
}

#[test]
fn a_comparison_reads() {
    let mut group = guarded(&[(PermissionKind::ReadWrite, key("a"))]);
    let compare = |keys| Compare {
        keys,
        result: CompareResult::Equal,
        target: CompareTarget::Value("2".into()),
    };
    let guess = Txn { compare: vec![compare(key("b"))], ..Txn::default() };
    assert_eq!(as_ann(&mut group, Command::Txn(guess.clone())), Err(DENIED));
    let nested = txn(vec![TxnOp::Txn(guess)]);
    assert_eq!(as_ann(&mut group, nested), Err(DENIED));
    let wide = Txn { compare: vec![compare(span("a", "b\0"))], ..Txn::default() };
    assert_eq!(as_ann(&mut group, Command::Txn(wide)), Err(DENIED));
}

#[test]
fn the_version_replaced_does_not_leak_to_who_may_only_write() {
    let mut group = guarded(&[(PermissionKind::Write, span("a", "c"))]);
    let put_a = || Put { prev_kv: true, ..put("a", "x") };
    let delete = || DeleteRange { keys: key("b"), prev_kv: true };
    for command in [
        Command::Put(put_a()),
        Command::DeleteRange(delete()),
        txn(vec![TxnOp::Put(put_a())]),
        txn(vec![TxnOp::DeleteRange(delete())]),
    ] {
        assert_eq!(as_ann(&mut group, command.clone()), Err(DENIED), "{command:?}");
    }
    assert!(as_ann(&mut group, Command::Put(put("a", "x"))).is_ok());
    let blind = DeleteRange { keys: span("a", "c"), prev_kv: false };
    assert!(as_ann(&mut group, Command::DeleteRange(blind)).is_ok());
}

#[test]
fn a_single_key_grant_opens_no_open_ended_range() {
    let mut group = guarded(&[(PermissionKind::ReadWrite, key("a"))]);
    for keys in [KeyRange::From("a".into()), KeyRange::From("\0".into()), span("a", "b")] {
        let delete = DeleteRange { keys: keys.clone(), prev_kv: false };
        assert_eq!(as_ann(&mut group, Command::DeleteRange(delete)), Err(DENIED), "{keys:?}");
        assert_eq!(as_ann(&mut group, txn(vec![get(keys.clone())])), Err(DENIED), "{keys:?}");
        let accounts = Arc::clone(group.machine.accounts());
        let ann = now(&group, "ann");
        let standing = accounts.standing(ann.as_ref()).expect("she is known");
        assert_eq!(standing.may_read(&keys), Err(AuthError::PermissionDenied), "{keys:?}");
    }
    assert!(as_ann(&mut group, Command::Put(put("a", "x"))).is_ok());
}

#[test]
fn a_deleted_and_recreated_user_is_somebody_else() {
    let mut group = guarded(&[(PermissionKind::ReadWrite, key("a"))]);
    let before = now(&group, "ann");
    let put_a = || Command::Put(put("a", "x"));
    let root = now(&group, "root");
    auth(&mut group, root.clone(), AuthCommand::UserDelete { name: "ann".into() }).unwrap();
    assert_eq!(enter(&mut group, before.clone(), put_a()), Err(DENIED));
    auth(&mut group, root.clone(), add_user("ann")).unwrap();
    auth(&mut group, root, grant_role("ann", "some")).unwrap();
    let old = Err(StoreError::Auth(AuthError::OldRevision));
    assert_eq!(enter(&mut group, before, put_a()), old);
    assert!(as_ann(&mut group, put_a()).is_ok());
}

#[test]
fn a_password_change_invalidates_what_was_proved_before_it() {
    let mut group = guarded(&[(PermissionKind::ReadWrite, key("a"))]);
    let before = now(&group, "ann");
    let put_a = || Command::Put(put("a", "x"));
    let root = now(&group, "root");
    let change =
        AuthCommand::UserChangePassword { name: "ann".into(), password: Bytes::from("new") };
    auth(&mut group, root, change).unwrap();
    let old = Err(StoreError::Auth(AuthError::OldRevision));
    assert_eq!(enter(&mut group, before, put_a()), old);
    assert!(as_ann(&mut group, put_a()).is_ok());
}

#[test]
fn an_old_auth_revision_is_refused_once_auth_was_off_in_between() {
    let mut group = guarded(&[(PermissionKind::ReadWrite, key("a"))]);
    let before = now(&group, "ann");
    let root = now(&group, "root");
    auth(&mut group, root, AuthCommand::Disable).unwrap();
    auth(&mut group, None, enable()).unwrap();
    let old = Err(StoreError::Auth(AuthError::OldRevision));
    assert_eq!(enter(&mut group, before, Command::Put(put("a", "x"))), old);
}

#[test]
fn a_revoked_permission_counts_for_the_next_entry() {
    let mut group = guarded(&[(PermissionKind::ReadWrite, key("a"))]);
    let (ann, root) = (now(&group, "ann"), now(&group, "root"));
    let put_a = || Command::Put(put("a", "x"));
    assert!(enter(&mut group, ann.clone(), put_a()).is_ok());
    let revoke = AuthCommand::RoleRevokePermission { name: "some".into(), keys: key("a") };
    let contents = vec![
        entry(&mut group, root.clone(), Command::Auth(revoke)),
        entry(&mut group, ann.clone(), put_a()),
        entry(
            &mut group,
            root.clone(),
            Command::Auth(grant("some", PermissionKind::Write, key("a"))),
        ),
        entry(&mut group, ann.clone(), put_a()),
        entry(&mut group, root, Command::Auth(AuthCommand::RoleDelete { name: "some".into() })),
        entry(&mut group, ann, put_a()),
    ];
    let fates = group.apply(contents).outcomes.into_iter().map(|(_, _, outcome)| outcome.is_ok());
    assert_eq!(fates.collect::<Vec<_>>(), [true, false, true, true, true, false]);
}

#[test]
fn nobody_may_nothing_and_the_cluster_everything() {
    let mut group = guarded(&[]);
    let empty = StoreError::Auth(AuthError::UserEmpty);
    for command in [
        Command::Put(put("a", "x")),
        Command::DeleteRange(DeleteRange { keys: key("a"), prev_kv: false }),
        txn(vec![get(key("a"))]),
        Command::Compact { revision: 2 },
        Command::Auth(AuthCommand::Disable),
        Command::Auth(add_user("eve")),
    ] {
        assert_eq!(enter(&mut group, None, command.clone()), Err(empty.clone()), "{command:?}");
    }
    let upkeep = Command::Compact { revision: 2 };
    assert_eq!(as_ann(&mut group, upkeep.clone()), Err(DENIED));
    assert!(enter(&mut group, Some(Caller::Cluster), upkeep).is_ok());
}

#[test]
fn a_lease_of_somebody_elses_keys_is_not_theirs_to_attach_or_revoke() {
    let mut group = guarded(&[(PermissionKind::ReadWrite, key("a"))]);
    let root = now(&group, "root");
    let under = |name, lease| Put { lease, ..put(name, "x") };
    for id in [1, 2] {
        let granted = as_ann(&mut group, Command::LeaseGrant { id, ttl_s: 60 });
        assert!(granted.is_ok(), "whoever is known may: {granted:?}");
    }
    let empty = Err(StoreError::Auth(AuthError::UserEmpty));
    assert_eq!(enter(&mut group, None, Command::LeaseGrant { id: 3, ttl_s: 60 }), empty);
    assert_eq!(enter(&mut group, None, Command::LeaseRevoke { id: 1 }), empty);
    assert!(enter(&mut group, root, Command::Put(under("b", 1))).is_ok());
    assert_eq!(as_ann(&mut group, Command::Put(under("a", 1))), Err(DENIED));
    assert_eq!(as_ann(&mut group, txn(vec![TxnOp::Put(under("a", 1))])), Err(DENIED));
    assert_eq!(as_ann(&mut group, Command::LeaseRevoke { id: 1 }), Err(DENIED));
    assert!(as_ann(&mut group, Command::Put(under("a", 2))).is_ok());
    assert!(as_ann(&mut group, Command::LeaseRevoke { id: 2 }).is_ok());
}

#[test]
fn root_stays_root_while_users_are_asked() {
    let mut group = Group::keyspace();
    let refused = |error| Err(StoreError::Auth(error));
    assert_eq!(auth(&mut group, None, enable()), refused(AuthError::RootUserNotFound));
    auth(&mut group, None, add_user("root")).unwrap();
    assert_eq!(auth(&mut group, None, enable()), refused(AuthError::RootRoleNotGranted));
    auth(&mut group, None, add_role("root")).unwrap();
    auth(&mut group, None, grant_role("root", "root")).unwrap();
    auth(&mut group, None, add_user("ann")).unwrap();
    auth(&mut group, None, enable()).unwrap();
    let root = now(&group, "root");
    for command in [
        AuthCommand::UserDelete { name: "root".into() },
        AuthCommand::RoleDelete { name: "root".into() },
        AuthCommand::UserRevokeRole { name: "root".into(), role: "root".into() },
    ] {
        let answer = auth(&mut group, root.clone(), command.clone());
        assert_eq!(answer, refused(AuthError::InvalidManagement), "{command:?}");
    }
    let ann = now(&group, "ann");
    assert_eq!(auth(&mut group, ann, AuthCommand::Disable), Err(DENIED));
    let ghost = user("ghost", revision(&group));
    let answer = auth(&mut group, ghost, AuthCommand::Disable);
    assert_eq!(answer, refused(AuthError::UserNotFound));
    assert_eq!(auth(&mut group, root.clone(), enable()), Ok(()), "it is already");
    assert_eq!(auth(&mut group, root, AuthCommand::Disable), Ok(()));
    let delete = AuthCommand::UserDelete { name: "root".into() };
    assert_eq!(auth(&mut group, None, delete), Ok(()));
}

#[test]
fn changes_that_cannot_be_are_refused_as_in_etcd() {
    let mut group = Group::keyspace();
    let mut refused = |command: AuthCommand| match auth(&mut group, None, command.clone()) {
        Err(StoreError::Auth(error)) => Some(error),
        Ok(()) => None,
        other => panic!("{command:?}: {other:?}"),
    };
    let kind = PermissionKind::Read;
    assert_eq!(refused(add_user("")), Some(AuthError::UserEmpty));
    assert_eq!(refused(add_user("ann")), None);
    assert_eq!(refused(add_user("ann")), Some(AuthError::UserExists));
    assert_eq!(refused(add_role("")), Some(AuthError::RoleEmpty));
    assert_eq!(refused(add_role("r")), None);
    assert_eq!(refused(add_role("r")), Some(AuthError::RoleExists));
    assert_eq!(refused(grant_role("bob", "r")), Some(AuthError::UserNotFound));
    assert_eq!(refused(grant_role("ann", "s")), Some(AuthError::RoleNotFound));
    assert_eq!(refused(grant_role("ann", "root")), None, "root needs no record");
    assert_eq!(refused(grant_role("ann", "r")), None);
    assert_eq!(refused(grant_role("ann", "r")), None, "again");
    assert_eq!(refused(grant("s", kind, key("a"))), Some(AuthError::RoleNotFound));
    assert_eq!(refused(grant("r", kind, key(""))), Some(AuthError::InvalidManagement));
    assert_eq!(refused(grant("r", kind, span("b", "a"))), Some(AuthError::InvalidManagement));
    assert_eq!(refused(grant("r", kind, KeyRange::From("b".into()))), None);
    let revoke = |keys| AuthCommand::RoleRevokePermission { name: "r".into(), keys };
    assert_eq!(refused(revoke(key("b"))), Some(AuthError::PermissionNotGranted));
    assert_eq!(refused(revoke(KeyRange::From("b".into()))), None);
    let take = |role: &str| AuthCommand::UserRevokeRole { name: "ann".into(), role: role.into() };
    assert_eq!(refused(take("x")), Some(AuthError::RoleNotGranted));
    assert_eq!(refused(take("r")), None);
    assert_eq!(
        refused(AuthCommand::RoleDelete { name: "x".into() }),
        Some(AuthError::RoleNotFound)
    );
    assert_eq!(
        refused(AuthCommand::UserDelete { name: "x".into() }),
        Some(AuthError::UserNotFound)
    );
}

#[test]
fn roles_and_permissions_are_bounded() {
    let mut group = Group::keyspace();
    let too_many = Err(StoreError::Auth(AuthError::TooMany));
    auth(&mut group, None, add_user("ann")).unwrap();
    for number in 0..=USER_ROLES_MAX {
        auth(&mut group, None, add_role(&format!("r{number}"))).unwrap();
        let granted = auth(&mut group, None, grant_role("ann", &format!("r{number}")));
        assert_eq!(granted, if number < USER_ROLES_MAX { Ok(()) } else { too_many.clone() });
    }
    let permissions = (0..=ROLE_PERMISSIONS_MAX).map(|number| {
        let keys = KeyRange::Key(Bytes::from(format!("{number}")));
        Command::Auth(grant("r0", PermissionKind::Read, keys))
    });
    let entries = permissions.map(|command| entry(&mut group, None, command)).collect();
    let last = group.apply(entries).outcomes.pop().expect("they are answered").2;
    assert_eq!(last.map(drop), too_many);
}

#[test]
fn a_caller_of_the_old_cluster_is_nobody_after_a_restore() {
    let group = guarded(&[(PermissionKind::ReadWrite, key("a"))]);
    let restored = || {
        let mut member = Group::unopened(MachineKind::Keyspace, MemEngine::new());
        assert_eq!(member.install(&group), SnapshotWrite::Installed);
        let refounded = member.machine.refound(Refounding::default(), TokenSecret([9; 32]));
        refounded.expect("memory does not fail");
        member
    };
    let (mut member, other) = (restored(), restored());
    assert_eq!(member.machine.chain_hash(), other.machine.chain_hash());
    assert_eq!(picture(member.machine.accounts()), picture(other.machine.accounts()));
    assert_eq!(member.machine.accounts().secret(), &TokenSecret([9; 32]));
    assert!(
        member.machine.accounts().user("ann").is_some() && revision(&member) > revision(&group)
    );
    enter(&mut member, Some(Caller::Cluster), Command::OpenSession).expect("a session opens");
    let old = Err(StoreError::Auth(AuthError::OldRevision));
    // The old cluster went on: its revisions are not the new one's, either.
    for later in [0, 1, 1_000_000] {
        for name in ["ann", "root"] {
            let caller = user(name, revision(&group) + later);
            assert_eq!(enter(&mut member, caller, Command::Put(put("a", "x"))), old);
        }
    }
    assert!(as_ann(&mut member, Command::Put(put("a", "x"))).is_ok());
}

#[test]
fn a_restore_leaves_no_trace_of_authentication_that_was_never_touched() {
    let mut member = Group::keyspace();
    let secret = TokenSecret([9; 32]);
    member.machine.refound(Refounding::default(), secret).expect("memory does not fail");
    assert_eq!(revision(&member), 1);
    assert_eq!(member.machine.accounts().secret(), &TokenSecret::default());
}

/// Everything about users and roles, as text.
fn picture(accounts: &Accounts) -> String {
    let mut text = format!("{} {}", accounts.is_enabled(), accounts.revision());
    for name in accounts.user_names() {
        write!(text, "\n{name} {:?}", accounts.user(name)).expect("text grows");
    }
    for name in accounts.role_names() {
        write!(text, "\n{name} {:?}", accounts.role(name)).expect("text grows");
    }
    text
}

#[test]
fn a_snapshot_carries_users_and_roles() {
    let mut group = guarded(&[(PermissionKind::ReadWrite, span("a", "c"))]);
    let mut follower = Group::keyspace();
    assert_eq!(follower.install(&group), SnapshotWrite::Installed);
    let before = picture(group.machine.accounts());
    assert_eq!(picture(follower.machine.accounts()), before);
    assert_eq!(picture(group.crashed(usize::MAX).machine.accounts()), before);
    let ann = now(&group, "ann");
    let stale = Accounts::default();
    let read = follower.machine.reader().accounts(&Arc::new(stale)).expect("memory does not fail");
    assert!(read.standing(ann.as_ref()).unwrap().may_read(&key("b")).is_ok());
    assert_eq!(read.secret(), group.machine.accounts().secret());
    assert_eq!(as_ann(&mut group, Command::Put(put("c", "x"))), Err(DENIED));
    // Authentication that was never touched leaves no trace in a snapshot.
    let plain = Group::keyspace().snapshot().concat();
    let carries = |needle: &[u8]| plain.windows(needle.len()).any(|bytes| bytes == needle);
    assert!(!carries(&[12, b'a']));
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["root", "a", "b"]).prop_map(str::to_owned)
}

fn any_keys() -> impl Strategy<Value = KeyRange> {
    let bytes = || prop::collection::vec(0..3u8, 0..3).prop_map(Bytes::from);
    prop_oneof![
        bytes().prop_map(KeyRange::Key),
        bytes().prop_map(KeyRange::From),
        (bytes(), prop::collection::vec(1..3u8, 1..3))
            .prop_map(|(start, end)| KeyRange::Span { start, end: end.into() }),
    ]
}

fn permission() -> impl Strategy<Value = Permission> {
    let kind = prop::sample::select(vec![
        PermissionKind::Read,
        PermissionKind::Write,
        PermissionKind::ReadWrite,
    ]);
    (kind, any_keys()).prop_map(|(kind, keys)| Permission { kind, keys })
}

pub(crate) fn auth_command() -> impl Strategy<Value = AuthCommand> {
    let hash = || prop::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from);
    prop_oneof![
        any::<[u8; 32]>().prop_map(|secret| AuthCommand::Enable { secret: TokenSecret(secret) }),
        Just(AuthCommand::Disable),
        (name(), hash(), any::<bool>()).prop_map(|(name, password, no_password)| {
            AuthCommand::UserAdd { name, password, no_password }
        }),
        name().prop_map(|name| AuthCommand::UserDelete { name }),
        (name(), hash())
            .prop_map(|(name, password)| AuthCommand::UserChangePassword { name, password }),
        (name(), name()).prop_map(|(name, role)| AuthCommand::UserGrantRole { name, role }),
        (name(), name()).prop_map(|(name, role)| AuthCommand::UserRevokeRole { name, role }),
        name().prop_map(|name| AuthCommand::RoleAdd { name }),
        name().prop_map(|name| AuthCommand::RoleDelete { name }),
        (name(), permission())
            .prop_map(|(name, permission)| AuthCommand::RoleGrantPermission { name, permission }),
        (name(), any_keys())
            .prop_map(|(name, keys)| AuthCommand::RoleRevokePermission { name, keys }),
    ]
}

proptest! {
    /// What is in memory is what the engine holds, and a new revision tells of every change.
    #[test]
    fn memory_and_engine_agree_after_every_change(
        commands in prop::collection::vec((auth_command(), any::<bool>()), 1..24),
    ) {
        let mut group = Group::keyspace();
        for (command, as_root) in commands {
            let before = Arc::clone(group.machine.accounts());
            let caller = if as_root { now(&group, "root") } else { None };
            let _ = auth(&mut group, caller, command);
            let accounts = group.machine.accounts();
            let restarted = group.crashed(usize::MAX);
            prop_assert_eq!(picture(accounts), picture(restarted.machine.accounts()));
            let seen = group.machine.reader().accounts(&before).expect("memory does not fail");
            prop_assert_eq!(picture(&seen), picture(accounts), "a change was overlooked");
            let is_root = |role: &String| role == "root";
            let root = accounts.user("root").is_some_and(|root| root.roles.iter().any(is_root));
            prop_assert!(root || !accounts.is_enabled(), "nobody is in charge");
        }
    }
}

/// One of each command, and a snapshot that has every kind of record.
fn golden_lines() -> Vec<String> {
    let hex = |bytes: Bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut group = Group::keyspace();
    let commands = [
        add_user("root"),
        grant_role("root", "root"),
        AuthCommand::UserAdd { name: "cn".into(), password: Bytes::new(), no_password: true },
        add_role("some"),
        grant_role("cn", "some"),
        grant("some", PermissionKind::Read, key("k")),
        grant("some", PermissionKind::Write, span("k", "l")),
        grant("some", PermissionKind::ReadWrite, KeyRange::From("m".into())),
        enable(),
    ];
    let gone = [
        AuthCommand::Disable,
        AuthCommand::UserDelete { name: "cn".into() },
        AuthCommand::UserChangePassword { name: "cn".into(), password: "new".into() },
        AuthCommand::UserRevokeRole { name: "cn".into(), role: "some".into() },
        AuthCommand::RoleDelete { name: "some".into() },
        AuthCommand::RoleRevokePermission { name: "some".into(), keys: key("k") },
    ];
    let mut lines = Vec::new();
    for command in gone {
        let caller = user("root", 5);
        let Content::Command(bytes) = entry(&mut group, caller, Command::Auth(command)) else {
            panic!("no command")
        };
        lines.push(hex(bytes));
    }
    for command in commands {
        let Content::Command(bytes) = entry(&mut group, None, Command::Auth(command)) else {
            panic!("no command")
        };
        lines.push(hex(bytes.clone()));
        group.apply(vec![Content::Command(bytes)]);
    }
    lines.extend(group.snapshot().into_iter().map(hex));
    lines
}

#[test]
fn version_1_of_commands_and_records_is_read_for_ever() {
    let golden = include_str!("../golden/auth_v1.txt");
    let lines: Vec<_> = golden.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(golden_lines(), lines);
}
