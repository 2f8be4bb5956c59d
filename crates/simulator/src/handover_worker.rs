//! Handovers: somebody asks leaders to give their groups to others, all the time, as a rolling
//! restart does.
//!
//! Not here: what a leader may do once it has begun to hand over (`consensus`).

use crate::event_heap::{Instant, MILLISECOND};
use crate::judges::Judges;
use crate::mark::Mark;
use crate::rng::Rng;
use crate::witness::Breach;
use crate::worker::{Behaviour, Heard, Span, What, Wish};
use clocks::GroupId;

/// Who asks.
pub(crate) struct HandoverWorker {
    group: GroupId,
    rng: Rng,
}

impl HandoverWorker {
    /// One that asks whoever leads this group.
    pub(crate) fn new(group: GroupId, rng: Rng) -> HandoverWorker {
        HandoverWorker { group, rng }
    }
}

impl Behaviour for HandoverWorker {
    fn wish(&mut self, _: Instant, _: &mut Judges) -> Wish {
        Wish { group: self.group, caller: None, what: What::MoveLeader }
    }

    fn hear(&mut self, heard: Heard, _: Span, judges: &mut Judges) -> Result<(), Breach> {
        if matches!(heard, Heard::LeaderMoved) {
            judges.marks.reach(Mark::LeaderMoved);
        }
        Ok(())
    }

    fn pause(&mut self, _: Instant) -> u64 {
        self.rng.exponential(400 * MILLISECOND)
    }
}
