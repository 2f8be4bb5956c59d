//! Fault schedule: which faults happened when, so that a run can be repeated with some of them.
//!
//! Every fault carries the state of the stream that it drew from. Repeated, it draws the same
//! victim, length and links, whatever became of the faults before it. Not here: choosing which to
//! leave out (`shrink`).

use crate::event_heap::Instant;
use crate::faults::FaultKind;
use crate::rng::Rng;

/// One fault, as it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledFault {
    /// When, in true time.
    pub at: Instant,
    /// What.
    pub kind: FaultKind,
    pub(crate) draws: Rng,
}

/// Faults in the order in which they happened.
pub type FaultSchedule = Vec<ScheduledFault>;
