//! Users, roles and the record of authentication, as the engine keeps them (byte tables:
//! docs/formats.md, State).

use super::range_permissions::RangePermissions;
use crate::command::{Permission, PermissionKind, TokenSecret};
use crate::envelope::{
    DecodeError, get_bytes, get_key_range, get_string, get_u8, get_u32, get_u64, put_bytes,
    put_count, put_key_range,
};
use crate::limits::{ROLE_PERMISSIONS_MAX, USER_ROLES_MAX};
use crate::range::KeyRange;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Whether users are asked who they are, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuthRecord {
    pub(crate) enabled: bool,
    /// One more with every change of users, roles, and with every end of authentication.
    pub(crate) revision: u64,
    /// Proofs of before this revision are worthless: authentication was off in between.
    pub(crate) valid_from: u64,
    /// Seals the tokens that members give out; zero while authentication is off.
    pub(crate) secret: TokenSecret,
}

impl Default for AuthRecord {
    fn default() -> AuthRecord {
        // As in etcd, which begins with 1.
        AuthRecord { enabled: false, revision: 1, valid_from: 1, secret: TokenSecret::default() }
    }
}

impl AuthRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(49);
        out.put_u8(u8::from(self.enabled));
        out.put_u64(self.revision);
        out.put_u64(self.valid_from);
        out.put_slice(&self.secret.0);
        out.freeze()
    }

    pub(crate) fn decode(mut input: Bytes) -> Result<AuthRecord, DecodeError> {
        let enabled = match get_u8(&mut input)? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError("whether authentication is on is not known")),
        };
        let (revision, valid_from) = (get_u64(&mut input)?, get_u64(&mut input)?);
        if revision == 0 || valid_from > revision || revision == u64::MAX {
            return Err(DecodeError("an auth revision is out of its bounds"));
        }
        let secret = TokenSecret::decode(&mut input)?;
        ended(&input)?;
        Ok(AuthRecord { enabled, revision, valid_from, secret })
    }
}

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The auth revision at which they were added, or given the password they have: whoever proved
    /// to be them before that proved something else.
    pub since: u64,
    /// Hash of the password, as bcrypt writes it; empty if none fits.
    pub password: Bytes,
    /// Known by a certificate alone.
    pub no_password: bool,
    /// Names of their roles, ascending.
    pub roles: Vec<String>,
}

impl User {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32 + self.password.len());
        out.put_u64(self.since);
        out.put_u8(u8::from(self.no_password));
        put_bytes(&mut out, &self.password);
        put_count(&mut out, self.roles.len());
        for role in &self.roles {
            put_bytes(&mut out, role.as_bytes());
        }
        out.freeze()
    }

    pub(crate) fn decode(mut input: Bytes) -> Result<User, DecodeError> {
        let since = get_u64(&mut input)?;
        let no_password = match get_u8(&mut input)? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError("an option of a user is unknown")),
        };
        let password = get_bytes(&mut input)?;
        let count = get_u32(&mut input)? as usize;
        if count > USER_ROLES_MAX {
            return Err(DecodeError("a user has too many roles"));
        }
        let roles = (0..count).map(|_| get_string(&mut input)).collect::<Result<Vec<_>, _>>()?;
        if !roles.is_sorted_by(|a, b| a < b) {
            return Err(DecodeError("the roles of a user are out of order"));
        }
        ended(&input)?;
        Ok(User { since, password, no_password, roles })
    }
}

/// What holders of a role may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Ascending by key, then by end; of the same keys at most one.
    pub permissions: Vec<Permission>,
}

impl Role {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_count(&mut out, self.permissions.len());
        for permission in &self.permissions {
            put_permission(&mut out, permission);
        }
        out.freeze()
    }

    pub(crate) fn decode(mut input: Bytes) -> Result<Role, DecodeError> {
        let count = get_u32(&mut input)? as usize;
        if count > ROLE_PERMISSIONS_MAX {
            return Err(DecodeError("a role has too many permissions"));
        }
        let permissions =
            (0..count).map(|_| get_permission(&mut input)).collect::<Result<Vec<_>, _>>()?;
        if !permissions.is_sorted_by(|a, b| order(&a.keys) < order(&b.keys)) {
            return Err(DecodeError("the permissions of a role are out of order"));
        }
        ended(&input)?;
        Ok(Role { permissions })
    }
}

/// How the permissions of a role are ordered, and told apart.
pub(crate) fn order(keys: &KeyRange) -> (&[u8], &[u8]) {
    (keys.start(), keys.range_end())
}

pub(crate) fn put_permission(out: &mut BytesMut, permission: &Permission) {
    out.put_u8(match permission.kind {
        PermissionKind::Read => 0,
        PermissionKind::Write => 1,
        PermissionKind::ReadWrite => 2,
    });
    put_key_range(out, &permission.keys);
}

pub(crate) fn get_permission(input: &mut Bytes) -> Result<Permission, DecodeError> {
    let kind = match get_u8(input)? {
        0 => PermissionKind::Read,
        1 => PermissionKind::Write,
        2 => PermissionKind::ReadWrite,
        _ => return Err(DecodeError("a kind of permission is unknown")),
    };
    Ok(Permission { kind, keys: get_key_range(input)? })
}

impl TokenSecret {
    pub(crate) fn decode(input: &mut Bytes) -> Result<TokenSecret, DecodeError> {
        let mut secret = TokenSecret::default();
        let read = input.try_copy_to_slice(&mut secret.0);
        read.map_err(|_| DecodeError("a secret ends too early"))?;
        Ok(secret)
    }
}

fn ended(input: &Bytes) -> Result<(), DecodeError> {
    if input.is_empty() { Ok(()) } else { Err(DecodeError("bytes follow a record's end")) }
}

/// What the roles of one user allow together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserPermissions {
    pub(crate) read: RangePermissions,
    pub(crate) write: RangePermissions,
}

impl UserPermissions {
    pub(crate) fn of<'a>(roles: impl Iterator<Item = &'a Role> + Clone) -> UserPermissions {
        let granted = |but: PermissionKind| {
            let permissions = roles.clone().flat_map(|role| &role.permissions);
            let kept = permissions.filter(move |permission| permission.kind != but);
            RangePermissions::of(kept.map(|permission| &permission.keys))
        };
        UserPermissions {
            read: granted(PermissionKind::Write),
            write: granted(PermissionKind::Read),
        }
    }
}
