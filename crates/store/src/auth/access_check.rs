//! May they? The question before every command, where it is applied, and before every read.
//!
//! A request is checked in the form in which it is executed (`KeyRange`), so that no way to write
//! an end can mean one set of keys here and another one there. Of a transaction everything is
//! checked, both branches and every level, whatever the comparisons say: what a caller learns from
//! a refusal depends on nobody's keys.

use super::{Accounts, ROOT, UserPermissions};
use crate::command::{AuthCommand, Caller, Command, DeleteRange, Put, Txn, TxnOp};
use crate::failure::StoreFailure;
use crate::range::KeyRange;
use crate::reply::AuthError;
use crate::versioned_value::Stop;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// What a caller may do, at one moment.
#[derive(Clone, Copy, Debug)]
pub enum Standing<'a> {
    /// Everything: authentication is off, or they have the role of root.
    Everything,
    /// What their roles allow.
    Limited(Limits<'a>),
}

/// See [`Standing::Limited`].
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    permissions: &'a UserPermissions,
}

/// The keys attached to a lease.
type LeaseKeys<'a> = &'a dyn Fn(i64) -> Result<Vec<Bytes>, StoreFailure>;

impl Accounts {
    /// What a caller may do.
    ///
    /// # Errors
    /// If they did not say who they are, or what proved it has been overtaken.
    pub fn standing(&self, caller: Option<&Caller>) -> Result<Standing<'_>, AuthError> {
        if !self.is_enabled() {
            return Ok(Standing::Everything);
        }
        let (name, proved_at) = match caller {
            None => return Err(AuthError::UserEmpty),
            Some(Caller::Cluster) => return Ok(Standing::Everything),
            Some(Caller::User { name, revision }) => (name, *revision),
        };
        if proved_at < self.record.valid_from {
            return Err(AuthError::OldRevision);
        }
        let account = self.users.get(name).ok_or(AuthError::PermissionDenied)?;
        if proved_at < account.user.since {
            return Err(AuthError::OldRevision);
        }
        if self.has_role(name, ROOT) {
            return Ok(Standing::Everything);
        }
        let permissions = account.permissions.get_or_init(|| {
            let roles = account.user.roles.iter().filter_map(|role| self.role(role));
            UserPermissions::of(roles)
        });
        Ok(Standing::Limited(Limits { permissions }))
    }

    /// Refuses everybody but those who may do everything.
    ///
    /// # Errors
    /// They may not, or did not say who they are.
    pub fn require_root(&self, caller: Option<&Caller>) -> Result<(), AuthError> {
        if let Some(Caller::User { name, .. }) = caller
            && self.is_enabled()
            && !self.users.contains_key(name)
        {
            return Err(AuthError::UserNotFound);
        }
        match self.standing(caller)? {
            Standing::Everything => Ok(()),
            Standing::Limited(_) => Err(AuthError::PermissionDenied),
        }
    }

    /// Refuses whoever may not know of a user: all but root and the user.
    ///
    /// # Errors
    /// As [`Accounts::require_root`].
    pub fn may_see_user(&self, caller: Option<&Caller>, name: &str) -> Result<(), AuthError> {
        let own = matches!(caller, Some(Caller::User { name: own, .. }) if own == name);
        self.require_root(caller)
            .or_else(|refusal| if own { self.standing(caller).map(drop) } else { Err(refusal) })
    }

    /// Refuses whoever may not know of a role: all but root and those who have it.
    ///
    /// # Errors
    /// As [`Accounts::require_root`].
    pub fn may_see_role(&self, caller: Option<&Caller>, role: &str) -> Result<(), AuthError> {
        let own = matches!(caller, Some(Caller::User { name, .. }) if self.has_role(name, role));
        self.require_root(caller)
            .or_else(|refusal| if own { self.standing(caller).map(drop) } else { Err(refusal) })
    }

    fn has_role(&self, user: &str, role: &str) -> bool {
        let roles = self.user(user).map_or(&[][..], |user| &user.roles);
        roles.binary_search_by(|own| own.as_str().cmp(role)).is_ok()
    }
}

impl Standing<'_> {
    /// Whether all of `keys` may be read.
    ///
    /// # Errors
    /// They may not.
    pub fn may_read(&self, keys: &KeyRange) -> Result<(), AuthError> {
        match self {
            Standing::Limited(limits) if !limits.permissions.read.allow(keys) => {
                Err(AuthError::PermissionDenied)
            }
            _ => Ok(()),
        }
    }

    /// Whether all of `keys` may be written.
    ///
    /// # Errors
    /// They may not.
    pub fn may_write(&self, keys: &KeyRange) -> Result<(), AuthError> {
        match self {
            Standing::Limited(limits) if !limits.permissions.write.allow(keys) => {
                Err(AuthError::PermissionDenied)
            }
            _ => Ok(()),
        }
    }

    /// Whether a transaction that only reads may be made.
    ///
    /// # Errors
    /// It may not.
    pub fn may_read_txn(&self, txn: &Txn) -> Result<(), AuthError> {
        for compare in &txn.compare {
            self.may_read(&compare.keys)?;
        }
        txn.success.iter().chain(&txn.failure).try_for_each(|op| match op {
            TxnOp::Range(range) => self.may_read(&range.keys),
            TxnOp::Txn(txn) => self.may_read_txn(txn),
            TxnOp::Put(_) | TxnOp::DeleteRange(_) => Err(AuthError::PermissionDenied),
        })
    }

    /// A key put under a lease is deleted with it, by whoever may write the keys that it has
    /// already: these must be the caller's to write, or the lease stays somebody else's.
    fn may_put(&self, put: &Put, lease_keys: LeaseKeys<'_>) -> Result<(), Stop> {
        let key = KeyRange::Key(put.key.clone());
        self.may_write(&key)?;
        self.may_write_lease(put.lease, lease_keys)?;
        if put.prev_kv {
            self.may_read(&key)?;
        }
        Ok(())
    }

    fn may_write_lease(&self, lease: i64, lease_keys: LeaseKeys<'_>) -> Result<(), Stop> {
        if lease == 0 || matches!(self, Standing::Everything) {
            return Ok(());
        }
        for key in lease_keys(lease)? {
            self.may_write(&KeyRange::Key(key))?;
        }
        Ok(())
    }

    fn may_delete(&self, delete: &DeleteRange) -> Result<(), AuthError> {
        self.may_write(&delete.keys)?;
        if delete.prev_kv { self.may_read(&delete.keys) } else { Ok(()) }
    }

    fn may_run(&self, txn: &Txn, lease_keys: LeaseKeys<'_>) -> Result<(), Stop> {
        for compare in &txn.compare {
            self.may_read(&compare.keys)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                TxnOp::Range(range) => self.may_read(&range.keys)?,
                TxnOp::Put(put) => self.may_put(put, lease_keys)?,
                TxnOp::DeleteRange(delete) => self.may_delete(delete)?,
                TxnOp::Txn(txn) => self.may_run(txn, lease_keys)?,
            }
        }
        Ok(())
    }
}

/// Refuses a command that its caller may not give, by the users and roles of this place in the log.
/// Every command is listed: a new one is a decision.
pub(crate) fn check_command(
    accounts: &Accounts,
    caller: Option<&Caller>,
    command: &Command,
    lease_keys: LeaseKeys<'_>,
) -> Result<(), Stop> {
    if !accounts.is_enabled() {
        return Ok(());
    }
    // Many puts of a transaction under one lease: its keys are looked at once. Whether they may be
    // written does not change within a command, and the first refusal ends the check.
    let looked_at = RefCell::new(BTreeSet::new());
    let lease_keys: LeaseKeys<'_> = &|lease| {
        let is_new = looked_at.borrow_mut().insert(lease);
        if is_new { lease_keys(lease) } else { Ok(Vec::new()) }
    };
    match command {
        // Upkeep of the core, which no client can ask for.
        Command::OpenSession
        | Command::RegisterMember(_)
        | Command::RaiseFeatureLevel { .. }
        | Command::LeaseTick { .. } => {}
        // Not of this group, which has the users: asked of root by the member.
        Command::Membership(_) => {}
        // Renewals of many callers travel together: each was checked by its member.
        Command::LeaseRenew { .. } => {}
        Command::LeaseGrant { .. } => drop(accounts.standing(caller)?),
        Command::LeaseRevoke { id } => {
            accounts.standing(caller)?.may_write_lease(*id, lease_keys)?;
        }
        Command::Put(put) => accounts.standing(caller)?.may_put(put, lease_keys)?,
        Command::DeleteRange(delete) => accounts.standing(caller)?.may_delete(delete)?,
        Command::Txn(txn) => accounts.standing(caller)?.may_run(txn, lease_keys)?,
        Command::Compact { .. } | Command::Auth(_) => accounts.require_root(caller)?,
    }
    Ok(())
}

impl AuthCommand {
    /// Whether it would take from root what makes it root.
    pub(super) fn disowns_root(&self) -> bool {
        match self {
            AuthCommand::UserDelete { name } | AuthCommand::RoleDelete { name } => name == ROOT,
            AuthCommand::UserRevokeRole { name, role } => name == ROOT && role == ROOT,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Account, AuthRecord, Role, User};
    use crate::command::{Permission, PermissionKind};
    use std::cell::Cell;
    use std::sync::Arc;

    /// Ann may write the key a.
    fn accounts() -> Accounts {
        let record = AuthRecord { enabled: true, ..AuthRecord::default() };
        let mut accounts = Accounts { record, ..Accounts::default() };
        let user = User { since: 1, roles: vec!["some".to_owned()], ..User::default() };
        let account = Account { user, ..Account::default() };
        accounts.users.insert("ann".to_owned(), Arc::new(account));
        let keys = KeyRange::Key(Bytes::from_static(b"a"));
        let permissions = vec![Permission { kind: PermissionKind::ReadWrite, keys }];
        accounts.roles.insert("some".to_owned(), Arc::new(Role { permissions }));
        accounts
    }

    #[test]
    fn the_keys_of_a_lease_are_looked_at_once_for_a_command() {
        let put =
            |lease| TxnOp::Put(Put { key: Bytes::from_static(b"a"), lease, ..Put::default() });
        let nested = Txn { success: (0..64).map(|_| put(7)).collect(), ..Txn::default() };
        let mut txn = Txn { failure: (0..63).map(|_| put(7)).collect(), ..Txn::default() };
        txn.success.push(TxnOp::Txn(nested));
        let ann = Caller::User { name: "ann".to_owned(), revision: 1 };
        let (accounts, looks, attached) = (accounts(), Cell::new(0), Cell::new("a"));
        let lease_keys = |lease: i64| {
            looks.set(looks.get() + 1);
            let key = if lease == 7 { attached.get() } else { "b" };
            Ok::<_, StoreFailure>(vec![Bytes::from_static(key.as_bytes())])
        };
        let check = |txn: &Txn| {
            let command = Command::Txn(txn.clone());
            check_command(&accounts, Some(&ann), &command, &lease_keys).is_ok()
        };
        assert!(check(&txn));
        assert_eq!(looks.get(), 1);
        txn.success.push(put(8));
        assert!(!check(&txn), "every lease is looked at");
        txn.success.pop();
        attached.set("b");
        assert!(!check(&txn), "somebody else's");
    }
}
