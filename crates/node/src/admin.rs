//! The admin endpoint: `/status` (JSON), `/metrics` (Prometheus text) and `/health`, for operators
//! on the machine itself; with `enable-faults` also `/faults`, by which chaos runs break the node.
//!
//! Not here: what etcd clients ask over HTTP (`etcd::http_endpoints`).

use crate::NodeHandle;
use crate::boot_clock::real_monotonic_now;
use crate::injected_faults::{InjectedFaults, PretendedFaults};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use clocks::GroupId;
use replica::{GroupStatus, NodeStatus};
use serde::Serialize;
use std::time::Duration;

/// How long the core may take to say where it stands.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Serves one node; clones serve it on other listeners.
#[derive(Clone)]
pub(crate) struct AdminEndpoint {
    handle: NodeHandle,
    faults: Option<&'static InjectedFaults>,
}

impl AdminEndpoint {
    /// Without `faults` there is no way to inject any.
    pub(crate) fn new(
        handle: NodeHandle,
        faults: Option<&'static InjectedFaults>,
    ) -> AdminEndpoint {
        AdminEndpoint { handle, faults }
    }

    /// Serves until the node stops.
    pub(crate) async fn serve(self, listener: std::net::TcpListener) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let stopping = self.handle.clone();
        let routes = Router::new()
            .route("/status", get(status))
            .route("/metrics", get(metrics))
            .route("/health", get(health))
            .with_state(self.handle);
        let routes = match self.faults {
            None => routes,
            Some(faults) => routes.merge(fault_routes(faults)),
        };
        let serving = axum::serve(listener, routes);
        // Nobody is owed the end of an answer: connections are dropped.
        tokio::select! {
            served = serving.into_future() => served,
            () = stopping.stopping() => Ok(()),
        }
    }
}

/// What is pretended is read and set as a whole.
fn fault_routes(faults: &'static InjectedFaults) -> Router {
    let json = || [(header::CONTENT_TYPE, "application/json")];
    let set = move |headers: HeaderMap, body: String| async move {
        // A page in somebody's browser cannot send this without asking first.
        if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
            let sentence = "say Content-Type: application/json".to_owned();
            return (StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence).into_response();
        }
        let set = PretendedFaults::from_json(&body)
            .and_then(|pretended| faults.pretend(pretended, real_monotonic_now));
        tracing::warn!("injected faults are now {}", faults.to_json());
        match set {
            Ok(()) => (json(), faults.to_json()).into_response(),
            Err(sentence) => (StatusCode::BAD_REQUEST, sentence).into_response(),
        }
    };
    let show = move || async move { (json(), faults.to_json()) };
    Router::new().route("/faults", post(set).get(show))
}

/// Where a node stands.
#[derive(Serialize)]
struct StatusReport {
    name: String,
    member_id: String,
    cluster_id: String,
    client_urls: Vec<String>,
    /// Of the keyspace.
    leader: Option<String>,
    term: u64,
    applied: u64,
    log_bytes: u64,
    state_bytes: u64,
    /// Upper bounds of what half, and 99 of 100, of the log's syncs took; 0 if there were none.
    sync_p50_microseconds: u128,
    sync_p99_microseconds: u128,
    members: Vec<MemberReport>,
    groups: Vec<GroupReport>,
    short_of_space: Vec<String>,
}

#[derive(Serialize)]
struct MemberReport {
    id: String,
    name: String,
    peer_addresses: Vec<String>,
    client_urls: Vec<String>,
    /// Entries of the keyspace that the member is known to lack; only the leader knows.
    lag: Option<u64>,
}

#[derive(Serialize)]
struct GroupReport {
    group: u32,
    role: String,
    term: u64,
    leader: Option<String>,
    first_index: u64,
    last_index: u64,
    committed: u64,
    applied: u64,
    waiting: usize,
}

async fn status(State(handle): State<NodeHandle>) -> Response {
    let asked = handle.status(TIMEOUT).await.map_err(|error| error.to_string());
    let report = asked.and_then(|status| report(&handle, &status));
    let body = report.and_then(|report| {
        serde_json::to_string_pretty(&report).map_err(|error| error.to_string())
    });
    match body {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(sentence) => (StatusCode::SERVICE_UNAVAILABLE, sentence).into_response(),
    }
}

async fn metrics(State(handle): State<NodeHandle>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], handle.metrics_text()).into_response()
}

/// Healthy: a leader is known and the core answers.
async fn health(State(handle): State<NodeHandle>) -> Response {
    let healthy =
        handle.leader(GroupId::KEYSPACE).is_some() && handle.status(TIMEOUT).await.is_ok();
    let (code, body) = match healthy {
        true => (StatusCode::OK, "{\"health\":\"true\"}"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "{\"health\":\"false\"}"),
    };
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn report(handle: &NodeHandle, status: &NodeStatus) -> Result<StatusReport, String> {
    let reader = handle.reader(GroupId::CONSISTENT_CORE).map_err(|error| error.to_string())?;
    let known = reader.members().map_err(|error| error.to_string())?;
    let keyspace = status.groups.iter().find(|group| group.group == GroupId::KEYSPACE);
    let members = known.into_iter().map(|member| MemberReport {
        lag: keyspace.and_then(|keyspace| lag(keyspace, handle, member.id)),
        id: member.id.to_string(),
        name: member.name,
        peer_addresses: member.peer_addresses,
        client_urls: member.client_urls,
    });
    let identity = handle.identity();
    let sync = &handle.meters().log_sync;
    Ok(StatusReport {
        name: identity.name.clone(),
        member_id: identity.node.to_string(),
        cluster_id: format!("{:x}", identity.cluster),
        client_urls: identity.client_urls.clone(),
        leader: handle.leader(GroupId::KEYSPACE).map(|leader| leader.to_string()),
        term: handle.term(GroupId::KEYSPACE).0,
        applied: handle.applied(GroupId::KEYSPACE),
        log_bytes: status.log_bytes,
        state_bytes: handle.engine_bytes(),
        sync_p50_microseconds: sync.percentile(50).as_micros(),
        sync_p99_microseconds: sync.percentile(99).as_micros(),
        members: members.collect(),
        groups: status.groups.iter().map(group_report).collect(),
        short_of_space: status.short_of_space.iter().map(ToString::to_string).collect(),
    })
}

fn lag(keyspace: &GroupStatus, handle: &NodeHandle, member: clocks::NodeId) -> Option<u64> {
    if keyspace.leader != Some(handle.member_id()) {
        return None;
    }
    if member == handle.member_id() {
        return Some(0);
    }
    let matched = keyspace.matched.iter().find(|(id, _)| *id == member)?;
    Some(keyspace.last_index.saturating_sub(matched.1))
}

fn group_report(group: &GroupStatus) -> GroupReport {
    GroupReport {
        group: group.group.0,
        role: format!("{:?}", group.role).to_lowercase(),
        term: group.term.0,
        leader: group.leader.map(|leader| leader.to_string()),
        first_index: group.first_index,
        last_index: group.last_index,
        committed: group.committed,
        applied: group.applied,
        waiting: group.waiting,
    }
}
