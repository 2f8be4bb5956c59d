//! The chaos run: load on a cluster, one fault after the other, then every checker, a journal and a
//! report.
//!
//! Invariant: however it ends, nothing that it started is left running. Not here: which faults when
//! (`chaos_plan`), how they are injected (`fault_injector`), what is asked of the cluster
//! (`chaos_load`), what the numbers mean (`fault_effect`).

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use checkers::history::{History, Operation, Outcome as Fate};
use tokio::signal::unix::{SignalKind, signal};

use crate::chaos_load::ChaosLoad;
use crate::chaos_plan::{ChaosPlan, Fault, Slot, Target};
use crate::chaos_report;
use crate::client_access::ClientAccess;
use crate::dev_cluster::refuse_taken_ports;
use crate::evidence::Evidence;
use crate::fault_effect::{self, Window};
use crate::fault_endpoint;
use crate::fault_injector::{FaultInjector, Injection, Subject};
use crate::journal::{self, FaultRecord, Journal, Totals, milliseconds};
use crate::link_proxy::LinkProxies;
use crate::local_cluster::LocalCluster;
use crate::member_client::MemberClient;
use crate::member_process::{Output, Server};
use crate::port_plan;
use crate::verdict::{self, Outcome, Verdict};

/// How long members may take to come back.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// A cluster of which nobody answers for so long is given up.
const DEAD_AFTER: Duration = Duration::from_secs(5);

/// Between two looks at what is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What a run found.
#[derive(Debug, Clone)]
pub struct ChaosOutcome {
    /// Whether every promise held.
    pub green: bool,
    /// For a terminal.
    pub summary: String,
    /// Where the report is.
    pub report: PathBuf,
}

/// Runs the plan; `say` is told of every step.
///
/// # Errors
/// One plain sentence: the run could not be done, or was interrupted. Broken promises are in the
/// outcome.
pub async fn run(plan: &ChaosPlan, say: &dyn Fn(&str)) -> Result<ChaosOutcome, String> {
    plan.validate()?;
    refuse_directory(&plan.directory)?;
    std::fs::create_dir_all(&plan.directory)
        .map_err(|error| format!("cannot make {}: {error}", plan.directory.display()))?;
    let stage = Stage::set(plan).await?;
    let mut run = ChaosRun { plan, stage, say, records: Vec::new(), complaints: Vec::new() };
    let tasks = tokio::task::LocalSet::new();
    let outcome = tasks.run_until(async {
        tokio::select! {
            outcome = run.run() => outcome,
            interrupted = interrupted() => Err(interrupted),
        }
    });
    let outcome = outcome.await;
    let left = run.stage.clear().await;
    outcome.and_then(|outcome| left.map(|()| outcome))
}

/// Says so once somebody wants us to stop.
async fn interrupted() -> String {
    let listen = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
    let listeners = (|| {
        Ok::<_, String>((
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ))
    })();
    let (mut interrupt, mut terminate, mut hangup) = match listeners {
        Ok(listeners) => listeners,
        Err(error) => return error,
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    "interrupted: there is no report, and nothing is left running".to_owned()
}

/// It must be ours alone: reports are never mixed.
///
/// # Errors
/// One plain sentence about a directory that cannot be used.
pub fn refuse_directory(directory: &Path) -> Result<(), String> {
    match std::fs::read_dir(directory) {
        Ok(mut files) => match files.next() {
            None => Ok(()),
            Some(_) => Err(format!("{} is not empty: say --report DIR", directory.display())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot use {}: {error}", directory.display())),
    }
}

/// The cluster, and how it is reached.
struct Stage {
    injector: FaultInjector,
    access: ClientAccess,
    names: Vec<String>,
    endpoints: Vec<String>,
    /// What all keys begin with.
    prefix: String,
}

impl Stage {
    async fn set(plan: &ChaosPlan) -> Result<Stage, String> {
        let (subject, access, names, endpoints, prefix) = match &plan.target {
            Target::Attached { endpoints, admin, access } => {
                let ids = identify(access, endpoints).await?;
                for address in admin {
                    fault_endpoint::look(address).await?;
                }
                let subject = Subject::Attached { admin: admin.clone(), ids };
                // Two runs at one cluster must not delete each other's keys.
                let run = RandomState::new().hash_one(std::process::id());
                let prefix = format!("quorate-chaos/{run:016x}/");
                (subject, access.clone(), endpoints.clone(), endpoints.clone(), prefix)
            }
            Target::Quorate { .. } | Target::Etcd { .. } => {
                let (mut cluster, links) = own_cluster(plan)?;
                let names = (0..cluster.len()).map(|member| cluster.spec(member).name.clone());
                let (names, endpoints) = (names.collect(), cluster.endpoints());
                if let Err(error) = start(&mut cluster, &links).await {
                    let all: Vec<usize> = (0..cluster.len()).collect();
                    cluster.kill(&all).await?;
                    return Err(error);
                }
                let access = cluster.access().clone();
                let subject = Subject::Own { cluster: Box::new(cluster), links };
                (subject, access, names, endpoints, String::new())
            }
        };
        let injector = FaultInjector::new(subject, names.clone(), plan.seed);
        Ok(Stage { injector, access, names, endpoints, prefix })
    }

    /// Waits until every member serves linearizable reads.
    async fn await_ready(&mut self) -> Result<(), String> {
        match &mut self.injector.subject {
            Subject::Own { cluster, .. } => cluster.await_all_ready(RECOVERY_TIMEOUT).await,
            Subject::Attached { .. } => {
                let give_up = tokio::time::Instant::now() + RECOVERY_TIMEOUT;
                for endpoint in &self.endpoints {
                    while let Err(why) = serves(&self.access, endpoint).await {
                        if tokio::time::Instant::now() > give_up {
                            return Err(format!("{endpoint} does not serve any more: {why}"));
                        }
                        tokio::time::sleep(LOOK_INTERVAL).await;
                    }
                }
                Ok(())
            }
        }
    }

    /// Names members of ours that have ended although nobody asked them to.
    fn ended_by_themselves(&mut self) -> Vec<String> {
        let Subject::Own { cluster, .. } = &mut self.injector.subject else { return Vec::new() };
        let ended = cluster.reap();
        let sentence = |(member, how)| format!("{} ended with {how}", cluster.describe(member));
        ended.into_iter().map(sentence).collect()
    }

    /// Leaves nothing running, and nothing behind in a cluster that is not ours.
    async fn clear(&mut self) -> Result<(), String> {
        match &mut self.injector.subject {
            Subject::Own { cluster, .. } => {
                let all: Vec<usize> = (0..cluster.len()).collect();
                cluster.kill(&all).await
            }
            Subject::Attached { admin, .. } => {
                for address in admin {
                    // A node that is gone pretends nothing.
                    let _ = fault_endpoint::pretend(address, &Default::default()).await;
                }
                for endpoint in &self.endpoints {
                    let client = MemberClient::connect_by(&self.access, endpoint, DEAD_AFTER).await;
                    let Ok(client) = client else { continue };
                    if client.delete_prefix(self.prefix.as_bytes()).await.is_ok() {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}

async fn serves(access: &ClientAccess, endpoint: &str) -> Result<(), String> {
    let client = MemberClient::connect_by(access, endpoint, Duration::from_secs(1)).await?;
    client.get(b"\0ready").await.map(drop).map_err(|error| error.to_string())
}

/// The id of the member behind each endpoint.
async fn identify(access: &ClientAccess, endpoints: &[String]) -> Result<Vec<u64>, String> {
    let mut ids = Vec::new();
    for endpoint in endpoints {
        let client = MemberClient::connect_by(access, endpoint, Duration::from_secs(5)).await?;
        let status = client.status().await.map_err(|error| format!("{endpoint}: {error}"))?;
        ids.push(status.header.map_or(0, |header| header.member_id));
    }
    Ok(ids)
}

fn own_cluster(plan: &ChaosPlan) -> Result<(LocalCluster, LinkProxies), String> {
    let nodes = plan.target.nodes();
    let addresses = port_plan::plan(nodes, plan.offset)?;
    let proxies = port_plan::links(nodes, plan.offset)?;
    let members: Vec<String> = addresses.iter().map(|member| member.peer.clone()).collect();
    let server = match &plan.target {
        Target::Quorate { binary, options, .. } => {
            let mut options = options.clone();
            if plan.faults.contains(&Fault::PowerLoss) {
                options.push("--test-power-loss".to_owned());
            }
            if plan.faults.iter().any(|fault| fault.needs_endpoint()) {
                options.push("--enable-faults".to_owned());
            }
            Server::Quorate { binary: binary.clone(), options }
        }
        Target::Etcd { binary, .. } => Server::Etcd { binary: binary.clone() },
        Target::Attached { .. } => unreachable!("it is not ours"),
    };
    let directory = std::path::absolute(plan.directory.join("members"));
    let directory = directory.map_err(|error| error.to_string())?;
    let cluster = LocalCluster::new(server, addresses, &directory, Output::LogFile);
    refuse_taken_ports(cluster.specs())?;
    let links = LinkProxies::start(&proxies, &members)?;
    Ok((cluster.reached_at(&proxies).killed_with_us(), links))
}

async fn start(cluster: &mut LocalCluster, links: &LinkProxies) -> Result<(), String> {
    cluster.start_all()?;
    links.set_processes(cluster.process_ids());
    cluster.await_all_ready(RECOVERY_TIMEOUT).await
}

struct ChaosRun<'a> {
    plan: &'a ChaosPlan,
    stage: Stage,
    say: &'a dyn Fn(&str),
    /// Every fault that was injected, and when.
    records: Vec<(Injection, Window)>,
    /// What members did that no fault explains.
    complaints: Vec<String>,
}

impl ChaosRun<'_> {
    async fn run(&mut self) -> Result<ChaosOutcome, String> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.stage.await_ready().await?;
        let Stage { access, names, endpoints, prefix, .. } = &self.stage;
        let load = ChaosLoad::start(self.plan, access, names, endpoints, prefix).await?;
        (self.say)(&format!("{} nodes serve; the load is on", names.len()));
        for slot in self.plan.schedule() {
            if !self.strike(&slot, &load).await? {
                break;
            }
        }
        if self.plan.faults.is_empty() {
            self.calm(&load, self.plan.duration).await?;
        }
        (self.say)("the load is off; every member tells its history");
        self.report(load, started).await
    }

    /// One fault with calm before and after it; false if the cluster does not recover.
    async fn strike(&mut self, slot: &Slot, load: &ChaosLoad) -> Result<bool, String> {
        let calm_from = load.now();
        self.calm(load, slot.before).await?;
        load.next_round();
        let leader = load.leader();
        let began = load.now();
        let injection = self.stage.injector.begin(slot, leader).await?;
        let seconds = milliseconds(began) / 1000;
        (self.say)(&format!("{seconds:4} s  {}: {}", slot.fault, injection.description));
        tokio::time::sleep(injection.lasts.unwrap_or(slot.during)).await;
        for complaint in self.stage.injector.end(&injection).await? {
            self.complain(complaint);
        }
        let ended = load.now();
        load.next_round();
        let mut ready = self.stage.await_ready().await;
        if ready.is_ok() {
            ready = await_writes(load, ended).await;
        }
        let recovered = load.now();
        let recovers = ready.is_ok();
        if let Err(why) = ready {
            self.complain(format!("after {}: {why}", slot.fault));
        } else {
            self.calm(load, slot.after).await?;
        }
        let calm_until = load.now();
        let window = Window { calm_from, began, ended, recovered, calm_until };
        self.records.push((injection, window));
        for complaint in self.stage.ended_by_themselves() {
            self.complain(complaint);
        }
        Ok(recovers)
    }

    fn complain(&mut self, complaint: String) {
        (self.say)(&complaint);
        self.complaints.push(complaint);
    }

    /// Waits; a cluster that is not ours may die meanwhile.
    async fn calm(&self, load: &ChaosLoad, time: Duration) -> Result<(), String> {
        let until = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < until {
            let next = until.min(tokio::time::Instant::now() + Duration::from_secs(1));
            tokio::time::sleep_until(next).await;
            if load.is_dead_for(DEAD_AFTER) {
                let endpoints = self.stage.endpoints.join(", ");
                return Err(format!(
                    "none of {endpoints} has served anything for {} s: the run was given up",
                    DEAD_AFTER.as_secs()
                ));
            }
        }
        Ok(())
    }

    async fn report(&mut self, load: ChaosLoad, started: Duration) -> Result<ChaosOutcome, String> {
        let sightings = load.sightings();
        let refusals = load.refusals();
        let duration_ms = milliseconds(load.now());
        let server_version = load.server_version().await;
        let (evidence, mut samples, missing) = load.end().await?;
        if let Subject::Own { cluster, .. } = &mut self.stage.injector.subject {
            // A member that cannot stop in order has a fault of its own.
            self.complaints.extend(cluster.stop().await.err());
        }
        (self.say)("the checkers judge");
        samples.sort_by_key(|sample| sample.due);
        let mut verdicts = verdict::judge(&evidence);
        verdicts.push(Verdict::new(
            "evidence",
            "every member and every watcher told all that it knows",
            evidence.members.len() + evidence.watchers.len(),
            missing,
        ));
        verdicts.push(Verdict::new(
            "recovery",
            "no member ended by itself, and all served again after every fault",
            self.stage.names.len(),
            std::mem::take(&mut self.complaints),
        ));
        let green = verdicts.iter().all(|verdict| verdict.outcome == Outcome::Held);
        let resumptions = evidence.watchers.iter();
        let unknown = evidence.operations.iter().filter(|op| op.outcome == Fate::Unknown);
        let totals = Totals {
            completed: evidence.operations.iter().filter(|op| op.returned().is_some()).count(),
            acknowledged_writes: good_writes(&evidence.operations).len(),
            unknown: unknown.count(),
            rpo_acked_lost: verdict::lost(&evidence).len(),
            watch_resumptions: resumptions
                .map(|(_, record)| record.resumptions.saturating_sub(1))
                .sum(),
            refusals,
        };
        let journal = Journal {
            schema: journal::SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            command: self.plan.command.clone(),
            target: match self.plan.target {
                Target::Quorate { .. } => "quorate",
                Target::Etcd { .. } => "etcd",
                Target::Attached { .. } => "attached",
            },
            server_version,
            members: self.stage.names.clone(),
            workload: self.plan.workload.name(),
            seed: self.plan.seed,
            started_unix_ms: u64::try_from(started.as_millis()).unwrap_or(0),
            duration_ms,
            green,
            totals,
            faults: self.fault_records(&evidence, &samples, &sightings),
            verdicts,
            timeline: journal::timeline(&samples),
            leaders: journal::leaders(&sightings, &self.stage.names),
        };
        self.write(&journal, evidence.operations)
    }

    fn fault_records(
        &self,
        evidence: &Evidence,
        samples: &[crate::open_loop::Sample],
        sightings: &[crate::cluster_observer::Sighting],
    ) -> Vec<FaultRecord> {
        let good = good_writes(&evidence.operations);
        let lost: Vec<u64> =
            verdict::lost(evidence).iter().filter_map(|operation| operation.returned()).collect();
        let mut lost_since = 0;
        let mut records = Vec::new();
        for (injection, window) in &self.records {
            let Injection { fault, hit, description, .. } = injection;
            let of_this = lost_since..window.calm_until;
            lost_since = window.calm_until;
            records.push(FaultRecord {
                fault: *fault,
                description: description.clone(),
                hit: hit.iter().map(|member| self.stage.names[*member].clone()).collect(),
                began_ms: milliseconds(window.began),
                ended_ms: milliseconds(window.ended),
                recovered_ms: milliseconds(window.recovered),
                detection_ms: fault_effect::detection_time(sightings, *window, hit)
                    .map(milliseconds),
                rto_ms: fault_effect::recovery_time(&good, *window).map(milliseconds),
                rpo_acked_lost: lost.iter().filter(|at| of_this.contains(at)).count(),
                availability: fault_effect::availability(samples, *window, hit),
                latency: fault_effect::phases(samples, *window),
            });
        }
        records
    }

    /// Data of a run in which every promise held is of no use to anybody.
    fn write(&self, journal: &Journal, operations: Vec<Operation>) -> Result<ChaosOutcome, String> {
        let directory = &self.plan.directory;
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        write("journal.json", journal.to_json())?;
        write("report.html", chaos_report::page(journal))?;
        let members = directory.join("members");
        if !journal.green {
            let history: History = operations.into_iter().collect();
            write("history.jsonl", history.to_lines())?;
        } else if members.exists() {
            std::fs::remove_dir_all(&members)
                .map_err(|error| format!("cannot remove {}: {error}", members.display()))?;
        }
        Ok(ChaosOutcome {
            green: journal.green,
            summary: journal.summary(),
            report: directory.join("report.html"),
        })
    }
}

/// Waits until writes succeed at every member again.
async fn await_writes(load: &ChaosLoad, since: u64) -> Result<(), String> {
    let give_up = tokio::time::Instant::now() + RECOVERY_TIMEOUT;
    while let Some(member) = load.unwritable_since(since) {
        if tokio::time::Instant::now() > give_up {
            return Err(format!("no write succeeds at {member} any more"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The moments at which writes were acknowledged, ascending.
fn good_writes(operations: &[Operation]) -> Vec<u64> {
    let writes = operations.iter().filter(|operation| operation.acknowledged_write().is_some());
    let mut moments: Vec<u64> = writes.filter_map(Operation::returned).collect();
    moments.sort_unstable();
    moments
}
