//! Admission: who calls, and whether they may call at all. Every gRPC call passes here once, before
//! its service sees it, and carries its [`Admitted`] from then on.
//!
//! How a service uses it:
//! - a command is proposed on behalf of `Admitted::of(&request).caller()`, with
//!   [`NodeHandle::write_as`]: whether they may is decided where it is applied;
//! - a read asks [`Admitted::check`] with the very reader that it reads from;
//! - a stream asks [`Admitted::again`] with each message, since tokens end and users change;
//! - what changes the cluster outside the keyspace's log asks [`Admitted::require_root_now`] first.
//!
//! A service that forgets acts for nobody, who may do nothing.

use super::access_guard::Guard;
use super::authentication::Authentication;
use super::client_common_name::ClientCommonName;
use super::deadline::Deadline;
use super::refusal;
use crate::NodeHandle;
use clocks::GroupId;
use std::sync::Arc;
use std::time::Instant;
use store::command::Caller;
use store::reply::{AuthError, StoreError};
use store::{Accounts, Reader, Standing, StoreFailure};
use tonic::codegen::http::{Extensions, HeaderMap};
use tonic::{Request, Status};
use wire::etcd::ProtocolError;
use wire::etcd::errors::{INVALID_AUTH_TOKEN, USER_EMPTY};

/// Decides about the calls of one node.
pub(super) struct Admission {
    handle: NodeHandle,
    authentication: Arc<Authentication>,
}

/// A call that was let in, and on whose behalf.
#[derive(Clone)]
pub(super) struct Admitted {
    caller: Option<Caller>,
    /// For those that ask again.
    asked: Option<Arc<Asked>>,
}

struct Asked {
    admission: Arc<Admission>,
    credentials: Credentials,
}

/// What a call shows of its caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Credentials {
    /// As text; none if it is not text.
    token: Option<Option<String>>,
    common_name: Option<String>,
}

impl Credentials {
    fn of(headers: &HeaderMap, extensions: &Extensions) -> Credentials {
        let shown = headers.get("token").or_else(|| headers.get("authorization"));
        let token = shown.map(|token| {
            let text = token.to_str().ok()?;
            Some(text.strip_prefix("Bearer ").unwrap_or(text).to_owned())
        });
        // The JSON gateway of etcd calls with a certificate of its own.
        let is_gateway = headers.contains_key("grpcgateway-accept");
        let name = extensions.get::<ClientCommonName>().filter(|_| !is_gateway);
        Credentials { token, common_name: name.map(|name| name.0.clone()) }
    }
}

impl Admission {
    pub(super) fn new(handle: NodeHandle, authentication: Arc<Authentication>) -> Admission {
        Admission { handle, authentication }
    }

    /// Lets a call in, or refuses it.
    pub(super) fn admit(
        self: &Arc<Self>,
        path: &str,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Admitted, Status> {
        let guard = Guard::of(path);
        let accounts = self.handle.accounts();
        let asks_again = matches!(guard, Guard::EachMessage | Guard::UserOrRoot | Guard::Root);
        if guard == Guard::Open || !(asks_again || accounts.is_enabled()) {
            return Ok(Admitted { caller: None, asked: None });
        }
        let credentials = Credentials::of(headers, extensions);
        let asked = asks_again.then(|| {
            let credentials = credentials.clone();
            Arc::new(Asked { admission: Arc::clone(self), credentials })
        });
        if guard == Guard::EachMessage || !accounts.is_enabled() {
            return Ok(Admitted { caller: None, asked });
        }
        let caller = self.caller(&accounts, &credentials).map_err(refusal::status)?;
        match guard {
            Guard::User | Guard::UserOrRoot if caller.is_none() => {
                return Err(refusal::status(USER_EMPTY));
            }
            Guard::Root => accounts.require_root(caller.as_ref()).map_err(refused)?,
            _ => {}
        }
        Ok(Admitted { caller, asked })
    }

    /// Who shows these; none if nothing is shown.
    fn caller(
        &self,
        accounts: &Accounts,
        credentials: &Credentials,
    ) -> Result<Option<Caller>, ProtocolError> {
        if !accounts.is_enabled() {
            return Ok(None);
        }
        match (&credentials.token, &credentials.common_name) {
            (Some(Some(token)), _) => self.authentication.tokens.verify(accounts, token).map(Some),
            (Some(None), _) => Err(INVALID_AUTH_TOKEN),
            (None, Some(name)) => {
                Ok(Some(Caller::User { name: name.clone(), revision: accounts.revision() }))
            }
            (None, None) => Ok(None),
        }
    }
}

impl Admitted {
    /// How this call was let in. One that did not come through the dispatch acts for nobody.
    pub(super) fn of<T>(request: &Request<T>) -> Admitted {
        let admitted = request.extensions().get::<Admitted>().cloned();
        admitted.unwrap_or(Admitted { caller: None, asked: None })
    }

    /// On whose behalf it acts.
    pub(super) fn caller(&self) -> Option<Caller> {
        self.caller.clone()
    }

    /// Asks anew who calls: tokens end, and users change, while a stream goes on.
    ///
    /// # Errors
    /// What is shown proves nothing any more.
    pub(super) fn again(&self) -> Result<Admitted, ProtocolError> {
        let Some(asked) = &self.asked else { return Ok(self.clone()) };
        let accounts = asked.admission.handle.accounts();
        let caller = asked.admission.caller(&accounts, &asked.credentials)?;
        Ok(Admitted { caller, asked: self.asked.clone() })
    }

    /// Asks for the role of root, as this member knows it.
    ///
    /// # Errors
    /// The caller does not have it.
    pub(super) fn require_root(&self, handle: &NodeHandle) -> Result<(), Status> {
        handle.accounts().require_root(self.caller.as_ref()).map_err(refused)
    }

    /// Asks for the role of root, with everything that any member acknowledged before the call:
    /// this member may not have heard yet of who lost it, or that anybody is asked. Returns what is
    /// left of the call's time.
    ///
    /// # Errors
    /// The caller does not have it, or no leader says how things stand.
    pub(super) async fn require_root_now(
        &self,
        handle: &NodeHandle,
        deadline: Deadline,
    ) -> Result<Deadline, Status> {
        let begun = Instant::now();
        let barrier = handle.read_barrier(GroupId::KEYSPACE, deadline.timeout).await;
        barrier.map_err(|error| refusal::status(deadline.explain(error)))?;
        self.again().map_err(refusal::status)?.require_root(handle)?;
        Ok(deadline.after(begun.elapsed()))
    }

    /// Asks a question of what the caller may do, by the users and roles as of `reader`: those
    /// that go with what is read from it, neither older nor newer.
    ///
    /// # Errors
    /// If the engine fails.
    pub(super) fn check(
        &self,
        handle: &NodeHandle,
        reader: &Reader,
        question: impl FnOnce(Standing<'_>) -> Result<(), AuthError>,
    ) -> Result<Result<(), StoreError>, StoreFailure> {
        let accounts = reader.accounts(&handle.accounts())?;
        let answer = accounts.standing(self.caller.as_ref()).and_then(question);
        Ok(answer.map_err(StoreError::Auth))
    }
}

fn refused(error: AuthError) -> Status {
    refusal::status(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &[u8])], name: Option<&str>) -> Credentials {
        let mut map = HeaderMap::new();
        for (header, value) in headers {
            map.insert(*header, value.to_vec().try_into().expect("a header's value"));
        }
        let mut extensions = Extensions::new();
        if let Some(name) = name {
            extensions.insert(ClientCommonName(name.to_owned()));
        }
        Credentials::of(&map, &extensions)
    }

    #[test]
    fn tokens_are_found_where_clients_of_etcd_put_them() {
        let token = Some(Some("t.k".to_owned()));
        assert_eq!(of(&[("token", b"t.k")], None).token, token);
        assert_eq!(of(&[("authorization", b"Bearer t.k")], None).token, token);
        assert_eq!(of(&[("token", b"t.k"), ("authorization", b"x")], None).token, token);
        assert_eq!(of(&[("token", b"\xff")], None).token, Some(None), "no text, but shown");
        assert_eq!(of(&[], None), Credentials::default());
    }

    #[test]
    fn a_certificate_names_its_user_except_the_gateways() {
        assert_eq!(of(&[], Some("ann")).common_name.as_deref(), Some("ann"));
        assert_eq!(of(&[("grpcgateway-accept", b"*/*")], Some("gateway")).common_name, None);
    }
}
