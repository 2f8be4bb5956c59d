//! Running seeds: the entry point for tests and for `quorate sim`.
//!
//! A panic in the core is one of its assertions: it is caught at this boundary and reported as the
//! seed's violation.

use crate::cluster::{Plan, World};
use crate::event_heap::SECOND;
use crate::fault_schedule::FaultSchedule;
use crate::feature::Feature;
use crate::mutant::Mutant;
use crate::profile::Profile;
use crate::report::{SeedReport, Totals, Violation};
use crate::rng::Seed;
use crate::swarm::Swarm;
use crate::trace_stream::{Listener, TRACE_VERSION, TraceEvent};
use mutants::Assertions;
use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Fewest acknowledged operations of a run that says anything.
pub const ACKNOWLEDGED_MIN: u64 = 1_000;
/// Fewest operations begun per simulated second.
pub const OPERATIONS_PER_SECOND_MIN: u64 = 100;

/// How to run seeds.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long the phases last.
    pub plan: Plan,
    /// A planted bug, in tests of the checks.
    pub mutant: Option<Mutant>,
    /// The world in which the bug would show, without the bug: nothing may be found there.
    pub control: bool,
    /// Whether the core's own assertions stop a run; off, the checkers have to.
    pub assertions: Assertions,
    /// What to exercise; none: what the seed draws.
    pub features: Option<BTreeSet<Feature>>,
    /// What goes wrong, as far as it did in an earlier run; none: what the seed draws.
    pub faults: Option<FaultSchedule>,
    /// What kind of world it is.
    pub profile: Profile,
    /// Members; none: what the seed draws.
    pub nodes: Option<usize>,
    /// Clients of each member; none: what the seed draws. So few do little: the run need not do
    /// enough.
    pub clients: Option<usize>,
}

impl Default for Options {
    fn default() -> Options {
        let plan = Plan { safety: 50 * SECOND, liveness: 15 * SECOND, settle: 30 * SECOND };
        Options {
            plan,
            mutant: None,
            control: false,
            assertions: Assertions::On,
            features: None,
            faults: None,
            profile: Profile::default(),
            nodes: None,
            clients: None,
        }
    }
}

/// Runs one seed to its end or to its first violation.
#[must_use]
pub fn run_seed(seed: u64, options: &Options) -> SeedReport {
    run(seed, options, None)
}

/// The same; `listener` hears what happens, which changes nothing.
#[must_use]
pub fn run_seed_heard(seed: u64, options: &Options, listener: Listener) -> SeedReport {
    run(seed, options, Some(listener))
}

fn run(seed: u64, options: &Options, listener: Option<Listener>) -> SeedReport {
    let bug = options.mutant.and_then(Mutant::bug).filter(|_| !options.control);
    let _planted = mutants::plant(bug, options.assertions);
    let mut swarm = Swarm::draw(Seed(seed));
    swarm.nodes = options.nodes.unwrap_or(swarm.nodes);
    let features = match (&options.features, options.mutant) {
        (Some(features), _) => features.clone(),
        (None, Some(mutant)) => mutant.features().iter().copied().collect(),
        (None, None) => Feature::draw(Seed(seed), options.profile),
    };
    for feature in features {
        swarm.exercise(Seed(seed), feature);
    }
    if let Some(mutant) = options.mutant {
        mutant.shape(&mut swarm);
    }
    options.profile.shape(&mut swarm);
    let clients = &mut swarm.workload.clients_per_node;
    *clients = options.clients.unwrap_or(*clients);
    let mut world = World::new(Seed(seed), swarm, options);
    if let Some(listener) = listener {
        world.be_heard_by(listener);
        let (nodes, groups) = (world.nodes.len(), world.groups.iter().map(|id| id.0).collect());
        world.observe(|| TraceEvent::Run { version: TRACE_VERSION, seed, nodes, groups });
    }
    let panic = catch_unwind(AssertUnwindSafe(|| world.run())).err();
    let mut report = world.report(seed);
    if let Some(panic) = panic {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        report.violation = Some(Violation {
            invariant: "no assertion fails".to_string(),
            detail: text.unwrap_or_else(|| "a panic without words".to_string()),
            at: world.heap.now(),
        });
    }
    if report.violation.is_none() && options.clients.is_none() && options.mutant.is_none() {
        report.violation = too_little(&report, &world);
    }
    report
}

/// A run in which little happened proves little.
fn too_little(report: &SeedReport, world: &World) -> Option<Violation> {
    let rate = report.operations / report.simulated_seconds.max(1);
    if report.acknowledged >= ACKNOWLEDGED_MIN && rate >= OPERATIONS_PER_SECOND_MIN {
        return None;
    }
    Some(Violation {
        invariant: "a run does enough".to_string(),
        detail: format!("{} acknowledged, {rate} begun a second", report.acknowledged),
        at: world.heap.now(),
    })
}

/// Runs seeds one after the other; `each` sees every report as it comes.
pub fn run_seeds(
    seeds: Range<u64>,
    options: &Options,
    mut each: impl FnMut(&SeedReport),
) -> Totals {
    let mut totals = Totals::default();
    for seed in seeds {
        let report = run_seed(seed, options);
        totals.add(&report);
        each(&report);
    }
    totals
}

impl World {
    fn report(&self, seed: u64) -> SeedReport {
        SeedReport {
            seed,
            trace_hash: self.trace.value(),
            simulated_seconds: self.heap.now().0 / SECOND,
            events: self.heap.scheduled(),
            nodes: self.nodes.len(),
            operations: self.operations,
            acknowledged: self.acknowledged,
            watched: self.watched,
            faults: self.faults.clone(),
            elections: self.witness.elections(),
            snapshots: self.snapshots,
            marks: self.marks.clone().and(&self.judges.marks),
            features: self.swarm.features.clone(),
            schedule: self.schedule.clone(),
            violation: self.violation.clone(),
        }
    }
}
