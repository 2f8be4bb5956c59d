//! Lock contenders: queue up for a lock by keys under leases, and count a register while they hold
//! it, each write on the condition that their key is still there.
//!
//! The recipe of etcd's Lock and Election services over plain commands: who created its key first
//! holds the lock, and the key's create revision is the fence. Now and then a holder stands still
//! for longer than its lease and goes on as if nothing had happened. One that does not know whether
//! a write was applied begins anew. Not here: judging (`checkers::fencing`).

use crate::event_heap::{Instant, MILLISECOND, SECOND};
use crate::judges::{Judges, fencing_breach};
use crate::mark::Mark;
use crate::rng::{Chance, Rng};
use crate::witness::Breach;
use crate::worker::{Behaviour, Heard, Span, What, Wish};
use bytes::Bytes;
use checkers::fencing::Write;
use clocks::GroupId;
use store::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, Put, Txn, TxnOp,
};
use store::range::{KeyRange, Range, Revision};
use store::reply::{Outcome, RangeReply};

/// Time to live of a contender's lease in seconds.
const TTL_S: u64 = 2;

/// The register that the lock guards.
pub(crate) const REGISTER: &[u8] = b"register";

/// Where a contender stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Wants a lease.
    Idle,
    /// Has a lease and wants a key.
    Leased,
    /// Has a key, created at this revision, and waits for those before it.
    Queued(Revision),
    /// Holds the lock and is to read the register.
    Holds(Revision),
    /// Has read or written this count.
    Counts(Revision, u64),
    /// Gives the lock up.
    Leaves,
}

/// One contender.
pub(crate) struct LockContender {
    number: u64,
    group: GroupId,
    rng: Rng,
    lives: i64,
    state: State,
    renewing: bool,
    /// Stands still, holding the lock or not.
    stalls: bool,
}

impl LockContender {
    /// A contender that wants the lock.
    pub(crate) fn new(number: u64, group: GroupId, rng: Rng) -> LockContender {
        let state = State::Idle;
        LockContender { number, group, rng, lives: 0, state, renewing: false, stalls: false }
    }

    fn lease(&self) -> i64 {
        // Apart from those of lease holders.
        1 << 62 | i64::try_from(self.number).expect("small") << 32 | self.lives
    }

    fn key(&self) -> Bytes {
        Bytes::from(format!("lock/{:x}", self.lease()))
    }

    fn is_key_created(&self, at: Revision) -> Compare {
        Compare {
            keys: KeyRange::Key(self.key()),
            result: CompareResult::Equal,
            target: CompareTarget::Create(at),
        }
    }

    fn queue_up(&self) -> Command {
        let value = Bytes::from(format!("contender {:x}", self.lease()));
        let put = Put { key: self.key(), value, lease: self.lease(), ..Put::default() };
        Command::Txn(Txn {
            compare: vec![self.is_key_created(0)],
            success: vec![TxnOp::Put(put)],
            failure: Vec::new(),
        })
    }

    /// Counts on, if the key that is the lock is still there.
    fn count(&self, fence: Revision, count: u64) -> Command {
        let value = format!("{count} {} {fence}", self.number);
        let key = Bytes::from_static(REGISTER);
        let put = Put { key, value: value.into(), ..Put::default() };
        Command::Txn(Txn {
            compare: vec![self.is_key_created(fence)],
            success: vec![TxnOp::Put(put)],
            failure: Vec::new(),
        })
    }

    fn leave(&mut self) -> Command {
        if self.rng.flip() {
            let keys = KeyRange::Key(self.key());
            Command::DeleteRange(DeleteRange { keys, prev_kv: false })
        } else {
            Command::LeaseRevoke { id: self.lease() }
        }
    }

    fn queue(&self) -> Range {
        let (start, end) = (Bytes::from_static(b"lock/"), Bytes::from_static(b"lock0"));
        Range::of(KeyRange::Span { start, end })
    }

    /// Who is first in the queue?
    fn look(&self, created: Revision, reply: &RangeReply) -> State {
        let first = reply.pairs.iter().min_by_key(|pair| pair.create_revision);
        let mine = reply.pairs.iter().any(|pair| pair.key == self.key());
        match first {
            Some(first) if first.key == self.key() => State::Holds(created),
            _ if mine => State::Queued(created),
            _ => State::Idle,
        }
    }

    fn hear_written(&mut self, outcome: &Outcome, judges: &mut Judges) {
        self.state = match (self.state, outcome) {
            (State::Idle, Outcome::LeaseGranted { .. }) => State::Leased,
            (State::Leased, Outcome::Txn { revision, reply }) if reply.succeeded => {
                State::Queued(*revision)
            }
            (State::Counts(fence, count), Outcome::Txn { reply, .. }) if reply.succeeded => {
                State::Counts(fence, count + 1)
            }
            (State::Counts(..), Outcome::Txn { .. }) => {
                judges.marks.reach(Mark::FenceKeptOut);
                State::Idle
            }
            _ => State::Idle,
        };
    }
}

impl Behaviour for LockContender {
    fn wish(&mut self, _: Instant, _: &mut Judges) -> Wish {
        self.renewing = false;
        let renews = matches!(self.state, State::Queued(_) | State::Counts(..));
        let what = match self.state {
            _ if renews && !self.stalls && self.rng.below(3) == 0 => {
                self.renewing = true;
                What::Write(Command::LeaseRenew { ids: vec![self.lease()] })
            }
            State::Idle => {
                self.lives += 1;
                What::Write(Command::LeaseGrant { id: self.lease(), ttl_s: TTL_S })
            }
            State::Leased => What::Write(self.queue_up()),
            State::Queued(_) => What::Read(self.queue()),
            State::Holds(_) => {
                let register = KeyRange::Key(Bytes::from_static(REGISTER));
                What::Read(Range::of(register))
            }
            State::Counts(fence, count) => What::Write(self.count(fence, count + 1)),
            State::Leaves => What::Write(self.leave()),
        };
        Wish { group: self.group, caller: None, what }
    }

    fn hear(&mut self, heard: Heard, _: Span, judges: &mut Judges) -> Result<(), Breach> {
        self.stalls = false;
        if self.renewing {
            // Whether it was renewed or not: only the fence counts.
            return Ok(());
        }
        match (self.state, heard) {
            (State::Queued(created), Heard::Read(reply)) => {
                self.state = self.look(created, &reply);
                if let State::Holds(fence) = self.state {
                    judges.marks.reach(Mark::LockTaken);
                    let fencing = judges.fencing.get_mut(&self.group).expect("one per keyspace");
                    let checked = fencing.acquired(self.number, fence.unsigned_abs());
                    return fencing_breach(self.group, checked);
                }
            }
            (State::Holds(fence), Heard::Read(reply)) => {
                let found = reply.pairs.first().and_then(|pair| read_register(&pair.value));
                self.state = State::Counts(fence, found.map_or(0, |write| write.count));
            }
            // Asking again is harmless.
            (State::Queued(_) | State::Holds(_), _) => {}
            (_, Heard::Written(outcome)) => self.hear_written(&outcome, judges),
            // The key, or the count, may come to be there still: that of another life.
            _ => self.state = State::Idle,
        }
        if let State::Counts(..) = self.state {
            self.stalls = self.rng.chance(Chance::percent(10));
            if self.rng.chance(Chance::percent(10)) {
                self.state = State::Leaves;
            }
        }
        Ok(())
    }

    fn pause(&mut self, _: Instant) -> u64 {
        match self.state {
            State::Counts(..) if self.stalls => SECOND + self.rng.below(4 * SECOND),
            State::Queued(_) => self.rng.exponential(200 * MILLISECOND),
            _ => self.rng.exponential(60 * MILLISECOND),
        }
    }
}

/// What a write of the register says.
pub(crate) fn read_register(value: &Bytes) -> Option<Write> {
    let mut numbers = std::str::from_utf8(value).ok()?.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Write { count: next()?, holder: next()?, fence: next()? })
}
