//! One member as a child process: started, watched, killed without warning or asked to stop.
//!
//! Invariant: a child never outlives this object, nor its parent ([`Orphan`]): its standard input
//! is a pipe whose end it reads as "stop". Not here: who is in the cluster (`local_cluster`).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::local_certificates::LocalCertificates;
use crate::port_plan::MemberAddresses;

/// How long a member may take to stop when asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Which program the members run.
#[derive(Debug, Clone)]
pub enum Server {
    /// Our binary, and options that every member gets after the usual ones.
    Quorate {
        /// Path of the binary.
        binary: PathBuf,
        /// For example a hidden fault option.
        options: Vec<String>,
    },
    /// A stock etcd server, by which the harness itself is checked.
    Etcd {
        /// Path of the binary.
        binary: PathBuf,
    },
}

impl Server {
    /// Whether a stop in order looks like a death by SIGTERM.
    pub(crate) fn ends_by_signal(&self) -> bool {
        matches!(self, Server::Etcd { .. })
    }
}

/// Everything needed to start a member, again and again.
#[derive(Debug, Clone)]
pub struct MemberSpec {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where it listens.
    pub addresses: MemberAddresses,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// `name=peer address` of every member, itself included.
    pub initial_cluster: Vec<(String, String)>,
    /// With them, it speaks TLS.
    pub certificates: Option<LocalCertificates>,
}

impl MemberSpec {
    /// Whether it stopped because its cluster removed it, which its directory remembers.
    pub fn is_removed(&self) -> bool {
        self.data_dir.join("removed").exists()
    }

    /// The program and its arguments.
    pub fn command_line(&self, server: &Server) -> (PathBuf, Vec<String>) {
        match server {
            Server::Quorate { binary, options } => {
                let mut arguments = self.quorate_arguments();
                arguments.extend(options.iter().cloned());
                (binary.clone(), arguments)
            }
            Server::Etcd { binary } => (binary.clone(), self.etcd_arguments()),
        }
    }

    /// Where the others reach it.
    fn own_peer_address(&self) -> &str {
        let own = self.initial_cluster.iter().find(|(name, _)| *name == self.name);
        own.map_or(&self.addresses.peer, |(_, address)| address)
    }

    fn quorate_arguments(&self) -> Vec<String> {
        let members = self.initial_cluster.iter();
        let members: Vec<String> = members.map(|(name, peer)| format!("{name}={peer}")).collect();
        let options = [
            ("--name", self.name.clone()),
            ("--data-dir", self.data_dir.display().to_string()),
            ("--etcd", self.addresses.etcd.clone()),
            ("--peer", self.addresses.peer.clone()),
            ("--admin", self.addresses.admin.clone()),
            ("--initial-cluster", members.join(",")),
        ];
        let mut arguments = vec!["start".to_owned()];
        arguments.extend(options.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        arguments.extend(self.certificates.iter().flat_map(LocalCertificates::arguments));
        arguments
    }

    fn etcd_arguments(&self) -> Vec<String> {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        let url = |address: &str| format!("{scheme}://{address}");
        let members = self.initial_cluster.iter();
        let members: Vec<String> =
            members.map(|(name, peer)| format!("{name}={}", url(peer))).collect();
        let options = [
            ("--name", self.name.clone()),
            ("--data-dir", self.data_dir.display().to_string()),
            ("--listen-client-urls", url(&self.addresses.etcd)),
            ("--advertise-client-urls", url(&self.addresses.etcd)),
            ("--listen-peer-urls", url(&self.addresses.peer)),
            ("--initial-advertise-peer-urls", url(self.own_peer_address())),
            ("--initial-cluster", members.join(",")),
        ];
        let options = options.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let certificates = self.certificates.iter().flat_map(LocalCertificates::arguments);
        options.chain(certificates).collect()
    }
}

/// Where a child's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Into `log` in the data directory's parent, appended.
    LogFile,
    /// To where ours goes.
    Inherited,
}

/// What becomes of a child whose parent is gone without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphan {
    /// It reads of it, and stops in order. Stock etcd does not read.
    StopsByItself,
    /// The system kills it, if there is `setpriv` to ask for that.
    IsKilled,
}

/// A running (or just ended) child.
#[derive(Debug)]
pub struct MemberProcess {
    child: Child,
    /// Kept after the child has been reaped, for messages.
    process_id: u32,
}

impl MemberProcess {
    /// Starts the member; it is not ready yet.
    pub fn start(
        spec: &MemberSpec,
        server: &Server,
        output: Output,
        orphan: Orphan,
    ) -> io::Result<MemberProcess> {
        std::fs::create_dir_all(&spec.data_dir)?;
        let (mut program, mut arguments) = spec.command_line(server);
        if matches!(server, Server::Quorate { .. }) {
            arguments.push("--stop-with-stdin".to_owned());
        }
        if orphan == Orphan::IsKilled
            && let Some(setpriv) = on_path("setpriv")
        {
            let asks = ["--pdeathsig", "KILL", "--"].map(str::to_owned);
            arguments = [&asks[..], &[program.display().to_string()], &arguments].concat();
            program = setpriv;
        }
        let mut command = Command::new(program);
        // A group of its own: Ctrl-C in the terminal reaches the parent alone, which then stops
        // its members in order.
        command.args(arguments).stdin(Stdio::piped()).kill_on_drop(true).process_group(0);
        if output == Output::LogFile {
            let log = log_file(&spec.data_dir)?;
            command.stdout(log.try_clone()?).stderr(log);
        }
        let child = command.spawn()?;
        let process_id = child.id().expect("a child that was not waited for has an id");
        Ok(MemberProcess { child, process_id })
    }

    /// Its process id, also after its end.
    pub fn id(&self) -> u32 {
        self.process_id
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        // Not `Child::wait`, which would close the pipe and so ask it to stop.
        let stdin = self.child.stdin.take();
        let status = self.child.wait().await;
        drop(stdin);
        status
    }

    /// How it ended, or nothing while it runs.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// SIGKILL without waiting, so that several can be hit at once.
    pub fn kill_at_once(&mut self) -> io::Result<()> {
        self.child.start_kill()
    }

    /// Asks it to stop, and kills it if it does not; returns how it ended.
    pub async fn stop(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(STOP_TIMEOUT, self.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.kill().await?;
                self.wait().await
            }
        }
    }

    /// Sends a signal to it, if it still runs.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // `Child::id` is none once it was reaped: an id that was reused is never signalled.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        match id {
            Some(id) => Ok(kill_process(id, signal)?),
            None => Ok(()),
        }
    }
}

/// Where a program is found.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    { std::env::split_paths(&path) }.map(|place| place.join(program)).find(|file| file.is_file())
}

fn log_file(data_dir: &Path) -> io::Result<File> {
    let path = data_dir.with_extension("log");
    File::options().create(true).append(true).open(path)
}
