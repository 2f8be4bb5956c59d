//! `quorate dev`: a cluster of real processes on this machine, for trying things out.
//!
//! Invariant: when this ends, however it ends, so do its members. Not here: the members' own
//! options, the words of the command line.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cluster_users;
use crate::local_certificates::LocalCertificates;
use crate::local_cluster::LocalCluster;
use crate::member_process::{Output, Server};
use crate::port_plan::{self, MemberAddresses};

/// How long the cluster may take to elect its first leader.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two looks at the members.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A supervised member that ended is left alone so long.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Lines of a member's log that are shown when it does not start.
const LOG_LINES_SHOWN: usize = 5;

/// What was asked for.
#[derive(Debug, Clone)]
pub struct DevPlan {
    /// Number of members.
    pub nodes: usize,
    /// Added to every port.
    pub offset: u16,
    /// Holds one directory and one log per member.
    pub data_dir: PathBuf,
    /// Speak in lines of JSON.
    pub json: bool,
    /// Start a member again when it ends.
    pub restart: bool,
    /// With TLS, and authentication on.
    pub secure: bool,
    /// The program, and options for every member.
    pub server: Server,
}

/// One line of `--json`.
#[derive(Serialize)]
struct ReadyLine<'a> {
    name: &'a str,
    pid: u32,
    etcd: &'a str,
    peer: &'a str,
    admin: &'a str,
    data_dir: String,
}

/// Starts the cluster and keeps it until SIGINT or SIGTERM.
pub async fn run(plan: &DevPlan) -> Result<(), String> {
    let addresses = port_plan::plan(plan.nodes, plan.offset)?;
    refuse_other_size(&plan.data_dir, plan.nodes)?;
    refuse_taken_ports(&addresses)?;
    let directory = std::path::absolute(&plan.data_dir).map_err(|error| error.to_string())?;
    let mut cluster =
        LocalCluster::new(plan.server.clone(), addresses, &directory, Output::LogFile);
    let mut root_password = None;
    if plan.secure {
        cluster = cluster.secured(&LocalCertificates::make(&directory.join("tls"))?)?;
        let password = cluster_users::root_password(&directory)?;
        cluster.be_user(cluster_users::ROOT, &password);
        root_password = Some(password);
    }
    let mut dev = DevCluster {
        plan,
        cluster,
        root_password,
        restart_at: vec![None; plan.nodes],
        interrupt: listen(SignalKind::interrupt())?,
        terminate: listen(SignalKind::terminate())?,
    };
    let result = dev.serve().await;
    let stopped = dev.cluster.stop().await;
    result.and(stopped)
}

/// A reader that has gone away is no reason to stop the cluster.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// What went wrong, to people; the same holds for them.
fn complain(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn listen(kind: SignalKind) -> Result<Signal, String> {
    signal(kind).map_err(|error| format!("cannot listen for signals: {error}"))
}

/// A cluster keeps the size it was created with.
fn refuse_other_size(data_dir: &Path, nodes: usize) -> Result<(), String> {
    let existing = (1..=port_plan::MEMBERS_MAX).filter(|n| data_dir.join(format!("n{n}")).exists());
    match existing.count() {
        0 => Ok(()),
        existing if existing == nodes => Ok(()),
        existing => Err(format!(
            "{} holds a cluster of {existing} nodes: say --nodes {existing}, or another --data-dir",
            data_dir.display()
        )),
    }
}

/// Whoever listens there would answer in the members' place, and the cluster look ready.
fn refuse_taken_ports(addresses: &[MemberAddresses]) -> Result<(), String> {
    let listeners = addresses.iter().flat_map(|member| [&member.etcd, &member.peer, &member.admin]);
    for address in listeners {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Err(format!(
                    "{address} is in use by another process: stop that one, or say --offset N"
                ));
            }
            Err(error) => return Err(format!("cannot listen on {address}: {error}")),
            Ok(_) => {}
        }
    }
    Ok(())
}

struct DevCluster<'a> {
    plan: &'a DevPlan,
    cluster: LocalCluster,
    /// With authentication on.
    root_password: Option<String>,
    /// When a member that ended is started again.
    restart_at: Vec<Option<Instant>>,
    interrupt: Signal,
    terminate: Signal,
}

impl DevCluster<'_> {
    async fn serve(&mut self) -> Result<(), String> {
        self.cluster.start_all()?;
        for member in 0..self.cluster.len() {
            tokio::select! {
                ready = self.cluster.await_ready(member, READY_TIMEOUT) => {
                    ready.map_err(|error| self.with_log(member, error))?;
                }
                _ = self.interrupt.recv() => return Ok(()),
                _ = self.terminate.recv() => return Ok(()),
            }
            self.announce(member);
        }
        if let Some(password) = &self.root_password {
            let address = &self.cluster.spec(0).addresses.etcd;
            cluster_users::enable(self.cluster.access(), address, password).await?;
        }
        if self.plan.json {
            say("{\"ready\":true}");
        } else {
            say(&self.hints().await?);
        }
        self.watch_over().await
    }

    /// Looks after the members until told to stop.
    async fn watch_over(&mut self) -> Result<(), String> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                _ = self.interrupt.recv() => return Ok(()),
                _ = self.terminate.recv() => return Ok(()),
            }
            for (member, how) in self.cluster.reap() {
                self.note_end(member, &how)?;
            }
            self.restart_due().await;
        }
    }

    fn note_end(&mut self, member: usize, how: &str) -> Result<(), String> {
        let who = self.cluster.describe(member);
        if self.plan.restart {
            complain(&format!("{who} ended with {how}; it is started again"));
            self.restart_at[member] = Some(Instant::now() + RESTART_DELAY);
            return Ok(());
        }
        let (program, arguments) =
            self.cluster.spec(member).command_line(self.cluster.server(member));
        let command = format!("{} {}", program.display(), arguments.join(" "));
        complain(&format!("{who} ended with {how}; to start it again:\n  {command}"));
        if self.cluster.running() == 0 {
            return Err("all nodes have ended; the same command starts them again".to_owned());
        }
        Ok(())
    }

    async fn restart_due(&mut self) {
        for member in 0..self.cluster.len() {
            if self.restart_at[member].is_none_or(|due| due > Instant::now()) {
                continue;
            }
            self.restart_at[member] = None;
            match self.cluster.start(member) {
                // Announced once it runs; whether it is ready shows in `status`.
                Ok(()) => self.announce(member),
                Err(error) => {
                    complain(&error);
                    self.restart_at[member] = Some(Instant::now() + RESTART_DELAY);
                }
            }
        }
    }

    fn announce(&mut self, member: usize) {
        let Some(pid) = self.cluster.process(member).map(|process| process.id()) else { return };
        let spec = self.cluster.spec(member);
        let addresses = &spec.addresses;
        let line = ReadyLine {
            name: &spec.name,
            pid,
            etcd: &addresses.etcd,
            peer: &addresses.peer,
            admin: &addresses.admin,
            data_dir: spec.data_dir.display().to_string(),
        };
        if self.plan.json {
            say(&serde_json::to_string(&line).expect("strings are always JSON"));
        } else {
            let ReadyLine { name, pid, etcd, peer, admin, .. } = line;
            say(&format!("{name}  pid {pid:<7}  etcd {etcd}  peer {peer}  admin {admin}"));
        }
    }

    /// What to type next.
    async fn hints(&mut self) -> Result<String, String> {
        let endpoints = self.cluster.endpoints();
        let (first, last) = (&endpoints[0], &endpoints[endpoints.len() - 1]);
        let program = match self.cluster.server(0) {
            Server::Quorate { binary, .. } | Server::Etcd { binary } => {
                binary.display().to_string()
            }
        };
        let mut text = String::new();
        let mut line = |words: String| writeln!(text, "{words}").map_err(|e| e.to_string());
        let (access, scheme) = match &self.cluster.spec(0).certificates {
            None => (String::new(), ""),
            Some(files) => (format!(" --cacert={}", shell_word(&files.authority)), "https://"),
        };
        let user = self.root_password.iter().map(|password| format!(" --user=root:{password}"));
        let access = access + &user.collect::<String>();
        line(format!("\nReady. Data is in {}. Now, for example:\n", self.plan.data_dir.display()))?;
        line(format!("  etcdctl --endpoints={scheme}{first}{access} put greeting hello"))?;
        line(format!("  etcdctl --endpoints={scheme}{last}{access} get greeting"))?;
        line(format!("  {program} status --endpoints {scheme}{first}{access}"))?;
        if let Some(leader) = self.cluster.leader().await {
            let name = self.cluster.spec(leader).name.clone();
            let pid = self.cluster.process(leader).map_or(0, |process| process.id());
            let kill = format!("kill -9 {pid}");
            line(format!("  {kill:<17}  kills the leader, {name}; the others take over"))?;
        }
        if let (Server::Quorate { .. }, None, Some(join)) =
            (self.cluster.server(0), &self.cluster.spec(0).certificates, self.join(first))
        {
            line(format!("  {program} {join}"))?;
        }
        write!(text, "\nCtrl-C stops the cluster.").map_err(|e| e.to_string())?;
        Ok(text)
    }

    /// How a further node joins, if there is room for its ports: the next start counts it.
    fn join(&self, from: &str) -> Option<String> {
        let next = port_plan::next(self.cluster.len(), self.plan.offset)?;
        let name = format!("n{}", self.cluster.len() + 1);
        let data_dir = shell_word(&self.plan.data_dir.join(&name));
        let MemberAddresses { etcd, peer, admin } = next;
        Some(format!(
            "join --from {from} --name {name} --data-dir {data_dir} --etcd {etcd} --peer {peer} \
             --admin {admin}"
        ))
    }

    /// Adds what the member said last.
    fn with_log(&self, member: usize, error: String) -> String {
        let path = self.cluster.spec(member).data_dir.with_extension("log");
        let log = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        last.iter().fold(error, |text, line| format!("{text}\n  {line}"))
    }
}

/// A path as a shell takes it for one word.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_refused() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("its address").to_string();
        let free = || "127.0.0.1:0".to_owned();
        let member = MemberAddresses { etcd: free(), peer: address.clone(), admin: free() };
        let refusal =
            refuse_taken_ports(std::slice::from_ref(&member)).expect_err("somebody listens");
        assert!(refusal.starts_with(&format!("{address} is in use")), "{refusal}");
        drop(taken);
        assert_eq!(refuse_taken_ports(std::slice::from_ref(&member)), Ok(()));
    }

    #[test]
    fn a_cluster_keeps_its_size() {
        let directory = std::env::temp_dir().join(format!("quorate-dev-{}", std::process::id()));
        assert!(refuse_other_size(&directory, 3).is_ok(), "nothing is there yet");
        for name in ["n1", "n2", "n3"] {
            std::fs::create_dir_all(directory.join(name)).expect("mkdir");
        }
        assert!(refuse_other_size(&directory, 3).is_ok());
        let refusal = refuse_other_size(&directory, 1).expect_err("it has three nodes");
        assert!(refusal.contains("holds a cluster of 3 nodes"), "{refusal}");
        std::fs::remove_dir_all(&directory).expect("remove");
    }
}
