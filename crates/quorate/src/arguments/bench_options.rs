//! Options of `bench`.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::builder::RangedI64ValueParser;
use clap::{Args, ValueEnum};
use harness::bench::{BenchPlan, Distribution, Workload};

use super::AccessOptions;
use crate::Failure;

/// What to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Writes of one key.
    Put,
    /// Linearizable reads of one key.
    Get,
    /// Reads of one key as the member has it.
    SerializableGet,
    /// Linearizable reads of --range keys.
    Range,
    /// A read, and a transaction that writes if nothing changed.
    Cas,
    /// Writes (--writes of a hundred) and linearizable reads.
    Mixed,
    /// From a write to its event at each of --watchers.
    Watch,
    /// Writes while --leases with a key each end together.
    LeaseExpiry,
}

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Keys {
    /// All alike.
    Uniform,
    /// Few of them often.
    Zipf,
    /// One after the other.
    Sequential,
}

/// Options of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// What to ask for.
    #[arg(value_enum)]
    kind: Kind,
    /// Members, ours or stock ones; connections take turns.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:2379,127.0.0.1:12379,127.0.0.1:22379"
    )]
    endpoints: Vec<String>,
    /// Requests under way at a time.
    #[arg(long, default_value_t = 64, value_parser = within(1..=100_000))]
    clients: u32,
    /// Connections that the clients share.
    #[arg(long, default_value_t = 9, value_parser = within(1..=10_000))]
    connections: u32,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256, value_parser = within(0..=1_000_000))]
    value_size: u32,
    /// Keys that are written first and chosen from.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// How they are chosen.
    #[arg(long, value_enum, default_value = "uniform")]
    distribution: Keys,
    /// Requests a second by a schedule; latency counts from the schedule, though a client that
    /// still waits sends later [default: each client sends when it has its answer].
    #[arg(long, value_parser = parse_rate)]
    rate: Option<f64>,
    /// Seconds to measure.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: u64,
    /// Seconds to send before that.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    warm_up: u64,
    /// Processes of the servers, to count what they use.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Of range: keys of one answer.
    #[arg(long, default_value_t = 100)]
    range: u32,
    /// Of mixed: writes in a hundred requests.
    #[arg(long, default_value_t = 10, value_parser = within(0..=100))]
    writes: u32,
    /// Of watch: watchers of the one key.
    #[arg(long, default_value_t = 1_000, value_parser = within(1..=1_000_000))]
    watchers: u32,
    /// Of lease-expiry: leases that end together.
    #[arg(long, default_value_t = 100_000, value_parser = within(1..=1_000_000))]
    leases: u32,
    /// Of the choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    access: AccessOptions,
}

fn within(range: RangeInclusive<i64>) -> RangedI64ValueParser<u32> {
    RangedI64ValueParser::new().range(range)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..1e7).contains(rate));
    rate.ok_or_else(|| "it must be a number of requests a second, from 0.001".to_owned())
}

impl BenchOptions {
    pub(crate) fn plan(&self) -> Result<BenchPlan, Failure> {
        Ok(BenchPlan {
            endpoints: self.endpoints.clone(),
            access: self.access.access()?,
            workload: match self.kind {
                Kind::Put => Workload::Put,
                Kind::Get => Workload::Get,
                Kind::SerializableGet => Workload::SerializableGet,
                Kind::Range => Workload::Range { keys: self.range },
                Kind::Cas => Workload::CompareAndSet,
                Kind::Mixed => Workload::Mixed { writes: self.writes },
                Kind::Watch => Workload::Watch { watchers: self.watchers as usize },
                Kind::LeaseExpiry => Workload::LeaseExpiry { leases: self.leases as usize },
            },
            clients: self.clients as usize,
            connections: self.connections as usize,
            value_bytes: self.value_size as usize,
            keys: self.keys,
            distribution: match self.distribution {
                Keys::Uniform => Distribution::Uniform,
                Keys::Zipf => Distribution::Zipf,
                Keys::Sequential => Distribution::Sequential,
            },
            rate: self.rate,
            duration: Duration::from_secs(self.duration),
            warm_up: Duration::from_secs(self.warm_up),
            pids: self.pids.clone(),
            seed: self.seed,
        })
    }
}
