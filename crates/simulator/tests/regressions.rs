//! Seeds that once failed, each named after what it found.

use simulator::{Options, run_seed};

fn must_pass(seed: u64) {
    let report = run_seed(seed, &Options::default());
    assert!(report.violation.is_none(), "{report}");
}

#[test]
fn the_first_seed() {
    must_pass(0);
}
