//! `quorate failover`: the failover run of `harness` against this very binary.

use harness::cluster_users;
use harness::failover_run::{self, FailoverPlan, Strike};
use harness::local_certificates::LocalCertificates;
use harness::local_cluster::LocalCluster;
use harness::member_process::{Output, Server};
use harness::port_plan;
use std::time::Duration;

use crate::Failure;
use crate::arguments::FailoverOptions;

/// Runs it; broken promises are a failure.
pub(crate) fn run(options: &FailoverOptions) -> Result<(), Failure> {
    let addresses = port_plan::plan(options.nodes, options.offset).map_err(Failure::Usage)?;
    if options.data_dir.exists() {
        let path = options.data_dir.display();
        return Err(Failure::Usage(format!("{path} exists; the run needs a fresh directory")));
    }
    let mut faults = Vec::new();
    if options.power_loss {
        faults.push("--test-power-loss".to_owned());
    }
    if options.no_sync {
        faults.push("--test-no-sync".to_owned());
    }
    let mut server = crate::server(options.etcd_binary.as_deref(), faults)?;
    let upgrade_to = options.upgrade.then(|| server.clone());
    if let (true, Server::Quorate { binary, options: flags }) = (options.upgrade, &mut server) {
        match &options.upgrade_from {
            Some(older) => *binary = older.clone(),
            None => flags.extend(["--test-feature-level".to_owned(), "1".to_owned()]),
        }
    }
    let mut plan = FailoverPlan {
        duration: Duration::from_secs(options.seconds),
        whole_cluster_every: if options.power_loss { 4 } else { 0 },
        seed: options.seed,
        upgrade_to,
        completed_min: usize::try_from(options.seconds.saturating_mul(10_000) / 120)
            .unwrap_or(usize::MAX),
        strike: if options.pause { Strike::Pause } else { Strike::Kill },
        // A paused leader must come back after it was replaced.
        restart_after: Duration::from_secs(if options.pause { 4 } else { 1 }),
        strike_interval: Duration::from_secs(if options.pause { 8 } else { 5 }),
        failover_median_max: options.median_max_ms.map_or(Duration::MAX, Duration::from_millis),
        ..FailoverPlan::default()
    };
    let mut cluster = LocalCluster::new(server, addresses, &options.data_dir, Output::LogFile);
    if options.tls || options.secure {
        let certificates = LocalCertificates::make(&options.data_dir.join("tls"));
        let certificates = certificates.map_err(Failure::Failed)?;
        cluster = cluster.secured(&certificates).map_err(Failure::Failed)?;
    }
    if options.secure {
        let password = cluster_users::root_password(&options.data_dir).map_err(Failure::Failed)?;
        cluster.be_user(cluster_users::ROOT, &password);
        plan.root_password = Some(password);
    }
    let report = crate::on_one_thread(failover_run::run(&mut cluster, &plan))?;
    print!("{report}");
    if report.is_green() {
        return Ok(());
    }
    let path = options.data_dir.join("history.jsonl");
    match std::fs::write(&path, report.history.to_lines()) {
        Ok(()) => crate::say(format_args!("the operations are in {}", path.display())),
        Err(error) => {
            crate::say(format_args!("cannot keep the operations in {}: {error}", path.display()))
        }
    }
    Err(Failure::Failed(format!("{} promises were broken", report.complaints.len())))
}
