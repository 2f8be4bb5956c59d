//! Changing users and roles: each command checks everything first, then changes memory and engine
//! alike.

use super::records::order;
use super::{Account, Accounts, ROOT, Role, User};
use crate::chain_hash::ChainHash;
use crate::command::{AuthCommand, Permission, TokenSecret};
use crate::key_layout::{Layout, META_AUTH};
use crate::limits::{ROLE_PERMISSIONS_MAX, ROLES_MAX, USER_ROLES_MAX, USERS_MAX};
use crate::overlay::Overlay;
use crate::range::KeyRange;
use crate::reply::AuthError;
use bytes::Bytes;
use std::sync::{Arc, OnceLock};

/// Makes a change that its caller may make.
///
/// # Errors
/// It cannot be made; nothing changed.
pub(crate) fn change(
    accounts: &mut Arc<Accounts>,
    command: &AuthCommand,
    layout: Layout,
    overlay: &mut Overlay,
    hash: &mut ChainHash,
) -> Result<(), AuthError> {
    if accounts.is_enabled() && command.disowns_root() {
        return Err(AuthError::InvalidManagement);
    }
    Change { accounts, layout, overlay, hash }.run(command)
}

/// A change under way.
struct Change<'a> {
    accounts: &'a mut Arc<Accounts>,
    layout: Layout,
    overlay: &'a mut Overlay,
    hash: &'a mut ChainHash,
}

impl Change<'_> {
    fn run(&mut self, command: &AuthCommand) -> Result<(), AuthError> {
        match command {
            AuthCommand::Enable { secret } => self.enable(secret),
            AuthCommand::Disable => self.disable(),
            AuthCommand::UserAdd { name, password, no_password } => {
                self.add_user(name, password, *no_password)
            }
            AuthCommand::UserDelete { name } => self.delete_user(name),
            AuthCommand::UserChangePassword { name, password } => {
                self.change_password(name, password)
            }
            AuthCommand::UserGrantRole { name, role } => self.grant_role(name, role),
            AuthCommand::UserRevokeRole { name, role } => self.revoke_role(name, role),
            AuthCommand::RoleAdd { name } => self.add_role(name),
            AuthCommand::RoleDelete { name } => self.delete_role(name),
            AuthCommand::RoleGrantPermission { name, permission } => {
                self.grant_permission(name, permission)
            }
            AuthCommand::RoleRevokePermission { name, keys } => self.revoke_permission(name, keys),
        }
    }

    fn enable(&mut self, secret: &TokenSecret) -> Result<(), AuthError> {
        if self.accounts.is_enabled() {
            return Ok(());
        }
        let root = self.accounts.user(ROOT).ok_or(AuthError::RootUserNotFound)?;
        if !root.roles.iter().any(|role| role == ROOT) {
            return Err(AuthError::RootRoleNotGranted);
        }
        let record = &mut Arc::make_mut(self.accounts).record;
        record.enabled = true;
        record.valid_from = record.revision;
        record.secret = secret.clone();
        self.write_record();
        Ok(())
    }

    fn disable(&mut self) -> Result<(), AuthError> {
        if !self.accounts.is_enabled() {
            return Ok(());
        }
        let record = &mut Arc::make_mut(self.accounts).record;
        record.enabled = false;
        record.secret = TokenSecret::default();
        self.commit();
        Ok(())
    }

    fn add_user(
        &mut self,
        name: &str,
        password: &Bytes,
        no_password: bool,
    ) -> Result<(), AuthError> {
        if name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.accounts.users.contains_key(name) {
            return Err(AuthError::UserExists);
        }
        if self.accounts.users.len() >= USERS_MAX {
            return Err(AuthError::TooMany);
        }
        let password = if no_password { Bytes::new() } else { password.clone() };
        let since = self.next_revision();
        self.put_user(name, User { since, password, no_password, roles: Vec::new() });
        self.commit();
        Ok(())
    }

    fn delete_user(&mut self, name: &str) -> Result<(), AuthError> {
        self.user(name)?;
        Arc::make_mut(self.accounts).users.remove(name);
        self.hash.note("user deleted", name.as_bytes());
        self.overlay.delete(self.layout.user(name));
        self.commit();
        Ok(())
    }

    fn change_password(&mut self, name: &str, password: &Bytes) -> Result<(), AuthError> {
        let mut user = self.user(name)?;
        if !user.no_password {
            user.password = password.clone();
        }
        user.since = self.next_revision();
        self.put_user(name, user);
        self.commit();
        Ok(())
    }

    fn grant_role(&mut self, name: &str, role: &str) -> Result<(), AuthError> {
        let mut user = self.user(name)?;
        if role != ROOT && self.accounts.role(role).is_none() {
            return Err(AuthError::RoleNotFound);
        }
        let Err(place) = user.roles.binary_search_by(|own| own.as_str().cmp(role)) else {
            return Ok(());
        };
        if user.roles.len() >= USER_ROLES_MAX {
            return Err(AuthError::TooMany);
        }
        user.roles.insert(place, role.to_owned());
        self.put_user(name, user);
        self.commit();
        Ok(())
    }

    fn revoke_role(&mut self, name: &str, role: &str) -> Result<(), AuthError> {
        let mut user = self.user(name)?;
        let place = user.roles.binary_search_by(|own| own.as_str().cmp(role));
        user.roles.remove(place.map_err(|_| AuthError::RoleNotGranted)?);
        self.put_user(name, user);
        self.commit();
        Ok(())
    }

    fn add_role(&mut self, name: &str) -> Result<(), AuthError> {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.accounts.role(name).is_some() {
            return Err(AuthError::RoleExists);
        }
        if self.accounts.roles.len() >= ROLES_MAX {
            return Err(AuthError::TooMany);
        }
        self.put_role(name, Role::default());
        self.commit();
        Ok(())
    }

    fn delete_role(&mut self, name: &str) -> Result<(), AuthError> {
        self.role(name)?;
        Arc::make_mut(self.accounts).roles.remove(name);
        self.hash.note("role deleted", name.as_bytes());
        self.overlay.delete(self.layout.role(name));
        for holder in self.holders(name) {
            let mut user = self.user(&holder)?;
            user.roles.retain(|role| role != name);
            self.put_user(&holder, user);
        }
        self.commit();
        Ok(())
    }

    fn grant_permission(&mut self, name: &str, permission: &Permission) -> Result<(), AuthError> {
        let keys = &permission.keys;
        let is_empty = matches!(keys, KeyRange::Span { start, end } if end <= start);
        if keys.start().is_empty() || is_empty {
            return Err(AuthError::InvalidManagement);
        }
        let mut role = self.role(name)?;
        let permissions = &mut role.permissions;
        match permissions.binary_search_by(|granted| order(&granted.keys).cmp(&order(keys))) {
            Ok(place) => permissions[place] = permission.clone(),
            Err(_) if permissions.len() >= ROLE_PERMISSIONS_MAX => return Err(AuthError::TooMany),
            Err(place) => permissions.insert(place, permission.clone()),
        }
        self.put_role(name, role);
        self.commit();
        Ok(())
    }

    fn revoke_permission(&mut self, name: &str, keys: &KeyRange) -> Result<(), AuthError> {
        let mut role = self.role(name)?;
        let granted = &mut role.permissions;
        let place = granted.binary_search_by(|granted| order(&granted.keys).cmp(&order(keys)));
        granted.remove(place.map_err(|_| AuthError::PermissionNotGranted)?);
        self.put_role(name, role);
        self.commit();
        Ok(())
    }

    fn user(&self, name: &str) -> Result<User, AuthError> {
        self.accounts.user(name).cloned().ok_or(AuthError::UserNotFound)
    }

    fn role(&self, name: &str) -> Result<Role, AuthError> {
        self.accounts.role(name).cloned().ok_or(AuthError::RoleNotFound)
    }

    fn holders(&self, role: &str) -> Vec<String> {
        let holds = |account: &Account| account.user.roles.iter().any(|own| own == role);
        let users = self.accounts.users.iter().filter(|(_, account)| holds(account));
        users.map(|(name, _)| name.clone()).collect()
    }

    fn put_user(&mut self, name: &str, user: User) {
        let record = user.encode();
        let account = Account { user, permissions: OnceLock::new() };
        Arc::make_mut(self.accounts).users.insert(name.to_owned(), Arc::new(account));
        self.hash.note("user", name.as_bytes());
        self.hash.note("user record", &record);
        self.overlay.put(self.layout.user(name), record);
    }

    fn put_role(&mut self, name: &str, role: Role) {
        let record = role.encode();
        self.hash.note("role", name.as_bytes());
        self.hash.note("role record", &record);
        self.overlay.put(self.layout.role(name), record);
        let holders = self.holders(name);
        let accounts = Arc::make_mut(self.accounts);
        accounts.roles.insert(name.to_owned(), Arc::new(role));
        for holder in holders {
            let account = accounts.users.get_mut(&holder).expect("holders are users");
            // What it allows is found out anew.
            *account =
                Arc::new(Account { user: account.user.clone(), permissions: OnceLock::new() });
        }
    }

    fn next_revision(&self) -> u64 {
        self.accounts.revision() + 1
    }

    fn commit(&mut self) {
        let revision = self.next_revision();
        Arc::make_mut(self.accounts).record.revision = revision;
        self.write_record();
    }

    fn write_record(&mut self) {
        let record = self.accounts.record.encode();
        self.hash.note("authentication", &record);
        self.overlay.put(self.layout.meta(META_AUTH), record);
    }
}
