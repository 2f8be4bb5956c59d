//! Planted bugs: each is found by the seed recorded here, by a check outside the core, whose own
//! assertions are off. How long it takes to find them is in docs/testing.md; `--example hunt` finds
//! the seeds anew.

use simulator::{Assertions, Bug, Mutant, Options, Plan, run_seed};

const SECOND: u64 = 1_000_000_000;

const PLAN: Plan = Plan { safety: 30 * SECOND, liveness: 15 * SECOND, settle: 30 * SECOND };

/// A run that merely does too little has found nothing: the check has to be the right one.
fn must_be_caught(mutant: Mutant, seed: u64, invariant: &str) {
    let assertions = Assertions::Off;
    let options = Options { plan: PLAN, mutant: Some(mutant), assertions, ..Options::default() };
    match run_seed(seed, &options).violation {
        Some(violation) if violation.invariant == invariant => {
            println!("{mutant:?} caught by seed {seed}: {violation}");
        }
        other => panic!("{mutant:?} was to be caught by {invariant:?} with seed {seed}: {other:?}"),
    }
}

/// One test per bug: the bug, the seed, and the check that finds it.
macro_rules! caught {
    ($(fn $name:ident() = $mutant:expr, $seed:expr, $invariant:expr;)*) => {
        $(#[test]
        fn $name() {
            must_be_caught($mutant, $seed, $invariant);
        })*

        const RECORDED: &[Mutant] = &[$($mutant),*];
    };
}

const AGREE: &str = "members agree";
const LINEARIZABLE: &str = "operations are linearizable";
const LEASES: &str = "leases live as long as promised";
const ONCE: &str = "a numbered request takes effect once";
const PERMISSIONS: &str = "users do what they may";
const PROGRESS: &str = "a healed quorum makes progress";

caught! {
    fn a_member_that_forgets_changes_of_membership_is_caught() =
        Mutant::TableForgotten, 0, "healed members converge";
    fn a_disk_that_syncs_too_late_is_caught() = Mutant::NoSync, 0, AGREE;
    fn clocks_beyond_their_bound_are_caught() = Mutant::ClocksBeyondBound, 10, LINEARIZABLE;
    fn reads_without_a_barrier_are_caught() = Mutant::ReadWithoutBarrier, 0, LINEARIZABLE;
    fn a_diverging_member_is_caught() = Mutant::DivergingMember, 0, AGREE;
    fn a_watcher_that_resumes_late_is_caught() =
        Mutant::WatchResumesLate, 0, "watchers are told everything once, in order";
    fn an_old_build_that_claims_to_be_a_new_one_is_caught() =
        Mutant::OldBuildLies, 0, "no node stops by itself";
    fn writing_what_an_old_build_does_not_understand_is_caught() =
        Mutant::GateIgnored, 0, "nothing is written before all understand it";
    fn a_lease_clock_that_goes_on_by_the_leader_s_own_is_caught() =
        Mutant::LeaseClockFromOwn, 0, LEASES;
    fn a_lease_clock_that_every_leader_begins_anew_is_caught() =
        Mutant::LeaseClockFromZero, 3, LEASES;
    fn a_renewal_that_revives_a_lease_is_caught() = Mutant::RenewalRevives, 0, LEASES;
    fn a_lock_without_a_fence_is_caught() =
        Mutant::FenceForgotten, 0, "a fenced lock loses no update";
    fn a_member_that_comes_back_without_its_disk_is_caught() =
        Mutant::EmptyDiskReturns, 0, PROGRESS;
    fn an_answer_before_every_group_has_adopted_a_change_is_caught() =
        Mutant::AnsweredBeforeAdoption, 0, "members change as acknowledged";
    fn a_nested_transaction_that_is_not_checked_is_caught() =
        Mutant::NestedUnchecked, 0, PERMISSIONS;
    fn a_read_that_is_not_checked_is_caught() = Mutant::ReadUnchecked, 0, PERMISSIONS;
    fn a_request_sent_again_under_a_new_number_is_caught() = Mutant::RetryUnderNewNumber, 0, ONCE;
    fn a_time_sampled_before_the_queue_is_drained_is_caught() =
        Mutant::SampledBeforeDrain, 5, LINEARIZABLE;
    fn a_vote_told_before_it_is_durable_is_caught() = Mutant::Core(Bug::VoteBeforeSync), 0, AGREE;
    fn a_lease_kept_while_leadership_is_handed_over_is_caught() =
        Mutant::Core(Bug::LeaseKeptInTransfer), 1, LINEARIZABLE;
    fn a_lease_longer_than_its_promise_is_caught() =
        Mutant::Core(Bug::LeaseTooLong), 2, LINEARIZABLE;
    fn a_read_before_an_entry_of_the_own_term_is_caught() =
        Mutant::Core(Bug::ReadBeforeOwnTerm), 0, LINEARIZABLE;
    fn an_expired_request_without_an_answer_is_caught() =
        Mutant::Core(Bug::ExpiryUnanswered), 0, "a healed cluster moves and answers";
    fn the_lease_clock_of_an_earlier_leadership_is_caught() =
        Mutant::Core(Bug::DeposedTick), 1, LEASES;
    fn a_lease_without_slack_is_caught() = Mutant::Core(Bug::SlackRemoved), 0, LEASES;
    fn an_applied_position_apart_from_its_data_is_caught() =
        Mutant::Core(Bug::AppliedApart), 0, "members tell the same events";
    fn a_snapshot_without_leases_is_caught() = Mutant::Core(Bug::LeasesNotInSnapshot), 0, LEASES;
    fn forgotten_duplicates_are_caught() = Mutant::Core(Bug::DuplicatesForgotten), 0, ONCE;
}

/// Written down, and found by no seed tried so far (docs/testing.md). This list only gets shorter.
const NOT_FOUND_YET: [Bug; 6] = [
    Bug::StaleWriteCounts,
    Bug::LeaseFromReply,
    Bug::PromiseForgotten,
    Bug::VoteKeepsTimer,
    Bug::OlderTermCounts,
    Bug::DamageUnmarked,
];

#[test]
fn every_bug_is_recorded_once_unless_it_is_known_to_be_missing() {
    for mutant in Mutant::all() {
        let missing = NOT_FOUND_YET.iter().any(|bug| mutant == Mutant::Core(*bug));
        let count = RECORDED.iter().filter(|other| **other == mutant).count();
        assert_eq!(count, usize::from(!missing), "{mutant:?}");
    }
}

/// What a bug's world finds without the bug would say nothing about the bug.
#[test]
fn a_hard_world_without_its_bug_breaks_nothing() {
    for bug in [Bug::ReadBeforeOwnTerm, Bug::LeaseTooLong, Bug::AppliedApart] {
        let mutant = Some(Mutant::Core(bug));
        let options = Options { plan: PLAN, mutant, control: true, ..Options::default() };
        let report = run_seed(0, &options);
        assert!(report.violation.is_none(), "{bug:?}: {report}");
    }
}
