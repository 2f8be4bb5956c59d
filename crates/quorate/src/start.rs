//! `quorate start`: one durable node, until it is told to stop.
//!
//! Not here: what the settings mean (`node::Settings`).

use std::io::IsTerminal;

use node::{Addresses, Node, NodeConfig, Settings, Stopper};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::Failure;
use crate::arguments::StartOptions;

/// Runs the node.
pub(crate) fn run(options: StartOptions, notes: Vec<String>) -> Result<(), Failure> {
    let stop_with_stdin = options.stop_with_stdin;
    let settings = settings(options, notes).map_err(Failure::Usage)?;
    let config = settings.resolve().map_err(Failure::Usage)?;
    log_to_stderr(config.log_level.as_deref()).map_err(Failure::Usage)?;
    let node = Node::start(&config).map_err(Failure::Failed)?;
    serve(node, &config, stop_with_stdin)
}

/// Serves until it is told to stop.
pub(crate) fn serve(node: Node, config: &NodeConfig, stop_with_stdin: bool) -> Result<(), Failure> {
    let Addresses { etcd, peer, admin } = node.addresses();
    let name = &config.name;
    eprintln!("{name} serves etcd clients on {etcd}, members on {peer}, operators on {admin}");
    stop_on_signals(node.stopper()).map_err(Failure::Failed)?;
    if stop_with_stdin {
        stop_at_end_of_input(node.stopper()).map_err(Failure::Failed)?;
    }
    node.wait().map_err(Failure::Failed)
}

/// The filter is `QUORATE_LOG`, else the level that was set.
pub(crate) fn log_to_stderr(level: Option<&str>) -> Result<(), String> {
    let filter = std::env::var("QUORATE_LOG");
    let filter = filter.unwrap_or_else(|_| level.unwrap_or("info").to_owned());
    let filter = EnvFilter::try_new(&filter)
        .map_err(|error| format!("QUORATE_LOG is {filter:?}: {error}"))?;
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(terminal);
    log.with_writer(std::io::stderr).init();
    Ok(())
}

/// SIGINT and SIGTERM stop the node in good order.
fn stop_on_signals(stopper: Stopper) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("cannot listen for signals: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(cannot)?;
    let signals = runtime.block_on(async {
        Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    });
    let (mut interrupt, mut terminate) = signals.map_err(cannot)?;
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        stopper.stop();
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(cannot)?;
    Ok(())
}

/// Whoever started the node holds the other end of the pipe, and is gone when it ends.
fn stop_at_end_of_input(stopper: Stopper) -> Result<(), String> {
    let wait = move || {
        // An error is as good a reason to stop as the end.
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        stopper.stop();
    };
    let thread = std::thread::Builder::new().name("standard-input".to_owned()).spawn(wait);
    thread.map(drop).map_err(|error| format!("cannot watch standard input: {error}"))
}

/// Command line over environment over file over defaults.
pub(crate) fn settings(options: StartOptions, notes: Vec<String>) -> Result<Settings, String> {
    let file = match &options.config {
        None => Settings::default(),
        Some(path) => {
            let origin = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {origin}: {error}"))?;
            Settings::from_toml(&text, &origin)?
        }
    };
    let environment = Settings::from_environment(environment()?)?;
    Ok(Settings { notes, ..flags(options) }.or(environment).or(file))
}

/// Our variables must be text; what others are is not our business.
fn environment() -> Result<Vec<(String, String)>, String> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            Err(_) if name.starts_with("QUORATE_") || name.starts_with("ETCD_") => {
                return Err(format!("environment variable {name} is not UTF-8"));
            }
            Err(_) => {}
        }
    }
    Ok(variables)
}

fn flags(options: StartOptions) -> Settings {
    Settings {
        name: options.name,
        data_dir: options.data_dir,
        etcd: options.etcd,
        peer: options.peer,
        admin: options.admin,
        initial_cluster: options.initial_cluster,
        initial_cluster_token: options.initial_cluster_token,
        initial_cluster_state: options.initial_cluster_state,
        initial_advertise_peer_urls: options.initial_advertise_peer_urls,
        advertise_etcd: options.advertise_etcd,
        heartbeat_ms: options.heartbeat_ms,
        election_ms: options.election_ms,
        lease_ms: options.lease_ms,
        auth_token: options.auth_token,
        auth_token_ttl: options.auth_token_ttl,
        bcrypt_cost: options.bcrypt_cost,
        cache_mib: options.cache_mib,
        reserve_mib: options.reserve_mib,
        front_ends: options.front_ends,
        force_new_cluster: options.force_new_cluster.then_some(true),
        quota_backend_bytes: options.quota_backend_bytes,
        auto_compaction_mode: options.auto_compaction_mode,
        auto_compaction_retention: options.auto_compaction_retention,
        test_feature_level: options.test_feature_level,
        log_level: options.log_level,
        // A flag that is not given says nothing.
        test_power_loss: options.test_power_loss.then_some(true),
        test_no_sync: options.test_no_sync.then_some(true),
        test_free_space_file: options.test_free_space_file,
        enable_faults: options.enable_faults.then_some(true),
        ..options.tls.settings()
    }
}
