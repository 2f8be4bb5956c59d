//! Which seed finds which planted bug, by which check, with the core's own assertions off.
//!
//! `cargo run --release -p simulator --example hunt [BUG] [SEEDS] [MODE]`: for every mutant whose
//! name holds BUG, the seeds below SEEDS that find it. Mode `first` stops at the first; `control`
//! leaves the bugs out, so that nothing may be found. The table in docs/testing.md is made of this.

use simulator::{Assertions, Mutant, Options, Plan, run_seed};
use std::collections::BTreeMap;

const SECOND: u64 = 1_000_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let wanted = arguments.next().unwrap_or_default();
    let seeds: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(12);
    let mode = arguments.next().unwrap_or_default();
    let (first_only, control) = (mode == "first", mode == "control");
    let plan = Plan { safety: 30 * SECOND, liveness: 15 * SECOND, settle: 30 * SECOND };
    for mutant in Mutant::all().filter(|mutant| format!("{mutant:?}").contains(&wanted)) {
        let mut found: Vec<u64> = Vec::new();
        let mut by: BTreeMap<String, u64> = BTreeMap::new();
        for seed in 0..seeds {
            let assertions = Assertions::Off;
            let bug = Some(mutant);
            let planted = Options { plan, mutant: bug, control, ..Options::default() };
            let options = Options { assertions, ..planted };
            let Some(violation) = run_seed(seed, &options).violation else { continue };
            if first_only || control {
                println!("{mutant:?} seed {seed}: {violation}");
            }
            *by.entry(violation.invariant).or_default() += 1;
            found.push(seed);
            if first_only {
                break;
            }
        }
        println!("{mutant:?}: {} of {seeds} seeds {found:?} by {by:?}", found.len());
    }
}
