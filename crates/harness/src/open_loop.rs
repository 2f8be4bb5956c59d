//! Open loop: requests that are sent when they are due, whatever became of those before, and timed
//! from then; so that an outage counts for as long as it lasts and not as one slow request.
//!
//! Each write has a key of its own, which makes its fate plain. All of them are part of the
//! history that the checkers judge. Not here: clients that contend for keys (`client_load`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use checkers::history::{Input, Operation, Outcome, Output};
use serde::Serialize;
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::client_access::ClientAccess;
use crate::client_load::Load;
use crate::evidence::LocalRead;
use crate::member_client::{CallError, MemberClient};

/// A request that takes longer was not served.
pub(crate) const SERVED_WITHIN: Duration = Duration::from_secs(1);

/// Samples are kept in the order of their ends, which may be so far from that of their begins.
const SLACK: u64 = 2_000_000_000;

/// Clients of the open loop have numbers from here on, each request its own.
const FIRST_CLIENT: u64 = 1_000;

/// What is asked, by what is promised of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// A write.
    Put,
    /// A compare and a write, in one.
    Txn,
    /// A read that sees every write acknowledged before it.
    LinearizableGet,
    /// A read of what the member asked has.
    SerializableGet,
    /// From a write to the event that tells of it.
    Watch,
}

impl Level {
    /// Those that are asked for, with the time from one request to the next at each member.
    pub(crate) const ASKED: [(Level, Duration); 4] = [
        (Level::Put, Duration::from_millis(20)),
        (Level::Txn, Duration::from_millis(50)),
        (Level::LinearizableGet, Duration::from_millis(50)),
        (Level::SerializableGet, Duration::from_millis(50)),
    ];

    /// As the report calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Put => "put",
            Level::Txn => "transaction",
            Level::LinearizableGet => "linearizable read",
            Level::SerializableGet => "serializable read",
            Level::Watch => "watch event",
        }
    }
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) level: Level,
    pub(crate) member: usize,
    /// Nanoseconds since the start of the run.
    pub(crate) due: u64,
    /// Nanoseconds until it was answered as it should be; nothing if it was not.
    pub(crate) took: Option<u64>,
    /// The revision of a write.
    pub(crate) revision: Option<u64>,
}

/// Everything asked in the open loop of one run.
#[derive(Debug, Default)]
pub(crate) struct OpenLoop {
    samples: RefCell<Vec<Sample>>,
    local_reads: RefCell<Vec<LocalRead>>,
    asked: Cell<u64>,
}

/// Where and what one loop asks.
#[derive(Debug, Clone)]
pub(crate) struct AskPlan {
    pub(crate) level: Level,
    pub(crate) interval: Duration,
    pub(crate) member: usize,
    pub(crate) name: String,
    pub(crate) endpoint: String,
    pub(crate) access: ClientAccess,
    /// What all keys begin with.
    pub(crate) prefix: String,
    /// Keys of the other clients, which reads look at.
    pub(crate) keys: u64,
}

impl OpenLoop {
    pub(crate) fn take_samples(&self) -> Vec<Sample> {
        self.samples.take()
    }

    pub(crate) fn take_local_reads(&self) -> Vec<LocalRead> {
        self.local_reads.take()
    }

    /// Whether a write that was due since `since` was served at this member.
    pub(crate) fn wrote_since(&self, member: usize, since: u64) -> bool {
        let samples = self.samples.borrow();
        let is_write = |sample: &Sample| sample.member == member && sample.level == Level::Put;
        let latest = samples.iter().rev().take_while(|sample| sample.due + SLACK >= since);
        { latest }.any(|sample| is_write(sample) && sample.due >= since && sample.took.is_some())
    }

    /// Whether a request that was due since `since` was served.
    pub(crate) fn served_since(&self, since: u64) -> bool {
        let samples = self.samples.borrow();
        let latest = samples.iter().rev().take_while(|sample| sample.due + SLACK >= since);
        { latest }.any(|sample| sample.due >= since && sample.took.is_some())
    }
}

/// Asks until the load is finished. `client` reconnects by itself.
pub(crate) async fn ask(open: Rc<OpenLoop>, load: Rc<Load>, plan: AskPlan, client: MemberClient) {
    let client = Rc::new(RefCell::new(client));
    let mut due = Instant::now();
    while !load.finished.get() {
        let (open, load, plan) = (Rc::clone(&open), Rc::clone(&load), plan.clone());
        let client = Rc::clone(&client);
        let interval = plan.interval;
        spawn_local(async move {
            let now = client.borrow().clone();
            if ask_once(&open, &load, &plan, &now).await == Answer::TokenForgotten {
                let AskPlan { access, endpoint, .. } = &plan;
                let again = MemberClient::connect_by(access, endpoint, SERVED_WITHIN).await;
                if let Ok(connected) = again {
                    client.replace(connected);
                }
            }
        });
        due += interval;
        tokio::time::sleep_until(due).await;
    }
}

#[derive(PartialEq, Eq)]
enum Answer {
    AsItShould,
    None,
    TokenForgotten,
}

async fn ask_once(open: &OpenLoop, load: &Load, plan: &AskPlan, client: &MemberClient) -> Answer {
    let number = open.asked.replace(open.asked.get() + 1);
    let due = load.now();
    let result = match plan.level {
        Level::Put | Level::Txn | Level::LinearizableGet => {
            ask_and_record(load, plan, client, number).await
        }
        Level::SerializableGet => read_locally(open, load, plan, client, number).await,
        Level::Watch => unreachable!("nobody asks for events one by one"),
    };
    let took = load.now() - due;
    let within = u64::try_from(SERVED_WITHIN.as_nanos()).expect("a second");
    let (answer, took, revision) = match result {
        Ok(revision) => (Answer::AsItShould, Some(took).filter(|took| *took <= within), revision),
        Err(CallError::Refused(why)) if why.starts_with("Unauthenticated") => {
            (Answer::TokenForgotten, None, None)
        }
        Err(_) => (Answer::None, None, None),
    };
    let sample = Sample { level: plan.level, member: plan.member, due, took, revision };
    open.samples.borrow_mut().push(sample);
    answer
}

/// One that belongs into the history; returns the revision of a write.
async fn ask_and_record(
    load: &Load,
    plan: &AskPlan,
    client: &MemberClient,
    number: u64,
) -> Result<Option<u64>, CallError> {
    let fresh = || format!("{}o/{number}", plan.prefix).into_bytes();
    let value = || number.to_string().into_bytes();
    let (key, input) = match plan.level {
        Level::Put => (fresh(), Input::Put { value: value() }),
        Level::Txn => (fresh(), Input::CompareAndSet { expect: None, set: value() }),
        _ => (load.key(&plan.prefix, number % plan.keys), Input::Get),
    };
    let call = load.now();
    let result = match &input {
        Input::Put { value } => {
            client.put(&key, value).await.map(|revision| (revision, Output::Put))
        }
        Input::CompareAndSet { set, .. } => {
            let reply = client.compare_and_set(&key, None, set).await;
            reply.map(|(succeeded, revision)| (revision, Output::CompareAndSet { succeeded }))
        }
        _ => client.get(&key).await.map(|(revision, found)| {
            let mod_revision = found.as_ref().map(|found| found.mod_revision);
            let value = found.map(|found| found.value);
            (revision, Output::Get { value, mod_revision })
        }),
    };
    let is_write = input != Input::Get;
    let (outcome, answer) = match result {
        Ok((revision, output)) => {
            let outcome = Outcome::Ok { at: load.now(), revision: Some(revision), output };
            (outcome, Ok(is_write.then_some(revision)))
        }
        Err(CallError::Refused(why)) => {
            load.note_refusal(&why);
            (Outcome::Failed, Err(CallError::Refused(why)))
        }
        Err(unknown) => (Outcome::Unknown, Err(unknown)),
    };
    load.record(Operation { client: FIRST_CLIENT + number, key, input, call, outcome });
    answer
}

async fn read_locally(
    open: &OpenLoop,
    load: &Load,
    plan: &AskPlan,
    client: &MemberClient,
    number: u64,
) -> Result<Option<u64>, CallError> {
    let key = load.key(&plan.prefix, number % plan.keys);
    let (at, found) = client.local_get(&key).await?;
    let found = found.map(|found| (found.value, found.mod_revision));
    open.local_reads.borrow_mut().push(LocalRead { member: plan.name.clone(), key, at, found });
    Ok(None)
}
