//! Profiles: what kind of world a seed draws, from one without faults to ones beyond the promises.
//!
//! A promise has limits (docs/guarantees.md). In the two profiles beyond them a violation is
//! expected, and one that is not found says that the checks are hollow.

use crate::event_heap::{MILLISECOND, SECOND};
use crate::faults::FaultKind;
use crate::mutant::Mutant;
use crate::swarm::Swarm;

/// A kind of world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Nothing goes wrong.
    Calm,
    /// Every seed draws which faults there are, and how often.
    #[default]
    Swarm,
    /// As `Swarm`, with workloads and faults that are new: not all that they find is explained.
    Frontier,
    /// All faults that any seed may draw, each at its highest rate.
    Hostile,
    /// Members are far apart: tens of milliseconds one way.
    Wan,
    /// Monotonic clocks differ in rate by more than the bound that leases rely on.
    BeyondClockBound,
    /// Disks acknowledge a sync before anything is durable, and all machines lose power together.
    LyingFsync,
}

impl Profile {
    /// All of them, with the names that people give them.
    pub const ALL: [(&'static str, Profile); 7] = [
        ("calm", Profile::Calm),
        ("swarm", Profile::Swarm),
        ("frontier", Profile::Frontier),
        ("hostile", Profile::Hostile),
        ("wan", Profile::Wan),
        ("beyond-clock-bound", Profile::BeyondClockBound),
        ("lying-fsync", Profile::LyingFsync),
    ];

    /// Whether it goes beyond what is promised, so that a violation must be found.
    #[must_use]
    pub const fn is_beyond_promises(self) -> bool {
        matches!(self, Profile::BeyondClockBound | Profile::LyingFsync)
    }

    pub(crate) fn shape(self, swarm: &mut Swarm) {
        match self {
            Profile::Swarm | Profile::Frontier => {}
            Profile::Calm => {
                // What a feature is made of stays.
                let is_planned =
                    |kind: &FaultKind| matches!(kind, FaultKind::Upgrade | FaultKind::Replacement);
                swarm.faults.retain(|kind, _| is_planned(kind));
            }
            Profile::Hostile => {
                for kind in FaultKind::ALL {
                    swarm.faults.insert(kind, 2 * kind.mean_interval());
                }
            }
            Profile::Wan => {
                let timing = &mut swarm.timing;
                timing.heartbeat_interval = 500 * MILLISECOND;
                timing.election_timeout = 5 * SECOND;
                timing.lease = timing.lease.min(2 * timing.heartbeat_interval);
                swarm.network.min_delay = 40 * MILLISECOND;
                swarm.network.mean_jitter = swarm.network.mean_jitter.max(2 * MILLISECOND);
                swarm.sizes.inflight_messages = swarm.sizes.inflight_messages.max(16);
                swarm.sizes.append_entries = swarm.sizes.append_entries.max(64);
                swarm.sizes.append_bytes = swarm.sizes.append_bytes.max(64 << 10);
                swarm.workload.timeout = 4 * SECOND;
                swarm.workload.clients_per_node *= 3;
            }
            Profile::BeyondClockBound => Mutant::ClocksBeyondBound.shape(swarm),
            Profile::LyingFsync => Mutant::NoSync.shape(swarm),
        }
    }
}
