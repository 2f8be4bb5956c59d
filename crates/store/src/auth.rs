//! Role-Based Access Control: users have roles, roles allow reading or writing ranges of keys.
//!
//! Sandhu et al. 1996 (RBAC0); used by etcd (whose rules these are), PostgreSQL and Kubernetes.
//! Users and roles are state like any other: changed through the log, hashed, part of snapshots. So
//! a command is checked where it is applied, against the users and roles of that place in the log,
//! and every member decides alike, also in the middle of authentication being turned on.
//!
//! Invariant: what is in memory equals what the engine holds after the batch is written. The auth
//! revision grows with every change that may turn a yes into a no.
//!
//! Not here: passwords and tokens (`node`): only hashes and a secret to seal tokens pass through.

mod access_check;
mod changes;
mod command_codec;
mod range_permissions;
mod records;

pub use access_check::Standing;
pub use records::{Role, User};

pub(crate) use access_check::check_command;
pub(crate) use changes::change;
pub(crate) use command_codec::{FIRST_COMMAND, LAST_COMMAND, get_command, put_command, weight};

use crate::command::TokenSecret;
use crate::envelope::DecodeError;
use crate::failure::StoreFailure;
use crate::key_layout::{Layout, META_AUTH, PREFIX_LENGTH, Space, as_slices};
use crate::{EngineError, EngineSnapshot, Pair};
use bytes::Bytes;
use records::{AuthRecord, UserPermissions};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// The user, and the role, that may do everything.
pub const ROOT: &str = "root";

/// More changes of users and roles than a cluster sees between a backup and its end.
const REFOUNDING_REVISIONS: u64 = 1 << 32;

/// Users and roles as of one moment; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    record: AuthRecord,
    users: BTreeMap<String, Arc<Account>>,
    roles: BTreeMap<String, Arc<Role>>,
}

/// A user, and what their roles allow: found out when it is first asked for.
#[derive(Clone, Debug, Default)]
struct Account {
    user: User,
    permissions: OnceLock<UserPermissions>,
}

impl Accounts {
    /// Reads back what the engine holds.
    pub(crate) fn load(
        snapshot: &dyn EngineSnapshot,
        layout: Layout,
    ) -> Result<Accounts, StoreFailure> {
        let mut accounts =
            Accounts { record: read_record(snapshot, layout)?, ..Accounts::default() };
        let each = |space, take: &mut dyn FnMut(String, Bytes) -> Result<(), DecodeError>| {
            let bounds = layout.space_bounds(space);
            let (from, to) = as_slices(&bounds);
            for pair in snapshot.scan(from, to) {
                let taken = named(pair).map(|(name, value)| take(name?, value))?;
                taken.map_err(|_| corrupt(layout, "a user or a role"))?;
            }
            Ok::<(), StoreFailure>(())
        };
        each(Space::Users, &mut |name, value| {
            let account = Account { user: User::decode(value)?, permissions: OnceLock::new() };
            accounts.users.insert(name, Arc::new(account));
            Ok(())
        })?;
        each(Space::Roles, &mut |name, value| {
            accounts.roles.insert(name, Arc::new(Role::decode(value)?));
            Ok(())
        })?;
        Ok(accounts)
    }

    /// Whether users are asked who they are.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.record.enabled
    }

    /// One more with every change of users and roles.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.record.revision
    }

    /// What seals tokens; nothing is sealed with it while authentication is off.
    #[must_use]
    pub fn secret(&self) -> &TokenSecret {
        &self.record.secret
    }

    /// A user.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|account| &account.user)
    }

    /// The names of all users, ascending.
    pub fn user_names(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// A role.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name).map(|role| &**role)
    }

    /// The names of all roles, ascending.
    pub fn role_names(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The record of authentication with which a new cluster goes on from these; none if users and
    /// roles were never touched. The old cluster may have gone on after this state was saved: the
    /// revision moves past every one that it can have reached, and what was proved there is
    /// worthless.
    pub(crate) fn refounded(&self, secret: TokenSecret) -> Option<Bytes> {
        if self.record == AuthRecord::default() {
            return None;
        }
        let revision = self.record.revision.saturating_add(REFOUNDING_REVISIONS);
        let revision = revision.min(u64::MAX - 1);
        let secret = if self.record.enabled { secret } else { TokenSecret::default() };
        let enabled = self.record.enabled;
        Some(AuthRecord { enabled, revision, valid_from: revision, secret }.encode())
    }

    /// Whether these are the users and roles that `snapshot` holds: a change of either leaves a
    /// new record.
    pub(crate) fn are_of(
        &self,
        snapshot: &dyn EngineSnapshot,
        layout: Layout,
    ) -> Result<bool, StoreFailure> {
        Ok(self.record == read_record(snapshot, layout)?)
    }
}

fn read_record(snapshot: &dyn EngineSnapshot, layout: Layout) -> Result<AuthRecord, StoreFailure> {
    match snapshot.get(&layout.meta(META_AUTH))? {
        None => Ok(AuthRecord::default()),
        Some(record) => {
            AuthRecord::decode(record).map_err(|_| corrupt(layout, "the record of authentication"))
        }
    }
}

type Named = (Result<String, DecodeError>, Bytes);

fn named(pair: Result<Pair, EngineError>) -> Result<Named, EngineError> {
    let (mut key, value) = pair?;
    let name = String::from_utf8(key.split_off(PREFIX_LENGTH).into());
    Ok((name.map_err(|_| DecodeError("a name is not UTF-8")), value))
}

fn corrupt(layout: Layout, record: &'static str) -> StoreFailure {
    StoreFailure::CorruptState { group: layout.group, record }
}

/// Refuses a record of a snapshot that would be unreadable.
pub(crate) fn check_record(space: Space, name: &Bytes, value: Bytes) -> Result<(), DecodeError> {
    let named = || str::from_utf8(name).is_ok_and(|name| !name.is_empty());
    match space {
        Space::Users if named() => User::decode(value).map(drop),
        Space::Roles if named() => Role::decode(value).map(drop),
        Space::Meta => AuthRecord::decode(value).map(drop),
        _ => Err(DecodeError("a user or a role has no name")),
    }
}
