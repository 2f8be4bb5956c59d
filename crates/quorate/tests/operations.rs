//! Quota and auto-compaction with the built binary: both need nobody to look after them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::local_cluster::LocalCluster;
use harness::member_client::{CallError, MemberClient};
use harness::member_process::{Output, Server};
use harness::port_plan;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// Runs one member with these options and has `conversation` talk to it.
fn with_one_member(
    name: &str,
    offset: u16,
    options: &[&str],
    conversation: impl AsyncFnOnce(MemberClient),
) {
    let path = std::env::temp_dir().join(format!("quorate-{name}-{}", std::process::id()));
    let server = Server::Quorate {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_quorate")),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    std::fs::create_dir_all(&path).expect("the temporary directory is writable");
    let addresses = port_plan::plan(1, offset).expect("one member fits");
    let mut cluster = LocalCluster::new(server, addresses, &path, Output::LogFile);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        cluster.start_all().expect("started");
        cluster.await_all_ready(PATIENCE).await.expect("ready");
        let address = &cluster.endpoints()[0];
        conversation(MemberClient::connect(address, PATIENCE).await.expect("it listens")).await;
        cluster.stop().await.expect("stopped");
    });
    // Left behind by a test that panics: the log says why.
    std::fs::remove_dir_all(&path).expect("the test's own directory");
}

/// Bytes that cannot be compressed (xorshift), other ones for every seed but zero.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    std::iter::repeat_with(word).take(6_250).flatten().collect()
}

#[test]
fn above_the_quota_puts_are_refused_and_come_back_by_themselves() {
    let options = ["--quota-backend-bytes", "6000000"];
    with_one_member("quota", 7800, &options, async |client| {
        let give_up = Instant::now() + PATIENCE;
        let mut written = 0_u64;
        let refusal = loop {
            assert!(Instant::now() < give_up, "{written} puts were taken");
            let value = noise(written + 1);
            match client.put(format!("k{written:05}").as_bytes(), &value).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(matches!(&refusal, CallError::Refused(why) if why.contains("space exceeded")));
        let status = client.status().await.expect("a status");
        assert!(status.db_size > 6_000_000 && status.db_size_quota == 6_000_000, "{status:?}");
        assert!(status.errors.iter().any(|error| error.contains("NOSPACE")), "{status:?}");
        // What makes room is let through.
        let revision = client.delete_prefix(b"k").await.expect("a deletion");
        client.compact(revision).await.expect("a compaction");
        while let Err(error) = client.put(b"again", b"value").await {
            assert!(Instant::now() < give_up, "still {error}: {:?}", client.status().await);
            tokio::time::sleep(PAUSE).await;
        }
        let status = client.status().await.expect("a status");
        assert!(status.db_size < 6_000_000 && status.errors.is_empty(), "{status:?}");
    });
}

#[test]
fn auto_compaction_forgets_what_is_old_enough() {
    let options = ["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1s"];
    with_one_member("auto-compaction", 7900, &options, async |client| {
        let old = client.put(b"k", b"old").await.expect("a put");
        client.put(b"k", b"new").await.expect("a put");
        let give_up = Instant::now() + PATIENCE;
        loop {
            match client.get_at(b"k", old).await {
                Err(CallError::Refused(why)) if why.contains("has been compacted") => break,
                other => assert!(Instant::now() < give_up, "{other:?}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        let (_, found) = client.get(b"k").await.expect("a get");
        assert_eq!(found.map(|found| found.value), Some(b"new".to_vec()));
    });
}
