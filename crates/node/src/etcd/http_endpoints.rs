//! Plain HTTP on the clients' port: version, health, metrics. Paths, bodies and codes are etcd's;
//! Patroni and Kubernetes probes parse them.

use super::call_meters::CallMeters;
use super::maintenance_service::alarms;
use super::probe::Probe;
use crate::NodeHandle;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clocks::GroupId;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use wire::etcd::{SERVED_CLUSTER_VERSION, SERVED_VERSION, pb};

/// What the endpoints need.
#[derive(Clone)]
struct Endpoints {
    handle: NodeHandle,
    calls: Arc<CallMeters>,
}

/// Every path that is served.
pub(super) fn router(handle: NodeHandle, calls: Arc<CallMeters>) -> Router {
    let mut router = Router::new()
        .route("/version", get(version))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/v3/{*call}", axum::routing::any(json_gateway));
    for probe in Probe::LIVE {
        router = router.route(&format!("/livez/{}", probe.name()), get(one_probe(probe)));
    }
    for probe in Probe::READY {
        router = router.route(&format!("/readyz/{}", probe.name()), get(one_probe(probe)));
    }
    router.with_state(Endpoints { handle, calls })
}

async fn version() -> Response {
    let body = format!(
        "{{\"etcdserver\":\"{SERVED_VERSION}\",\"etcdcluster\":\"{SERVED_CLUSTER_VERSION}\",\
         \"storage\":\"{SERVED_CLUSTER_VERSION}\"}}"
    );
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn metrics(State(endpoints): State<Endpoints>) -> Response {
    let mut text = endpoints.handle.metrics_text();
    endpoints.calls.render(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn json_gateway() -> Response {
    let body = "{\"error\":\"quorate: the JSON gateway is not built yet; use gRPC\",\"code\":12}";
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::NOT_IMPLEMENTED, content_type, body).into_response()
}

/// `/health`: alarms, leader, then a read; `serializable=true` asks about this member alone.
async fn health(State(endpoints): State<Endpoints>, uri: Uri) -> Response {
    let query = Query(uri.query().unwrap_or_default());
    let (code, healthy, reason) = match unhealthy(&endpoints.handle, query).await {
        None => (StatusCode::OK, "true", String::new()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, "false", reason),
    };
    let body = serde_json::json!({ "health": healthy, "reason": reason }).to_string();
    (code, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

/// Why the member is not healthy, in etcd's words.
async fn unhealthy(handle: &NodeHandle, query: Query<'_>) -> Option<String> {
    let serializable = query.first("serializable") == Some("true");
    // Short: a stuck core is what the next two questions are about.
    if let Ok(status) = handle.status(Duration::from_secs(1)).await {
        let excluded = query.all("exclude");
        for alarm in alarms(&status) {
            let kind = pb::AlarmType::try_from(alarm.alarm).unwrap_or_default();
            if !excluded.contains(kind.as_str_name()) {
                return Some(format!("ALARM {}", kind.as_str_name()));
            }
        }
    }
    if !serializable && handle.leader(GroupId::KEYSPACE).is_none() {
        return Some("RAFT NO LEADER".to_owned());
    }
    let probe = if serializable { Probe::SerializableRead } else { Probe::LinearizableRead };
    probe.ask(handle).await.err().map(|error| format!("RANGE ERROR:{error}"))
}

async fn livez(State(endpoints): State<Endpoints>, uri: Uri) -> Response {
    report(&endpoints.handle, &Probe::LIVE, &uri).await
}

async fn readyz(State(endpoints): State<Endpoints>, uri: Uri) -> Response {
    report(&endpoints.handle, &Probe::READY, &uri).await
}

type ProbeFuture = std::pin::Pin<Box<dyn Future<Output = Response> + Send>>;

fn one_probe(
    probe: Probe,
) -> impl Fn(State<Endpoints>, Uri) -> ProbeFuture + Clone + Send + Sync + 'static {
    move |State(endpoints): State<Endpoints>, uri| {
        Box::pin(async move { report(&endpoints.handle, &[probe], &uri).await })
    }
}

async fn report(handle: &NodeHandle, probes: &[Probe], uri: &Uri) -> Response {
    let query = Query(uri.query().unwrap_or_default());
    let excluded = query.all("exclude");
    let mut details = String::new();
    let mut failed = false;
    for probe in probes.iter().filter(|probe| !excluded.contains(probe.name())) {
        let name = probe.name();
        let _ = match probe.ask(handle).await {
            Ok(()) => writeln!(details, "[+]{name} ok"),
            Err(error) => {
                failed = true;
                writeln!(details, "[-]{name} failed: {error}")
            }
        };
    }
    let (code, body) = match (failed, query.has("verbose")) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, details),
        (false, true) => (StatusCode::OK, details + "ok\n"),
        (false, false) => (StatusCode::OK, "ok\n".to_owned()),
    };
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (code, headers, body).into_response()
}

/// The part of a URL after the question mark. Names and values here need no percent decoding.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    fn first(self, name: &str) -> Option<&'a str> {
        self.pairs().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    fn has(self, name: &str) -> bool {
        self.first(name).is_some()
    }

    fn all(self, name: &str) -> BTreeSet<&'a str> {
        self.pairs().filter(|(found, _)| *found == name).map(|(_, value)| value).collect()
    }
}
