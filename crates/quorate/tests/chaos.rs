//! The chaos run in seconds instead of minutes, through the built binary: faults of every kind of
//! injection break no promise, without the log's syncs they do, and nothing outlives a run.
//!
//! Longer runs with every fault are part of `cargo xtask ci`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long what was asked to end may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of this test's own, kept if the test fails.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("quorate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Scratch(path)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join("report").join(file)).expect("the run wrote it")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::fs::remove_dir_all(&self.0).expect("the test's own directory");
        }
    }
}

fn chaos(scratch: &Scratch, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.arg("chaos").args(arguments).args(["--report", "report"]).current_dir(&scratch.0);
    command
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn nobody_listens(ports: &[u16]) -> bool {
    ports.iter().all(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_err())
}

#[test]
fn cut_links_and_rot_break_no_promise() {
    let scratch = Scratch::new("chaos");
    let arguments = ["--for", "12s", "--faults", "partition,corrupt", "--offset", "6100"];
    let output = chaos(&scratch, &arguments).output().expect("the binary runs");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let journal = scratch.read("journal.json");
    for part in ["\"green\": true", "\"fault\": \"partition\"", "\"fault\": \"corrupt\""] {
        assert!(journal.contains(part), "{part} is missing: {said}");
    }
    assert!(scratch.read("report.html").contains("every promise held"));
    assert!(!scratch.0.join("report/members").exists(), "data of a green run is of no use");
    assert!(nobody_listens(&[8479, 18_479, 28_479, 8482]), "something was left running");
}

#[test]
fn without_syncs_a_power_loss_makes_the_report_red() {
    let scratch = Scratch::new("chaos-no-sync");
    let arguments = ["--for", "6s", "--faults", "power-loss", "--no-sync", "--offset", "6200"];
    let output = chaos(&scratch, &arguments).output().expect("the binary runs");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("BROKEN     durability"), "{said}");
    let page = scratch.read("report.html");
    assert!(page.contains("promises were broken") && page.contains("acknowledged write lost"));
    let journal = scratch.read("journal.json");
    assert!(!journal.contains("\"rpo_acked_lost\": 0,\n      \"availability\""), "{said}");
    assert!(!scratch.read("history.jsonl").is_empty(), "the operations are kept");
}

#[test]
fn a_run_that_is_interrupted_or_killed_leaves_nothing_running() {
    for signal in ["-INT", "-KILL"] {
        let scratch = Scratch::new(&format!("chaos{signal}"));
        // Paused processes could not stop by themselves.
        let arguments = ["--for", "60s", "--faults", "pause", "--offset", "6300"];
        let mut command = chaos(&scratch, &arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut run = command.spawn().expect("the binary runs");
        let steps = BufReader::new(run.stdout.take().expect("a pipe")).lines();
        let mut steps = steps.map(|line| line.expect("text"));
        steps.find(|line| line.contains("was frozen")).expect("a node is paused");
        send(signal, &run);
        let status = run.wait().expect("our child");
        assert!(!status.success());
        let give_up = Instant::now() + PATIENCE;
        while !nobody_listens(&[8679, 18_679, 28_679]) {
            assert!(Instant::now() < give_up, "{signal} left something running");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn send(signal: &str, to: &Child) {
    let sent = Command::new("kill").args([signal, &to.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

#[test]
fn what_is_in_the_way_is_said_in_one_line() {
    let scratch = Scratch::new("chaos-refused");
    let taken = std::net::TcpListener::bind("127.0.0.1:8782").expect("the port is free");
    let arguments = ["--for", "6s", "--faults", "kill", "--offset", "6400"];
    let output = chaos(&scratch, &arguments).output().expect("the binary runs");
    let port = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), port.lines().count()), (Some(1), 1), "{port}");
    assert!(port.contains("127.0.0.1:8782 is in use"), "{port}");
    drop(taken);

    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(["chaos", "--report", "/proc/self/report"]).args(arguments);
    let output = command.output().expect("the binary runs");
    let directory = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), directory.lines().count()), (Some(1), 1), "{directory}");
    assert!(directory.contains("cannot make /proc/self/report"), "{directory}");
    assert!(nobody_listens(&[8779, 18_779, 28_779]), "something was left running");
}

#[test]
fn a_running_cluster_is_used_and_left_as_it_was() {
    let scratch = Scratch::new("chaos-attached");
    let mut node = Command::new(env!("CARGO_BIN_EXE_quorate"));
    node.args(["start", "--enable-faults", "--name", "n1", "--data-dir", "n1"]);
    node.args(["--initial-cluster", "n1=127.0.0.1:8880", "--etcd", "127.0.0.1:8879"]);
    node.args(["--admin", "127.0.0.1:8881", "--stop-with-stdin"]).current_dir(&scratch.0);
    let mut node = node.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let give_up = Instant::now() + PATIENCE;
    while nobody_listens(&[8879, 8881]) {
        assert!(Instant::now() < give_up, "the node does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    let here = ["--endpoints", "127.0.0.1:8879"];
    let arguments = [&here[..], &["--admin", "127.0.0.1:8881", "--for", "6s", "--faults", "clock"]];
    let output = chaos(&scratch, &arguments.concat()).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(scratch.read("journal.json").contains("\"target\": \"attached\""));

    // What it dies of in the middle is said in one line.
    let mut dying = Command::new(env!("CARGO_BIN_EXE_quorate"));
    dying.args(["chaos", "--for", "60s", "--report", "dying"]).args(here).current_dir(&scratch.0);
    let dying = dying.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    std::thread::sleep(Duration::from_secs(2));
    drop(node.stdin.take());
    assert!(node.wait().expect("our child").success());
    let output = dying.wait_with_output().expect("our child");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("127.0.0.1:8879") && said.contains("given up"), "{said}");
}
