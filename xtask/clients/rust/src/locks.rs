//! Locks of the server, and the fence without which they are none (docs/locks.md).

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, LockOptions, LockResponse, Txn, TxnOp, TxnResponse,
};
use tokio::task::JoinSet;

use crate::cluster::{Checked, Cluster, refused, revision};
use crate::ensure;

/// How long nothing is to happen, to count as blocked.
const BLOCKED: Duration = Duration::from_millis(500);

/// Clients that want the same lock.
const HOLDERS: usize = 6;

/// Turns of each.
const TURNS: usize = 4;

type Answer = Result<LockResponse, etcd_client::Error>;

async fn with_lease(client: &mut Client) -> Checked<LockOptions> {
    let lease = client.lease_grant(30, None).await?.id();
    Ok(LockOptions::new().with_lease(lease))
}

/// A lock asked for in the background.
async fn asked(client: &Client, name: &'static str) -> Checked<JoinSet<Answer>> {
    let mut client = client.clone();
    let options = with_lease(&mut client).await?;
    let mut asked = JoinSet::new();
    asked.spawn(async move { client.lock(name, Some(options)).await });
    Ok(asked)
}

/// Writes if the lock that was taken with the key `lock` at `token` is still held.
async fn fenced(client: &mut Client, lock: &[u8], token: i64) -> Checked<TxnResponse> {
    let held = Compare::create_revision(lock, CompareOp::Equal, token);
    let write = TxnOp::put("rust/fenced", token.to_string(), None);
    Ok(client.txn(Txn::new().when([held]).and_then([write])).await?)
}

pub async fn a_lock_is_held_by_one_at_a_time(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let lease = client.lease_grant(30, None).await?.id();
    let options = LockOptions::new().with_lease(lease);
    let first = client.lock("rust/lock", Some(options.clone())).await?;
    ensure!(first.key() == format!("rust/lock/{lease:x}").as_bytes(), "{first:?}");
    let again = client.lock("rust/lock", Some(options)).await?;
    ensure!(again.key() == first.key(), "the same lease got {again:?}");
    let mut second = asked(&client, "rust/lock").await?;
    let early = tokio::time::timeout(BLOCKED, second.join_next()).await;
    ensure!(early.is_err(), "two hold it: {early:?}");
    client.unlock(first.key()).await?;
    let second = second.join_next().await.ok_or("nobody asked")???;
    let (before, after) = (revision(first.header()), revision(second.header()));
    ensure!(second.key() != first.key() && after > before, "{first:?}, then {second:?}");
    client.unlock(second.key()).await?;
    // A lock without a lease has one that ends by itself.
    let third = client.lock("rust/lock", None).await?;
    let found = client.get(third.key(), None).await?;
    ensure!(found.kvs().first().is_some_and(|pair| pair.lease() != 0), "{found:?}");
    client.unlock(third.key()).await?;
    let nobodys = LockOptions::new().with_lease(4711);
    let nobodys = client.lock("rust/lock", Some(nobodys)).await;
    refused(nobodys, "etcdserver: requested lease not found")
}

pub async fn a_lock_passes_on_when_its_lease_ends(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let lease = client.lease_grant(30, None).await?.id();
    let options = LockOptions::new().with_lease(lease);
    let first = client.lock("rust/fence", Some(options)).await?;
    let created = client.get(first.key(), None).await?;
    let token = created.kvs().first().ok_or("no key")?.create_revision();
    ensure!(fenced(&mut client, first.key(), token).await?.succeeded(), "the holder is fenced");
    let mut second = asked(&client, "rust/fence").await?;
    let early = tokio::time::timeout(BLOCKED, second.join_next()).await;
    ensure!(early.is_err(), "two hold it: {early:?}");
    client.lease_revoke(lease).await?;
    let second = second.join_next().await.ok_or("nobody asked")???;
    let created = client.get(second.key(), None).await?;
    let next_token = created.kvs().first().ok_or("no key")?.create_revision();
    ensure!(next_token > token, "the token went from {token} to {next_token}");
    // The first holder has not heard of it.
    let late = fenced(&mut client, first.key(), token).await?;
    ensure!(!late.succeeded(), "who lost the lock writes");
    let now = fenced(&mut client, second.key(), next_token).await?;
    ensure!(now.succeeded(), "the second holder is fenced");
    client.unlock(second.key()).await?;
    Ok(())
}

pub async fn a_waiter_that_gives_up_leaves_the_line(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let options = with_lease(&mut client).await?;
    let first = client.lock("rust/line", Some(options)).await?;
    let prefix = || Some(GetOptions::new().with_prefix().with_count_only());
    let second = asked(&client, "rust/line").await?;
    while client.get("rust/line/", prefix()).await?.count() < 2 {
        tokio::time::sleep(BLOCKED / 50).await;
    }
    drop(second);
    while client.get("rust/line/", prefix()).await?.count() > 1 {
        tokio::time::sleep(BLOCKED / 50).await;
    }
    ensure!(client.get(first.key(), None).await?.count() == 1, "the holder left");
    client.unlock(first.key()).await?;
    Ok(())
}

pub async fn what_is_done_under_a_lock_is_not_lost(cluster: &Cluster) -> Checked {
    cluster.connect().await?.put("rust/counter", "0", None).await?;
    let mut holders = JoinSet::new();
    for holder in 0..HOLDERS {
        let endpoint = cluster.endpoints()[holder % cluster.endpoints().len()].clone();
        let cluster = cluster.clone();
        holders.spawn(async move {
            let counted = async {
                let mut client = cluster.connect_to(&endpoint).await?;
                let options = with_lease(&mut client).await?;
                for _ in 0..TURNS {
                    let lock = client.lock("rust/turns", Some(options.clone())).await?;
                    let found = client.get("rust/counter", None).await?;
                    let count = found.kvs().first().ok_or("no counter")?.value_str()?;
                    let count: usize = count.parse()?;
                    client.put("rust/counter", (count + 1).to_string(), None).await?;
                    client.unlock(lock.key()).await?;
                }
                Checked::Ok(())
            };
            counted.await.map_err(|why| why.to_string())
        });
    }
    while let Some(holder) = holders.join_next().await {
        holder??;
    }
    let found = cluster.connect().await?.get("rust/counter", None).await?;
    let count = found.kvs().first().ok_or("no counter")?.value_str()?.parse::<usize>()?;
    ensure!(count == HOLDERS * TURNS, "counted {count} of {}", HOLDERS * TURNS);
    Ok(())
}
