//! Seeds that once failed, each named after what it found.

use simulator::{Options, run_seed};

fn must_pass(seed: u64) {
    let report = run_seed(seed, &Options::default());
    assert!(report.violation.is_none(), "{report}");
}

#[test]
fn a_snapshot_overtakes_a_read_of_committed_entries() {
    must_pass(49);
}
