//! The Auth service: users, roles, and tokens for passwords.
//!
//! Changes go through the log, with nothing of a password but its hash. Reads come after a barrier,
//! since who has just lost a role must not be told that they have it.

use super::admission::Admitted;
use super::authentication::Authentication;
use super::deadline::Deadline;
use super::limits::{LOGIN_PASSWORD_BYTES_MAX, SHOWN_NAME_BYTES_MAX};
use super::passwords::foreign_hash;
use super::refusal;
use super::services::etcdserverpb::auth_server::Auth;
use crate::NodeHandle;
use crate::data_directory::random_bytes;
use bytes::Bytes;
use clocks::GroupId;
use replica::RequestError;
use std::sync::Arc;
use store::Accounts;
use store::command::{AuthCommand, Command, TokenSecret};
use store::reply::AuthError;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use wire::etcd::auth::{self as request, Secret};
use wire::etcd::errors::{AUTH_FAILED, AUTH_NOT_ENABLED, ROLE_NOT_FOUND, USER_NOT_FOUND};
use wire::etcd::keyspace_reply::Answerer;
use wire::etcd::limits::ACCOUNT_NAME_BYTES_MAX;
use wire::etcd::{Code, ProtocolError, pb};

/// Serves the Auth calls.
pub(super) struct AuthService {
    handle: NodeHandle,
    authentication: Arc<Authentication>,
}

impl AuthService {
    pub(super) fn new(handle: NodeHandle, authentication: Arc<Authentication>) -> AuthService {
        AuthService { handle, authentication }
    }

    fn answerer(&self) -> Answerer {
        Answerer { cluster_id: self.handle.cluster_id(), member: self.handle.member_id() }
    }

    /// Has a change applied; returns the header of its answer.
    async fn change(
        &self,
        admitted: &Admitted,
        metadata: &MetadataMap,
        command: AuthCommand,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let deadline = Deadline::of(metadata, &self.handle);
        let (caller, group) = (admitted.caller(), GroupId::KEYSPACE);
        let command = Command::Auth(command);
        let outcome = self.handle.write_as(caller, group, command, deadline.timeout).await;
        let outcome = outcome.map_err(|error| refusal::status(deadline.explain(error)))?;
        let header = self.answerer().auth_changed(self.handle.term(group), outcome);
        header.map_err(refusal::status)
    }

    /// Has the change applied that a request asks for.
    async fn translated<T>(
        &self,
        request: Request<T>,
        translate: fn(T) -> Result<AuthCommand, ProtocolError>,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let admitted = Admitted::of(&request);
        let (metadata, _, message) = request.into_parts();
        let command = translate(message).map_err(refusal::status)?;
        self.change(&admitted, &metadata, command).await
    }

    /// Users and roles with everything that any member acknowledged before the call.
    async fn current(&self, deadline: Deadline) -> Result<Arc<Accounts>, Status> {
        let barrier = self.handle.read_barrier(GroupId::KEYSPACE, deadline.timeout).await;
        barrier.map_err(|error| refusal::status(deadline.explain(error)))?;
        Ok(self.handle.accounts())
    }

    /// As [`AuthService::current`], if the caller may see them.
    async fn seen<T>(
        &self,
        request: &Request<T>,
        may: impl FnOnce(&Accounts, &Admitted) -> Result<(), AuthError>,
    ) -> Result<Arc<Accounts>, Status> {
        let deadline = Deadline::of(request.metadata(), &self.handle);
        let accounts = self.current(deadline).await?;
        let answer = may(&accounts, &Admitted::of(request));
        answer.map_err(|error| refusal::status(error.into()))?;
        Ok(accounts)
    }

    fn header(&self) -> Result<Option<pb::ResponseHeader>, Status> {
        let reader = self.handle.reader(GroupId::KEYSPACE);
        let revision = reader.map_err(|failure| refusal::failed_read(&failure))?.revision();
        Ok(Some(self.answerer().header(revision, self.handle.term(GroupId::KEYSPACE))))
    }

    /// Hashing takes a processor for long: asked before the place of application asks again.
    async fn may_have_hashed<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.seen(request, require_root).await.map(drop)
    }

    /// The hash to store.
    async fn hash(&self, metadata: &MetadataMap, secret: Secret) -> Result<Bytes, Status> {
        let hash = match secret {
            Secret::Nothing => return Ok(Bytes::new()),
            Secret::Hashed(base64) => foreign_hash(&base64),
            Secret::Password(password) => {
                let hash = self.authentication.passwords.hash(password);
                in_time(Deadline::of(metadata, &self.handle), hash).await
            }
        };
        hash.map_err(refusal::status)
    }

    /// Exchanges a password for a token. The token carries the auth revision by which the password
    /// was looked up: if it is changed meanwhile, the token is born worthless.
    async fn exchange(
        &self,
        deadline: Deadline,
        name: &str,
        password: String,
    ) -> Result<String, Status> {
        // Nobody has such a name or password: nothing is done for whoever tries.
        if name.len() > ACCOUNT_NAME_BYTES_MAX || password.len() > LOGIN_PASSWORD_BYTES_MAX {
            return Err(self.wrong(name));
        }
        let accounts = self.current(deadline).await?;
        if !accounts.is_enabled() {
            return Err(refusal::status(AUTH_NOT_ENABLED));
        }
        let user = accounts.user(name);
        if user.is_some_and(|user| user.no_password) {
            // As etcd says it.
            let text = "auth: authentication failed, password was given for no password user";
            return Err(refusal::status(ProtocolError::of(Code::Unknown, text)));
        }
        let hash = user.map(|user| user.password.clone());
        let right = self.authentication.passwords.verify(name, hash, password);
        if !in_time(deadline, right).await.map_err(refusal::status)? {
            return Err(self.wrong(name));
        }
        let token = self.authentication.tokens.issue(&accounts, name);
        token.map_err(refusal::status)
    }

    fn wrong(&self, name: &str) -> Status {
        if self.authentication.complaints.may_tell() {
            tracing::warn!(user = shown(name), "a wrong password, or none of our users");
        }
        refusal::status(AUTH_FAILED)
    }
}

/// The beginning of a name, as the log shows it: whoever fails to log in may say anything.
fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(SHOWN_NAME_BYTES_MAX)]
}

async fn in_time<T>(
    deadline: Deadline,
    work: impl Future<Output = Result<T, ProtocolError>>,
) -> Result<T, ProtocolError> {
    let done = tokio::time::timeout(deadline.timeout, work).await;
    done.unwrap_or_else(|_| Err(deadline.explain(RequestError::TimedOut)))
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let secret = random_bytes().map_err(|error| {
            Status::unavailable(format!("quorate: no randomness for a secret: {error}"))
        })?;
        let command = AuthCommand::Enable { secret: TokenSecret(secret) };
        let header = self.change(&Admitted::of(&request), request.metadata(), command).await?;
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let command = AuthCommand::Disable;
        let header = self.change(&Admitted::of(&request), request.metadata(), command).await?;
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let accounts = self.seen(&request, require_root).await?;
        Ok(Response::new(pb::AuthStatusResponse {
            header: self.header()?,
            enabled: accounts.is_enabled(),
            auth_revision: accounts.revision(),
        }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let deadline = Deadline::of(&metadata, &self.handle);
        let token = self.exchange(deadline, &message.name, message.password).await?;
        Ok(Response::new(pb::AuthenticateResponse { header: self.header()?, token }))
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let admitted = Admitted::of(&request);
        self.may_have_hashed(&request).await?;
        let (metadata, _, message) = request.into_parts();
        let (name, secret) = request::user_add(message).map_err(refusal::status)?;
        let no_password = secret == Secret::Nothing;
        let password = self.hash(&metadata, secret).await?;
        let command = AuthCommand::UserAdd { name, password, no_password };
        let header = self.change(&admitted, &metadata, command).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let admitted = Admitted::of(&request);
        self.may_have_hashed(&request).await?;
        let (metadata, _, message) = request.into_parts();
        let (name, secret) = request::user_change_password(message).map_err(refusal::status)?;
        let password = self.hash(&metadata, secret).await?;
        let command = AuthCommand::UserChangePassword { name, password };
        let header = self.change(&admitted, &metadata, command).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let name = request.get_ref().name.clone();
        let may = |accounts: &Accounts, admitted: &Admitted| {
            accounts.may_see_user(admitted.caller().as_ref(), &name)
        };
        let accounts = self.seen(&request, may).await?;
        let user = accounts.user(&name).ok_or_else(|| refusal::status(USER_NOT_FOUND))?;
        let roles = user.roles.clone();
        Ok(Response::new(pb::AuthUserGetResponse { header: self.header()?, roles }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let accounts = self.seen(&request, require_root).await?;
        let users = accounts.user_names().map(str::to_owned).collect();
        Ok(Response::new(pb::AuthUserListResponse { header: self.header()?, users }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let name = request.get_ref().role.clone();
        let may = |accounts: &Accounts, admitted: &Admitted| {
            accounts.may_see_role(admitted.caller().as_ref(), &name)
        };
        let accounts = self.seen(&request, may).await?;
        let role = accounts.role(&name).ok_or_else(|| refusal::status(ROLE_NOT_FOUND))?;
        let perm = request::permissions(&name, role);
        Ok(Response::new(pb::AuthRoleGetResponse { header: self.header()?, perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let accounts = self.seen(&request, require_root).await?;
        let roles = accounts.role_names().map(str::to_owned).collect();
        Ok(Response::new(pb::AuthRoleListResponse { header: self.header()?, roles }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        let header = self.translated(request, request::user_delete).await?;
        Ok(Response::new(pb::AuthUserDeleteResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        let header = self.translated(request, request::user_grant_role).await?;
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        let header = self.translated(request, request::user_revoke_role).await?;
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        let header = self.translated(request, request::role_add).await?;
        Ok(Response::new(pb::AuthRoleAddResponse { header }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let header = self.translated(request, request::role_delete).await?;
        Ok(Response::new(pb::AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        let header = self.translated(request, request::role_grant_permission).await?;
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        let header = self.translated(request, request::role_revoke_permission).await?;
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header }))
    }
}

fn require_root(accounts: &Accounts, admitted: &Admitted) -> Result<(), AuthError> {
    accounts.require_root(admitted.caller().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_name_the_log_shows_its_beginning() {
        assert_eq!(shown("ann"), "ann");
        let long = "ä".repeat(SHOWN_NAME_BYTES_MAX);
        assert_eq!(shown(&format!("x{long}")).len(), SHOWN_NAME_BYTES_MAX - 1);
    }
}
