//! `quorate restore`: this member's data directory of a new cluster, from a backup file.
//!
//! Not here: how (`node::restore`).

use node::{Refounding, Settings};

use crate::Failure;
use crate::arguments::RestoreOptions;

/// Restores, and says how to go on.
pub(crate) fn run(options: RestoreOptions) -> Result<(), Failure> {
    let refounding =
        Refounding { bump_revision: options.bump_revision, mark_compacted: options.mark_compacted };
    let settings = Settings {
        name: options.name,
        data_dir: Some(options.data_dir),
        initial_cluster: options.initial_cluster,
        initial_cluster_token: options.initial_cluster_token,
        initial_advertise_peer_urls: options.initial_advertise_peer_urls,
        ..Settings::default()
    };
    let config = settings.resolve().map_err(Failure::Usage)?;
    let restored = node::restore(&options.file, &config, refounding).map_err(Failure::Failed)?;
    crate::say(format!(
        "restored {} keys at revision {} into {}: member {} of the new cluster {:x}",
        restored.keys,
        restored.revision,
        config.data_dir.display(),
        restored.member,
        restored.cluster
    ));
    if config.cluster.members.len() > 1 {
        crate::say("restore every other member from the same file in the same way, then start all");
    }
    crate::say(
        "the same file restored in the same way again is the same cluster: while members of this \
         one may run, give another --initial-cluster-token",
    );
    Ok(())
}
