//! The bytes of the commands that change users and roles (docs/formats.md, Commands).

use super::records::{get_permission, put_permission};
use crate::command::{AuthCommand, TokenSecret};
use crate::envelope::{
    DecodeError, get_bytes, get_key_range, get_string, get_u8, put_bytes, put_key_range,
};
use bytes::{BufMut, Bytes, BytesMut};

/// Commands of this area have the kinds from here …
pub(crate) const FIRST_COMMAND: u8 = 16;
/// … to here.
pub(crate) const LAST_COMMAND: u8 = 39;

const ENABLE: u8 = 16;
const DISABLE: u8 = 17;
const USER_ADD: u8 = 18;
const USER_DELETE: u8 = 19;
const USER_CHANGE_PASSWORD: u8 = 20;
const USER_GRANT_ROLE: u8 = 21;
const USER_REVOKE_ROLE: u8 = 22;
const ROLE_ADD: u8 = 23;
const ROLE_DELETE: u8 = 24;
const ROLE_GRANT_PERMISSION: u8 = 25;
const ROLE_REVOKE_PERMISSION: u8 = 26;

/// About how many bytes the command takes beyond its fixed part.
pub(crate) fn weight(command: &AuthCommand) -> usize {
    match command {
        AuthCommand::Enable { .. } | AuthCommand::Disable => 32,
        AuthCommand::UserAdd { name, password, .. }
        | AuthCommand::UserChangePassword { name, password } => name.len() + password.len(),
        AuthCommand::UserDelete { name }
        | AuthCommand::RoleAdd { name }
        | AuthCommand::RoleDelete { name } => name.len(),
        AuthCommand::UserGrantRole { name, role } | AuthCommand::UserRevokeRole { name, role } => {
            name.len() + role.len()
        }
        AuthCommand::RoleGrantPermission { name, permission } => {
            name.len() + permission.keys.start().len() + permission.keys.range_end().len()
        }
        AuthCommand::RoleRevokePermission { name, keys } => {
            name.len() + keys.start().len() + keys.range_end().len()
        }
    }
}

pub(crate) fn put_command(out: &mut BytesMut, command: &AuthCommand) {
    let put_text = |out: &mut BytesMut, text: &str| put_bytes(out, text.as_bytes());
    let mut named = |kind: u8, name: &str| {
        out.put_u8(kind);
        put_text(out, name);
    };
    match command {
        AuthCommand::Enable { secret } => {
            out.put_u8(ENABLE);
            out.put_slice(&secret.0);
        }
        AuthCommand::Disable => out.put_u8(DISABLE),
        AuthCommand::UserAdd { name, password, no_password } => {
            named(USER_ADD, name);
            put_bytes(out, password);
            out.put_u8(u8::from(*no_password));
        }
        AuthCommand::UserDelete { name } => named(USER_DELETE, name),
        AuthCommand::UserChangePassword { name, password } => {
            named(USER_CHANGE_PASSWORD, name);
            put_bytes(out, password);
        }
        AuthCommand::UserGrantRole { name, role } => {
            named(USER_GRANT_ROLE, name);
            put_text(out, role);
        }
        AuthCommand::UserRevokeRole { name, role } => {
            named(USER_REVOKE_ROLE, name);
            put_text(out, role);
        }
        AuthCommand::RoleAdd { name } => named(ROLE_ADD, name),
        AuthCommand::RoleDelete { name } => named(ROLE_DELETE, name),
        AuthCommand::RoleGrantPermission { name, permission } => {
            named(ROLE_GRANT_PERMISSION, name);
            put_permission(out, permission);
        }
        AuthCommand::RoleRevokePermission { name, keys } => {
            named(ROLE_REVOKE_PERMISSION, name);
            put_key_range(out, keys);
        }
    }
}

/// Reads the command of this kind.
pub(crate) fn get_command(kind: u8, input: &mut Bytes) -> Result<AuthCommand, DecodeError> {
    Ok(match kind {
        ENABLE => AuthCommand::Enable { secret: TokenSecret::decode(input)? },
        DISABLE => AuthCommand::Disable,
        USER_ADD => AuthCommand::UserAdd {
            name: get_string(input)?,
            password: get_bytes(input)?,
            no_password: match get_u8(input)? {
                0 => false,
                1 => true,
                _ => return Err(DecodeError("an option of a user is unknown")),
            },
        },
        USER_DELETE => AuthCommand::UserDelete { name: get_string(input)? },
        USER_CHANGE_PASSWORD => AuthCommand::UserChangePassword {
            name: get_string(input)?,
            password: get_bytes(input)?,
        },
        USER_GRANT_ROLE => {
            AuthCommand::UserGrantRole { name: get_string(input)?, role: get_string(input)? }
        }
        USER_REVOKE_ROLE => {
            AuthCommand::UserRevokeRole { name: get_string(input)?, role: get_string(input)? }
        }
        ROLE_ADD => AuthCommand::RoleAdd { name: get_string(input)? },
        ROLE_DELETE => AuthCommand::RoleDelete { name: get_string(input)? },
        ROLE_GRANT_PERMISSION => AuthCommand::RoleGrantPermission {
            name: get_string(input)?,
            permission: get_permission(input)?,
        },
        ROLE_REVOKE_PERMISSION => AuthCommand::RoleRevokePermission {
            name: get_string(input)?,
            keys: get_key_range(input)?,
        },
        _ => return Err(DecodeError("its command is unknown")),
    })
}
