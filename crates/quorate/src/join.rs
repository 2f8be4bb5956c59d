//! `quorate join`: a node that a running cluster takes in, until it is told to stop.
//!
//! Once its data directory says who it is, it starts as with `quorate start`.

use harness::cluster_admission::{Admission, admit};
use harness::dev_directory::{self, Place};
use harness::port_plan::MemberAddresses;
use node::{Addresses, Node, NodeConfig, NodeSeat, Settings};

use crate::arguments::JoinOptions;
use crate::{Failure, start};

/// Joins, unless it has before, and runs the node.
pub(crate) fn run(options: JoinOptions) -> Result<(), Failure> {
    let JoinOptions { from, learner, replace, access, start } = options;
    let access = access.access()?;
    let stop_with_stdin = start.stop_with_stdin;
    let settings = start::settings(start, Vec::new()).map_err(Failure::Usage)?;
    let alone = alone(&settings).map_err(Failure::Usage)?;
    start::log_to_stderr(alone.log_level.as_deref()).map_err(Failure::Usage)?;
    let seat = NodeSeat::take(&alone).map_err(Failure::Failed)?;
    let config = if seat.is_new() {
        let scheme = if alone.tls.members.is_some() { "https" } else { "http" };
        let wanted = Admission {
            access,
            from,
            name: alone.name.clone(),
            peer_url: format!("{scheme}://{}", alone.own_peer_address()),
            learner,
            replace,
        };
        let tell = |sentence: &str| eprintln!("quorate: {sentence}");
        let admitted = match crate::on_one_thread(admit(&wanted, tell)) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                seat.give_up();
                return Err(refusal);
            }
        };
        if let Some(note) = &admitted.note {
            eprintln!("quorate: {note}");
        }
        if admitted.learner {
            eprintln!(
                "{} joins as a learner: it receives everything and does not vote; to let it vote, \
                 once it is in sync: etcdctl member promote {:x}",
                alone.name, admitted.id
            );
        }
        let joining = Settings {
            initial_cluster: Some(admitted.initial_cluster),
            initial_cluster_state: Some("existing".to_owned()),
            ..settings
        };
        joining.resolve().map_err(Failure::Failed)?
    } else {
        alone
    };
    let node = seat.start(&config).map_err(Failure::Failed)?;
    remember_addresses(&node, &config);
    start::serve(node, &config, stop_with_stdin)
}

/// For a `quorate dev` that has this directory beside its own.
fn remember_addresses(node: &Node, config: &NodeConfig) {
    let Addresses { etcd, peer, admin } = node.addresses();
    let [etcd, peer, admin] = [etcd, peer, admin].map(|address| address.to_string());
    let addresses = MemberAddresses { etcd, peer, admin };
    let place = Place { name: config.name.clone(), addresses };
    if let Err(sentence) = dev_directory::record(&config.data_dir, &place) {
        eprintln!("quorate: {sentence}");
    }
}

/// The settings of the node itself: who else there is, the cluster says.
fn alone(settings: &Settings) -> Result<NodeConfig, String> {
    if settings.initial_cluster.is_some() || settings.initial_cluster_state.is_some() {
        return Err(
            "join asks the cluster who its members are: leave initial-cluster out, or use \
                    quorate start with initial-cluster-state existing"
                .to_owned(),
        );
    }
    let config = settings.clone().resolve()?;
    let address = config.own_peer_address();
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    if matches!(host, "0.0.0.0" | "[::]") {
        return Err(format!(
            "peer is {address}, at which no other machine can reach this node: give it the \
             address that the others shall use"
        ));
    }
    Ok(config)
}
