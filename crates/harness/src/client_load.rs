//! The load of a run: clients that stay with one member, write unique values, and record what they
//! asked and were told.
//!
//! Invariant: an operation is recorded exactly once, and as failed only if it was refused; one
//! whose connection broke is of unknown outcome. Nothing is recorded before it could be sent.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use checkers::history::{Input, Operation, Outcome, Output};

use crate::client_access::ClientAccess;
use crate::member_client::{CallError, MemberClient};
use crate::seeded_choice::SeededChoice;

/// Between two tries to reach a member that is down.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(25);

/// Shares of what clients ask for, in percent; compare-and-set gets the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mix {
    /// Blind writes.
    pub(crate) put_percent: u64,
    /// Linearizable reads.
    pub(crate) get_percent: u64,
}

impl Mix {
    /// Half of it writes blindly, a third of it reads.
    pub(crate) const BALANCED: Mix = Mix { put_percent: 50, get_percent: 30 };
}

/// What the clients of one run share. All of them run on one thread.
#[derive(Debug)]
pub(crate) struct Load {
    started: Instant,
    /// Raised after each kill: the next operations use fresh keys.
    pub(crate) round: Cell<u32>,
    /// Set once: clients finish what they are at.
    pub(crate) finished: Cell<bool>,
    operations: RefCell<Vec<Operation>>,
    refusals: RefCell<BTreeMap<String, u64>>,
}

/// One client's settings.
#[derive(Debug, Clone)]
pub(crate) struct ClientPlan {
    /// Number of the client, from 0.
    pub(crate) client: u64,
    /// The member that it talks to.
    pub(crate) endpoint: String,
    /// How it is let in there.
    pub(crate) access: ClientAccess,
    /// What all keys begin with.
    pub(crate) prefix: String,
    /// Keys in use at a time, shared by all clients.
    pub(crate) keys: u64,
    /// What it asks for.
    pub(crate) mix: Mix,
    /// When it gives up on a request.
    pub(crate) request_timeout: Duration,
    /// Least time from one request to the next.
    pub(crate) pace: Duration,
    /// Of the run.
    pub(crate) seed: u64,
}

impl Load {
    pub(crate) fn new() -> Rc<Load> {
        Rc::new(Load {
            started: Instant::now(),
            round: Cell::new(0),
            finished: Cell::new(false),
            operations: RefCell::new(Vec::new()),
            refusals: RefCell::new(BTreeMap::new()),
        })
    }

    /// One of the keys that are in use now.
    pub(crate) fn key(&self, prefix: &str, number: u64) -> Vec<u8> {
        format!("{prefix}k/{:04}/{number}", self.round.get()).into_bytes()
    }

    /// From now on fresh keys are used: what became of earlier ones stays with those.
    pub(crate) fn next_round(&self) {
        self.round.set(self.round.get() + 1);
    }

    /// Nanoseconds since the start of the run.
    pub(crate) fn now(&self) -> u64 {
        self.time_of(Instant::now())
    }

    /// The same of another moment.
    pub(crate) fn time_of(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.started);
        u64::try_from(since.as_nanos()).expect("a run ends within centuries")
    }

    pub(crate) fn record(&self, operation: Operation) {
        self.operations.borrow_mut().push(operation);
    }

    /// Operations that were answered so far.
    pub(crate) fn completed(&self) -> usize {
        self.operations.borrow().iter().filter(|op| op.returned().is_some()).count()
    }

    /// Everything recorded; the clients must have ended.
    pub(crate) fn take_operations(&self) -> Vec<Operation> {
        self.operations.take()
    }

    /// How often each refusal was heard.
    pub(crate) fn refusals(&self) -> BTreeMap<String, u64> {
        self.refusals.borrow().clone()
    }

    pub(crate) fn note_refusal(&self, why: &str) {
        *self.refusals.borrow_mut().entry(why.to_owned()).or_default() += 1;
    }
}

/// Runs one client until the load is finished.
pub(crate) async fn run_client(load: Rc<Load>, plan: ClientPlan) {
    let mut client = Client {
        choice: SeededChoice::new(plan.seed, plan.client),
        seen: BTreeMap::new(),
        values: 0,
        is_forgotten: false,
        load,
        plan,
    };
    while !client.load.finished.get() {
        let ClientPlan { access, endpoint, request_timeout, .. } = &client.plan;
        match MemberClient::connect_by(access, endpoint, *request_timeout).await {
            Ok(connection) => client.use_connection(&connection).await,
            Err(_) => tokio::time::sleep(RECONNECT_INTERVAL).await,
        }
    }
}

struct Client {
    load: Rc<Load>,
    plan: ClientPlan,
    choice: SeededChoice,
    /// What each key of this round was last seen to hold.
    seen: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Values written so far.
    values: u64,
    /// The member has forgotten the token, as it may when it is started again.
    is_forgotten: bool,
}

impl Client {
    /// Sends requests until one gets no answer.
    async fn use_connection(&mut self, connection: &MemberClient) {
        while !self.load.finished.get() {
            let next = Instant::now() + self.plan.pace;
            let operation = self.next_operation(connection).await;
            let answered = operation.outcome != Outcome::Unknown;
            self.load.record(operation);
            if !answered || std::mem::take(&mut self.is_forgotten) {
                return;
            }
            tokio::time::sleep_until(next.into()).await;
        }
    }

    async fn next_operation(&mut self, connection: &MemberClient) -> Operation {
        let key = self.load.key(&self.plan.prefix, self.choice.below(self.plan.keys));
        let input = self.choose_input(&key);
        let call = self.load.now();
        let result = match &input {
            Input::Put { value } => {
                let reply = connection.put(&key, value).await;
                reply.map(|revision| (revision, Output::Put))
            }
            Input::Get => connection.get(&key).await.map(|(revision, found)| {
                let mod_revision = found.as_ref().map(|found| found.mod_revision);
                let value = found.map(|found| found.value);
                (revision, Output::Get { value, mod_revision })
            }),
            Input::CompareAndSet { expect, set } => {
                let reply = connection.compare_and_set(&key, expect.as_deref(), set).await;
                reply.map(|(succeeded, revision)| (revision, Output::CompareAndSet { succeeded }))
            }
            Input::Delete => unreachable!("the mix has no deletions"),
        };
        let outcome = self.judge(&key, &input, result);
        Operation { client: self.plan.client, key, input, call, outcome }
    }

    fn choose_input(&mut self, key: &[u8]) -> Input {
        let percent = self.choice.below(100);
        let Mix { put_percent, get_percent } = self.plan.mix;
        if percent < put_percent {
            Input::Put { value: self.unique_value() }
        } else if percent < put_percent + get_percent {
            Input::Get
        } else {
            let expect = self.seen.get(key).cloned().flatten();
            Input::CompareAndSet { expect, set: self.unique_value() }
        }
    }

    fn unique_value(&mut self) -> Vec<u8> {
        self.values += 1;
        format!("{}-{}", self.plan.client, self.values).into_bytes()
    }

    fn judge(
        &mut self,
        key: &[u8],
        input: &Input,
        result: Result<(u64, Output), CallError>,
    ) -> Outcome {
        match result {
            Ok((revision, output)) => {
                self.remember(key, input, &output);
                Outcome::Ok { at: self.load.now(), revision: Some(revision), output }
            }
            Err(CallError::Refused(why)) => {
                self.load.note_refusal(&why);
                self.is_forgotten |= why.starts_with("Unauthenticated");
                Outcome::Failed
            }
            Err(CallError::Unknown(_)) => Outcome::Unknown,
        }
    }

    /// So that a later compare-and-set has a chance to succeed.
    fn remember(&mut self, key: &[u8], input: &Input, output: &Output) {
        let value = match (input, output) {
            (Input::Put { value }, _) => Some(value.clone()),
            (_, Output::Get { value, .. }) => value.clone(),
            (Input::CompareAndSet { set, .. }, Output::CompareAndSet { succeeded: true }) => {
                Some(set.clone())
            }
            _ => return,
        };
        self.seen.insert(key.to_vec(), value);
    }
}
