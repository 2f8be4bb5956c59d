//! The power-loss option against a whole node: a process that is killed with unsynced log writes
//! in its memory loses nothing that it acknowledged; with the sync taken out, it does.
//!
//! The parent runs this test binary again as the victim, which writes numbers and says which are
//! acknowledged; it kills it, starts the node again in this process, and reads.

use bytes::Bytes;
use clocks::GroupId;
use node::{Node, NodeConfig, Settings};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use store::command::Put;
use store::reply::Outcome;

/// Set in the process that is to be killed: its data directory, then its settings.
const VICTIM: &str = "QUORATE_TEST_POWER_LOSS_VICTIM";
const REQUEST: Duration = Duration::from_secs(10);
/// Marks the victim's lines among those of the test harness.
const ACKNOWLEDGED: &str = "acknowledged ";

fn config(directory: &Path, peer_port: u16, lines: &str) -> NodeConfig {
    let text = format!(
        "name = 'n'\ndata-dir = '{}'\netcd = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\n\
         peer = '127.0.0.1:{peer_port}'\nfront-ends = 1\nreserve-mib = 0\ncache-mib = 8\n{lines}",
        directory.display()
    );
    Settings::from_toml(&text, "test").expect("sound").resolve().expect("consistent")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("runtime").block_on(future)
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key {number:08}"))
}

/// Writes for ever and says what was acknowledged.
fn be_the_victim(directory: &Path, peer_port: u16, lines: &str) -> ! {
    let node = Node::start(&config(directory, peer_port, lines)).expect("starts");
    let first = present(&node);
    for number in first.. {
        let value = Bytes::from(vec![b'x'; (number % 9000) as usize]);
        let put = Put { key: key(number), value, ..Put::default() };
        let command = store::command::Command::Put(put);
        let written = block_on(node.handle().write(GroupId::KEYSPACE, command, REQUEST));
        assert!(matches!(written, Ok(Outcome::Put { .. })), "{written:?}");
        println!("{ACKNOWLEDGED}{number}");
    }
    unreachable!("2^64 writes");
}

/// How many of the keys 0, 1, … there are without a gap.
fn present(node: &Node) -> u64 {
    block_on(node.handle().read_barrier(GroupId::KEYSPACE, REQUEST)).expect("readable");
    let reader = node.handle().reader(GroupId::KEYSPACE).expect("the engine reads");
    let there = |number: &u64| reader.get(&key(*number)).expect("the engine reads").is_some();
    (0..).take_while(there).count() as u64
}

/// Kills the victim after at least `writes` more acknowledgements; returns how many there were in
/// all.
fn run_and_kill(test: &str, directory: &Path, writes: u64) -> u64 {
    let mut victim = Command::new(std::env::current_exe().expect("our path"))
        .args([test, "--exact", "--nocapture"])
        .env(VICTIM, directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the victim starts");
    let lines = BufReader::new(victim.stdout.take().expect("piped")).lines();
    let mut numbers = lines
        .map_while(Result::ok)
        .filter_map(|line| line.split_once(ACKNOWLEDGED)?.1.parse::<u64>().ok());
    let enough = usize::try_from(writes).expect("few");
    let told = numbers.by_ref().take(enough).last().expect("the victim writes");
    victim.kill().expect("kill -9");
    victim.wait().expect("it is gone");
    // What it said until the kill reached it is still in the pipe.
    let acknowledged = numbers.last().unwrap_or(told) + 1;
    assert!(acknowledged >= writes, "the victim ended by itself");
    acknowledged
}

#[test]
fn acknowledged_writes_survive_power_loss() {
    let (port, lines) = (24_100, "test-power-loss = true\n");
    if let Some(directory) = std::env::var_os(VICTIM) {
        be_the_victim(Path::new(&directory), port, lines);
    }
    let root = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
    let directory = root.path().join("data");
    for round in 0..4 {
        let acknowledged =
            run_and_kill("acknowledged_writes_survive_power_loss", &directory, 150 + 31 * round);
        let node = Node::start(&config(&directory, port, "")).expect("recovers by itself");
        let found = present(&node);
        assert!(found >= acknowledged, "{acknowledged} acknowledged, {found} found");
        assert!(found <= acknowledged + 1, "{found} found, but only {acknowledged} were said");
        node.stop().expect("stops");
    }
}

#[test]
fn with_the_sync_taken_out_they_do_not() {
    let (port, lines) = (24_101, "test-power-loss = true\ntest-no-sync = true\n");
    if let Some(directory) = std::env::var_os(VICTIM) {
        be_the_victim(Path::new(&directory), port, lines);
    }
    let root = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
    let directory = root.path().join("data");
    // Only what is written back late survives: kill sooner than that.
    let acknowledged = run_and_kill("with_the_sync_taken_out_they_do_not", &directory, 100);
    // What was lost may be so much that the member cannot even start.
    if let Ok(node) = Node::start(&config(&directory, port, "")) {
        let found = present(&node);
        assert!(found < acknowledged, "all of {acknowledged} survived a missing sync");
    }
}
