//! Whole clusters on one thread from a seed: the production core in a simulated world.
//!
//! May not use a real clock, runtime, socket or file, nor `node`. One seed decides everything; the
//! rolling trace hash shows it. [`run_seed`] is the way in.
#![forbid(unsafe_code)]

mod account_worker;
mod ambush;
mod churn_worker;
mod cluster;
mod connections;
mod convergence;
mod counter_worker;
mod coverage;
mod disk;
mod event_heap;
mod fault_atlas;
mod fault_schedule;
mod faults;
mod feature;
mod front_end;
mod handover_worker;
mod judges;
mod latent_faults;
mod lease_holder;
mod lease_storm;
mod lock_contender;
mod mark;
mod membership_nemesis;
mod membership_operator;
mod mutant;
mod mutant_worlds;
mod network;
mod node_clock;
mod partitions;
mod process;
mod profile;
mod report;
mod rng;
mod rolling_upgrade;
mod run;
mod shrink;
mod space_time;
mod stepping;
mod swarm;
mod trace_hash;
mod trace_stream;
mod verdict;
mod watchdog;
mod watchers;
mod witness;
mod worker;
mod workforce;
mod workload;

pub use cluster::Plan;
pub use event_heap::Instant;
pub use fault_schedule::{FaultSchedule, ScheduledFault};
pub use faults::FaultKind;
pub use feature::Feature;
pub use mark::{Mark, Marks, UNREACHED};
pub use mutant::Mutant;
pub use mutants::{Assertions, Bug};
pub use profile::Profile;
pub use report::{SeedReport, Totals, Violation};
pub use run::{
    ACKNOWLEDGED_MIN, OPERATIONS_PER_SECOND_MIN, Options, run_seed, run_seed_heard, run_seeds,
};
pub use shrink::{Shrunk, shrink};
pub use space_time::page as space_time_page;
pub use trace_stream::{Listener, Recording, TRACE_VERSION, TraceEvent, to_json};
