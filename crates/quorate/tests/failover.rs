//! The failover run in seconds instead of minutes: leaders and whole clusters lose power, under TLS
//! too, and without the syncs that is noticed.
//!
//! The full run, in all its forms, is part of `cargo xtask ci`.

use std::path::PathBuf;
use std::time::Duration;

use harness::cluster_users;
use harness::failover_run::{self, FailoverPlan, FailoverReport};
use harness::local_certificates::LocalCertificates;
use harness::local_cluster::LocalCluster;
use harness::member_process::{Output, Server};
use harness::port_plan;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protection {
    None,
    /// TLS, and authentication on.
    Secure,
}

/// Every second strike takes all members; in between, leaders lose power alone.
fn lose_power(name: &str, offset: u16, options: &[&str], protection: Protection) -> FailoverReport {
    let path = std::env::temp_dir().join(format!("quorate-{name}-{}", std::process::id()));
    let server = Server::Quorate {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_quorate")),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let mut plan = FailoverPlan {
        duration: Duration::from_secs(9),
        strike_interval: Duration::from_secs(2),
        restart_after: Duration::from_millis(500),
        whole_cluster_every: 2,
        completed_min: 100,
        ..FailoverPlan::default()
    };
    let addresses = port_plan::plan(3, offset).expect("three members fit");
    let mut cluster = LocalCluster::new(server, addresses, &path, Output::LogFile);
    if protection == Protection::Secure {
        let certificates = LocalCertificates::make(&path.join("tls")).expect("certificates");
        cluster = cluster.secured(&certificates).expect("they are sound");
        let password = cluster_users::root_password(&path).expect("a password");
        cluster.be_user(cluster_users::ROOT, &password);
        plan.root_password = Some(password);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let run = failover_run::run(&mut cluster, &plan);
    let report = runtime.expect("a runtime").block_on(run).expect("the run comes to its end");
    // Left behind by a run that panics: its logs say why.
    std::fs::remove_dir_all(&path).expect("the run's own directory");
    report
}

#[test]
fn power_losses_break_no_promise() {
    let report = lose_power("failover", 7600, &["--test-power-loss"], Protection::None);
    assert!(report.is_green(), "{report}");
    assert!(report.leader_strikes > 0 && report.cluster_kills > 0, "{report}");
}

#[test]
fn power_losses_break_no_promise_under_tls_and_with_authentication_on() {
    let report = lose_power("failover-tls", 7400, &["--test-power-loss"], Protection::Secure);
    assert!(report.is_green(), "{report}");
    assert!(report.leader_strikes > 0 && report.cluster_kills > 0, "{report}");
}

#[test]
fn without_syncs_acknowledged_writes_are_lost_and_found_missing() {
    let options = ["--test-power-loss", "--test-no-sync"];
    let report = lose_power("failover-no-sync", 7700, &options, Protection::None);
    let lost = |complaint: &String| complaint.starts_with("acknowledged write lost");
    assert!(report.complaints.iter().any(lost), "{report}");
}
