//! What may be said on the command line.
//!
//! Not here: what it means (one file per task).

mod access_options;
mod bench_options;
mod chaos_options;
mod tls_options;

pub(crate) use access_options::AccessOptions;
pub(crate) use bench_options::BenchOptions;
pub(crate) use chaos_options::ChaosOptions;
pub(crate) use tls_options::TlsOptions;

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use simulator::Profile;

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
    /// Run one durable node.
    Start(Box<StartOptions>),
    /// Have a running cluster take a new node in, and run it.
    Join(Box<JoinOptions>),
    /// Start a local cluster of real processes, to try things out.
    Dev(DevOptions),
    /// Show every member: who leads, how far it is, what its disk does.
    Status(StatusOptions),
    /// Look into a backup that `etcdctl snapshot save` wrote.
    Snapshot(SnapshotOptions),
    /// Make a data directory of a new cluster from a backup; once per member, the same each time.
    Restore(RestoreOptions),
    /// Print the next number of a sequence: nobody else gets it.
    Sequence(SequenceOptions),
    /// Measure a cluster, this one's or a stock one, under load.
    Bench(Box<BenchOptions>),
    /// Run whole clusters in a simulated world, one per seed, and check what was promised.
    Sim(SimOptions),
    /// Break a real cluster under load, check what was promised, and write a report.
    Chaos(Box<ChaosOptions>),
    /// Kill leaders under load and check what was promised.
    #[command(hide = true)]
    Failover(FailoverOptions),
}

/// Options of `start`. Each may also be set by the environment (QUORATE_DATA_DIR for --data-dir)
/// and by the configuration file (data-dir = "…"); the command line wins, then the environment.
/// Flags and variables of etcd (--listen-client-urls, ETCD_DATA_DIR) are understood as well.
#[derive(Debug, Args)]
pub(crate) struct StartOptions {
    /// TOML file with settings named like these flags.
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// Name of this node, unique in its cluster [default: default].
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where everything durable lives [default: quorate-data/NAME].
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// host:port, or several with commas, for clients of the etcd protocol [default:
    /// 127.0.0.1:2379].
    #[arg(long)]
    pub(crate) etcd: Option<String>,
    /// host:port, or several, for the other nodes [default: as in --initial-cluster, or
    /// 127.0.0.1:2380].
    #[arg(long)]
    pub(crate) peer: Option<String>,
    /// host:port, or several, for status and metrics [default: 127.0.0.1:2381].
    #[arg(long)]
    pub(crate) admin: Option<String>,
    /// new, or existing for a node that was added to a running cluster.
    #[arg(long)]
    pub(crate) initial_cluster_state: Option<String>,
    /// URL at which the other nodes reach this one [default: as in --initial-cluster].
    #[arg(long)]
    pub(crate) initial_advertise_peer_urls: Option<String>,
    /// NAME=host:port of every node, separated by commas, the same on each [default: this node].
    #[arg(long)]
    pub(crate) initial_cluster: Option<String>,
    /// Tells apart clusters that have the same members [default: quorate-cluster].
    #[arg(long)]
    pub(crate) initial_cluster_token: Option<String>,
    /// URLs at which clients on other machines reach this node, separated by commas.
    #[arg(long)]
    pub(crate) advertise_etcd: Option<String>,
    /// Milliseconds between heartbeats [default: 100].
    #[arg(long)]
    pub(crate) heartbeat_ms: Option<u64>,
    /// Milliseconds of silence after which a leader is doubted [default: 1000].
    #[arg(long)]
    pub(crate) election_ms: Option<u64>,
    /// Milliseconds that a leader may answer reads by itself; 0: never [default: 200].
    #[arg(long)]
    pub(crate) lease_ms: Option<u64>,
    /// What users show with their calls once authentication is on: simple, or
    /// jwt,sign-method=…,priv-key=FILE,pub-key=FILE,ttl=5m [default: simple].
    #[arg(long)]
    pub(crate) auth_token: Option<String>,
    /// Seconds that a simple token lasts after its last use [default: 300].
    #[arg(long)]
    pub(crate) auth_token_ttl: Option<u64>,
    /// Work factor of password hashes, 4 to 31; each step doubles it [default: 10].
    #[arg(long)]
    pub(crate) bcrypt_cost: Option<u32>,
    /// MiB of memory for the storage engine's cache [default: 128].
    #[arg(long)]
    pub(crate) cache_mib: Option<u64>,
    /// MiB of free disk space below which writes are refused [default: 256].
    #[arg(long)]
    pub(crate) reserve_mib: Option<u64>,
    /// Threads that serve clients [default: one per core].
    #[arg(long)]
    pub(crate) front_ends: Option<usize>,
    /// After the others are lost for good: make a new cluster of this member alone, at this start.
    #[arg(long)]
    pub(crate) force_new_cluster: bool,
    /// Bytes of the state above which writes that take space are refused; 0: no bound.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) quota_backend_bytes: Option<i64>,
    /// What --auto-compaction-retention counts: periodic or revision [default: periodic].
    #[arg(long)]
    pub(crate) auto_compaction_mode: Option<String>,
    /// How much history is kept: hours, a duration like 30m, or revisions; 0: all of it.
    #[arg(long)]
    pub(crate) auto_compaction_retention: Option<String>,
    /// What is logged: debug, info, warn or error; QUORATE_LOG says it in more detail [default:
    /// info].
    #[arg(long)]
    pub(crate) log_level: Option<String>,
    #[command(flatten)]
    pub(crate) tls: TlsOptions,
    /// Hold unsynced log writes in memory, so that a kill is a power loss.
    #[arg(long, hide = true)]
    pub(crate) test_power_loss: bool,
    /// Leave the log's sync out: a planted bug, which tests must find.
    #[arg(long, hide = true)]
    pub(crate) test_no_sync: bool,
    /// A file that says how many bytes are free.
    #[arg(long, hide = true)]
    pub(crate) test_free_space_file: Option<PathBuf>,
    /// Dangerous: whoever reaches the admin endpoint, which must be on loopback, can make this node
    /// lie about time and space, and fail. For chaos runs.
    #[arg(long, hide = true)]
    pub(crate) enable_faults: bool,
    /// Speak no higher feature level than this.
    #[arg(long, hide = true)]
    pub(crate) test_feature_level: Option<u32>,
    /// Stop when standard input ends.
    #[arg(long, hide = true)]
    pub(crate) stop_with_stdin: bool,
}

/// Options of `join`.
#[derive(Debug, Args)]
pub(crate) struct JoinOptions {
    /// host:port at which etcd clients reach a member of the cluster; more than one are tried in
    /// turn. Not asked any more once the node has joined.
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) from: Vec<String>,
    /// Only receive the log at first: vote once promoted (etcdctl member promote).
    #[arg(long)]
    pub(crate) learner: bool,
    /// Name or id of a member to remove for ever, whose place this node takes.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) replace: Option<String>,
    /// How the members let it in.
    #[command(flatten)]
    pub(crate) access: AccessOptions,
    /// How the node is run.
    #[command(flatten)]
    pub(crate) start: StartOptions,
}

/// Options of `dev`.
#[derive(Debug, Args)]
pub(crate) struct DevOptions {
    /// Number of nodes of a new cluster, 1 to 5 [default: 3].
    #[arg(long)]
    pub(crate) nodes: Option<usize>,
    /// Where the nodes keep their data.
    #[arg(long, default_value = "quorate-data")]
    pub(crate) data_dir: PathBuf,
    /// Added to every port of a new cluster; node i listens 10000 × (i - 1) above node 1.
    #[arg(long)]
    pub(crate) offset: Option<u16>,
    /// Print one line of JSON per node as it becomes ready, then {"ready":true}.
    #[arg(long)]
    pub(crate) json: bool,
    /// Start a node again when it ends.
    #[arg(long)]
    pub(crate) restart: bool,
    /// With TLS, between nodes and with clients, by certificates made in the data directory, and
    /// with authentication on: the root user's password is kept there and shown.
    #[arg(long)]
    pub(crate) secure: bool,
    /// Let chaos inject faults into the nodes, by their admin addresses.
    #[arg(long, conflicts_with = "etcd_binary")]
    pub(crate) enable_faults: bool,
    /// Run stock etcd servers of this binary instead.
    #[arg(long, hide = true)]
    pub(crate) etcd_binary: Option<PathBuf>,
}

/// Options of `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotOptions {
    /// What to do with it.
    #[command(subcommand)]
    pub(crate) task: SnapshotTask,
}

/// What can be done with a backup.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotTask {
    /// Check all of it, and show its hash, revision, number of keys and size.
    Status {
        /// The backup.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreOptions {
    /// The backup.
    pub(crate) file: PathBuf,
    /// Where this member is to keep everything: empty, or not there yet.
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    /// Name of this member [default: default].
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// NAME=host:port of every member of the new cluster [default: this member].
    #[arg(long)]
    pub(crate) initial_cluster: Option<String>,
    /// Tells apart clusters that have the same members [default: quorate-cluster].
    #[arg(long)]
    pub(crate) initial_cluster_token: Option<String>,
    /// URL at which the other members reach this one [default: as in --initial-cluster].
    #[arg(long)]
    pub(crate) initial_advertise_peer_urls: Option<String>,
    /// Added to the revision, so that clients see none twice.
    #[arg(long, default_value_t = 0, requires = "mark_compacted")]
    pub(crate) bump_revision: u64,
    /// Count everything restored as compacted, so that watches of the old cluster end.
    #[arg(long, requires = "bump_revision")]
    pub(crate) mark_compacted: bool,
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
    #[command(flatten)]
    pub(crate) access: AccessOptions,
}

/// Options of `sequence`.
#[derive(Debug, Args)]
pub(crate) struct SequenceOptions {
    /// The key whose version counts; it begins at 1.
    pub(crate) name: String,
    /// Any member of the cluster; more than one are tried in turn.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:2379,127.0.0.1:12379,127.0.0.1:22379"
    )]
    pub(crate) endpoints: Vec<String>,
    #[command(flatten)]
    pub(crate) access: AccessOptions,
}

/// Options of `sim`.
#[derive(Debug, Args)]
pub(crate) struct SimOptions {
    /// Seeds to run, for example 0..200; the last one is left out [default: 0..50].
    #[arg(long, value_parser = parse_seeds)]
    pub(crate) seeds: Option<Range<u64>>,
    /// One seed to run, for example one that failed.
    #[arg(long, conflicts_with = "seeds")]
    pub(crate) seed: Option<u64>,
    /// Seeds to run at a time [default: one per core].
    #[arg(long)]
    pub(crate) jobs: Option<usize>,
    /// Begin no more seeds after so many hours, for example 0.5; without --seeds, go on until then.
    #[arg(long, value_parser = parse_hours, conflicts_with = "seed")]
    pub(crate) hours: Option<f64>,
    /// Members of every cluster, from 3 to 5 [default: what each seed draws].
    #[arg(long, value_parser = parse_nodes)]
    pub(crate) nodes: Option<usize>,
    /// Kind of world: calm, swarm, frontier, hostile, wan; or beyond-clock-bound, lying-fsync,
    /// which go beyond what is promised and must end in a violation that is found.
    #[arg(long, value_parser = parse_profile, default_value = "swarm")]
    pub(crate) profile: Profile,
    /// Write what happens in the one seed to this file, a line of JSON an event (docs/trace.md).
    #[arg(long)]
    pub(crate) trace: Option<PathBuf>,
    /// Have the trace say what every machine does, too.
    #[arg(long, requires = "trace")]
    pub(crate) details: bool,
    /// Look long for the shortest way in which the first seed fails, instead of for a minute.
    #[arg(long)]
    pub(crate) shrink: bool,
    /// Where a page about the first seed that fails is written.
    #[arg(long, default_value = ".")]
    pub(crate) report: PathBuf,
}

fn parse_profile(text: &str) -> Result<Profile, String> {
    let found = Profile::ALL.into_iter().find(|(name, _)| *name == text);
    let names = || Profile::ALL.map(|(name, _)| name).join(", ");
    found.map(|(_, profile)| profile).ok_or_else(|| format!("it must be one of {}", names()))
}

fn parse_nodes(text: &str) -> Result<usize, String> {
    let nodes = text.parse().ok().filter(|nodes| (3..=5).contains(nodes));
    nodes.ok_or_else(|| "it must be 3, 4 or 5".to_owned())
}

fn parse_hours(text: &str) -> Result<f64, String> {
    let hours = text.parse().ok().filter(|hours| *hours > 0.0 && *hours <= 10_000.0);
    hours.ok_or_else(|| "it must be a number of hours above 0".to_owned())
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let malformed = || format!("{text:?} should look like 0..200");
    let (from, to) = text.split_once("..").ok_or_else(malformed)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| malformed());
    let seeds = number(from)?..number(to)?;
    if seeds.is_empty() { Err(format!("{text:?} holds no seed")) } else { Ok(seeds) }
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
    /// Leave the log's sync out: the run must then find lost writes.
    #[arg(long, requires = "power_loss")]
    pub(crate) no_sync: bool,
    /// Pause leaders for a few seconds instead of killing them.
    #[arg(long, conflicts_with = "power_loss")]
    pub(crate) pause: bool,
    /// Start with nodes that know nothing newer than feature level 1, and replace them one by one.
    #[arg(long)]
    pub(crate) upgrade: bool,
    /// The build to start with instead.
    #[arg(long, requires = "upgrade")]
    pub(crate) upgrade_from: Option<PathBuf>,
    /// Under TLS, between members and with clients.
    #[arg(long)]
    pub(crate) tls: bool,
    /// Under TLS, and with authentication on.
    #[arg(long)]
    pub(crate) secure: bool,
    /// Fail if the median time to the first write after a strike is longer.
    #[arg(long)]
    pub(crate) median_max_ms: Option<u64>,
    /// Seconds of strikes.
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
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Its first sentence says what this is, not what is missing.
        eprintln!(
            "quorate: what to do? say start, join, dev, status or restore; quorate --help says more"
        );
        return ExitCode::from(2);
    }
    // What follows the first empty line is usage, not the reason.
    let text = error.to_string();
    let reason = text.split("\n\n").next().unwrap_or("unknown setting");
    let sentence = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("quorate: {}", sentence.trim_start_matches("error: "));
    ExitCode::from(2)
}
