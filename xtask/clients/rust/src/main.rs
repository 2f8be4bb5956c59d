//! The stock Rust client `etcd-client` against a running cluster.
//!
//! Usage: `etcd-client-checks ENDPOINT…`. Prints `ok <name>` or `FAIL <name>: <why>` per check and
//! fails if one did. Passes against stock etcd too, which keeps it honest.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, EventType, GetOptions,
    PutOptions, SortOrder, SortTarget, Txn, TxnOp, WatchOptions,
};

type Checked = Result<(), Box<dyn Error>>;

/// How long one check may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Clients that write at the same time.
const WRITERS: usize = 32;

/// Writes of each.
const WRITES: usize = 20;

macro_rules! ensure {
    ($condition:expr, $($words:tt)*) => {
        if !$condition {
            return Err(format!($($words)*).into());
        }
    };
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let endpoints: Vec<String> = std::env::args().skip(1).collect();
    let mut failed = false;
    macro_rules! check {
        ($($name:ident),*) => {$(
            let name = stringify!($name).replace('_', " ");
            let outcome = match tokio::time::timeout(TIMEOUT, $name(&endpoints)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("not done within {TIMEOUT:?}").into()),
            };
            match outcome {
                Ok(()) => println!("ok {name}"),
                Err(why) => {
                    failed = true;
                    println!("FAIL {name}: {}", why.to_string().replace('\n', " "));
                }
            }
        )*};
    }
    check!(
        put_get_and_delete,
        every_member_serves_what_another_took,
        ranges_sorted_and_limited,
        transactions_compare_and_nest,
        many_clients_write_at_once,
        a_watch_tells_history_and_what_follows,
        a_watch_reports_its_progress,
        a_watch_of_compacted_history_is_cancelled,
        errors_have_etcd_texts,
        members_and_status,
        hashes_agree
    );
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn connect(endpoints: &[String]) -> Result<Client, Box<dyn Error>> {
    Ok(Client::connect(endpoints, None).await?)
}

async fn put_get_and_delete(endpoints: &[String]) -> Checked {
    let mut client = connect(endpoints).await?;
    let first = client.put("rust/a", "1", None).await?;
    let second = client.put("rust/a", "2", Some(PutOptions::new().with_prev_key())).await?;
    let previous = second.prev_key().ok_or("no previous value")?;
    ensure!(previous.value() == b"1", "previous value {:?}", previous.value_str());
    let got = client.get("rust/a", None).await?;
    let pair = got.kvs().first().ok_or("not there")?;
    let revision =
        |header: Option<&etcd_client::ResponseHeader>| header.map_or(0, |h| h.revision());
    ensure!(pair.value() == b"2", "value {:?}", pair.value_str());
    ensure!(pair.create_revision() == revision(first.header()), "{pair:?}");
    ensure!(pair.mod_revision() == revision(second.header()), "{pair:?}");
    ensure!(pair.version() == 2, "{pair:?}");
    let deleted = client.delete("rust/a", Some(DeleteOptions::new().with_prev_key())).await?;
    ensure!(deleted.deleted() == 1 && deleted.prev_kvs().len() == 1, "{deleted:?}");
    ensure!(client.get("rust/a", None).await?.kvs().is_empty(), "still there");
    Ok(())
}

async fn every_member_serves_what_another_took(endpoints: &[String]) -> Checked {
    for writer in endpoints {
        let mut client = connect(std::slice::from_ref(writer)).await?;
        client.put("rust/everywhere", writer.as_str(), None).await?;
        for reader in endpoints {
            let mut client = connect(std::slice::from_ref(reader)).await?;
            let got = client.get("rust/everywhere", None).await?;
            let value = got.kvs().first().map(|pair| pair.value().to_vec());
            ensure!(value.as_deref() == Some(writer.as_bytes()), "{reader} has {value:?}");
        }
    }
    Ok(())
}

async fn ranges_sorted_and_limited(endpoints: &[String]) -> Checked {
    let mut client = connect(endpoints).await?;
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

async fn transactions_compare_and_nest(endpoints: &[String]) -> Checked {
    let mut client = connect(endpoints).await?;
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

async fn many_clients_write_at_once(endpoints: &[String]) -> Checked {
    let writers = (0..WRITERS).map(|writer| {
        let endpoint = endpoints[writer % endpoints.len()].clone();
        async move {
            let mut client = connect(&[endpoint]).await?;
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
    let mut client = connect(endpoints).await?;
    let options = GetOptions::new().with_prefix().with_count_only();
    let count = client.get("rust/m/", Some(options)).await?.count();
    ensure!(usize::try_from(count)? == WRITERS * WRITES, "{count} keys");
    Ok(())
}

async fn a_watch_tells_history_and_what_follows(endpoints: &[String]) -> Checked {
    let mut client = connect(endpoints).await?;
    let first = client.put("rust/w/a", "1", None).await?;
    let from = first.header().ok_or("no header")?.revision();
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

async fn a_watch_reports_its_progress(endpoints: &[String]) -> Checked {
    let mut client = connect(endpoints).await?;
    let mut stream = client.watch("rust/quiet", None).await?;
    let created = stream.message().await?.ok_or("the stream ended")?;
    ensure!(created.created(), "not created first: {created:?}");
    let put = client.put("rust/noise", "x", None).await?;
    let revision = put.header().ok_or("no header")?.revision();
    loop {
        stream.request_progress().await?;
        let response = stream.message().await?.ok_or("the stream ended")?;
        ensure!(response.events().is_empty(), "an event of another key: {response:?}");
        let reported = response.header().ok_or("no header")?.revision();
        if reported >= revision {
            return Ok(());
        }
    }
}

async fn a_watch_of_compacted_history_is_cancelled(endpoints: &[String]) -> Checked {
    let mut client = connect(endpoints).await?;
    let old = client.put("rust/c", "1", None).await?.header().ok_or("no header")?.revision();
    let new = client.put("rust/c", "2", None).await?.header().ok_or("no header")?.revision();
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

async fn errors_have_etcd_texts(endpoints: &[String]) -> Checked {
    let mut client = connect(endpoints).await?;
    let revision = client.put("rust/e", "1", None).await?.header().ok_or("no header")?.revision();
    let future = GetOptions::new().with_revision(revision + 1000);
    let twice = [TxnOp::put("rust/e", "1", None), TxnOp::put("rust/e", "2", None)];
    let many: Vec<TxnOp> = (0..129).map(|n| TxnOp::put(format!("rust/e/{n}"), "x", None)).collect();
    let absent = PutOptions::new().with_ignore_value();
    let errors = [
        (client.put("", "x", None).await.err(), "etcdserver: key is not provided"),
        (
            client.get("rust/e", Some(future)).await.err(),
            "etcdserver: mvcc: required revision is a future revision",
        ),
        (
            client.txn(Txn::new().and_then(twice)).await.err(),
            "etcdserver: duplicate key given in txn request",
        ),
        (
            client.txn(Txn::new().and_then(many)).await.err(),
            "etcdserver: too many operations in txn request",
        ),
        (client.put("rust/none", "", Some(absent)).await.err(), "etcdserver: key not found"),
    ];
    for (error, expected) in errors {
        let text = error.map_or_else(|| "no error".to_owned(), |error| error.to_string());
        ensure!(text.contains(expected), "expected {expected:?}, found {text:?}");
    }
    Ok(())
}

async fn members_and_status(endpoints: &[String]) -> Checked {
    let mut client = connect(endpoints).await?;
    let members = client.member_list().await?;
    ensure!(members.members().len() == endpoints.len(), "{members:?}");
    let mut leaders = Vec::new();
    for endpoint in endpoints {
        let status = connect(std::slice::from_ref(endpoint)).await?.status().await?;
        ensure!(status.version().split('.').count() == 3, "version {}", status.version());
        leaders.push(status.leader());
    }
    leaders.dedup();
    ensure!(leaders.len() == 1 && leaders[0] != 0, "leaders {leaders:?}");
    ensure!(members.members().iter().any(|member| member.id() == leaders[0]), "{members:?}");
    Ok(())
}

async fn hashes_agree(endpoints: &[String]) -> Checked {
    let mut client = connect(endpoints).await?;
    let put = client.put("rust/hash", "x", None).await?;
    let revision = put.header().ok_or("no header")?.revision();
    let mut hashes = Vec::new();
    for endpoint in endpoints {
        let mut client = connect(std::slice::from_ref(endpoint)).await?;
        // A linearizable read, so that the member has applied the write.
        client.get("rust/hash", None).await?;
        hashes.push(client.hash_kv(revision).await?.hash());
    }
    hashes.dedup();
    ensure!(hashes.len() == 1, "{hashes:?}");
    Ok(())
}
