//! What those who run a cluster ask of it: its members, their state, its upkeep.

use etcd_client::{
    AlarmAction, AlarmType, CompactionOptions, GetOptions, MemberAddOptions, PutOptions,
};

use crate::cluster::{Checked, Cluster, refused, revision};
use crate::ensure;

pub async fn members_and_status(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let members = client.member_list().await?;
    ensure!(members.members().len() == cluster.endpoints().len(), "{members:?}");
    let mut leaders = Vec::new();
    for endpoint in cluster.endpoints() {
        let status = cluster.connect_to(endpoint).await?.status().await?;
        ensure!(status.version().split('.').count() == 3, "version {}", status.version());
        leaders.push(status.leader());
    }
    leaders.dedup();
    ensure!(leaders.len() == 1 && leaders[0] != 0, "leaders {leaders:?}");
    ensure!(members.members().iter().any(|member| member.id() == leaders[0]), "{members:?}");
    Ok(())
}

pub async fn hashes_agree(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let put = client.put("rust/hash", "x", None).await?;
    let revision = put.header().ok_or("no header")?.revision();
    let mut hashes = Vec::new();
    for endpoint in cluster.endpoints() {
        let mut client = cluster.connect_to(endpoint).await?;
        // A linearizable read, so that the member has applied the write.
        client.get("rust/hash", None).await?;
        hashes.push(client.hash_kv(revision).await?.hash());
    }
    hashes.dedup();
    ensure!(hashes.len() == 1, "{hashes:?}");
    Ok(())
}

pub async fn compaction_forgets(cluster: &Cluster) -> Checked {
    // One member: another may not have compacted yet.
    let mut client = cluster.first().connect().await?;
    let old = revision(client.put("rust/compact", "1", None).await?.header());
    let new = revision(client.put("rust/compact", "2", None).await?.header());
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    let before = client.get("rust/compact", at(old)).await?;
    ensure!(before.kvs().first().is_some_and(|pair| pair.value() == b"1"), "{before:?}");
    client.compact(new, Some(CompactionOptions::new().with_physical())).await?;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    refused(client.get("rust/compact", at(old)).await, compacted)?;
    refused(client.compact(old, None).await, compacted)?;
    let future = "etcdserver: mvcc: required revision is a future revision";
    refused(client.compact(new + 1000, None).await, future)?;
    let kept = client.get("rust/compact", at(new)).await?;
    ensure!(kept.kvs().first().is_some_and(|pair| pair.value() == b"2"), "{kept:?}");
    Ok(())
}

pub async fn alarms_are_listed_and_a_member_defragmented(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await?;
    ensure!(alarms.alarms().is_empty(), "{alarms:?}");
    client.put("rust/defragmented", "x", None).await?;
    for endpoint in cluster.endpoints() {
        let mut client = cluster.connect_to(endpoint).await?;
        client.defragment().await?;
        let got = client.get("rust/defragmented", None).await?;
        ensure!(got.count() == 1, "{endpoint} lost a key");
    }
    Ok(())
}

pub async fn a_snapshot_is_streamed(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let mut stream = client.snapshot().await?;
    let mut parts = Vec::new();
    while let Some(part) = stream.message().await? {
        parts.push((part.blob().len(), part.remaining_bytes()));
    }
    let bytes: usize = parts.iter().map(|(bytes, _)| bytes).sum();
    // A SHA-256 follows whole blocks, by which etcd's tools know a snapshot.
    ensure!(bytes > 512 && bytes % 512 == 32, "{bytes} bytes");
    let remaining: Vec<u64> = parts.iter().map(|(_, remaining)| *remaining).collect();
    ensure!(remaining.is_sorted_by(|a, b| a >= b), "what remains: {remaining:?}");
    ensure!(remaining.last() == Some(&0), "what remains: {remaining:?}");
    Ok(())
}

pub async fn a_learner_comes_and_goes(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let count = cluster.endpoints().len();
    let url = format!("{}://127.0.0.1:1", cluster.scheme());
    let learner = MemberAddOptions::new().with_is_learner();
    let added = client.member_add([&url], Some(learner.clone())).await?;
    let member = added.member().ok_or("no member")?;
    ensure!(member.is_learner() && member.peer_urls() == [url.as_str()], "{added:?}");
    ensure!(added.member_list().len() == count + 1, "{added:?}");
    let taken = client.member_list().await?.members()[0].peer_urls()[0].clone();
    let again = client.member_add([taken], Some(learner)).await;
    let twice = refused(again, "etcdserver: Peer URLs already exists");
    let early = client.member_promote(member.id()).await;
    let early = refused(early, "etcdserver: can only promote a learner member which is in sync");
    // A cluster writes on with a learner that never came.
    let written = client.put("rust/learner", "x", Some(PutOptions::new())).await;
    let removed = client.member_remove(member.id()).await?;
    ensure!(removed.members().len() == count, "{removed:?}");
    twice?;
    early?;
    written?;
    refused(client.member_remove(member.id()).await, "etcdserver: member not found")
}

pub async fn the_leader_hands_over(cluster: &Cluster) -> Checked {
    let mut members = Vec::new();
    for endpoint in cluster.endpoints() {
        let status = cluster.connect_to(endpoint).await?.status().await?;
        let id = status.header().ok_or("no header")?.member_id();
        members.push((endpoint, id, status.leader()));
    }
    let (leader, _, _) = members.iter().find(|(_, id, leader)| id == leader).ok_or("no leader")?;
    let (other, next, _) = members.iter().find(|(_, id, l)| id != l).ok_or("no follower")?;
    refused(cluster.connect_to(other).await?.move_leader(*next).await, "etcdserver: not leader")?;
    cluster.connect_to(leader).await?.move_leader(*next).await?;
    let mut client = cluster.connect_to(other).await?;
    while client.status().await?.leader() != *next {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    client.put("rust/handed-over", "x", None).await?;
    Ok(())
}
