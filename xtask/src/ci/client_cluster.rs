//! A `quorate dev` for stock clients to talk to.
//!
//! Invariant: it is gone when this is dropped.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::Context;

/// Away from a cluster that a developer keeps, and below the ports that the system hands out:
/// members listen on 9679, 19679, 29679.
pub(super) const OFFSET: u16 = 7_300;

/// For a second cluster at the same time.
pub(super) const SECOND_OFFSET: u16 = 7_400;

/// How long a cluster may take to stop when asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// One member, as `dev --json` announced it.
#[derive(Debug)]
pub(super) struct AnnouncedMember {
    pub(super) name: String,
    pub(super) process_id: String,
    pub(super) etcd: String,
    pub(super) peer: String,
}

/// A running cluster of three.
pub(super) struct ClientCluster {
    child: Child,
    /// Kept open: the cluster goes on speaking.
    stdout: Lines<BufReader<ChildStdout>>,
    pub(super) members: Vec<AnnouncedMember>,
}

impl ClientCluster {
    /// Starts one with fresh data and waits until it is ready.
    pub(super) fn start(context: &Context, name: &str) -> Result<ClientCluster, String> {
        ClientCluster::start_at(context, name, context.etcd_binary.as_deref(), OFFSET)
    }

    /// Starts one of ours with TLS and authentication on, as `dev --secure` makes it.
    pub(super) fn start_secured(context: &Context, name: &str) -> Result<ClientCluster, String> {
        let data_dir = context.scratch(name)?;
        let mut command = Command::new(context.binary("release"));
        command.args(["dev", "--secure", "--json", "--restart", "--offset", &OFFSET.to_string()]);
        ClientCluster::from_command(command.arg("--data-dir").arg(&data_dir), &data_dir)
    }

    /// Starts one of ours, or of stock etcd servers.
    pub(super) fn start_at(
        context: &Context,
        name: &str,
        etcd_binary: Option<&Path>,
        offset: u16,
    ) -> Result<ClientCluster, String> {
        let data_dir = context.scratch(name)?;
        let mut command = Command::new(context.binary("release"));
        command.args(["dev", "--json", "--restart", "--offset", &offset.to_string()]);
        command.arg("--data-dir").arg(&data_dir);
        if let Some(binary) = etcd_binary {
            command.arg("--etcd-binary").arg(binary);
        }
        ClientCluster::from_command(&mut command, &data_dir)
    }

    fn from_command(command: &mut Command, data_dir: &Path) -> Result<ClientCluster, String> {
        let child = command.stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("cannot start the cluster: {error}"))?;
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let stdout = BufReader::new(stdout).lines();
        let mut cluster = ClientCluster { child, stdout, members: Vec::new() };
        while let Some(line) = cluster.stdout.next() {
            let line = line.map_err(|error| format!("cannot read from the cluster: {error}"))?;
            if line == "{\"ready\":true}" {
                return Ok(cluster);
            }
            cluster.members.push(parse(&line)?);
        }
        Err(format!("the cluster ended before it was ready; logs are in {}", data_dir.display()))
    }

    /// Where clients reach the members.
    pub(super) fn endpoints(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.etcd.as_str()).collect()
    }

    /// Asks it to stop; it must do so by itself and say that all went well.
    pub(super) fn stop(mut self) -> Result<(), String> {
        self.ask_to_stop()
    }

    fn ask_to_stop(&mut self) -> Result<(), String> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(format!("the cluster had already ended with {status}"));
        }
        signal(&self.child.id().to_string(), "-INT")?;
        let give_up = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < give_up {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the cluster ended with {status}")),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        Err(format!("the cluster did not stop within {STOP_TIMEOUT:?}"))
    }
}

impl Drop for ClientCluster {
    fn drop(&mut self) {
        // Nothing to do after `stop`. Killing the parent closes the pipes of its members, which
        // end ours; stock servers end only when the parent stops them.
        drop(self.ask_to_stop());
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a signal by the system's own `kill`.
pub(super) fn signal(process_id: &str, signal: &str) -> Result<(), String> {
    super::shell::output(Command::new("kill").args([signal, process_id])).map(drop)
}

fn parse(line: &str) -> Result<AnnouncedMember, String> {
    let malformed = || format!("not a line of `dev --json`: {line}");
    let text = |key: &str| {
        let (_, rest) = line.split_once(&format!("\"{key}\":\""))?;
        Some(rest.split('"').next()?.to_owned())
    };
    let (_, process_id) = line.split_once("\"pid\":").ok_or_else(malformed)?;
    let digits = process_id.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    Ok(AnnouncedMember {
        name: text("name").ok_or_else(malformed)?,
        process_id: digits.to_owned(),
        etcd: text("etcd").ok_or_else(malformed)?,
        peer: text("peer").ok_or_else(malformed)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_dev_names_a_member() {
        let line = r#"{"name":"n2","pid":4711,"etcd":"127.0.0.1:12379","peer":"p","admin":"a"}"#;
        let member = parse(line).expect("well formed");
        assert_eq!((member.name.as_str(), member.process_id.as_str()), ("n2", "4711"));
        assert_eq!((member.etcd.as_str(), member.peer.as_str()), ("127.0.0.1:12379", "p"));
        assert!(parse("Ready.").is_err());
    }
}
