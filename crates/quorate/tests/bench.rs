//! `quorate bench` against a real member: every kind of load finishes without a failure, and counts
//! what it did.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use harness::local_cluster::LocalCluster;
use harness::member_process::{Output, Server};
use harness::port_plan;

const READY: Duration = Duration::from_secs(30);

/// Runs `quorate bench` with these words; its JSON.
fn bench(endpoint: &str, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(["bench", "--endpoints", endpoint, "--json"]).args(words);
    command.args(["--clients", "8", "--connections", "2", "--duration", "1", "--warm-up", "0"]);
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("\"failures\":{}"), "{words:?}: {said}");
    said
}

fn number(json: &str, name: &str) -> f64 {
    let (_, rest) = json.split_once(&format!("\"{name}\":")).expect(name);
    let end = rest.find([',', '}']).expect("an object ends");
    rest[..end].parse().expect("a number")
}

#[tokio::test]
async fn every_kind_of_load_is_measured() {
    let path = std::env::temp_dir().join(format!("quorate-bench-{}", std::process::id()));
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_quorate"));
    let server = Server::Quorate { binary, options: Vec::new() };
    let addresses = port_plan::plan(1, 8700).expect("one member fits");
    let mut cluster = LocalCluster::new(server, addresses, &path, Output::LogFile);
    cluster.start_all().expect("it starts");
    cluster.await_all_ready(READY).await.expect("it serves");
    let endpoint = cluster.endpoints()[0].clone();
    let pid = cluster.process(0).expect("it runs").id().to_string();
    for kind in ["put", "get", "serializable-get", "range", "cas", "mixed"] {
        let said = bench(&endpoint, &[kind, "--keys", "100", "--pids", &pid]);
        assert!(number(&said, "count") >= 100.0, "{kind}: {said}");
        assert!(number(&said, "cpu_seconds") > 0.0, "{kind}: {said}");
    }
    let said = bench(&endpoint, &["put", "--keys", "100", "--rate", "200"]);
    let count = number(&said, "count");
    assert!((150.0..=200.0).contains(&count), "an open loop keeps its rate: {said}");
    // 100 writes a second, each heard by everybody.
    let said = bench(&endpoint, &["watch", "--watchers", "150"]);
    assert_eq!(number(&said, "count"), 100.0 * 150.0, "{said}");
    let said = bench(&endpoint, &["lease-expiry", "--leases", "300"]);
    assert!(said.contains("until all were gone"), "{said}");
    cluster.stop().await.expect("it stops");
    // Left behind by a run that panics: its log says why.
    std::fs::remove_dir_all(&path).expect("the run's own directory");
}
