//! Planted bugs: each must be caught within a budget of seeds, or the checks are hollow.
//!
//! Some sit in the simulated world, outside the production code: a disk that lies, clocks beyond
//! their bound, a front end that skips a step. The others are those of the core (`mutants`), which
//! only builds for tests hold. Not here: what a seed draws (`swarm`), the worlds in which bugs of
//! the core show (`mutant_worlds`).

use crate::disk::SyncPromise;
use crate::event_heap::{MILLISECOND, SECOND};
use crate::faults::FaultKind;
use crate::feature::Feature;
use crate::mutant_worlds::{long_leases, shape_for};
use crate::swarm::Swarm;
use mutants::Bug;

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// Syncs complete before the bytes are durable, and all machines lose power together.
    NoSync,
    /// Monotonic clocks differ in rate far beyond the bound that leases rely on.
    ClocksBeyondBound,
    /// The front end reads without asking whether the member is up to date.
    ReadWithoutBarrier,
    /// One member applies another command than the rest once in a while.
    DivergingMember,
    /// A watcher resumes one revision late.
    WatchResumesLate,
    /// A front end sends a write a second time under a new number when its reply is slow.
    RetryUnderNewNumber,
    /// A member of an old build says that it speaks what the current one does.
    OldBuildLies,
    /// Members of the current build write what older ones do not understand.
    GateIgnored,
    /// A new leader counts the lease clock from its own clock, not from what was logged.
    LeaseClockFromOwn,
    /// A new leader begins the lease clock anew.
    LeaseClockFromZero,
    /// Renewing a lease that is gone grants it again.
    RenewalRevives,
    /// A front end forgets the comparisons of a transaction that writes one key.
    FenceForgotten,
    /// A member goes on with the first member table that it heard of.
    TableForgotten,
    /// A member that lost its disk comes back under its old id.
    EmptyDiskReturns,
    /// A change of membership is answered before the groups have adopted it.
    AnsweredBeforeAdoption,
    /// What is nested in a transaction is not checked.
    NestedUnchecked,
    /// Reads are answered whoever asks.
    ReadUnchecked,
    /// The log machine's thread samples the time before it drains its queue.
    SampledBeforeDrain,
    /// One in the core.
    Core(Bug),
}

impl Mutant {
    /// Features that must be on for the bug to show.
    pub(crate) const fn features(self) -> &'static [Feature] {
        match self {
            Mutant::OldBuildLies => &[Feature::RollingUpgrade],
            Mutant::GateIgnored => &[Feature::RollingUpgrade, Feature::Leases],
            Mutant::LeaseClockFromOwn | Mutant::LeaseClockFromZero | Mutant::RenewalRevives => {
                &[Feature::Leases]
            }
            Mutant::FenceForgotten => &[Feature::Locks],
            Mutant::TableForgotten => &[Feature::Membership],
            Mutant::EmptyDiskReturns | Mutant::AnsweredBeforeAdoption => &[Feature::Operator],
            Mutant::NestedUnchecked | Mutant::ReadUnchecked => &[Feature::Accounts],
            Mutant::Core(Bug::SlackRemoved | Bug::DeposedTick | Bug::LeasesNotInSnapshot) => {
                &[Feature::Leases]
            }
            Mutant::Core(Bug::LeaseKeptInTransfer) => &[Feature::Handovers],
            _ => &[],
        }
    }

    /// The one to be planted in the core.
    pub(crate) const fn bug(self) -> Option<Bug> {
        match self {
            Mutant::Core(bug) => Some(bug),
            _ => None,
        }
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Mutant> {
        Mutant::OF_THE_WORLD.into_iter().chain(Bug::ALL.map(Mutant::Core))
    }

    const OF_THE_WORLD: [Mutant; 18] = [
        Mutant::NoSync,
        Mutant::ClocksBeyondBound,
        Mutant::ReadWithoutBarrier,
        Mutant::DivergingMember,
        Mutant::WatchResumesLate,
        Mutant::RetryUnderNewNumber,
        Mutant::OldBuildLies,
        Mutant::GateIgnored,
        Mutant::LeaseClockFromOwn,
        Mutant::LeaseClockFromZero,
        Mutant::RenewalRevives,
        Mutant::FenceForgotten,
        Mutant::TableForgotten,
        Mutant::EmptyDiskReturns,
        Mutant::AnsweredBeforeAdoption,
        Mutant::NestedUnchecked,
        Mutant::ReadUnchecked,
        Mutant::SampledBeforeDrain,
    ];

    /// Makes the world one in which the bug can show.
    pub(crate) fn shape(self, swarm: &mut Swarm) {
        match self {
            Mutant::NoSync => {
                swarm.disk.sync = SyncPromise::Broken;
                swarm.faults.insert(FaultKind::PowerLossOfAll, 6 * SECOND);
            }
            Mutant::ClocksBeyondBound => {
                // Leaders become slow after they were elected, and are cut off then.
                let faults = [(FaultKind::Partition, 1_000), (FaultKind::ClockRate, 700)];
                long_leases(swarm, &faults);
                swarm.timing.rate_error_max = 500_000;
            }
            Mutant::SampledBeforeDrain => {
                long_leases(swarm, &[(FaultKind::Pause, 700), (FaultKind::Partition, 700)]);
                swarm.workload.timeout = 1_500 * MILLISECOND;
            }
            Mutant::Core(bug) => shape_for(bug, swarm),
            Mutant::ReadWithoutBarrier
            | Mutant::DivergingMember
            | Mutant::WatchResumesLate
            | Mutant::RetryUnderNewNumber => {
                swarm.faults.insert(FaultKind::Kill, 5 * SECOND);
            }
            Mutant::LeaseClockFromOwn | Mutant::LeaseClockFromZero => {
                swarm.faults.insert(FaultKind::Kill, 4 * SECOND);
            }
            Mutant::OldBuildLies
            | Mutant::GateIgnored
            | Mutant::RenewalRevives
            | Mutant::FenceForgotten
            | Mutant::TableForgotten
            | Mutant::EmptyDiskReturns
            | Mutant::AnsweredBeforeAdoption
            | Mutant::NestedUnchecked
            | Mutant::ReadUnchecked => {}
        }
    }
}
