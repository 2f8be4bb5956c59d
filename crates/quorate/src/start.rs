//! `quorate start`: one durable node, until it is told to stop.
//!
//! Not here: what the settings mean (`node::Settings`).

use node::{NodeConfig, Settings};

use crate::Failure;
use crate::arguments::StartOptions;

/// Runs the node.
pub(crate) fn run(options: StartOptions) -> Result<(), Failure> {
    let config = configure(options).map_err(Failure::Usage)?;
    Err(Failure::Failed(format!("cannot start {} yet", config.name)))
}

/// Command line over environment over file over defaults.
fn configure(options: StartOptions) -> Result<NodeConfig, String> {
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
    flags(options).or(environment).or(file).resolve()
}

/// Our variables must be text; what others are is not our business.
fn environment() -> Result<Vec<(String, String)>, String> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            Err(_) if name.starts_with("QUORATE_") => {
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
        advertise_etcd: options.advertise_etcd,
        heartbeat_ms: options.heartbeat_ms,
        election_ms: options.election_ms,
        lease_ms: options.lease_ms,
        cache_mib: options.cache_mib,
        reserve_mib: options.reserve_mib,
        front_ends: options.front_ends,
        // A flag that is not given says nothing.
        test_power_loss: options.test_power_loss.then_some(true),
        test_no_sync: options.test_no_sync.then_some(true),
        test_free_space_file: options.test_free_space_file,
    }
}
