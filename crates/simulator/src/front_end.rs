//! The front end of a process and the clients pinned to it: requests in, replies out, and what the
//! clients believe happened.
//!
//! Invariant: what a client could not have known is recorded as unknown, never as failed. Not here:
//! what clients ask for (`workload`), judging what they saw (`verdict`).

use crate::cluster::{Event, Phase, World};
use crate::event_heap::MILLISECOND;
use crate::mark::Mark;
use crate::mutant::Mutant;
use crate::network::Slot;
use crate::process::Machine;
use crate::trace_stream::TraceEvent;
use crate::workload::{ClientMind, Operation, pair_keys};
use bytes::Bytes;
use checkers::history::{History, Input, OperationId, Output};
use clocks::GroupId;
use replica::{Ask, LogEvent, Reply, Request, RequestError, RequestId};
use std::time::Duration;
use store::range::Revision;
use store::reply::{AuthError, Outcome, RangeReply, StoreError, TxnOpReply, TxnReply};

/// Input of a front end.
pub(crate) enum FrontWork {
    /// A client asks.
    Submit(usize, RequestId),
    /// A machine answers.
    Reply(RequestId, Result<Reply, RequestError>),
}

/// A client, pinned to a member.
pub(crate) struct Client {
    /// The member.
    pub(crate) slot: Slot,
    /// What it decides.
    pub(crate) mind: ClientMind,
    /// What it waits for.
    pub(crate) pending: Option<Pending>,
    /// Highest revision that the member has shown it in this life.
    floor: Revision,
}

impl Client {
    /// A client that has seen nothing.
    #[must_use]
    pub(crate) fn new(slot: Slot, mind: ClientMind) -> Client {
        Client { slot, mind, pending: None, floor: 0 }
    }
}

/// A request under way.
pub(crate) struct Pending {
    request: RequestId,
    operation: Operation,
    recorded: Vec<OperationId>,
}

/// How a request ended, as the client knows it.
enum Ending {
    /// Certainly without effect.
    Failed,
    /// Perhaps with an effect, now or later.
    Unknown,
}

impl World {
    /// The client's next operation.
    pub(crate) fn on_client_wake(&mut self, index: usize) {
        let slot = self.clients[index].slot;
        if self.phase == Phase::Settle || self.nodes[slot].abandoned {
            return;
        }
        if !self.nodes[slot].is_up() {
            let retry = self.rng.between(20, 100) * MILLISECOND;
            self.heap.after(retry, Event::ClientWake { client: index });
            return;
        }
        let now = self.heap.now();
        let client = &mut self.clients[index];
        assert!(client.pending.is_none(), "a client asks one thing at a time");
        let operation = client.mind.decide(now, &self.swarm.workload);
        if let Operation::Compact { revision } = operation {
            let compacted = self.compacted.entry(client.mind.group).or_default();
            *compacted = revision.max(*compacted);
        }
        let history = self.histories.get_mut(&client.mind.group).expect("one per keyspace");
        let recorded = begin(history, index as u64, &operation, now.0);
        let request = RequestId(self.next_request);
        self.next_request += 1;
        let group = client.mind.group.0;
        let wish = operation.clone();
        client.pending = Some(Pending { request, operation, recorded });
        self.owners.insert(request, index);
        self.operations += 1;
        self.observe(|| {
            let operation = format!("{wish:?}");
            TraceEvent::Call { client: index, node: slot, group, operation }
        });
        let timeout = self.swarm.workload.timeout;
        self.heap.after(timeout, Event::ClientTimeout { client: index, request });
        self.process(slot).front_queue.push_back(FrontWork::Submit(index, request));
        self.wake(slot, Machine::Front);
    }

    pub(crate) fn on_client_timeout(&mut self, index: usize, request: RequestId) {
        if self.owners.contains_key(&request) {
            self.give_up(index, &Ending::Unknown);
        }
    }

    /// The member died: its clients do not know what became of their requests.
    pub(crate) fn abandon_clients(&mut self, slot: Slot) {
        for index in 0..self.clients.len() {
            if self.clients[index].slot != slot {
                continue;
            }
            self.clients[index].floor = 0;
            if self.clients[index].pending.is_some() {
                self.give_up(index, &Ending::Unknown);
            }
        }
    }

    pub(crate) fn step_front(&mut self, slot: Slot) {
        let work = std::mem::take(&mut self.process(slot).front_queue);
        for work in work {
            match work {
                FrontWork::Submit(client, request) => self.submit(slot, client, request),
                FrontWork::Reply(request, result) => self.on_reply(request, result),
            }
            if self.is_over() {
                return;
            }
        }
    }

    fn submit(&mut self, slot: Slot, index: usize, request: RequestId) {
        let Some(pending) = &self.clients[index].pending else { return };
        if pending.request != request {
            return;
        }
        let group = self.clients[index].mind.group;
        let ask = match pending.operation.command() {
            Some(command) => Ask::Write(command),
            None if matches!(pending.operation, Operation::Serializable { .. })
                || self.mutant == Some(Mutant::ReadWithoutBarrier) =>
            {
                return self.read(index);
            }
            None => Ask::ReadBarrier,
        };
        if self.mutant == Some(Mutant::RetryUnderNewNumber) && matches!(ask, Ask::Write(_)) {
            self.heap.after(30 * MILLISECOND, Event::Resend { client: index, request });
        }
        self.ask(slot, request, group, ask);
    }

    /// The planted bug: the request is still under way, and sent again as another one.
    pub(crate) fn on_resend(&mut self, index: usize, request: RequestId) {
        let client = &self.clients[index];
        let (slot, group) = (client.slot, client.mind.group);
        let Some(pending) = &client.pending else { return };
        let Some(command) = pending.operation.command() else { return };
        if pending.request == request && self.nodes[slot].is_up() {
            let again = RequestId(self.next_request);
            self.next_request += 1;
            self.ask(slot, again, group, Ask::Write(command));
        }
    }

    fn ask(&mut self, slot: Slot, id: RequestId, group: GroupId, ask: Ask) {
        let timeout = Duration::from_nanos(self.swarm.workload.timeout);
        let now = self.nodes[slot].clock.monotonic(self.heap.now());
        let request = Request {
            id,
            group,
            deadline: now.after(timeout),
            caller: self.admitted(slot, group, None),
            ask,
        };
        self.watch_request(slot, id);
        self.tell(slot, LogEvent::Request(request));
    }

    fn on_reply(&mut self, request: RequestId, result: Result<Reply, RequestError>) {
        self.watchdog.answered(request);
        if self.on_membership_reply(request, &result) || self.on_worker_reply(request, &result) {
            return;
        }
        let Some(&index) = self.owners.get(&request) else { return };
        match result {
            Ok(Reply::Written(outcome)) => self.on_written(index, outcome),
            Ok(Reply::ReadReady) => self.read(index),
            Ok(Reply::Status(_) | Reply::LeadershipTransferred) => {
                unreachable!("no client asks for it")
            }
            Err(error) => self.on_refused(index, &error),
        }
    }

    fn on_refused(&mut self, index: usize, error: &RequestError) {
        let pending = self.clients[index].pending.as_ref().expect("it owns a request");
        match error {
            RequestError::Refused(refused) => {
                let expected = match refused {
                    StoreError::Compacted { .. } | StoreError::FutureRevision { .. } => {
                        matches!(pending.operation, Operation::Compact { .. })
                    }
                    StoreError::SessionExpired | StoreError::Auth(AuthError::UserEmpty) => true,
                    _ => false,
                };
                if !expected {
                    let detail = format!("{:?} was refused: {refused:?}", pending.operation);
                    return self.violate("sound requests are not refused", detail);
                }
                self.give_up(index, &Ending::Failed);
            }
            RequestError::NotCapable => {
                self.marks.reach(Mark::NotCapable);
                self.give_up(index, &Ending::Failed);
            }
            RequestError::Overloaded
            | RequestError::NoSpace
            | RequestError::NotLeader
            | RequestError::BadLeaderTransferee => {
                self.give_up(index, &Ending::Failed);
            }
            RequestError::TimedOut | RequestError::OutcomeUnknown | RequestError::Stopping => {
                self.give_up(index, &Ending::Unknown);
            }
        }
    }

    /// Ends the client's request without an answer.
    fn give_up(&mut self, index: usize, ending: &Ending) {
        let client = &mut self.clients[index];
        let pending = client.pending.take().expect("it waits for something");
        self.owners.remove(&pending.request);
        let outcome = if matches!(ending, Ending::Failed) { "failed" } else { "unknown" };
        let harmless = pending.operation.command().is_none();
        let history = self.histories.get_mut(&client.mind.group).expect("one per keyspace");
        if harmless || matches!(ending, Ending::Failed) {
            pending.recorded.into_iter().for_each(|id| history.fail(id));
        }
        self.observe(|| TraceEvent::Reply { client: index, outcome, revision: None });
        self.think(index);
    }

    fn think(&mut self, index: usize) {
        let pause = self.clients[index].mind.think(&self.swarm.workload);
        self.heap.after(pause, Event::ClientWake { client: index });
    }

    fn on_written(&mut self, index: usize, outcome: Outcome) {
        let operation = self.clients[index].pending.as_ref().expect("it owns a request");
        let operation = operation.operation.clone();
        let (revision, output) = match (&operation, outcome) {
            (Operation::Put { .. }, Outcome::Put { revision, .. }) => (revision, Some(Output::Put)),
            (Operation::CompareAndSet { key, expect, .. }, Outcome::Txn { revision, reply }) => {
                if contradicts(key, expect.as_ref(), &reply) {
                    let detail = format!("expecting {expect:?} failed on {reply:?}");
                    return self.violate("a comparison means what it says", detail);
                }
                (revision, Some(Output::CompareAndSet { succeeded: reply.succeeded }))
            }
            (Operation::Delete { .. }, Outcome::DeleteRange { revision, deleted, .. }) => {
                (revision, Some(Output::Delete { deleted: deleted > 0 }))
            }
            (Operation::Compact { .. }, Outcome::Compacted { revision })
            | (Operation::PutPair { .. }, Outcome::Txn { revision, .. }) => (revision, None),
            (operation, outcome) => {
                let detail = format!("{operation:?} was answered by {outcome:?}");
                return self.violate("answers fit their requests", detail);
            }
        };
        self.check_written(index, &operation, &output, revision);
        if let (Some(value), Some(key)) = (written_value(&operation, &output), key_of(&operation)) {
            self.clients[index].mind.saw(key, value, revision);
        }
        let outputs = output.into_iter().collect();
        self.answer(index, revision, outputs);
    }

    /// An acknowledged write must be in the history of the keyspace, at its revision.
    fn check_written(
        &mut self,
        index: usize,
        operation: &Operation,
        output: &Option<Output>,
        revision: Revision,
    ) {
        let group = self.clients[index].mind.group;
        let Some(value) = written_value(operation, output) else { return };
        let Some(key) = key_of(operation) else { return };
        let found = self.witness.keyspace(group).and_then(|all| all.version(key, revision));
        if found.map(|pair| &pair.value) != value {
            let detail = format!("{operation:?} at revision {revision}: there is {found:?}");
            self.violate("an acknowledged write is applied", detail);
        }
    }

    /// Reads from the member's state, as of now.
    fn read(&mut self, index: usize) {
        let (slot, group) = (self.clients[index].slot, self.clients[index].mind.group);
        let pending = self.clients[index].pending.as_ref().expect("it owns a request");
        let operation = pending.operation.clone();
        let range = operation.range().expect("only reads come here");
        let reader = self.process(slot).applier.reader(group);
        match reader.range(&range).expect("memory does not fail") {
            Ok(reply) => self.on_read(index, &operation, &reply),
            Err(StoreError::Compacted { .. } | StoreError::FutureRevision { .. })
                if matches!(operation, Operation::Historical { .. }) =>
            {
                let revision = reader.revision();
                self.answer(index, revision, Vec::new());
            }
            Err(error) => {
                let detail = format!("{operation:?} was refused: {error:?}");
                self.violate("sound requests are not refused", detail);
            }
        }
    }

    fn on_read(&mut self, index: usize, operation: &Operation, reply: &RangeReply) {
        let group = self.clients[index].mind.group;
        let keys = read_keys(operation);
        let as_of = match operation {
            Operation::Historical { revision, .. } => *revision,
            _ => reply.revision,
        };
        let checked = match self.witness.keyspace(group) {
            Some(keyspace) => keyspace.explains(&keys, as_of, reply),
            None => Ok(()),
        };
        self.check(checked);
        let client = &mut self.clients[index];
        let floor = client.floor;
        let value_of = |key: &Bytes| reply.pairs.iter().find(|pair| pair.key == *key);
        if !matches!(operation, Operation::Historical { .. } | Operation::GetPair { .. }) {
            for key in &keys {
                client.mind.saw(key, value_of(key).map(|pair| &pair.value), reply.revision);
            }
        }
        let mut outputs = Vec::new();
        if matches!(operation, Operation::Read { .. }) {
            outputs.extend(keys.iter().map(|key| Output::Get {
                value: value_of(key).map(|pair| pair.value.to_vec()),
                mod_revision: value_of(key).map(|pair| pair.mod_revision.unsigned_abs()),
            }));
        }
        if reply.revision < floor {
            let detail = format!("{operation:?} at {} after {floor}", reply.revision);
            self.violate("a member does not go back in time", detail);
        }
        self.answer(index, reply.revision, outputs);
    }

    /// The client has its answer.
    fn answer(&mut self, index: usize, revision: Revision, outputs: Vec<Output>) {
        let now = self.heap.now();
        let client = &mut self.clients[index];
        let pending = client.pending.take().expect("it waits for something");
        self.owners.remove(&pending.request);
        client.floor = client.floor.max(revision);
        let group = client.mind.group;
        let history = self.histories.get_mut(&group).expect("one per keyspace");
        assert_eq!(pending.recorded.len(), outputs.len(), "one answer per recorded operation");
        for (id, output) in pending.recorded.into_iter().zip(outputs) {
            history.succeed(id, Some(revision.unsigned_abs()), output, now.0);
        }
        self.acknowledged += 1;
        self.watchdog.moved(group, now.0);
        self.trace.number(revision.unsigned_abs());
        let progress = self.progress.entry((client.slot, group)).or_default();
        match pending.operation {
            Operation::Serializable { .. } => {}
            operation if operation.command().is_some() => progress.writes += 1,
            _ => progress.reads += 1,
        }
        let revision = Some(revision);
        self.observe(|| TraceEvent::Reply { client: index, outcome: "answered", revision });
        self.think(index);
    }
}

fn begin(history: &mut History, client: u64, operation: &Operation, now: u64) -> Vec<OperationId> {
    let mut record = |key: &Bytes, input| history.begin(client, key, input, now);
    match operation {
        Operation::Put { key, value } => vec![record(key, Input::Put { value: value.to_vec() })],
        Operation::CompareAndSet { key, expect, set } => {
            let expect = expect.as_ref().map(|value| value.to_vec());
            vec![record(key, Input::CompareAndSet { expect, set: set.to_vec() })]
        }
        Operation::Delete { key } => vec![record(key, Input::Delete)],
        Operation::Read { keys } => keys.iter().map(|key| record(key, Input::Get)).collect(),
        Operation::Serializable { .. }
        | Operation::Historical { .. }
        | Operation::Compact { .. }
        | Operation::PutPair { .. }
        | Operation::GetPair { .. } => Vec::new(),
    }
}

/// Whether a failed comparison shows the very value that it expected.
fn contradicts(key: &Bytes, expect: Option<&Bytes>, reply: &TxnReply) -> bool {
    if reply.succeeded {
        return false;
    }
    let [TxnOpReply::Range(found)] = &reply.replies[..] else { return true };
    found.pairs.iter().find(|pair| pair.key == *key).map(|pair| &pair.value) == expect
}

/// What the key holds after the write, if it had an effect.
fn written_value<'a>(
    operation: &'a Operation,
    output: &Option<Output>,
) -> Option<Option<&'a Bytes>> {
    match (operation, output) {
        (Operation::Put { value, .. }, _) => Some(Some(value)),
        (Operation::CompareAndSet { set, .. }, Some(Output::CompareAndSet { succeeded: true })) => {
            Some(Some(set))
        }
        (Operation::Delete { .. }, _) => Some(None),
        _ => None,
    }
}

fn key_of(operation: &Operation) -> Option<&Bytes> {
    match operation {
        Operation::Put { key, .. }
        | Operation::CompareAndSet { key, .. }
        | Operation::Delete { key } => Some(key),
        _ => None,
    }
}

fn read_keys(operation: &Operation) -> Vec<Bytes> {
    match operation {
        Operation::Read { keys } => keys.clone(),
        Operation::Serializable { key } | Operation::Historical { key, .. } => vec![key.clone()],
        Operation::GetPair { pair } => pair_keys(*pair).to_vec(),
        _ => Vec::new(),
    }
}
