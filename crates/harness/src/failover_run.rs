//! The failover run: kill or pause the leader again and again under load, then hold everything
//! that was acknowledged against what every member and every watcher has.
//!
//! Eight clients stay with their members; keys are fresh after each kill, so that unknown outcomes
//! do not pile up; in the power-loss form every fourth kill takes all members at once. Probes on
//! the survivors measure the time from a kill to the first write that succeeds.
//!
//! Not here: the load (`client_load`), the judgement (`verdict`).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use checkers::history::{History, Input, Operation, Outcome, Output};
use rustix::process::Signal;
use tokio::task::{JoinHandle, spawn_local};

use crate::client_load::{ClientPlan, Load, Mix, run_client};
use crate::cluster_users;
use crate::evidence::{self, Evidence};
use crate::local_cluster::LocalCluster;
use crate::member_client::{CallError, MemberClient};
use crate::member_process::Server;
use crate::rolling_upgrade;
use crate::verdict::{self, judge};
use crate::watch_recorder::{WatchRecord, WatchScope, record};

/// From one probe of a surviving member to the next.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);

/// When probing for a write that succeeds is given up; the run then fails.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long members may take to come back, and watchers to see the last change.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// What is done to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// SIGKILL: its connections close at once.
    Kill,
    /// SIGSTOP: its connections stay open and say nothing; later it goes on where it was, with
    /// whatever it believed then.
    Pause,
}

/// What is done to the cluster, and how hard it is used meanwhile.
#[derive(Debug, Clone)]
pub struct FailoverPlan {
    /// Clients, spread over the members.
    pub clients: u64,
    /// Keys in use at a time.
    pub keys: u64,
    /// What is done to each leader.
    pub strike: Strike,
    /// How long strikes go on.
    pub duration: Duration,
    /// From one strike to the next.
    pub strike_interval: Duration,
    /// From a strike until the member is started again, or goes on.
    pub restart_after: Duration,
    /// Every so many strikes kill all members at once; 0: none does.
    pub whole_cluster_every: u32,
    /// The first strikes replace one member after the other by this one.
    pub upgrade_to: Option<Server>,
    /// When a client gives up on a request.
    pub request_timeout: Duration,
    /// Least time from one request of a client to its next.
    pub pace: Duration,
    /// Of the load's mix.
    pub seed: u64,
    /// A run with fewer answered operations shows too little and fails.
    pub completed_min: usize,
    /// Longest median time from a strike to the first write that succeeds.
    pub failover_median_max: Duration,
    /// With authentication on, and this password.
    pub root_password: Option<String>,
}

impl Default for FailoverPlan {
    /// The full run: two minutes.
    fn default() -> FailoverPlan {
        FailoverPlan {
            clients: 8,
            keys: 10,
            strike: Strike::Kill,
            duration: Duration::from_secs(120),
            strike_interval: Duration::from_secs(5),
            restart_after: Duration::from_secs(1),
            whole_cluster_every: 0,
            upgrade_to: None,
            request_timeout: Duration::from_secs(5),
            pace: Duration::from_millis(4),
            seed: 1,
            completed_min: 10_000,
            failover_median_max: Duration::MAX,
            root_password: None,
        }
    }
}

/// What a run found.
#[derive(Debug, Clone)]
pub struct FailoverReport {
    /// Operations that were answered.
    pub completed: usize,
    /// Operations of unknown outcome.
    pub unknown: usize,
    /// Strikes at a leader alone.
    pub leader_strikes: usize,
    /// Kills of all members at once.
    pub cluster_kills: usize,
    /// From each strike at a leader to the first write that succeeded, in order of length.
    pub failovers: Vec<Duration>,
    /// From each kill of all members to the first write that succeeded, in order of length.
    pub recoveries: Vec<Duration>,
    /// How often watchers resumed.
    pub resumptions: u32,
    /// Changes in the members' history.
    pub changes: usize,
    /// How often each refusal was heard.
    pub refusals: BTreeMap<String, u64>,
    /// What was not as promised; the run is green if there is nothing.
    pub complaints: Vec<String>,
    /// The operations, to be kept beside a failure.
    pub history: History,
}

impl FailoverReport {
    /// Whether every promise held.
    pub fn is_green(&self) -> bool {
        self.complaints.is_empty()
    }
}

impl fmt::Display for FailoverReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} operations completed, {} of unknown outcome, {} changes; {} strikes at leaders, \
             {} kills of all members; watchers resumed {} times",
            self.completed,
            self.unknown,
            self.changes,
            self.leader_strikes,
            self.cluster_kills,
            self.resumptions,
        )?;
        write_times(f, "strike at the leader", &self.failovers)?;
        write_times(f, "kill of all members", &self.recoveries)?;
        for (refusal, count) in &self.refusals {
            writeln!(f, "refused {count} times: {refusal}")?;
        }
        self.complaints.iter().try_for_each(|complaint| writeln!(f, "BROKEN: {complaint}"))
    }
}

fn write_times(f: &mut fmt::Formatter<'_>, what: &str, sorted: &[Duration]) -> fmt::Result {
    let (Some(median), Some(longest)) = (sorted.get(sorted.len() / 2), sorted.last()) else {
        return Ok(());
    };
    let milliseconds = |duration: &Duration| duration.as_millis();
    writeln!(
        f,
        "{what} to first successful write: median {} ms, longest {} ms",
        milliseconds(median),
        milliseconds(longest)
    )
}

/// Starts the cluster, runs the plan, stops the cluster, judges.
///
/// An error means that the run could not be done; broken promises are in the report.
pub async fn run(
    cluster: &mut LocalCluster,
    plan: &FailoverPlan,
) -> Result<FailoverReport, String> {
    cluster.start_all()?;
    cluster.await_all_ready(RECOVERY_TIMEOUT).await?;
    if let Some(password) = &plan.root_password {
        let address = &cluster.spec(0).addresses.etcd;
        cluster_users::enable(cluster.access(), address, password).await?;
    }
    let tasks = tokio::task::LocalSet::new();
    let report = tasks.run_until(FailoverRun::start(cluster, plan).run()).await?;
    // A member that cannot stop in order has a fault of its own.
    cluster.stop().await?;
    Ok(report)
}

struct FailoverRun<'a> {
    cluster: &'a mut LocalCluster,
    plan: &'a FailoverPlan,
    load: Rc<Load>,
    /// The revision that ends the run, once known.
    last_revision: Rc<Cell<u64>>,
    clients: Vec<JoinHandle<()>>,
    watchers: Vec<(String, JoinHandle<WatchRecord>)>,
    leader_strikes: usize,
    cluster_kills: usize,
    /// Members that run what the plan upgrades to.
    upgraded: usize,
    failovers: Vec<Duration>,
    recoveries: Vec<Duration>,
    complaints: Vec<String>,
}

impl<'a> FailoverRun<'a> {
    fn start(cluster: &'a mut LocalCluster, plan: &'a FailoverPlan) -> FailoverRun<'a> {
        FailoverRun {
            cluster,
            plan,
            load: Load::new(),
            last_revision: Rc::new(Cell::new(0)),
            clients: Vec::new(),
            watchers: Vec::new(),
            leader_strikes: 0,
            cluster_kills: 0,
            upgraded: 0,
            failovers: Vec::new(),
            recoveries: Vec::new(),
            complaints: Vec::new(),
        }
    }

    async fn run(mut self) -> Result<FailoverReport, String> {
        self.start_clients();
        let started = Instant::now();
        let mut strikes: u32 = 0;
        while started.elapsed() + self.plan.strike_interval <= self.plan.duration {
            let next_strike = Instant::now() + self.plan.strike_interval;
            tokio::time::sleep_until(next_strike.into()).await;
            strikes += 1;
            let every = self.plan.whole_cluster_every;
            if let Some(to) = self.to_upgrade() {
                self.upgrade_next(to).await?;
                continue;
            }
            if every != 0 && strikes.is_multiple_of(every) {
                self.kill_cluster().await?;
            } else {
                self.strike_leader().await?;
            }
            self.cluster.await_all_ready(RECOVERY_TIMEOUT).await?;
        }
        tokio::time::sleep(self.plan.strike_interval).await;
        self.load.finished.set(true);
        for client in std::mem::take(&mut self.clients) {
            client.await.map_err(|error| format!("a client failed: {error}"))?;
        }
        self.report().await
    }

    fn start_clients(&mut self) {
        let endpoints = self.cluster.endpoints();
        for (client, endpoint) in (0..self.plan.clients).zip(endpoints.iter().cycle()) {
            let plan = ClientPlan {
                client,
                endpoint: endpoint.clone(),
                access: self.cluster.access().clone(),
                prefix: String::new(),
                keys: self.plan.keys,
                mix: Mix::BALANCED,
                request_timeout: self.plan.request_timeout,
                pace: self.plan.pace,
                seed: self.plan.seed,
            };
            self.clients.push(spawn_local(run_client(Rc::clone(&self.load), plan)));
            let access = self.cluster.access().clone();
            let scope = WatchScope::everything();
            let watcher = record(access, endpoint.clone(), scope, Rc::clone(&self.last_revision));
            self.watchers.push((format!("client {client}"), spawn_local(watcher)));
        }
    }

    async fn strike_leader(&mut self) -> Result<(), String> {
        let give_up = Instant::now() + PROBE_TIMEOUT;
        let leader = loop {
            if let Some(leader) = self.cluster.leader().await {
                break leader;
            }
            if Instant::now() > give_up {
                return Err(format!("no member leads for {PROBE_TIMEOUT:?}"));
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        };
        let survivors = (0..self.cluster.len()).filter(|member| *member != leader).collect();
        let probes = self.connect(survivors).await?;
        let struck = Instant::now();
        match self.plan.strike {
            Strike::Kill => self.cluster.kill(&[leader]).await?,
            Strike::Pause => self.cluster.signal(leader, Signal::STOP)?,
        }
        self.leader_strikes += 1;
        self.load.next_round();
        let replaced = self.first_write(probes, struck).await;
        tokio::time::sleep_until((struck + self.plan.restart_after).into()).await;
        match self.plan.strike {
            Strike::Kill => self.cluster.start(leader)?,
            Strike::Pause => self.cluster.signal(leader, Signal::CONT)?,
        }
        self.failovers.push(replaced?);
        Ok(())
    }

    fn to_upgrade(&self) -> Option<&'a Server> {
        self.plan.upgrade_to.as_ref().filter(|_| self.upgraded < self.cluster.len())
    }

    async fn upgrade_next(&mut self, to: &Server) -> Result<(), String> {
        self.load.next_round();
        rolling_upgrade::upgrade(self.cluster, self.upgraded, to).await?;
        self.upgraded += 1;
        self.cluster.await_all_ready(RECOVERY_TIMEOUT).await?;
        let done = self.upgraded == self.cluster.len();
        let complaints = if done {
            rolling_upgrade::never_serves(self.cluster).await
        } else {
            rolling_upgrade::serves_too_early(self.cluster).await
        };
        self.complaints.extend(complaints);
        Ok(())
    }

    async fn kill_cluster(&mut self) -> Result<(), String> {
        let members: Vec<usize> = (0..self.cluster.len()).collect();
        let killed = Instant::now();
        self.cluster.kill(&members).await?;
        self.cluster_kills += 1;
        self.load.next_round();
        self.cluster.start_all()?;
        self.cluster.await_all_ready(RECOVERY_TIMEOUT).await?;
        let probes = self.connect(members).await?;
        self.recoveries.push(self.first_write(probes, killed).await?);
        Ok(())
    }

    async fn connect(&self, members: Vec<usize>) -> Result<Vec<MemberClient>, String> {
        let mut clients = Vec::new();
        for member in members {
            let endpoint = &self.cluster.spec(member).addresses.etcd;
            let (access, timeout) = (self.cluster.access(), self.plan.request_timeout);
            clients.push(MemberClient::connect_by(access, endpoint, timeout).await?);
        }
        Ok(clients)
    }

    /// Writes to all of `probes` every few milliseconds until one write succeeds; returns the time
    /// since `killed`. Each probe has a key of its own and is part of the history.
    async fn first_write(
        &self,
        probes: Vec<MemberClient>,
        killed: Instant,
    ) -> Result<Duration, String> {
        let first: Rc<Cell<Option<Instant>>> = Rc::new(Cell::new(None));
        let round = self.load.round.get();
        let mut number = 0;
        while first.get().is_none() {
            if killed.elapsed() > PROBE_TIMEOUT {
                return Err(format!("no write succeeded within {PROBE_TIMEOUT:?} of a kill"));
            }
            for probe in &probes {
                number += 1;
                let key = format!("p/{round:04}/{number}").into_bytes();
                let client = self.plan.clients + number;
                let (load, first) = (Rc::clone(&self.load), Rc::clone(&first));
                spawn_local(send_probe(load, probe.clone(), client, key, first));
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
        let first = first.get().expect("the loop ends with a success");
        Ok(first - killed)
    }

    async fn report(self) -> Result<FailoverReport, String> {
        let endpoint = self.cluster.endpoints().swap_remove(0);
        let (access, timeout) = (self.cluster.access().clone(), self.plan.request_timeout);
        let client = MemberClient::connect_by(&access, &endpoint, timeout).await?;
        let last = client.put(b"z/last", b"last").await.map_err(|error| error.to_string())?;
        self.last_revision.set(last);

        let mut complaints = self.complaints;
        if self.plan.upgrade_to.is_some() && self.upgraded < self.cluster.len() {
            let (done, all) = (self.upgraded, self.cluster.len());
            complaints.push(format!("only {done} of {all} members were upgraded in time"));
        }
        let (watchers, missing) = evidence::end_of_watches(self.watchers, last).await;
        complaints.extend(missing);
        let members = (0..self.cluster.len()).map(|member| self.cluster.spec(member));
        let members: Vec<(String, String)> =
            members.map(|spec| (spec.name.clone(), spec.addresses.etcd.clone())).collect();
        let scope = WatchScope::everything();
        let (members, missing) = evidence::of_members(&access, &members, &scope, last).await;
        complaints.extend(missing);
        let resumptions =
            watchers.iter().map(|(_, watched)| watched.resumptions.saturating_sub(1)).sum();
        let completed = self.load.completed();
        let operations = self.load.take_operations();
        let unknown = operations.iter().filter(|op| op.outcome == Outcome::Unknown).count();
        let evidence = Evidence { operations, members, watchers, local_reads: Vec::new() };
        complaints.extend(verdict::complaints(&judge(&evidence)));
        if completed < self.plan.completed_min {
            let least = self.plan.completed_min;
            complaints.push(format!("only {completed} operations completed, {least} are needed"));
        }
        let sorted = |mut times: Vec<Duration>| {
            times.sort();
            times
        };
        let failovers = sorted(self.failovers);
        let median = failovers.get(failovers.len() / 2).copied().unwrap_or_default();
        if median > self.plan.failover_median_max {
            let most = self.plan.failover_median_max;
            complaints.push(format!("the median failover took {median:?}, not at most {most:?}"));
        }
        Ok(FailoverReport {
            completed,
            unknown,
            leader_strikes: self.leader_strikes,
            cluster_kills: self.cluster_kills,
            failovers,
            recoveries: sorted(self.recoveries),
            resumptions,
            changes: evidence.members.first().map_or(0, |member| member.log.len()),
            refusals: self.load.refusals(),
            complaints,
            history: evidence.operations.into_iter().collect(),
        })
    }
}

async fn send_probe(
    load: Rc<Load>,
    probe: MemberClient,
    client: u64,
    key: Vec<u8>,
    first: Rc<Cell<Option<Instant>>>,
) {
    let call = load.now();
    let outcome = match probe.put(&key, b"probe").await {
        Ok(revision) => {
            first.set(first.get().or(Some(Instant::now())));
            Outcome::Ok { at: load.now(), revision: Some(revision), output: Output::Put }
        }
        Err(CallError::Refused(_)) => Outcome::Failed,
        Err(CallError::Unknown(_)) => Outcome::Unknown,
    };
    let input = Input::Put { value: b"probe".to_vec() };
    load.record(Operation { client, key, input, call, outcome });
}
