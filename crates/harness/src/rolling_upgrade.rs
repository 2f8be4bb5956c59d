//! Rolling Upgrade: members are replaced by the next build one at a time, under load.
//!
//! Used by etcd, Kafka and CockroachDB. Promise: what the older build does not know is refused,
//! nothing written, until the last member runs the next one, and is served by all soon after.
//! Not here: the load, and what else is promised meanwhile (`failover_run`).

use std::time::{Duration, Instant};

use crate::local_cluster::LocalCluster;
use crate::member_client::{CallError, MemberClient};
use crate::member_process::Server;

/// How long a member may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon after the last member runs the next build everybody serves what it adds.
const RAISE_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two tries.
const TRY_INTERVAL: Duration = Duration::from_millis(100);
/// Seconds that a lease lives which is granted only to see whether that is possible.
const TRIAL_TTL: i64 = 5;

/// Kills `member` and starts it as `to`.
pub(crate) async fn upgrade(
    cluster: &mut LocalCluster,
    member: usize,
    to: &Server,
) -> Result<(), String> {
    cluster.kill(&[member]).await?;
    cluster.run_as(member, to.clone());
    cluster.start(member)
}

/// Says which member serves what an older build among them does not know.
pub(crate) async fn serves_too_early(cluster: &LocalCluster) -> Vec<String> {
    let mut complaints = Vec::new();
    for member in 0..cluster.len() {
        match try_lease(cluster, member).await {
            Err(Trial::Refused(_)) => {}
            Ok(()) => complaints.push(format!(
                "{} granted a lease while an older build was a member",
                cluster.spec(member).name
            )),
            Err(Trial::Unanswered(why)) => complaints.push(why),
        }
    }
    complaints
}

/// Says which member does not serve it although every member is of the next build.
pub(crate) async fn never_serves(cluster: &LocalCluster) -> Vec<String> {
    let give_up = Instant::now() + RAISE_TIMEOUT;
    let mut complaints = Vec::new();
    for member in 0..cluster.len() {
        while let Err(Trial::Refused(why) | Trial::Unanswered(why)) =
            try_lease(cluster, member).await
        {
            if Instant::now() > give_up {
                let name = &cluster.spec(member).name;
                complaints.push(format!("{name} serves no leases after the upgrade: {why}"));
                break;
            }
            tokio::time::sleep(TRY_INTERVAL).await;
        }
    }
    complaints
}

enum Trial {
    Refused(String),
    Unanswered(String),
}

async fn try_lease(cluster: &LocalCluster, member: usize) -> Result<(), Trial> {
    let spec = cluster.spec(member);
    let (access, address) = (cluster.access(), &spec.addresses.etcd);
    let client = MemberClient::connect_by(access, address, ANSWER_TIMEOUT).await;
    let client = client.map_err(Trial::Unanswered)?;
    match client.grant_lease(TRIAL_TTL).await {
        Ok(_) => Ok(()),
        Err(CallError::Refused(why)) => Err(Trial::Refused(why)),
        Err(CallError::Unknown(why)) => Err(Trial::Unanswered(format!("{}: {why}", spec.name))),
    }
}
