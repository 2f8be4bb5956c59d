//! Fencing: a lock protects what it guards only if late writes of a former holder are kept out.
//!
//! Each holder has a *fence* (Kleppmann 2016; Chubby's sequencer; etcd's create revision), greater
//! than those of all before. The guarded register counts: a holder reads it once, and then writes
//! one more each time, so that a lost update is a number written twice.
//!
//! Not here: that the lock is given on when a holder is gone (`lease`).

use std::collections::BTreeMap;
use std::fmt;

/// Orders holders of one lock.
pub type Fence = u64;
/// Somebody who takes locks.
pub type Holder = u64;

/// A write of the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Of whom.
    pub holder: Holder,
    /// By which fence.
    pub fence: Fence,
    /// The number written.
    pub count: u64,
}

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two were given one fence.
    TwoHolders {
        /// Which.
        fence: Fence,
        /// The one.
        first: Holder,
        /// The other.
        second: Holder,
    },
    /// A former holder wrote after a later one.
    Stale {
        /// The last write before.
        before: Write,
        /// The write that should have been refused.
        write: Write,
    },
    /// A write did not build on the one before it.
    LostUpdate {
        /// The last write before; none: the first.
        before: Option<Write>,
        /// The write that overlooked it.
        write: Write,
    },
}

/// Watches one lock and the register that it guards, in the order of writes.
#[derive(Clone, Debug, Default)]
pub struct Fencing {
    holders: BTreeMap<Fence, Holder>,
    last: Option<Write>,
    writes: u64,
}

impl Fencing {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Somebody was told that it holds the lock.
    pub fn acquired(&mut self, holder: Holder, fence: Fence) -> Result<(), Violation> {
        let first = *self.holders.entry(fence).or_insert(holder);
        if first == holder {
            Ok(())
        } else {
            Err(Violation::TwoHolders { fence, first, second: holder })
        }
    }

    /// The register was written.
    pub fn written(&mut self, write: Write) -> Result<(), Violation> {
        self.acquired(write.holder, write.fence)?;
        let before = self.last.replace(write);
        self.writes += 1;
        match before {
            Some(before) if write.fence < before.fence => Err(Violation::Stale { before, write }),
            before if write.count != before.map_or(1, |before| before.count + 1) => {
                Err(Violation::LostUpdate { before, write })
            }
            _ => Ok(()),
        }
    }

    /// Holders that there were.
    pub fn holders(&self) -> usize {
        self.holders.len()
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by holder {} with fence {}", self.count, self.holder, self.fence)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::TwoHolders { fence, first, second } => {
                write!(f, "{first} and {second} both hold the lock with fence {fence}")
            }
            Violation::Stale { before, write } => write!(f, "{write}, after {before}"),
            Violation::LostUpdate { before: Some(before), write } => {
                write!(f, "{write} does not build on {before}")
            }
            Violation::LostUpdate { before: None, write } => {
                write!(f, "{write} is the first and not 1")
            }
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(holder: Holder, fence: Fence, count: u64) -> Write {
        Write { holder, fence, count }
    }

    #[test]
    fn holders_one_after_the_other_lose_nothing() {
        let mut fencing = Fencing::new();
        fencing.acquired(1, 10).unwrap();
        fencing.written(write(1, 10, 1)).unwrap();
        fencing.written(write(1, 10, 2)).unwrap();
        fencing.acquired(2, 15).unwrap();
        fencing.written(write(2, 15, 3)).unwrap();
        fencing.acquired(1, 20).unwrap();
        fencing.written(write(1, 20, 4)).unwrap();
        assert_eq!(fencing.holders(), 3);
    }

    #[test]
    fn a_late_write_of_a_former_holder_is_found() {
        let mut fencing = Fencing::new();
        fencing.written(write(1, 10, 1)).unwrap();
        fencing.written(write(2, 15, 2)).unwrap();
        let violation = fencing.written(write(1, 10, 2)).unwrap_err();
        assert!(matches!(violation, Violation::Stale { .. }));
        assert_eq!(
            violation.to_string(),
            "2 by holder 1 with fence 10, after 2 by holder 2 with fence 15"
        );
    }

    #[test]
    fn an_update_that_another_one_overwrites_is_found() {
        let mut fencing = Fencing::new();
        fencing.written(write(1, 10, 1)).unwrap();
        fencing.written(write(1, 10, 2)).unwrap();
        let violation = fencing.written(write(2, 15, 2)).unwrap_err();
        assert!(matches!(violation, Violation::LostUpdate { .. }));
        assert!(Fencing::new().written(write(1, 10, 2)).is_err(), "what was there before?");
    }

    #[test]
    fn two_holders_of_one_fence_are_found() {
        let mut fencing = Fencing::new();
        fencing.acquired(1, 10).unwrap();
        fencing.acquired(1, 10).unwrap();
        assert!(fencing.acquired(2, 10).is_err());
        assert!(fencing.written(write(3, 10, 1)).is_err());
    }
}
