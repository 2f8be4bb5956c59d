//! Counts calls as the gRPC dashboards of etcd expect them: `grpc_server_started_total` and
//! `grpc_server_handled_total`, by service, method, kind and code.

use crate::meters::Histogram;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// gRPC codes 0 to 16.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// How a call moves messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallKind {
    Unary,
    ServerStream,
    BidiStream,
}

impl CallKind {
    fn label(self) -> &'static str {
        match self {
            CallKind::Unary => "unary",
            CallKind::ServerStream => "server_stream",
            CallKind::BidiStream => "bidi_stream",
        }
    }
}

/// Calls that are served. What is not is counted under no name: names come from strangers.
const METHODS: [(&str, CallKind); 45] = [
    ("/etcdserverpb.KV/Range", CallKind::Unary),
    ("/etcdserverpb.KV/RangeStream", CallKind::ServerStream),
    ("/etcdserverpb.KV/Put", CallKind::Unary),
    ("/etcdserverpb.KV/DeleteRange", CallKind::Unary),
    ("/etcdserverpb.KV/Txn", CallKind::Unary),
    ("/etcdserverpb.KV/Compact", CallKind::Unary),
    ("/etcdserverpb.Watch/Watch", CallKind::BidiStream),
    ("/etcdserverpb.Lease/LeaseGrant", CallKind::Unary),
    ("/etcdserverpb.Lease/LeaseRevoke", CallKind::Unary),
    ("/etcdserverpb.Lease/LeaseKeepAlive", CallKind::BidiStream),
    ("/etcdserverpb.Lease/LeaseTimeToLive", CallKind::Unary),
    ("/etcdserverpb.Lease/LeaseLeases", CallKind::Unary),
    ("/etcdserverpb.Auth/AuthEnable", CallKind::Unary),
    ("/etcdserverpb.Auth/AuthDisable", CallKind::Unary),
    ("/etcdserverpb.Auth/AuthStatus", CallKind::Unary),
    ("/etcdserverpb.Auth/Authenticate", CallKind::Unary),
    ("/etcdserverpb.Auth/UserAdd", CallKind::Unary),
    ("/etcdserverpb.Auth/UserGet", CallKind::Unary),
    ("/etcdserverpb.Auth/UserList", CallKind::Unary),
    ("/etcdserverpb.Auth/UserDelete", CallKind::Unary),
    ("/etcdserverpb.Auth/UserChangePassword", CallKind::Unary),
    ("/etcdserverpb.Auth/UserGrantRole", CallKind::Unary),
    ("/etcdserverpb.Auth/UserRevokeRole", CallKind::Unary),
    ("/etcdserverpb.Auth/RoleAdd", CallKind::Unary),
    ("/etcdserverpb.Auth/RoleGet", CallKind::Unary),
    ("/etcdserverpb.Auth/RoleList", CallKind::Unary),
    ("/etcdserverpb.Auth/RoleDelete", CallKind::Unary),
    ("/etcdserverpb.Auth/RoleGrantPermission", CallKind::Unary),
    ("/etcdserverpb.Auth/RoleRevokePermission", CallKind::Unary),
    ("/v3lockpb.Lock/Lock", CallKind::Unary),
    ("/v3lockpb.Lock/Unlock", CallKind::Unary),
    ("/v3electionpb.Election/Campaign", CallKind::Unary),
    ("/v3electionpb.Election/Proclaim", CallKind::Unary),
    ("/v3electionpb.Election/Leader", CallKind::Unary),
    ("/v3electionpb.Election/Observe", CallKind::ServerStream),
    ("/v3electionpb.Election/Resign", CallKind::Unary),
    ("/etcdserverpb.Cluster/MemberList", CallKind::Unary),
    ("/etcdserverpb.Maintenance/Alarm", CallKind::Unary),
    ("/etcdserverpb.Maintenance/Status", CallKind::Unary),
    ("/etcdserverpb.Maintenance/Defragment", CallKind::Unary),
    ("/etcdserverpb.Maintenance/Snapshot", CallKind::ServerStream),
    ("/etcdserverpb.Maintenance/Hash", CallKind::Unary),
    ("/etcdserverpb.Maintenance/HashKV", CallKind::Unary),
    ("/grpc.health.v1.Health/Check", CallKind::Unary),
    ("/grpc.health.v1.Health/Watch", CallKind::ServerStream),
];

/// A method that is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method(usize);

impl Method {
    /// The method at this path, if it is counted.
    pub(super) fn at(path: &str) -> Option<Method> {
        METHODS.iter().position(|(known, _)| *known == path).map(Method)
    }
}

#[derive(Default)]
struct MethodMeters {
    started: AtomicU64,
    handled: [AtomicU64; CODES.len()],
    handling: Histogram,
}

/// Counts of every method; shared by all runtimes.
pub(super) struct CallMeters {
    methods: [MethodMeters; METHODS.len()],
}

impl Default for CallMeters {
    fn default() -> CallMeters {
        CallMeters { methods: std::array::from_fn(|_| MethodMeters::default()) }
    }
}

impl CallMeters {
    /// A call began.
    pub(super) fn started(&self, method: Method) {
        self.methods[method.0].started.fetch_add(1, Ordering::Relaxed);
    }

    /// A call ended with this code, or a streaming one was accepted.
    pub(super) fn handled(&self, method: Method, code: tonic::Code, took: Duration) {
        if METHODS[method.0].1 == CallKind::Unary {
            self.methods[method.0].handling.record(took);
        }
        let code = usize::try_from(i32::from(code)).expect("codes are not negative");
        self.methods[method.0].handled[code].fetch_add(1, Ordering::Relaxed);
    }

    /// Prometheus text; of codes, those that occurred.
    pub(super) fn render(&self, text: &mut String) {
        let name = "grpc_server_started_total";
        let _ = writeln!(text, "# HELP {name} Calls that began.\n# TYPE {name} counter");
        for ((path, kind), meters) in METHODS.iter().zip(&self.methods) {
            let count = meters.started.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}{{{}}} {count}", labels(path, *kind));
        }
        let name = "grpc_server_handled_total";
        let _ = writeln!(text, "# HELP {name} Calls that ended, by code.\n# TYPE {name} counter");
        for ((path, kind), meters) in METHODS.iter().zip(&self.methods) {
            for (code, count) in CODES.iter().zip(&meters.handled) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 || *code == "OK" {
                    let labels = labels(path, *kind);
                    let _ = writeln!(text, "{name}{{{labels},grpc_code=\"{code}\"}} {count}");
                }
            }
        }
        let name = "grpc_server_handling_seconds";
        let _ = writeln!(text, "# HELP {name} Durations of calls.\n# TYPE {name} histogram");
        for ((path, kind), meters) in METHODS.iter().zip(&self.methods) {
            // How long a stream lives says nothing of its server; calls never made take no room.
            if *kind == CallKind::Unary && meters.handling.count() > 0 {
                meters.handling.render_series(name, &format!("{},", labels(path, *kind)), text);
            }
        }
    }
}

fn labels(path: &str, kind: CallKind) -> String {
    let (service, method) = path[1..].split_once('/').expect("a path has a service and a method");
    let kind = kind.label();
    format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_method_and_code_and_ignores_strangers() {
        let meters = CallMeters::default();
        let put = Method::at("/etcdserverpb.KV/Put").expect("counted");
        assert!(Method::at("/etcdserverpb.KV/Drop\"}").is_none());
        meters.started(put);
        meters.handled(put, tonic::Code::Unavailable, Duration::from_millis(1));
        let mut text = String::new();
        meters.render(&mut text);
        let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        assert!(text.contains(&format!("grpc_server_started_total{{{labels}}} 1\n")));
        let handled =
            format!("grpc_server_handled_total{{{labels},grpc_code=\"Unavailable\"}} 1\n");
        assert!(text.contains(&handled), "{text}");
        assert!(text.contains(&format!("grpc_server_handling_seconds_count{{{labels}}} 1\n")));
        assert!(!text.contains("handling_seconds_count{grpc_method=\"Txn\""), "none was made");
    }
}
