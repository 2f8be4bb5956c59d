//! What may be said to `chaos`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use harness::chaos_plan::{Fault, Workload};

use super::AccessOptions;

/// Options of `chaos`.
#[derive(Debug, Args)]
pub(crate) struct ChaosOptions {
    /// Number of nodes, 1 to 5.
    #[arg(long, default_value_t = 3, conflicts_with = "endpoints")]
    pub(crate) nodes: usize,
    /// How long, such as 90s or 5m; each fault takes six seconds at least.
    #[arg(long = "for", default_value = "60s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// kill, power-loss, pause, partition, slow-net, slow-disk, full-disk, corrupt, clock,
    /// rolling-restart, separated by commas [default: all that are possible].
    #[arg(long, value_delimiter = ',')]
    pub(crate) faults: Option<Vec<Fault>>,
    /// What clients ask for: mixed, reads, writes or transactions.
    #[arg(long, default_value = "mixed")]
    pub(crate) workload: Workload,
    /// host:port of the nodes of a running cluster, to be used instead of one that is started; its
    /// keys below quorate-chaos/ are written and, in the end, deleted.
    #[arg(long, value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,
    /// host:port at which the same nodes, in the same order, serve operators; they must have been
    /// started with --enable-faults.
    #[arg(long, value_delimiter = ',', requires = "endpoints")]
    pub(crate) admin: Vec<String>,
    /// Run the same against stock etcd servers: etcd (on PATH), or a path to it.
    #[arg(long, conflicts_with = "endpoints")]
    pub(crate) external: Option<String>,
    /// Where the report goes; a directory that is not there yet, or empty [default: chaos-report].
    #[arg(long)]
    pub(crate) report: Option<PathBuf>,
    /// Repeats the order of faults, the choice of whom they hit beside leaders, and the mix.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Added to every port.
    #[arg(long, default_value_t = 0)]
    pub(crate) offset: u16,
    /// How a running cluster lets clients in.
    #[command(flatten)]
    pub(crate) access: AccessOptions,
    /// Leave the log's sync out: a run with power losses must then be red.
    #[arg(long, hide = true)]
    pub(crate) no_sync: bool,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} should look like 90s or 5m");
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| malformed())?;
    let seconds = match &text[digits.len()..] {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    };
    // A year is enough, and keeps sums of durations and deadlines from overflowing.
    let seconds = seconds.filter(|seconds| *seconds <= 366 * 24 * 3600);
    seconds.map(Duration::from_secs).ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        for malformed in ["", "s", "90", "1d", "-1s", "1.5s", "18446744073709551615h"] {
            assert!(parse_duration(malformed).is_err(), "{malformed}");
        }
    }
}
