//! Whole clusters on one thread from a seed: the production core in a simulated world.
//!
//! May not use a real clock, runtime, socket or file, nor `node`. One seed decides everything; the
//! rolling trace hash shows it. [`run_seed`] is the way in.
#![forbid(unsafe_code)]

mod account_worker;
mod cluster;
mod connections;
mod disk;
mod event_heap;
mod faults;
mod feature;
mod front_end;
mod judges;
mod lease_holder;
mod lock_contender;
mod mark;
mod membership_nemesis;
mod membership_operator;
mod mutant;
mod network;
mod node_clock;
mod process;
mod report;
mod rng;
mod rolling_upgrade;
mod run;
mod stepping;
mod swarm;
mod trace_hash;
mod verdict;
mod watchers;
mod witness;
mod worker;
mod workforce;
mod workload;

pub use cluster::{Narrator, Plan};
pub use event_heap::Instant;
pub use faults::FaultKind;
pub use feature::Feature;
pub use mark::{Mark, Marks};
pub use mutant::Mutant;
pub use report::{SeedReport, Totals, Violation};
pub use run::{ACKNOWLEDGED_MIN, OPERATIONS_PER_SECOND_MIN, Options, run_seed, run_seeds};
