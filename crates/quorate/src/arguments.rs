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
    /// Kill leaders under load and check what was promised.
    #[command(hide = true)]
    Failover(FailoverOptions),
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
