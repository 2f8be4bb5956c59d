//! From a seed that fails to a short way of failing, and to a page about it.

use simulator::{
    FaultKind, Mutant, Options, Plan, Recording, run_seed, run_seed_heard, shrink, space_time_page,
};

const SECOND: u64 = 1_000_000_000;

fn failing() -> (Options, simulator::SeedReport) {
    let plan = Plan { safety: 30 * SECOND, liveness: 15 * SECOND, settle: 30 * SECOND };
    let options = Options { plan, mutant: Some(Mutant::NoSync), ..Options::default() };
    let found = (0..12).map(|seed| run_seed(seed, &options)).find(|run| run.violation.is_some());
    (options, found.expect("the planted bug is found"))
}

#[test]
fn few_faults_are_left_and_break_the_same_promise() {
    let (options, report) = failing();
    let shrunk = shrink(&options, &report, 60);
    let invariant = |report: &simulator::SeedReport| report.violation.clone().map(|v| v.invariant);
    assert_eq!(invariant(&shrunk.report), invariant(&report));
    assert!(shrunk.tries <= 60);
    let (before, after) = (report.schedule.len(), shrunk.report.schedule.len());
    assert!(after <= before.div_ceil(2), "{after} of {before} faults are left");
    // Disks that lie are found out by power losses only.
    let is_loss = |kind| matches!(kind, FaultKind::PowerLoss | FaultKind::PowerLossOfAll);
    assert!(shrunk.report.schedule.iter().any(|fault| is_loss(fault.kind)));
    // Whoever listens changes nothing, and what it hears makes a page.
    let recording = Recording::default();
    let again = run_seed_heard(report.seed, &shrunk.options, recording.listener());
    assert_eq!(again, shrunk.report);
    let page = space_time_page(&report, &shrunk, &recording.into_events());
    assert!(page.contains("breaks a promise") && page.contains("<svg"), "{page}");
    let long = page.len();
    assert!(long < 2 << 20, "{long} bytes");
}
