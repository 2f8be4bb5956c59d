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
use crate::dev_directory::{self, Layout, Place};
use crate::local_certificates::LocalCertificates;
use crate::local_cluster::LocalCluster;
use crate::member_process::{MemberSpec, Output, Server};
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
    /// The members, as they lie in `data_dir`.
    pub layout: Layout,
    /// Holds one directory and one log per member.
    pub data_dir: PathBuf,
    /// Speak in lines of JSON.
    pub json: bool,
    /// Start a member again when it ends.
    pub restart: bool,
    /// With TLS, and authentication on; so is a cluster that once was.
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
    let directory = std::path::absolute(&plan.data_dir).map_err(|error| error.to_string())?;
    let specs = specs(&plan.layout, &directory);
    refuse_taken_ports(&specs)?;
    plan.layout.record(&directory)?;
    for name in &plan.layout.removed {
        complain(&format!("{name} was removed from the cluster and is left out"));
    }
    let members = specs.len();
    let mut cluster = LocalCluster::of(plan.server.clone(), specs, Output::LogFile);
    let tls = directory.join("tls");
    let mut root_password = None;
    if plan.secure || tls.exists() {
        cluster = cluster.secured(&LocalCertificates::make(&tls)?)?;
        let password = cluster_users::root_password(&directory)?;
        cluster.be_user(cluster_users::ROOT, &password);
        root_password = Some(password);
    }
    let mut dev = DevCluster {
        plan,
        cluster,
        root_password,
        restart_at: vec![None; members],
        interrupt: listen(SignalKind::interrupt())?,
        terminate: listen(SignalKind::terminate())?,
    };
    let result = dev.serve().await;
    let stopped = dev.cluster.stop().await;
    result.and(stopped)
}

fn specs(layout: &Layout, directory: &Path) -> Vec<MemberSpec> {
    let places = layout.members.iter().map(|(_, place)| place);
    let initial_cluster: Vec<(String, String)> =
        places.map(|place| (place.name.clone(), place.addresses.peer.clone())).collect();
    let spec = |(name, place): &(String, Place)| MemberSpec {
        name: place.name.clone(),
        addresses: place.addresses.clone(),
        data_dir: directory.join(name),
        initial_cluster: initial_cluster.clone(),
        certificates: None,
    };
    layout.members.iter().map(spec).collect()
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

/// Whoever listens there would answer in the members' place, and the cluster look ready.
pub(crate) fn refuse_taken_ports(members: &[MemberSpec]) -> Result<(), String> {
    let is_new = !members.iter().any(|member| dev_directory::has_run(&member.data_dir));
    for MemberSpec { name, addresses, .. } in members {
        for address in [&addresses.etcd, &addresses.peer, &addresses.admin] {
            match TcpListener::bind(address) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    return Err(port_plan::taken(address, (!is_new).then_some(name)));
                }
                Err(error) => return Err(format!("cannot listen on {address}: {error}")),
                Ok(_) => {}
            }
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
                ready = self.cluster.await_ready(member, READY_TIMEOUT) => match ready {
                    Ok(()) => self.announce(member),
                    // While it was down: the others told it.
                    Err(_) if self.cluster.spec(member).is_removed() => self.note_removal(member)?,
                    Err(error) => return Err(self.with_log(member, error)),
                },
                _ = self.interrupt.recv() => return Ok(()),
                _ = self.terminate.recv() => return Ok(()),
            }
        }
        if let (Some(password), [address, ..]) = (&self.root_password, &*self.endpoints()) {
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

    /// Where clients reach those that run.
    fn endpoints(&self) -> Vec<String> {
        let members = self.cluster.endpoints().into_iter().enumerate();
        let running = members.filter(|(member, _)| self.cluster.is_running(*member));
        running.map(|(_, endpoint)| endpoint).collect()
    }

    fn note_removal(&self, member: usize) -> Result<(), String> {
        let name = &self.cluster.spec(member).name;
        complain(&format!("{name} was removed from the cluster and is not started again"));
        match self.cluster.running() {
            0 => Err("no node is left".to_owned()),
            _ => Ok(()),
        }
    }

    fn note_end(&mut self, member: usize, how: &str) -> Result<(), String> {
        if self.cluster.spec(member).is_removed() {
            return self.note_removal(member);
        }
        let who = self.cluster.describe(member);
        if self.plan.restart {
            complain(&format!("{who} ended with {how}; it is started again"));
            self.restart_at[member] = Some(Instant::now() + RESTART_DELAY);
            return Ok(());
        }
        let command = command(self.cluster.spec(member), self.cluster.server(member));
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
        let endpoints = self.endpoints();
        let (Some(first), Some(last)) = (endpoints.first(), endpoints.last()) else {
            return Ok(String::new());
        };
        let (Server::Quorate { binary, .. } | Server::Etcd { binary }) = self.cluster.server(0);
        let program = shell_path(binary);
        let mut text = String::new();
        let mut line = |words: String| writeln!(text, "{words}").map_err(|e| e.to_string());
        let (access, scheme) = match &self.cluster.spec(0).certificates {
            None => (String::new(), ""),
            Some(files) => (format!(" --cacert={}", shell_path(&files.authority)), "https://"),
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
        if let (Server::Quorate { .. }, Some(next)) =
            (self.cluster.server(0), &self.plan.layout.next)
        {
            let certificates = self.cluster.spec(0).certificates.as_ref();
            let data_dir = self.plan.data_dir.join(&next.name);
            let from = format!("{scheme}{first}{access}");
            line(format!("  {program} {}", join(&from, next, &data_dir, certificates)))?;
        }
        write!(text, "\nCtrl-C stops the cluster.").map_err(|e| e.to_string())?;
        Ok(text)
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

/// How a further node joins, through a member and by what lets a client in; the next start counts
/// it.
fn join(
    from: &str,
    place: &Place,
    data_dir: &Path,
    certificates: Option<&LocalCertificates>,
) -> String {
    let Place { name, addresses: MemberAddresses { etcd, peer, admin } } = place;
    let [name, etcd, peer, admin] = [name, etcd, peer, admin].map(|word| shell_word(word));
    let data_dir = shell_path(data_dir);
    let tls = certificates.map(LocalCertificates::arguments).unwrap_or_default();
    let tls: String = tls.iter().map(|word| format!(" {}", shell_word(word))).collect();
    format!(
        "join --from {from} --name {name} --data-dir {data_dir} --etcd {etcd} --peer {peer} \
         --admin {admin}{tls}"
    )
}

/// What starts a member again, in a shell.
fn command(member: &MemberSpec, server: &Server) -> String {
    let (program, arguments) = member.command_line(server);
    let arguments = arguments.iter().map(|word| shell_word(word));
    [shell_path(&program)].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

fn shell_path(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

/// A text as a shell takes it for one word.
fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.:,=".contains(&byte);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_refused() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("its address").to_string();
        let free = || "127.0.0.1:0".to_owned();
        let addresses = MemberAddresses { etcd: free(), peer: address.clone(), admin: free() };
        let place = Place { name: "n1".to_owned(), addresses };
        let members = vec![("n1".to_owned(), place)];
        let abandoned = Vec::new();
        let layout = Layout { members, removed: Vec::new(), next: None, abandoned };
        let root = std::env::temp_dir().join(format!("quorate-ports-{}", std::process::id()));
        let specs = specs(&layout, &root);
        let refusal = refuse_taken_ports(&specs).expect_err("somebody listens");
        assert!(refusal.starts_with(&format!("{address} is in use")), "{refusal}");
        assert!(refusal.ends_with("or say --offset N"), "{refusal}");
        // Once it has run, it stays where it is.
        std::fs::create_dir_all(root.join("n1")).expect("made");
        std::fs::write(root.join("n1/identity"), "").expect("written");
        let refusal = refuse_taken_ports(&specs).expect_err("somebody listens");
        std::fs::remove_dir_all(&root).expect("the test's own directory");
        let expected = format!("{address} is in use: n1 seems to run already; stop it first");
        assert_eq!(refusal, expected);
        drop(taken);
        assert_eq!(refuse_taken_ports(&specs), Ok(()));
    }

    #[test]
    fn a_command_that_is_shown_can_be_pasted() {
        let addresses = port_plan::of(1, 0).expect("it fits");
        let place = Place { name: "it's mine".to_owned(), addresses };
        let members = vec![("n1".to_owned(), place)];
        let (removed, abandoned) = (Vec::new(), Vec::new());
        let layout = Layout { members, removed, next: None, abandoned };
        let specs = specs(&layout, Path::new("/my data"));
        let binary = PathBuf::from("/my programs/quorate");
        let server = Server::Quorate { binary, options: vec![String::new()] };
        let expected = [
            r"'/my programs/quorate' start --name 'it'\''s mine' --data-dir '/my data/n1'",
            "--etcd 127.0.0.1:2379 --peer 127.0.0.1:2380 --admin 127.0.0.1:2381",
            r"--initial-cluster 'it'\''s mine=127.0.0.1:2380' ''",
        ];
        assert_eq!(command(&specs[0], &server), expected.join(" "));
        let (_, place) = &layout.members[0];
        let join = join("127.0.0.1:2379", place, Path::new("/n4"), None);
        assert!(join.contains(r" --name 'it'\''s mine' "), "{join}");
    }

    #[test]
    fn a_secure_cluster_tells_a_joiner_all_that_it_needs() {
        let addresses = port_plan::of(4, 0).expect("it fits");
        let place = Place { name: "n4".to_owned(), addresses };
        let file = |name| Path::new("/my data/tls").join(name);
        let certificates = LocalCertificates {
            authority: file("ca.pem"),
            member: file("member.pem"),
            member_key: file("member-key.pem"),
        };
        let data_dir = Path::new("/my data/n4");
        let plain = join("127.0.0.1:2379", &place, data_dir, None);
        let expected = "join --from 127.0.0.1:2379 --name n4 --data-dir '/my data/n4' \
                        --etcd 127.0.0.1:32379 --peer 127.0.0.1:32380 --admin 127.0.0.1:32381";
        assert_eq!(plain, expected);
        let from = "https://127.0.0.1:2379 --cacert=ca.pem --user=root:secret";
        let secure = join(from, &place, data_dir, Some(&certificates));
        for words in [
            "--user=root:secret",
            " --cert-file '/my data/tls/member.pem'",
            " --peer-key-file '/my data/tls/member-key.pem'",
            " --peer-trusted-ca-file '/my data/tls/ca.pem'",
        ] {
            assert!(secure.contains(words), "{secure}");
        }
    }
}
