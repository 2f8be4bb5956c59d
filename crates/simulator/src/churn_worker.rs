//! Churn: keys that come and go while ranges over them are read, in every order and with every
//! limit, and history is compacted at the very edge of the present.
//!
//! What a range shows is held against the state of its revision, whole (`witness`).

use crate::event_heap::{Instant, MILLISECOND};
use crate::judges::Judges;
use crate::rng::{Chance, Rng};
use crate::witness::Breach;
use crate::worker::{Behaviour, Heard, Span, What, Wish};
use bytes::Bytes;
use clocks::GroupId;
use store::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, Put, Txn, TxnOp,
};
use store::range::{KeyRange, Projection, Range, Revision, SortOrder, SortTarget};
use store::reply::Outcome;

/// Names in use.
const NAMES: u64 = 24;

/// What it does to history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compacting {
    /// Leaves it.
    Never,
    /// Compacts at, or next to, the newest revision that it knows.
    AtTheEdge,
}

/// One client.
pub(crate) struct ChurnWorker {
    group: GroupId,
    number: u64,
    rng: Rng,
    compacting: Compacting,
    written: u64,
    revision: Revision,
    /// What is not known to have been done is asked for again until it is.
    again: Option<Command>,
    asked: Option<Command>,
}

impl ChurnWorker {
    /// A client that has seen nothing.
    pub(crate) fn new(
        number: u64,
        group: GroupId,
        compacting: Compacting,
        rng: Rng,
    ) -> ChurnWorker {
        let (again, asked) = (None, None);
        ChurnWorker { group, number, rng, compacting, written: 0, revision: 1, again, asked }
    }

    fn keys(&mut self) -> KeyRange {
        let first = self.rng.below(NAMES);
        let last = self.rng.between(first + 1, NAMES);
        match self.rng.below(4) {
            0 => KeyRange::Key(name(first)),
            _ => KeyRange::Span { start: name(first), end: name(last) },
        }
    }

    fn read(&mut self) -> Range {
        let keys = self.keys();
        let targets = [
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ];
        let orders = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
        let projections = [Projection::Full, Projection::KeysOnly, Projection::CountOnly];
        let mut range = Range::of(keys);
        range.limit = self.rng.pick(&[0, 0, 1, 3, 10]);
        range.sort_target = self.rng.pick(&targets);
        range.sort_order = self.rng.pick(&orders);
        range.projection = self.rng.pick(&projections);
        if self.rng.chance(Chance::percent(20)) {
            range.min_mod_revision = self.revision - 20;
        }
        range
    }

    /// Made once however often it is asked for, without a request's number: only if it is absent.
    fn create(&mut self) -> Command {
        self.written += 1;
        let key = Bytes::from(format!("once/{}.{}", self.number, self.written));
        let value = Bytes::from(format!("once {}.{}", self.number, self.written));
        let (keys, result) = (KeyRange::Key(key.clone()), CompareResult::Equal);
        let absent = Compare { keys, result, target: CompareTarget::Version(0) };
        let put = TxnOp::Put(Put { key, value, ..Put::default() });
        Command::Txn(Txn { compare: vec![absent], success: vec![put], failure: vec![] })
    }

    fn write(&mut self) -> Command {
        self.written += 1;
        match self.rng.below(8) {
            0 | 1 => {
                let keys = self.keys();
                Command::DeleteRange(DeleteRange { keys, prev_kv: self.rng.flip() })
            }
            2 | 3 => self.create(),
            4 if self.compacting == Compacting::AtTheEdge => {
                let back = i64::try_from(self.rng.below(3)).expect("small");
                Command::Compact { revision: (self.revision - back).max(1) }
            }
            _ => {
                let value = Bytes::from(format!("churn {}.{}", self.number, self.written));
                let key = name(self.rng.below(NAMES));
                Command::Put(Put { key, value, prev_kv: self.rng.flip(), ..Put::default() })
            }
        }
    }
}

impl Behaviour for ChurnWorker {
    fn wish(&mut self, _: Instant, _: &mut Judges) -> Wish {
        self.asked = self.again.take();
        let what = match &self.asked {
            Some(again) => What::Write(again.clone()),
            None if self.rng.flip() => What::Read(self.read()),
            None => {
                let command = self.write();
                self.asked = Some(command.clone());
                What::Write(command)
            }
        };
        Wish { group: self.group, caller: None, what }
    }

    fn hear(&mut self, heard: Heard, _: Span, _: &mut Judges) -> Result<(), Breach> {
        match heard {
            Heard::Read(reply) => self.revision = self.revision.max(reply.revision),
            Heard::Written(
                Outcome::Put { revision, .. }
                | Outcome::DeleteRange { revision, .. }
                | Outcome::Compacted { revision }
                | Outcome::Txn { revision, .. },
            ) => self.revision = self.revision.max(revision),
            Heard::Unknown | Heard::Undone => {
                self.again = self.asked.take().filter(|command| matches!(command, Command::Txn(_)));
            }
            _ => {}
        }
        Ok(())
    }

    fn pause(&mut self, _: Instant) -> u64 {
        self.rng.exponential(60 * MILLISECOND)
    }
}

fn name(number: u64) -> Bytes {
    Bytes::from(format!("churn/{number:02}"))
}
