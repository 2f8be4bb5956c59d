//! Watches: nothing missed, nothing of what is forgotten, progress while nothing happens.

use etcd_client::{CompactionOptions, EventType, WatchOptions};

use crate::cluster::{Checked, Cluster, revision};
use crate::ensure;

pub async fn a_watch_tells_history_and_what_follows(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let first = client.put("rust/w/a", "1", None).await?;
    let from = revision(first.header());
    client.put("rust/w/a", "2", None).await?;
    let options = WatchOptions::new().with_prefix().with_start_revision(from).with_prev_key();
    let mut stream = client.watch("rust/w/", Some(options)).await?;
    client.put("rust/w/b", "3", None).await?;
    client.delete("rust/w/a", None).await?;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let response = stream.message().await?.ok_or("the stream ended")?;
        ensure!(!response.canceled(), "cancelled: {}", response.cancel_reason());
        for event in response.events() {
            let pair = event.kv().ok_or("an event without a key")?;
            let previous = event.prev_kv().map(|pair| pair.value().to_vec());
            let kind = event.event_type() == EventType::Put;
            seen.push((kind, pair.key_str()?.to_owned(), pair.mod_revision() - from, previous));
        }
    }
    let previous = |value: &str| Some(value.as_bytes().to_vec());
    let expected = [
        (true, "rust/w/a".to_owned(), 0, None),
        (true, "rust/w/a".to_owned(), 1, previous("1")),
        (true, "rust/w/b".to_owned(), 2, None),
        (false, "rust/w/a".to_owned(), 3, previous("2")),
    ];
    ensure!(seen == expected, "{seen:?}");
    Ok(())
}

pub async fn a_watch_reports_its_progress(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let mut stream = client.watch("rust/quiet", None).await?;
    let created = stream.message().await?.ok_or("the stream ended")?;
    ensure!(created.created(), "not created first: {created:?}");
    let put = client.put("rust/noise", "x", None).await?;
    loop {
        stream.request_progress().await?;
        let response = stream.message().await?.ok_or("the stream ended")?;
        ensure!(response.events().is_empty(), "an event of another key: {response:?}");
        if revision(response.header()) >= revision(put.header()) {
            return Ok(());
        }
    }
}

pub async fn a_watch_of_compacted_history_is_cancelled(cluster: &Cluster) -> Checked {
    // One member: another may not have compacted yet.
    let mut client = cluster.first().connect().await?;
    let old = revision(client.put("rust/c", "1", None).await?.header());
    let new = revision(client.put("rust/c", "2", None).await?.header());
    client.compact(new, Some(CompactionOptions::new())).await?;
    let options = WatchOptions::new().with_start_revision(old);
    let mut stream = client.watch("rust/c", Some(options)).await?;
    loop {
        let response = stream.message().await?.ok_or("the stream ended")?;
        ensure!(response.events().is_empty(), "events of compacted history: {response:?}");
        if response.canceled() {
            ensure!(response.compact_revision() == new, "{response:?}");
            return Ok(());
        }
    }
}
