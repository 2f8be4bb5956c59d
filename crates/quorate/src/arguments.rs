//! What may be said on the command line.
//!
//! Not here: what it means (one file per task).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Distributed guarantees behind the wire protocols that clients already speak.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, propagate_version = true)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) task: Task,
}

/// One task of the binary.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Start a local cluster of real processes, to try things out.
    Dev(DevOptions),
    /// Show every member: who leads, how far it is, what its disk does.
    Status(StatusOptions),
    /// Kill leaders under load and check what was promised.
    #[command(hide = true)]
    Failover(FailoverOptions),
}

/// Options of `dev`.
#[derive(Debug, Args)]
pub(crate) struct DevOptions {
    /// Number of nodes, 1 to 5.
    #[arg(long, default_value_t = 3)]
    pub(crate) nodes: usize,
    /// Where the nodes keep their data.
    #[arg(long, default_value = "quorate-data")]
    pub(crate) data_dir: PathBuf,
    /// Added to every port; node i listens 10000 × (i - 1) above node 1.
    #[arg(long, default_value_t = 0)]
    pub(crate) offset: u16,
    /// Print one line of JSON per node as it becomes ready, then {"ready":true}.
    #[arg(long)]
    pub(crate) json: bool,
    /// Start a node again when it ends.
    #[arg(long)]
    pub(crate) restart: bool,
    /// Run stock etcd servers of this binary instead.
    #[arg(long, hide = true)]
    pub(crate) etcd_binary: Option<PathBuf>,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    /// Any member of the cluster; more than one are tried in turn.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:2379,127.0.0.1:12379,127.0.0.1:22379"
    )]
    pub(crate) endpoints: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of the failover run.
#[derive(Debug, Args)]
pub(crate) struct FailoverOptions {
    /// Run stock etcd servers of this binary instead, to check the run itself.
    #[arg(long)]
    pub(crate) etcd_binary: Option<PathBuf>,
    /// Hold unsynced log writes in the memory of each node; every fourth kill takes all nodes.
    #[arg(long)]
    pub(crate) power_loss: bool,
    /// Seconds of kills.
    #[arg(long, default_value_t = 120)]
    pub(crate) seconds: u64,
    /// Members of the cluster.
    #[arg(long, default_value_t = 3)]
    pub(crate) nodes: usize,
    /// Added to every port.
    #[arg(long, default_value_t = 0)]
    pub(crate) offset: u16,
    /// Where the members keep their data; must not exist yet.
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    /// Seed of the load.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Help and version are answers; anything else is one sentence.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed pipe is no reason to complain about.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let sentence = text.lines().next().unwrap_or("unknown setting");
    eprintln!("quorate: {}", sentence.trim_start_matches("error: "));
    ExitCode::from(2)
}
