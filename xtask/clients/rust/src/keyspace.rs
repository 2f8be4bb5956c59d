//! Keys: what is put is found, alone, in ranges and in transactions.

use std::error::Error;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
};

use crate::cluster::{Checked, Cluster, refused, revision};
use crate::ensure;

/// Clients that write at the same time.
const WRITERS: usize = 32;

/// Writes of each.
const WRITES: usize = 20;

pub async fn put_get_and_delete(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let first = client.put("rust/a", "1", None).await?;
    let second = client.put("rust/a", "2", Some(PutOptions::new().with_prev_key())).await?;
    let previous = second.prev_key().ok_or("no previous value")?;
    ensure!(previous.value() == b"1", "previous value {:?}", previous.value_str());
    let got = client.get("rust/a", None).await?;
    let pair = got.kvs().first().ok_or("not there")?;
    ensure!(pair.value() == b"2", "value {:?}", pair.value_str());
    ensure!(pair.create_revision() == revision(first.header()), "{pair:?}");
    ensure!(pair.mod_revision() == revision(second.header()), "{pair:?}");
    ensure!(pair.version() == 2, "{pair:?}");
    let deleted = client.delete("rust/a", Some(DeleteOptions::new().with_prev_key())).await?;
    ensure!(deleted.deleted() == 1 && deleted.prev_kvs().len() == 1, "{deleted:?}");
    ensure!(client.get("rust/a", None).await?.kvs().is_empty(), "still there");
    Ok(())
}

pub async fn every_member_serves_what_another_took(cluster: &Cluster) -> Checked {
    for writer in cluster.endpoints() {
        let mut client = cluster.connect_to(writer).await?;
        client.put("rust/everywhere", writer.as_str(), None).await?;
        for reader in cluster.endpoints() {
            let mut client = cluster.connect_to(reader).await?;
            let got = client.get("rust/everywhere", None).await?;
            let value = got.kvs().first().map(|pair| pair.value().to_vec());
            ensure!(value.as_deref() == Some(writer.as_bytes()), "{reader} has {value:?}");
        }
    }
    Ok(())
}

pub async fn ranges_sorted_and_limited(cluster: &Cluster) -> Checked {
    // One member: another may not have applied what a serializable read is to find.
    let mut client = cluster.first().connect().await?;
    for (key, value) in [("rust/r/a", "3"), ("rust/r/b", "1"), ("rust/r/c", "2")] {
        client.put(key, value, None).await?;
    }
    let prefix = || GetOptions::new().with_prefix();
    let descending = prefix().with_sort(SortTarget::Key, SortOrder::Descend);
    let cases: [(GetOptions, &[&str]); 4] = [
        (prefix(), &["3", "1", "2"]),
        (descending.with_limit(2), &["2", "1"]),
        (prefix().with_sort(SortTarget::Value, SortOrder::Ascend), &["1", "2", "3"]),
        (prefix().with_serializable(), &["3", "1", "2"]),
    ];
    for (options, expected) in cases {
        let got = client.get("rust/r/", Some(options.clone())).await?;
        let values = got.kvs().iter().map(|pair| pair.value_str());
        let values = values.collect::<Result<Vec<_>, _>>()?;
        ensure!(values == expected, "{options:?}: {values:?}");
        ensure!(got.count() == 3, "{options:?}: count {}", got.count());
        ensure!(got.more() == (values.len() < 3), "{options:?}: more {}", got.more());
    }
    let counted = client.get("rust/r/", Some(prefix().with_count_only())).await?;
    ensure!(counted.count() == 3 && counted.kvs().is_empty(), "{counted:?}");
    let keys = client.get("rust/r/", Some(prefix().with_keys_only())).await?;
    ensure!(keys.kvs().iter().all(|pair| pair.value().is_empty()), "{keys:?}");
    Ok(())
}

pub async fn transactions_compare_and_nest(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    client.put("rust/t", "1", None).await?;
    let inner = Txn::new()
        .when([Compare::version("rust/t/new", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("rust/t/new", "created", None)]);
    let outer = Txn::new()
        .when([Compare::value("rust/t", CompareOp::Equal, "1")])
        .and_then([TxnOp::put("rust/t", "2", None), TxnOp::txn(inner)])
        .or_else([TxnOp::get("rust/t", None)]);
    let first = client.txn(outer.clone()).await?;
    ensure!(first.succeeded() && first.op_responses().len() == 2, "{first:?}");
    let second = client.txn(outer).await?;
    ensure!(!second.succeeded() && second.op_responses().len() == 1, "{second:?}");
    let got = client.get("rust/t/new", None).await?;
    ensure!(got.kvs().first().is_some_and(|pair| pair.value() == b"created"), "{got:?}");
    Ok(())
}

pub async fn many_clients_write_at_once(cluster: &Cluster) -> Checked {
    let writers = (0..WRITERS).map(|writer| {
        let (cluster, endpoints) = (cluster.clone(), cluster.endpoints().len());
        async move {
            let endpoint = &cluster.endpoints()[writer % endpoints];
            let mut client = cluster.connect_to(endpoint).await?;
            for number in 0..WRITES {
                client.put(format!("rust/m/{writer}/{number}"), "x", None).await?;
            }
            Ok::<(), Box<dyn Error>>(())
        }
    });
    let local = tokio::task::LocalSet::new();
    let tasks: Vec<_> = writers.map(|writer| local.spawn_local(writer)).collect();
    local
        .run_until(async {
            for task in tasks {
                task.await??;
            }
            Ok::<(), Box<dyn Error>>(())
        })
        .await?;
    let mut client = cluster.connect().await?;
    let options = GetOptions::new().with_prefix().with_count_only();
    let count = client.get("rust/m/", Some(options)).await?.count();
    ensure!(usize::try_from(count)? == WRITERS * WRITES, "{count} keys");
    Ok(())
}

pub async fn errors_have_etcd_texts(cluster: &Cluster) -> Checked {
    let mut client = cluster.connect().await?;
    let now = revision(client.put("rust/e", "1", None).await?.header());
    let future = GetOptions::new().with_revision(now + 1000);
    let twice = [TxnOp::put("rust/e", "1", None), TxnOp::put("rust/e", "2", None)];
    let many: Vec<TxnOp> = (0..129).map(|n| TxnOp::put(format!("rust/e/{n}"), "x", None)).collect();
    let absent = PutOptions::new().with_ignore_value();
    refused(client.put("", "x", None).await, "etcdserver: key is not provided")?;
    let ahead = client.get("rust/e", Some(future)).await;
    refused(ahead, "etcdserver: mvcc: required revision is a future revision")?;
    let twice = client.txn(Txn::new().and_then(twice)).await;
    refused(twice, "etcdserver: duplicate key given in txn request")?;
    let many = client.txn(Txn::new().and_then(many)).await;
    refused(many, "etcdserver: too many operations in txn request")?;
    let absent = client.put("rust/none", "", Some(absent)).await;
    refused(absent, "etcdserver: key not found")
}
