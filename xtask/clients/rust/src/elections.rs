//! Elections of the server: one leads, the others stand in line, anybody may look on.

use etcd_client::{LeaderKey, ObserveStream, ProclaimOptions, ResignOptions};

use crate::cluster::{Checked, Cluster, refused};
use crate::ensure;

/// Looks on until `value` is proclaimed; what was proclaimed before may be skipped.
async fn until(seen: &mut ObserveStream, value: &str) -> Checked {
    loop {
        let response = seen.message().await?.ok_or("the stream ended")?;
        if response.kv().is_some_and(|pair| pair.value() == value.as_bytes()) {
            return Ok(());
        }
    }
}

pub async fn an_election_changes_hands_and_is_observed(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let mut leases = [0; 2];
    for lease in &mut leases {
        *lease = client.lease_grant(30, None).await?.id();
    }
    let first = client.campaign("rust/election", "first", leases[0]).await?;
    let first = first.leader().ok_or("no leader key")?.clone();
    let key = format!("rust/election/{:x}", leases[0]);
    ensure!(first.key() == key.as_bytes() && first.name() == b"rust/election", "{first:?}");
    ensure!(first.lease() == leases[0] && first.rev() > 0, "{first:?}");
    let mut seen = client.observe("rust/election").await?;
    until(&mut seen, "first").await?;
    let mine = || ProclaimOptions::new().with_leader(first.clone());
    client.proclaim("first again", Some(mine())).await?;
    until(&mut seen, "first again").await?;

    let mut candidate = client.clone();
    let second =
        tokio::spawn(async move { candidate.campaign("rust/election", "second", leases[1]).await });
    let leader = client.leader("rust/election").await?;
    let leader = leader.kv().ok_or("nobody leads")?;
    ensure!(leader.value() == b"first again" && leader.key() == first.key(), "{leader:?}");
    client.resign(Some(ResignOptions::new().with_leader(first.clone()))).await?;
    let second = second.await??;
    let second = second.leader().ok_or("no leader key")?.clone();
    ensure!(second.rev() > first.rev(), "{first:?}, then {second:?}");
    until(&mut seen, "second").await?;
    let late = client.proclaim("first once more", Some(mine())).await;
    refused(late, "election: not leader")?;

    // The lease takes the leadership with it.
    client.lease_revoke(leases[1]).await?;
    refused(client.leader("rust/election").await, "election: no leader")?;
    let third = client.campaign("rust/election", "third", leases[0]).await?;
    until(&mut seen, "third").await?;
    let third = third.leader().ok_or("no leader key")?.clone();
    client.resign(Some(ResignOptions::new().with_leader(third))).await?;
    Ok(())
}

pub async fn who_does_not_lead_cannot_proclaim(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    refused(client.leader("rust/nobody").await, "election: no leader")?;
    let invented = LeaderKey::new().with_name("rust/nobody").with_key("rust/nobody/1").with_rev(1);
    let lease = client.lease_grant(30, None).await?.id();
    let invented = invented.with_lease(lease);
    let proclaim = ProclaimOptions::new().with_leader(invented.clone());
    refused(client.proclaim("me", Some(proclaim)).await, "election: not leader")?;
    let missing = "field must be provided";
    refused(client.proclaim("me", None).await, missing)?;
    refused(client.resign(None).await, missing)?;
    client.resign(Some(ResignOptions::new().with_leader(invented))).await?;
    let nobodys = client.campaign("rust/nobody", "me", 4711).await;
    refused(nobodys, "etcdserver: requested lease not found")
}
