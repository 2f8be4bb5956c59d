//! Seeds that once failed, each named after what it found.

use simulator::{Bug, Feature, Mutant, Options, run_seed};

fn must_pass(seed: u64, features: &'static [Feature]) {
    let report = run_seed(
        seed,
        &Options { features: Some(features.iter().copied().collect()), ..Options::default() },
    );
    assert!(report.violation.is_none(), "{report}");
}

#[test]
fn a_snapshot_overtakes_a_read_of_committed_entries() {
    must_pass(49, &[]);
}

/// It had left the consistent core before it had applied its own removal, and nobody told it more.
#[test]
fn a_removed_member_leads_another_group_on_unaware() {
    must_pass(22, &[Feature::Operator]);
}

/// The log was cut again while a snapshot travelled, so that its receiver needed the next one, for
/// ever.
#[test]
fn a_snapshot_is_followed_by_the_log_from_where_it_ends() {
    must_pass(1005, &[Feature::Membership]);
}

/// The leader refused, for its caller, what a member had admitted while an older build was a
/// member, and the request was sent again for ever. Features as the seed draws them.
#[test]
fn what_a_member_admits_its_leader_does_not_refuse() {
    let report = run_seed(276_973_702, &Options::default());
    assert!(report.violation.is_none(), "{report}");
}

/// A state salvaged from behind rotten sectors began after the last entry before them, and the next
/// entry left a gap in the log: the member stopped at every start.
#[test]
fn a_salvaged_state_begins_after_the_last_entry() {
    let world = Some(Mutant::Core(Bug::DamageUnmarked));
    let options = Options { mutant: world, control: true, ..Options::default() };
    for seed in [6, 8] {
        let report = run_seed(seed, &options);
        assert!(report.violation.is_none(), "{report}");
    }
}
