//! The load of a chaos run: clients that contend for keys, requests in an open loop at every level
//! of consistency, watchers, and observers of who leads.
//!
//! Not here: what is done to the cluster meanwhile (`fault_injector`).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_local};

use crate::chaos_plan::ChaosPlan;
use crate::client_access::ClientAccess;
use crate::client_load::{ClientPlan, Load, run_client};
use crate::cluster_observer::{Sighting, Sightings, observe};
use crate::evidence::{self, Evidence};
use crate::member_client::MemberClient;
use crate::open_loop::{self, AskPlan, Level, OpenLoop, SERVED_WITHIN, Sample};
use crate::watch_recorder::{WatchRecord, WatchScope, record};

/// Clients that contend for keys, per member.
const CLIENTS_PER_MEMBER: u64 = 2;

/// Keys that they contend for at a time.
const KEYS: u64 = 10;

/// When a client gives up on a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Least time from one request of a client to its next.
const PACE: Duration = Duration::from_millis(10);

/// Keys are fresh again after this time, fault or not.
const ROUND: Duration = Duration::from_secs(2);

/// How long the last write may be tried.
const LAST_WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// Everything that runs against the cluster.
pub(crate) struct ChaosLoad {
    load: Rc<Load>,
    open: Rc<OpenLoop>,
    sightings: Rc<Sightings>,
    tasks: Vec<JoinHandle<()>>,
    watchers: Vec<(String, JoinHandle<WatchRecord>)>,
    /// The revision that ends the run, once known.
    last_revision: Rc<Cell<u64>>,
    scope: WatchScope,
    access: ClientAccess,
    prefix: String,
    /// Name and address.
    members: Vec<(String, String)>,
}

impl ChaosLoad {
    /// Begins, on the current set of local tasks.
    ///
    /// # Errors
    /// A member that cannot be connected to.
    pub(crate) async fn start(
        plan: &ChaosPlan,
        access: &ClientAccess,
        names: &[String],
        endpoints: &[String],
        prefix: &str,
    ) -> Result<ChaosLoad, String> {
        let mut clients = Vec::new();
        for endpoint in endpoints {
            clients.push(MemberClient::connect_by(access, endpoint, SERVED_WITHIN).await?);
        }
        let (before, _) = clients[0].get(b"\0ready").await.map_err(|error| error.to_string())?;
        let mut load = ChaosLoad {
            load: Load::new(),
            open: Rc::default(),
            sightings: Rc::default(),
            tasks: Vec::new(),
            watchers: Vec::new(),
            last_revision: Rc::new(Cell::new(0)),
            scope: WatchScope { prefix: prefix.as_bytes().to_vec(), first_revision: before + 1 },
            access: access.clone(),
            prefix: prefix.to_owned(),
            members: names.iter().cloned().zip(endpoints.iter().cloned()).collect(),
        };
        for (member, client) in clients.into_iter().enumerate() {
            load.start_at(plan, member, &client);
        }
        load.tasks.push(spawn_local(keep_keys_fresh(Rc::clone(&load.load))));
        Ok(load)
    }

    fn start_at(&mut self, plan: &ChaosPlan, member: usize, client: &MemberClient) {
        let (name, endpoint) = self.members[member].clone();
        for nth in 0..CLIENTS_PER_MEMBER {
            let plan = ClientPlan {
                client: member as u64 * CLIENTS_PER_MEMBER + nth,
                endpoint: endpoint.clone(),
                access: self.access.clone(),
                prefix: self.prefix.clone(),
                keys: KEYS,
                mix: plan.workload.mix(),
                request_timeout: REQUEST_TIMEOUT,
                pace: PACE,
                seed: plan.seed,
            };
            self.tasks.push(spawn_local(run_client(Rc::clone(&self.load), plan)));
        }
        for (level, interval) in Level::ASKED {
            let plan = AskPlan {
                level,
                interval,
                member,
                name: name.clone(),
                endpoint: endpoint.clone(),
                access: self.access.clone(),
                prefix: self.prefix.clone(),
                keys: KEYS,
            };
            let (open, load) = (Rc::clone(&self.open), Rc::clone(&self.load));
            self.tasks.push(spawn_local(open_loop::ask(open, load, plan, client.clone())));
        }
        let (sightings, load) = (Rc::clone(&self.sightings), Rc::clone(&self.load));
        self.tasks.push(spawn_local(observe(sightings, load, member, client.clone())));
        let until = Rc::clone(&self.last_revision);
        let watcher = record(self.access.clone(), endpoint, self.scope.clone(), until);
        self.watchers.push((name, spawn_local(watcher)));
    }

    /// Nanoseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        self.load.now()
    }

    /// Unknown outcomes of one fault stay with that fault's keys.
    pub(crate) fn next_round(&self) {
        self.load.next_round();
    }

    /// Who leads, by what the members said last.
    pub(crate) fn leader(&self) -> Option<usize> {
        self.sightings.leader(self.members.len())
    }

    /// What every member said of its leader.
    pub(crate) fn sightings(&self) -> Vec<Sighting> {
        self.sightings.so_far()
    }

    /// How often each refusal was heard.
    pub(crate) fn refusals(&self) -> BTreeMap<String, u64> {
        self.load.refusals()
    }

    /// The first member, if there is one, at which no write that was due since `since` succeeded.
    pub(crate) fn unwritable_since(&self, since: u64) -> Option<&str> {
        let names = self.members.iter().enumerate();
        let unwritable = |member: &usize| !self.open.wrote_since(*member, since);
        { names }.find(|(member, _)| unwritable(member)).map(|(_, (name, _))| name.as_str())
    }

    /// Whether nothing was served for `time`.
    pub(crate) fn is_dead_for(&self, time: Duration) -> bool {
        let nanos = u64::try_from(time.as_nanos()).expect("seconds");
        self.now().checked_sub(nanos).is_some_and(|since| !self.open.served_since(since))
    }

    /// What the first member that answers says of its version.
    pub(crate) async fn server_version(&self) -> String {
        for (_, address) in &self.members {
            let client = MemberClient::connect_by(&self.access, address, SERVED_WITHIN).await;
            let Ok(client) = client else { continue };
            if let Ok(status) = client.status().await {
                return status.version;
            }
        }
        String::new()
    }

    /// Ends the load and collects what it saw; also what is missing of it.
    ///
    /// # Errors
    /// A task of the load panicked, or nothing can be written any more.
    pub(crate) async fn end(self) -> Result<(Evidence, Vec<Sample>, Vec<String>), String> {
        self.load.finished.set(true);
        for task in self.tasks {
            task.await.map_err(|error| format!("a client failed: {error}"))?;
        }
        // Requests under way are answered, or given up, within this.
        tokio::time::sleep(SERVED_WITHIN + Duration::from_millis(100)).await;
        let last = last_write(&self.access, &self.prefix, &self.members).await?;
        self.last_revision.set(last);
        let (watchers, mut missing) = evidence::end_of_watches(self.watchers, last).await;
        let (members, untold) =
            evidence::of_members(&self.access, &self.members, &self.scope, last).await;
        missing.extend(untold);
        let mut samples = self.open.take_samples();
        let events = watch_samples(&samples, &watchers, &self.members, &self.load);
        samples.extend(events);
        let evidence = Evidence {
            operations: self.load.take_operations(),
            members,
            watchers,
            local_reads: self.open.take_local_reads(),
        };
        Ok((evidence, samples, missing))
    }
}

async fn keep_keys_fresh(load: Rc<Load>) {
    let mut next = tokio::time::Instant::now() + ROUND;
    while !load.finished.get() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if tokio::time::Instant::now() >= next {
            load.next_round();
            next += ROUND;
        }
    }
}

/// A write that comes after all others, by which every history ends.
async fn last_write(
    access: &ClientAccess,
    prefix: &str,
    members: &[(String, String)],
) -> Result<u64, String> {
    let give_up = Instant::now() + LAST_WRITE_PATIENCE;
    let key = format!("{prefix}z/last").into_bytes();
    let mut why = String::new();
    while Instant::now() < give_up {
        for (_, address) in members {
            match MemberClient::connect_by(access, address, REQUEST_TIMEOUT).await {
                Err(error) => why = error,
                Ok(client) => match client.put(&key, b"last").await {
                    Ok(revision) => return Ok(revision),
                    Err(error) => why = format!("{address}: {error}"),
                },
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(format!("nothing can be written any more: {why}"))
}

/// From when a write of the open loop was due until the watcher at the same member heard of it.
fn watch_samples(
    samples: &[Sample],
    watchers: &[(String, WatchRecord)],
    members: &[(String, String)],
    load: &Load,
) -> Vec<Sample> {
    let mut events = Vec::new();
    for (member, (name, _)) in members.iter().enumerate() {
        let Some((_, record)) = watchers.iter().find(|(watcher, _)| watcher == name) else {
            continue;
        };
        let heard = record.changes.iter().zip(&record.arrivals);
        let heard: BTreeMap<u64, Instant> =
            heard.map(|(change, arrival)| (change.revision, *arrival)).collect();
        for sample in samples.iter().filter(|sample| sample.member == member) {
            let Some(arrival) = sample.revision.and_then(|revision| heard.get(&revision)) else {
                continue;
            };
            let took = load.time_of(*arrival).saturating_sub(sample.due);
            events.push(Sample { level: Level::Watch, took: Some(took), ..*sample });
        }
    }
    events
}
