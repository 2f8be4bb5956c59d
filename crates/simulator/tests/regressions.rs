//! Seeds that once failed, each named after what it found.

use simulator::{Feature, Options, run_seed};

fn must_pass(seed: u64) {
    let report = run_seed(seed, &Options::default());
    assert!(report.violation.is_none(), "{report}");
}

#[test]
fn a_snapshot_overtakes_a_read_of_committed_entries() {
    must_pass(49);
}

/// The log was cut again while a snapshot travelled, so that its receiver needed the next one, for
/// ever.
#[test]
fn a_snapshot_is_followed_by_the_log_from_where_it_ends() {
    let options = Options { features: Some(&[Feature::Membership]), ..Options::default() };
    let report = run_seed(1005, &options);
    assert!(report.violation.is_none(), "{report}");
}
