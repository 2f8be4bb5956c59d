//! Turns authentication on in a local cluster: a root user with a password of its own, kept beside
//! the members' data so that a later start knows it.
//!
//! Every step may have been done before.

use std::io::Read;
use std::path::Path;

use tonic::{Code, Status};

use crate::client_access::{ClientAccess, Transport};
use crate::local_certificates::write_secret;
use crate::proto::authpb::UserAddOptions;
use crate::proto::etcdserverpb::auth_client::AuthClient;
use crate::proto::etcdserverpb::{AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest};

/// The user who may do everything, and its role.
pub const ROOT: &str = "root";

/// How long one step may take.
const STEP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// The root password in `directory`, drawn if there is none yet.
///
/// # Errors
/// One sentence about the file.
pub fn root_password(directory: &Path) -> Result<String, String> {
    let path = directory.join("root-password");
    if let Ok(password) = std::fs::read_to_string(&path) {
        return Ok(password.trim_end().to_owned());
    }
    let cannot = |error: std::io::Error| format!("cannot draw a password: {error}");
    let mut bytes = [0; 12];
    let mut random = std::fs::File::open("/dev/urandom").map_err(cannot)?;
    random.read_exact(&mut bytes).map_err(cannot)?;
    let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_secret(&path, &format!("{password}\n"))?;
    Ok(password)
}

/// Adds the root user and turns authentication on, by the member at `address`.
///
/// # Errors
/// One sentence about the step that failed.
pub async fn enable(access: &ClientAccess, address: &str, password: &str) -> Result<(), String> {
    let mut client: AuthClient<Transport> =
        AuthClient::new(access.channel(address, STEP_TIMEOUT).await?);
    let failed = |step: &str, status: &Status| format!("{step}: {}", status.message());
    let add = AuthUserAddRequest {
        name: ROOT.to_owned(),
        password: password.to_owned(),
        options: Some(UserAddOptions { no_password: false }),
        ..AuthUserAddRequest::default()
    };
    match client.user_add(add).await {
        Ok(_) => {}
        Err(status) if status.message().ends_with("user name already exists") => {}
        Err(status) => return Err(failed("the root user cannot be added", &status)),
    }
    let grant = AuthUserGrantRoleRequest { user: ROOT.to_owned(), role: ROOT.to_owned() };
    match client.user_grant_role(grant).await {
        Ok(_) => {}
        // Granted twice, to some servers.
        Err(status) if status.code() == Code::FailedPrecondition => {}
        Err(status) => return Err(failed("the root role cannot be granted", &status)),
    }
    let enabled = client.auth_enable(AuthEnableRequest {}).await;
    enabled.map(drop).map_err(|status| failed("authentication cannot be turned on", &status))
}
