//! Which call goes where: gRPC by its path, everything else to the HTTP endpoints.
//!
//! What every call has in common is checked here, once: whether its caller insists on a leader, who
//! that is and may call at all, and what etcd answers to metadata and messages that cannot be.

use super::admission::Admission;
use super::auth_service::AuthService;
use super::authentication::Authentication;
use super::call_meters::{CallMeters, Method};
use super::client_common_name::ClientCommonName;
use super::cluster_service::ClusterService;
use super::election_service::ElectionService;
use super::health_service::HealthService;
use super::http_endpoints;
use super::keyspace_service::KeyspaceService;
use super::lease_service::LeaseService;
use super::lock_queue::LockQueue;
use super::lock_service::LockService;
use super::maintenance_service::MaintenanceService;
use super::reflection;
use super::refusal;
use super::reply_budget;
use super::services::etcdserverpb::auth_server::AuthServer;
use super::services::etcdserverpb::cluster_server::ClusterServer;
use super::services::etcdserverpb::kv_server::KvServer;
use super::services::etcdserverpb::lease_server::LeaseServer;
use super::services::etcdserverpb::maintenance_server::MaintenanceServer;
use super::services::etcdserverpb::watch_server::WatchServer;
use super::services::health::health_server::HealthServer;
use super::services::v3electionpb::election_server::ElectionServer;
use super::services::v3lockpb::lock_server::LockServer;
use super::watch_service::WatchService;
use crate::NodeHandle;
use axum::Router;
use clocks::GroupId;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::body::Body as ReplyBody;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{Body, BoxFuture, Bytes, Service, StdError};
use tonic::{Code, Status};
use wire::etcd::errors::{INVALID_CLIENT_API_VERSION, NO_LEADER, NOT_SUPPORTED_FOR_LEARNER};
use wire::etcd::limits::MESSAGE_BYTES_MAX;

type Reply = Response<ReplyBody>;

/// Routes the calls of one runtime's connections; clones share the services.
#[derive(Clone)]
pub(super) struct Dispatch {
    handle: NodeHandle,
    meters: Arc<CallMeters>,
    /// Who calls on this connection, if a certificate says so.
    caller: Option<ClientCommonName>,
    admission: Arc<Admission>,
    keyspace: KvServer<KeyspaceService>,
    watch: WatchServer<WatchService>,
    lease: LeaseServer<LeaseService>,
    auth: AuthServer<AuthService>,
    lock: LockServer<LockService>,
    election: ElectionServer<ElectionService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
    health: HealthServer<HealthService>,
    reflection: Router,
    http: Router,
}

impl Dispatch {
    pub(super) fn new(
        handle: NodeHandle,
        meters: Arc<CallMeters>,
        authentication: Arc<Authentication>,
    ) -> Dispatch {
        let keyspace = Arc::new(KeyspaceService::new(handle.clone()));
        let leases = Arc::new(LeaseService::new(handle.clone(), Arc::clone(&keyspace)));
        let locks = LockQueue::new(handle.clone(), Arc::clone(&keyspace), Arc::clone(&leases));
        Dispatch {
            admission: Arc::new(Admission::new(handle.clone(), Arc::clone(&authentication))),
            keyspace: KvServer::from_arc(keyspace).max_decoding_message_size(MESSAGE_BYTES_MAX),
            watch: WatchServer::new(WatchService::new(handle.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            lease: LeaseServer::from_arc(leases),
            lock: LockServer::new(LockService::new(locks.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            election: ElectionServer::new(ElectionService::new(locks))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            auth: AuthServer::new(AuthService::new(handle.clone(), authentication)),
            cluster: ClusterServer::new(ClusterService::new(handle.clone())),
            maintenance: MaintenanceServer::new(MaintenanceService::new(handle.clone())),
            health: HealthServer::new(HealthService::new(handle.clone())),
            reflection: reflection::router(),
            http: http_endpoints::router(handle.clone(), Arc::clone(&meters)),
            handle,
            meters,
            caller: None,
        }
    }

    /// From now on every request is this caller's.
    pub(super) fn set_caller(&mut self, caller: Option<ClientCommonName>) {
        self.caller = caller;
    }

    /// Refuses what no service should see.
    fn check<B>(&self, request: &mut Request<B>) -> Result<(), Status> {
        let (path, headers) = (request.uri().path(), request.headers());
        let version = headers.get("client-api-version").map(|value| value.as_bytes());
        if version.is_some_and(|version| str::from_utf8(version).is_err()) {
            return Err(refusal::status(INVALID_CLIENT_API_VERSION));
        }
        if self.handle.is_learner() && !LEARNER_PATHS.contains(&path) {
            return Err(refusal::status(NOT_SUPPORTED_FOR_LEARNER));
        }
        // Stock clients take this error on a stream for final. They open streams anew in the very
        // moment in which a leader is lost, of which we hear earlier than etcd does: the services
        // give the next leader time.
        let is_patient = PATIENT_PATHS.contains(&path);
        let leaderless = || self.handle.leader(GroupId::KEYSPACE).is_none();
        if requires_leader(headers) && !is_patient && leaderless() {
            return Err(refusal::status(NO_LEADER));
        }
        let admitted = self.admission.admit(path, headers, request.extensions())?;
        request.extensions_mut().insert(admitted);
        Ok(())
    }

    fn call_grpc<B>(&mut self, request: Request<B>) -> BoxFuture<Reply, Infallible>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError> + Send,
    {
        let path = request.uri().path();
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let service = service.map_or(path, |(service, _)| service);
        match service {
            "etcdserverpb.KV" => self.keyspace.call(request),
            "etcdserverpb.Watch" => self.watch.call(request),
            "etcdserverpb.Lease" => self.lease.call(request),
            "etcdserverpb.Auth" => self.auth.call(request),
            "v3lockpb.Lock" => self.lock.call(request),
            "v3electionpb.Election" => self.election.call(request),
            "etcdserverpb.Cluster" => self.cluster.call(request),
            "etcdserverpb.Maintenance" => self.maintenance.call(request),
            "grpc.health.v1.Health" => self.health.call(request),
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => {
                let reply = self.reflection.call(request);
                Box::pin(async move { Ok(reply.await?.map(ReplyBody::new)) })
            }
            service => refuse(Status::unimplemented(format!("unknown service {service}"))),
        }
    }
}

/// Streams that outlive a leader.
const PATIENT_PATHS: [&str; 2] =
    ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"];

/// What a learner serves: Status, a backup of its state, and serializable ranges (the KV service
/// looks at which they are). As in etcd, except that health is told as well.
const LEARNER_PATHS: [&str; 5] = [
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.KV/Range",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// Whether the caller wants no answer from a member without a leader.
pub(super) fn requires_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value == "true")
}

impl<B> Service<Request<B>> for Dispatch
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<Reply, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(caller) = &self.caller {
            request.extensions_mut().insert(caller.clone());
        }
        if !is_grpc(request.headers()) {
            let reply = self.http.call(request);
            return Box::pin(async move { Ok(reply.await?.map(ReplyBody::new)) });
        }
        let (method, begun) = (Method::at(request.uri().path()), Instant::now());
        if let Some(method) = method {
            self.meters.started(method);
        }
        let reply = match self.check(&mut request) {
            Ok(()) => self.call_grpc(request),
            Err(status) => refuse(status),
        };
        let meters = Arc::clone(&self.meters);
        Box::pin(async move {
            let reply = reply_budget::hold(in_etcds_words(reply.await?));
            if let Some(method) = method {
                meters.handled(method, early_code(reply.headers()), begun.elapsed());
            }
            Ok(reply)
        })
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get("content-type")
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn refuse(status: Status) -> BoxFuture<Reply, Infallible> {
    Box::pin(async move { Ok(status.into_http()) })
}

/// The code of a call that was refused before its first message; anything else began well.
fn early_code(headers: &HeaderMap) -> Code {
    headers.get("grpc-status").map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

/// A message above the bound is refused before it is decoded, with a code and a text that etcd's
/// clients do not know; they know these.
fn in_etcds_words(reply: Reply) -> Reply {
    let headers = reply.headers();
    if early_code(headers) != Code::OutOfRange {
        return reply;
    }
    let Some(status) = Status::from_header_map(headers) else { return reply };
    let length = status
        .message()
        .strip_prefix("Error, decoded message length too large: found ")
        .and_then(|rest| rest.split_once(' '));
    match length {
        Some((length, _)) => Status::resource_exhausted(format!(
            "grpc: received message larger than max ({length} vs. {MESSAGE_BYTES_MAX})"
        ))
        .into_http(),
        None => reply,
    }
}
