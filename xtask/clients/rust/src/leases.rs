//! Leases: keys that live as long as somebody says so.

use std::time::{Duration, Instant};

use etcd_client::{
    EventType, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, WatchOptions,
};

use crate::cluster::{Checked, Cluster, refused, revision};
use crate::ensure;

/// Shorter than a lease may live.
const TTL_S: i64 = 2;

pub async fn a_lease_takes_its_keys_with_it(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let lease = client.lease_grant(60, None).await?;
    ensure!(lease.ttl() == 60 && lease.id() != 0 && lease.error().is_empty(), "{lease:?}");
    let again = LeaseGrantOptions::new().with_id(lease.id());
    refused(client.lease_grant(60, Some(again)).await, "etcdserver: lease already exists")?;
    let attached = PutOptions::new().with_lease(lease.id());
    for key in ["rust/l/a", "rust/l/b", "rust/l/kept"] {
        client.put(key, "x", Some(attached.clone())).await?;
    }
    // A put without the lease takes the key from it.
    client.put("rust/l/kept", "y", None).await?;
    let with_keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    let left = client.lease_time_to_live(lease.id(), with_keys).await?;
    ensure!(left.granted_ttl() == 60 && (41..=60).contains(&left.ttl()), "{left:?}");
    ensure!(left.keys() == [b"rust/l/a".to_vec(), b"rust/l/b".to_vec()], "{left:?}");
    for endpoint in cluster.endpoints() {
        let mut client = cluster.connect_to(endpoint).await?;
        // A linearizable read, so that the member has applied the grant.
        client.get("rust/l/a", None).await?;
        let leases = client.leases().await?;
        let found = leases.leases().iter().any(|found| found.id() == lease.id());
        ensure!(found, "{endpoint} lists {leases:?}");
    }
    let before = revision(client.get("rust/l/a", None).await?.header());
    let revoked = revision(client.lease_revoke(lease.id()).await?.header());
    ensure!(revoked == before + 1, "revoked at {revoked}, after {before}");
    let found = client.get("rust/l/", Some(GetOptions::new().with_prefix())).await?;
    let keys: Vec<&[u8]> = found.kvs().iter().map(|pair| pair.key()).collect();
    ensure!(keys == [b"rust/l/kept"], "{keys:?}");
    let gone = client.lease_time_to_live(lease.id(), None).await?;
    ensure!(gone.ttl() == -1, "{gone:?}");
    let not_found = "etcdserver: requested lease not found";
    refused(client.put("rust/l/a", "x", Some(attached)).await, not_found)?;
    refused(client.lease_keep_alive(lease.id()).await, "lease not found")?;
    refused(client.lease_revoke(lease.id()).await, not_found)
}

pub async fn a_lease_lives_while_it_is_kept_alive(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let lease = client.lease_grant(TTL_S, None).await?;
    ensure!((TTL_S..=10).contains(&lease.ttl()), "{lease:?}");
    let attached = PutOptions::new().with_lease(lease.id());
    let put = client.put("rust/l/expires", "x", Some(attached)).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(lease.id()).await?;
    let lifetime = Duration::from_secs(lease.ttl().unsigned_abs());
    let enough = Instant::now() + lifetime * 2;
    while Instant::now() < enough {
        keeper.keep_alive().await?;
        let answer = answers.message().await?.ok_or("the stream ended")?;
        let ttl = answer.ttl();
        ensure!(answer.id() == lease.id() && (1..=lease.ttl()).contains(&ttl), "{answer:?}");
        tokio::time::sleep(lifetime / 5).await;
    }
    let got = client.get("rust/l/expires", None).await?;
    ensure!(got.count() == 1, "gone while it was kept alive");
    let options = WatchOptions::new().with_start_revision(revision(put.header()) + 1);
    let mut stream = client.watch("rust/l/expires", Some(options)).await?;
    let kept = Instant::now();
    loop {
        let response = stream.message().await?.ok_or("the stream ended")?;
        if let Some(event) = response.events().first() {
            ensure!(event.event_type() == EventType::Delete, "{event:?}");
            break;
        }
    }
    // It was kept alive for the last time at most a fifth of its life ago.
    ensure!(kept.elapsed() >= lifetime / 2, "it ended after {:?}", kept.elapsed());
    refused(client.lease_revoke(lease.id()).await, "etcdserver: requested lease not found")
}
