//! Planted bugs: the checks must catch each within a budget of seeds, or they are hollow.

use simulator::{Mutant, Options, run_seed};

/// Seeds that a planted bug may survive.
const BUDGET: u64 = 12;

fn must_be_caught(mutant: Mutant) {
    let options = Options { mutant: Some(mutant), ..Options::default() };
    let caught = (0..BUDGET).find_map(|seed| {
        let violation = run_seed(seed, &options).violation?;
        Some((seed, violation))
    });
    match caught {
        Some((seed, violation)) => println!("{mutant:?} caught by seed {seed}: {violation}"),
        None => panic!("{mutant:?} survived {BUDGET} seeds"),
    }
}

#[test]
fn a_disk_that_syncs_too_late_is_caught() {
    must_be_caught(Mutant::NoSync);
}

#[test]
fn clocks_beyond_their_bound_are_caught() {
    must_be_caught(Mutant::ClocksBeyondBound);
}

#[test]
fn reads_without_a_barrier_are_caught() {
    must_be_caught(Mutant::ReadWithoutBarrier);
}

#[test]
fn a_diverging_member_is_caught() {
    must_be_caught(Mutant::DivergingMember);
}

#[test]
fn a_watcher_that_resumes_late_is_caught() {
    must_be_caught(Mutant::WatchResumesLate);
}

#[test]
fn a_request_sent_again_under_a_new_number_is_caught() {
    must_be_caught(Mutant::RetryUnderNewNumber);
}
