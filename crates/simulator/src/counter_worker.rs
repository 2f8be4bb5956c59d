//! Counters and transfers: clients that read, and write on the condition that nothing has changed
//! since, in transactions within transactions.
//!
//! A counter goes up by one with each success; a transfer moves an amount between two accounts,
//! whose sum stays. Whoever does not know whether it succeeded reads anew: both conditions keep it
//! from happening twice. Judged by what every revision left (`checkers::balance`).

use crate::event_heap::{Instant, MILLISECOND};
use crate::judges::Judges;
use crate::mark::Mark;
use crate::rng::Rng;
use crate::witness::Breach;
use crate::worker::{Behaviour, Heard, Span, What, Wish};
use bytes::Bytes;
use clocks::GroupId;
use store::command::{Command, Compare, CompareResult, CompareTarget, Put, Txn, TxnOp};
use store::range::{KeyRange, KeyValue, Range, Revision};
use store::reply::{Outcome, RangeReply};

/// Keys of counters.
pub(crate) const COUNTERS: &str = "counter/";
/// Keys of accounts.
pub(crate) const ACCOUNTS: &str = "account/";
const COUNTER_COUNT: u64 = 2;
const ACCOUNT_COUNT: u64 = 4;
/// What each account holds at first.
pub(crate) const OPENING_BALANCE: i64 = 100;

/// One client.
pub(crate) struct CounterWorker {
    group: GroupId,
    number: u64,
    rng: Rng,
    written: u64,
    seen: Option<RangeReply>,
    /// The counter that it is asked to raise, and to what.
    raising: Option<(Bytes, i64)>,
}

impl CounterWorker {
    /// A client that has seen nothing.
    pub(crate) fn new(number: u64, group: GroupId, rng: Rng) -> CounterWorker {
        CounterWorker { group, number, rng, written: 0, seen: None, raising: None }
    }

    /// The amount, and a name that no other write has.
    fn value(&mut self, amount: i64) -> Bytes {
        self.written += 1;
        Bytes::from(format!("{amount} {}.{}", self.number, self.written))
    }

    fn raise(&mut self, seen: &RangeReply) -> Command {
        let key = Bytes::from(format!("{COUNTERS}{}", self.rng.below(COUNTER_COUNT)));
        let (count, at) = standing(seen, &key, 0);
        let put = Put { key: key.clone(), value: self.value(count + 1), ..Put::default() };
        self.raising = Some((key.clone(), count + 1));
        let unchanged = vec![unchanged(key, at)];
        Command::Txn(Txn { compare: unchanged, success: vec![TxnOp::Put(put)], failure: vec![] })
    }

    /// Each account is compared in a transaction of its own, two deep, and both are written in the
    /// third.
    fn transfer(&mut self, seen: &RangeReply) -> Command {
        let from = self.rng.below(ACCOUNT_COUNT);
        let to = (from + self.rng.between(1, ACCOUNT_COUNT - 1)) % ACCOUNT_COUNT;
        let [from, to] = [from, to].map(|number| Bytes::from(format!("{ACCOUNTS}{number}")));
        let amount = i64::try_from(self.rng.between(1, 20)).expect("small");
        let (from_balance, from_at) = standing(seen, &from, OPENING_BALANCE);
        let (to_balance, to_at) = standing(seen, &to, OPENING_BALANCE);
        let mut put = |key: &Bytes, balance| {
            TxnOp::Put(Put { key: key.clone(), value: self.value(balance), ..Put::default() })
        };
        let puts = vec![put(&from, from_balance - amount), put(&to, to_balance + amount)];
        let inner = Txn { success: puts, ..Txn::default() };
        let middle = Txn {
            compare: vec![unchanged(to, to_at)],
            success: vec![TxnOp::Txn(inner)],
            failure: vec![],
        };
        Command::Txn(Txn {
            compare: vec![unchanged(from, from_at)],
            success: vec![TxnOp::Txn(middle)],
            failure: vec![],
        })
    }
}

/// What a key says, and since when.
fn standing(seen: &RangeReply, key: &Bytes, absent: i64) -> (i64, Revision) {
    let found = seen.pairs.iter().find(|pair| pair.key == *key);
    found.map_or((absent, 0), |pair| (amount(pair).unwrap_or(absent), pair.mod_revision))
}

/// The amount that a value names.
pub(crate) fn amount(pair: &KeyValue) -> Option<i64> {
    std::str::from_utf8(&pair.value).ok()?.split(' ').next()?.parse().ok()
}

fn unchanged(key: Bytes, at: Revision) -> Compare {
    let (keys, result) = (KeyRange::Key(key), CompareResult::Equal);
    Compare { keys, result, target: CompareTarget::Mod(at) }
}

impl Behaviour for CounterWorker {
    fn wish(&mut self, _: Instant, _: &mut Judges) -> Wish {
        self.raising = None;
        let what = match self.seen.take() {
            None => {
                let (start, end) = (Bytes::from(ACCOUNTS), Bytes::from("counter0"));
                What::Read(Range::of(KeyRange::Span { start, end }))
            }
            Some(seen) if self.rng.flip() => What::Write(self.raise(&seen)),
            Some(seen) => What::Write(self.transfer(&seen)),
        };
        Wish { group: self.group, caller: None, what }
    }

    fn hear(&mut self, heard: Heard, _: Span, judges: &mut Judges) -> Result<(), Breach> {
        match heard {
            Heard::Read(reply) => self.seen = Some(reply),
            Heard::Written(Outcome::Txn { reply, .. }) => {
                judges.marks.reach(match reply.succeeded {
                    true => Mark::ComparisonHeld,
                    false => Mark::ComparisonFailed,
                });
                if let Some((key, count)) = self.raising.take().filter(|_| reply.succeeded) {
                    let balances = judges.balances.entry(self.group).or_default();
                    balances.raised(&key, count);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pause(&mut self, _: Instant) -> u64 {
        // What was seen is acted upon soon, or others always come first.
        let mean = if self.seen.is_some() { 5 } else { 120 };
        self.rng.exponential(mean * MILLISECOND)
    }
}
