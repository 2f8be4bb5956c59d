//! Planted bugs: the checks must catch each within a budget of seeds, or they are hollow.

use simulator::{Mutant, Options, Plan, run_seed};

const SECOND: u64 = 1_000_000_000;

/// Seeds that a planted bug may survive.
const BUDGET: u64 = 12;

/// The bug is caught if one of these invariants is found broken; a run that merely does too little
/// has caught nothing.
fn must_be_caught(mutant: Mutant, invariants: &[&str]) {
    let plan = Plan { safety: 30 * SECOND, liveness: 15 * SECOND, settle: 30 * SECOND };
    let options = Options { plan, mutant: Some(mutant), ..Options::default() };
    let caught = (0..BUDGET).find_map(|seed| {
        let violation = run_seed(seed, &options).violation?;
        let is_expected = invariants.contains(&violation.invariant.as_str());
        is_expected.then_some((seed, violation))
    });
    match caught {
        Some((seed, violation)) => println!("{mutant:?} caught by seed {seed}: {violation}"),
        None => panic!("{mutant:?} survived {BUDGET} seeds"),
    }
}

#[test]
fn a_member_that_forgets_changes_of_membership_is_caught() {
    must_be_caught(
        Mutant::TableForgotten,
        &[
            "an acknowledged change of membership is in force",
            "healed members converge",
            "a healed quorum makes progress",
        ],
    );
}

#[test]
fn a_disk_that_syncs_too_late_is_caught() {
    must_be_caught(Mutant::NoSync, &["members agree", "no node stops by itself"]);
}

#[test]
fn clocks_beyond_their_bound_are_caught() {
    let invariants = ["operations are linearizable", "revisions order operations"];
    must_be_caught(Mutant::ClocksBeyondBound, &invariants);
}

#[test]
fn reads_without_a_barrier_are_caught() {
    must_be_caught(Mutant::ReadWithoutBarrier, &["operations are linearizable"]);
}

#[test]
fn a_diverging_member_is_caught() {
    let invariants = ["members agree", "members tell the same events"];
    must_be_caught(Mutant::DivergingMember, &invariants);
}

#[test]
fn a_watcher_that_resumes_late_is_caught() {
    let invariants = ["watchers are told everything once, in order"];
    must_be_caught(Mutant::WatchResumesLate, &invariants);
}

#[test]
fn an_old_build_that_claims_to_be_a_new_one_is_caught() {
    must_be_caught(Mutant::OldBuildLies, &["no node stops by itself"]);
}

#[test]
fn writing_what_an_old_build_does_not_understand_is_caught() {
    must_be_caught(Mutant::GateIgnored, &["nothing is written before all understand it"]);
}

const LEASES: [&str; 1] = ["leases live as long as promised"];

#[test]
fn a_lease_clock_that_goes_on_by_the_leader_s_own_is_caught() {
    must_be_caught(Mutant::LeaseClockFromOwn, &LEASES);
}

#[test]
fn a_lease_clock_that_every_leader_begins_anew_is_caught() {
    must_be_caught(Mutant::LeaseClockFromZero, &LEASES);
}

#[test]
fn a_renewal_that_revives_a_lease_is_caught() {
    must_be_caught(Mutant::RenewalRevives, &LEASES);
}

#[test]
fn a_lock_without_a_fence_is_caught() {
    must_be_caught(Mutant::FenceForgotten, &["a fenced lock loses no update"]);
}

#[test]
fn a_member_that_comes_back_without_its_disk_is_caught() {
    let invariants = [
        "members agree",
        "no node stops by itself",
        "a healed quorum makes progress",
        "healed members converge",
    ];
    must_be_caught(Mutant::EmptyDiskReturns, &invariants);
}

#[test]
fn an_answer_before_every_group_has_adopted_a_change_is_caught() {
    must_be_caught(Mutant::AnsweredBeforeAdoption, &["members change as acknowledged"]);
}

#[test]
fn a_nested_transaction_that_is_not_checked_is_caught() {
    must_be_caught(Mutant::NestedUnchecked, &["users do what they may"]);
}

#[test]
fn a_read_that_is_not_checked_is_caught() {
    must_be_caught(Mutant::ReadUnchecked, &["users do what they may"]);
}

#[test]
fn a_request_sent_again_under_a_new_number_is_caught() {
    must_be_caught(Mutant::RetryUnderNewNumber, &["a request is applied once"]);
}
