//! The built binary as its users meet it: processes, signals, ports and directories.
//!
//! Each test has ports and a directory of its own. Not here: the failover run (`cargo xtask ci`).

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use harness::client_access::ClientAccess;
use harness::member_client::MemberClient;
use harness::status_report;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

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
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A running `quorate`, killed with the test.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn start(arguments: &[&str], data_dir: &Path) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(arguments).arg("--data-dir").arg(data_dir);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let stdout = BufReader::new(child.stdout.take().expect("standard output is a pipe"));
        Running { child, stdout }
    }

    /// The lines of `dev --json` up to the last one, which says that all are ready.
    fn members(&mut self) -> Vec<Announced> {
        let mut members = Vec::new();
        loop {
            let mut line = String::new();
            let length = self.stdout.read_line(&mut line).expect("a line of text");
            assert!(length > 0, "it ended before it was ready");
            if line.trim_end() == "{\"ready\":true}" {
                return members;
            }
            members.push(Announced::parse(&line));
        }
    }

    /// The next line that holds these words.
    fn line_with(&mut self, words: &str) -> String {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let length = self.stdout.read_line(&mut line).expect("a line of text");
            assert!(length > 0, "it ended before it said {words}, and said {said}");
            if line.contains(words) {
                return line;
            }
            said.push_str(&line);
        }
    }

    fn signal(&self, signal: &str) {
        send(signal, &self.child.id().to_string());
    }

    fn wait(&mut self) -> ExitStatus {
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it did not end within {PATIENCE:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One line of `dev --json`.
#[derive(Debug, Clone)]
struct Announced {
    name: String,
    process_id: String,
    etcd: String,
}

impl Announced {
    fn parse(line: &str) -> Announced {
        let after = |key: &str| {
            let (_, rest) = line.split_once(key).unwrap_or_else(|| panic!("no {key} in {line}"));
            rest.split(['"', ',', '}']).next().unwrap_or("").to_owned()
        };
        for key in ["\"peer\":\"", "\"admin\":\"", "\"data_dir\":\""] {
            assert!(!after(key).is_empty(), "{line}");
        }
        let (name, etcd) = (after("\"name\":\""), after("\"etcd\":\""));
        Announced { name, process_id: after("\"pid\":"), etcd }
    }
}

fn send(signal: &str, process_id: &str) {
    let status = Command::new("kill").args([signal, process_id]).status().expect("kill runs");
    assert!(status.success(), "kill {signal} {process_id}");
}

/// Runs a conversation with members.
fn talk<T>(conversation: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(conversation)
}

async fn client(address: &str) -> MemberClient {
    MemberClient::connect(address, PATIENCE).await.expect("it is ready")
}

/// Retries until a put succeeds; the cluster may be between leaders.
async fn put_within_patience(address: &str, key: &[u8]) {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let put = async {
            let client = MemberClient::connect(address, Duration::from_secs(5)).await?;
            client.put(key, b"value").await.map_err(|error| error.to_string())
        };
        match put.await {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < give_up, "no put: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn dev_serves_stops_in_order_and_comes_back_with_everything() {
    let scratch = Scratch::new("dev-one");
    let arguments = ["dev", "--json", "--nodes", "1", "--offset", "23100"];
    let mut dev = Running::start(&arguments, &scratch.0);
    let members = dev.members();
    assert_eq!((members.len(), members[0].name.as_str()), (1, "n1"));
    assert_eq!(members[0].etcd, "127.0.0.1:25479");
    let revision = talk(async { client(&members[0].etcd).await.put(b"k", b"v").await });
    let revision = revision.expect("a put");
    dev.signal("-INT");
    assert!(dev.wait().success());

    let mut dev = Running::start(&arguments, &scratch.0);
    let members = dev.members();
    let (_, found) = talk(async { client(&members[0].etcd).await.get(b"k").await }).expect("a get");
    let found = found.expect("what was written before the stop");
    assert_eq!((found.value.as_slice(), found.mod_revision), (b"v".as_slice(), revision));
    dev.signal("-TERM");
    assert!(dev.wait().success());
}

#[test]
fn three_nodes_serve_survive_their_leader_and_restart_it() {
    let scratch = Scratch::new("dev-three");
    let arguments = ["dev", "--json", "--restart", "--offset", "7200"];
    let mut dev = Running::start(&arguments, &scratch.0);
    let members = dev.members();
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["n1", "n2", "n3"]);
    talk(async {
        client(&members[0].etcd).await.put(b"before", b"1").await.expect("a put");
        let endpoints = [members[1].etcd.clone()];
        let report =
            status_report::collect(&ClientAccess::default(), &endpoints).await.expect("status");
        let leaders = report.members.iter().filter(|member| member.role == "leader");
        let leader = leaders.map(|member| member.name.clone()).collect::<Vec<_>>();
        assert_eq!(leader.len(), 1, "{report}");
        let (leader, others): (Vec<_>, Vec<_>) =
            members.iter().partition(|member| member.name == leader[0]);
        send("-KILL", &leader[0].process_id);
        put_within_patience(&others[0].etcd, b"after").await;
        // The supervisor brings the leader back, and it catches up.
        put_within_patience(&leader[0].etcd, b"again").await;
        for member in &members {
            let (_, found) = client(&member.etcd).await.get(b"before").await.expect("a get");
            assert_eq!(found.map(|found| found.value), Some(b"1".to_vec()), "{}", member.name);
        }
    });
    dev.signal("-INT");
    assert!(dev.wait().success());
}

#[test]
fn a_secure_cluster_serves_under_tls_those_who_say_who_they_are() {
    let scratch = Scratch::new("dev-secure");
    let arguments = ["dev", "--json", "--secure", "--offset", "7300"];
    let mut dev = Running::start(&arguments, &scratch.0);
    let members = dev.members();
    let authority = scratch.0.join("tls/ca.pem");
    let nobody = ClientAccess::read(Some(&authority), None, None).expect("an authority");
    let password = std::fs::read_to_string(scratch.0.join("root-password")).expect("a password");
    let access = nobody.as_user("root", password.trim());
    talk(async {
        let first = MemberClient::connect_by(&access, &members[0].etcd, PATIENCE).await;
        first.expect("TLS").put(b"k", b"v").await.expect("a put");
        let second = MemberClient::connect_by(&access, &members[1].etcd, PATIENCE).await;
        let second = second.expect("TLS");
        assert!(second.get(b"k").await.expect("a get").1.is_some());
        let urls = second.members().await.expect("members");
        let secure = |url: &String| url.starts_with("https://");
        for member in urls {
            assert!(member.client_ur_ls.iter().chain(&member.peer_ur_ls).all(secure), "{member:?}");
        }
        let plain = async {
            let client = MemberClient::connect(&members[0].etcd, PATIENCE).await?;
            client.get(b"k").await.map_err(|error| error.to_string())
        };
        plain.await.expect_err("without TLS");
        let nobody = MemberClient::connect_by(&nobody, &members[0].etcd, PATIENCE).await;
        let refused = nobody.expect("TLS").get(b"k").await.expect_err("without a password");
        assert!(refused.to_string().contains("user name is empty"), "{refused}");
    });
    let mut status = Command::new(env!("CARGO_BIN_EXE_quorate"));
    status.args(["status", "--endpoints"]).arg(format!("https://{}", members[2].etcd));
    let refused = status.output().expect("it runs");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("needs --cacert"));
    let said = status.arg("--cacert").arg(&authority).output().expect("it runs");
    assert_eq!(said.status.code(), Some(1), "nobody says where it stands");
    let table = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(table.contains("refused") && table.contains("say --user"), "{table}");
    let mut plain = Command::new(env!("CARGO_BIN_EXE_quorate"));
    plain.args(["sequence", "orders", "--endpoints", &members[0].etcd]);
    let said = String::from_utf8(plain.output().expect("it runs").stderr).expect("text");
    assert!(said.contains("speaks TLS: say --cacert") && !said.contains("unknown"), "{said}");
    let user = format!("root:{}", password.trim());
    let said = status.args(["--user", &user]).output().expect("it runs");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("leader") && !said.contains("unreachable"), "{said}");
    dev.signal("-INT");
    assert!(dev.wait().success());
}

/// Under TLS and with users, which a plain one needs less for.
#[test]
fn a_node_that_joined_comes_back_with_dev_and_one_that_was_removed_does_not() {
    let scratch = Scratch::new("dev-again");
    let mut dev =
        Running::start(&["dev", "--secure", "--nodes", "1", "--offset", "7600"], &scratch.0);
    let join = dev.line_with(" join ");
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {} 2>&1", join.trim())]);
    let mut child = shell.stdout(Stdio::piped()).spawn().expect("a shell");
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut joined = Running { child, stdout };
    joined.line_with("serves etcd clients on 127.0.0.1:19979");
    let authority = scratch.0.join("tls/ca.pem");
    let password = std::fs::read_to_string(scratch.0.join("root-password")).expect("a password");
    let access = ClientAccess::read(Some(&authority), None, None).expect("an authority");
    let access = access.as_user("root", password.trim());
    talk(two_members(&access, "127.0.0.1:9979"));
    joined.signal("-TERM");
    assert!(joined.wait().success());
    dev.signal("-INT");
    assert!(dev.wait().success());

    let mut dev = Running::start(&["dev", "--json"], &scratch.0);
    let places = |members: Vec<Announced>| members.into_iter().map(|one| one.etcd).collect();
    let both: Vec<String> = places(dev.members());
    assert_eq!(both, ["127.0.0.1:9979", "127.0.0.1:19979"]);
    talk(async {
        let client = MemberClient::connect_by(&access, &both[1], PATIENCE).await.expect("TLS");
        let members = client.members().await.expect("members");
        let first = members.iter().find(|one| one.name == "n1").expect("it is one").id;
        client.remove_member(first).await.expect("removed");
    });
    let give_up = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(&both[0]).is_ok() {
        assert!(Instant::now() < give_up, "n1 was removed and goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    dev.signal("-INT");
    assert!(dev.wait().success());

    let mut refused = Command::new(env!("CARGO_BIN_EXE_quorate"));
    refused.args(["dev", "--nodes", "5", "--data-dir"]).arg(&scratch.0);
    let refused = refused.output().expect("it runs");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("holds a cluster of 1 nodes"));
    let mut dev = Running::start(&["dev", "--json"], &scratch.0);
    let left: Vec<String> = places(dev.members());
    assert_eq!(left, both[1..]);
    dev.signal("-INT");
    assert!(dev.wait().success());
}

/// Waits until the member and another one say where they stand.
async fn two_members(access: &ClientAccess, address: &str) {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match status_report::collect(access, &[address.to_owned()]).await {
            Ok(report) if report.members.len() == 2 && report.shortcoming().is_none() => return,
            other => assert!(Instant::now() < give_up, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// As a unit of systemd starts etcd: by that name, with its flags, and waiting to be told.
#[test]
fn a_unit_file_of_etcd_starts_a_node() {
    let scratch = Scratch::new("unit-file");
    let program = scratch.0.join("etcd");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_quorate"), &program).expect("a link");
    let manager = std::os::unix::net::UnixDatagram::bind(scratch.0.join("notify")).expect("bound");
    manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let arguments = "--name=infra0 --initial-advertise-peer-urls http://127.0.0.1:25981 \
        --listen-peer-urls http://127.0.0.1:25981 \
        --listen-client-urls http://127.0.0.1:25980,http://127.0.0.2:25980 \
        --advertise-client-urls http://127.0.0.1:25980 --initial-cluster-token etcd-cluster-1 \
        --initial-cluster infra0=http://127.0.0.1:25981 --initial-cluster-state new \
        --listen-metrics-urls=http://127.0.0.1:25982 --snapshot-count 10000 --logger=zap \
        --log-outputs=stderr --log-level info --enable-pprof -heartbeat-interval=100";
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace());
    command.env("ETCD_DATA_DIR", scratch.0.join("data")).env("ETCD_ELECTION_TIMEOUT", "1000");
    command.env("NOTIFY_SOCKET", scratch.0.join("notify"));
    let child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("the binary runs");
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut stderr = child.stderr.take().expect("a pipe");
    let mut etcd = Running { child, stdout };
    let mut told = [0; 16];
    let length = manager.recv(&mut told).expect("it says that it is ready");
    assert_eq!(&told[..length], b"READY=1");
    talk(async {
        client("127.0.0.1:25980").await.put(b"k", b"v").await.expect("a put");
        let (_, found) = client("127.0.0.2:25980").await.get(b"k").await.expect("a get");
        assert!(found.is_some());
    });
    etcd.signal("-TERM");
    assert!(etcd.wait().success());
    let mut log = String::new();
    stderr.read_to_string(&mut log).expect("text");
    for line in ["ready to serve client requests", "--snapshot-count is ignored: "] {
        assert!(log.contains(line), "{log}");
    }
}

#[test]
fn nodes_end_with_a_parent_that_is_killed() {
    let scratch = Scratch::new("dev-orphan");
    let arguments = ["dev", "--json", "--nodes", "1", "--offset", "23300"];
    let mut dev = Running::start(&arguments, &scratch.0);
    let address = dev.members()[0].etcd.clone();
    dev.signal("-KILL");
    dev.wait();
    let give_up = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(&address).is_ok() {
        assert!(Instant::now() < give_up, "the node outlives its parent");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_directory_in_use_and_a_port_in_use_are_said_plainly() {
    let scratch = Scratch::new("in-use");
    let arguments = ["dev", "--json", "--nodes", "1", "--offset", "23400"];
    let mut dev = Running::start(&arguments, &scratch.0);
    dev.members();
    // The same directory, other ports.
    let said = refused_start(&scratch.0.join("n1"), 29001);
    assert!(said.contains(&scratch.0.display().to_string()), "{said}");
    // The same ports, another directory.
    let other = Scratch::new("in-use-other");
    let said = refused_start(&other.0.join("n1"), 25779);
    assert!(said.contains("127.0.0.1:25779"), "{said}");
}

/// `start` must fail by itself, in one sentence.
fn refused_start(data_dir: &Path, etcd_port: u16) -> String {
    let address = |port: u16| format!("127.0.0.1:{port}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(["start", "--name", "n1", "--etcd", &address(etcd_port)]);
    command.args(["--initial-cluster", "n1=127.0.0.1:25780", "--peer", &address(29002)]);
    command.args(["--admin", &address(29003)]).arg("--data-dir").arg(data_dir);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(child.wait().expect("our child").code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn the_numbers_of_a_sequence_are_given_once_to_whoever_asks() {
    let scratch = Scratch::new("sequence");
    let arguments = ["dev", "--json", "--nodes", "1", "--offset", "23500"];
    let mut dev = Running::start(&arguments, &scratch.0);
    let etcd = dev.members()[0].etcd.clone();
    let ask = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(["sequence", "orders", "--endpoints", &etcd]);
        command.stdout(Stdio::piped()).spawn().expect("the binary runs")
    };
    // Several at once: some are overtaken and look again.
    let asking: Vec<Child> = std::iter::repeat_with(ask).take(8).collect();
    let number = |child: Child| {
        let output = child.wait_with_output().expect("our child");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("text");
        text.trim_end().parse::<u64>().expect("a number, and nothing else")
    };
    let mut numbers: Vec<u64> = asking.into_iter().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    dev.signal("-INT");
    assert!(dev.wait().success());
}
