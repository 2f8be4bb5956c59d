//! Plain HTTP/1.1 on the clients' port.

use super::fake_core::{FakeCore, MEMBER};
use replica::RequestError;
use std::io::{Read, Write};
use std::net::TcpStream;

/// One request on a connection of its own: status code and body.
pub(super) fn get(core: &FakeCore, target: &str) -> (u16, String) {
    request(core, "GET", target)
}

fn request(core: &FakeCore, method: &str, target: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(core.address).expect("it listens");
    let head = format!("{method} {target} HTTP/1.1\r\nhost: quorate\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it reads");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("it answers");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).expect("a status code");
    (code.parse().expect("a number"), body.to_owned())
}

#[test]
fn the_version_is_one_that_patroni_can_take_apart() {
    let core = FakeCore::start();
    let (code, body) = get(&core, "/version");
    assert_eq!(code, 200);
    let version: serde_json::Value = serde_json::from_str(&body).unwrap();
    for part in version["etcdserver"].as_str().unwrap().split('.') {
        part.parse::<u32>().unwrap();
    }
    assert_eq!(version["etcdcluster"], "3.6.0");
}

#[test]
fn health_follows_leader_alarms_and_quorum() {
    let core = FakeCore::start();
    let healthy = (200, r#"{"health":"true","reason":""}"#.to_owned());
    let unhealthy = |reason: &str| (503, format!(r#"{{"health":"false","reason":"{reason}"}}"#));
    assert_eq!(get(&core, "/health"), healthy);

    core.feel(|mood| mood.short_of_space = vec![MEMBER]);
    assert_eq!(get(&core, "/health"), unhealthy("ALARM NOSPACE"));
    assert_eq!(get(&core, "/health?exclude=NOSPACE"), healthy);
    core.feel(|mood| mood.short_of_space = vec![]);

    core.feel(|mood| mood.refuse = Some(RequestError::TimedOut));
    let reason = "RANGE ERROR:etcdserver: request timed out";
    assert_eq!(get(&core, "/health"), unhealthy(reason));
    assert_eq!(get(&core, "/health?serializable=true"), healthy);

    core.set_leader(None);
    assert_eq!(get(&core, "/health"), unhealthy("RAFT NO LEADER"));
    assert_eq!(get(&core, "/health?serializable=true"), healthy);
    assert_eq!(request(&core, "POST", "/health").0, 405);
}

#[test]
fn liveness_and_readiness_can_be_asked_check_by_check() {
    let core = FakeCore::start();
    assert_eq!(get(&core, "/livez"), (200, "ok\n".into()));
    assert_eq!(get(&core, "/readyz"), (200, "ok\n".into()));
    let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n\
               [+]non_learner ok\nok\n";
    assert_eq!(get(&core, "/readyz?verbose"), (200, all.into()));
    assert_eq!(get(&core, "/livez/serializable_read"), (200, "ok\n".into()));

    core.feel(|mood| mood.corrupt = vec![clocks::GroupId::KEYSPACE]);
    assert_eq!(get(&core, "/readyz/data_corruption").0, 503);
    assert!(get(&core, "/health").1.contains("ALARM CORRUPT"));
    core.feel(|mood| mood.corrupt.clear());

    core.feel(|mood| mood.refuse = Some(RequestError::TimedOut));
    let (code, body) = get(&core, "/readyz");
    assert_eq!(code, 503);
    let failed = "[-]linearizable_read failed: etcdserver: request timed out\n";
    assert!(body.contains(failed), "{body}");
    assert_eq!(get(&core, "/readyz/linearizable_read").0, 503);
    assert_eq!(get(&core, "/readyz?exclude=linearizable_read").0, 200);
    assert_eq!(get(&core, "/livez").0, 200);
    assert_eq!(get(&core, "/livez/nothing").0, 404);
}

#[test]
fn metrics_have_the_names_that_dashboards_query() {
    let core = FakeCore::start();
    let (code, _) = get(&core, "/metrics");
    assert_eq!(code, 200);
    // As after one call and one message to another member.
    core.handle.meters().peer("a2").sent_bytes.add(1);
    let (_, text) = get(&core, "/metrics");
    // docs/etcd.md lists them; the dashboards and alerts that etcd's project publishes query them.
    for name in [
        "etcd_server_has_leader 1",
        "etcd_server_leader_changes_seen_total ",
        "etcd_server_proposals_failed_total ",
        "etcd_server_proposals_pending ",
        "etcd_server_proposals_committed_total ",
        "etcd_server_proposals_applied_total ",
        "etcd_server_slow_apply_total ",
        "etcd_server_quota_backend_bytes ",
        "etcd_mvcc_db_total_size_in_bytes ",
        "etcd_mvcc_db_total_size_in_use_in_bytes ",
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=",
        "etcd_disk_backend_commit_duration_seconds_bucket{le=",
        "etcd_network_peer_round_trip_time_seconds_bucket{To=\"a2\",le=",
        "etcd_network_peer_round_trip_time_seconds_count{To=\"a2\"} ",
        "etcd_network_peer_sent_bytes_total{To=\"a2\"} 1",
        "etcd_network_peer_received_bytes_total{From=\"a2\"} ",
        "etcd_network_peer_sent_failures_total{To=\"a2\"} ",
        "etcd_network_client_grpc_received_bytes_total ",
        "etcd_network_client_grpc_sent_bytes_total ",
        "grpc_server_started_total{grpc_method=\"Put\"",
        "grpc_server_handled_total{grpc_method=\"Range\"",
        "# TYPE grpc_server_handling_seconds histogram",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.contains(name), "{name} is missing");
    }
}

#[test]
fn the_json_gateway_says_that_it_is_not_built() {
    let core = FakeCore::start();
    let (code, body) = request(&core, "POST", "/v3/kv/range");
    assert_eq!(code, 501);
    assert!(body.contains("not built yet"), "{body}");
    assert_eq!(get(&core, "/nothing").0, 404);
}
