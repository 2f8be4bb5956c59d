//! Workers: clients of the features beside keys. Each asks one thing at a time, at one member after
//! the other, and tells the judges what it was told.
//!
//! Invariant: what a worker could not have known is heard as unknown, never as refused. Not here:
//! what the workers of a feature do (`lease_holder` and its like), the clients that read and write
//! keys (`front_end`).

use crate::account_worker::caller;
use crate::cluster::{Event, Phase, World};
use crate::event_heap::{Instant, MILLISECOND};
use crate::judges::Judges;
use crate::mark::Mark;
use crate::mutant::Mutant;
use crate::network::Slot;
use crate::rng::{Chance, Rng};
use crate::witness::Breach;
use clocks::GroupId;
use replica::{Ask, LogEvent, Reply, Request, RequestError, RequestId};
use std::sync::Arc;
use std::time::Duration;
use store::command::{Caller, Command, Txn, TxnOp};
use store::range::Range;
use store::reply::{AuthError, Outcome, RangeReply, StoreError};

/// What a worker asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Of which group.
    pub(crate) group: GroupId,
    /// On whose behalf.
    pub(crate) caller: Option<Caller>,
    /// What.
    pub(crate) what: What,
}

/// A write or a read.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Apply this.
    Write(Command),
    /// Read this, linearizably.
    Read(Range),
    /// Hand the leadership over.
    MoveLeader,
}

/// What a worker hears.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    /// It was applied.
    Written(Outcome),
    /// It was read.
    Read(RangeReply),
    /// Another member leads.
    LeaderMoved,
    /// The state machine refused it.
    Refused(StoreError),
    /// Certainly without effect.
    Undone,
    /// Perhaps with an effect, now or later.
    Unknown,
}

/// When it was asked, and when it was heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// The request left.
    pub(crate) asked: Instant,
    /// The answer came, or the worker gave up.
    pub(crate) heard: Instant,
}

/// What a worker does.
pub(crate) trait Behaviour {
    /// What to ask for next.
    fn wish(&mut self, now: Instant, judges: &mut Judges) -> Wish;

    /// How it ended.
    fn hear(&mut self, heard: Heard, span: Span, judges: &mut Judges) -> Result<(), Breach>;

    /// Nanoseconds until the next wish.
    fn pause(&mut self, now: Instant) -> u64;
}

/// A worker and the member that it talks to.
pub(crate) struct Worker {
    slot: Slot,
    behaviour: Box<dyn Behaviour>,
    pending: Option<Pending>,
    rng: Rng,
}

struct Pending {
    request: RequestId,
    asked: Instant,
    /// On whose behalf the member asked.
    caller: Option<Caller>,
    wish: Wish,
}

/// How often a worker goes on at another member though this one serves it.
const ROAM: Chance = Chance::percent(5);

impl Worker {
    /// A worker that has asked for nothing.
    pub(crate) fn new(slot: Slot, behaviour: Box<dyn Behaviour>, rng: Rng) -> Worker {
        Worker { slot, behaviour, pending: None, rng }
    }

    /// Whether it waits for nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_none()
    }
}

impl World {
    pub(crate) fn on_worker_wake(&mut self, index: usize) {
        if self.phase == Phase::Settle {
            return;
        }
        let now = self.heap.now();
        let worker = &mut self.workers[index];
        assert!(worker.pending.is_none(), "a worker asks one thing at a time");
        let node = &self.nodes[worker.slot];
        if !node.is_up() || node.abandoned || worker.rng.chance(ROAM) {
            worker.slot = worker.rng.index(self.nodes.len());
            let retry = worker.rng.between(5, 50) * MILLISECOND;
            self.heap.after(retry, Event::WorkerWake { worker: index });
            return;
        }
        let wish = worker.behaviour.wish(now, &mut self.judges);
        if let What::Write(Command::Compact { revision }) = wish.what {
            let compacted = self.compacted.entry(wish.group).or_default();
            *compacted = revision.max(*compacted);
        }
        let request = RequestId(self.next_request);
        self.next_request += 1;
        let slot = worker.slot;
        let ask = match &wish.what {
            What::Write(command) => Ask::Write(self.planted(command)),
            What::Read(_) => Ask::ReadBarrier,
            What::MoveLeader => Ask::TransferLeadership { to: None },
        };
        let group = wish.group;
        let caller = match (&wish.what, self.mutant) {
            (What::Write(Command::Txn(txn)), Some(Mutant::NestedUnchecked)) if is_nested(txn) => {
                Some(Caller::Cluster)
            }
            _ => self.admitted(slot, group, wish.caller.clone()),
        };
        let pending = Pending { request, asked: now, caller: caller.clone(), wish };
        self.workers[index].pending = Some(pending);
        self.asked.insert(request, index);
        self.operations += 1;
        let timeout = self.swarm.workload.timeout;
        self.heap.after(timeout, Event::WorkerTimeout { worker: index, request });
        let clock = self.nodes[slot].clock.monotonic(now);
        let deadline = clock.after(Duration::from_nanos(timeout));
        if self.mutant == Some(Mutant::GateIgnored) {
            self.ignore_gate(slot);
        }
        self.watch_request(slot, request);
        self.tell(slot, LogEvent::Request(Request { id: request, group, deadline, caller, ask }));
        self.serve_operator();
    }

    /// On whose behalf a member asks: as in production, on nobody's where it knows of no
    /// authentication, so that no caller travels before every member can read of one. Who names
    /// nobody is not there to be refused.
    pub(crate) fn admitted(
        &self,
        slot: Slot,
        group: GroupId,
        named: Option<Caller>,
    ) -> Option<Caller> {
        let process = self.nodes[slot].process.as_ref()?;
        let asks = process.applier.accounts(group).is_enabled();
        asks.then(|| named.or_else(|| caller("root"))).flatten()
    }

    /// What the front end makes of a command: another one, if a bug is planted there.
    fn planted(&self, command: &Command) -> Command {
        match (self.mutant, command) {
            (Some(Mutant::RenewalRevives), Command::LeaseRenew { ids }) => {
                Command::LeaseGrant { id: ids[0], ttl_s: 2 }
            }
            (Some(Mutant::FenceForgotten), Command::Txn(txn)) => {
                Command::Txn(Txn { compare: Vec::new(), ..txn.clone() })
            }
            _ => command.clone(),
        }
    }

    pub(crate) fn on_worker_timeout(&mut self, index: usize, request: RequestId) {
        if self.asked.contains_key(&request) {
            self.workers[index].slot = self.rng.index(self.nodes.len());
            self.worker_hears(index, Heard::Unknown);
        }
    }

    /// The member died: those that asked it do not know what became of it.
    pub(crate) fn abandon_workers(&mut self, slot: Slot) {
        for index in 0..self.workers.len() {
            if self.workers[index].slot == slot && self.workers[index].pending.is_some() {
                self.worker_hears(index, Heard::Unknown);
            }
        }
    }

    /// An answer for a worker; false if no worker waits for it.
    pub(crate) fn on_worker_reply(
        &mut self,
        request: RequestId,
        result: &Result<Reply, RequestError>,
    ) -> bool {
        let Some(&index) = self.asked.get(&request) else { return false };
        let heard = match result {
            Ok(Reply::Written(outcome)) => Heard::Written(outcome.clone()),
            Ok(Reply::ReadReady) => self.worker_reads(index),
            Ok(Reply::LeadershipTransferred) => Heard::LeaderMoved,
            Ok(other) => unreachable!("no worker asks for {other:?}"),
            // Admitted by a member that had not heard of authentication.
            Err(RequestError::Refused(StoreError::Auth(AuthError::UserEmpty))) => Heard::Undone,
            Err(RequestError::Refused(error)) => Heard::Refused(error.clone()),
            Err(RequestError::NotCapable) => {
                self.marks.reach(Mark::NotCapable);
                Heard::Undone
            }
            Err(RequestError::TimedOut | RequestError::OutcomeUnknown | RequestError::Stopping) => {
                Heard::Unknown
            }
            Err(_) => Heard::Undone,
        };
        if !matches!(heard, Heard::Undone | Heard::Unknown) {
            self.acknowledged += 1;
        }
        let changed = matches!(heard, Heard::Written(Outcome::Members(_)));
        let slot = self.workers[index].slot;
        if matches!(result, Err(RequestError::NotLeader)) {
            // Somebody else does.
            self.workers[index].slot = self.rng.index(self.nodes.len());
        }
        self.worker_hears(index, heard);
        if changed && !self.is_over() {
            self.check_adopted(slot);
        }
        self.serve_operator();
        true
    }

    fn worker_reads(&mut self, index: usize) -> Heard {
        let worker = &self.workers[index];
        let slot = worker.slot;
        let pending = worker.pending.as_ref().expect("it waits for a read");
        let (group, what, caller) =
            (pending.wish.group, pending.wish.what.clone(), pending.caller.clone());
        let What::Read(range) = what else { unreachable!("only reads have a barrier") };
        let reader = self.process(slot).applier.reader(group);
        let accounts = reader.accounts(&Arc::default()).expect("memory does not fail");
        let standing = accounts.standing(caller.as_ref());
        let allowed = standing.and_then(|standing| standing.may_read(&range.keys));
        if let Err(error) = allowed
            && self.mutant != Some(Mutant::ReadUnchecked)
        {
            return match error {
                AuthError::UserEmpty => Heard::Undone,
                error => Heard::Refused(StoreError::Auth(error)),
            };
        }
        match reader.range(&range).expect("memory does not fail") {
            Ok(reply) => {
                let checked = match self.witness.keyspace(group) {
                    Some(keyspace) => keyspace.answers(&range, &reply),
                    None => Ok(()),
                };
                self.check(checked);
                Heard::Read(reply)
            }
            Err(error) => Heard::Refused(error),
        }
    }

    fn worker_hears(&mut self, index: usize, heard: Heard) {
        let now = self.heap.now();
        let worker = &mut self.workers[index];
        let pending = worker.pending.take().expect("it waits for something");
        self.asked.remove(&pending.request);
        let span = Span { asked: pending.asked, heard: now };
        let checked = worker.behaviour.hear(heard, span, &mut self.judges);
        let pause = worker.behaviour.pause(now);
        self.heap.after(pause, Event::WorkerWake { worker: index });
        self.check(checked);
        let checked = self.judges.check(now);
        self.check(checked);
    }
}

fn is_nested(txn: &Txn) -> bool {
    txn.success.iter().any(|op| matches!(op, TxnOp::Txn(_)))
}
