//! A cluster that grows, shrinks and loses a machine for good, under writes: the built binary as
//! its operators meet it.
//!
//! Throughout, one client counts upwards in one key and others read it: whoever reads sees at least
//! what was acknowledged before it began to read.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::client_access::ClientAccess;
use harness::member_client::{CallError, MemberClient};
use harness::status_report;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const CALL: Duration = Duration::from_secs(10);
const KEY: &[u8] = b"counter";

/// Processes that end with the test, and their data.
struct World {
    root: PathBuf,
    first_port: u16,
}

impl Drop for World {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.root));
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl World {
    fn new(name: &str, first_port: u16) -> World {
        let root = std::env::temp_dir().join(format!("quorate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("the temporary directory is writable");
        World { root, first_port }
    }

    fn port(&self, member: u16, which: u16) -> String {
        format!("127.0.0.1:{}", self.first_port + 10 * member + which)
    }

    fn etcd(&self, member: u16) -> String {
        self.port(member, 0)
    }

    fn peer(&self, member: u16) -> String {
        self.port(member, 1)
    }

    fn log(&self, member: u16) -> PathBuf {
        self.root.join(format!("n{member}.log"))
    }

    fn data(&self, member: u16) -> PathBuf {
        self.root.join(format!("n{member}"))
    }

    /// Runs member `n` with what comes before its own addresses.
    fn run(&self, member: u16, words: &[&str]) -> Running {
        let log = std::fs::File::options().create(true).append(true).open(self.log(member));
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(words).args(["--name", &format!("n{member}")]);
        command.arg("--data-dir").arg(self.data(member));
        command.args(["--etcd", &self.etcd(member), "--peer", &self.peer(member)]);
        command.args(["--admin", &self.port(member, 2), "--reserve-mib", "0"]);
        command.stderr(log.expect("a log")).stdin(Stdio::null());
        Running(command.spawn().expect("the binary runs"))
    }

    fn list(&self, members: &[u16]) -> String {
        let one = |member: &u16| format!("n{member}={}", self.peer(*member));
        members.iter().map(one).collect::<Vec<_>>().join(",")
    }

    fn said(&self, member: u16) -> String {
        std::fs::read_to_string(self.log(member)).unwrap_or_default()
    }
}

async fn client(address: &str) -> MemberClient {
    until("a member listens", async || MemberClient::connect(address, CALL).await).await
}

/// Tries until it works.
async fn until<T>(what: &str, mut step: impl AsyncFnMut() -> Result<T, String>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match step().await {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < give_up, "{what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_it_serves(world: &World, member: u16) {
    let address = world.etcd(member);
    until(&format!("n{member} serves"), async || {
        let client = MemberClient::connect(&address, CALL).await?;
        client.get(KEY).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

async fn ended(world: &World, member: u16, running: &mut Running) -> ExitStatus {
    until(&format!("n{member} ends"), async || {
        running.0.try_wait().expect("our child").ok_or_else(|| world.said(member))
    })
    .await
}

/// The id of the member of that name; one that has just started may serve before it is known.
async fn id_of(through: &MemberClient, name: &str) -> u64 {
    until(&format!("{name} is known by name"), async || {
        let members = through.members_now().await.map_err(|error| error.to_string())?;
        let found = members.iter().find(|member| member.name == name);
        found.map(|member| member.id).ok_or_else(|| format!("{members:?}"))
    })
    .await
}

/// Who counts, and what is known to be counted.
#[derive(Default)]
struct Count {
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Count {
    /// Counts through whichever of `members` answers. An unknown outcome is looked up.
    async fn go_on(self: Arc<Count>, members: Vec<String>) {
        for turn in 0.. {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let address = &members[turn % members.len()];
            let Ok(client) = MemberClient::connect(address, CALL).await else { continue };
            while !self.stop.load(Ordering::Acquire) {
                if self.step(&client).await.is_err() {
                    break;
                }
            }
        }
    }

    async fn step(&self, client: &MemberClient) -> Result<(), String> {
        let before = self.acknowledged.load(Ordering::Acquire);
        let (_, found) = client.get(KEY).await.map_err(|error| error.to_string())?;
        let value = found.map_or(0, |found| number(&found.value));
        assert!(value >= before, "{before} was acknowledged, {value} is read");
        let expect = (value > 0).then(|| value.to_string());
        let next = (value + 1).to_string();
        let expect = expect.as_ref().map(String::as_bytes);
        let set = client.compare_and_set(KEY, expect, next.as_bytes()).await;
        let (done, _) = set.map_err(|error| error.to_string())?;
        assert!(done, "nobody else counts");
        self.acknowledged.fetch_max(value + 1, Ordering::AcqRel);
        Ok(())
    }

    /// Everybody reads what was acknowledged, and counting goes on.
    async fn check(&self, world: &World, members: &[u16]) {
        for member in members {
            let client = client(&world.etcd(*member)).await;
            let before = self.acknowledged.load(Ordering::Acquire);
            let (_, found) =
                until("a read", async || client.get(KEY).await.map_err(|error| error.to_string()))
                    .await;
            let value = found.map_or(0, |found| number(&found.value));
            assert!(value >= before, "n{member}: {before} was acknowledged, {value} is read");
        }
        let seen = self.acknowledged.load(Ordering::Acquire);
        until("counting goes on", async || match self.acknowledged.load(Ordering::Acquire) {
            count if count > seen => Ok(()),
            count => Err(format!("still {count}")),
        })
        .await;
    }
}

fn number(value: &[u8]) -> u64 {
    str::from_utf8(value).expect("text").parse().expect("a number")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

#[test]
fn members_come_and_go_for_good_and_nothing_acknowledged_is_lost() {
    let world = World::new("membership", 27_100);
    let list = world.list(&[1, 2, 3]);
    let found = ["start", "--initial-cluster", &list];
    let _n1 = world.run(1, &found);
    let mut n2 = world.run(2, &found);
    let mut n3 = world.run(3, &found);
    block_on(async {
        until_it_serves(&world, 1).await;
        let first = client(&world.etcd(1)).await;
        // Not those that leave: their end is no event for the one that counts.
        let count = Arc::new(Count::default());
        let counting = tokio::spawn(Arc::clone(&count).go_on(vec![world.etcd(1)]));
        count.check(&world, &[1, 2, 3]).await;

        let from = format!("{},{}", world.etcd(3), world.etcd(1));
        let _n4 = world.run(4, &["join", "--from", &from, "--learner"]);
        promote_the_learner(&world, &first).await;
        count.check(&world, &[1, 2, 3, 4]).await;

        let second = id_of(&first, "n2").await;
        until("n2 is removed", async || {
            first.remove_member(second).await.map_err(|error| error.to_string())
        })
        .await;
        assert_eq!(ended(&world, 2, &mut n2).await.code(), Some(1));
        let mut again = world.run(2, &found);
        assert_eq!(ended(&world, 2, &mut again).await.code(), Some(1));
        let last = world.said(2).lines().last().unwrap_or("").to_owned();
        assert!(last.contains("is of a member that was removed from its cluster"), "{last}");
        count.check(&world, &[1, 3, 4]).await;

        n3.0.kill().expect("killed");
        drop(std::fs::remove_dir_all(world.data(3)));
        let join = ["join", "--from", &world.etcd(1), "--replace", "n3"];
        let n5 = world.run(5, &join);
        until_it_serves(&world, 5).await;
        count.check(&world, &[1, 4, 5]).await;
        drop(n5);
        let _n5 = world.run(5, &join);
        until_it_serves(&world, 5).await;
        id_of(&first, "n5").await;
        let mut names: Vec<_> =
            first.members_now().await.expect("members").into_iter().map(|one| one.name).collect();
        names.sort();
        assert_eq!(names, ["n1", "n4", "n5"]);

        move_the_lead(&world, &[1, 4, 5]).await;
        count.check(&world, &[1, 4, 5]).await;
        count.stop.store(true, Ordering::Release);
        counting.await.expect("every read saw what was acknowledged before it");
    });
}

/// As etcdctl's users do it: add, then start with the state "existing".
#[test]
fn a_member_that_was_added_by_hand_finds_its_id_and_strangers_are_refused() {
    let world = World::new("added", 27_200);
    let _n1 = world.run(1, &["start", "--initial-cluster", &world.list(&[1])]);
    block_on(async {
        until_it_serves(&world, 1).await;
        let list = world.list(&[1, 2]);
        let existing = ["start", "--initial-cluster-state", "existing", "--initial-cluster", &list];
        let mut stranger = world.run(2, &existing);
        assert_eq!(ended(&world, 2, &mut stranger).await.code(), Some(1));
        let said = world.said(2);
        assert!(said.contains("knows no member with the peer address 127.0.0.1:27221"), "{said}");

        let first = client(&world.etcd(1)).await;
        let (id, _) = until("n2 is added", async || {
            let added = first.add_member(&format!("http://{}", world.peer(2)), false).await;
            added.map_err(|error| error.to_string())
        })
        .await;
        let _n2 = world.run(2, &existing);
        until_it_serves(&world, 2).await;
        assert_eq!(id_of(&first, "n2").await, id);
    });
}

async fn promote_the_learner(world: &World, first: &MemberClient) {
    until("n4 receives the log", async || {
        let learner = MemberClient::connect(&world.etcd(4), CALL).await?;
        let status = learner.status().await.map_err(|error| error.to_string())?;
        assert!(status.is_learner, "from its first answer on");
        match status.raft_applied_index {
            0 => Err("not yet".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let learner = client(&world.etcd(4)).await;
    let refused = learner.get(KEY).await.expect_err("it is a learner").to_string();
    assert!(refused.contains("etcdserver: rpc not supported for learner"), "{refused}");
    until("status shows the learner", async || {
        let report = status_report::collect(&ClientAccess::default(), &[world.etcd(1)]).await?;
        let row = report.members.iter().find(|member| member.name == "n4");
        let role = row.map_or("nobody", |row| row.role);
        if role == "learner" { Ok(()) } else { Err(format!("n4 is {role}\n{report}")) }
    })
    .await;
    let id = id_of(first, "n4").await;
    until("n4 is promoted", async || {
        first.promote_member(id).await.map_err(|error| error.to_string())
    })
    .await;
    until_it_serves(world, 4).await;
}

async fn move_the_lead(world: &World, members: &[u16]) {
    until("the lead moves", async || {
        let error = |error: CallError| error.to_string();
        let any = client(&world.etcd(members[0])).await;
        let leader = any.status().await.map_err(error)?.leader;
        for member in members {
            let one = client(&world.etcd(*member)).await;
            let own =
                one.status().await.map_err(error)?.header.map_or(0, |header| header.member_id);
            if own != leader {
                continue;
            }
            let listed = one.members_now().await.map_err(error)?;
            let other = listed.iter().find(|other| other.id != own).expect("more than one");
            one.move_leader(other.id).await.map_err(error)?;
            let after = one.status().await.map_err(error)?.leader;
            assert_eq!(after, other.id, "it answers once the other leads");
            return Ok(());
        }
        Err("nobody leads".to_owned())
    })
    .await;
}

#[test]
fn a_join_that_cannot_work_says_so_in_one_line() {
    let world = World::new("join-refused", 27_300);
    let refused = |words: &[&str], code: i32| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.arg("join").args(words).arg("--data-dir").arg(world.data(9));
        let output = command.output().expect("the binary runs");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    };
    let said = refused(&["--name", "n9"], 2);
    assert!(said.contains("--from"), "{said}");
    let from = world.etcd(1);
    let said = refused(&["--from", &from, "--peer", "0.0.0.0:27391"], 2);
    assert!(said.contains("at which no other machine can reach this node"), "{said}");
    let list = world.list(&[1, 9]);
    let said = refused(&["--from", &from, "--initial-cluster", &list], 2);
    assert!(said.contains("leave initial-cluster out"), "{said}");
    // Known at once to be hopeless, and nothing is left behind.
    let ports = [world.etcd(9), world.peer(9), world.port(9, 2)];
    let own = ["--etcd", &ports[0], "--peer", &ports[1], "--admin", &ports[2]];
    let said = refused(&[["--from", "https://127.0.0.1:1"].as_slice(), &own].concat(), 1);
    assert!(said.contains("https://127.0.0.1:1 needs --cacert"), "{said}");
    assert!(!world.data(9).exists());
}
