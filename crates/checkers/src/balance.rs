//! Balances: counters go up by one at a time, and transfers leave the sum as it was, at every
//! revision.
//!
//! The bank and counter workloads of Jepsen, judged from the order of revisions: what a transaction
//! writes on a condition must follow from what stood there, and all of it is written at once.

use std::collections::BTreeMap;
use std::fmt;

use crate::history::Revision;

/// What must not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A counter did not go up by one: an update was lost, or made twice.
    Leap {
        /// Which.
        counter: Vec<u8>,
        /// What it was.
        before: i64,
        /// What it became.
        after: i64,
        /// Where.
        revision: Revision,
    },
    /// The sum of all accounts changed.
    Sum {
        /// By how much.
        difference: i64,
        /// Where.
        revision: Revision,
    },
    /// An acknowledged count was never reached.
    Lost {
        /// Which counter.
        counter: Vec<u8>,
        /// What was acknowledged.
        acknowledged: i64,
        /// What it stands at.
        found: i64,
    },
}

/// The counters and accounts of one keyspace, in the order of revisions.
#[derive(Clone, Debug, Default)]
pub struct Balances {
    opening: i64,
    counters: BTreeMap<Vec<u8>, i64>,
    accounts: BTreeMap<Vec<u8>, i64>,
    acknowledged: BTreeMap<Vec<u8>, i64>,
}

impl Balances {
    /// Accounts that hold `opening` each until they are written.
    pub fn new(opening: i64) -> Self {
        Balances { opening, ..Balances::default() }
    }

    /// A counter was written.
    pub fn counted(&mut self, key: &[u8], after: i64, revision: Revision) -> Result<(), Violation> {
        let before = self.counters.insert(key.to_vec(), after).unwrap_or(0);
        if after == before + 1 {
            return Ok(());
        }
        Err(Violation::Leap { counter: key.to_vec(), before, after, revision })
    }

    /// These accounts were written at one revision.
    pub fn moved(&mut self, written: &[(&[u8], i64)], revision: Revision) -> Result<(), Violation> {
        let mut difference = 0;
        for (key, after) in written {
            let before = self.accounts.insert(key.to_vec(), *after).unwrap_or(self.opening);
            difference += after - before;
        }
        if difference == 0 { Ok(()) } else { Err(Violation::Sum { difference, revision }) }
    }

    /// Somebody was told that they raised a counter to this.
    pub fn raised(&mut self, key: &[u8], count: i64) {
        let highest = self.acknowledged.entry(key.to_vec()).or_default();
        *highest = count.max(*highest);
    }

    /// At the end: what was acknowledged is there.
    pub fn check(&self) -> Result<(), Violation> {
        for (counter, &acknowledged) in &self.acknowledged {
            let found = self.counters.get(counter).copied().unwrap_or(0);
            if found < acknowledged {
                return Err(Violation::Lost { counter: counter.clone(), acknowledged, found });
            }
        }
        Ok(())
    }

    /// How many counters and accounts were written.
    pub fn seen(&self) -> usize {
        self.counters.len() + self.accounts.len()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        match self {
            Violation::Leap { counter, before, after, revision } => write!(
                f,
                "counter {} went from {before} to {after} at revision {revision}",
                text(counter)
            ),
            Violation::Sum { difference, revision } => {
                write!(f, "the sum of the accounts changed by {difference} at revision {revision}")
            }
            Violation::Lost { counter, acknowledged, found } => write!(
                f,
                "counter {} stands at {found}, although {acknowledged} was acknowledged",
                text(counter)
            ),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_stands_or_leaps_is_found() {
        let mut balances = Balances::new(100);
        balances.counted(b"c", 1, 2).unwrap();
        balances.counted(b"d", 1, 3).unwrap();
        balances.counted(b"c", 2, 4).unwrap();
        let lost = balances.counted(b"c", 2, 5).unwrap_err();
        assert_eq!(lost.to_string(), "counter c went from 2 to 2 at revision 5");
        assert!(balances.counted(b"c", 4, 6).is_err());
        assert_eq!(balances.seen(), 2);
    }

    #[test]
    fn half_a_transfer_is_found() {
        let mut balances = Balances::new(100);
        balances.moved(&[(b"a", 90), (b"b", 110)], 2).unwrap();
        balances.moved(&[(b"b", 100), (b"c", 110)], 3).unwrap();
        let half = balances.moved(&[(b"a", 80)], 4).unwrap_err();
        assert_eq!(half, Violation::Sum { difference: -10, revision: 4 });
    }

    #[test]
    fn an_acknowledged_count_that_vanished_is_found() {
        let mut balances = Balances::new(0);
        balances.counted(b"c", 1, 2).unwrap();
        balances.raised(b"c", 1);
        balances.check().unwrap();
        balances.raised(b"c", 2);
        let lost = balances.check().unwrap_err();
        assert!(lost.to_string().contains("stands at 1, although 2 was acknowledged"));
    }
}
