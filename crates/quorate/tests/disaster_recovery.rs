//! Backup, restore and a lone survivor, with the built binary; zombies of the old cluster stay out.

use std::path::{Path, PathBuf};
use std::process::{Command, Output as Ended};
use std::time::{Duration, Instant};

use harness::local_cluster::LocalCluster;
use harness::member_client::MemberClient;
use harness::member_process::{Output, Server};
use harness::port_plan;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a member without a quorum is watched doing nothing.
const A_WHILE: Duration = Duration::from_secs(3);

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("quorate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }
}

fn server(options: &[&str]) -> Server {
    Server::Quorate {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_quorate")),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn three(offset: u16, directory: &Path) -> LocalCluster {
    std::fs::create_dir_all(directory).expect("writable");
    let addresses = port_plan::plan(3, offset).expect("three members fit");
    LocalCluster::new(server(&[]), addresses, directory, Output::LogFile)
}

fn talk<T>(conversation: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(conversation)
}

async fn client(cluster: &LocalCluster, member: usize) -> MemberClient {
    let address = &cluster.endpoints()[member];
    MemberClient::connect(address, PATIENCE).await.expect("it listens")
}

/// Until it succeeds; the cluster may be between leaders.
async fn put(cluster: &LocalCluster, member: usize, key: &str) {
    let give_up = Instant::now() + PATIENCE;
    while let Err(error) = client(cluster, member).await.put(key.as_bytes(), b"value").await {
        assert!(Instant::now() < give_up, "no put: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn keys(cluster: &LocalCluster, member: usize) -> Vec<String> {
    let (_, pairs) = client(cluster, member).await.local_range(b"").await.expect("a range");
    pairs.into_iter().map(|pair| String::from_utf8(pair.key).expect("ours")).collect()
}

/// The cluster's id, as a member tells clients.
async fn cluster_id(cluster: &LocalCluster, member: usize) -> u64 {
    let status = client(cluster, member).await.status().await.expect("a status");
    status.header.expect("every status has one").cluster_id
}

fn quorate(arguments: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.current_dir(std::env::temp_dir()).args(arguments).output().expect("the binary runs")
}

fn done(arguments: &[&str]) -> String {
    let ended = quorate(arguments);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{arguments:?}: {said}");
    String::from_utf8(ended.stdout).expect("text")
}

/// It must fail in one sentence.
fn refused(arguments: &[&str]) -> String {
    let ended = quorate(arguments);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn a_lone_survivor_goes_on_and_the_old_cluster_is_fenced_off() {
    let scratch = Scratch::new("force-new-cluster");
    let mut cluster = three(7400, &scratch.0);
    talk(async {
        cluster.start_all().expect("started");
        cluster.await_all_ready(PATIENCE).await.expect("ready");
        let old = cluster_id(&cluster, 0).await;
        for number in 0..50 {
            put(&cluster, number % 3, &format!("before{number:02}")).await;
        }
        // The survivor's log holds what its state may not, and the other way round.
        cluster.kill(&[0, 1, 2]).await.expect("killed");

        cluster.run_as(0, server(&["--force-new-cluster"]));
        cluster.start(0).expect("started");
        cluster.await_ready(0, PATIENCE).await.expect("ready alone");
        let forced = cluster_id(&cluster, 0).await;
        assert_ne!(forced, old);
        assert_eq!(keys(&cluster, 0).await.len(), 50);
        put(&cluster, 0, "forced").await;
        assert_eq!(client(&cluster, 0).await.members().await.expect("a list").len(), 1);

        // Once is enough: a plain start goes on, and so does one that asks again.
        for options in [&[][..], &["--force-new-cluster"]] {
            cluster.kill(&[0]).await.expect("killed");
            cluster.run_as(0, server(options));
            cluster.start(0).expect("started");
            cluster.await_ready(0, PATIENCE).await.expect("ready");
            assert_eq!(cluster_id(&cluster, 0).await, forced);
        }
        put(&cluster, 0, "plain").await;

        // The others come back as what they were, and even have a majority of it.
        cluster.start(1).expect("started");
        cluster.start(2).expect("started");
        cluster.await_ready(1, PATIENCE).await.expect("ready");
        put(&cluster, 1, "zombie").await;
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(cluster_id(&cluster, 1).await, old);
        put(&cluster, 0, "later").await;
        let survivors = keys(&cluster, 0).await;
        assert_eq!(survivors.len(), 53, "{survivors:?}");
        assert!(!survivors.contains(&"zombie".to_owned()));
        assert!(!keys(&cluster, 1).await.contains(&"forced".to_owned()));
        assert_eq!(client(&cluster, 0).await.members().await.expect("a list").len(), 1);
        cluster.stop().await.expect("stopped");
    });
    let log = std::fs::read_to_string(scratch.0.join("n1.log")).expect("its log");
    assert!(log.contains("forced a new cluster"), "{log}");
    let zombies = std::fs::read_to_string(scratch.0.join("n2.log")).expect("its log");
    assert!(zombies.contains("belongs to cluster"), "{zombies}");
}

/// Restores every member from the same file; returns what each said.
fn restore_all(cluster: &LocalCluster, file: &str, options: &[&str]) -> Vec<String> {
    let restored = (0..cluster.len()).map(|member| {
        let spec = cluster.spec(member);
        let members = spec.initial_cluster.iter();
        let members: Vec<_> = members.map(|(name, peer)| format!("{name}={peer}")).collect();
        let (members, data_dir) = (members.join(","), spec.data_dir.display().to_string());
        let arguments = ["restore", file, "--name", &spec.name, "--data-dir", &data_dir];
        let cluster = ["--initial-cluster", &members];
        done(&[&arguments[..], &cluster, options].concat())
    });
    restored.collect()
}

#[test]
fn a_backup_becomes_a_new_cluster_and_zombies_stay_out() {
    let scratch = Scratch::new("restore");
    let mut old = three(7500, &scratch.0.join("old"));
    let file = scratch.0.join("backup").display().to_string();
    let old_id = talk(async {
        old.start_all().expect("started");
        old.await_all_ready(PATIENCE).await.expect("ready");
        for number in 0..30 {
            put(&old, number % 3, &format!("kept{number:02}")).await;
        }
        let backup = client(&old, 1).await.snapshot().await.expect("a backup");
        std::fs::write(&file, backup).expect("written");
        put(&old, 0, "lost").await;
        let id = cluster_id(&old, 0).await;
        old.kill(&[0, 1, 2]).await.expect("killed");
        id
    });
    let status = done(&["snapshot", "status", &file, "--json"]);
    assert!(status.contains("\"totalKey\":30,"), "{status}");
    assert!(status.contains("\"revision\":31,"), "{status}");
    assert!(status.contains(&format!("\"cluster\":\"{old_id:x}\"")), "{status}");
    assert!(done(&["snapshot", "status", &file]).contains("keys      30"));

    let mut new = three(7500, &scratch.0.join("new"));
    let said = restore_all(&new, &file, &["--bump-revision", "1000", "--mark-compacted"]);
    assert!(said[0].contains("restored 30 keys at revision 1031"), "{}", said[0]);
    let data_dir = new.spec(0).data_dir.display().to_string();
    let again = refused(&["restore", &file, "--name", "n1", "--data-dir", &data_dir]);
    assert!(again.contains("is not empty"), "{again}");

    talk(async {
        new.start_all().expect("started");
        new.await_all_ready(PATIENCE).await.expect("ready");
        assert_ne!(cluster_id(&new, 0).await, old_id);
        for member in 0..3 {
            let kept = keys(&new, member).await;
            assert_eq!(kept.iter().filter(|key| key.starts_with("kept")).count(), 30);
            put(&new, member, &format!("new{member}")).await;
        }
        let (revision, _) = client(&new, 0).await.get(b"new0").await.expect("a get");
        assert!((1032..1040).contains(&revision), "{revision}");

        // A member of the old cluster comes back at an address of the new one.
        new.kill(&[2]).await.expect("killed");
        old.start(2).expect("started");
        put(&new, 0, "without").await;
        tokio::time::sleep(A_WHILE).await;
        let zombie = client(&old, 2).await.status().await.expect("a status");
        assert_eq!(
            (zombie.leader, zombie.header.map(|header| header.cluster_id)),
            (0, Some(old_id))
        );
        assert!(!keys(&old, 2).await.contains(&"without".to_owned()));
        old.kill(&[2]).await.expect("killed");
        new.start(2).expect("started");
        new.await_ready(2, PATIENCE).await.expect("ready");
        put(&new, 2, "again").await;
        assert_eq!(keys(&new, 2).await.len(), 35);
        new.stop().await.expect("stopped");
    });
}

#[test]
fn a_damaged_backup_is_refused_before_anything_is_made_and_an_interrupted_restore_does_not_start() {
    let scratch = Scratch::new("bad-backup");
    let place = |name: &str| scratch.0.join(name).display().to_string();
    let file = place("backup");
    std::fs::write(&file, b"QUOR-BAK no backup at all").expect("written");
    let said = refused(&["restore", &file, "--data-dir", &place("restored")]);
    assert!(said.contains(&file), "{said}");
    assert!(!scratch.0.join("restored").exists());
    let said = refused(&["snapshot", "status", &file]);
    assert!(said.contains(&file), "{said}");

    // As a crash in the middle leaves it.
    std::fs::create_dir(scratch.0.join("half")).expect("a directory");
    std::fs::write(scratch.0.join("half/unfinished"), "restore\n").expect("written");
    let addresses = ["--etcd", "127.0.0.1:0", "--peer", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let start = ["start", "--data-dir", &place("half")];
    let said = quorate(&[&start[..], &addresses].concat());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("was interrupted") && said.contains("restore again"), "{said}");
    let forced = ["start", "--force-new-cluster", "--data-dir", &place("none")];
    let said = quorate(&[&forced[..], &addresses].concat());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("needs the data directory of a member"), "{said}");
}
