//! Requests and replies of the Auth service: validated as etcd validates them, and said in
//! `store`'s words. Passwords pass by: what becomes of them is the node's business.

use super::errors::{Code, PERMISSION_NOT_GIVEN, ProtocolError};
use super::keyspace_request::key_range;
use super::limits::ACCOUNT_NAME_BYTES_MAX;
use super::pb;
use crate::proto::authpb;
use bytes::Bytes;
use store::command::{AuthCommand, Permission, PermissionKind};
use store::range::KeyRange;
use store::{ROOT, Role};

/// What a user is to be known by.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A password, to be hashed.
    Password(String),
    /// The hash of one, as base64 says it.
    Hashed(String),
    /// Nothing: a certificate says who they are.
    Nothing,
}

/// The name and what proves it, of a UserAdd. etcd hashes an empty password if there is none; a
/// hash that comes along is taken first here, as with UserChangePassword.
pub fn user_add(request: pb::AuthUserAddRequest) -> Result<(String, Secret), ProtocolError> {
    let name = account_name(request.name)?;
    let no_password = request.options.is_some_and(|options| options.no_password);
    let secret = match (no_password, request.password, request.hashed_password) {
        (true, _, _) => Secret::Nothing,
        (false, password, hash) if password.is_empty() && !hash.is_empty() => Secret::Hashed(hash),
        (false, password, _) => Secret::Password(password),
    };
    Ok((name, secret))
}

/// The name and what is to prove it, of a UserChangePassword.
pub fn user_change_password(
    request: pb::AuthUserChangePasswordRequest,
) -> Result<(String, Secret), ProtocolError> {
    let secret = match (request.password, request.hashed_password) {
        (password, _) if !password.is_empty() => Secret::Password(password),
        (_, hash) if !hash.is_empty() => Secret::Hashed(hash),
        // As in etcd: no password fits any more.
        _ => Secret::Nothing,
    };
    Ok((account_name(request.name)?, secret))
}

/// A UserDelete.
pub fn user_delete(request: pb::AuthUserDeleteRequest) -> Result<AuthCommand, ProtocolError> {
    Ok(AuthCommand::UserDelete { name: account_name(request.name)? })
}

/// A UserGrantRole.
pub fn user_grant_role(
    request: pb::AuthUserGrantRoleRequest,
) -> Result<AuthCommand, ProtocolError> {
    let (name, role) = (account_name(request.user)?, account_name(request.role)?);
    Ok(AuthCommand::UserGrantRole { name, role })
}

/// A UserRevokeRole.
pub fn user_revoke_role(
    request: pb::AuthUserRevokeRoleRequest,
) -> Result<AuthCommand, ProtocolError> {
    let (name, role) = (account_name(request.name)?, account_name(request.role)?);
    Ok(AuthCommand::UserRevokeRole { name, role })
}

/// A RoleAdd.
pub fn role_add(request: pb::AuthRoleAddRequest) -> Result<AuthCommand, ProtocolError> {
    Ok(AuthCommand::RoleAdd { name: account_name(request.name)? })
}

/// A RoleDelete.
pub fn role_delete(request: pb::AuthRoleDeleteRequest) -> Result<AuthCommand, ProtocolError> {
    Ok(AuthCommand::RoleDelete { name: account_name(request.role)? })
}

/// A RoleGrantPermission. Whether the keys make sense is said where it is applied.
pub fn role_grant_permission(
    request: pb::AuthRoleGrantPermissionRequest,
) -> Result<AuthCommand, ProtocolError> {
    let permission = request.perm.ok_or(PERMISSION_NOT_GIVEN)?;
    let kind = match authpb::permission::Type::try_from(permission.perm_type) {
        Ok(authpb::permission::Type::Read) => PermissionKind::Read,
        Ok(authpb::permission::Type::Write) => PermissionKind::Write,
        Ok(authpb::permission::Type::Readwrite) => PermissionKind::ReadWrite,
        Err(_) => {
            let text = format!("quorate: there is no permission of type {}", permission.perm_type);
            return Err(ProtocolError::of(Code::InvalidArgument, text));
        }
    };
    let keys = key_range(permission.key, permission.range_end);
    let name = account_name(request.name)?;
    Ok(AuthCommand::RoleGrantPermission { name, permission: Permission { kind, keys } })
}

/// A RoleRevokePermission.
pub fn role_revoke_permission(
    request: pb::AuthRoleRevokePermissionRequest,
) -> Result<AuthCommand, ProtocolError> {
    let keys = key_range(request.key, request.range_end);
    Ok(AuthCommand::RoleRevokePermission { name: account_name(request.role)?, keys })
}

/// The permissions of a role, as clients see them; root's are not kept, since they are everything.
#[must_use]
pub fn permissions(name: &str, role: &Role) -> Vec<authpb::Permission> {
    if name == ROOT {
        let everything = KeyRange::From(Bytes::new());
        let all = Permission { kind: PermissionKind::ReadWrite, keys: everything };
        return vec![listed(&all)];
    }
    role.permissions.iter().map(listed).collect()
}

fn listed(permission: &Permission) -> authpb::Permission {
    let kind = match permission.kind {
        PermissionKind::Read => authpb::permission::Type::Read,
        PermissionKind::Write => authpb::permission::Type::Write,
        PermissionKind::ReadWrite => authpb::permission::Type::Readwrite,
    };
    authpb::Permission {
        perm_type: kind as i32,
        key: permission.keys.start().clone(),
        range_end: Bytes::copy_from_slice(permission.keys.range_end()),
    }
}

/// A name of a user or a role; whether it may be empty is said where it is applied.
fn account_name(name: String) -> Result<String, ProtocolError> {
    if name.len() <= ACCOUNT_NAME_BYTES_MAX {
        return Ok(name);
    }
    let text = format!(
        "quorate: a name of {} bytes is too long, {ACCOUNT_NAME_BYTES_MAX} are possible",
        name.len()
    );
    Err(ProtocolError::of(Code::InvalidArgument, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::AuthRoleGrantPermissionRequest as Grant;

    fn granted(key: &'static str, range_end: &'static str) -> KeyRange {
        let perm =
            authpb::Permission { perm_type: 2, key: key.into(), range_end: range_end.into() };
        match role_grant_permission(Grant { name: "r".into(), perm: Some(perm) }) {
            Ok(AuthCommand::RoleGrantPermission { permission, .. }) => permission.keys,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ranges_of_permissions_mean_what_they_mean_in_requests() {
        assert_eq!(granted("k", ""), KeyRange::Key("k".into()));
        assert_eq!(granted("k", "\0"), KeyRange::From("k".into()));
        assert_eq!(granted("\0", "\0"), KeyRange::From("\0".into()), "everything");
        let span = KeyRange::Span { start: "k".into(), end: "l".into() };
        assert_eq!(granted("k", "l"), span);
        for (key, range_end) in [("k", ""), ("k", "\0"), ("k", "l")] {
            let keys = granted(key, range_end);
            let shown = listed(&Permission { kind: PermissionKind::Read, keys });
            assert_eq!(
                (&shown.key[..], &shown.range_end[..]),
                (key.as_bytes(), range_end.as_bytes())
            );
        }
    }

    #[test]
    fn what_cannot_be_granted_is_refused() {
        let none = role_grant_permission(Grant { name: "r".into(), perm: None });
        assert_eq!(none, Err(PERMISSION_NOT_GIVEN));
        let perm = authpb::Permission { perm_type: 3, key: "k".into(), range_end: Bytes::new() };
        let unknown = role_grant_permission(Grant { name: "r".into(), perm: Some(perm) });
        assert_eq!(unknown.unwrap_err().code, Code::InvalidArgument);
        let name = "r".repeat(ACCOUNT_NAME_BYTES_MAX + 1);
        let long = role_add(pb::AuthRoleAddRequest { name });
        assert_eq!(long.unwrap_err().code, Code::InvalidArgument);
        let name = "r".repeat(ACCOUNT_NAME_BYTES_MAX);
        assert!(role_add(pb::AuthRoleAddRequest { name }).is_ok());
    }

    #[test]
    fn root_is_shown_with_everything_as_in_etcd() {
        let shown = permissions(ROOT, &Role::default());
        let everything =
            authpb::Permission { perm_type: 2, key: Bytes::new(), range_end: "\0".into() };
        assert_eq!(shown, [everything]);
        assert_eq!(permissions("r", &Role::default()), []);
    }
}
