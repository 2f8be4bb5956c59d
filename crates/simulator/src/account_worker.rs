//! Users and those who say what they may do: a superuser changes users, roles and permissions, and
//! turns authentication on and off, while users write and read.
//!
//! Every write has a name, its value, by which the judge finds its place in the log. Not here:
//! what is allowed (`checkers::permissions`).

use crate::event_heap::{Instant, MILLISECOND};
use crate::judges::{Judges, permission_breach};
use crate::mark::Mark;
use crate::rng::{Chance, Rng};
use crate::witness::Breach;
use crate::worker::{Behaviour, Heard, Span, What, Wish};
use bytes::Bytes;
use checkers::permissions::{Access, Attempt, Change};
use clocks::GroupId;
use std::collections::BTreeSet;
use store::command::{
    AuthCommand, Caller, Command, Permission, PermissionKind, Put, TokenSecret, Txn, TxnOp,
};
use store::range::{KeyRange, Range};
use store::reply::{AuthError, Outcome, StoreError};

const USERS: u64 = 3;
const ROLES: u64 = 3;
const KEYS: u64 = 6;

/// Somebody who has just proved who they are.
pub(crate) fn caller(name: &str) -> Option<Caller> {
    Some(Caller::User { name: name.to_owned(), revision: u64::MAX })
}

/// The superuser.
pub(crate) struct Superuser {
    group: GroupId,
    rng: Rng,
    /// What is still to be done before anything else.
    first: Vec<AuthCommand>,
    asking: Option<AuthCommand>,
}

impl Superuser {
    /// A superuser who has done nothing.
    pub(crate) fn new(group: GroupId, rng: Rng) -> Superuser {
        let text = str::to_owned;
        let first = vec![
            AuthCommand::UserGrantRole { name: text("root"), role: text("root") },
            add_user(text("root")),
        ];
        Superuser { group, rng, first, asking: None }
    }

    fn decide(&mut self) -> AuthCommand {
        let user = format!("user{}", self.rng.below(USERS));
        let role = format!("role{}", self.rng.below(ROLES));
        match self.rng.below(16) {
            0 => AuthCommand::Disable,
            1..=3 => AuthCommand::Enable { secret: TokenSecret::default() },
            4 | 5 => add_user(user),
            6 => AuthCommand::UserDelete { name: user },
            7 | 8 => AuthCommand::RoleAdd { name: role },
            9 => AuthCommand::RoleDelete { name: role },
            10 | 11 => AuthCommand::UserGrantRole { name: user, role },
            12 => AuthCommand::UserRevokeRole { name: user, role },
            13 | 14 => {
                let kinds =
                    [PermissionKind::Read, PermissionKind::Write, PermissionKind::ReadWrite];
                let permission = Permission { kind: self.rng.pick(&kinds), keys: self.keys() };
                AuthCommand::RoleGrantPermission { name: role, permission }
            }
            _ => AuthCommand::RoleRevokePermission { name: role, keys: self.keys() },
        }
    }

    fn keys(&mut self) -> KeyRange {
        let from = self.rng.below(KEYS);
        if self.rng.below(3) == 0 {
            return KeyRange::Key(key(from));
        }
        KeyRange::Span { start: key(from), end: key(self.rng.between(from + 1, KEYS)) }
    }
}

impl Behaviour for Superuser {
    fn wish(&mut self, _: Instant, _: &mut Judges) -> Wish {
        let command = match self.first.last() {
            Some(first) => first.clone(),
            None => self.decide(),
        };
        self.asking = Some(command.clone());
        let what = What::Write(Command::Auth(command));
        Wish { group: self.group, caller: caller("root"), what }
    }

    fn hear(&mut self, heard: Heard, _: Span, judges: &mut Judges) -> Result<(), Breach> {
        let known = matches!(
            heard,
            Heard::Written(_) | Heard::Refused(StoreError::Auth(AuthError::UserExists))
        );
        if known {
            self.first.pop();
        }
        if matches!(heard, Heard::Written(_))
            && matches!(self.asking, Some(AuthCommand::Enable { .. }))
        {
            judges.marks.reach(Mark::AuthEnabled);
        }
        Ok(())
    }

    fn pause(&mut self, _: Instant) -> u64 {
        self.rng.exponential(150 * MILLISECOND)
    }
}

/// A user, who may exist or not.
pub(crate) struct AuthUser {
    group: GroupId,
    rng: Rng,
    name: String,
    number: u64,
    written: u64,
    attempt: Attempt,
    /// The name of a write, or the moment at which a read begins.
    asking: Result<String, usize>,
}

impl AuthUser {
    /// A user who has asked for nothing.
    pub(crate) fn new(number: u64, group: GroupId, mut rng: Rng) -> AuthUser {
        let name = format!("user{}", rng.below(USERS));
        let attempt = Attempt { user: name.clone(), accesses: Vec::new() };
        AuthUser { group, rng, name, number, written: 0, attempt, asking: Err(0) }
    }

    fn accesses(&mut self, access: Access) -> Bytes {
        let key = key(self.rng.below(KEYS));
        self.attempt.accesses.push((access, key.to_vec()));
        key
    }

    fn put(&mut self, name: &str) -> Put {
        let value = Bytes::copy_from_slice(name.as_bytes());
        Put { key: self.accesses(Access::Write), value, ..Put::default() }
    }

    /// A write in a transaction in a transaction, and a read beside it.
    fn nested(&mut self, name: &str) -> Command {
        let read = TxnOp::Range(Range::of(KeyRange::Key(self.accesses(Access::Read))));
        let inner = Txn { success: vec![TxnOp::Put(self.put(name))], ..Txn::default() };
        let middle = Txn { success: vec![TxnOp::Txn(inner)], ..Txn::default() };
        Command::Txn(Txn { success: vec![read, TxnOp::Txn(middle)], ..Txn::default() })
    }
}

impl Behaviour for AuthUser {
    fn wish(&mut self, _: Instant, judges: &mut Judges) -> Wish {
        let permissions = judges.permissions.get_mut(&self.group).expect("one per keyspace");
        self.attempt.accesses.clear();
        self.written += 1;
        let name = format!("auth {}.{}", self.number, self.written);
        let what = match self.rng.below(3) {
            0 => What::Write(Command::Put(self.put(&name))),
            1 => What::Write(self.nested(&name)),
            _ => What::Read(Range::of(KeyRange::Key(self.accesses(Access::Read)))),
        };
        self.asking = match what {
            What::Write(_) => {
                permissions.attempt(&name, self.attempt.clone());
                Ok(name)
            }
            _ => Err(permissions.moment()),
        };
        Wish { group: self.group, caller: caller(&self.name), what }
    }

    fn hear(&mut self, heard: Heard, _: Span, judges: &mut Judges) -> Result<(), Breach> {
        let permissions = judges.permissions.get_mut(&self.group).expect("one per keyspace");
        let checked = match (&self.asking, heard) {
            (Ok(name), Heard::Written(Outcome::Put { .. } | Outcome::Txn { .. })) => {
                permissions.took_effect(name)
            }
            (Ok(name), Heard::Refused(StoreError::Auth(_))) => {
                judges.marks.reach(Mark::PermissionDenied);
                permissions.refused(name)
            }
            (Err(since), Heard::Read(_)) => permissions.read(&self.attempt, *since, true),
            (Err(since), Heard::Refused(StoreError::Auth(_))) => {
                permissions.read(&self.attempt, *since, false)
            }
            _ => Ok(()),
        };
        permission_breach(self.group, checked)
    }

    fn pause(&mut self, _: Instant) -> u64 {
        let slow = self.rng.chance(Chance::percent(5));
        self.rng.exponential(if slow { 1_000 } else { 80 } * MILLISECOND)
    }
}

fn add_user(name: String) -> AuthCommand {
    AuthCommand::UserAdd { name, password: Bytes::from_static(b"hash"), no_password: false }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("auth/{number}"))
}

/// The change that a command makes, if it is about users and roles.
pub(crate) fn change(command: &AuthCommand) -> Option<Change> {
    Some(match command.clone() {
        AuthCommand::Enable { .. } => Change::Enable,
        AuthCommand::Disable => Change::Disable,
        AuthCommand::UserAdd { name, .. } => Change::AddUser(name),
        AuthCommand::UserDelete { name } => Change::DeleteUser(name),
        AuthCommand::UserChangePassword { .. } => return None,
        AuthCommand::UserGrantRole { name, role } => Change::GrantRole(name, role),
        AuthCommand::UserRevokeRole { name, role } => Change::RevokeRole(name, role),
        AuthCommand::RoleAdd { name } => Change::AddRole(name),
        AuthCommand::RoleDelete { name } => Change::DeleteRole(name),
        AuthCommand::RoleGrantPermission { name, permission } => {
            let accesses: &[Access] = match permission.kind {
                PermissionKind::Read => &[Access::Read],
                PermissionKind::Write => &[Access::Write],
                PermissionKind::ReadWrite => &[Access::Read, Access::Write],
            };
            let accesses: BTreeSet<Access> = accesses.iter().copied().collect();
            Change::GrantKeys(name, accesses, span(&permission.keys))
        }
        AuthCommand::RoleRevokePermission { name, keys } => Change::RevokeKeys(name, span(&keys)),
    })
}

fn span(keys: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    match keys {
        KeyRange::Key(key) => (key.to_vec(), [key, &[0][..]].concat()),
        KeyRange::Span { start, end } => (start.to_vec(), end.to_vec()),
        KeyRange::From(start) => (start.to_vec(), vec![0xff; 64]),
    }
}

/// The name of a write: the first value that it puts.
pub(crate) fn name_of(command: &Command) -> Option<&str> {
    fn of_txn(txn: &Txn) -> Option<&Bytes> {
        txn.success.iter().find_map(|op| match op {
            TxnOp::Put(put) => Some(&put.value),
            TxnOp::Txn(txn) => of_txn(txn),
            TxnOp::Range(_) | TxnOp::DeleteRange(_) => None,
        })
    }
    let value = match command {
        Command::Put(put) => Some(&put.value),
        Command::Txn(txn) => of_txn(txn),
        _ => None,
    };
    std::str::from_utf8(value?).ok()
}
