//! The README's session: its commands, run as they are written, print what it says they print.
//!
//! Every line of a `console` block that begins with `$ ` is given to one shell, in order, beside a
//! fresh `quorate dev`; `LEADER` stands for the leader's process id. Ports are moved, so that an
//! etcd on this machine is not in the way; ids and times are masked.

use std::path::Path;
use std::process::Command;

use super::Context;
use super::client_cluster::ClientCluster;
use super::shell::{ensure_installed, listen, output};
use super::tally::Tally;

/// Away from a cluster that a developer keeps; the session uses ports up to 202 above `dev`'s.
const OFFSET: u16 = 7_250;

/// How long all of it may take.
const TIMEOUT_SECONDS: &str = "120";

/// Ids of members, and the figures of a backup that hold ids of leases; how they are written stays.
const MASK: &str = r"s/\b[0-9a-f]{13,16}\b/ID/g
    s/^(hash +)[0-9]{1,10} \([0-9a-f]{8}\)$/\1N (HEX)/
    s/^(bytes +)[0-9]+$/\1N/";

pub(super) fn run(context: &Context, tally: &mut Tally) {
    tally.check("README: its commands print what it says", || session(context));
}

fn session(context: &Context) -> Result<(), String> {
    ensure_installed("etcdctl", "etcd-client")?;
    let readme = std::fs::read_to_string(context.root.join("README.md"));
    let written = moved(&console(&readme.map_err(|error| format!("README.md: {error}"))?), OFFSET);
    let directory = context.scratch("readme")?;
    let release = directory.join("target/release");
    std::fs::create_dir_all(&release).map_err(|error| error.to_string())?;
    std::os::unix::fs::symlink(context.binary("release"), release.join("quorate"))
        .map_err(|error| error.to_string())?;
    let cluster = ClientCluster::start_at(context, "readme-data", None, OFFSET)?;
    let leader = leader(&cluster)?;
    let mut shell = Command::new("timeout");
    shell.args([TIMEOUT_SECONDS, "bash", "-c", &script(&written, &leader)]);
    let said = listen(shell.current_dir(&directory), "")?;
    let (expected, printed) = (masked(&directory, &written)?, masked(&directory, &said.stdout)?);
    if expected == printed {
        return Ok(());
    }
    Err(format!("README.md says\n{expected}\nbut it was\n{printed}\n{}", said.stderr))
}

/// The lines of all `console` blocks.
fn console(readme: &str) -> String {
    let blocks = readme.split("```console\n").skip(1);
    blocks.filter_map(|block| block.split("```").next()).collect()
}

/// The same text, with every port of this machine moved.
fn moved(text: &str, offset: u16) -> String {
    let mut parts = text.split("127.0.0.1:");
    let mut moved = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let (port, rest) = part.split_at(digits);
        let port = port.parse::<u16>().map_or(0, |port| port + offset);
        moved.push_str(&format!("127.0.0.1:{port}{rest}"));
    }
    moved
}

/// Says each command and runs it; what was begun in the background ends with it.
fn script(written: &str, leader: &str) -> String {
    let commands = written.lines().filter_map(|line| line.strip_prefix("$ "));
    let mut script = String::from("trap 'kill $(jobs -p)' EXIT\n");
    for command in commands {
        let quoted = command.replace('\'', r"'\''");
        script.push_str(&format!("printf '%s\\n' '$ {quoted}'\n"));
        script.push_str(&format!("{}\n", command.replace("LEADER", leader)));
    }
    script + "exit 0\n"
}

/// The process id of the member that leads.
fn leader(cluster: &ClientCluster) -> Result<String, String> {
    for member in &cluster.members {
        let mut status = Command::new("etcdctl");
        status.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", member.etcd));
        if output(status.args(["endpoint", "status"]))?.contains(", true, false, ") {
            return Ok(member.process_id.clone());
        }
    }
    Err("nobody leads".to_owned())
}

/// Without what differs between two runs; empty lines are only for the eye.
fn masked(directory: &Path, text: &str) -> Result<String, String> {
    let path = directory.join("text");
    std::fs::write(&path, text).map_err(|error| error.to_string())?;
    let lines = output(Command::new("sed").args(["-E", MASK]).arg(&path))?;
    Ok(lines.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_masked_and_their_form_is_not() {
        let directory = std::env::temp_dir().join(format!("quorate-mask-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("the temporary directory is writable");
        let mask = |text| masked(&directory, text).expect("sed runs");
        let printed = "hash      2171572324 (816f9064)\nbytes     1056\nkeys      1\n";
        let other = "hash      7 (00000007)\nbytes     99\nkeys      1\n";
        assert_eq!(mask(printed), mask(other));
        for form in ["hash      77b54d59\n", "hash      7\n", "bytes     1056 B\n"] {
            assert_eq!(mask(form), form.trim_end());
        }
        assert_eq!(mask("75a8f547a83ea0c1, started"), "ID, started");
        std::fs::remove_dir_all(&directory).expect("the test's own directory");
    }

    #[test]
    fn commands_are_found_moved_and_quoted() {
        let readme =
            "text\n```console\n$ get 'a' 127.0.0.1:2379\nhello\n```\n```\n$ not this\n```\n";
        let written = moved(&console(readme), 100);
        assert_eq!(written, "$ get 'a' 127.0.0.1:2479\nhello\n");
        let script = script("$ kill LEADER 'a'\n", "7");
        assert!(script.contains(r"printf '%s\n' '$ kill LEADER '\''a'\'''"), "{script}");
        assert!(script.contains("\nkill 7 'a'\n"), "{script}");
    }
}
