//! A cluster of real processes on this machine.
//!
//! Not here: what is done to it (`failover_run`) and how it is shown (`dev`).

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client_access::ClientAccess;
use crate::local_certificates::LocalCertificates;
use crate::member_client::MemberClient;
use crate::member_process::{MemberProcess, MemberSpec, Orphan, Output, Server};
use crate::port_plan::MemberAddresses;

/// Between two looks at a member that is not ready.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a member may take to answer one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// Members by number, from 0. A member that is down keeps its place.
#[derive(Debug)]
pub struct LocalCluster {
    /// What each member runs.
    servers: Vec<Server>,
    output: Output,
    orphan: Orphan,
    specs: Vec<MemberSpec>,
    processes: Vec<Option<MemberProcess>>,
    access: ClientAccess,
}

impl LocalCluster {
    /// Lays out members `n1`, `n2`, … with data under `directory`; starts none.
    pub fn new(
        server: Server,
        addresses: Vec<MemberAddresses>,
        directory: &Path,
        output: Output,
    ) -> LocalCluster {
        assert!(!addresses.is_empty(), "a cluster has members");
        let names: Vec<String> = (1..=addresses.len()).map(|n| format!("n{n}")).collect();
        let peers = addresses.iter().map(|member| member.peer.clone());
        let initial_cluster: Vec<(String, String)> = names.iter().cloned().zip(peers).collect();
        let specs = names.into_iter().zip(addresses).map(|(name, addresses)| MemberSpec {
            data_dir: directory.join(&name),
            name,
            addresses,
            initial_cluster: initial_cluster.clone(),
            certificates: None,
        });
        LocalCluster::of(server, specs.collect(), output)
    }

    /// Of members that are laid out; starts none.
    pub fn of(server: Server, specs: Vec<MemberSpec>, output: Output) -> LocalCluster {
        assert!(!specs.is_empty(), "a cluster has members");
        let processes = specs.iter().map(|_| None).collect();
        let servers = vec![server; specs.len()];
        let (orphan, access) = (Orphan::StopsByItself, ClientAccess::default());
        LocalCluster { servers, output, orphan, specs, processes, access }
    }

    /// The same with members that reach each other at `peers`, where somebody passes on to them
    /// what arrives.
    #[must_use]
    pub(crate) fn reached_at(mut self, peers: &[String]) -> LocalCluster {
        for spec in &mut self.specs {
            for ((_, address), peer) in spec.initial_cluster.iter_mut().zip(peers) {
                address.clone_from(peer);
            }
        }
        self
    }

    /// The same with members that do not outlive us by a moment, even if they are paused when we
    /// are killed.
    #[must_use]
    pub(crate) fn killed_with_us(mut self) -> LocalCluster {
        self.orphan = Orphan::IsKilled;
        self
    }

    /// The process of each member that runs.
    pub(crate) fn process_ids(&self) -> Vec<Option<u32>> {
        self.processes.iter().map(|process| process.as_ref().map(MemberProcess::id)).collect()
    }

    /// The same under TLS.
    ///
    /// # Errors
    /// If what was made cannot be read.
    pub fn secured(mut self, certificates: &LocalCertificates) -> Result<LocalCluster, String> {
        for spec in &mut self.specs {
            spec.certificates = Some(certificates.clone());
        }
        self.access = ClientAccess::read(Some(&certificates.authority), None, None)?;
        Ok(self)
    }

    /// From now on clients are this user, as soon as the cluster asks who they are.
    pub fn be_user(&mut self, name: &str, password: &str) {
        self.access = self.access.as_user(name, password);
    }

    /// How clients are let in.
    pub fn access(&self) -> &ClientAccess {
        &self.access
    }

    /// How many members there are, running or not.
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    /// Never: a cluster has members.
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    /// What every member is started from.
    pub(crate) fn specs(&self) -> &[MemberSpec] {
        &self.specs
    }

    /// What member `member` is started from.
    pub fn spec(&self, member: usize) -> &MemberSpec {
        &self.specs[member]
    }

    /// The program that a member runs, or will run when it is started.
    pub fn server(&self, member: usize) -> &Server {
        &self.servers[member]
    }

    /// From its next start on, a member runs this program.
    pub fn run_as(&mut self, member: usize, server: Server) {
        self.servers[member] = server;
    }

    /// Where clients reach each member.
    pub fn endpoints(&self) -> Vec<String> {
        self.specs.iter().map(|spec| spec.addresses.etcd.clone()).collect()
    }

    /// The process of a member, unless it is down.
    pub fn process(&mut self, member: usize) -> Option<&mut MemberProcess> {
        self.processes[member].as_mut()
    }

    /// Whether a member runs, as far as was looked.
    pub fn is_running(&self, member: usize) -> bool {
        self.processes[member].is_some()
    }

    /// How many members run, as far as was looked.
    pub fn running(&self) -> usize {
        self.processes.iter().flatten().count()
    }

    /// Starts a member that is down.
    pub fn start(&mut self, member: usize) -> Result<(), String> {
        assert!(self.processes[member].is_none(), "a member is started once");
        let spec = &self.specs[member];
        let process = MemberProcess::start(spec, &self.servers[member], self.output, self.orphan)
            .map_err(|error| format!("cannot start {}: {error}", spec.name))?;
        self.processes[member] = Some(process);
        Ok(())
    }

    /// Starts every member that is down.
    pub fn start_all(&mut self) -> Result<(), String> {
        for member in 0..self.len() {
            if self.processes[member].is_none() {
                self.start(member)?;
            }
        }
        Ok(())
    }

    /// SIGKILLs these members at the same moment and waits until they are gone.
    pub async fn kill(&mut self, members: &[usize]) -> Result<(), String> {
        let failed = |error| format!("cannot kill: {error}");
        for member in members {
            if let Some(process) = &mut self.processes[*member] {
                process.kill_at_once().map_err(failed)?;
            }
        }
        for member in members {
            if let Some(mut process) = self.processes[*member].take() {
                process.wait().await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Sends a signal to a member, if it runs.
    pub fn signal(&self, member: usize, signal: Signal) -> Result<(), String> {
        let Some(process) = &self.processes[member] else { return Ok(()) };
        process.signal(signal).map_err(|error| format!("cannot signal: {error}"))
    }

    /// Asks one member to stop and waits; says how it ended if not well.
    pub(crate) async fn stop_one(&mut self, member: usize) -> Result<(), String> {
        let Some(mut process) = self.processes[member].take() else { return Ok(()) };
        let ended = process.stop().await;
        how_it_ended(&self.specs[member], &self.servers[member], ended)
    }

    /// Asks every member to stop and waits; says which one did not end well.
    pub async fn stop(&mut self) -> Result<(), String> {
        let mut complaints = Vec::new();
        // All at once, so that the last one needs no leader to hand anything over to.
        for process in self.processes.iter().flatten() {
            if let Err(error) = process.signal(Signal::TERM) {
                complaints.push(error.to_string());
            }
        }
        let members = self.specs.iter().zip(&self.servers);
        for ((spec, server), process) in members.zip(&mut self.processes) {
            let Some(mut process) = process.take() else { continue };
            complaints.extend(how_it_ended(spec, server, process.stop().await).err());
        }
        if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
    }

    /// Forgets members that have ended by themselves; returns their numbers and how they ended.
    pub fn reap(&mut self) -> Vec<(usize, String)> {
        let mut ended = Vec::new();
        for (member, slot) in self.processes.iter_mut().enumerate() {
            let Some(process) = slot else { continue };
            let how = match process.ended() {
                Ok(None) => continue,
                Ok(Some(status)) => status.to_string(),
                Err(error) => error.to_string(),
            };
            *slot = None;
            ended.push((member, how));
        }
        ended
    }

    /// Waits until a member knows a leader and serves a linearizable read.
    pub async fn await_ready(&mut self, member: usize, within: Duration) -> Result<(), String> {
        let give_up = Instant::now() + within;
        let mut last = "it never answered".to_owned();
        while Instant::now() < give_up {
            let address = &self.specs[member].addresses.etcd;
            match is_ready(&self.access, address, self.running()).await {
                Ok(()) => return Ok(()),
                Err(why) => last = why,
            }
            let reaped = self.reap();
            if let Some((_, how)) = reaped.iter().find(|(ended, _)| *ended == member) {
                return Err(format!("{} ended with {how}", self.describe(member)));
            }
            // While another one was waited for.
            if self.processes[member].is_none() {
                return Err(format!("{} has ended", self.describe(member)));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Err(format!("{} is not ready after {within:?}: {last}", self.describe(member)))
    }

    /// Waits for every member.
    pub async fn await_all_ready(&mut self, within: Duration) -> Result<(), String> {
        for member in 0..self.len() {
            self.await_ready(member, within).await?;
        }
        Ok(())
    }

    /// The member that says that it leads, if one does.
    pub async fn leader(&self) -> Option<usize> {
        let mut newest = None;
        for (member, spec) in self.specs.iter().enumerate() {
            if self.processes[member].is_none() {
                continue;
            }
            let address = &spec.addresses.etcd;
            let client = MemberClient::connect_by(&self.access, address, LOOK_TIMEOUT).await;
            let Ok(client) = client else { continue };
            let Ok(status) = client.status().await else { continue };
            let own = status.header.as_ref().map_or(0, |header| header.member_id);
            // A deposed leader may not know it yet: the newest term decides.
            if status.leader == own && own != 0 {
                newest = newest.max(Some((status.raft_term, member)));
            }
        }
        newest.map(|(_, member)| member)
    }

    /// Its name and, if it writes one, where its log is.
    pub(crate) fn describe(&self, member: usize) -> String {
        let spec = &self.specs[member];
        match self.output {
            Output::Inherited => spec.name.clone(),
            Output::LogFile => {
                format!("{} (log: {})", spec.name, spec.data_dir.with_extension("log").display())
            }
        }
    }
}

/// Complains of a member that did not end well when it was asked to.
fn how_it_ended(
    spec: &MemberSpec,
    server: &Server,
    ended: std::io::Result<ExitStatus>,
) -> Result<(), String> {
    match ended {
        Ok(status) if status.success() => Ok(()),
        // It ends by itself, while it is asked to.
        Ok(_) if spec.is_removed() => Ok(()),
        // Stock etcd ends by the signal that asked it to.
        Ok(status) if server.ends_by_signal() && status.signal().is_some() => Ok(()),
        Ok(status) => Err(format!("{} ended with {status}", spec.name)),
        Err(error) => Err(format!("{}: {error}", spec.name)),
    }
}

/// Whether the member at `address` can serve clients, or why not. Who was added and never ran, or
/// runs elsewhere, need not be known.
async fn is_ready(access: &ClientAccess, address: &str, running: usize) -> Result<(), String> {
    let client = MemberClient::connect_by(access, address, LOOK_TIMEOUT).await?;
    let status = client.status().await.map_err(|error| error.to_string())?;
    if status.leader == 0 {
        return Err("it knows no leader".to_owned());
    }
    // A learner serves no read that asks the leader.
    if !status.is_learner {
        client.get(b"\0ready").await.map_err(|error| error.to_string())?;
    }
    let members = client.members().await.map_err(|error| error.to_string())?;
    let heard_of = members.iter().filter(|member| !member.client_ur_ls.is_empty());
    if heard_of.count() < running {
        return Err("it has not heard of every member yet".to_owned());
    }
    Ok(())
}
