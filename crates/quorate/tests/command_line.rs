//! What is asked wrongly is refused in one plain sentence, with exit code 2, before anything is
//! done.

use std::process::{Command, Output, Stdio};

fn quorate(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    // Wherever the tests run, nothing may be left behind there.
    command.current_dir(std::env::temp_dir());
    command.args(arguments).envs(environment.iter().copied());
    command.output().expect("the binary runs")
}

/// Exit code 2, nothing on standard output, and one line that contains all of `words`.
fn refused(arguments: &[&str], environment: &[(&str, &str)], words: &[&str]) {
    let output = quorate(arguments, environment);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?} said {said}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed to standard output");
    assert_eq!(said.lines().count(), 1, "{arguments:?} said {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?} said {said}, not {word}");
    }
}

#[test]
fn what_is_unknown_is_named() {
    refused(&[], &[], &["start", "dev", "status", "restore", "--help"]);
    refused(&["begin"], &[], &["begin"]);
    refused(&["start", "--data"], &[], &["--data"]);
    refused(&["dev", "3"], &[], &["3"]);
    refused(&["start"], &[("QUORATE_DATADIR", "x")], &["QUORATE_DATADIR"]);
    refused(&["start", "--config", "/no/such/file"], &[], &["/no/such/file"]);
}

#[test]
fn what_contradicts_itself_is_named() {
    refused(&["start", "--etcd", "127.0.0.1:2380"], &[], &["etcd", "peer", "127.0.0.1:2380"]);
    refused(&["start", "--initial-cluster", "n1=127.0.0.1:2380"], &[], &["initial-cluster"]);
    refused(&["start", "--lease-ms", "1000"], &[], &["lease-ms", "election-ms"]);
    refused(&["start", "--test-no-sync"], &[], &["test-power-loss"]);
    refused(&["sim", "--seed", "1", "--seeds", "1..2"], &[], &["--seed"]);
    refused(&["sim", "--seed", "1", "--jobs", "0"], &[], &["--jobs"]);
    refused(&["sim", "--seeds", "2..2"], &[], &["2..2"]);
}

#[test]
fn chaos_that_cannot_be_is_named() {
    refused(&["chaos", "--faults", "kill,meteor"], &[], &["meteor", "rolling-restart"]);
    refused(&["chaos", "--for", "10"], &[], &["90s"]);
    refused(&["chaos", "--for", "10s", "--faults", "kill,pause"], &[], &["2 faults", "12s"]);
    refused(&["chaos", "--nodes", "2", "--faults", "corrupt"], &[], &["corrupt", "3 nodes"]);
    refused(&["chaos", "--nodes", "6"], &[], &["1 to 5"]);
    refused(&["chaos", "--workload", "x"], &[], &["mixed"]);
    refused(&["chaos", "--report", "/proc"], &[], &["/proc", "not empty"]);
    let attached = ["chaos", "--endpoints", "127.0.0.1:1"];
    refused(&[&attached[..], &["--faults", "kill"]].concat(), &[], &["kill", "--endpoints"]);
    refused(&[&attached[..], &["--faults", "clock"]].concat(), &[], &["--enable-faults"]);
    refused(&[&attached[..], &["--external", "etcd"]].concat(), &[], &["--external"]);
    refused(&["chaos", "--external", "consul"], &[], &["consul", "only etcd"]);
    refused(&["chaos", "--external", "etcd"], &[("PATH", "/no/such")], &["no etcd on PATH"]);
    let external = ["chaos", "--external", env!("CARGO_BIN_EXE_quorate")];
    refused(&external, &[], &["only etcd"]);
}

#[test]
fn faults_are_enabled_on_loopback_only() {
    let open = ["start", "--enable-faults", "--admin", "0.0.0.0:2381"];
    refused(&open, &[], &["enable-faults", "loopback", "0.0.0.0:2381"]);
}

#[test]
fn what_is_out_of_bounds_is_named() {
    refused(&["dev", "--nodes", "0"], &[], &["1 to 5"]);
    refused(&["dev", "--nodes", "6"], &[], &["1 to 5"]);
    refused(&["dev", "--offset", "50000"], &[], &["72379", "65535"]);
    refused(&["join", "--from", "127.0.0.1:2379", "--replace", ""], &[], &["--replace"]);
    refused(&["start", "--etcd", "localhost"], &[], &["etcd", "127.0.0.1:2379"]);
    refused(&["start", "--front-ends", "0"], &[], &["front-ends"]);
    refused(&["start", "--heartbeat-ms", "soon"], &[], &["heartbeat-ms", "soon"]);
}

#[test]
fn a_wrong_file_is_named_with_its_line() {
    let path = std::env::temp_dir().join(format!("quorate-{}.toml", std::process::id()));
    std::fs::write(&path, "name = \"n1\"\ndata_dir = \"x\"\n").expect("write");
    let text = path.display().to_string();
    refused(&["start", "--config", &text], &[], &[&text, "line 2", "data_dir"]);
    std::fs::remove_file(&path).expect("remove");
}

#[test]
fn help_and_version_are_answers() {
    for arguments in [["--help"].as_slice(), &["--version"], &["start", "--help"]] {
        let output = quorate(arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    let help = String::from_utf8_lossy(&quorate(&["--help"], &[]).stdout).into_owned();
    assert!(!help.contains("failover"), "hidden tasks stay hidden: {help}");
}

#[test]
fn nobody_to_ask_is_a_failure_not_a_wrong_question() {
    let output = quorate(&["status", "--endpoints", "127.0.0.1:1"], &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("127.0.0.1:1"), "{said}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(["sim", "--seed", "3"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut sim = command.spawn().expect("the binary runs");
    drop(sim.stdout.take());
    let output = sim.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
