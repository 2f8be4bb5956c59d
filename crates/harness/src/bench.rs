//! `quorate bench`: load on any cluster that speaks the etcd protocol, and how long it takes.
//!
//! A closed loop sends a client's next request after its last reply; an open loop (`rate`) has a
//! schedule, and counts a request's latency from when it was to be sent, though its client may
//! have waited for an answer then: a server that stalls cannot hide it (coordinated omission, Tene
//! 2015). Everything on the schedule is sent or counted as failed. What servers use comes from
//! `/proc`.
//! Not here: what a request is (`operations`), comparing servers.

mod key_choice;
mod lease_expiry;
mod operations;
mod report;
mod server_usage;
mod watch_latency;

pub use key_choice::Distribution;
pub use report::{BenchReport, Latencies};
pub use server_usage::ServerUsage;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::{LocalSet, spawn_local};

use crate::client_access::{ClientAccess, Transport};
use crate::seeded_choice::SeededChoice;
use key_choice::KeyChoice;
use operations::Operations;

/// How long a request may take before it counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two calls of the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Kinds of failures that are told apart.
const FAILURES_MAX: usize = 20;

/// Microseconds that a histogram holds at most, and the digits that it keeps.
const HISTOGRAM: (u64, u8) = (120_000_000, 3);

/// What clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Writes of one key.
    Put,
    /// Linearizable reads of one key.
    Get,
    /// Reads of one key as the member has it.
    SerializableGet,
    /// Linearizable reads of so many keys in order.
    Range {
        /// Keys.
        keys: u32,
    },
    /// Transactions that write a key if its version is what the client saw.
    CompareAndSet,
    /// Writes and linearizable reads.
    Mixed {
        /// Of a hundred requests, so many write.
        writes: u32,
    },
    /// From a write to its event at each of so many watchers of one key.
    Watch {
        /// Watchers.
        watchers: usize,
    },
    /// Writes, before and while so many leases with a key each end at the same second.
    LeaseExpiry {
        /// Leases.
        leases: usize,
    },
}

/// What to do.
#[derive(Debug, Clone)]
pub struct BenchPlan {
    /// Members; connections take turns.
    pub endpoints: Vec<String>,
    /// How the members let clients in.
    pub access: ClientAccess,
    /// What clients ask for.
    pub workload: Workload,
    /// Requests under way at a time.
    pub clients: usize,
    /// Connections that the clients share.
    pub connections: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Keys that exist and are chosen from.
    pub keys: u64,
    /// How they are chosen.
    pub distribution: Distribution,
    /// Requests a second in an open loop; none: a closed loop.
    pub rate: Option<f64>,
    /// How long to measure.
    pub duration: Duration,
    /// How long to send before that.
    pub warm_up: Duration,
    /// Processes of the servers.
    pub pids: Vec<u32>,
    /// Of the choices.
    pub seed: u64,
}

/// How far the run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Since measuring began.
    pub elapsed: Duration,
    /// Requests answered so far.
    pub completed: u64,
    /// Failed ones.
    pub failed: u64,
}

/// What is measured while it is measured.
#[derive(Clone)]
pub(crate) struct Meter {
    latencies: Rc<RefCell<Histogram<u64>>>,
    failures: Rc<RefCell<BTreeMap<String, u64>>>,
    failed: Rc<Cell<u64>>,
    /// Only what was to begin after it counts.
    since: Rc<Cell<Instant>>,
}

impl Meter {
    fn new(since: Instant) -> Meter {
        let histogram = Histogram::new_with_max(HISTOGRAM.0, HISTOGRAM.1);
        let histogram = histogram.expect("three digits are allowed");
        Meter {
            latencies: Rc::new(RefCell::new(histogram)),
            failures: Rc::default(),
            failed: Rc::default(),
            since: Rc::new(Cell::new(since)),
        }
    }

    /// A request that was to begin at `intended` ended now.
    fn ended(&self, intended: Instant, outcome: Result<(), String>) {
        if intended < self.since.get() {
            return;
        }
        match outcome {
            Ok(()) => {
                let micros = u64::try_from(intended.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.latencies.borrow_mut().saturating_record(micros);
            }
            Err(why) => {
                self.failed.set(self.failed.get() + 1);
                let mut failures = self.failures.borrow_mut();
                if failures.len() < FAILURES_MAX || failures.contains_key(&why) {
                    *failures.entry(why).or_default() += 1;
                }
            }
        }
    }

    fn completed(&self) -> u64 {
        self.latencies.borrow().len()
    }
}

/// Runs the plan on one thread; `each` hears of it every second.
///
/// # Errors
/// One sentence if nothing could be measured; failed requests are in the report.
pub async fn run(
    plan: &BenchPlan,
    each: impl FnMut(Progress) + 'static,
) -> Result<BenchReport, String> {
    LocalSet::new().run_until(run_here(plan, each)).await
}

async fn run_here(
    plan: &BenchPlan,
    each: impl FnMut(Progress) + 'static,
) -> Result<BenchReport, String> {
    let channels = connect(plan).await?;
    match plan.workload {
        Workload::Watch { watchers } => return watch_latency::run(plan, channels, watchers).await,
        Workload::LeaseExpiry { leases } => return lease_expiry::run(plan, channels, leases).await,
        _ => {}
    }
    if plan.workload != Workload::Put {
        fill(plan, &channels).await?;
    }
    let start = Instant::now();
    let measured_from = start + plan.warm_up;
    let meter = Meter::new(measured_from);
    let end = measured_from + plan.duration;
    let clients = spawn_clients(plan, &channels, &meter, (start, end));
    tokio::time::sleep_until(measured_from.into()).await;
    let before = ServerUsage::of(&plan.pids)?;
    let progress = spawn_local(tell(meter.clone(), measured_from, end, each));
    for client in clients {
        client.await.map_err(|error| format!("a client failed: {error}"))?;
    }
    let (elapsed, after) = (measured_from.elapsed(), ServerUsage::of(&plan.pids)?);
    progress.abort();
    Ok(BenchReport::new(plan, &meter, elapsed, after.since(&before)))
}

/// One channel per connection; connections take turns with the members.
async fn connect(plan: &BenchPlan) -> Result<Vec<Transport>, String> {
    let mut channels = Vec::new();
    for endpoint in plan.endpoints.iter().cycle().take(plan.connections) {
        channels.push(plan.access.channel(endpoint, REQUEST_TIMEOUT).await?);
    }
    Ok(channels)
}

/// Writes every key once, so that reads find something.
async fn fill(plan: &BenchPlan, channels: &[Transport]) -> Result<(), String> {
    let next = Rc::new(Cell::new(0));
    let writers = channels.iter().cycle().take(plan.clients.max(64)).map(|channel| {
        let mut operations = Operations::new(channel.clone(), plan);
        let (next, keys) = (Rc::clone(&next), plan.keys);
        spawn_local(async move {
            while next.get() < keys {
                let key = next.replace(next.get() + 1);
                operations.put(key).await?;
            }
            Ok::<(), String>(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        let written = writer.await.map_err(|error| format!("a writer failed: {error}"))?;
        written.map_err(|why| format!("the keys could not be written: {why}"))?;
    }
    Ok(())
}

type Client = tokio::task::JoinHandle<()>;

fn spawn_clients(
    plan: &BenchPlan,
    channels: &[Transport],
    meter: &Meter,
    (start, end): (Instant, Instant),
) -> Vec<Client> {
    let spawn = |number: usize| {
        let operations = Operations::new(channels[number % channels.len()].clone(), plan);
        let choice = SeededChoice::new(plan.seed, number as u64);
        let keys = KeyChoice::new(plan.distribution, plan.keys, number as u64, choice.clone());
        let every = plan.rate.map(|rate| Duration::from_secs_f64(plan.clients as f64 / rate));
        let first = match plan.rate {
            Some(rate) => start + Duration::from_secs_f64(number as f64 / rate),
            None => start,
        };
        let asker = Asker { operations, keys, choice, meter: meter.clone() };
        spawn_local(asker.ask(plan.workload, first, every, end))
    };
    (0..plan.clients).map(spawn).collect()
}

/// One client: at most one request under way.
struct Asker {
    operations: Operations,
    keys: KeyChoice,
    choice: SeededChoice,
    meter: Meter,
}

impl Asker {
    async fn ask(
        mut self,
        workload: Workload,
        first: Instant,
        every: Option<Duration>,
        end: Instant,
    ) {
        let mut intended = first;
        while intended < end {
            if every.is_some() {
                tokio::time::sleep_until(intended.into()).await;
            }
            let outcome = if Instant::now() < end + REQUEST_TIMEOUT {
                self.once(workload).await
            } else {
                Err("not sent: requests before it took too long".to_owned())
            };
            self.meter.ended(intended, outcome);
            intended = every.map_or_else(Instant::now, |every| intended + every);
        }
    }

    async fn once(&mut self, workload: Workload) -> Result<(), String> {
        let key = self.keys.next();
        match workload {
            Workload::Put => self.operations.put(key).await,
            Workload::Get => self.operations.get(key, false).await,
            Workload::SerializableGet => self.operations.get(key, true).await,
            Workload::Range { keys } => self.operations.range(key, keys).await,
            Workload::CompareAndSet => self.operations.compare_and_set(key).await,
            Workload::Mixed { writes } if self.choice.below(100) < u64::from(writes) => {
                self.operations.put(key).await
            }
            Workload::Mixed { .. } => self.operations.get(key, false).await,
            Workload::Watch { .. } | Workload::LeaseExpiry { .. } => {
                unreachable!("they have clients of their own")
            }
        }
    }
}

async fn tell(meter: Meter, from: Instant, end: Instant, mut each: impl FnMut(Progress)) {
    while Instant::now() < end {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let (completed, failed) = (meter.completed(), meter.failed.get());
        each(Progress { elapsed: from.elapsed(), completed, failed });
    }
}
