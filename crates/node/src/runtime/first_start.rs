//! First Start: who this member is, decided once and recorded in its data directory.
//!
//! A founder's id and its cluster's follow from the initial cluster. One that joins asks the
//! members for theirs: its id was drawn when it was added. Later starts read the record, and the
//! initial cluster means nothing any more (as in etcd).

use crate::config::{ClusterState, NodeConfig};
use crate::data_directory::DataDirectory;
use crate::directory_identity::{DirectoryIdentity, KnownMember};
use crate::peers::ask;
use crate::tls::CertificateRotation;
use std::time::{Duration, Instant};
use wire::peer::{Answer, DiscoveredMember, Question};

/// How long members may take to answer, or to hear that this one was added.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(200);

/// What a member takes itself for until its own state names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Voter,
    /// It refuses what needs other members: a learner must not answer even once before it learns
    /// that it is one.
    Learner,
}

impl Standing {
    /// Without asking anybody: whoever joined and stopped before it was told counts as a learner.
    fn of(recorded: &DirectoryIdentity) -> Standing {
        let has_joined = !recorded.known.is_empty() && recorded.founders().is_empty();
        if has_joined { Standing::Learner } else { Standing::Voter }
    }
}

/// Reads who this member is, or finds out and records it. Whatever else can refuse a first start
/// comes before.
pub(super) fn identify(
    config: &NodeConfig,
    tls: Option<&CertificateRotation>,
    directory: &mut DataDirectory,
) -> Result<(DirectoryIdentity, Standing), String> {
    if let Some(recorded) = directory.identity() {
        let recalled = recall(config, recorded.clone(), directory)?;
        let standing = Standing::of(&recalled);
        return Ok((recalled, standing));
    }
    match config.cluster_state {
        ClusterState::Unsaid | ClusterState::New => {
            let cluster = &config.cluster;
            let identity = directory.record(cluster.id, cluster.node, founders(config))?;
            Ok((identity, Standing::Voter))
        }
        ClusterState::Existing => join(config, tls, directory),
    }
}

fn recall(
    config: &NodeConfig,
    mut recorded: DirectoryIdentity,
    directory: &DataDirectory,
) -> Result<DirectoryIdentity, String> {
    let settings = &config.cluster;
    let path = directory.path().display();
    if recorded.cluster == settings.id && recorded.node != settings.node {
        return Err(format!(
            "the data directory {path} belongs to member {}, not to {}: members cannot share or \
             swap directories",
            recorded.node, settings.node
        ));
    }
    if recorded.known.is_empty() {
        // Format 1 left the founders to the settings.
        if recorded.cluster != settings.id {
            return Err(format!(
                "the data directory {path} belongs to cluster {:x} and was made by a version that \
                 left its founders to initial-cluster, which now tells of another cluster ({:x}): \
                 start it with the initial-cluster that it was founded with",
                recorded.cluster, settings.id
            ));
        }
        recorded.known = founders(config);
    }
    let founded_elsewhere = recorded.cluster != settings.id && !recorded.founders().is_empty();
    if founded_elsewhere && config.cluster_state == ClusterState::New {
        tracing::info!(
            "initial-cluster is not the one that cluster {:x} was founded with; it is ignored, \
             since {path} says who this member is",
            recorded.cluster
        );
    }
    Ok(recorded)
}

fn founders(config: &NodeConfig) -> Vec<KnownMember> {
    let founders = config.cluster.founders().into_iter();
    founders.map(|(id, address)| KnownMember { id, address, is_founder: true }).collect()
}

fn join(
    config: &NodeConfig,
    tls: Option<&CertificateRotation>,
    directory: &mut DataDirectory,
) -> Result<(DirectoryIdentity, Standing), String> {
    let own = vec![config.own_peer_address().to_owned()];
    let others: Vec<&str> = config
        .cluster
        .members
        .iter()
        .filter(|member| member.name != config.name)
        .map(|member| member.address.as_str())
        .collect();
    if others.is_empty() {
        return Err("initial-cluster must list members of the cluster to join".to_owned());
    }
    let question = Question { feature_level: config.feature_level, addresses: own };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
    let answer = runtime.block_on(discover(tls, &question, &others))?;
    let member = answer.member_at(&question.addresses).expect("discovered");
    if member.has_started {
        return Err(already_started(member));
    }
    let contact = |member: &DiscoveredMember| {
        let address = member.addresses.first()?.clone();
        Some(KnownMember { id: member.id, address, is_founder: false })
    };
    let known = answer.members.iter().filter_map(contact).collect();
    let (standing, role) = match member.is_learner {
        true => (Standing::Learner, "a learner"),
        false => (Standing::Voter, "a voter"),
    };
    tracing::info!("joining cluster {:x} as {role}, member {}", answer.cluster_id, member.id);
    Ok((directory.record(answer.cluster_id, member.id, known)?, standing))
}

/// Asks everybody until somebody knows this member.
async fn discover(
    tls: Option<&CertificateRotation>,
    question: &Question,
    others: &[&str],
) -> Result<Answer, String> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let (mut strangers, mut complaints) = (Vec::new(), Vec::new());
        for address in others {
            match ask(tls, address, question).await {
                Ok(answer) if answer.member_at(&question.addresses).is_some() => return Ok(answer),
                Ok(_) => strangers.push(*address),
                Err(complaint) => complaints.push(format!("{address}: {complaint}")),
            }
        }
        if Instant::now() < give_up {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        if strangers.is_empty() {
            return Err(format!(
                "no member of the cluster to join answers: {}",
                complaints.join("; ")
            ));
        }
        let own = question.addresses.join(",");
        return Err(format!(
            "{} knows no member with the peer address {own}: add it first (etcdctl member add, or \
             quorate join, which does both)",
            strangers.join(", ")
        ));
    }
}

fn already_started(member: &DiscoveredMember) -> String {
    format!(
        "member {} ({:?}) has started before, with another data directory: what it promised is \
         lost with that; replace it (quorate join --replace {})",
        member.id, member.name, member.id
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;
    use clocks::NodeId;
    use std::path::Path;

    fn config(directory: &Path, lines: &str) -> NodeConfig {
        let text = format!("data-dir = '{}'\n{lines}", directory.display());
        Settings::from_toml(&text, "test").expect("sound").resolve().expect("consistent")
    }

    fn identified(config: &NodeConfig) -> Result<DirectoryIdentity, String> {
        let directory = &mut DataDirectory::open(&config.data_dir)?;
        identify(config, None, directory).map(|(identity, _)| identity)
    }

    #[test]
    fn whoever_joined_learns_until_its_state_says_otherwise() {
        let known = |is_founder| KnownMember {
            id: NodeId(1),
            address: "10.0.0.1:2380".to_owned(),
            is_founder,
        };
        let standing = |known| {
            Standing::of(&DirectoryIdentity { cluster: 1, node: NodeId(1), directory: 1, known })
        };
        assert_eq!(standing(vec![known(false)]), Standing::Learner);
        assert_eq!(standing(vec![known(true)]), Standing::Voter);
        assert_eq!(standing(Vec::new()), Standing::Voter, "format 1 knew founders only");
    }

    const LIST: &str = "initial-cluster = 'n1=10.0.0.1:2380,n2=10.0.0.2:2380'\n";

    #[test]
    fn a_founder_stays_who_it_is_whatever_the_list_becomes() {
        let root = tempfile::tempdir().expect("a directory");
        let founding = config(root.path(), &format!("name = 'n1'\n{LIST}"));
        let first = identified(&founding).expect("new");
        assert_eq!((first.cluster, first.node), (founding.cluster.id, founding.cluster.node));
        assert_eq!(first.founders(), founding.cluster.founders());
        let grown = config(
            root.path(),
            "name = 'n1'\ninitial-cluster = 'n1=10.0.0.1:2380,n4=10.0.0.4:2380'\n\
             initial-cluster-state = 'existing'",
        );
        assert_eq!(identified(&grown), Ok(first.clone()));
        let unsaid = config(root.path(), "name = 'n1'\npeer = '10.0.0.1:2380'");
        assert_eq!(identified(&unsaid), Ok(first));
    }

    #[test]
    fn members_do_not_swap_directories() {
        let root = tempfile::tempdir().expect("a directory");
        let first = config(root.path(), &format!("name = 'n1'\n{LIST}"));
        let first = identified(&first).expect("new");
        let second = config(root.path(), &format!("name = 'n2'\n{LIST}"));
        let sentence = identified(&second).expect_err("another's directory");
        assert!(sentence.contains(&format!("belongs to member {}", first.node)), "{sentence}");
    }

    #[test]
    fn a_directory_that_left_its_founders_to_the_list_needs_that_list() {
        let root = tempfile::tempdir().expect("a directory");
        let founding = config(root.path(), &format!("name = 'n1'\n{LIST}"));
        let (cluster, node) = (founding.cluster.id, founding.cluster.node);
        let mut directory = DataDirectory::open(root.path()).expect("new");
        directory.record(cluster, node, Vec::new()).expect("recorded");
        drop(directory);
        let found = identified(&founding).expect("the list that it was founded with");
        assert_eq!(found.founders(), founding.cluster.founders());
        let grown = "initial-cluster = 'n1=10.0.0.1:2380,n4=10.0.0.4:2380'";
        for state in ["new", "existing"] {
            let lines = format!("name = 'n1'\n{grown}\ninitial-cluster-state = '{state}'");
            let sentence = identified(&config(root.path(), &lines)).expect_err("another list");
            assert!(sentence.contains("that it was founded with"), "{sentence}");
        }
    }

    #[test]
    fn whom_nobody_answers_is_nobody_still() {
        let root = tempfile::tempdir().expect("a directory");
        let lines = "name = 'n4'\ninitial-cluster-state = 'existing'\n\
                     initial-cluster = 'n4=127.0.0.1:1'";
        let alone = config(root.path(), lines);
        let sentence = identified(&alone).expect_err("nobody to ask");
        assert!(sentence.contains("must list members of the cluster to join"), "{sentence}");
        let directory = DataDirectory::open(root.path()).expect("it can be tried again");
        assert_eq!(directory.identity(), None);
    }
}
